//! Between JSON and values: dates, durations and bytes by their declared formats.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Number, Value as Json};

use super::declared::{Declared, DeclaredType, ListKind};
use super::error::EvalError;
use super::library::time::{self, Timestamp};
use super::value::{Items, List, Map, Object, Text, Value};

fn unexpected(expected: &str, json: &Json) -> EvalError {
    let found = match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    };
    EvalError::new(format!("invalid data, expected {expected}, got {found}"))
}

pub(super) fn from_json<'a>(
    json: &'a Json,
    declared: Option<&'a DeclaredType>,
) -> Result<Value<'a>, EvalError> {
    let Some(declared) = declared else { return Ok(undeclared(json)) };
    if json.is_null() {
        return Ok(Value::Null);
    }
    match (&declared.kind, json) {
        (Declared::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (Declared::Bool, _) => Err(unexpected("bool", json)),
        (Declared::Int, Json::Number(number)) => {
            int(number).map(Value::Int).ok_or_else(|| unexpected("int", json))
        }
        (Declared::Int, _) => Err(unexpected("int", json)),
        (Declared::Double, Json::Number(number)) => {
            number.as_f64().map(Value::Double).ok_or_else(|| unexpected("float", json))
        }
        (Declared::Double, _) => Err(unexpected("float", json)),
        (Declared::IntOrString, Json::Number(number)) if int(number).is_some() => Ok(undeclared(json)),
        (Declared::IntOrString, Json::String(_)) => Ok(undeclared(json)),
        (Declared::IntOrString, _) => {
            Err(EvalError::new("invalid data, expected XIntOrString value to be either a string or integer"))
        }
        (Declared::List { items, list_kind }, Json::Array(list)) => {
            let kind = (*list_kind != ListKind::Atomic).then_some(list_kind);
            Ok(Value::List(List { items: Items::Json(list, Some(items)), kind }))
        }
        (Declared::List { .. }, _) => {
            Err(EvalError::new("invalid data, expected an array for the provided schema with type=array"))
        }
        (Declared::Map { values }, Json::Object(map)) => Ok(Value::Map(Map::Json(map, Some(values)))),
        (Declared::Object(of), Json::Object(json)) => Ok(Value::Object(Object { json, of })),
        (Declared::Map { .. } | Declared::Object(_), _) => {
            Err(EvalError::new("invalid data, expected a map for the provided schema with type=object"))
        }
        (_, Json::String(text)) => string(&declared.kind, text),
        _ => Err(unexpected("string", json)),
    }
}

fn int(number: &Number) -> Option<i64> {
    // A whole number that was written as `1.0` is an integer to whoever reads JSON into integers.
    number.as_i64().or_else(|| {
        number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9e18).map(|value| value as i64)
    })
}

fn string<'a>(kind: &Declared, text: &'a str) -> Result<Value<'a>, EvalError> {
    match kind {
        Declared::Duration => time::parse_schema_duration(text).map(Value::Duration).ok_or_else(|| {
            EvalError::new(format!("Invalid duration {text}: unable to parse {text:?} as a duration"))
        }),
        Declared::Date => Timestamp::parse_date(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}"))),
        Declared::DateTime => Timestamp::parse(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}"))),
        Declared::Bytes => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(|bytes| Value::Bytes(Arc::from(bytes)))
            .map_err(|_| EvalError::new(format!("Invalid byte formatted string {text}"))),
        _ => Ok(Value::String(Text::Borrowed(text))),
    }
}

fn undeclared(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => Value::Int(value),
            (None, Some(value), _) => Value::Uint(value),
            (None, None, value) => Value::Double(value.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List { items: Items::Json(items, None), kind: None }),
        Json::Object(map) => Value::Map(Map::Json(map, None)),
    }
}

pub(super) fn to_json(value: &Value<'_>) -> Option<Json> {
    Some(match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => Json::Number(Number::from_f64(*value)?),
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Value::Timestamp(timestamp) => Json::String(timestamp.to_string()),
        Value::Duration(nanoseconds) => Json::String(time::duration_text(*nanoseconds)),
        Value::List(list) => {
            Json::Array(list.iter().map(|item| to_json(&item.ok()?)).collect::<Option<_>>()?)
        }
        Value::Map(map) => {
            let entries = map.to_entries().ok()?;
            let mut object = serde_json::Map::new();
            for (key, value) in entries.values() {
                object.insert(key.as_str()?.to_owned(), to_json(value)?);
            }
            Json::Object(object)
        }
        Value::Object(object) => Json::Object(object.json.clone()),
        Value::Optional(Some(inner)) => to_json(inner)?,
        Value::Type(_) | Value::Opaque(_) => return None,
    })
}
