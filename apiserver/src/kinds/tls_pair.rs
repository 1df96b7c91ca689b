//! Whether a certificate and a key belong together, in the words of Go's `tls.X509KeyPair`.

use rustls::SignatureAlgorithm;
use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::der_parser::parse_der;
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";
/// How every form of a key begins.
const DER_SEQUENCE: u8 = 0x30;
/// Blocks of a file that are looked at.
const BLOCKS_MAX: usize = 64;

/// What keeps the two from serving, both in PEM.
pub(super) fn fault(certificate: &[u8], key: &[u8]) -> Option<String> {
    check(certificate, key).err()
}

fn check(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let is_key = |label: &str| label == PRIVATE_KEY || label.ends_with(" PRIVATE KEY");
    let leaf = first(certificate, |label| label == CERTIFICATE).map_err(|skipped| match skipped.as_slice() {
        [] => "tls: failed to find any PEM data in certificate input".into(),
        [one] if one.ends_with(PRIVATE_KEY) => {
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".into()
        }
        _ => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
            skipped.join(" ")
        ),
    })?;
    let key = first(key, is_key).map_err(|skipped| match skipped.as_slice() {
        [] => "tls: failed to find any PEM data in key input".into(),
        [one] if one == CERTIFICATE => {
            "tls: found a certificate rather than a key in the PEM for the private key".into()
        }
        _ => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            skipped.join(" ")
        ),
    })?;
    let (_, leaf) =
        X509Certificate::from_der(&leaf.contents).map_err(|_| "x509: malformed certificate".to_owned())?;
    let der = match key.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::from(PrivatePkcs1KeyDer::from(key.contents.as_slice())),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(key.contents.as_slice()).into(),
        _ => PrivatePkcs8KeyDer::from(key.contents.as_slice()).into(),
    };
    let Ok(signing) = any_supported_type(&der) else {
        // Sizes and curves that this server cannot use others may.
        let is_key = key.contents.first() == Some(&DER_SEQUENCE) && parse_der(&key.contents).is_ok();
        return if is_key { Ok(()) } else { Err("tls: failed to parse private key".into()) };
    };
    let kind = match &leaf.public_key().algorithm.algorithm {
        oid if *oid == OID_PKCS1_RSAENCRYPTION => SignatureAlgorithm::RSA,
        oid if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY => SignatureAlgorithm::ECDSA,
        oid if *oid == OID_SIG_ED25519 => SignatureAlgorithm::ED25519,
        _ => return Ok(()),
    };
    if signing.algorithm() != kind {
        return Err("tls: private key type does not match public key type".into());
    }
    match signing.public_key() {
        Some(public) if *public != *leaf.public_key().raw => {
            Err("tls: private key does not match public key".into())
        }
        _ => Ok(()),
    }
}

/// The first block of a kind, or the kinds of those that are there.
fn first(pem: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Pem, Vec<String>> {
    let mut skipped = Vec::new();
    for block in Pem::iter_from_buffer(pem).take(BLOCKS_MAX).filter_map(Result::ok) {
        if wanted(&block.label) {
            return Ok(block);
        }
        skipped.push(block.label);
    }
    Err(skipped)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

    use super::*;

    #[test]
    fn pairs_and_what_is_none() {
        let ec = KeyPair::generate().unwrap();
        let other = KeyPair::generate().unwrap();
        let edwards = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let of = |key: &KeyPair| CertificateParams::default().self_signed(key).unwrap().pem();
        let (leaf, key) = (of(&ec), ec.serialize_pem());
        let foreign = "-----BEGIN FOO-----\nAAAA\n-----END FOO-----\n";
        let short = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for (certificate, key, want) in [
            (leaf.clone(), key.clone(), None),
            (format!("about\n{leaf}{}", of(&other)), key.clone(), None),
            (of(&edwards), edwards.serialize_pem(), None),
            (String::new(), String::new(), Some("tls: failed to find any PEM data in certificate input")),
            (leaf.clone(), "y".into(), Some("tls: failed to find any PEM data in key input")),
            (leaf.clone(), other.serialize_pem(), Some("tls: private key does not match public key")),
            (
                leaf.clone(),
                edwards.serialize_pem(),
                Some("tls: private key type does not match public key type"),
            ),
            (
                key.clone(),
                leaf.clone(),
                Some(
                    "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched",
                ),
            ),
            (
                leaf.clone(),
                leaf.clone(),
                Some("tls: found a certificate rather than a key in the PEM for the private key"),
            ),
            (
                foreign.into(),
                key.clone(),
                Some(
                    "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [FOO]",
                ),
            ),
            (
                leaf.clone(),
                foreign.into(),
                Some(
                    "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [FOO]",
                ),
            ),
            (short("CERTIFICATE"), key, Some("x509: malformed certificate")),
            (leaf, short("PRIVATE KEY"), Some("tls: failed to parse private key")),
        ] {
            assert_eq!(fault(certificate.as_bytes(), key.as_bytes()).as_deref(), want);
        }
    }
}
