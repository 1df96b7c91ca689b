//! Whether a value is of its type, with upstream's words for what is not.

use std::collections::BTreeSet;

use serde_json::Value;

use super::element::Element;
use super::items;
use super::types::{Scalar, Type};

/// What is wrong, each with the path to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault(Vec<(String, String)>);

impl std::error::Error for Fault {}

impl Fault {
    pub fn new(message: impl Into<String>) -> Self {
        Self(vec![(String::new(), message.into())])
    }

    pub(super) fn under(mut self, element: &Element) -> Self {
        for (path, _) in &mut self.0 {
            path.insert_str(0, &element.to_string());
        }
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |(path, message): &(String, String)| {
            if path.is_empty() { message.clone() } else { format!("{path}: {message}") }
        };
        match self.0.as_slice() {
            [one] => f.write_str(&line(one)),
            all => {
                f.write_str("errors:")?;
                all.iter().try_for_each(|fault| write!(f, "\n  {}", line(fault)))
            }
        }
    }
}

/// Everything about the value must be known to the type, and no item of a list may stand there twice.
pub fn check(type_: Type<'_>, value: &Value) -> Result<(), Fault> {
    let mut faults = Fault::default();
    place(type_, value, &mut faults);
    if faults.0.is_empty() { Ok(()) } else { Err(faults) }
}

fn place(type_: Type<'_>, value: &Value, faults: &mut Fault) {
    let atom = type_.deduce(Some(value));
    let mut below = |element: &Element, type_: Option<Type<'_>>, value: &Value| {
        let mut inner = Fault::default();
        match type_ {
            Some(type_) => place(type_, value, &mut inner),
            None => inner = Fault::new("field not declared in schema"),
        }
        faults.0.append(&mut inner.under(element).0);
        type_.is_some()
    };
    if let Some(map) = atom.map {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (name, value) in fields {
                    // As upstream: nothing more is said of a map that holds what it must not.
                    if !below(&Element::field(name), map.member(atom.types, name), value) {
                        break;
                    }
                }
            }
            other => faults.0.push((String::new(), format!("expected map, got {}", boxed(other)))),
        }
    } else if let Some(scalar) = atom.scalar {
        if let Err(mut fault) = scalar_fault(scalar, value) {
            faults.0.append(&mut fault.0);
        }
    } else if let Some(list) = atom.list {
        let items = match value {
            Value::Null => return,
            Value::Array(items) => items,
            other => {
                faults.0.push((String::new(), format!("expected list, got {}", boxed(other))));
                return;
            }
        };
        let mut seen = BTreeSet::new();
        let mut twice = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let element = if list.is_atomic() {
                Element::Index(i64::try_from(i).unwrap_or(i64::MAX))
            } else {
                match items::element(list, item) {
                    Ok(element) => element,
                    Err(why) => {
                        faults.0.push((String::new(), format!("element {i}: {why}")));
                        return;
                    }
                }
            };
            below(&element, Some(list.item(atom.types)), item);
            if !seen.insert(element.clone()) {
                twice.push((String::new(), format!("duplicate entries for key {element}")));
            }
        }
        faults.0.append(&mut twice);
    } else {
        faults.0.push((String::new(), "schema error: invalid atom: inlined".to_owned()));
    }
}

fn scalar_fault(scalar: Scalar, value: &Value) -> Result<(), Fault> {
    let inner = shown(value);
    let fault = match (scalar, value) {
        (_, Value::Null)
        | (Scalar::Number, Value::Number(_))
        | (Scalar::Text, Value::String(_))
        | (Scalar::Bool, Value::Bool(_))
        | (Scalar::Any, Value::Number(_) | Value::String(_) | Value::Bool(_)) => return Ok(()),
        (Scalar::Number, other) => format!("expected numeric (int or float), got {}", go_type(other)),
        (Scalar::Text, other) => {
            format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(other))
        }
        (Scalar::Bool, _) => format!("expected boolean, got &{{{inner}}}"),
        (Scalar::Any, _) => format!("expected any scalar, got &{{{inner}}}"),
    };
    Err(Fault::new(fault))
}

/// Of two values at one place, at least one must be of the type.
pub(super) fn one_scalar(scalar: Scalar, old: Option<&Value>, new: Option<&Value>) -> Result<(), Fault> {
    let wrong = |value: Option<&Value>, side: &str| {
        let fault = scalar_fault(scalar, value?).err()?;
        Some(
            fault
                .0
                .into_iter()
                .map(|(path, message)| (path, format!("{side}: {message}")))
                .collect::<Vec<_>>(),
        )
    };
    match (wrong(old, "lhs"), wrong(new, "rhs")) {
        (Some(mut faults), Some(more)) => {
            faults.extend(more);
            Err(Fault(faults))
        }
        _ => Ok(()),
    }
}

fn boxed(value: &Value) -> String {
    format!("&{{{}}}", shown(value))
}

/// As Go prints a value of any type.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut members: Vec<_> = fields.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<String> =
                members.into_iter().map(|(name, value)| format!("{name}:{}", shown(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

/// As Go writes a value of any type down.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let mut members: Vec<_> = fields.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<String> =
                members.into_iter().map(|(name, value)| format!("{name:?}:{}", go_syntax(value))).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
