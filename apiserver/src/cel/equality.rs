//! Which values are equal and which is less: numbers across their types, lists by their kind.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::declared::ListKind;
use super::error::EvalError;
use super::value::{Items, Key, List, Value};

/// Nested values deeper than this are not compared; JSON that the server reads is not so deep.
const DEPTH_MAX: usize = 200;

pub(super) fn equal(one: &Value<'_>, other: &Value<'_>) -> Result<bool, EvalError> {
    equal_at(one, other, 0)
}

fn equal_at(one: &Value<'_>, other: &Value<'_>, depth: usize) -> Result<bool, EvalError> {
    if depth > DEPTH_MAX {
        return Err(EvalError::new("values are too deep to be compared"));
    }
    Ok(match (one, other) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::String(one), Value::String(other)) => **one == **other,
        (Value::Bytes(one), Value::Bytes(other)) => one == other,
        (Value::Timestamp(one), Value::Timestamp(other)) => one == other,
        (Value::Duration(one), Value::Duration(other)) => one == other,
        (Value::List(one), Value::List(other)) => lists(one, other, depth)?,
        (Value::Map(one), Value::Map(other)) => {
            if one.len() != other.len() {
                return Ok(false);
            }
            for key in one.keys() {
                let (Some(one), Some(other)) = (one.get(&key), other.get(&key)) else { return Ok(false) };
                if !equal_at(&one?, &other?, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Object(one), Value::Object(other)) => {
            if one.len() != other.len() {
                return Ok(false);
            }
            for identifier in one.of.fields.keys() {
                match (one.get(identifier), other.get(identifier)) {
                    (None, None) => {}
                    (Some(one), Some(other)) => {
                        if !equal_at(&one?, &other?, depth + 1)? {
                            return Ok(false);
                        }
                    }
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Optional(one), Value::Optional(other)) => match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => equal_at(one, other, depth + 1)?,
            _ => false,
        },
        (Value::Type(one), Value::Type(other)) => same_kind(one, other),
        (Value::Opaque(one), Value::Opaque(other)) => one == other,
        (one, other) => match numbers(one, other) {
            Some(ordering) => ordering == Some(Ordering::Equal),
            None => false,
        },
    })
}

/// Types are equal by what they are, whatever they hold.
fn same_kind(one: &super::types::Type, other: &super::types::Type) -> bool {
    use super::types::Type;
    match (one, other) {
        (Type::List(_), Type::List(_))
        | (Type::Map(_), Type::Map(_))
        | (Type::Optional(_), Type::Optional(_)) => true,
        (Type::Type(_), Type::Type(_)) => true,
        _ => one == other,
    }
}

fn lists(one: &List<'_>, other: &List<'_>, depth: usize) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    // The left list says how both are compared.
    match one.kind {
        Some(kind @ (ListKind::Set | ListKind::Map(_))) => {
            let known = Known::of(one, kind)?;
            for item in other.iter() {
                let item = item?;
                let Some(Ok(same)) = known.place(one, &item)?.and_then(|place| one.get(place)) else {
                    return Ok(false);
                };
                if !equal_at(&same, &item, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => {
            for (one, other) in one.iter().zip(other.iter()) {
                if !equal_at(&one?, &other?, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

pub(super) fn contains(list: &List<'_>, value: &Value<'_>) -> Result<bool, EvalError> {
    for item in list.iter() {
        if equal(&item?, value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a list's items are, by what tells them apart: so that comparing two lists takes no longer the longer both are.
struct Known<'k> {
    kind: &'k ListKind,
    places: HashMap<Vec<Option<Key>>, usize>,
    /// Items that have no such key, which are looked through.
    others: Vec<usize>,
}

impl<'k> Known<'k> {
    fn of(list: &List<'_>, kind: &'k ListKind) -> Result<Known<'k>, EvalError> {
        let mut known = Known { kind, places: HashMap::with_capacity(list.len()), others: Vec::new() };
        for (place, item) in list.iter().enumerate() {
            match known.identity(&item?)? {
                Some(identity) => {
                    known.places.entry(identity).or_insert(place);
                }
                None => known.others.push(place),
            }
        }
        Ok(known)
    }

    /// What tells the item from others, if that can be looked up.
    fn identity(&self, item: &Value<'_>) -> Result<Option<Vec<Option<Key>>>, EvalError> {
        let ListKind::Map(keys) = self.kind else { return Ok(item.key().map(|key| vec![Some(key)])) };
        let mut identity = Vec::with_capacity(keys.len());
        for key in keys {
            match field(item, key) {
                None => identity.push(None),
                Some(value) => match value?.key() {
                    Some(key) => identity.push(Some(key)),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(identity))
    }

    /// Where the same item is in the list.
    fn place(&self, list: &List<'_>, item: &Value<'_>) -> Result<Option<usize>, EvalError> {
        if let Some(identity) = self.identity(item)? {
            return Ok(self.places.get(&identity).copied());
        }
        for place in &self.others {
            if let Some(other) = list.get(*place)
                && equal(&other?, item)?
            {
                return Ok(Some(*place));
            }
        }
        Ok(None)
    }
}

fn field<'a>(value: &Value<'a>, key: &str) -> Option<Result<Value<'a>, EvalError>> {
    match value {
        Value::Object(object) => object.get(&super::escape::escape(key)?),
        Value::Map(map) => map.get(&Value::String(super::value::Text::Borrowed(key))),
        _ => None,
    }
}

/// `one + other`: a union for sets, a merge for lists of maps, the one after the other for the rest.
pub(super) fn added<'a>(one: &List<'a>, other: &List<'a>) -> Result<Value<'a>, EvalError> {
    let mut items = one.to_values()?;
    match one.kind {
        Some(kind @ (ListKind::Set | ListKind::Map(_))) => {
            let known = Known::of(one, kind)?;
            for item in other.iter() {
                let item = item?;
                match (known.place(one, &item)?, kind) {
                    (None, _) => items.push(item),
                    (Some(place), ListKind::Map(_)) => items[place] = item,
                    (Some(_), _) => {}
                }
            }
        }
        _ => {
            for item in other.iter() {
                items.push(item?);
            }
        }
    }
    Ok(Value::List(List { items: Items::Owned(items.into()), kind: one.kind }))
}

/// The order of two numbers, whatever their types: `Some(None)` if one is not a number at all, `None` if these are no numbers.
fn numbers(one: &Value<'_>, other: &Value<'_>) -> Option<Option<Ordering>> {
    enum Number {
        Whole(i128),
        Double(f64),
    }
    let number = |value: &Value<'_>| match value {
        Value::Int(value) => Some(Number::Whole((*value).into())),
        Value::Uint(value) => Some(Number::Whole((*value).into())),
        Value::Double(value) => Some(Number::Double(*value)),
        _ => None,
    };
    let mixed = |whole: i128, double: f64| -> Option<Ordering> {
        if double.is_nan() {
            None
        } else if double >= 2f64.powi(64) {
            Some(Ordering::Less)
        } else if double < -(2f64.powi(63)) {
            Some(Ordering::Greater)
        } else {
            let floor = double.floor();
            Some(whole.cmp(&(floor as i128)).then(if double > floor {
                Ordering::Less
            } else {
                Ordering::Equal
            }))
        }
    };
    Some(match (number(one)?, number(other)?) {
        (Number::Whole(one), Number::Whole(other)) => Some(one.cmp(&other)),
        (Number::Double(one), Number::Double(other)) => one.partial_cmp(&other),
        (Number::Whole(one), Number::Double(other)) => mixed(one, other),
        (Number::Double(one), Number::Whole(other)) => mixed(other, one).map(Ordering::reverse),
    })
}

/// The order of two values; none if they are not ordered, as a number that is not one.
pub(super) fn compare(one: &Value<'_>, other: &Value<'_>) -> Result<Option<Ordering>, EvalError> {
    Ok(Some(match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::String(one), Value::String(other)) => (**one).cmp(&**other),
        (Value::Bytes(one), Value::Bytes(other)) => one.cmp(other),
        (Value::Timestamp(one), Value::Timestamp(other)) => one.cmp(other),
        (Value::Duration(one), Value::Duration(other)) => one.cmp(other),
        (one, other) => match numbers(one, other) {
            Some(Some(ordering)) => ordering,
            Some(None) => return Err(EvalError::new("NaN values cannot be ordered")),
            None => return Err(EvalError::no_such_overload()),
        },
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cel::declared::DeclaredType;

    #[test]
    fn numbers_are_compared_by_what_they_are() {
        assert!(equal(&Value::Int(1), &Value::Double(1.0)).unwrap());
        assert!(
            equal(&Value::Uint(u64::MAX), &Value::Double(2f64.powi(64) - 2048.0)).is_ok_and(|same| !same)
        );
        assert_eq!(compare(&Value::Int(-1), &Value::Uint(1)).unwrap(), Some(Ordering::Less));
        assert_eq!(compare(&Value::Double(1.5), &Value::Int(1)).unwrap(), Some(Ordering::Greater));
        assert!(!equal(&Value::Double(f64::NAN), &Value::Double(f64::NAN)).unwrap());
        assert!(compare(&Value::Bool(true), &Value::Int(1)).is_err());
    }

    #[test]
    fn sets_and_maps_have_no_order() {
        let set = DeclaredType::from_schema(
            &json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            false,
        )
        .unwrap();
        let (one, other) = (json!(["a", "b"]), json!(["b", "a"]));
        let value = |json| Value::from_json(json, Some(&set)).unwrap();
        assert!(equal(&value(&one), &value(&other)).unwrap());

        let items =
            json!({"type": "object", "properties": {"k-k": {"type": "string"}, "v": {"type": "integer"}}});
        let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k-k"], "items": items});
        let map = DeclaredType::from_schema(&schema, false).unwrap();
        let (one, other) = (
            json!([{"k-k": "a", "v": 1}, {"k-k": "b", "v": 2}]),
            json!([{"k-k": "b", "v": 3}, {"k-k": "c", "v": 4}]),
        );
        let (Value::List(one), Value::List(other)) =
            (Value::from_json(&one, Some(&map)).unwrap(), Value::from_json(&other, Some(&map)).unwrap())
        else {
            panic!()
        };
        let Value::List(sum) = added(&one, &other).unwrap() else { panic!() };
        assert_eq!(sum.len(), 3);
        let Some(Ok(Value::Object(replaced))) = sum.get(1) else { panic!() };
        assert!(matches!(replaced.get("v"), Some(Ok(Value::Int(3)))));
    }
}
