//! x509 client certificates: the common name is the user, the organizations are the groups.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED_GROUP, Identity};

/// Put into a request's extensions by the listener when the connection brought a certificate that the CA signed.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Identity);

/// The identity in a certificate (DER) that TLS has verified already.
pub fn identity_of_certificate(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED_GROUP.into());
    Some(Identity { name, groups, ..Identity::default() })
}
