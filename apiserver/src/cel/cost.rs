//! What calls cost while they run, in the units that limits are written in.

use super::value::Value;

/// One step of evaluation at least.
pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;
pub(super) const STRING_FACTOR: f64 = 0.1;
pub(super) const PATTERN_FACTOR: f64 = 0.25;
/// A pattern that is inside a format has no length to be seen.
pub(super) const FORMAT_PATTERN_LENGTH: u64 = 128;

/// What one evaluation may cost.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What all evaluations for one object may cost together.
pub const OBJECT_BUDGET: u64 = 10_000_000;

/// How the cost of a call follows from its arguments and result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Fixed(u64),
    /// The text of the first argument is read this often.
    Traverse(u32),
    /// The result is written: joined text.
    TraverseResult,
    /// Each item of the second argument is looked at.
    In,
    Equality,
    Ordering,
    /// Both texts are copied.
    Concatenation,
    Contains,
    Pattern,
    Format,
    /// All of the first argument is walked.
    Walk,
    ContainsIp {
        parses: bool,
    },
    ContainsCidr {
        parses: bool,
    },
    /// A list as long as the result is made.
    NewList,
    Flatten,
    /// Items of this argument are compared with each other.
    SelfCompare(usize),
    /// Items of two lists are compared with each other, this often.
    Sets(u64),
}

impl Rule {
    /// The rule for a function; for overloads that cost differently, only if it is certain which one is meant.
    pub fn of(function: &str, overload: Option<&str>) -> Rule {
        match function {
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return Rule::Walk,
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
                return Rule::Traverse(1);
            }
            "replace" | "split" | "ip.isCanonical" => return Rule::Traverse(2),
            "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                return Rule::Traverse(1);
            }
            "ip" => return if overload == Some("cidr_ip") { Rule::Fixed(1) } else { Rule::Traverse(1) },
            "join" => return Rule::TraverseResult,
            "find" | "findAll" => return Rule::Pattern,
            "validate" => return Rule::Format,
            "containsIP" => return Rule::ContainsIp { parses: overload == Some("cidr_contains_ip_string") },
            "containsCIDR" => {
                return Rule::ContainsCidr { parses: overload == Some("cidr_contains_cidr_string") };
            }
            _ => {}
        }
        match overload.unwrap_or_default() {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
            | "strings_quote" | "string_format" => Rule::Traverse(1),
            "in_list" => Rule::In,
            "equals" | "not_equals" => Rule::Equality,
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes" => Rule::Ordering,
            "add_string" | "add_bytes" => Rule::Concatenation,
            "matches_string" => Rule::Pattern,
            "contains_string" => Rule::Contains,
            "list_slice" | "lists_range" | "list_reverse" => Rule::NewList,
            "list_flatten" | "list_flatten_int" => Rule::Flatten,
            "list_distinct" => Rule::SelfCompare(0),
            "list_sets_contains_list" | "list_sets_intersects_list" => Rule::Sets(1),
            "list_sets_equivalent_list" => Rule::Sets(2),
            overload if overload.ends_with("_sort") && overload.starts_with("list_") => Rule::SelfCompare(0),
            overload if overload.ends_with("_sortByAssociatedKeys") => Rule::SelfCompare(1),
            _ => Rule::Fixed(1),
        }
    }

    pub fn cost(self, arguments: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size = |index: usize| arguments.get(index).map_or(1, size);
        match self {
            Rule::Fixed(cost) => cost,
            Rule::Traverse(times) => scaled(size(0), STRING_FACTOR * f64::from(times)),
            Rule::TraverseResult => scaled(result.map_or(0, self::size), STRING_FACTOR * 2.0),
            Rule::In => size(1),
            Rule::Equality if matches!(arguments.first(), Some(Value::Opaque(_))) => 1,
            Rule::Equality | Rule::Ordering => scaled(size(0).min(size(1)), STRING_FACTOR),
            Rule::Concatenation => scaled(size(0).saturating_add(size(1)), STRING_FACTOR),
            Rule::Contains => scaled(size(0), STRING_FACTOR).saturating_mul(scaled(size(1), STRING_FACTOR)),
            Rule::Pattern => pattern(size(0), size(1)),
            Rule::Format => pattern(size(1), FORMAT_PATTERN_LENGTH),
            Rule::Walk => arguments.first().map_or(0, |value| walk(value, 0)),
            Rule::ContainsIp { parses } => {
                scaled(size(0) * 2, STRING_FACTOR) + if parses { scaled(size(1), STRING_FACTOR) } else { 0 }
            }
            Rule::ContainsCidr { parses } => {
                let parsed = if parses { scaled(size(1), STRING_FACTOR) } else { 0 };
                scaled(size(0) * 2, STRING_FACTOR) + scaled(size(0), STRING_FACTOR) + 1 + parsed
            }
            Rule::NewList => (result.map_or(0, self::size)).saturating_add(1 + LIST),
            Rule::Flatten => {
                let depth = match arguments.get(1) {
                    Some(Value::Int(depth)) => (*depth).max(0) as f64,
                    _ => 1.0,
                };
                ((size(0) as f64 * depth) as u64).saturating_add(1 + LIST)
            }
            Rule::SelfCompare(argument) => {
                let textual = matches!(
                    arguments.get(argument),
                    Some(Value::List(list)) if matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))))
                );
                let factor = if textual { 2.0 + STRING_FACTOR } else { 2.0 };
                ((size(argument).saturating_mul(size(argument)) as f64 * factor) as u64)
                    .saturating_add(1 + LIST)
            }
            Rule::Sets(times) => size(0).saturating_mul(size(1)).saturating_mul(times).saturating_add(1),
        }
    }
}

pub(super) fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn pattern(text: u64, pattern: u64) -> u64 {
    scaled(text.saturating_add(1), STRING_FACTOR).saturating_mul(scaled(pattern, PATTERN_FACTOR))
}

fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(inner)) => size(inner),
        Value::Opaque(opaque) => opaque.size(),
        value => value.size().unwrap_or(1),
    }
}

/// The cost of walking a value as a tree of data.
fn walk(value: &Value<'_>, depth: usize) -> u64 {
    if depth > 200 {
        return 1;
    }
    match value {
        Value::String(text) => (text.len() as f64 * STRING_FACTOR) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * STRING_FACTOR) as u64,
        Value::List(list) => list.iter().map(|item| item.map_or(1, |item| walk(&item, depth + 1))).sum(),
        Value::Map(map) => map
            .keys()
            .iter()
            .map(|key| {
                walk(key, depth + 1)
                    + map.get(key).and_then(Result::ok).map_or(1, |value| walk(&value, depth + 1))
            })
            .sum(),
        _ => 1,
    }
}
