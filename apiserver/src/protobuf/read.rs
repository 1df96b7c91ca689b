//! Messages to JSON text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::table::{Either, Field, Kind, Message, Table};
use super::wire::{Payload, Reader};
use super::{DEPTH_MAX, Fault, time};
use crate::go_duration;

/// Appends the members of the object that a message stands for, each with a comma before it.
pub fn members(table: &Table, message: &Message, bytes: &[u8], json: &mut Vec<u8>) -> Result<(), Fault> {
    Writer { table }.members(message, bytes, true, json, 0)
}

/// A JSON string.
pub fn put_text(json: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        json.push(b'"');
        json.extend_from_slice(text.as_bytes());
        json.push(b'"');
        return;
    }
    // Text always encodes, and a vector takes it.
    let _ = serde_json::to_writer(json, text);
}

fn put_display(json: &mut Vec<u8>, value: impl std::fmt::Display) {
    use std::io::Write as _;
    // A vector takes all.
    let _ = write!(json, "{value}");
}

/// A field and what one occurrence of it carries. `place`: where it stands among the fields, those of inlined messages
/// after the others.
struct Found<'t, 'a> {
    place: (u32, usize),
    field: &'t Field,
    payload: Payload<'a>,
}

struct Writer<'t> {
    table: &'t Table,
}

impl<'t> Writer<'t> {
    fn gather<'a>(
        &self,
        message: &'t Message,
        bytes: &'a [u8],
        layer: u32,
        found: &mut Vec<Found<'t, 'a>>,
        depth: usize,
    ) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            if let Some((at, field)) = message.numbered(number) {
                found.push(Found { place: (layer, at), field, payload });
                continue;
            }
            let inlined = message.inlined.iter().find(|(have, _)| u64::from(*have) == number);
            if let Some(inner) = inlined.and_then(|(_, index)| self.table.get(*index)) {
                let layer = layer.wrapping_mul(16).wrapping_add(u32::try_from(number).unwrap_or(0));
                self.gather(inner, payload.bytes(&inner.name)?, layer, found, depth + 1)?;
            }
        }
        Ok(())
    }

    fn object(
        &self,
        message: &'t Message,
        bytes: &[u8],
        json: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        json.push(b'{');
        self.members(message, bytes, false, json, depth)?;
        json.push(b'}');
        Ok(())
    }

    fn members(
        &self,
        message: &'t Message,
        bytes: &[u8],
        mut comma: bool,
        json: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        let mut found = Vec::new();
        self.gather(message, bytes, 0, &mut found, depth)?;
        // What is repeated is together then, in its own order.
        found.sort_by_key(|f| f.place);
        for group in found.chunk_by(|a, b| a.place == b.place) {
            let Some(last) = group.last() else { continue };
            let (before, field) = (json.len(), last.field);
            if comma {
                json.push(b',');
            }
            put_text(json, &field.name);
            json.push(b':');
            let there = match &field.kind {
                Kind::List(item) => {
                    let payloads = group.iter().map(|f| f.payload);
                    self.list(&field.name, item, payloads, json, depth)?;
                    true
                }
                Kind::Map(item) => {
                    self.map(field, item, group, json, depth)?;
                    true
                }
                Kind::Message(_) if group.len() > 1 => {
                    // Parts of one message that came apart belong together.
                    let mut whole = Vec::new();
                    for part in group {
                        whole.extend_from_slice(part.payload.bytes(&field.name)?);
                    }
                    self.value(&field.name, &field.kind, Payload::Bytes(&whole), json, depth)?
                }
                // Go sends what is no pointer even when it is not set.
                kind if !field.pointer && is_zero(kind, &last.payload) => false,
                kind => self.value(&field.name, kind, last.payload, json, depth)?,
            };
            if there {
                comma = true;
            } else {
                json.truncate(before);
            }
        }
        Ok(())
    }

    fn list<'a>(
        &self,
        name: &str,
        item: &'t Kind,
        payloads: impl Iterator<Item = Payload<'a>>,
        json: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        json.push(b'[');
        let mut comma = false;
        let mut separate = |json: &mut Vec<u8>| {
            if std::mem::replace(&mut comma, true) {
                json.push(b',');
            }
        };
        for payload in payloads {
            if let (Kind::Integer, Payload::Bytes(packed)) = (item, payload) {
                let mut reader = Reader::new(packed);
                while !reader.is_empty() {
                    separate(json);
                    put_display(json, reader.varint()?.cast_signed());
                }
                continue;
            }
            separate(json);
            if !self.value(name, item, payload, json, depth)? {
                json.extend_from_slice(b"null");
            }
        }
        json.push(b']');
        Ok(())
    }

    fn map(
        &self,
        field: &'t Field,
        item: &'t Kind,
        entries: &[Found<'t, '_>],
        json: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        let mut pairs: Vec<(&str, Option<Payload<'_>>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut reader = Reader::new(entry.payload.bytes(&field.name)?);
            let (mut key, mut value) = ("", None);
            while let Some((number, payload)) = reader.next()? {
                match number {
                    1 => key = payload.text(&field.name)?,
                    2 => value = Some(payload),
                    _ => {}
                }
            }
            pairs.push((key, value));
        }
        // Of two with one key the later one holds.
        pairs.reverse();
        pairs.sort_by_key(|(key, _)| *key);
        pairs.dedup_by_key(|(key, _)| *key);
        json.push(b'{');
        for (i, (key, value)) in pairs.into_iter().enumerate() {
            if i > 0 {
                json.push(b',');
            }
            put_text(json, key);
            json.push(b':');
            let there = match value {
                Some(value) => self.value(&field.name, item, value, json, depth)?,
                None => false,
            };
            if !there {
                json.extend_from_slice(zero(item));
            }
        }
        json.push(b'}');
        Ok(())
    }

    /// False for a value that is not there: a zero time, an empty raw document. Nothing is appended then.
    fn value(
        &self,
        name: &str,
        kind: &'t Kind,
        payload: Payload<'_>,
        json: &mut Vec<u8>,
        depth: usize,
    ) -> Result<bool, Fault> {
        match kind {
            Kind::Bool => put_display(json, payload.integer(name)? != 0),
            Kind::Integer => put_display(json, payload.integer(name)?),
            Kind::Number => {
                let number = payload.number(name)?;
                serde_json::to_writer(json, &number).map_err(|e| Fault::Json(name.to_owned(), e))?;
            }
            Kind::Text => put_text(json, payload.text(name)?),
            Kind::Bytes => put_text(json, &STANDARD.encode(payload.bytes(name)?)),
            Kind::Time | Kind::MicroTime => {
                match time::to_text(name, payload.bytes(name)?, *kind == Kind::MicroTime)? {
                    Some(text) => put_text(json, &text),
                    None => return Ok(false),
                }
            }
            Kind::Duration => {
                let nanos = first(payload.bytes(name)?)?.map(|nanos| nanos.integer(name)).transpose()?;
                put_text(json, &go_duration::text(nanos.unwrap_or_default()));
            }
            Kind::Quantity => match first(payload.bytes(name)?)? {
                Some(text) => put_text(json, text.text(name)?),
                None => put_text(json, "0"),
            },
            Kind::IntOrString => int_or_string(name, payload.bytes(name)?, json)?,
            Kind::Empty => json.extend_from_slice(b"{}"),
            Kind::Message(index) => match self.table.get(*index) {
                Some(message) => self.object(message, payload.bytes(name)?, json, depth + 1)?,
                None => return Ok(false),
            },
            Kind::Raw => {
                let raw = match first(payload.bytes(name)?)? {
                    Some(raw) => raw.bytes(name)?,
                    None => return Ok(false),
                };
                if raw.is_empty() {
                    return Ok(false);
                }
                serde_json::from_slice::<&serde_json::value::RawValue>(raw)
                    .map_err(|e| Fault::Json(name.to_owned(), e))?;
                json.extend_from_slice(raw);
            }
            // A list as a map's value is a message of its own, with the items as field 1.
            Kind::List(item) => {
                let items = numbered(payload.bytes(name)?, 1)?;
                self.list(name, item, items.into_iter(), json, depth + 1)?;
            }
            Kind::Map(_) => return Ok(false),
            Kind::Either(either) => return self.either(name, either, payload.bytes(name)?, json, depth + 1),
        }
        Ok(true)
    }

    fn either(
        &self,
        name: &str,
        either: &'t Either,
        bytes: &[u8],
        json: &mut Vec<u8>,
        depth: usize,
    ) -> Result<bool, Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        let Either { object, other } = either;
        if let Some(payload) = numbered(bytes, object.0)?.pop() {
            return self.value(name, &object.1, payload, json, depth);
        }
        let others = numbered(bytes, other.0)?;
        match (&other.1, others.last()) {
            (Kind::List(item), _) => self.list(name, item, others.into_iter(), json, depth)?,
            (kind, Some(payload)) => return self.value(name, kind, *payload, json, depth),
            (kind, None) => json.extend_from_slice(zero(kind)),
        }
        Ok(true)
    }
}

/// Every occurrence of one field.
fn numbered(bytes: &[u8], wanted: u32) -> Result<Vec<Payload<'_>>, Fault> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while let Some((number, payload)) = reader.next()? {
        if number == u64::from(wanted) {
            all.push(payload);
        }
    }
    Ok(all)
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

/// What a value of a map is where nothing is said.
fn zero(kind: &Kind) -> &'static [u8] {
    match kind {
        Kind::Text | Kind::Bytes => b"\"\"",
        Kind::Bool => b"false",
        Kind::Integer | Kind::Number | Kind::IntOrString => b"0",
        Kind::Quantity => b"\"0\"",
        Kind::Duration => b"\"0s\"",
        Kind::List(_) => b"[]",
        Kind::Message(_) | Kind::Map(_) | Kind::Empty => b"{}",
        Kind::Raw | Kind::Time | Kind::MicroTime | Kind::Either(_) => b"null",
    }
}

fn is_zero(kind: &Kind, payload: &Payload<'_>) -> bool {
    match (kind, payload) {
        (Kind::Bool | Kind::Integer, Payload::Varint(value)) => *value == 0,
        (Kind::Number, Payload::Fixed64(bytes)) => *bytes == [0; 8],
        (Kind::Text | Kind::Bytes, Payload::Bytes(bytes)) => bytes.is_empty(),
        // A quantity's zero is written out.
        (Kind::IntOrString, Payload::Bytes(bytes)) => {
            let mut json = Vec::new();
            int_or_string("", bytes, &mut json).is_ok() && (json == b"0" || json == b"\"\"")
        }
        _ => false,
    }
}

fn int_or_string(name: &str, bytes: &[u8], json: &mut Vec<u8>) -> Result<(), Fault> {
    let (mut is_text, mut number_value, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => is_text = payload.integer(name)? == 1,
            2 => number_value = payload.integer(name)?,
            3 => text = payload.text(name)?,
            _ => {}
        }
    }
    if is_text {
        put_text(json, text);
    } else {
        put_display(json, number_value);
    }
    Ok(())
}
