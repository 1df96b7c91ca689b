//! Patches of the fake API, and conditions of pods.

use serde_json::{Value, json};

pub(super) fn upsert_condition(value: &mut Value, condition: Value) {
    let mut conditions = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|c| c["type"] != condition["type"]);
    conditions.push(condition);
    value["status"]["conditions"] = json!(conditions);
}

/// RFC 7386; with `strategic`, lists of objects are merged by the key that the built-ins' lists use.
pub(super) fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (field, change) in patch {
                if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
                    let gone = change.as_array().cloned().unwrap_or_default();
                    if let Some(Value::Array(items)) = target.get_mut(list) {
                        items.retain(|item| !gone.contains(item));
                    }
                } else if change.is_null() {
                    target.remove(field);
                } else if field.ends_with("Statuses") {
                    // Atomic lists, whatever their items are called by.
                    target.insert(field.clone(), change.clone());
                } else {
                    merge(target.entry(field.clone()).or_insert(Value::Null), change, strategic);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if strategic => {
            for change in patch {
                let key = ["type", "uid", "name", "ip"].into_iter().find(|k| change.get(k).is_some());
                let Some(key) = key else {
                    if !target.contains(change) {
                        target.push(change.clone());
                    }
                    continue;
                };
                if change["$patch"] == "delete" {
                    target.retain(|item| item[key] != change[key]);
                } else if let Some(item) = target.iter_mut().find(|item| item[key] == change[key]) {
                    merge(item, change, true);
                } else {
                    target.push(change.clone());
                }
            }
        }
        (target, patch) => {
            let mut fresh = patch.clone();
            strip_nulls(&mut fresh);
            *target = fresh;
        }
    }
}

pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
