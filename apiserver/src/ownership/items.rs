//! Which path element an item of a list has.

use serde_json::Value;

use super::element::Element;
use super::types::{Items, ListType};

/// The element of an item, or what is wrong with the item in upstream's words.
pub fn element(list: &ListType, item: &Value) -> Result<Element, String> {
    match &list.items {
        Items::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Items::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(Element::Value(scalar.clone())),
        },
        Items::Keyed(keys) => {
            let fields = match item {
                Value::Object(fields) => fields,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".to_owned());
                }
                _ => return Err("associative list with keys may not have non-map elements".to_owned()),
            };
            let mut key = Vec::with_capacity(keys.len());
            for (name, default) in keys {
                if let Some(value) = fields.get(&**name).or(default.as_ref()) {
                    key.push((name.clone(), value.clone()));
                }
            }
            if key.is_empty() && !keys.is_empty() {
                let names: Vec<String> = keys.iter().map(|(name, _)| format!("{name:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    names.join(" ")
                ));
            }
            Ok(Element::key(key))
        }
    }
}
