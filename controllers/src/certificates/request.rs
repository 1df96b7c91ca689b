//! What a PKCS#10 request asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("unable to parse csr: PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    #[error("unable to parse csr: {0}")]
    Parse(String),
    #[error("the request's signature does not match its key: {0}")]
    Signature(String),
    #[error("unsupported public key: {0}")]
    Key(#[source] rcgen::Error),
}

#[derive(Debug)]
pub struct Request {
    /// Attributes by OID, in order.
    pub subject: Vec<(Vec<u64>, String)>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    pub key: SubjectPublicKeyInfo,
}

const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

impl Request {
    /// The signature is checked: who asks holds the key.
    pub fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem).map_err(|e| RequestError::Parse(e.to_string()))?;
        Self::from_block(&block)
    }

    fn from_block(block: &Pem) -> Result<Self, RequestError> {
        if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
            return Err(RequestError::Pem);
        }
        let (_, csr) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|e| RequestError::Parse(e.to_string()))?;
        csr.verify_signature().map_err(|e| RequestError::Signature(e.to_string()))?;
        let info = &csr.certification_request_info;
        let mut request = Self {
            subject: Vec::new(),
            dns: Vec::new(),
            addresses: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            key: SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(RequestError::Key)?,
        };
        for attribute in info.subject.iter_attributes() {
            let text = attribute.as_str().map_err(|e| RequestError::Parse(e.to_string()))?;
            let oid = attribute.attr_type().iter().map(Iterator::collect).unwrap_or_default();
            request.subject.push((oid, text.to_owned()));
        }
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                request.add_name(name)?;
            }
        }
        Ok(request)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) -> Result<(), RequestError> {
        match name {
            GeneralName::DNSName(dns) => self.dns.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) => self.emails.push((*email).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
                let v6 = <[u8; 16]>::try_from(*bytes).map(|b| IpAddr::V6(Ipv6Addr::from(b)));
                let address = v4.or(v6).map_err(|_| {
                    RequestError::Parse("an IP subjectAltName of neither 4 nor 16 bytes".into())
                })?;
                self.addresses.push(address);
            }
            other => return Err(RequestError::Parse(format!("unsupported subjectAltName: {other}"))),
        }
        Ok(())
    }

    fn values(&self, of: &[u64]) -> impl Iterator<Item = &str> {
        self.subject.iter().filter(move |(oid, _)| oid == of).map(|(_, value)| value.as_str())
    }

    /// Of several the last counts, as in Go.
    pub fn common_name(&self) -> &str {
        self.values(&COMMON_NAME).last().unwrap_or_default()
    }

    pub fn organizations(&self) -> Vec<&str> {
        self.values(&ORGANIZATION).collect()
    }
}
