//! Operators, and the functions of the language itself.

use crate::cel::ast::operators as op;
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

pub(super) fn declare(functions: &mut Functions) {
    functions.operator(op::CONDITIONAL, &[("conditional", "bool, A, A -> A")]);
    functions.operator(op::AND, &[("logical_and", "bool, bool -> bool")]);
    functions.operator(op::OR, &[("logical_or", "bool, bool -> bool")]);
    functions.operator(op::NOT, &[("logical_not", "bool -> bool")]);
    functions.operator(op::NOT_STRICTLY_FALSE, &[("not_strictly_false", "bool -> bool")]);
    functions.operator(op::EQUALS, &[("equals", "A, A -> bool")]);
    functions.operator(op::NOT_EQUALS, &[("not_equals", "A, A -> bool")]);
    functions.operator(
        op::ADD,
        &[
            ("add_bytes", "bytes, bytes -> bytes"),
            ("add_double", "double, double -> double"),
            ("add_duration_duration", "duration, duration -> duration"),
            ("add_duration_timestamp", "duration, timestamp -> timestamp"),
            ("add_timestamp_duration", "timestamp, duration -> timestamp"),
            ("add_int64", "int, int -> int"),
            ("add_list", "list(A), list(A) -> list(A)"),
            ("add_string", "string, string -> string"),
            ("add_uint64", "uint, uint -> uint"),
        ],
    );
    functions.operator(
        op::SUBTRACT,
        &[
            ("subtract_double", "double, double -> double"),
            ("subtract_duration_duration", "duration, duration -> duration"),
            ("subtract_int64", "int, int -> int"),
            ("subtract_timestamp_duration", "timestamp, duration -> timestamp"),
            ("subtract_timestamp_timestamp", "timestamp, timestamp -> duration"),
            ("subtract_uint64", "uint, uint -> uint"),
        ],
    );
    functions.operator(
        op::MULTIPLY,
        &[
            ("multiply_double", "double, double -> double"),
            ("multiply_int64", "int, int -> int"),
            ("multiply_uint64", "uint, uint -> uint"),
        ],
    );
    functions.operator(
        op::DIVIDE,
        &[
            ("divide_double", "double, double -> double"),
            ("divide_int64", "int, int -> int"),
            ("divide_uint64", "uint, uint -> uint"),
        ],
    );
    functions.operator(
        op::MODULO,
        &[("modulo_int64", "int, int -> int"), ("modulo_uint64", "uint, uint -> uint")],
    );
    functions.operator(op::NEGATE, &[("negate_double", "double -> double"), ("negate_int64", "int -> int")]);
    ordering(functions);
    functions.operator(
        op::INDEX,
        &[
            ("index_list", "list(A), int -> A"),
            ("index_map", "map(A, B), A -> B"),
            ("optional_list_index_int", "optional(list(V)), int -> optional(V)"),
            ("optional_map_index_value", "optional(map(K, V)), K -> optional(V)"),
        ],
    );
    functions.operator(
        op::OPTIONAL_INDEX,
        &[
            ("list_optindex_optional_int", "list(V), int -> optional(V)"),
            ("optional_list_optindex_optional_int", "optional(list(V)), int -> optional(V)"),
            ("map_optindex_optional_value", "map(K, V), K -> optional(V)"),
            ("optional_map_optindex_optional_value", "optional(map(K, V)), K -> optional(V)"),
        ],
    );
    functions.operator(op::IN, &[("in_list", "A, list(A) -> bool"), ("in_map", "A, map(A, B) -> bool")]);
    functions.operator(
        op::MAP_INSERT,
        &[
            ("@mapInsert_map_map", "map(K, V), map(K, V) -> map(K, V)"),
            ("@mapInsert_map_key_value", "map(K, V), K, V -> map(K, V)"),
        ],
    );

    functions.global(
        "size",
        size,
        &[
            ("size_bytes", "bytes -> int"),
            ("size_list", "list(A) -> int"),
            ("size_map", "map(A, B) -> int"),
            ("size_string", "string -> int"),
        ],
    );
    functions.member(
        "size",
        size,
        &[
            ("bytes_size", "bytes -> int"),
            ("list_size", "list(A) -> int"),
            ("map_size", "map(A, B) -> int"),
            ("string_size", "string -> int"),
        ],
    );
    functions.global("type", type_of, &[("type", "A -> type(A)")]);
    functions.member("contains", contains, &[("contains_string", "string, string -> bool")]);
    functions.member("startsWith", starts_with, &[("starts_with_string", "string, string -> bool")]);
    functions.member("endsWith", ends_with, &[("ends_with_string", "string, string -> bool")]);
}

/// Values are ordered with values of their own type, and numbers with any numbers.
fn ordering(functions: &mut Functions) {
    macro_rules! order {
        ($operator:expr, $name:literal) => {
            functions.operator(
                $operator,
                &[
                    (concat!($name, "_bool"), "bool, bool -> bool"),
                    (concat!($name, "_int64"), "int, int -> bool"),
                    (concat!($name, "_int64_double"), "int, double -> bool"),
                    (concat!($name, "_int64_uint64"), "int, uint -> bool"),
                    (concat!($name, "_uint64"), "uint, uint -> bool"),
                    (concat!($name, "_uint64_double"), "uint, double -> bool"),
                    (concat!($name, "_uint64_int64"), "uint, int -> bool"),
                    (concat!($name, "_double"), "double, double -> bool"),
                    (concat!($name, "_double_int64"), "double, int -> bool"),
                    (concat!($name, "_double_uint64"), "double, uint -> bool"),
                    (concat!($name, "_string"), "string, string -> bool"),
                    (concat!($name, "_bytes"), "bytes, bytes -> bool"),
                    (concat!($name, "_timestamp"), "timestamp, timestamp -> bool"),
                    (concat!($name, "_duration"), "duration, duration -> bool"),
                ],
            )
        };
    }
    order!(op::LESS, "less");
    order!(op::LESS_EQUALS, "less_equals");
    order!(op::GREATER, "greater");
    order!(op::GREATER_EQUALS, "greater_equals");
}

fn size<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    match arguments.first().and_then(Value::size) {
        Some(size) => Ok(Value::Int(size as i64)),
        None => Err(EvalError::no_such_overload()),
    }
}

fn type_of<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    arguments.first().map(|value| Value::Type(value.type_of())).ok_or_else(EvalError::no_such_overload)
}

macro_rules! text_test {
    ($name:ident, $test:ident) => {
        fn $name<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
            match arguments {
                [Value::String(text), Value::String(part)] => Ok(Value::Bool(text.$test(&**part))),
                _ => Err(EvalError::no_such_overload()),
            }
        }
    };
}

text_test!(contains, contains);
text_test!(starts_with, starts_with);
text_test!(ends_with, ends_with);
