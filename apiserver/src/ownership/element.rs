//! One step of a field path: a field's name, a list item by key or value, or an index.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Number, Value};

/// Ordered as upstream orders them: names, keys, values, indexes.
#[derive(Clone, Debug)]
pub enum Element {
    Field(Box<str>),
    /// The item of a keyed list with these key fields, in the order of their names.
    Key(Box<[(Box<str>, Value)]>),
    /// The item of a set.
    Value(Value),
    Index(i64),
}

/// Why a text is no path element.
#[derive(Debug, thiserror::Error)]
pub enum ElementError {
    /// Written by a newer version: such elements are passed over.
    #[error("unknown path element type")]
    Unknown,
    #[error("key must be 2 characters long")]
    Short,
    #[error("missing colon: {0}")]
    NoColon(String),
    #[error("path element {0}: {1}")]
    Json(String, #[source] serde_json::Error),
    #[error("path element {0} is no key or index")]
    Other(String),
}

impl Element {
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// From `f:name`, `k:{…}`, `v:…` or `i:0`.
    pub fn parse(text: &str) -> Result<Self, ElementError> {
        let mut letters = text.chars();
        let (Some(letter), Some(colon)) = (letters.next(), letters.next()) else {
            return Err(ElementError::Short);
        };
        if colon != ':' {
            return Err(ElementError::NoColon(text.to_owned()));
        }
        let rest = letters.as_str();
        let json = |e| ElementError::Json(text.to_owned(), e);
        match letter {
            'f' => Ok(Self::field(rest)),
            'v' => serde_json::from_str(rest).map(Self::Value).map_err(json),
            'k' => {
                let fields: Map<String, Value> = serde_json::from_str(rest).map_err(json)?;
                let fields = fields.into_iter().map(|(name, value)| (name.into_boxed_str(), value));
                Ok(Self::key(fields.collect()))
            }
            'i' => match rest.parse() {
                Ok(index) => Ok(Self::Index(index)),
                Err(_) => Err(ElementError::Other(text.to_owned())),
            },
            _ => Err(ElementError::Unknown),
        }
    }

    pub fn key(mut fields: Vec<(Box<str>, Value)>) -> Self {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(fields.into_boxed_slice())
    }

    /// As FieldsV1 writes it; the inverse of [`Self::parse`].
    pub fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
            Self::Key(fields) => {
                let mut text = String::from("k:{");
                for (i, (name, value)) in fields.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    text.push_str(&format!("{comma}{}:{value}", Value::from(&**name)));
                }
                text.push('}');
                text
            }
        }
    }
}

/// As in messages: `.spec`, `[name="a"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => compare_keys(a, b),
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

fn compare_keys(a: &[(Box<str>, Value)], b: &[(Box<str>, Value)]) -> Ordering {
    for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b) {
        let order = a_name.cmp(b_name).then_with(|| compare(a_value, b_value));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// Numbers, text, booleans, lists, maps, null; whole numbers and others compare as numbers.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let first = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let members = |map: &Map<String, Value>| {
                let mut members: Vec<(String, Value)> =
                    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members
            };
            let (a, b) = (members(a), members(b));
            let pairs = a.iter().zip(&b).map(|(a, b)| a.0.cmp(&b.0).then_with(|| compare(&a.1, &b.1)));
            pairs.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => {
            let float = |n: &Number| n.as_f64().unwrap_or_default();
            float(a).partial_cmp(&float(b)).unwrap_or(Ordering::Equal)
        }
    }
}

/// Whether two values are the same, numbers by what they say and not by how they are written.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_written_and_shown() {
        for (text, shown) in [
            ("f:spec", ".spec"),
            ("f:a.b/c", ".a.b/c"),
            (r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (r#"v:"x""#, r#"[="x"]"#),
            ("v:2.5", "[=2.5]"),
            ("v:true", "[=true]"),
            ("i:3", "[3]"),
        ] {
            let element = Element::parse(text).unwrap();
            assert_eq!(element.text(), text);
            assert_eq!(element.to_string(), shown);
        }
        let sorted = Element::parse(r#"k:{"b":1,"a":2}"#).unwrap();
        assert_eq!(sorted.text(), r#"k:{"a":2,"b":1}"#);
        for text in ["", "f", "fx", "k:1", "v:", "i:x", "v:{"] {
            assert!(!matches!(Element::parse(text), Ok(_) | Err(ElementError::Unknown)), "{text}");
        }
        assert!(matches!(Element::parse("z:1"), Err(ElementError::Unknown)));
    }

    #[test]
    fn elements_have_upstreams_order() {
        let texts = [
            "f:a",
            "f:b",
            r#"k:{"a":1}"#,
            r#"k:{"a":1,"b":1}"#,
            r#"k:{"a":9}"#,
            r#"k:{"a":80}"#,
            r#"k:{"a":"x"}"#,
            r#"k:{"b":1}"#,
            "v:1",
            "v:2.5",
            "v:3",
            r#"v:"a""#,
            "v:false",
            "v:true",
            "v:[1]",
            "v:{}",
            "v:null",
            "i:0",
            "i:2",
        ];
        let elements: Vec<Element> = texts.iter().map(|t| Element::parse(t).unwrap()).collect();
        for (i, a) in elements.iter().enumerate() {
            for (j, b) in elements.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(Element::parse("v:1").unwrap(), Element::parse("v:1.0").unwrap());
    }
}
