//! The protobuf form of the API's documents, read into JSON text and written from it without a tree in between: a table
//! gives every field's number, the tree of types its shape.

mod envelope;
mod read;
mod scan;
mod table;
mod time;
mod wire;
mod write;

pub use envelope::{ListPart, document, error_frame, frame, item, list, to_json};
pub use table::{Message, Table, table};

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
    /// What is to be written is not what the type has there.
    #[error("{0}: no JSON of its type at byte {1}")]
    Shape(String, usize),
}

#[cfg(test)]
#[path = "tests/round_trips.rs"]
mod round_trips;
#[cfg(test)]
mod tests;
