//! Signs approved requests with the cluster's CA.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use tracing::warn;

use super::request::Request;
use super::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, add_condition, has, issued, rules};
use crate::context::Context;
use crate::{Error, Options};

/// Certificates are valid from a little earlier on, as clocks differ; upstream's figure.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const LIFE_MIN: Duration = Duration::from_secs(10 * 60);
/// Below this the backdating is not taken off the end.
const SHORT: Duration = Duration::from_secs(8 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("the CA's key: {0}")]
    Key(#[source] rcgen::Error),
    #[error("the CA's certificate: {0}")]
    Certificate(#[source] rcgen::Error),
    #[error("the CA's certificate: {0}")]
    Unreadable(String),
}

/// Why a request cannot be signed, for good.
#[derive(Debug, thiserror::Error)]
enum SigningError {
    #[error("{0}")]
    Request(#[from] super::request::RequestError),
    #[error("the CA expired")]
    Expired,
    #[error("unrecognized usage: {0}")]
    Usage(String),
    #[error("the subject has more than two values of one attribute")]
    Subject,
    #[error("a subjectAltName is not ASCII: {0}")]
    Name(String),
    #[error("signing: {0}")]
    Sign(#[source] rcgen::Error),
}

/// A certificate authority that signs for the API's signers.
#[derive(Clone)]
pub struct Signer {
    authority: Arc<Authority>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    expires: SystemTime,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Both as PEM.
    pub fn new(certificate: &str, key: &str) -> Result<Self, SignerError> {
        let key = KeyPair::from_pem(key).map_err(SignerError::Key)?;
        let unreadable = |e: String| SignerError::Unreadable(e);
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|e| unreadable(e.to_string()))?;
        let parsed = block.parse_x509().map_err(|e| unreadable(e.to_string()))?;
        let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(SignerError::Certificate)?;
        Ok(Self {
            authority: Arc::new(Authority {
                issuer,
                certificate: certificate.into(),
                expires: SystemTime::UNIX_EPOCH + Duration::from_secs(expires),
            }),
        })
    }

    /// The CA's certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.authority.certificate
    }

    pub(crate) fn from_files(options: &Options) -> Result<Option<Self>, Error> {
        let (Some(certificate), Some(key)) =
            (&options.cluster_signing_cert_file, &options.cluster_signing_key_file)
        else {
            return Ok(None);
        };
        let read = |path: &std::path::PathBuf| {
            std::fs::read_to_string(path).map_err(|source| Error::ReadSigner { path: path.clone(), source })
        };
        Self::new(&read(certificate)?, &read(key)?).map(Some).map_err(Error::Signer)
    }

    /// `life_max`: the longest validity given.
    fn sign(
        &self,
        spec: &CertificateSigningRequestSpec,
        request: &Request,
        life_max: Duration,
        now: SystemTime,
    ) -> Result<String, SigningError> {
        let expires = self.authority.expires;
        if expires <= now {
            return Err(SigningError::Expired);
        }
        let life = life(spec.expiration_seconds, life_max);
        let end = now + life - if life < SHORT { Duration::ZERO } else { BACKDATE };
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = end.min(expires).into();
        params.distinguished_name = subject(request)?;
        params.subject_alt_names = names(request)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
        for usage in spec.usages.iter().flatten() {
            match usage_of(usage).ok_or_else(|| SigningError::Usage(usage.clone()))? {
                Usage::Key(purpose) if !params.key_usages.contains(&purpose) => {
                    params.key_usages.push(purpose)
                }
                Usage::Key(_) => {}
                Usage::Extended(purpose) => params.insert_extended_key_usage(purpose),
            }
        }
        let certificate =
            params.signed_by(&request.key, &self.authority.issuer).map_err(SigningError::Sign)?;
        Ok(certificate.pem())
    }
}

fn life(wanted_seconds: Option<i32>, max: Duration) -> Duration {
    let wanted = wanted_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    wanted.map_or(max, |wanted| wanted.max(LIFE_MIN).min(max))
}

/// rcgen keeps one value per attribute type; its custom types are types of their own, so that a second
/// value (a second organization is a second group) finds room there.
fn subject(request: &Request) -> Result<DistinguishedName, SigningError> {
    let mut name = DistinguishedName::new();
    for (oid, value) in &request.subject {
        let kind = [DnType::from_oid(oid), DnType::CustomDnType(oid.clone())]
            .into_iter()
            .find(|kind| name.get(kind).is_none())
            .ok_or(SigningError::Subject)?;
        name.push(kind, value.as_str());
    }
    Ok(name)
}

fn names(request: &Request) -> Result<Vec<SanType>, SigningError> {
    let ascii = |text: &String| {
        rcgen::string::Ia5String::try_from(text.as_str()).map_err(|_| SigningError::Name(text.clone()))
    };
    let mut names = Vec::new();
    for dns in &request.dns {
        names.push(SanType::DnsName(ascii(dns)?));
    }
    for email in &request.emails {
        names.push(SanType::Rfc822Name(ascii(email)?));
    }
    for uri in &request.uris {
        names.push(SanType::URI(ascii(uri)?));
    }
    names.extend(request.addresses.iter().map(|address| SanType::IpAddress(*address)));
    Ok(names)
}

enum Usage {
    Key(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

fn usage_of(name: &str) -> Option<Usage> {
    use ExtendedKeyUsagePurpose as Extended;
    use KeyUsagePurpose as Key;
    Some(match name {
        "signing" | "digital signature" => Usage::Key(Key::DigitalSignature),
        "content commitment" => Usage::Key(Key::ContentCommitment),
        "key encipherment" => Usage::Key(Key::KeyEncipherment),
        "data encipherment" => Usage::Key(Key::DataEncipherment),
        "key agreement" => Usage::Key(Key::KeyAgreement),
        "cert sign" => Usage::Key(Key::KeyCertSign),
        "crl sign" => Usage::Key(Key::CrlSign),
        "encipher only" => Usage::Key(Key::EncipherOnly),
        "decipher only" => Usage::Key(Key::DecipherOnly),
        "any" => Usage::Extended(Extended::Any),
        "server auth" => Usage::Extended(Extended::ServerAuth),
        "client auth" => Usage::Extended(Extended::ClientAuth),
        "code signing" => Usage::Extended(Extended::CodeSigning),
        "email protection" | "s/mime" => Usage::Extended(Extended::EmailProtection),
        "timestamping" => Usage::Extended(Extended::TimeStamping),
        "ocsp signing" => Usage::Extended(Extended::OcspSigning),
        "ipsec end system" => Usage::Extended(Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 5])),
        "ipsec tunnel" => Usage::Extended(Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 6])),
        "ipsec user" => Usage::Extended(Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 7])),
        "microsoft sgc" => Usage::Extended(Extended::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
        "netscape sgc" => Usage::Extended(Extended::Other(vec![2, 16, 840, 1, 113_730, 4, 1])),
        _ => return None,
    })
}

pub async fn run(context: Context) {
    let Some(signer) = context.options.signer.clone() else { return };
    if !context.serves::<CertificateSigningRequest>().await {
        return;
    }
    let controller = Controller {
        client: context.client.clone(),
        requests: context.of::<CertificateSigningRequest>(),
        signer,
        life_max: context.options.cluster_signing_duration,
    };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.requests.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    requests: Informer,
    signer: Signer,
    life_max: Duration,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.requests.get_key(key) else { return Ok(Outcome::Done) };
        let mut csr: CertificateSigningRequest = object.decode()?;
        let ours = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY];
        if !ours.contains(&csr.spec.signer_name.as_str())
            || issued(&csr)
            || !has(&csr, "Approved")
            || has(&csr, "Denied")
            || has(&csr, "Failed")
        {
            return Ok(Outcome::Done);
        }
        let request = Request::parse(&csr.spec.request.0);
        let signed = match &request {
            Ok(request) => match rules::validate(&csr.spec, request) {
                Ok(()) => self
                    .signer
                    .sign(&csr.spec, request, self.life_max, SystemTime::now())
                    .map_err(|error| ("SignerError", error.to_string())),
                Err(why) => Err(("SignerValidationFailure", why.to_owned())),
            },
            Err(error) => Err(("SignerValidationFailure", error.to_string())),
        };
        match signed {
            Ok(pem) => csr.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes())),
            Err((reason, message)) => {
                warn!(csr = %key, message, "not signed");
                add_condition(&mut csr, "Failed", reason, &message, Timestamp::now());
            }
        }
        match self.client.update_status(&csr).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}
