//! JSON patches (RFC 6902), as the library that upstream uses takes them.

use coracle_client::ApiError;
use serde_json::{Map, Value};

/// Operations one patch may have, as upstream.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes the values of a document may grow to through `copy`: a small patch must not fill the memory.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The operation cannot be carried out; upstream does not say why.
struct Impossible;

pub fn apply(current: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let operations = match super::parse(patch)? {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        other => return Err(not_of_type(&other, "Go value of type []handlers.jsonPatchOp")),
    };
    for operation in &operations {
        match operation {
            Value::Object(members) => {
                for name in ["op", "path", "from"] {
                    let value = members.get(name).unwrap_or(&Value::Null);
                    if !value.is_string() && !value.is_null() {
                        let field = format!("Go struct field jsonPatchOp.{name} of type string");
                        return Err(not_of_type(value, &field));
                    }
                }
            }
            Value::Null => {}
            other => return Err(not_of_type(other, "Go value of type handlers.jsonPatchOp")),
        }
    }
    if operations.len() > OPERATIONS_MAX {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                operations.len()
            ),
        ));
    }
    let mut patched = current.clone();
    let mut copied = 0;
    for operation in &operations {
        let Value::Object(operation) = operation else { return Err(super::rejected()) };
        carry_out(&mut patched, operation, &mut copied).map_err(|Impossible| super::rejected())?;
    }
    Ok(patched)
}

fn not_of_type(value: &Value, type_: &str) -> ApiError {
    let what = super::kind_of(value);
    ApiError::bad_request(format!("error decoding patch: json: cannot unmarshal {what} into {type_}"))
}

fn carry_out(
    document: &mut Value,
    operation: &Map<String, Value>,
    copied: &mut usize,
) -> Result<(), Impossible> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = pointer(text("path").ok_or(Impossible)?);
    let value = || operation.get("value").cloned().unwrap_or_default();
    match text("op").unwrap_or_default() {
        "add" => add(document, &path, value()),
        "remove" => remove(document, &path).map(drop),
        "replace" => replace(document, &path, value()),
        "move" => {
            let moved = remove(document, &pointer(text("from").ok_or(Impossible)?))?;
            add(document, &path, moved)
        }
        "copy" => {
            let from = pointer(text("from").ok_or(Impossible)?);
            // What is not there is copied as nothing.
            let value = get(document, &from)?.cloned().unwrap_or_default();
            *copied += weight(&value);
            if *copied > COPIED_BYTES_MAX {
                return Err(Impossible);
            }
            add(document, &path, value)
        }
        "test" => {
            let have = get(document, &path)?.unwrap_or(&Value::Null);
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            if have == wanted { Ok(()) } else { Err(Impossible) }
        }
        _ => Err(Impossible),
    }
}

/// The steps of a pointer. What stands before the first slash is passed over.
fn pointer(text: &str) -> Vec<String> {
    text.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

/// The last step and what it is a step from. The whole document is no step from anything.
fn parent<'v, 'p>(
    document: &'v mut Value,
    path: &'p [String],
) -> Result<(&'v mut Value, &'p str), Impossible> {
    let (last, steps) = path.split_last().ok_or(Impossible)?;
    let mut at = document;
    for step in steps {
        at = match at {
            Value::Object(members) => members.get_mut(step).ok_or(Impossible)?,
            Value::Array(items) => {
                let index = index(step, items.len(), 0)?;
                items.get_mut(index).ok_or(Impossible)?
            }
            _ => return Err(Impossible),
        };
    }
    Ok((at, last))
}

/// Negative indexes count from the end; `beyond`: how many places after the last item there are.
fn index(step: &str, length: usize, beyond: usize) -> Result<usize, Impossible> {
    let index: i64 = step.parse().map_err(|_| Impossible)?;
    let places = i64::try_from(length + beyond).map_err(|_| Impossible)?;
    let index = if index < 0 { index + places } else { index };
    if (0..places).contains(&index) {
        usize::try_from(index).map_err(|_| Impossible)
    } else {
        Err(Impossible)
    }
}

/// None: a map is there that has no such member.
fn get<'v>(document: &'v mut Value, path: &[String]) -> Result<Option<&'v Value>, Impossible> {
    if path.is_empty() {
        return Ok(Some(document));
    }
    let (at, last) = parent(document, path)?;
    match at {
        Value::Object(members) => Ok(members.get(last)),
        Value::Array(items) => {
            let index = index(last, items.len(), 0)?;
            Ok(items.get(index))
        }
        _ => Err(Impossible),
    }
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), Impossible> {
    let (at, last) = parent(document, path)?;
    match at {
        Value::Object(members) => drop(members.insert(last.to_owned(), value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let index = index(last, items.len(), 1)?;
            items.insert(index, value);
        }
        _ => return Err(Impossible),
    }
    Ok(())
}

/// What a map does not have is added to it.
fn replace(document: &mut Value, path: &[String], value: Value) -> Result<(), Impossible> {
    let (at, last) = parent(document, path)?;
    match at {
        Value::Object(members) => drop(members.insert(last.to_owned(), value)),
        Value::Array(items) => {
            let index = index(last, items.len(), 0)?;
            *items.get_mut(index).ok_or(Impossible)? = value;
        }
        _ => return Err(Impossible),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, Impossible> {
    let (at, last) = parent(document, path)?;
    match at {
        Value::Object(members) => members.remove(last).ok_or(Impossible),
        Value::Array(items) => {
            let index = index(last, items.len(), 0)?;
            Ok(items.remove(index))
        }
        _ => Err(Impossible),
    }
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
            (json!([{"op": "frobnicate", "path": "/a"}]), 422),
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
