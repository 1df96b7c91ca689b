//! Field validation errors with upstream's reasons and wording (`k8s.io/apimachinery/pkg/util/validation/field`).

use std::fmt::{self, Display};

use coracle_client::status::Cause;

/// The path of a field, built on the stack; it becomes text only when there is something to complain about.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub const fn new(name: &'a str) -> Self {
        Self { parent: None, part: Part::Name(name) }
    }

    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Name(name) }
    }

    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), part: Part::Index(index) }
    }

    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Key(key) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Name(name) if self.parent.is_some() => write!(f, ".{name}"),
            Part::Name(name) => f.write_str(name),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> Self {
        path.to_string()
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> Self {
        path.to_string()
    }
}

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

    /// As [`Self::invalid`], of something too long to be shown.
    pub fn invalid_hidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueInvalid", field, with_detail("Invalid value", detail));
    }

    /// Records what a format check of [`crate::validation`] says of a value.
    pub fn check<'v>(
        &mut self,
        field: impl Into<String>,
        value: &'v str,
        format: impl FnOnce(&'v str) -> Result<(), String>,
    ) {
        if let Err(detail) = format(value) {
            self.invalid(field, value, detail);
        }
    }

    /// As [`Self::check`], for formats that find several faults.
    pub fn check_all(
        &mut self,
        field: impl Into<String>,
        value: &str,
        format: impl FnOnce(&str) -> Vec<String>,
    ) {
        let field = field.into();
        for detail in format(value) {
            self.invalid(field.clone(), value, detail);
        }
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

    /// As [`Self::not_supported`], of a value that is no text.
    pub fn not_supported_value(
        &mut self,
        field: impl Into<String>,
        value: impl serde::Serialize,
        supported: &[&str],
    ) {
        let value = serde_json::to_string(&value).unwrap_or_default();
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        self.push("FieldValueNotSupported", field, message);
    }

    /// A value that must be one of a set, and must be there.
    pub fn one_of(&mut self, field: impl Into<String>, value: Option<&str>, supported: &[&str]) {
        match value.unwrap_or_default() {
            "" => self.required(field, ""),
            value if supported.contains(&value) => {}
            value => self.not_supported(field, value, supported),
        }
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

    /// `value` changed although it may not.
    pub fn immutable<T: serde::Serialize + PartialEq>(&mut self, field: impl Into<String>, new: &T, old: &T) {
        if new != old {
            self.invalid(field, new, "field is immutable");
        }
    }

    /// Takes in what others found.
    pub fn extend(&mut self, causes: Vec<Cause>) {
        self.causes.extend(causes);
    }

    /// In the order of their texts.
    pub fn sort(&mut self) {
        self.causes.sort_by(|a, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
    }

    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        self.causes.iter().map(|cause| cause.reason.as_str())
    }

    pub fn len(&self) -> usize {
        self.causes.len()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_upstream() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        for (path, want) in [
            (spec.child("nodeName").to_string(), "spec.nodeName"),
            (first.child("name").to_string(), "spec.containers[0].name"),
            (
                first.child("resources").child("limits").key("cpu").to_string(),
                "spec.containers[0].resources.limits[cpu]",
            ),
        ] {
            assert_eq!(path, want);
        }
    }
}
