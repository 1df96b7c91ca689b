//! What goes around a message: the envelope of documents, lists, and the frames of watches.

use bytes::Bytes;
use coracle_client::WatchEventKind;

use super::wire::{Reader, field_bytes, put_bytes, put_integer, put_nested, put_tag, put_varint};
use super::{Fault, Message, Table, read, write};

/// What every protobuf body of the API begins with.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// The document in a body, as JSON text; where its kind is none that is served, only what it calls itself.
pub fn to_json(table: &Table, body: &[u8], api_version: &str, kind: &str) -> Result<Vec<u8>, Fault> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Fault::NoPrefix)?;
    let Unknown { said, raw, content_type } =
        Unknown::read(envelope).map_err(|fault| Fault::Envelope(Box::new(fault)))?;
    if content_type == "application/json" {
        return Ok(raw.to_vec());
    }
    let or = |said: &str, url: &str| if said.is_empty() { url.to_owned() } else { said.to_owned() };
    let (api_version, kind) = (or(said.api_version, api_version), or(said.kind, kind));
    let mut json = Vec::with_capacity(raw.len() * 2 + 64);
    json.extend_from_slice(b"{\"apiVersion\":");
    read::put_text(&mut json, &api_version);
    json.extend_from_slice(b",\"kind\":");
    read::put_text(&mut json, &kind);
    if let Some(message) = table.kind(&api_version, &kind) {
        read::members(table, message, raw, &mut json)?;
    }
    json.push(b'}');
    Ok(json)
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

/// The envelope up to a message of `length` bytes. What comes after the message is [`END`].
fn put_start(out: &mut Vec<u8>, api_version: &str, kind: &str, length: usize) {
    out.extend_from_slice(MAGIC);
    let mut said = Vec::with_capacity(api_version.len() + kind.len() + 8);
    put_bytes(&mut said, 1, api_version.as_bytes());
    put_bytes(&mut said, 2, kind.as_bytes());
    put_bytes(out, 1, &said);
    put_tag(out, 2, 2);
    put_varint(out, length as u64);
}

/// No encoding and no media type of the message, as upstream says it.
const END: &[u8] = &[0x1a, 0, 0x22, 0];

/// What the envelope and a frame take beside names and message, at most.
const ROOM: usize = 64;

/// A document out of its JSON.
pub fn document(
    table: &Table,
    message: &Message,
    api_version: &str,
    kind: &str,
    json: &[u8],
) -> Result<Vec<u8>, Fault> {
    let mut inner = Vec::with_capacity(json.len());
    write::message(table, message, json, &mut inner)?;
    let mut out = Vec::with_capacity(inner.len() + api_version.len() + kind.len() + ROOM);
    put_start(&mut out, api_version, kind, inner.len());
    out.extend_from_slice(&inner);
    out.extend_from_slice(END);
    Ok(out)
}

/// One event of a watch: the length, the event, and in it the object in an envelope of its own.
pub fn frame(event: WatchEventKind, object: &[u8]) -> Vec<u8> {
    let name = match event {
        WatchEventKind::Added => "ADDED",
        WatchEventKind::Modified => "MODIFIED",
        WatchEventKind::Deleted => "DELETED",
        WatchEventKind::Bookmark => "BOOKMARK",
    };
    framed(name, object)
}

/// The frame of an error; `status`: its document.
pub fn error_frame(status: &[u8]) -> Vec<u8> {
    framed("ERROR", status)
}

fn framed(event: &str, object: &[u8]) -> Vec<u8> {
    let raw = field_bytes(object.len());
    let length = field_bytes(event.len()) + field_bytes(raw);
    let mut out = Vec::with_capacity(length + 4);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    put_bytes(&mut out, 1, event.as_bytes());
    put_tag(&mut out, 2, 2);
    put_varint(&mut out, raw as u64);
    put_bytes(&mut out, 1, object);
    out
}

/// What a list's metadata says.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListPart<'a> {
    pub revision: u64,
    pub continue_token: Option<&'a str>,
    pub remaining: Option<usize>,
}

/// Appends an object to the items of a list, with the field's number and length.
pub fn item(table: &Table, message: &Message, json: &[u8], items: &mut Vec<u8>) -> Result<(), Fault> {
    put_nested(items, 2, |out| write::message(table, message, json, out))
}

/// What stands before and after the items of a list, which are so many bytes.
pub fn list(api_version: &str, kind: &str, part: ListPart<'_>, items: usize) -> (Bytes, Bytes) {
    let mut metadata = Vec::new();
    put_bytes(&mut metadata, 1, b"");
    let revision = if part.revision == 0 { String::new() } else { part.revision.to_string() };
    put_bytes(&mut metadata, 2, revision.as_bytes());
    put_bytes(&mut metadata, 3, part.continue_token.unwrap_or_default().as_bytes());
    if let Some(remaining) = part.remaining {
        put_integer(&mut metadata, 4, i64::try_from(remaining).unwrap_or(i64::MAX));
    }
    let mut first = Vec::with_capacity(metadata.len() + 8);
    put_bytes(&mut first, 1, &metadata);
    let mut out = Vec::with_capacity(first.len() + api_version.len() + kind.len() + ROOM);
    put_start(&mut out, api_version, kind, first.len() + items);
    out.extend_from_slice(&first);
    (out.into(), Bytes::from_static(END))
}
