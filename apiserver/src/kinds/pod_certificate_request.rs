//! PodCertificateRequest: a node asks a signer for a certificate of one of its pods. The spec never changes, and what
//! the signer answers once is final.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{
    PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::certificate_signing_request::signer_name;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const SECONDS_DEFAULT: i32 = 86_400;
const SECONDS_MIN: i32 = 3600;
const SECONDS_MAX: i32 = 7_862_400;
/// Of Kubernetes' own signers.
const SECONDS_MAX_OWN: i32 = 86_400;
const UID_MAX: usize = 128;
const REQUEST_BYTES_MAX: usize = 10 * 1024;
const CHAIN_BYTES_MAX: usize = 100 * 1024;
const OUTCOMES: [&str; 3] = ["Issued", "Denied", "Failed"];
/// A certificate's beginning is that near to now.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// A certificate is not renewed so near to its beginning or end.
const REFRESH_MARGIN: SignedDuration = SignedDuration::from_mins(10);

impl BuiltIn for PodCertificateRequest {
    const SINGULAR: &'static str = "podcertificaterequest";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        self.spec.max_expiration_seconds.get_or_insert(SECONDS_DEFAULT);
    }

    fn prepare_create(&mut self) {
        self.status = Some(Default::default());
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec", &self.spec, &old.spec);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        validate_status(self, old, Timestamp::now(), errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::narrow("PodName", "string", "The pod that the certificate is for."),
            table::narrow("ServiceAccountName", "string", "The account that the pod runs as."),
            table::narrow("NodeName", "string", "The node that the pod is on."),
            table::narrow("SignerName", "string", "Who is to sign."),
            table::narrow("State", "string", "Pending, Issued, Denied or Failed."),
            table::narrow("UnverifiedUserAnnotations", "string", "What the pod's author tells the signer."),
        ]
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        vec![
            json!(self.metadata.name),
            json!(spec.pod_name),
            json!(spec.service_account_name),
            json!(spec.node_name),
            json!(spec.signer_name),
            json!(outcome(self).unwrap_or("Pending")),
            json!(table::labels(spec.unverified_user_annotations.as_ref())),
        ]
    }
}

fn conditions(request: &PodCertificateRequest) -> &[Condition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn outcome(request: &PodCertificateRequest) -> Option<&'static str> {
    let said = |outcome: &&str| conditions(request).iter().any(|condition| condition.type_ == **outcome);
    OUTCOMES.iter().copied().find(said)
}

fn validate_spec(spec: &PodCertificateRequestSpec, path: &Path<'_>, errors: &mut Errors) {
    signer_name(&spec.signer_name, &path.child("signerName"), errors);
    for key in spec.unverified_user_annotations.iter().flat_map(|all| all.keys()) {
        let at = path.child("unverifiedUserAnnotations");
        errors.check(at, key, validation::qualified_name);
        if !key.contains('/') {
            errors.invalid(at, key, "key must contain a prefix of form prefix/");
        }
    }
    for (name_field, name, uid_field, uid) in [
        ("podName", &spec.pod_name, "podUID", &spec.pod_uid),
        ("serviceAccountName", &spec.service_account_name, "serviceAccountUID", &spec.service_account_uid),
        ("nodeName", &spec.node_name, "nodeUID", &spec.node_uid),
    ] {
        errors.check(path.child(name_field), name, validation::dns_subdomain);
        if uid.is_empty() {
            errors.invalid(path.child(uid_field), uid, "must not be empty");
        } else if uid.len() > UID_MAX {
            errors.too_long(path.child(uid_field), UID_MAX);
        }
    }
    let domain = spec.signer_name.split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if own { SECONDS_MAX_OWN } else { SECONDS_MAX };
    let seconds = spec.max_expiration_seconds.unwrap_or_default();
    if !(SECONDS_MIN..=most).contains(&seconds) {
        let detail = format!("must be in the range [{SECONDS_MIN}, {most}]");
        errors.invalid(path.child("maxExpirationSeconds"), seconds, detail);
    }
    let request = &spec.stub_pkc_s10_request.0;
    let at = path.child("stubPKCS10Request");
    if request.is_empty() {
        errors.required(at, "");
    } else if request.len() > REQUEST_BYTES_MAX {
        errors.too_long(at, REQUEST_BYTES_MAX);
    } else if X509CertificationRequest::from_der(request).is_err() {
        errors.invalid(at, "<value omitted>", "must be a valid PKCS#10 CSR");
    }
}

fn validate_status(
    new: &PodCertificateRequest,
    old: &PodCertificateRequest,
    now: Timestamp,
    errors: &mut Errors,
) {
    let path = Path::new("status");
    let before = errors.len();
    validate_conditions(conditions(new), &path.child("conditions"), errors);
    if errors.len() > before {
        return;
    }
    let (status, was) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    let changed = status != was;
    match (outcome(old), outcome(new)) {
        (Some(_), _) if changed => errors.invalid(
            path,
            &status,
            "immutable after PodCertificateRequest is issued, denied, or failed",
        ),
        (Some(_), _) => {}
        (None, Some("Issued")) => validate_issued(new, &status, now, errors),
        (None, Some(_)) => {
            let rest = PodCertificateRequestStatus {
                conditions: status.conditions.clone(),
                ..PodCertificateRequestStatus::default()
            };
            if status != rest {
                let detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
                errors.invalid(path, &status, detail);
            }
        }
        (None, None) if changed => errors.invalid(
            path,
            &status,
            "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
        ),
        (None, None) => {}
    }
}

fn validate_conditions(conditions: &[Condition], path: &Path<'_>, errors: &mut Errors) {
    for (i, condition) in conditions.iter().enumerate() {
        // Upstream puts a dot before the index.
        let index = format!("[{i}]");
        let at = path.child(&index);
        if !OUTCOMES.contains(&condition.type_.as_str()) {
            errors.not_supported(at.child("type"), &condition.type_, &OUTCOMES);
            continue;
        }
        if i > 0 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(at.child("type"), &condition.type_, detail);
        }
        if condition.status != "True" {
            errors.not_supported(at.child("status"), &condition.status, &["True"]);
        }
    }
    validation::conditions(conditions, path, errors);
}

/// What a signer writes is a certificate for the key that was shown, and says the same as the fields beside it.
fn validate_issued(
    request: &PodCertificateRequest,
    status: &PodCertificateRequestStatus,
    now: Timestamp,
    errors: &mut Errors,
) {
    let path = Path::new("status");
    let at = path.child("certificateChain");
    let text = status.certificate_chain.as_deref().unwrap_or_default();
    if text.len() > CHAIN_BYTES_MAX {
        return errors.too_long(at, CHAIN_BYTES_MAX);
    }
    let blocks: Vec<Pem> = Pem::iter_from_buffer(text.as_bytes()).filter_map(Result::ok).collect();
    let Some((leaf, others)) = blocks.split_first() else {
        return errors.invalid(at, text, "issued certificate chain must contain at least one certificate");
    };
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        let detail = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
        return errors.invalid(at, text, detail);
    }
    let Ok(leaf) = leaf.parse_x509() else {
        return errors.invalid(at, text, "leaf certificate does not parse as valid X.509");
    };
    let wanted = X509CertificationRequest::from_der(&request.spec.stub_pkc_s10_request.0);
    if !wanted
        .is_ok_and(|(_, wanted)| wanted.certification_request_info.subject_pki.raw == leaf.public_key().raw)
    {
        return errors.invalid(at, text, "leaf certificate was not issued to the requested public key");
    }
    if others.iter().any(|block| block.parse_x509().is_err()) {
        return errors.invalid(at, text, "intermediate certificate does not parse as valid X.509");
    }
    let consistent = "must be present and consistent with the issued certificate";
    let refresh = "must be present and in the range [notbefore+10min, notafter-10min]";
    for (field, time, detail) in [
        ("notBefore", &status.not_before, consistent),
        ("notAfter", &status.not_after, consistent),
        ("beginRefreshAt", &status.begin_refresh_at, refresh),
    ] {
        if time.is_none() {
            errors.required(path.child(field), detail);
        }
    }
    let (Some(begin), Some(end), Some(again)) =
        (&status.not_before, &status.not_after, &status.begin_refresh_at)
    else {
        return;
    };
    let validity = leaf.validity();
    let seconds = |time: &Time| time.0.as_second();
    if seconds(begin) != validity.not_before.timestamp() {
        let detail = "must be set to the NotBefore time encoded in the leaf certificate";
        return errors.invalid(path.child("notBefore"), begin, detail);
    }
    if now.duration_since(begin.0).abs() > SKEW {
        let detail = "must be set to within 5 minutes of kube-apiserver's current time";
        return errors.invalid(path.child("notBefore"), begin, detail);
    }
    if seconds(end) != validity.not_after.timestamp() {
        let detail = "must be set to the NotAfter time encoded in the leaf certificate";
        return errors.invalid(path.child("notAfter"), end, detail);
    }
    let lifetime = seconds(end) - seconds(begin);
    let most = request.spec.max_expiration_seconds.unwrap_or_default();
    if lifetime < i64::from(SECONDS_MIN) {
        return errors.invalid(at, lifetime, "leaf certificate lifetime must be >= 1 hour");
    }
    if lifetime > i64::from(most) {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})");
        return errors.invalid(at, lifetime, detail);
    }
    if again.0.duration_since(begin.0) < REFRESH_MARGIN {
        let detail = "must be at least 10 minutes after status.notBefore";
        errors.invalid(path.child("beginRefreshAt"), again, detail);
    } else if end.0.duration_since(again.0) < REFRESH_MARGIN {
        let detail = "must be at least 10 minutes before status.notAfter";
        errors.invalid(path.child("beginRefreshAt"), again, detail);
    }
}

#[cfg(test)]
#[path = "pod_certificate_request_tests.rs"]
mod tests;
