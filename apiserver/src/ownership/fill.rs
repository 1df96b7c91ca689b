//! Objects as upstream's typed ones are: structs that are always there, lists and maps that are not there when empty.

use serde_json::Value;

use super::types::Type;

/// Puts in and takes out what upstream's encoding of the built-in type would; custom types are as they are.
pub fn fill(type_: Type<'_>, value: &mut Value) {
    let atom = type_.deduce(Some(value));
    match value {
        Value::Object(fields) => {
            let Some(map) = atom.map else { return };
            for (name, zero) in map.always() {
                if !fields.contains_key(name) {
                    fields.insert(name.to_owned(), zero.clone());
                }
            }
            fields.retain(|name, value| !(is_empty(value) && map.omits_empty(name)));
            for (name, value) in fields.iter_mut() {
                if let Some(type_) = map.member(atom.types, name) {
                    fill(type_, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(list) = atom.list else { return };
            items.iter_mut().for_each(|item| fill(list.item(atom.types), item));
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Only takes out; whether there was anything.
pub fn drop_empty(type_: Type<'_>, value: &mut Value) -> bool {
    let atom = type_.deduce(Some(value));
    let mut dropped = false;
    match value {
        Value::Object(fields) => {
            let Some(map) = atom.map else { return false };
            let before = fields.len();
            fields.retain(|name, value| !(is_empty(value) && map.omits_empty(name)));
            dropped |= fields.len() != before;
            for (name, value) in fields.iter_mut() {
                if let Some(type_) = map.member(atom.types, name) {
                    dropped |= drop_empty(type_, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(list) = atom.list else { return false };
            for item in items {
                dropped |= drop_empty(list.item(atom.types), item);
            }
        }
        _ => {}
    }
    dropped
}
