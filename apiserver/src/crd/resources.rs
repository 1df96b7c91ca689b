//! Resources embedded in others say what they are, and have the metadata of one.

use coracle_client::status::Cause;
use serde_json::{Map, Value};

use super::schema::Schema;
use super::structure::embedded_meta;
use crate::field_error::Errors;
use crate::validation;

pub fn check(schema: &Schema, whole: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    look(schema, "", whole, &mut errors);
    errors.into_causes()
}

fn look(schema: &Schema, path: &str, value: &Value, errors: &mut Errors) {
    match value {
        Value::Object(members) => {
            if schema.embedded {
                check_resource(path, members, errors);
            }
            for (name, member) in members {
                let Some(of_member) = schema.member(name) else { continue };
                let path = match path {
                    "" => name.clone(),
                    path if schema.properties.contains_key(name) => format!("{path}.{name}"),
                    path => format!("{path}[{name}]"),
                };
                look(of_member, &path, member, errors);
            }
        }
        Value::Array(items) => {
            let Some(of_item) = schema.items.as_deref() else { return };
            for (i, item) in items.iter().enumerate() {
                look(of_item, &format!("{path}[{i}]"), item, errors);
            }
        }
        _ => {}
    }
}

fn check_resource(path: &str, members: &Map<String, Value>, errors: &mut Errors) {
    for name in ["apiVersion", "kind"] {
        let field = format!("{path}.{name}");
        match members.get(name) {
            None => errors.required(field, ""),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(field, text, "must not be empty"),
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    errors.invalid(field, text, format!("unexpected GroupVersion string: {text}"));
                }
            }
            Some(Value::String(text)) => {
                if let Err(why) = validation::dns_1035_label(&text.to_lowercase()) {
                    errors.invalid(
                        field,
                        text,
                        format!("may have mixed case, but should otherwise match: {why}"),
                    );
                }
            }
            Some(other) => errors.invalid(field, other, "must be a string"),
        }
    }
    let meta = embedded_meta(members);
    let meta_path = format!("{path}.metadata");
    let whole = crate::field_error::Path::new(&meta_path);
    validation::labels(meta.labels.as_ref(), &whole.child("labels"), errors);
    validation::annotations(meta.annotations.as_ref(), &whole.child("annotations"), errors);
    if let Some(name) = meta.name.as_deref().filter(|name| !name.is_empty())
        && let Err(why) = validation::path_segment(name)
    {
        errors.invalid(format!("{meta_path}.name"), name, why);
    }
}
