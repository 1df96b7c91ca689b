//! Requests for pods' certificates, and what signers may answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::kinds::testing;

fn request(key: &KeyPair) -> Value {
    let der = CertificateParams::default().serialize_request(key).unwrap();
    json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {
        "signerName": "example.com/mine", "podName": "p", "podUID": "1", "serviceAccountName": "s",
        "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3",
        "stubPKCS10Request": STANDARD.encode(der.der())}})
}

fn with(path: &str, value: Value) -> Value {
    let mut request = request(&KeyPair::generate().unwrap());
    *request.pointer_mut("/spec").unwrap().as_object_mut().unwrap().entry(path).or_insert(Value::Null) =
        value;
    request
}

#[test]
fn requests_are_complete() {
    testing::valid::<PodCertificateRequest>(&[
        request(&KeyPair::generate().unwrap()),
        with("unverifiedUserAnnotations", json!({"example.com/a": "b"})),
    ]);
    for (field, value, path, message) in [
        ("signerName", json!("x"), "spec.signerName", "must be a fully qualified domain"),
        ("podUID", json!(""), "spec.podUID", "Invalid value: \"\": must not be empty"),
        ("nodeName", json!("A"), "spec.nodeName", "Invalid value: \"A\""),
        (
            "maxExpirationSeconds",
            json!(60),
            "spec.maxExpirationSeconds",
            "Invalid value: 60: must be in the range [3600, 7862400]",
        ),
        ("stubPKCS10Request", json!("eA=="), "spec.stubPKCS10Request", "must be a valid PKCS#10 CSR"),
        (
            "unverifiedUserAnnotations",
            json!({"a": "b"}),
            "spec.unverifiedUserAnnotations",
            "key must contain a prefix",
        ),
    ] {
        let mut errors = Errors::default();
        testing::defaulted::<PodCertificateRequest>(with(field, value)).validate(&mut errors);
        let causes = errors.into_causes();
        assert!(
            matches!(&causes[..], [c] if c.field == path && c.message.contains(message)),
            "{field}: {causes:?}"
        );
    }
}

/// A signer's answer for a key: from `begin`, for so many hours.
fn issued(key: &KeyPair, begin: Timestamp, hours: i64) -> Value {
    let mut params = CertificateParams::default();
    let at = |time: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.as_second() as u64)
    };
    let end = begin + SignedDuration::from_hours(hours);
    (params.not_before, params.not_after) = (at(begin), at(end));
    let pem = params.self_signed(key).unwrap().pem();
    json!({"certificateChain": pem, "notBefore": begin.to_string(), "notAfter": end.to_string(),
        "beginRefreshAt": (begin + SignedDuration::from_mins(20)).to_string(),
        "conditions": [{"type": "Issued", "status": "True", "reason": "Issued", "message": "",
            "lastTransitionTime": begin.to_string()}]})
}

#[test]
fn an_answer_fits_the_request_and_is_final() {
    let key = KeyPair::generate().unwrap();
    let now = Timestamp::now().round(jiff::Unit::Second).unwrap();
    let parse = |status: &Value| {
        let mut value = request(&key);
        value["spec"]["maxExpirationSeconds"] = json!(86_400);
        value["status"] = status.clone();
        serde_json::from_value::<PodCertificateRequest>(value).unwrap()
    };
    let judge = |new: &Value, old: &Value| {
        let mut errors = Errors::default();
        validate_status(&parse(new), &parse(old), now, &mut errors);
        errors.into_causes().into_iter().map(|cause| cause.message).collect::<Vec<_>>().join("; ")
    };
    let good = issued(&key, now, 12);
    assert_eq!(judge(&good, &json!({})), "");
    assert_eq!(judge(&good, &good), "");
    let denied = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "",
        "lastTransitionTime": now.to_string()}]});
    assert_eq!(judge(&denied, &json!({})), "");
    let edited = |field: &str, value: Value| {
        let mut status = good.clone();
        status[field] = value;
        status
    };
    let mut early = denied.clone();
    early["notAfter"] = json!(now.to_string());
    for (new, old, want) in [
        (denied.clone(), good.clone(), "immutable after PodCertificateRequest is issued"),
        (json!({"notAfter": now.to_string()}), json!({}), "status is immutable unless transitioning"),
        (early, json!({}), "non-condition status fields must be empty"),
        (issued(&KeyPair::generate().unwrap(), now, 12), json!({}), "not issued to the requested public key"),
        (issued(&key, now, 48), json!({}), "leaf certificate lifetime must be <= spec.maxExpirationSeconds"),
        (issued(&key, now - SignedDuration::from_hours(1), 12), json!({}), "within 5 minutes"),
        (edited("notAfter", Value::Null), json!({}), "must be present and consistent"),
        (edited("beginRefreshAt", json!(now.to_string())), json!({}), "at least 10 minutes after"),
        (edited("certificateChain", json!("")), json!({}), "must contain at least one certificate"),
    ] {
        let got = judge(&new, &old);
        assert!(got.contains(want), "{want}: {got}");
    }
}
