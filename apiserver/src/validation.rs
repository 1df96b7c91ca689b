//! Formats that many kinds share: DNS names, label keys and values, ports, with upstream's messages.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coracle_client::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};

use crate::field_error::{Errors, Path};

/// As upstream's `TotalAnnotationSizeLimitB`.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

const CONDITION_STATUSES: &[&str] = &["False", "True", "Unknown"];
const REASON_MAX_BYTES: usize = 1024;
const MESSAGE_MAX_BYTES: usize = 32 * 1024;
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// What upstream says of a name that is no DNS-1123 subdomain.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const CONFIG_MAP_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";

/// Of labels and qualified names, whose rules upstream declares anew.
fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn too_many_characters(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

pub fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err(too_many_characters(253));
    }
    if text.split('.').all(is_label) { Ok(()) } else { Err(SUBDOMAIN.into()) }
}

pub fn dns_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_many_characters(63));
    }
    if is_label(text) { Ok(()) } else { Err(LABEL.into()) }
}

pub fn dns_1035_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_many_characters(63));
    }
    if is_label(text) && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        Ok(())
    } else {
        Err(LABEL_1035.into())
    }
}

/// A label value: empty, or alphanumeric with `-`, `_`, `.` inside.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.len() > 63 {
        return Err(too_long(63));
    }
    if value.is_empty() || is_name_part(value) { Ok(()) } else { Err(LABEL_VALUE.into()) }
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label, annotation or taint key: a name, after a DNS subdomain and `/` if it likes.
pub fn qualified_name(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        None => key,
        Some((_, rest)) if rest.contains('/') => return Err(format!("a qualified name {QUALIFIED}")),
        Some(("", _)) => return Err("prefix part must be non-empty".into()),
        Some((prefix, name)) => {
            if prefix.len() > 253 {
                return Err(format!("prefix part {}", too_long(253)));
            }
            dns_subdomain(prefix).map_err(|e| format!("prefix part {e}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err(format!("name part {}", too_long(63)));
    }
    if is_name_part(name) { Ok(()) } else { Err(format!("name part {NAME_PART}")) }
}

/// Everything that is wrong with a qualified name: an empty one is no name in two ways.
pub fn qualified_name_faults(key: &str) -> Vec<String> {
    let mut faults: Vec<String> = qualified_name(key).err().into_iter().collect();
    if key.is_empty() || key.ends_with('/') && key.matches('/').count() == 1 && faults.len() == 1 {
        faults.push(format!("name part {NAME_PART}"));
    }
    faults
}

/// A path segment that any object name must at least be.
pub fn path_segment(name: &str) -> Result<(), String> {
    match name {
        "." => Err("may not be '.'".into()),
        ".." => Err("may not be '..'".into()),
        _ if name.contains('/') => Err("may not contain '/'".into()),
        _ if name.contains('%') => Err("may not contain '%'".into()),
        _ => Ok(()),
    }
}

/// An IANA service name, as ports are called.
pub fn port_name(name: &str) -> Result<(), String> {
    let bytes = name.as_bytes();
    if bytes.len() > 15 {
        Err(too_many_characters(15))
    } else if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        Err("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)".into())
    } else if !bytes.iter().any(u8::is_ascii_lowercase) {
        Err("must contain at least one letter (a-z)".into())
    } else if name.contains("--") {
        Err("must not contain consecutive hyphens".into())
    } else if name.starts_with('-') || name.ends_with('-') {
        Err("must not begin or end with a hyphen".into())
    } else {
        Ok(())
    }
}

pub fn port_number(port: i32) -> Result<(), String> {
    if (1..=65535).contains(&port) { Ok(()) } else { Err("must be between 1 and 65535, inclusive".into()) }
}

/// Upstream's relaxed rule, on since v1.34.
pub fn env_name(name: &str) -> Result<(), String> {
    if name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        Ok(())
    } else {
        Err("a valid environment variable name must consist only of printable ASCII characters other than '='".into())
    }
}

pub fn ip(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>()
        .map(drop)
        .map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into())
}

pub fn cidr(text: &str) -> Result<(), String> {
    let fine = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|b| b <= most)
    });
    if fine { Ok(()) } else { Err("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()) }
}

/// A relative path that stays below where it starts.
pub fn local_descending_path(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Err("must be a relative path".into());
    }
    no_backsteps(path)
}

pub fn no_backsteps(path: &str) -> Result<(), String> {
    if path.split('/').any(|part| part == "..") { Err("must not contain '..'".into()) } else { Ok(()) }
}

pub fn non_negative(field: impl Into<String>, value: impl Into<i64>, errors: &mut Errors) {
    let value = value.into();
    if value < 0 {
        errors.invalid(field, value, "must be greater than or equal to 0");
    }
}

pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.check(path, key, qualified_name);
        errors.check(path, value, label_value);
    }
}

pub fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Upstream checks the lower-cased key: capitals are allowed in the prefix.
        if let Err(detail) = qualified_name(&key.to_ascii_lowercase()) {
            errors.invalid(path, key, detail);
        }
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

/// The requirements of a label selector, each of which must be complete.
pub fn label_selector(selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    let expressions = path.child("matchExpressions");
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let at = expressions.index(i);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(at.child("operator"), other, "not a valid selector operator"),
        }
        errors.check(at.child("key"), &requirement.key, qualified_name);
        for (i, value) in values.iter().enumerate() {
            errors.check(at.child("values").index(i), value, label_value);
        }
    }
}

/// A selector without any requirement, which selects everything.
pub fn selects_everything(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A quantity that parses and is not negative.
pub fn quantity(wire: &Wire, field: &Path<'_>, errors: &mut Errors) -> Option<Quantity> {
    match Quantity::of(wire) {
        Err(error) => {
            errors.invalid(field, &wire.0, error);
            None
        }
        Ok(quantity) => {
            if quantity.is_negative() {
                errors.invalid(field, &wire.0, "must be greater than or equal to 0");
            }
            Some(quantity)
        }
    }
}

/// Conditions of the shape that all kinds share: one of each type, each whole.
pub fn conditions(conditions: &[Condition], path: &Path<'_>, errors: &mut Errors) {
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        if conditions.iter().take(i).any(|c| c.type_ == condition.type_) {
            errors.duplicate(at.child("type"), &condition.type_);
        }
        errors.check(at.child("type"), &condition.type_, qualified_name);
        if !CONDITION_STATUSES.contains(&condition.status.as_str()) {
            errors.not_supported(at.child("status"), &condition.status, CONDITION_STATUSES);
        }
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            errors.invalid(
                at.child("observedGeneration"),
                generation,
                "must be greater than or equal to zero",
            );
        }
        // What is not given is decoded as the beginning of time.
        if condition.last_transition_time.0 == jiff::Timestamp::UNIX_EPOCH {
            errors.required(at.child("lastTransitionTime"), "");
        }
        let reason = condition.reason.as_str();
        if reason.is_empty() {
            errors.required(at.child("reason"), "");
        } else if !is_reason(reason) {
            errors.invalid(at.child("reason"), reason, REASON);
        }
        if reason.len() > REASON_MAX_BYTES {
            errors.too_long(at.child("reason"), REASON_MAX_BYTES);
        }
        if condition.message.len() > MESSAGE_MAX_BYTES {
            errors.too_long(at.child("message"), MESSAGE_MAX_BYTES);
        }
    }
}

/// A letter, and then letters, digits, `_`, `,` and `:`, of which the last two do not come last.
fn is_reason(reason: &str) -> bool {
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && !reason.ends_with([',', ':'])
        && reason.bytes().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(&b))
}

/// The text, unless it is missing or empty (which upstream does not tell apart).
pub fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| !t.is_empty())
}

pub fn config_map_key(key: &str) -> Result<(), String> {
    if key.len() > 253 {
        return Err(too_many_characters(253));
    }
    if key == "." {
        return Err("must not be '.'".into());
    }
    if key == ".." {
        return Err("must not be '..'".into());
    }
    if key.starts_with("..") {
        return Err("must not start with '..'".into());
    }
    let fine =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fine { Ok(()) } else { Err(CONFIG_MAP_KEY.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_upstream_takes() {
        type Check = fn(&str) -> Result<(), String>;
        let checks: &[(Check, &[&str], &[&str])] = &[
            (dns_subdomain, &["a", "a.b", "1-a.2"], &["", "A", "a..b", "-a", "a_b", "a."]),
            (dns_label, &["a", "1a"], &["", "a.b", "a-", "A"]),
            (dns_1035_label, &["a", "a1"], &["1a", ""]),
            (label_value, &["", "a", "A_b.c-d"], &["-a", "a-", "a/b", " "]),
            (qualified_name, &["a", "A.b", "example.com/a"], &["", "/a", "a/", "a/b/c", "Ex.com/a", "a b"]),
            (port_name, &["http", "p-1"], &["1", "a--b", "-a", "a-", "sixteen-letters-", "A", ""]),
            (env_name, &["A", "a.b", "my name", "1"], &["a=b", "ä", "\n"]),
            (ip, &["10.0.0.1", "::1"], &["", "10.0.0", "x"]),
            (cidr, &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33", "x/8"]),
            (local_descending_path, &["a/b", "", "a..b"], &["/a", "a/../b", ".."]),
            (path_segment, &["a:b"], &["a/b", "a%b", ".", ".."]),
            (config_map_key, &["a.b", "A_1"], &["", ".", "..", "..a", "a/b"]),
        ];
        for (i, (check, good, bad)) in checks.iter().enumerate() {
            for text in *good {
                assert_eq!(check(text), Ok(()), "check {i} of {text:?}");
            }
            for text in *bad {
                assert!(check(text).is_err(), "check {i} of {text:?}");
            }
        }
    }

    #[test]
    fn selectors_must_be_complete() {
        for (json, want) in [
            (r#"{"matchLabels":{"a":"b"}}"#, None),
            (r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#, None),
            (r#"{"matchExpressions":[{"key":"a","operator":"In"}]}"#, Some("s.matchExpressions[0].values")),
            (r#"{"matchExpressions":[{"key":"a","operator":"X"}]}"#, Some("s.matchExpressions[0].operator")),
            (r#"{"matchLabels":{"a":"b c"}}"#, Some("s.matchLabels")),
        ] {
            let selector: LabelSelector = serde_json::from_str(json).unwrap();
            let mut errors = Errors::default();
            label_selector(&selector, &Path::new("s"), &mut errors);
            assert_eq!(errors.into_causes().first().map(|c| c.field.clone()).as_deref(), want, "{json}");
        }
    }
}
