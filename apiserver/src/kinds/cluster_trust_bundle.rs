//! ClusterTrustBundle: certificates that workloads trust, of a signer or of nobody in particular.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::certificate_signing_request::signer_name;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const BYTES_MAX: usize = 1024 * 1024;
/// What errors show in the place of certificates.
const OMITTED: &str = "<value omitted>";

impl BuiltIn for ClusterTrustBundle {
    const SINGULAR: &'static str = "clustertrustbundle";
    const UNCONDITIONAL_UPDATE: bool = false;

    /// What else a name must be depends on the signer.
    fn validate_name(name: &str) -> Result<(), String> {
        validation::path_segment(name)
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let signer = validation::given(&self.spec.signer_name);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.check("metadata.name", name, |name| name_for(signer, name));
        }
        if let Some(signer) = signer {
            signer_name(signer, &path.child("signerName"), errors);
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        trust_bundle(&self.spec.trust_bundle, &path.child("trustBundle"), errors);
    }

    /// A bundle that stays is not read again: what readers of certificates take may change.
    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.spec.trust_bundle != old.spec.trust_bundle {
            self.validate_create(errors);
        }
        errors.immutable("spec.signerName", &self.spec.signer_name, &old.spec.signer_name);
    }

    fn columns() -> Vec<Column> {
        vec![table::NAME, table::narrow("SignerName", "string", "The signer whose certificates these are.")]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        vec![json!(self.metadata.name), json!(table::or_none(self.spec.signer_name.as_deref()))]
    }
}

/// `example.com/mine` owns the names that begin with `example.com:mine:`.
fn name_for(signer: Option<&str>, name: &str) -> Result<(), String> {
    let Some(signer) = signer else {
        if name.contains(':') {
            return Err("ClusterTrustBundle without signer name must not have \":\" in its name".into());
        }
        return validation::dns_subdomain(name);
    };
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => validation::dns_subdomain(rest),
        None => Err(format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")),
    }
}

fn trust_bundle(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.len() > BYTES_MAX {
        return errors.too_long(path, BYTES_MAX);
    }
    let mut places: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    let mut sound = true;
    for (i, block) in Pem::iter_from_buffer(text.as_bytes()).filter_map(Result::ok).enumerate() {
        match anchor_fault(&block, text) {
            Some(fault) => {
                sound = false;
                errors.invalid(path, OMITTED, format!("entry {i} {fault}"));
            }
            None => places.entry(block.contents).or_default().push(i),
        }
    }
    if !sound {
        return;
    }
    if places.is_empty() {
        errors.invalid(path, OMITTED, "at least one trust anchor must be provided");
    }
    for indices in places.values().filter(|indices| indices.len() > 1) {
        let indices: Vec<String> = indices.iter().map(usize::to_string).collect();
        errors.invalid(path, OMITTED, format!("duplicate trust anchor (indices [{}])", indices.join(" ")));
    }
}

/// Why a block is no certificate to trust.
fn anchor_fault(block: &Pem, text: &str) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    if has_headers(text) {
        return Some("has PEM block headers".into());
    }
    let Ok(certificate) = block.parse_x509() else { return Some("does not parse as X.509".into()) };
    (!certificate.is_ca()).then(|| "does not have the CA bit set".to_owned())
}

/// Whether a block has lines that are no base64; between blocks anything may stand.
fn has_headers(text: &str) -> bool {
    let mut within = false;
    text.lines().any(|line| {
        if line.starts_with("-----") {
            within = line.starts_with("-----BEGIN ");
        }
        within && line.contains(": ")
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;
    use crate::kinds::testing;

    fn certificate(ca: bool) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn bundle(name: &str, signer: Option<&str>, certificates: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": certificates}})
    }

    #[test]
    fn anchors_are_certificates_of_authorities_under_their_signers_name() {
        let (ca, leaf) = (certificate(true), certificate(false));
        let judge = |value: Value| {
            let (bundle, mut errors) = (testing::parse::<ClusterTrustBundle>(value), Errors::default());
            bundle.validate(&mut errors);
            bundle.validate_create(&mut errors);
            errors.into_causes()
        };
        assert!(judge(bundle("a", None, &ca)).is_empty());
        let two = format!("{ca}\nsaid: between\n{}", certificate(true));
        assert!(judge(bundle("example.com:mine:a", Some("example.com/mine"), &two)).is_empty());
        for (value, field, message) in [
            (
                bundle("a:b", None, &ca),
                "metadata.name",
                "ClusterTrustBundle without signer name must not have",
            ),
            (
                bundle("a", Some("example.com/mine"), &ca),
                "metadata.name",
                "ClusterTrustBundle for signerName example.com/mine must be named with prefix example.com:mine:",
            ),
            (bundle("a", None, ""), "spec.trustBundle", "at least one trust anchor must be provided"),
            (bundle("a", None, &leaf), "spec.trustBundle", "entry 0 does not have the CA bit set"),
            (
                bundle("a", None, &format!("{ca}{ca}")),
                "spec.trustBundle",
                "duplicate trust anchor (indices [0 1])",
            ),
            (
                bundle("a", None, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                "spec.trustBundle",
                "entry 0 does not parse as X.509",
            ),
            (
                bundle("a", None, &ca.replace("CERTIFICATE", "PRIVATE KEY")),
                "spec.trustBundle",
                "entry 0 has bad block type: PRIVATE KEY",
            ),
        ] {
            let causes = judge(value);
            assert!(
                matches!(&causes[..], [c] if c.field == field && c.message.contains(message)),
                "{causes:?}"
            );
        }
    }

    #[test]
    fn the_signer_stays() {
        let ca = certificate(true);
        testing::updates::<ClusterTrustBundle>(&[(
            bundle("a", None, &ca),
            bundle("a", Some("example.com/mine"), &ca),
            "spec.signerName",
            "Invalid value: \"example.com/mine\": field is immutable",
        )]);
    }
}
