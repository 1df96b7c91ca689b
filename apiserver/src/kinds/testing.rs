//! What the kinds' table tests share: parsing, and one bad object per rule.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::BuiltIn;
use crate::field_error::Errors;

/// A fixed time for columns.
pub(crate) fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn parse<K: BuiltIn>(mut json: Value) -> K {
    json["apiVersion"] = json!(K::API_VERSION);
    json["kind"] = json!(K::KIND);
    serde_json::from_value(json).unwrap()
}

pub(crate) fn defaulted<K: BuiltIn>(json: Value) -> K {
    let mut object: K = parse(json);
    object.set_defaults();
    object
}

fn found(errors: Errors) -> Vec<(String, String)> {
    errors.into_causes().into_iter().map(|c| (c.field, c.message)).collect()
}

/// Each object, defaulted, is refused for that field with that message (its beginning), and for nothing else.
pub(crate) fn invalid<K: BuiltIn>(cases: &[(Value, &str, &str)]) {
    for (json, field, message) in cases {
        let mut errors = Errors::default();
        defaulted::<K>(json.clone()).validate(&mut errors);
        expect(json, &found(errors), field, message);
    }
}

pub(crate) fn valid<K: BuiltIn>(cases: &[Value]) {
    for json in cases {
        let mut errors = Errors::default();
        defaulted::<K>(json.clone()).validate(&mut errors);
        assert_eq!(found(errors), [], "{json}");
    }
}

/// Each (old, new) is refused by `validate_update`; an empty field means it is accepted.
pub(crate) fn updates<K: BuiltIn>(cases: &[(Value, Value, &str, &str)]) {
    for (old, new, field, message) in cases {
        let mut errors = Errors::default();
        defaulted::<K>(new.clone()).validate_update(&defaulted(old.clone()), &mut errors);
        if field.is_empty() && message.is_empty() {
            assert_eq!(found(errors), [], "{new}");
        } else {
            expect(new, &found(errors), field, message);
        }
    }
}

fn expect(json: &Value, found: &[(String, String)], field: &str, message: &str) {
    assert!(
        matches!(found, [(f, m)] if f == field && m.starts_with(message)),
        "{json}\n wanted {field}: {message}\n    got {found:#?}"
    );
}

/// The cells of an object at [`now`], as text.
pub(crate) fn cells<K: BuiltIn>(json: Value) -> Vec<String> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let cells = parse::<K>(json).cells(now());
    assert_eq!(cells.len(), K::columns().len());
    cells.into_iter().map(text).collect()
}
