//! Merge patches (RFC 7386), as the library that upstream uses takes them.

use coracle_client::ApiError;
use serde_json::{Map, Value};

pub fn apply(current: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let patch = match super::parse(patch)? {
        Value::Object(patch) => patch,
        Value::Null => return Err(ApiError::bad_request("Invalid JSON Patch")),
        other => {
            return Err(ApiError::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                super::kind_of(&other)
            )));
        }
    };
    let Value::Object(current) = current else { return Err(ApiError::bad_request("Invalid JSON Document")) };
    let mut patched = current.clone();
    merge(&mut patched, patch);
    Ok(Value::Object(patched))
}

fn merge(current: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match (value, current.get_mut(&name)) {
            (Value::Null, _) => drop(current.remove(&name)),
            (Value::Object(patch), Some(Value::Object(below))) => merge(below, patch),
            (value, _) => drop(current.insert(name, without_nulls(value))),
        }
    }
}

/// What is new in a document has no nulls in its maps; lists keep theirs.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(members.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rfcs_cases() {
        for (current, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(apply(&current, patch.to_string().as_bytes()).unwrap(), want);
        }
    }
}
