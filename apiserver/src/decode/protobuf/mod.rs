//! Protobuf bodies to JSON values: a table gives every field's number, the tree of types its shape.

mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::schema::{Lines, Object, Shape, Types};
use wire::{Payload, Reader};

/// Every message of the stable groups: its name, then `field=number`; `*` marks scalars that are pointers in Go (they
/// may be sent as zero and mean it), `+` a message whose fields are inlined in JSON. Made from the struct tags of
/// k8s.io/api and k8s.io/apimachinery v0.37.2.
static FIELDS: Lines = Lines::new(include_str!("fields.txt"));

/// What every protobuf body of the API begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Messages within messages; far more than any type of the API has.
const DEPTH_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    #[error("unable to decode the envelope: {0}")]
    Envelope(#[source] Box<Fault>),
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: wrong wireType = {0} for field {1}")]
    WireType(u64, String),
    #[error("proto: {0}: invalid UTF-8")]
    Utf8(String),
    #[error("proto: {0}: {1}")]
    Json(String, #[source] serde_json::Error),
    #[error("proto: {0}: a time out of range")]
    Time(String),
    #[error("exceeded max depth")]
    Depth,
}

/// The document in a body; where its kind is none that is served, only what it calls itself.
pub fn to_json(types: &Types, body: &[u8], api_version: &str, kind: &str) -> Result<Value, Fault> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Fault::NoPrefix)?;
    let Unknown { said, raw, content_type } =
        Unknown::read(envelope).map_err(|fault| Fault::Envelope(Box::new(fault)))?;
    if content_type == "application/json" {
        return serde_json::from_slice(raw).map_err(|e| Fault::Json("raw".to_owned(), e));
    }
    let or = |said: &str, url: &str| if said.is_empty() { url.to_owned() } else { said.to_owned() };
    let (api_version, kind) = (or(said.api_version, api_version), or(said.kind, kind));
    let mut fields = match types.kind(&api_version, &kind) {
        Some(object) => Transcoder { types }.message(short_name(object), object, raw, 0)?,
        None => Map::new(),
    };
    fields.insert("apiVersion".to_owned(), api_version.into());
    fields.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(fields))
}

/// The envelope: `runtime.Unknown`.
#[derive(Default)]
struct Unknown<'a> {
    said: TypeMeta<'a>,
    raw: &'a [u8],
    content_type: &'a str,
}

#[derive(Default)]
struct TypeMeta<'a> {
    api_version: &'a str,
    kind: &'a str,
}

impl<'a> Unknown<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut unknown = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            match number {
                1 => unknown.said = TypeMeta::read(payload.bytes("typeMeta")?)?,
                2 => unknown.raw = payload.bytes("raw")?,
                4 => unknown.content_type = payload.text("contentType")?,
                _ => {}
            }
        }
        Ok(unknown)
    }
}

impl<'a> TypeMeta<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut said = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            match number {
                1 => said.api_version = payload.text("apiVersion")?,
                2 => said.kind = payload.text("kind")?,
                _ => {}
            }
        }
        Ok(said)
    }
}

fn short_name(object: &Object) -> &str {
    object.name.strip_prefix("io.k8s.").unwrap_or(&object.name)
}

/// What a field's number means.
struct Entry {
    name: &'static str,
    pointer: bool,
    inline: bool,
}

fn entry(line: &'static str, number: u64) -> Option<Entry> {
    line.split(' ').find_map(|token| {
        let (name, have) = token.split_once('=')?;
        if have.parse() != Ok(number) {
            return None;
        }
        let inline = name.starts_with('+');
        let pointer = name.ends_with('*');
        Some(Entry { name: name.trim_start_matches('+').trim_end_matches('*'), pointer, inline })
    })
}

struct Transcoder<'t> {
    types: &'t Types,
}

impl Transcoder<'_> {
    /// `object` is the JSON type; that of an inlined message is the one around it.
    fn message(
        &self,
        name: &str,
        object: &Object,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Map<String, Value>, Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        let mut fields = Map::new();
        let Some(line) = FIELDS.find(name) else { return Ok(fields) };
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            let Some(entry) = entry(line, number) else { continue };
            if entry.inline {
                fields.extend(self.message(entry.name, object, payload.bytes(entry.name)?, depth + 1)?);
                continue;
            }
            let Some(field) = object.field(entry.name) else { continue };
            match &field.shape {
                Shape::List(item) => {
                    let values = self.elements(entry.name, item, &payload, depth)?;
                    let list = fields.entry(entry.name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        list.extend(values);
                    }
                }
                Shape::Map(item) => {
                    let (key, value) = self.map_entry(entry.name, item, payload.bytes(entry.name)?, depth)?;
                    let map = fields.entry(entry.name).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(map) = map {
                        map.insert(key, value);
                    }
                }
                shape => {
                    // Go sends what is no pointer even when it is not set.
                    let value = self.value(entry.name, shape, &payload, depth)?;
                    if let Some(value) = value.filter(|value| entry.pointer || !is_zero(value, shape)) {
                        fields.insert(entry.name.to_owned(), value);
                    }
                }
            }
        }
        Ok(fields)
    }

    fn elements(
        &self,
        name: &str,
        item: &Shape,
        payload: &Payload<'_>,
        depth: usize,
    ) -> Result<Vec<Value>, Fault> {
        if let (Shape::Integer, Payload::Bytes(packed)) = (item, payload) {
            let mut reader = Reader::new(packed);
            let mut values = Vec::new();
            while !reader.is_empty() {
                values.push(reader.varint()?.cast_signed().into());
            }
            return Ok(values);
        }
        Ok(self.value(name, item, payload, depth)?.into_iter().collect())
    }

    fn map_entry(
        &self,
        name: &str,
        item: &Shape,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(String, Value), Fault> {
        let mut reader = Reader::new(bytes);
        let mut key = String::new();
        let mut value = None;
        while let Some((number, payload)) = reader.next()? {
            match number {
                1 => payload.text(name)?.clone_into(&mut key),
                2 => value = self.value(name, item, &payload, depth)?,
                _ => {}
            }
        }
        let empty = || match item {
            Shape::Text | Shape::Bytes => json!(""),
            Shape::Bool => json!(false),
            Shape::Integer | Shape::Number | Shape::IntOrString => json!(0),
            Shape::Quantity => json!("0"),
            Shape::List(_) => json!([]),
            Shape::Object(_) | Shape::Map(_) => json!({}),
            Shape::Any | Shape::Time | Shape::MicroTime => Value::Null,
        };
        Ok((key, value.unwrap_or_else(empty)))
    }

    /// None for a value that is not there: a zero time, an empty raw document.
    fn value(
        &self,
        name: &str,
        shape: &Shape,
        payload: &Payload<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        Ok(Some(match shape {
            Shape::Bool => (payload.integer(name)? != 0).into(),
            Shape::Integer => payload.integer(name)?.into(),
            Shape::Number => payload.number(name)?.into(),
            Shape::Text => payload.text(name)?.into(),
            Shape::Bytes => STANDARD.encode(payload.bytes(name)?).into(),
            Shape::Time | Shape::MicroTime => {
                let micro = *shape == Shape::MicroTime;
                return time(name, payload.bytes(name)?, micro).map(|time| time.map(Value::String));
            }
            Shape::Quantity => first(payload.bytes(name)?)?
                .map_or(Ok("0".to_owned()), |text| text.text(name).map(str::to_owned))?
                .into(),
            Shape::IntOrString => int_or_string(name, payload.bytes(name)?)?,
            Shape::Object(index) => match self.types.get(*index) {
                Some(object) => {
                    let bytes = payload.bytes(name)?;
                    Value::Object(self.message(short_name(object), object, bytes, depth + 1)?)
                }
                None => return Ok(None),
            },
            Shape::Any => {
                let Some(raw) = first(payload.bytes(name)?)? else { return Ok(None) };
                let raw = raw.bytes(name)?;
                if raw.is_empty() {
                    return Ok(None);
                }
                serde_json::from_slice(raw).map_err(|e| Fault::Json(name.to_owned(), e))?
            }
            // A list as a map's value is a message of its own, with the items as field 1.
            Shape::List(item) => {
                let mut reader = Reader::new(payload.bytes(name)?);
                let mut list = Vec::new();
                while let Some((number, payload)) = reader.next()? {
                    if number == 1 {
                        list.extend(self.value(name, item, &payload, depth + 1)?);
                    }
                }
                Value::Array(list)
            }
            Shape::Map(_) => return Ok(None),
        }))
    }
}

/// Field 1 of a message.
fn first(bytes: &[u8]) -> Result<Option<Payload<'_>>, Fault> {
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            return Ok(Some(payload));
        }
    }
    Ok(None)
}

fn is_zero(value: &Value, shape: &Shape) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        // A quantity's zero is written out.
        Value::String(text) => text.is_empty() && *shape != Shape::Quantity,
        _ => false,
    }
}

fn time(name: &str, bytes: &[u8], micro: bool) -> Result<Option<String>, Fault> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => seconds = Some(payload.integer(name)?),
            2 => nanos = payload.integer(name)?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let out_of_range = || Fault::Time(name.to_owned());
    let nanos = i32::try_from(nanos).map_err(|_| out_of_range())?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| out_of_range())?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(time.strftime(format).to_string()))
}

fn int_or_string(name: &str, bytes: &[u8]) -> Result<Value, Fault> {
    let (mut is_text, mut number_value, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => is_text = payload.integer(name)? == 1,
            2 => number_value = payload.integer(name)?,
            3 => payload.text(name)?.clone_into(&mut text),
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number_value.into() })
}

#[cfg(test)]
mod tests;
