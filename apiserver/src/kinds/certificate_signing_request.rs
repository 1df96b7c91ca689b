//! CertificateSigningRequest: asks a signer for a certificate. Who asks is set by the server; the spec never changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const EXPIRATION_SECONDS_MIN: i32 = 600;
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Writes who asks into a request that is being created; what the client wrote there is dropped.
pub fn set_requester(
    request: &mut CertificateSigningRequest,
    username: &str,
    uid: Option<&str>,
    groups: &[String],
    extra: &BTreeMap<String, Vec<String>>,
) {
    let spec = &mut request.spec;
    spec.username = Some(username.to_owned());
    spec.uid = uid.filter(|u| !u.is_empty()).map(str::to_owned);
    spec.groups = (!groups.is_empty()).then(|| groups.to_vec());
    spec.extra = (!extra.is_empty()).then(|| extra.clone());
}

/// PUT and PATCH of the `approval` subresource: Approved and Denied conditions come from `new`, the rest stays.
pub fn prepare_approval(
    new: &mut CertificateSigningRequest,
    old: &CertificateSigningRequest,
    now: Timestamp,
) {
    new.spec = old.spec.clone();
    let decisions = conditions(new).into_iter().filter(|c| c.type_ == APPROVED || c.type_ == DENIED);
    let kept = conditions(old).into_iter().filter(|c| c.type_ != APPROVED && c.type_ != DENIED);
    let mut status = old.status.clone().unwrap_or_default();
    let all: Vec<_> = kept.chain(decisions).collect();
    status.conditions = (!all.is_empty()).then_some(all);
    new.status = Some(status);
    stamp(new, old, now);
}

fn conditions(request: &CertificateSigningRequest) -> Vec<CertificateSigningRequestCondition> {
    request.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default()
}

/// Times of conditions that came or turned are now.
fn stamp(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest, now: Timestamp) {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let before = conditions(old);
    for condition in new.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()) {
        if condition.status.is_empty() {
            condition.status = "True".into();
        }
        let same = before.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
        if same.is_none_or(|c| c.reason != condition.reason || c.message != condition.message) {
            condition.last_update_time.get_or_insert(Time(now));
        }
        let since = same.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
        condition.last_transition_time.get_or_insert(since);
    }
}

impl BuiltIn for CertificateSigningRequest {
    const SINGULAR: &'static str = "certificatesigningrequest";
    const SHORT_NAMES: &'static [&'static str] = &["csr"];
    const HAS_STATUS: bool = true;
    const MAIN_RESETS: &'static [&'static [&'static str]] = &[&["spec"]];
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["spec"], &["status", "conditions"]];
    const SUBRESOURCES: &'static [&'static str] = &["approval"];

    fn prepare_create(&mut self) {
        self.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.spec = old.spec.clone();
    }

    /// Approved and Denied are not for signers to say: they stay as they are.
    fn prepare_status_update(&mut self, old: &Self) {
        let decisions = conditions(old).into_iter().filter(|c| c.type_ == APPROVED || c.type_ == DENIED);
        let others = conditions(self).into_iter().filter(|c| c.type_ != APPROVED && c.type_ != DENIED);
        let all: Vec<_> = decisions.chain(others).collect();
        self.status.get_or_insert_default().conditions = (!all.is_empty()).then_some(all);
        stamp(self, old, Timestamp::now());
    }

    fn validate_name(name: &str) -> Result<(), String> {
        validation::path_segment(name)
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        if let Err(detail) = parse(&self.spec.request.0) {
            errors.invalid(path.child("request"), &self.spec.request, detail);
        }
        let usages = self.spec.usages.as_deref().unwrap_or_default();
        if usages.is_empty() {
            errors.required(path.child("usages"), "");
        }
        for (i, usage) in usages.iter().enumerate() {
            if !USAGES.contains(&usage.as_str()) {
                errors.not_supported(path.child("usages").index(i), usage, USAGES);
            }
            if usages[..i].contains(usage) {
                errors.duplicate(path.child("usages").index(i), usage);
            }
        }
        signer_name(&self.spec.signer_name, &path.child("signerName"), errors);
        if let Some(seconds) = self.spec.expiration_seconds.filter(|s| *s < EXPIRATION_SECONDS_MIN) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(path.child("expirationSeconds"), seconds, detail);
        }
        validate_conditions(&conditions(self), errors);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        validate_conditions(&conditions(self), errors);
        for (i, condition) in conditions(old).iter().enumerate() {
            let final_ = matches!(condition.type_.as_str(), APPROVED | DENIED | FAILED);
            if final_ && !conditions(self).iter().any(|c| c.type_ == condition.type_) {
                let path = Path::new("status");
                let detail = format!("updates may not remove a condition of type {:?}", condition.type_);
                errors.forbidden(path.child("conditions").index(i), &detail);
            }
        }
        let certificate =
            |r: &Self| r.status.as_ref().and_then(|s| s.certificate.clone()).unwrap_or_default();
        let (new, before) = (certificate(self), certificate(old));
        if !before.0.is_empty() && new != before {
            errors.forbidden(
                "status.certificate",
                "updates may not set certificate content to a different value once set",
            );
        } else if !new.0.is_empty() && x509_parser::pem::parse_x509_pem(&new.0).is_err() {
            errors.invalid("status.certificate", "<certificate data>", "expected at least one PEM block");
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::AGE,
            table::narrow("SignerName", "string", "Who is to sign."),
            table::narrow("Requestor", "string", "Who asks."),
            table::narrow("RequestedDuration", "string", "How long the certificate should be valid."),
            table::narrow("Condition", "string", "What has become of it."),
        ]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let duration = self.spec.expiration_seconds.map(|s| table::human_duration(s.into()));
        let signer = Some(self.spec.signer_name.as_str());
        vec![
            json!(self.metadata.name),
            json!(table::age(self.metadata.creation_timestamp.as_ref(), now)),
            json!(table::or_none(signer)),
            json!(self.spec.username.as_deref().unwrap_or_default()),
            json!(duration.as_deref().unwrap_or("<none>")),
            json!(state(self)),
        ]
    }
}

/// `Approved,Issued`, `Denied`, `Pending`, …
fn state(request: &CertificateSigningRequest) -> String {
    let conditions = conditions(request);
    let has = |type_: &str| conditions.iter().any(|c| c.type_ == type_);
    let mut words = vec![match (has(DENIED), has(APPROVED)) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }];
    if has(FAILED) {
        words.push("Failed");
    }
    if request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty()) {
        words.push("Issued");
    }
    words.join(",")
}

/// A PEM block with a PKCS #10 request whose signature holds.
fn parse(pem: &[u8]) -> Result<(), String> {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;
    let block = "PEM block type must be CERTIFICATE REQUEST";
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| block.to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(block.into());
    }
    X509CertificationRequest::from_der(&pem.contents).map(drop).map_err(|e| e.to_string())
}

pub(super) fn signer_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name == "kubernetes.io/legacy-unknown" {
        return errors.invalid(path, name, "the legacy signerName is not allowed via this API version");
    }
    let Some((domain, rest)) = name.split_once('/') else {
        return errors.invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    };
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    errors.check(path, domain, validation::dns_subdomain);
    errors.check(path, rest, validation::dns_subdomain);
}

fn validate_conditions(conditions: &[CertificateSigningRequestCondition], errors: &mut Errors) {
    let path = Path::new("status");
    let path = path.child("conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        if condition.type_.is_empty() {
            errors.required(at.child("type"), "");
        }
        if conditions[..i].iter().any(|c| c.type_ == condition.type_) {
            errors.duplicate(at.child("type"), &condition.type_);
        }
        let status = condition.status.as_str();
        if matches!(condition.type_.as_str(), APPROVED | DENIED | FAILED) {
            errors.one_of(at.child("status"), Some(status), &["True"]);
        } else {
            errors.one_of(at.child("status"), Some(status), &["False", "True", "Unknown"]);
        }
        let other = match condition.type_.as_str() {
            APPROVED => DENIED,
            DENIED => APPROVED,
            _ => continue,
        };
        if conditions[..i].iter().any(|c| c.type_ == other) {
            errors.invalid(
                at.child("type"),
                &condition.type_,
                format!("{APPROVED} and {DENIED} conditions are mutually exclusive"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;

    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn request() -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        json!({"metadata": {"name": "r"}, "spec": {"request": base64::engine::general_purpose::STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"], "username": "me"}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut request = request();
        request["spec"][field] = value;
        request
    }

    #[test]
    fn requests_are_complete() {
        testing::valid::<CertificateSigningRequest>(&[request()]);
        testing::invalid::<CertificateSigningRequest>(&[
            (
                with("request", json!("eA==")),
                "spec.request",
                "Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
            ),
            (with("usages", json!([])), "spec.usages", "Required value"),
            (with("usages", json!(["x"])), "spec.usages[0]", "Unsupported value: \"x\""),
            (with("signerName", json!("")), "spec.signerName", "Required value"),
            (
                with("signerName", json!("x")),
                "spec.signerName",
                "Invalid value: \"x\": must be a fully qualified domain",
            ),
            (
                with("expirationSeconds", json!(5)),
                "spec.expirationSeconds",
                "Invalid value: 5: may not specify a duration less",
            ),
        ]);
    }

    #[test]
    fn who_asks_is_not_the_clients_word() {
        let mut object: CertificateSigningRequest = defaulted(with("groups", json!(["system:masters"])));
        set_requester(&mut object, "node", None, &["g".into()], &BTreeMap::new());
        assert_eq!(object.spec.username.as_deref(), Some("node"));
        assert_eq!(object.spec.groups.unwrap(), ["g"]);
    }

    #[test]
    fn decisions_come_through_approval_only() {
        let old: CertificateSigningRequest = defaulted(request());
        let mut new = old.clone();
        new.status = serde_json::from_value(
            json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "eA=="}),
        )
        .unwrap();
        let mut approved = new.clone();
        prepare_approval(&mut approved, &old, testing::now());
        assert_eq!(state(&approved), "Approved");
        assert_eq!(
            approved.status.as_ref().unwrap().conditions.as_ref().unwrap()[0]
                .last_update_time
                .as_ref()
                .unwrap()
                .0,
            testing::now()
        );
        new.prepare_status_update(&old);
        assert_eq!(state(&new), "Pending,Issued");
        let mut issued = approved.clone();
        issued.status.as_mut().unwrap().certificate = Some(k8s_openapi::ByteString(b"x".to_vec()));
        issued.prepare_status_update(&approved);
        assert_eq!(state(&issued), "Approved,Issued");
    }

    #[test]
    fn columns() {
        let cells = testing::cells::<CertificateSigningRequest>(with("expirationSeconds", json!(3600)));
        assert_eq!(cells, ["r", "<unknown>", "kubernetes.io/kube-apiserver-client", "me", "60m", "Pending"]);
    }
}
