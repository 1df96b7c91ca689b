//! Objects as JSON bytes, with numbers as Go writes them: a whole one has no decimal point (`10`, not `10.0`).

mod nulls;

use std::io;

use bytes::Bytes;
use coracle_client::ApiError;
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Serializer, Value};

/// Go switches to exponents outside this range.
const PLAIN: std::ops::Range<f64> = 1e-6..1e21;

/// An object of a compiled type as bytes, with the nulls that Go writes.
pub fn object(object: &impl Serialize, api_version: &str) -> Result<Bytes, ApiError> {
    json(&Object { object, api_version })
}

/// The same as a tree.
pub fn value(object: &impl Serialize, api_version: &str) -> Result<Value, ApiError> {
    serde_json::to_value(Object { object, api_version }).map_err(ApiError::internal)
}

struct Object<'a, T> {
    object: &'a T,
    api_version: &'a str,
}

impl<T: Serialize> Serialize for Object<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(nulls::Whole { inner: serializer, api_version: self.api_version })
    }
}

/// A document's bytes, in a buffer of just their size: histories keep them, and a growing vector would leave up to
/// half of its room unused in each.
pub fn json(document: &impl Serialize) -> Result<Bytes, ApiError> {
    let mut buffer = Vec::with_capacity(512);
    document
        .serialize(&mut Serializer::with_formatter(&mut buffer, GoNumbers))
        .map_err(ApiError::internal)?;
    Ok(buffer.into_boxed_slice().into())
}

struct GoNumbers;

impl Formatter for GoNumbers {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value == 0.0 || PLAIN.contains(&value.abs()) {
            return write!(writer, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => write!(writer, "{digits}e+{exponent}"),
            _ => writer.write_all(text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_go_prints_them() {
        for (number, wanted) in [
            ("10.0", "10"),
            ("0.5", "0.5"),
            ("-3.0", "-3"),
            ("0.0", "0"),
            ("1e20", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("2.5e-7", "2.5e-7"),
            ("0.000001", "0.000001"),
            ("7", "7"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let value: Value = serde_json::from_str(number).unwrap();
            assert_eq!(json(&value).unwrap(), wanted.as_bytes(), "{number}");
        }
    }
}
