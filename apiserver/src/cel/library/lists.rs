//! Lists: sums, order, parts of them, and lists taken for sets.

use std::cmp::Ordering;

use crate::cel::arithmetic::{self, SIZE_MAX, size_error};
use crate::cel::ast::operators::SORT_BY_KEYS;
use crate::cel::equality;
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::{List, Value};

pub(super) fn declare(functions: &mut Functions) {
    macro_rules! comparable {
        ($name:literal, $run:ident, $prefix:literal, $suffix:literal, $result:ident) => {
            functions.member(
                $name,
                $run,
                &[
                    (concat!($prefix, "int", $suffix), $result!("int")),
                    (concat!($prefix, "uint", $suffix), $result!("uint")),
                    (concat!($prefix, "double", $suffix), $result!("double")),
                    (concat!($prefix, "bool", $suffix), $result!("bool")),
                    (concat!($prefix, "duration", $suffix), $result!("duration")),
                    (concat!($prefix, "timestamp", $suffix), $result!("timestamp")),
                    (concat!($prefix, "string", $suffix), $result!("string")),
                    (concat!($prefix, "bytes", $suffix), $result!("bytes")),
                ],
            )
        };
    }
    macro_rules! to_bool {
        ($of:literal) => {
            concat!("list(", $of, ") -> bool")
        };
    }
    macro_rules! to_item {
        ($of:literal) => {
            concat!("list(", $of, ") -> ", $of)
        };
    }
    macro_rules! to_list {
        ($of:literal) => {
            concat!("list(", $of, ") -> list(", $of, ")")
        };
    }
    macro_rules! by_keys {
        ($of:literal) => {
            concat!("list(T), list(", $of, ") -> list(T)")
        };
    }
    comparable!("isSorted", is_sorted, "list_", "_is_sorted_bool", to_bool);
    comparable!("max", max, "list_", "_max", to_item);
    comparable!("min", min, "list_", "_min", to_item);
    comparable!("sort", sort, "list_", "_sort", to_list);
    comparable!("@sortByAssociatedKeys", sort_by_keys, "list_", "_sortByAssociatedKeys", by_keys);
    functions.member("sum", sum_int, &[("list_int_sum_int", "list(int) -> int")]);
    functions.member("sum", sum_uint, &[("list_uint_sum_uint", "list(uint) -> uint")]);
    functions.member("sum", sum_double, &[("list_double_sum_double", "list(double) -> double")]);
    functions.member("sum", sum_duration, &[("list_duration_sum_duration", "list(duration) -> duration")]);
    functions.member("indexOf", index_of, &[("list_a_index_of_int", "list(A), A -> int")]);
    functions.member("lastIndexOf", last_index_of, &[("list_a_last_index_of_int", "list(A), A -> int")]);

    functions.member("slice", slice, &[("list_slice", "list(T), int, int -> list(T)")]);
    functions.member(
        "flatten",
        flatten,
        &[("list_flatten", "list(list(T)) -> list(T)"), ("list_flatten_int", "list(dyn), int -> list(dyn)")],
    );
    functions.global("lists.range", range, &[("lists_range", "int -> list(int)")]);
    functions.member("reverse", reverse, &[("list_reverse", "list(T) -> list(T)")]);
    functions.member("distinct", distinct, &[("list_distinct", "list(T) -> list(T)")]);

    functions.global(
        "sets.contains",
        sets_contains,
        &[("list_sets_contains_list", "list(T), list(T) -> bool")],
    );
    functions.global(
        "sets.equivalent",
        sets_equivalent,
        &[("list_sets_equivalent_list", "list(T), list(T) -> bool")],
    );
    functions.global(
        "sets.intersects",
        sets_intersects,
        &[("list_sets_intersects_list", "list(T), list(T) -> bool")],
    );
}

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

fn only<'v, 'a>(arguments: &'v [Value<'a>]) -> std::result::Result<&'v List<'a>, EvalError> {
    match arguments {
        [Value::List(list)] => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_sorted<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let mut earlier: Option<Value<'a>> = None;
    for item in only(arguments)?.iter() {
        let item = item?;
        if let Some(earlier) = &earlier
            && equality::compare(earlier, &item) == Ok(Some(Ordering::Greater))
        {
            return Ok(Value::Bool(false));
        }
        earlier = Some(item);
    }
    Ok(Value::Bool(true))
}

fn extreme<'a>(arguments: &[Value<'a>], better: Ordering, name: &str) -> Result<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in only(arguments)?.iter() {
        let item = item?;
        best = Some(match best {
            // What cannot be compared is not better.
            Some(best) if equality::compare(&item, &best) != Ok(Some(better)) => best,
            _ => item,
        });
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn max<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    extreme(arguments, Ordering::Greater, "max")
}

fn min<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    extreme(arguments, Ordering::Less, "min")
}

fn sum<'a>(arguments: &[Value<'a>], zero: Value<'a>) -> Result<'a> {
    only(arguments)?.iter().try_fold(zero, |total, item| arithmetic::add(&total, &item?))
}

fn sum_int<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    sum(arguments, Value::Int(0))
}

fn sum_uint<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    sum(arguments, Value::Uint(0))
}

fn sum_double<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    sum(arguments, Value::Double(0.0))
}

fn sum_duration<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    sum(arguments, Value::Duration(0))
}

fn positions<'a>(arguments: &[Value<'a>]) -> std::result::Result<Vec<i64>, EvalError> {
    let [Value::List(list), wanted] = arguments else { return Err(EvalError::no_such_overload()) };
    let mut found = Vec::new();
    for (index, item) in list.iter().enumerate() {
        if equality::equal(&item?, wanted)? {
            found.push(index as i64);
        }
    }
    Ok(found)
}

fn index_of<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    Ok(Value::Int(positions(arguments)?.first().copied().unwrap_or(-1)))
}

fn last_index_of<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    Ok(Value::Int(positions(arguments)?.last().copied().unwrap_or(-1)))
}

fn slice<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = arguments else {
        return Err(EvalError::no_such_overload());
    };
    let wrong = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    if *start < 0 || *end < 0 {
        return wrong("negative indexes not supported".into());
    }
    if start > end {
        return wrong("start index must be less than or equal to end index".into());
    }
    if (list.len() as i64) < *end {
        return wrong(format!("list is length {}", list.len()));
    }
    let items = (*start..*end).filter_map(|index| list.get(index as usize));
    Ok(Value::list(items.collect::<std::result::Result<_, _>>()?))
}

fn flatten<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (list, depth) = match arguments {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return Err(EvalError::no_such_overload()),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut flat = Vec::new();
    flatten_into(list, depth.min(1000), &mut flat)?;
    Ok(Value::list(flat))
}

fn flatten_into<'a>(
    list: &List<'a>,
    depth: i64,
    flat: &mut Vec<Value<'a>>,
) -> std::result::Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, flat)?,
            item => flat.push(item),
        }
        if flat.len() > SIZE_MAX {
            return Err(size_error());
        }
    }
    Ok(())
}

fn range<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::Int(end)] = arguments else { return Err(EvalError::no_such_overload()) };
    // More than any evaluation may cost; the call is charged after it.
    if *end > crate::cel::cost::CALL_LIMIT as i64 {
        return Err(EvalError::call_limit());
    }
    Ok(Value::list((0..*end).map(Value::Int).collect()))
}

fn reverse<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let mut items = only(arguments)?.to_values()?;
    items.reverse();
    Ok(Value::list(items))
}

fn distinct<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let list = only(arguments)?;
    if list.len() as u64 > 1000 {
        // What costs the square of its length is refused before it is done.
        return Err(EvalError::call_limit());
    }
    let mut kept: Vec<Value<'a>> = Vec::new();
    'items: for item in list.iter() {
        let item = item?;
        for earlier in &kept {
            if equality::equal(earlier, &item)? {
                continue 'items;
            }
        }
        kept.push(item);
    }
    Ok(Value::list(kept))
}

fn sort<'a>(site: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    match arguments {
        [list] => sort_by_keys(site, &[list.clone(), list.clone()]),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn sort_by_keys<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::List(list), Value::List(keys)] = arguments else { return Err(EvalError::no_such_overload()) };
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "{SORT_BY_KEYS}() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let (keys, items) = (keys.to_values()?, list.to_values()?);
    if let Some(first) = keys.first() {
        if equality::compare(first, first).is_err() && !matches!(first, Value::Double(_)) {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if keys.iter().any(|key| key.type_name() != first.type_name()) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    let mut paired: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(items).collect();
    paired.sort_by(|(one, _), (other, _)| {
        equality::compare(one, other).ok().flatten().unwrap_or(Ordering::Equal)
    });
    Ok(Value::list(paired.into_iter().map(|(_, item)| item).collect()))
}

fn both<'v, 'a>(arguments: &'v [Value<'a>]) -> std::result::Result<(&'v List<'a>, &'v List<'a>), EvalError> {
    match arguments {
        [Value::List(one), Value::List(other)] => {
            if one.len().saturating_mul(other.len()) as u64 > crate::cel::cost::CALL_LIMIT {
                return Err(EvalError::call_limit());
            }
            Ok((one, other))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn holds_all(list: &List<'_>, wanted: &List<'_>) -> std::result::Result<bool, EvalError> {
    for item in wanted.iter() {
        if !equality::contains(list, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sets_contains<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (list, wanted) = both(arguments)?;
    holds_all(list, wanted).map(Value::Bool)
}

fn sets_equivalent<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (one, other) = both(arguments)?;
    Ok(Value::Bool(holds_all(one, other)? && holds_all(other, one)?))
}

fn sets_intersects<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (one, other) = both(arguments)?;
    for item in other.iter() {
        if equality::contains(one, &item?)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
