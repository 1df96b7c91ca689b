//! YAML bodies to JSON values: one document, bounded expansion of anchors, duplicate keys told apart.

use std::cell::{Cell, RefCell};
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

/// Keys told of that stand in a map twice: each costs a reading of the text…
const DUPLICATES_MAX: usize = 32;
/// …so that of a large one only the first is.
const READ_AGAIN_BYTES_MAX: usize = 256 * 1024;

/// The first document of the text, and a line for each key that stands twice in one map: `line 3: key "a" already set in map`.
pub fn to_json(text: &[u8]) -> Result<(Value, Vec<String>), String> {
    if brackets_open_at_once(text) > BRACKETS_MAX {
        return Err("error converting YAML to JSON: yaml: exceeded max depth".to_owned());
    }
    let budget = Budget::of(text, None);
    let value = match read(text, &budget) {
        None => return Ok((Value::Null, Vec::new())),
        Some(read) => read.map_err(|error| {
            format!("error converting YAML to JSON: yaml: {}", go_words(&error.to_string(), text))
        })?,
    };
    let duplicates = budget.duplicates.into_inner();
    let told = (READ_AGAIN_BYTES_MAX / text.len().max(1)).clamp(1, DUPLICATES_MAX);
    let issues = duplicates.into_iter().take(told).enumerate().map(|(index, key)| {
        // The parser says where it stands in errors only: it is stopped at this one.
        let stopped = read(text, &Budget::of(text, Some(index))).and_then(Result::err);
        let line = stopped.and_then(|error| error.location()).map_or(0, |location| location.line());
        format!("line {line}: key {key:?} already set in map")
    });
    Ok((value, issues.collect()))
}

/// The lines as the one error that strictness makes of them.
pub fn strict(issues: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", issues.join("\n  "))
}

/// None: the text holds no document.
fn read(text: &[u8], budget: &Budget) -> Option<Result<Value, serde_norway::Error>> {
    let document = serde_norway::Deserializer::from_slice(text).next()?;
    Some(Node { budget, depth: 0 }.deserialize(document))
}

/// What Go's parser, which has the same origin, says for what ours says: the line first, where it is not the first one, as
/// its scanner and its parser count it; the context only decides that.
fn go_words(error: &str, text: &[u8]) -> String {
    let (problem, context) = error.split_once(", while ").unwrap_or((error, ""));
    let (problem, line, column) = positioned(problem);
    let (_, context_line, _) = positioned(context);
    let parser = ["parsing a flow ", "parsing a block ", "parsing a node"];
    let scanner = !parser.iter().any(|begin| context.starts_with(begin));
    let line_told = match (line, context_line) {
        (1, 0 | 1) | (0, 0) => 0,
        (0 | 1, context) => context - 1,
        (line, _) => line - usize::from(!scanner),
    };
    let problem = match problem {
        "unknown anchor" => format!("unknown anchor '{}' referenced", anchor_at(text, line, column)),
        // Go's has it misspelt.
        other => other.replace("expected hexadecimal", "expected hexdecimal"),
    };
    if line_told == 0 { problem } else { format!("line {line_told}: {problem}") }
}

/// The text without ` at line L column C`, the line and the column; they begin at 1, and 0 stands for none.
fn positioned(text: &str) -> (&str, usize, usize) {
    let Some((before, position)) = text.rsplit_once(" at line ") else { return (text, 0, 0) };
    let Some((line, column)) = position.split_once(" column ") else { return (text, 0, 0) };
    match (line.parse(), column.parse()) {
        (Ok(line), Ok(column)) => (before, line, column),
        _ => (text, 0, 0),
    }
}

/// The name behind the `*` at a place of the text.
fn anchor_at(text: &[u8], line: usize, column: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let rest = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().chars().skip(column);
    rest.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect()
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
    /// Keys that stand twice in one map, in order.
    duplicates: RefCell<Vec<String>>,
    /// The reading ends at that duplicate.
    until: Option<usize>,
}

impl Budget {
    fn of(text: &[u8], until: Option<usize>) -> Self {
        Self {
            values: Cell::new(VALUES_MIN + text.len().saturating_mul(VALUES_PER_BYTE)),
            bytes: Cell::new(VALUES_MIN + text.len().saturating_mul(TEXT_FACTOR)),
            duplicates: RefCell::default(),
            until,
        }
    }

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
        while let Some(key) = entries.next_key_seed(Key { node: below, before: &map })? {
            let value = entries.next_value_seed(below)?;
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

/// A key of a map, whose entries before it are known.
struct Key<'b, 'm> {
    node: Node<'b>,
    before: &'m Map<String, Value>,
}

impl Key<'_, '_> {
    fn told<E: de::Error>(self, key: Value) -> Result<String, E> {
        let key = match key {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Null => "null".to_owned(),
            Value::Array(_) | Value::Object(_) => {
                return Err(E::custom("invalid map key: keys must be scalars"));
            }
        };
        if self.before.contains_key(&key) {
            let mut duplicates = self.node.budget.duplicates.borrow_mut();
            if self.node.budget.until == Some(duplicates.len()) {
                return Err(E::custom("a duplicate"));
            }
            duplicates.push(key.clone());
        }
        Ok(key)
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_any(self)
    }
}

macro_rules! keys {
    ($($method:ident $type:ty,)*) => {$(
        fn $method<E: de::Error>(self, value: $type) -> Result<String, E> {
            let key = self.node.$method(value)?;
            self.told(key)
        }
    )*};
}

// What stands there is read while the parser stands at it, so that errors are of its line.
impl<'de> Visitor<'de> for Key<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.expecting(f)
    }

    keys! { visit_bool bool, visit_i64 i64, visit_u64 u64, visit_f64 f64, visit_str &str, }

    fn visit_unit<E: de::Error>(self) -> Result<String, E> {
        let key = self.node.visit_unit()?;
        self.told(key)
    }

    fn visit_none<E: de::Error>(self) -> Result<String, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<String, A::Error> {
        let key = self.node.visit_seq(items)?;
        self.told(key)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<String, A::Error> {
        let key = self.node.visit_map(entries)?;
        self.told(key)
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, tagged: A) -> Result<String, A::Error> {
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
    fn faults_are_told_in_the_words_of_gos_parser() {
        for (text, want) in [
            ("{", "line 1: did not find expected node content"),
            ("{a: b", "line 1: did not find expected ',' or '}'"),
            ("a: [b", "line 1: did not find expected ',' or ']'"),
            ("a: b: c", "mapping values are not allowed in this context"),
            ("a: b\n c: d", "line 2: mapping values are not allowed in this context"),
            ("\t- x", "found character that cannot start any token"),
            ("a:\n\tb: c", "line 2: found character that cannot start any token"),
            ("- a\nb: c", "line 1: did not find expected '-' indicator"),
            ("a: \"b", "found unexpected end of stream"),
            ("a: *x-1 ", "unknown anchor 'x-1' referenced"),
            ("a: |\n x\n  y\nz", "line 5: could not find expected ':'"),
            ("? a\n: b\n:c", "line 4: could not find expected ':'"),
            ("a: 1\n- b", "line 1: did not find expected key"),
            ("\"\\x\"", "did not find expected hexdecimal number"),
            ("a: \"\\q\"", "found unknown escape character"),
            ("[,]", "did not find expected node content"),
            ("- - -\n -", "line 1: did not find expected '-' indicator"),
        ] {
            let error = to_json(text.as_bytes()).unwrap_err();
            assert_eq!(error, format!("error converting YAML to JSON: yaml: {want}"), "{text:?}");
        }
    }

    #[test]
    fn duplicates_are_told_and_the_last_wins() {
        let (value, issues) = to_json(b"a: 1\nb: {c: 2, c: 3}\na: 3\n1: x\n\"1\": y").unwrap();
        assert_eq!(value, json!({"a": 3, "b": {"c": 3}, "1": "y"}));
        let lines = [(2, "c"), (3, "a"), (5, "1")];
        assert_eq!(issues, lines.map(|(line, key)| format!("line {line}: key {key:?} already set in map")));
        assert_eq!(strict(&issues[..1]), "yaml: unmarshal errors:\n  line 2: key \"c\" already set in map");
        let many = "a: 1\n".repeat(DUPLICATES_MAX * 3);
        assert_eq!(to_json(many.as_bytes()).unwrap().1.len(), DUPLICATES_MAX);
        let large = format!("{many}b: {}", "x".repeat(READ_AGAIN_BYTES_MAX));
        assert_eq!(to_json(large.as_bytes()).unwrap().1, ["line 2: key \"a\" already set in map"]);
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
