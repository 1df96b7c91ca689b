//! Field validation errors with upstream's reasons and wording (`k8s.io/apimachinery/pkg/util/validation/field`).

use std::fmt::Display;

use coracle_client::status::Cause;

/// Collects what is wrong with an object; empty means valid.
#[derive(Debug, Default)]
pub struct Errors {
    causes: Vec<Cause>,
}

impl Errors {
    fn push(&mut self, reason: &str, field: impl Into<String>, message: String) {
        self.causes.push(Cause { reason: reason.into(), message, field: field.into() });
    }

    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueRequired", field, with_detail("Required value", detail));
    }

    /// `value` is shown as JSON: strings quoted, numbers bare.
    pub fn invalid(&mut self, field: impl Into<String>, value: impl serde::Serialize, detail: impl Display) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        self.push("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"));
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: impl serde::Serialize) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    pub fn not_supported(&mut self, field: impl Into<String>, value: &str, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
        self.push("FieldValueNotSupported", field, message);
    }

    pub fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueForbidden", field, with_detail("Forbidden", detail));
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.push("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    pub fn too_long(&mut self, field: impl Into<String>, limit_bytes: usize) {
        self.push("FieldValueTooLong", field, format!("Too long: may not be more than {limit_bytes} bytes"));
    }

    pub fn too_many(&mut self, field: impl Into<String>, actual: usize, limit: usize) {
        self.push("FieldValueTooMany", field, format!("Too many: {actual}: must have at most {limit} items"));
    }

    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    pub fn into_causes(self) -> Vec<Cause> {
        self.causes
    }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}
