//! What a checked decode finds: unknown and duplicate fields by path, and the first value of a wrong type.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use super::embedded;

/// Unknown and duplicate fields that one answer tells of, as upstream.
const ISSUES_MAX: usize = 100;

/// Where in a document the decoder stands; a list on the stack.
pub struct Path<'a> {
    pub parent: Option<&'a Path<'a>>,
    pub step: Step<'a>,
}

pub enum Step<'a> {
    Root,
    /// A field of the struct `owner`.
    Field {
        owner: &'static str,
        name: &'a str,
    },
    Key(&'a str),
    Index(usize),
}

impl Path<'_> {
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// `spec.containers[0].ports`, with `last` appended.
    pub fn with(&self, last: &str) -> String {
        let mut out = String::new();
        self.write(&mut out, true);
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(last);
        out
    }

    /// Go's decoder names fields only, neither indices nor map keys, and the struct of the last one.
    fn go(&self) -> (Option<&'static str>, String) {
        let mut fields = String::new();
        self.write(&mut fields, false);
        let mut node = Some(self);
        let owner = loop {
            match node {
                Some(Path { step: Step::Field { owner, .. }, .. }) => break Some(*owner),
                Some(path) => node = path.parent,
                None => break None,
            }
        };
        (owner, fields)
    }

    fn write(&self, out: &mut String, everything: bool) {
        if let Some(parent) = self.parent {
            parent.write(out, everything);
        }
        let name = match self.step {
            Step::Field { owner, name } => {
                for part in embedded::path(owner, name).iter().filter(|_| !everything) {
                    out.push_str(if out.is_empty() { "" } else { "." });
                    out.push_str(part);
                }
                name
            }
            Step::Key(name) if everything => name,
            Step::Index(index) if everything => {
                let _ = write!(out, "[{index}]");
                return;
            }
            _ => return,
        };
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(name);
    }
}

/// Collects while one document is decoded.
#[derive(Default)]
pub struct Report {
    /// Look for unknown and duplicate fields at all.
    pub strict: bool,
    /// The document was YAML: plain scalars of YAML 1.1 (`yes`, `0644`) are booleans and numbers where those belong.
    pub yaml: bool,
    /// A tree becomes the object, not a text: upstream says otherwise what does not fit.
    pub tree: bool,
    issues: RefCell<Vec<String>>,
    failure: RefCell<Option<String>>,
    failed: Cell<bool>,
    /// The field without which its type cannot be: upstream decodes that, and refuses it afterwards.
    missing: RefCell<Option<String>>,
}

impl Report {
    pub fn new(strict: bool, yaml: bool) -> Self {
        Self { strict, yaml, ..Self::default() }
    }

    /// An issue in its own words.
    pub fn note(&self, issue: String) {
        let mut issues = self.issues.borrow_mut();
        if issues.len() < ISSUES_MAX {
            issues.push(issue);
        }
    }

    pub fn unknown(&self, at: &Path<'_>, name: &str) {
        self.issue("unknown", at, name);
    }

    pub fn duplicate(&self, at: &Path<'_>, name: &str) {
        self.issue("duplicate", at, name);
    }

    fn issue(&self, what: &str, at: &Path<'_>, name: &str) {
        let mut issues = self.issues.borrow_mut();
        if issues.len() >= ISSUES_MAX {
            return;
        }
        let issue = format!("{what} field {:?}", at.with(name));
        if !issues.contains(&issue) {
            issues.push(issue);
        }
    }

    pub fn into_parts(self) -> (Vec<String>, Option<String>) {
        (self.issues.into_inner(), self.failure.into_inner())
    }

    pub fn missing(&self) -> Option<String> {
        self.missing.borrow().clone()
    }

    /// Keeps the innermost error of a decode: the first that is noted. `type_name` is the Rust type wanted there.
    pub fn wrong(&self, at: &Path<'_>, error: &dyn std::fmt::Display, type_name: &str) {
        if self.failed.replace(true) {
            return;
        }
        let error = error.to_string();
        if let Some(name) = error.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            *self.missing.borrow_mut() = Some(at.with(name));
        }
        let restored = if self.tree { restore(&error, type_name) } else { None };
        let message = match go_value(&error) {
            _ if restored.is_some() => restored.unwrap_or_default(),
            Some(value) => match at.go() {
                (Some(owner), fields) => format!(
                    "json: cannot unmarshal {value} into Go struct field {owner}.{fields} of type {}",
                    go_type(type_name)
                ),
                (None, _) => {
                    format!("json: cannot unmarshal {value} into Go value of type {}", go_type(type_name))
                }
            },
            None if type_name.contains("ByteString") => {
                let offset: String = error
                    .split("offset ")
                    .nth(1)
                    .unwrap_or("0")
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                let framed = if self.tree { "error decoding from json: " } else { "" };
                let offset = if offset.is_empty() { "0" } else { &offset };
                format!("{framed}illegal base64 data at input byte {offset}")
            }
            None => without_position(&error).to_owned(),
        };
        *self.failure.borrow_mut() = Some(message);
    }

    /// An error whose text is already upstream's.
    pub fn verbatim(&self, message: String) {
        if !self.failed.replace(true) {
            *self.failure.borrow_mut() = Some(message);
        }
    }
}

/// serde_json appends where it stood; upstream does not.
fn without_position(error: &str) -> &str {
    error.rfind(" at line ").map_or(error, |end| &error[..end])
}

/// The kind of the value that was found, in Go's words, from serde's `invalid type: …` and `invalid value: …`.
fn go_value(error: &str) -> Option<String> {
    let found = error.strip_prefix("invalid type: ").or_else(|| error.strip_prefix("invalid value: "))?;
    let range = error.starts_with("invalid value: ");
    let number = || found.split('`').nth(1).unwrap_or_default();
    Some(match found.split([' ', ',']).next()? {
        "string" => "string".to_owned(),
        "boolean" => "bool".to_owned(),
        "map" => "object".to_owned(),
        "sequence" => "array".to_owned(),
        "null" => "null".to_owned(),
        "integer" if range => format!("number {}", number()),
        "floating" if error.contains("expected i") || error.contains("expected u") => {
            format!("number {}", number())
        }
        "integer" | "floating" => "number".to_owned(),
        _ => return None,
    })
}

/// What upstream says of a value in a tree that is none of a type. None: it says the same as of a text.
fn restore(error: &str, type_name: &str) -> Option<String> {
    let found = match error.strip_prefix("invalid type: ")?.split([' ', ',']).next()? {
        "integer" => "int64",
        "floating" => "float64",
        "boolean" => "bool",
        "sequence" => "slice",
        other => other,
    };
    let wanted = go_type(type_name);
    Some(match (wanted.as_str(), found) {
        // These read a text of their own.
        ("string", _) if type_name.contains("Time") => {
            format!("json: cannot unmarshal {} into Go value of type string", go_value(error)?)
        }
        ("int32", _) if type_name.contains("IntOrString") => {
            format!("json: cannot unmarshal {} into Go value of type int32", go_value(error)?)
        }
        ("resource.Quantity" | "runtime.RawExtension", _) => return None,
        ("string", "int64") | ("int32" | "int64", "float64") => format!("cannot convert {found} to {wanted}"),
        ("string" | "int32" | "int64" | "float64" | "bool", _) => format!("unrecognized type: {wanted}"),
        (wanted, _) if wanted.starts_with("map[") => format!("cannot restore map from {found}"),
        (wanted, _) if wanted.starts_with("[]") => format!("cannot restore slice from {found}"),
        _ => format!("cannot restore struct from: {found}"),
    })
}

/// The Go name of a Rust type, from `std::any::type_name`: only error messages depend on it.
fn go_type(name: &str) -> String {
    let name = name.trim();
    if let Some(inner) = generic(name, "Option").or_else(|| generic(name, "Box")) {
        return go_type(inner);
    }
    if let Some(inner) = generic(name, "Vec") {
        return format!("[]{}", go_type(inner));
    }
    if let Some(inner) = generic(name, "BTreeMap") {
        let value = inner.split_once(',').map_or(inner, |(_, value)| value);
        return format!("map[string]{}", go_type(value));
    }
    let last = name.rsplit("::").next().unwrap_or(name);
    match last {
        // Times are read through a text.
        "String" | "str" | "Time" | "MicroTime" => "string".to_owned(),
        "i32" | "i64" => format!("int{}", &last[1..]),
        "f64" => "float64".to_owned(),
        "ByteString" => "[]uint8".to_owned(),
        "Quantity" => "resource.Quantity".to_owned(),
        // What is no text must be its number.
        "IntOrString" => "int32".to_owned(),
        "RawExtension" => "runtime.RawExtension".to_owned(),
        "bool" => "bool".to_owned(),
        other => {
            // …::api::core::v1::container_port::ContainerPort -> v1.ContainerPort
            let version = name.rsplit("::").find(|part| {
                part.strip_prefix('v')
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.contains('_'))
            });
            match version {
                Some(version) => format!("{version}.{other}"),
                None => other.to_owned(),
            }
        }
    }
}

/// The argument of `path::Wrapper<argument>`.
fn generic<'a>(name: &'a str, wrapper: &str) -> Option<&'a str> {
    let (path, rest) = name.split_once('<')?;
    let argument = rest.strip_suffix('>')?;
    (path.rsplit("::").next() == Some(wrapper)).then_some(argument)
}
