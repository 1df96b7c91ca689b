//! Conversions between types: `int("1")`, `string(1.5)`, `timestamp("…")`.

use std::sync::Arc;

use super::time;
use super::{Opaque, addresses};
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

pub(super) fn declare(functions: &mut Functions) {
    functions.global("bool", bool, &[("bool_to_bool", "bool -> bool"), ("string_to_bool", "string -> bool")]);
    functions.global(
        "bytes",
        bytes,
        &[("bytes_to_bytes", "bytes -> bytes"), ("string_to_bytes", "string -> bytes")],
    );
    functions.global(
        "double",
        double,
        &[
            ("double_to_double", "double -> double"),
            ("int64_to_double", "int -> double"),
            ("string_to_double", "string -> double"),
            ("uint64_to_double", "uint -> double"),
        ],
    );
    functions.global(
        "duration",
        duration,
        &[
            ("duration_to_duration", "duration -> duration"),
            ("int64_to_duration", "int -> duration"),
            ("string_to_duration", "string -> duration"),
        ],
    );
    functions.global("dyn", dynamic, &[("to_dyn", "A -> dyn")]);
    functions.global(
        "int",
        int,
        &[
            ("int64_to_int64", "int -> int"),
            ("double_to_int64", "double -> int"),
            ("duration_to_int64", "duration -> int"),
            ("string_to_int64", "string -> int"),
            ("timestamp_to_int64", "timestamp -> int"),
            ("uint64_to_int64", "uint -> int"),
        ],
    );
    functions.global(
        "uint",
        uint,
        &[
            ("uint64_to_uint64", "uint -> uint"),
            ("double_to_uint64", "double -> uint"),
            ("int64_to_uint64", "int -> uint"),
            ("string_to_uint64", "string -> uint"),
        ],
    );
    functions.global(
        "string",
        string,
        &[
            ("string_to_string", "string -> string"),
            ("bool_to_string", "bool -> string"),
            ("bytes_to_string", "bytes -> string"),
            ("double_to_string", "double -> string"),
            ("duration_to_string", "duration -> string"),
            ("int64_to_string", "int -> string"),
            ("timestamp_to_string", "timestamp -> string"),
            ("uint64_to_string", "uint -> string"),
            ("ip_to_string", "ip -> string"),
            ("cidr_to_string", "cidr -> string"),
        ],
    );
    functions.global(
        "timestamp",
        timestamp,
        &[
            ("timestamp_to_timestamp", "timestamp -> timestamp"),
            ("int64_to_timestamp", "int -> timestamp"),
            ("string_to_timestamp", "string -> timestamp"),
        ],
    );
}

type Converted<'a> = Result<Value<'a>, EvalError>;

fn conversion_error(from: &str, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{from}' to '{to}'"))
}

fn dynamic<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    arguments.first().cloned().ok_or_else(EvalError::no_such_overload)
}

fn bool<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    match arguments {
        [value @ Value::Bool(_)] => Ok(value.clone()),
        [Value::String(text)] => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(conversion_error("string", "bool")),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn bytes<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    match arguments {
        [value @ Value::Bytes(_)] => Ok(value.clone()),
        [Value::String(text)] => Ok(Value::Bytes(Arc::from(text.as_bytes()))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn parsed_double(text: &str) -> Option<f64> {
    let plain = text.trim_start_matches(['+', '-']);
    let special = ["inf", "infinity", "nan"].iter().any(|special| plain.eq_ignore_ascii_case(special));
    if !special && !plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    // Between digits an underscore may be.
    let bytes = text.as_bytes();
    let between = |place: usize| {
        place > 0 && bytes[place - 1].is_ascii_digit() && bytes.get(place + 1).is_some_and(u8::is_ascii_digit)
    };
    if text.match_indices('_').any(|(place, _)| !between(place)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn double<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    match arguments {
        [value @ Value::Double(_)] => Ok(value.clone()),
        [Value::Int(value)] => Ok(Value::Double(*value as f64)),
        [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
        [Value::String(text)] => {
            parsed_double(text).map(Value::Double).ok_or_else(|| conversion_error("string", "double"))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn duration<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    match arguments {
        [value @ Value::Duration(_)] => Ok(value.clone()),
        [Value::Int(nanoseconds)] => Ok(Value::Duration(*nanoseconds)),
        [Value::String(text)] => time::parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| conversion_error("string", "google.protobuf.Duration")),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn int<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    let overflow = || EvalError::new("integer overflow");
    match arguments {
        [value @ Value::Int(_)] => Ok(value.clone()),
        [Value::Double(value)] => {
            // The largest integers are beyond what a double tells apart.
            if value.is_finite() && *value > -(2f64.powi(63)) && *value < 2f64.powi(63) {
                Ok(Value::Int(*value as i64))
            } else {
                Err(overflow())
            }
        }
        [Value::Duration(nanoseconds)] => Ok(Value::Int(*nanoseconds)),
        [Value::String(text)] => text.parse().map(Value::Int).map_err(|_| conversion_error("string", "int")),
        [Value::Timestamp(timestamp)] => Ok(Value::Int(timestamp.seconds())),
        [Value::Uint(value)] => i64::try_from(*value).map(Value::Int).map_err(|_| overflow()),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn uint<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    let overflow = || EvalError::new("unsigned integer overflow");
    match arguments {
        [value @ Value::Uint(_)] => Ok(value.clone()),
        [Value::Double(value)] => {
            if value.is_finite() && *value >= 0.0 && *value < 2f64.powi(64) {
                Ok(Value::Uint(*value as u64))
            } else {
                Err(overflow())
            }
        }
        [Value::Int(value)] => u64::try_from(*value).map(Value::Uint).map_err(|_| overflow()),
        [Value::String(text)] if !text.starts_with('+') => {
            text.parse().map(Value::Uint).map_err(|_| conversion_error("string", "uint"))
        }
        [Value::String(_)] => Err(conversion_error("string", "uint")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A double in the fewest digits that tell it from all others.
pub(in crate::cel) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let magnitude = value.abs();
    if value != 0.0 && !(1e-4..1e6).contains(&magnitude) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value}")
}

fn string<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    match arguments {
        [value @ Value::String(_)] => Ok(value.clone()),
        [Value::Bytes(bytes)] => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::text(text)),
            Err(_) => Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        [Value::Opaque(Opaque::Ip(address))] => Ok(Value::text(address.to_string())),
        [Value::Opaque(Opaque::Cidr(cidr))] => Ok(Value::text(addresses::cidr_text(cidr))),
        [
            value @ (Value::Bool(_)
            | Value::Double(_)
            | Value::Duration(_)
            | Value::Int(_)
            | Value::Timestamp(_)
            | Value::Uint(_)),
        ] => Ok(Value::text(text(value))),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A value as text, for `string()` and for messages.
pub(in crate::cel) fn text(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double_text(*value),
        Value::String(text) => text.to_string(),
        Value::Duration(nanoseconds) => time::duration_text(*nanoseconds),
        Value::Timestamp(timestamp) => timestamp.to_string(),
        other => other.type_name().into_owned(),
    }
}

fn timestamp<'a>(_: &Site, arguments: &[Value<'a>]) -> Converted<'a> {
    match arguments {
        [value @ Value::Timestamp(_)] => Ok(value.clone()),
        [Value::Int(seconds)] => time::Timestamp::from_seconds(*seconds)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new("timestamp overflow")),
        [Value::String(text)] => time::Timestamp::parse(text)
            .map(Value::Timestamp)
            .ok_or_else(|| conversion_error("string", "google.protobuf.Timestamp")),
        _ => Err(EvalError::no_such_overload()),
    }
}
