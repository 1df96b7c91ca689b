//! The operators of numbers, texts, times and lists, with an error where a result does not fit.

use std::sync::Arc;

use super::ast::operators;
use super::equality;
use super::error::EvalError;
use super::library::time::Timestamp;
use super::value::Value;

/// No evaluation makes a text or a list larger than this, in bytes or items.
pub(super) const SIZE_MAX: usize = 32 << 20;

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

fn overflow(of: &'static str) -> EvalError {
    EvalError::new(match of {
        "int" => "integer overflow",
        "uint" => "unsigned integer overflow",
        "timestamp" => "timestamp overflow",
        _ => "integer overflow",
    })
}

fn moved(timestamp: Timestamp, nanoseconds: i128) -> std::result::Result<Timestamp, EvalError> {
    timestamp.plus(nanoseconds).ok_or_else(|| overflow("timestamp"))
}

pub(super) fn size_error() -> EvalError {
    EvalError::new("the result is too large")
}

pub(super) fn add<'a>(left: &Value<'a>, right: &Value<'a>) -> Result<'a> {
    Ok(match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            Value::Int(left.checked_add(*right).ok_or_else(|| overflow("int"))?)
        }
        (Value::Uint(left), Value::Uint(right)) => {
            Value::Uint(left.checked_add(*right).ok_or_else(|| overflow("uint"))?)
        }
        (Value::Double(left), Value::Double(right)) => Value::Double(left + right),
        (Value::String(left), Value::String(right)) => {
            if left.len() + right.len() > SIZE_MAX {
                return Err(size_error());
            }
            let mut text = String::with_capacity(left.len() + right.len());
            text.push_str(left);
            text.push_str(right);
            Value::text(text)
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            if left.len() + right.len() > SIZE_MAX {
                return Err(size_error());
            }
            Value::Bytes(Arc::from([&**left, &**right].concat()))
        }
        (Value::List(left), Value::List(right)) => {
            if left.len() + right.len() > SIZE_MAX {
                return Err(size_error());
            }
            equality::added(left, right)?
        }
        (Value::Duration(left), Value::Duration(right)) => {
            Value::Duration(left.checked_add(*right).ok_or_else(|| overflow("duration"))?)
        }
        (Value::Timestamp(timestamp), Value::Duration(duration))
        | (Value::Duration(duration), Value::Timestamp(timestamp)) => {
            Value::Timestamp(moved(*timestamp, (*duration).into())?)
        }
        (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Bytes(_) | Value::List(_), _) => {
            return Err(EvalError::no_such_overload());
        }
        (left, _) => return Err(EvalError::no_such_operator(operators::ADD, left)),
    })
}

pub(super) fn subtract<'a>(left: &Value<'a>, right: &Value<'a>) -> Result<'a> {
    Ok(match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            Value::Int(left.checked_sub(*right).ok_or_else(|| overflow("int"))?)
        }
        (Value::Uint(left), Value::Uint(right)) => {
            Value::Uint(left.checked_sub(*right).ok_or_else(|| overflow("uint"))?)
        }
        (Value::Double(left), Value::Double(right)) => Value::Double(left - right),
        (Value::Duration(left), Value::Duration(right)) => {
            Value::Duration(left.checked_sub(*right).ok_or_else(|| overflow("duration"))?)
        }
        (Value::Timestamp(left), Value::Duration(right)) => {
            Value::Timestamp(moved(*left, -i128::from(*right))?)
        }
        (Value::Timestamp(left), Value::Timestamp(right)) => {
            let between = left.as_nanoseconds() - right.as_nanoseconds();
            Value::Duration(i64::try_from(between).map_err(|_| overflow("duration"))?)
        }
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => return Err(EvalError::no_such_overload()),
        (left, _) => return Err(EvalError::no_such_operator(operators::SUBTRACT, left)),
    })
}

pub(super) fn multiply<'a>(left: &Value<'a>, right: &Value<'a>) -> Result<'a> {
    Ok(match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            Value::Int(left.checked_mul(*right).ok_or_else(|| overflow("int"))?)
        }
        (Value::Uint(left), Value::Uint(right)) => {
            Value::Uint(left.checked_mul(*right).ok_or_else(|| overflow("uint"))?)
        }
        (Value::Double(left), Value::Double(right)) => Value::Double(left * right),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => return Err(EvalError::no_such_overload()),
        (left, _) => return Err(EvalError::no_such_operator(operators::MULTIPLY, left)),
    })
}

pub(super) fn divide<'a>(left: &Value<'a>, right: &Value<'a>) -> Result<'a> {
    Ok(match (left, right) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("division by zero"));
        }
        (Value::Int(left), Value::Int(right)) => {
            Value::Int(left.checked_div(*right).ok_or_else(|| overflow("int"))?)
        }
        (Value::Uint(left), Value::Uint(right)) => Value::Uint(left / right),
        (Value::Double(left), Value::Double(right)) => Value::Double(left / right),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => return Err(EvalError::no_such_overload()),
        (left, _) => return Err(EvalError::no_such_operator(operators::DIVIDE, left)),
    })
}

pub(super) fn modulo<'a>(left: &Value<'a>, right: &Value<'a>) -> Result<'a> {
    Ok(match (left, right) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("modulus by zero"));
        }
        (Value::Int(left), Value::Int(right)) => {
            Value::Int(left.checked_rem(*right).ok_or_else(|| overflow("int"))?)
        }
        (Value::Uint(left), Value::Uint(right)) => Value::Uint(left % right),
        (Value::Int(_) | Value::Uint(_), _) => return Err(EvalError::no_such_overload()),
        (left, _) => return Err(EvalError::no_such_operator(operators::MODULO, left)),
    })
}

pub(super) fn negate<'a>(operand: &Value<'a>) -> Result<'a> {
    Ok(match operand {
        Value::Int(value) => Value::Int(value.checked_neg().ok_or_else(|| overflow("int"))?),
        Value::Double(value) => Value::Double(-value),
        Value::Duration(value) => Value::Duration(value.checked_neg().ok_or_else(|| overflow("duration"))?),
        _ => return Err(EvalError::no_such_overload()),
    })
}
