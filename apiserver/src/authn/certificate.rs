//! x509 client certificates: the common name is the user, the organizations are the groups.

use std::fmt::Write;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CREDENTIAL_ID, Identity};

/// Put into a request's extensions by the listener when the connection brought a certificate that the CA signed.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    identity: Identity,
    expires: i64,
}

impl PeerCertificate {
    /// None: expired. A connection may well live longer than the certificate that opened it.
    pub fn at(&self, now: Timestamp) -> Option<Identity> {
        (now.as_second() <= self.expires).then(|| self.identity.clone())
    }
}

/// The identity in a certificate (DER) that TLS has verified already.
pub fn peer_certificate(der: &[u8]) -> Option<PeerCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut identity = Identity::new(name, &groups);
    let mut id = "X509SHA256=".to_owned();
    for byte in Sha256::digest(der) {
        let _ = write!(id, "{byte:02x}");
    }
    identity.extra.insert(CREDENTIAL_ID.into(), vec![id]);
    Some(PeerCertificate { identity, expires: certificate.validity().not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_says_who_until_it_expires() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.distinguished_name.push(DnType::OrganizationName, "devs");
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let peer = peer_certificate(certificate.der()).unwrap();
        let identity = peer.at("2029-12-31T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(identity.name, "jane");
        assert_eq!(identity.groups, ["devs", "system:authenticated"]);
        assert_eq!(identity.extra[CREDENTIAL_ID][0].len(), "X509SHA256=".len() + 64);
        assert!(peer.at("2030-01-01T00:00:01Z".parse().unwrap()).is_none());
    }
}
