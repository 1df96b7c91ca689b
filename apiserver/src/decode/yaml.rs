//! YAML bodies to JSON values: one document, bounded expansion of anchors, duplicate keys told apart.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scan::DEPTH_MAX;

/// Values a document may grow to, per byte of its text, beyond a floor: anchors cannot make it explode.
const VALUES_PER_BYTE: usize = 4;
const VALUES_MIN: usize = 10_000;
/// Bytes of text that the values of a document may hold, as a multiple of its own length.
const TEXT_FACTOR: usize = 10;

/// Brackets open at once, counted without regard to quotes: the parser's work grows with the square of them.
const BRACKETS_MAX: i64 = 1_000;

/// The first document of the text, and what upstream's strict conversion says of its duplicate keys.
pub fn to_json(text: &[u8]) -> Result<(Value, Vec<String>), String> {
    if brackets_open_at_once(text) > BRACKETS_MAX {
        return Err("error converting YAML to JSON: yaml: exceeded max depth".to_owned());
    }
    let mut documents = serde_norway::Deserializer::from_slice(text);
    let Some(document) = documents.next() else {
        return Ok((Value::Null, Vec::new()));
    };
    let budget = Budget {
        values: Cell::new(VALUES_MIN + text.len().saturating_mul(VALUES_PER_BYTE)),
        bytes: Cell::new(VALUES_MIN + text.len().saturating_mul(TEXT_FACTOR)),
        duplicate: Cell::new(None),
    };
    let value = Node { budget: &budget, depth: 0 }
        .deserialize(document)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    let issues = budget
        .duplicate
        .into_inner()
        .map(|key| format!("yaml: unmarshal errors:\n  key {key:?} already set in map"));
    Ok((value, issues.into_iter().collect()))
}

fn brackets_open_at_once(text: &[u8]) -> i64 {
    let mut open = 0i64;
    let mut most = 0;
    for byte in text {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = (open - 1).max(0),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

struct Budget {
    values: Cell<usize>,
    bytes: Cell<usize>,
    /// The first key that stands twice in one map.
    duplicate: Cell<Option<String>>,
}

impl Budget {
    fn spend<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let values = self.values.get().checked_sub(1);
        let bytes = self.bytes.get().checked_sub(bytes);
        match (values, bytes) {
            (Some(values), Some(bytes)) => {
                self.values.set(values);
                self.bytes.set(bytes);
                Ok(())
            }
            _ => Err(E::custom("document contains excessive aliasing")),
        }
    }
}

#[derive(Clone, Copy)]
struct Node<'b> {
    budget: &'b Budget,
    depth: usize,
}

impl Node<'_> {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("json: unsupported value: {value}")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.budget.spend(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.budget.spend(0)?;
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.budget.spend(0)?;
        let below = self.below()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(below)? {
            let key = match key {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                Value::Null => "null".to_owned(),
                Value::Array(_) | Value::Object(_) => {
                    return Err(de::Error::custom("invalid map key: keys must be scalars"));
                }
            };
            let value = entries.next_value_seed(below)?;
            if map.contains_key(&key) {
                let first = self.budget.duplicate.take().unwrap_or_else(|| key.clone());
                self.budget.duplicate.set(Some(first));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    /// Tags of an application (`!foo`) mean nothing here.
    fn visit_enum<A: de::EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (_, value) = tagged.variant::<Ignored>()?;
        de::VariantAccess::newtype_variant_seed(value, self)
    }
}

struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(from).map(|_| Self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents() {
        for (text, want) in [
            ("a: 1\nb: [x, 'y', true, null, 1.5]", json!({"a": 1, "b": ["x", "y", true, null, 1.5]})),
            ("base: &b {k: v}\nuse: *b", json!({"base": {"k": "v"}, "use": {"k": "v"}})),
            ("1: a\ntrue: b", json!({"1": "a", "true": "b"})),
            ("", json!(null)),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
        ] {
            assert_eq!(to_json(text.as_bytes()).unwrap().0, want, "{text}");
        }
    }

    #[test]
    fn duplicates_are_told_and_the_last_wins() {
        let (value, issues) = to_json(b"a: 1\nb: 2\na: 3").unwrap();
        assert_eq!(value, json!({"a": 3, "b": 2}));
        assert_eq!(issues, ["yaml: unmarshal errors:\n  key \"a\" already set in map"]);
    }

    #[test]
    fn laughs_are_bounded() {
        let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f"), ("h", "g")]
        {
            text.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 10].join(",")));
        }
        assert!(to_json(text.as_bytes()).is_err());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(to_json(deep.as_bytes()).is_err());
        assert!(to_json("- ".repeat(100_000).as_bytes()).is_err());
        assert!(to_json("a: *nothing".as_bytes()).is_err());
    }
}
