//! What the functions of Kubernetes' libraries cost at most.

use super::ast::{Expr, Kind, Literal};
use super::cost::{LIST, PATTERN_FACTOR, STRING_FACTOR};
use super::estimate::{CallEstimate, Estimator, Operand, Range, format_pattern, is_equality};
use super::types::{CIDR, FORMAT, IP, QUANTITY, SEMVER, Type, URL};

/// The estimate for a call, if its function is one whose cost depends on more than that it is called.
pub(super) fn estimate(
    sizes: &Estimator<'_>,
    function: &str,
    overload: &str,
    target: Option<&Operand<'_>>,
    arguments: &[Operand<'_>],
) -> Option<CallEstimate> {
    let only = |cost: Range| Some(CallEstimate { cost, result: None });
    if let Some(list) = lists(sizes, overload, target, arguments) {
        return Some(list);
    }
    match (function, target, arguments) {
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
            only(match sizes.items(target) {
                Some((of, size)) => {
                    let each = match of {
                        Type::String | Type::Bytes => Range::fixed(1).plus(size.scaled(STRING_FACTOR)),
                        _ => Range::fixed(1),
                    };
                    sizes.size_of(target).times(each)
                }
                None => sizes.size_of(target).scaled(STRING_FACTOR),
            })
        }
        ("url" | "jsonpatch.escapeKey", _, [text]) => {
            let size = sizes.size_of(text);
            Some(CallEstimate { cost: size.scaled(STRING_FACTOR), result: Some(size) })
        }
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
            let size = sizes.size_of(target);
            Some(CallEstimate { cost: size.scaled(STRING_FACTOR), result: Some(size) })
        }
        ("replace", Some(target), [old, new, ..]) => {
            let (size, old, new) = (sizes.size_of(target), sizes.size_of(old), sizes.size_of(new));
            Some(CallEstimate {
                cost: size.scaled(2.0 * STRING_FACTOR),
                result: Some(replaced(size, old, new)),
            })
        }
        ("split", Some(target), _) => {
            let size = sizes.size_of(target);
            let parts = arguments
                .get(1)
                .and_then(|parts| int_literal(parts.expression))
                .map_or(size.max, |parts| parts as u64);
            Some(CallEstimate {
                cost: size.scaled(2.0 * STRING_FACTOR),
                result: Some(Range { min: 0, max: parts }),
            })
        }
        ("join", Some(target), _) => {
            let count = sizes.size_of(target);
            let mut size = sizes.items(target).map_or(Range::fixed(0), |(_, item)| count.times(item));
            if let Some(separator) = arguments.first() {
                let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                size = size.plus(sizes.size_of(separator).times(between));
            }
            Some(CallEstimate { cost: size.scaled(STRING_FACTOR), result: Some(size) })
        }
        ("find" | "findAll", Some(target), [pattern, ..]) => {
            let size = sizes.size_of(target);
            let text = size.plus(Range::fixed(1)).scaled(STRING_FACTOR);
            let cost = text.times(sizes.size_of(pattern).scaled(PATTERN_FACTOR));
            Some(CallEstimate { cost, result: Some(Range { min: 0, max: size.max }) })
        }
        ("ip", _, _) if overload == "cidr_ip" => only(Range::fixed(1)),
        (
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver",
            _,
            [text, ..],
        ) => only(sizes.size_of(text).scaled(STRING_FACTOR)),
        ("ip.isCanonical", _, [text, ..]) => only(sizes.size_of(text).scaled(2.0 * STRING_FACTOR)),
        ("containsIP" | "containsCIDR", _, [other, ..]) => {
            let bytes = Range { min: 4, max: 16 };
            let mut cost = bytes.plus(bytes).scaled(STRING_FACTOR);
            if function == "containsCIDR" {
                cost = cost.plus(bytes.scaled(STRING_FACTOR)).plus(Range::fixed(1));
            }
            if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                cost = cost.plus(sizes.size_of(other).scaled(STRING_FACTOR));
            }
            only(cost)
        }
        ("validate", _, [text, ..]) => {
            only(sizes.size_of(text).scaled(STRING_FACTOR).scaled(format_pattern()))
        }
        (function, None, [left, right]) if is_equality(function) && left.of == right.of => match left.of {
            of if [IP, CIDR, QUANTITY, SEMVER].contains(of) => only(Range::fixed(1)),
            of if *of == FORMAT => only(Range { min: 1, max: 64 }.scaled(STRING_FACTOR)),
            of if *of == URL => {
                only(Range { min: 1, max: Estimator::computed(right).max.max(1) }.scaled(STRING_FACTOR))
            }
            _ => None,
        },
        _ => None,
    }
}

fn int_literal(expression: &Expr) -> Option<i64> {
    match expression.kind {
        Kind::Literal(Literal::Int(value)) => Some(value),
        _ => None,
    }
}

/// The length of a text with parts replaced.
fn replaced(size: Range, old: Range, new: Range) -> Range {
    let count = |size: u64, old: u64| (size as f64 / old as f64).ceil() as u64;
    let (count_max, kept_max) = if old.min == 0 {
        (size.max.saturating_add(1), size.max)
    } else if new.max <= old.min {
        (0, size.max)
    } else {
        (count(size.max, old.min), 0)
    };
    let (count_min, kept_min) = if old.max == 0 {
        (size.min.saturating_add(1), size.min)
    } else if old.max <= new.min {
        (0, size.min)
    } else {
        (count(size.min, old.max), 0)
    };
    Range { min: count_min, max: count_max }.times(new).plus(Range { min: kept_min, max: kept_max })
}

/// The functions that make lists, whose cost is that of what they make.
fn lists(
    sizes: &Estimator<'_>,
    overload: &str,
    target: Option<&Operand<'_>>,
    arguments: &[Operand<'_>],
) -> Option<CallEstimate> {
    let made = |factor: f64, size: Range| {
        Some(CallEstimate { cost: size.scaled(factor).plus(Range::fixed(1 + LIST)), result: Some(size) })
    };
    let literal = |argument: &Operand<'_>, otherwise: u64| {
        int_literal(argument.expression).map_or(otherwise, |value| value.max(0) as u64)
    };
    let compared = |list: &Operand<'_>, textual: bool| {
        let size = sizes.size_of(list);
        made(if textual { 2.0 + STRING_FACTOR } else { 2.0 }, size.times(size))
    };
    match (overload, target, arguments) {
        ("list_slice", Some(list), [start, end]) => {
            let (start, end) = (literal(start, 0), literal(end, sizes.size_of(list).max));
            made(1.0, Range::fixed(end.wrapping_sub(start)))
        }
        ("lists_range", None, [end]) => made(1.0, Range::fixed(literal(end, u64::MAX))),
        ("list_reverse", Some(list), []) => made(1.0, sizes.size_of(list)),
        ("list_flatten", Some(list), []) => made(1.0, sizes.size_of(list)),
        ("list_flatten_int", Some(list), [depth]) => {
            made(literal(depth, u64::MAX) as f64, sizes.size_of(list))
        }
        ("list_distinct", Some(list), []) => compared(list, false),
        ("list_string_sort" | "list_bytes_sort", Some(list), []) => compared(list, true),
        ("list_string_sortByAssociatedKeys" | "list_bytes_sortByAssociatedKeys", Some(_), [keys]) => {
            compared(keys, true)
        }
        (sort, Some(list), []) if sort.ends_with("_sort") => compared(list, false),
        (sort, Some(_), [keys]) if sort.ends_with("_sortByAssociatedKeys") => compared(keys, false),
        (
            "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list",
            None,
            [one, other],
        ) => {
            let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
            let cost = sizes.size_of(one).times(sizes.size_of(other)).scaled(factor).plus(Range::fixed(1));
            Some(CallEstimate { cost, result: None })
        }
        _ => None,
    }
}
