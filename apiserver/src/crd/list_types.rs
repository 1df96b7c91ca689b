//! Lists that are sets or maps hold nothing twice.

use coracle_client::status::Cause;
use serde_json::{Map, Value};

use super::schema::Schema;

/// Duplicates in the sets and maps of a value.
pub fn check(schema: &Schema, path: &str, value: &Value, errors: &mut Vec<Cause>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let Some(of_member) = schema.member(name) else { continue };
                let known = schema.properties.contains_key(name);
                let path = match path {
                    "" if known => name.clone(),
                    path if known => format!("{path}.{name}"),
                    path => format!("{path}[{name}]"),
                };
                check(of_member, &path, member, errors);
            }
        }
        Value::Array(items) => {
            let duplicate = |i: usize, value: &Value| Cause {
                reason: "FieldValueDuplicate".into(),
                message: format!("Duplicate value: {value}"),
                field: format!("{path}[{i}]"),
            };
            match schema.list_type.as_deref() {
                Some("set") => {
                    for (i, item) in repeated(items) {
                        errors.push(duplicate(i, item));
                    }
                }
                Some("map") => {
                    let keys: Vec<Value> = items.iter().map(|item| keys_of(schema, item)).collect();
                    for (i, key) in repeated(&keys) {
                        errors.push(duplicate(i, key));
                    }
                }
                _ => {}
            }
            if let Some(of_item) = schema.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    check(of_item, &format!("{path}[{i}]"), item, errors);
                }
            }
        }
        _ => {}
    }
}

/// Each value that is there more than once, at its second place.
fn repeated(items: &[Value]) -> Vec<(usize, &Value)> {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let mut found = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            found.push((i, item));
        }
    }
    found
}

fn keys_of(schema: &Schema, item: &Value) -> Value {
    let keys: Map<String, Value> = schema
        .list_map_keys
        .iter()
        .filter_map(|name| Some((name.clone(), item.get(name)?.clone())))
        .collect();
    Value::Object(keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_there_twice() {
        let schema = Schema::of(
            &serde_json::from_value(json!({"type": "object", "properties": {
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"], "items": {"type": "object"}},
                "free": {"type": "array", "items": {"type": "string"}},
            }}))
            .unwrap(),
        );
        let value = json!({
            "set": ["a", "b", "a", "a"],
            "map": [{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1, "c": 2}],
            "free": ["a", "a"],
        });
        let mut errors = Vec::new();
        check(&schema, "", &value, &mut errors);
        let mut lines: Vec<String> =
            errors.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        lines.sort();
        assert_eq!(lines, [r#"map[2]: Duplicate value: {"a":1,"b":1}"#, r#"set[2]: Duplicate value: "a""#]);
    }
}
