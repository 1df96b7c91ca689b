//! Optional values.

use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

pub(super) fn declare(functions: &mut Functions) {
    functions.global("optional.of", of, &[("optional_of", "V -> optional(V)")]);
    functions.global(
        "optional.ofNonZeroValue",
        of_non_zero,
        &[("optional_ofNonZeroValue", "V -> optional(V)")],
    );
    functions.global("optional.none", none, &[("optional_none", " -> optional(V)")]);
    functions.member("value", value, &[("optional_value", "optional(V) -> V")]);
    functions.member("hasValue", has_value, &[("optional_hasValue", "optional(V) -> bool")]);
    // Evaluation itself does these two, since the alternative is not always evaluated.
    functions.declare(
        "or",
        true,
        None,
        &[("optional_or_optional", "optional(V), optional(V) -> optional(V)")],
    );
    functions.declare("orValue", true, None, &[("optional_orValue_value", "optional(V), V -> V")]);
    functions.member("first", first, &[("list_first", "list(V) -> optional(V)")]);
    functions.member("last", last, &[("list_last", "list(V) -> optional(V)")]);
    functions.global("optional.unwrap", unwrap, &[("optional_unwrap", "list(optional(V)) -> list(V)")]);
    functions.member("unwrapOpt", unwrap, &[("optional_unwrapOpt", "list(optional(V)) -> list(V)")]);
}

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

fn of<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    arguments.first().cloned().map(Value::some).ok_or_else(EvalError::no_such_overload)
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::Duration(value) => *value == 0,
        Value::Object(object) => object.len() == 0,
        other => other.size() == Some(0),
    }
}

fn of_non_zero<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    match arguments {
        [value] if is_zero(value) => Ok(Value::NONE),
        [value] => Ok(Value::some(value.clone())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn none<'a>(_: &Site, _: &[Value<'a>]) -> Result<'a> {
    Ok(Value::NONE)
}

fn value<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    match arguments {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn has_value<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    match arguments {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn end<'a>(arguments: &[Value<'a>], place: impl Fn(usize) -> Option<usize>) -> Result<'a> {
    let [Value::List(list)] = arguments else { return Err(EvalError::no_such_overload()) };
    match place(list.len()).and_then(|index| list.get(index)) {
        Some(item) => item.map(Value::some),
        None => Ok(Value::NONE),
    }
}

fn first<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    end(arguments, |_| Some(0))
}

fn last<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    end(arguments, |length| length.checked_sub(1))
}

fn unwrap<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::List(list)] = arguments else { return Err(EvalError::no_such_overload()) };
    let mut values = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(Some(value)) => values.push((*value).clone()),
            Value::Optional(None) => {}
            other => {
                return Err(EvalError::new(format!(
                    "value {} is not optional",
                    super::conversions::text(&other)
                )));
            }
        }
    }
    Ok(Value::list(values))
}
