//! ConfigMap: keys and values for pods, at most 1 MiB together.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::{table, validation};

/// As upstream's `MaxSecretSize`.
const SIZE_MAX_BYTES: usize = 1024 * 1024;

impl BuiltIn for ConfigMap {
    const SINGULAR: &'static str = "configmap";
    const SHORT_NAMES: &'static [&'static str] = &["cm"];
    const CREATE_ON_UPDATE: bool = false;

    fn validate(&self, errors: &mut Errors) {
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            size += value.len();
            if let Err(detail) = validation::config_map_key(key) {
                errors.invalid(format!("data[{key}]"), key, detail);
            }
            if self.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(format!("data[{key}]"), key, "duplicate of key present in binaryData");
            }
        }
        for (key, value) in self.binary_data.iter().flatten() {
            size += value.0.len();
            if let Err(detail) = validation::config_map_key(key) {
                errors.invalid(format!("binaryData[{key}]"), key, detail);
            }
        }
        if size > SIZE_MAX_BYTES {
            errors.too_long("", SIZE_MAX_BYTES);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if old.immutable != Some(true) {
            return;
        }
        if self.immutable != Some(true) {
            errors.forbidden("immutable", "field is immutable when `immutable` is set");
        }
        for (field, same) in
            [("data", self.data == old.data), ("binaryData", self.binary_data == old.binary_data)]
        {
            if !same {
                errors.forbidden(field, "field is immutable when `immutable` is set");
            }
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow(
            "Data",
            "string",
            "How many keys the map holds, binary ones included.",
        )])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let count =
            self.data.as_ref().map_or(0, |d| d.len()) + self.binary_data.as_ref().map_or(0, |d| d.len());
        table::cells(&self.metadata, now, vec![json!(count)])
    }
}
