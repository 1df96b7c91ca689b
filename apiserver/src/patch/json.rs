//! JSON patches (RFC 6902).

use coracle_client::ApiError;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

/// Operations one patch may have, as upstream.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes the values of a document may grow to through `copy`: a small patch must not fill the memory.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

pub fn apply(current: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let operations = super::parse(patch)?;
    if let Value::Array(list) = &operations
        && list.len() > OPERATIONS_MAX
    {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                list.len()
            ),
        ));
    }
    let patch: Patch =
        serde_json::from_value(operations).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut patched = current.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation
            && let Ok(from) = copy.from.resolve(&patched)
        {
            copied += weight(from);
            if copied > COPIED_BYTES_MAX {
                return Err(super::rejected());
            }
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|_| super::rejected())?;
    }
    Ok(patched)
}

/// About the bytes of a value's JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + 4 + weight(value)).sum::<usize>() + 2
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(current: Value, patch: Value) -> Result<Value, ApiError> {
        apply(&current, patch.to_string().as_bytes())
    }

    #[test]
    fn operations() {
        for (current, patch, want) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-", "value": 3}]),
                json!({"a": [1, 2, 3]}),
            ),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/0"}]), json!({"a": [2]})),
            (json!({"a/b": 1}), json!([{"op": "replace", "path": "/a~1b", "value": 2}]), json!({"a/b": 2})),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
            (
                json!({"a": {"b": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/c"}]),
                json!({"a": {"b": 1}, "c": {"b": 1}}),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1})),
            (json!({"a": 1}), json!([]), json!({"a": 1})),
        ] {
            assert_eq!(patched(current, patch).unwrap(), want);
        }
    }

    #[test]
    fn refusals() {
        for (patch, code) in [
            (json!([{"op": "test", "path": "/a", "value": 2}]), 422),
            (json!([{"op": "remove", "path": "/x"}]), 422),
            (json!([{"op": "replace", "path": "/x/y", "value": 1}]), 422),
            (json!([{"op": "frobnicate", "path": "/a"}]), 400),
            (json!({"op": "remove"}), 400),
        ] {
            let error = patched(json!({"a": 1}), patch.clone()).unwrap_err();
            assert_eq!(error.code(), code, "{patch}");
        }
        let error = patched(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}])).unwrap_err();
        assert_eq!(error.message(), "the server rejected our request due to an error in our request");
        let error = apply(&json!({}), b"[{").unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (400, "error decoding patch: unexpected end of JSON input")
        );
    }

    #[test]
    fn bounds() {
        let one = json!({"op": "test", "path": "/a", "value": 1});
        let error = patched(json!({"a": 1}), Value::Array(vec![one; 10_001])).unwrap_err();
        assert_eq!(error.code(), 413);
        let text = "x".repeat(1024);
        let mut bomb = vec![json!({"op": "add", "path": "/b", "value": {}})];
        for n in 0..40 {
            bomb.push(json!({"op": "copy", "from": "", "path": format!("/b/{n}")}));
        }
        assert_eq!(patched(json!({"a": text}), Value::Array(bomb)).unwrap_err().code(), 422);
    }
}
