//! JSON text to messages, in one pass and without a tree.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::scan::Cursor;
use super::table::{Either, Field, Kind, Message, Table};
use super::wire::{put_bytes, put_integer, put_nested, put_tag, put_varint};
use super::{DEPTH_MAX, Fault, time};
use crate::go_duration;

/// Appends the message that a JSON object stands for; what is no field of it (apiVersion and kind among that) is
/// passed over.
pub fn message(table: &Table, message: &Message, json: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut writer = Writer { table, cursor: Cursor::new(json) };
    writer.object(message, out, 0)
}

struct Writer<'a> {
    table: &'a Table,
    cursor: Cursor<'a>,
}

impl<'a> Writer<'a> {
    fn wrong<T>(&self, what: &str) -> Result<T, Fault> {
        Err(Fault::Shape(what.to_owned(), self.cursor.position()))
    }

    fn or<T>(&self, found: Option<T>, what: &str) -> Result<T, Fault> {
        found.ok_or_else(|| Fault::Shape(what.to_owned(), self.cursor.position()))
    }

    fn object(&mut self, message: &Message, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        let start = self.cursor;
        self.fields(message, out, depth)?;
        let end = self.cursor;
        // What is inlined in JSON stands in a message of its own here: the object is gone through for each.
        for (number, index) in &message.inlined {
            let Some(inner) = self.table.get(*index) else { continue };
            self.cursor = start;
            let before = out.len();
            put_nested(out, *number, |out| self.object(inner, out, depth + 1))?;
            // An empty one is no more than one that is not there.
            if out.get(before..).is_some_and(|written| written.last() == Some(&0) && written.len() <= 3) {
                out.truncate(before);
            }
        }
        self.cursor = end;
        Ok(())
    }

    fn fields(&mut self, message: &Message, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        let taken = self.cursor.take(b'{');
        self.or(taken, &message.name)?;
        let (mut first, mut hint) = (true, 0);
        loop {
            let more = self.cursor.more(b'}', &mut first);
            if !self.or(more, &message.name)? {
                return Ok(());
            }
            let name = self.cursor.name();
            let name = self.or(name, &message.name)?;
            match message.field(&name, &mut hint) {
                Some(_) if self.cursor.null() => {}
                Some(field) => self.field(field, out, depth)?,
                None => {
                    let passed = self.cursor.value();
                    self.or(passed, &name)?;
                }
            }
        }
    }

    fn field(&mut self, field: &Field, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        match &field.kind {
            Kind::List(item) => {
                let taken = self.cursor.take(b'[');
                self.or(taken, &field.name)?;
                self.list(&field.name, field.number, item, out, depth)
            }
            Kind::Map(item) => {
                let taken = self.cursor.take(b'{');
                self.or(taken, &field.name)?;
                self.map(field, item, out, depth)
            }
            kind => self.value(&field.name, field.number, kind, out, depth),
        }
    }

    /// The elements, after the bracket.
    fn list(
        &mut self,
        name: &str,
        number: u32,
        item: &Kind,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        let mut first = true;
        loop {
            let more = self.cursor.more(b']', &mut first);
            if !self.or(more, name)? {
                return Ok(());
            }
            if self.cursor.null() {
                // Go has no other null in a list than its zero.
                match item {
                    Kind::Bool | Kind::Integer => put_integer(out, number, 0),
                    _ => put_bytes(out, number, b""),
                }
            } else {
                self.value(name, number, item, out, depth)?;
            }
        }
    }

    fn map(&mut self, field: &Field, item: &Kind, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        let mut first = true;
        loop {
            let more = self.cursor.more(b'}', &mut first);
            if !self.or(more, &field.name)? {
                return Ok(());
            }
            let key = self.cursor.name();
            let key = self.or(key, &field.name)?;
            put_nested(out, field.number, |out| {
                put_bytes(out, 1, key.as_bytes());
                if self.cursor.null() {
                    return Ok(());
                }
                self.value(&field.name, 2, item, out, depth)
            })?;
        }
    }

    fn text(&mut self, name: &str) -> Result<std::borrow::Cow<'a, str>, Fault> {
        let text = self.cursor.string();
        self.or(text, name)
    }

    fn value(
        &mut self,
        name: &str,
        number: u32,
        kind: &Kind,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        match kind {
            Kind::Bool => match self.cursor.word() {
                Some("true") => put_integer(out, number, 1),
                Some("false") => put_integer(out, number, 0),
                _ => return self.wrong(name),
            },
            Kind::Integer => {
                let value = self.integer(name)?;
                put_integer(out, number, value);
            }
            Kind::Number => {
                let value = self.cursor.word().and_then(|word| word.parse::<f64>().ok());
                let value = self.or(value, name)?;
                put_tag(out, number, 1);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Kind::Text => {
                let text = self.text(name)?;
                put_bytes(out, number, text.as_bytes());
            }
            Kind::Bytes => {
                let text = self.text(name)?;
                let bytes = STANDARD.decode(text.as_bytes()).ok();
                let bytes = self.or(bytes, name)?;
                put_bytes(out, number, &bytes);
            }
            Kind::Time | Kind::MicroTime => {
                let text = self.text(name)?;
                put_nested(out, number, |out| time::put(out, name, &text, *kind == Kind::MicroTime))?;
            }
            Kind::Duration => {
                let text = self.text(name)?;
                let nanos = go_duration::parse(&text);
                let nanos = self.or(nanos, name)?;
                put_nested(out, number, |out| {
                    put_integer(out, 1, nanos);
                    Ok(())
                })?;
            }
            Kind::Quantity => {
                let text = self.text(name)?;
                put_tag(out, number, 2);
                put_varint(out, super::wire::field_bytes(text.len()) as u64);
                put_bytes(out, 1, text.as_bytes());
            }
            Kind::IntOrString => put_nested(out, number, |out| self.int_or_string(name, out))?,
            Kind::Raw => {
                let raw = self.cursor.value();
                let raw = self.or(raw, name)?;
                put_tag(out, number, 2);
                put_varint(out, super::wire::field_bytes(raw.len()) as u64);
                put_bytes(out, 1, raw);
            }
            Kind::Empty => {
                let passed = self.cursor.value();
                self.or(passed, name)?;
                put_bytes(out, number, b"");
            }
            Kind::Message(index) => match self.table.get(*index) {
                Some(message) => put_nested(out, number, |out| self.object(message, out, depth + 1))?,
                None => return self.wrong(name),
            },
            // A list as a map's value is a message of its own, with the items as field 1.
            Kind::List(item) => {
                let taken = self.cursor.take(b'[');
                self.or(taken, name)?;
                put_nested(out, number, |out| self.list(name, 1, item, out, depth + 1))?;
            }
            Kind::Map(_) => return self.wrong(name),
            Kind::Either(either) => put_nested(out, number, |out| self.either(name, either, out, depth + 1))?,
        }
        Ok(())
    }

    fn either(&mut self, name: &str, either: &Either, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        let Either { object, other } = either;
        if self.cursor.peek() == Some(b'{') {
            // An object that may stand where a boolean may is one that allows what it describes.
            if other.1 == Kind::Bool {
                put_integer(out, other.0, 1);
            }
            return self.value(name, object.0, &object.1, out, depth);
        }
        match &other.1 {
            Kind::List(item) => {
                let taken = self.cursor.take(b'[');
                self.or(taken, name)?;
                self.list(name, other.0, item, out, depth)
            }
            kind => self.value(name, other.0, kind, out, depth),
        }
    }

    fn integer(&mut self, name: &str) -> Result<i64, Fault> {
        let word = self.cursor.word();
        let word = self.or(word, name)?;
        if let Ok(value) = word.parse() {
            return Ok(value);
        }
        match word.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value as i64),
            _ => self.wrong(name),
        }
    }

    fn int_or_string(&mut self, name: &str, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.cursor.peek() == Some(b'"') {
            let text = self.text(name)?;
            put_integer(out, 1, 1);
            put_integer(out, 2, 0);
            put_bytes(out, 3, text.as_bytes());
        } else {
            let value = self.integer(name)?;
            put_integer(out, 1, 0);
            put_integer(out, 2, value);
            put_bytes(out, 3, b"");
        }
        Ok(())
    }
}
