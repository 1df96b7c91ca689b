//! Takes fields and items out of a value.

use serde_json::{Map, Value};

use super::element::Element;
use super::items;
use super::set::Set;
use super::types::Type;

/// The value without what is in the set. Nothing goes out of what is replaced whole; what becomes empty becomes null.
pub fn remove(type_: Type<'_>, value: &Value, fields: &Set) -> Value {
    let atom = type_.deduce(Some(value));
    let type_of = |name: &str| atom.map.and_then(|map| map.member(atom.types, name));
    match value {
        Value::Object(members) if atom.map.is_some() => {
            if members.is_empty() || atom.map.is_some_and(|map| map.atomic) {
                return Value::Null;
            }
            let mut rest = Map::new();
            for (name, value) in members {
                let place = fields.field(name);
                if place.is_some_and(|place| place.member) {
                    continue;
                }
                let value = match (place, type_of(name)) {
                    (Some(place), Some(type_)) if !place.below.is_empty() => {
                        remove(type_, value, &place.below)
                    }
                    _ => value.clone(),
                };
                rest.insert(name.clone(), value);
            }
            if rest.is_empty() { Value::Null } else { Value::Object(rest) }
        }
        Value::Array(members) if atom.list.is_some() => {
            let Some(list) = atom.list.filter(|list| !list.is_atomic() && !members.is_empty()) else {
                return Value::Null;
            };
            let mut rest = Vec::with_capacity(members.len());
            for item in members {
                let place = items::element(list, item).ok();
                let place = place.as_ref().and_then(|element: &Element| fields.get(element));
                match place {
                    Some(place) if place.member => {}
                    Some(place) => rest.push(remove(list.item(atom.types), item, &place.below)),
                    None => rest.push(item.clone()),
                }
            }
            if rest.is_empty() { Value::Null } else { Value::Array(rest) }
        }
        other => other.clone(),
    }
}

/// The set with every declared field in it that has members below it.
pub fn with_named_fields(type_: Type<'_>, fields: &Set) -> Set {
    let atom = type_.atom();
    let places = fields.places().map(|(element, place)| {
        let mut place = place.clone();
        let (declared, below) = match element {
            Element::Field(name) => (
                !place.below.is_empty() && atom.map.is_some_and(|map| map.declares(name)),
                atom.map.and_then(|map| map.member(atom.types, name)),
            ),
            Element::Key(_) => (false, atom.list.map(|list| list.item(atom.types))),
            _ => (false, None),
        };
        place.member |= declared;
        if let Some(below) = below {
            place.below = with_named_fields(below, &place.below);
        }
        (element.clone(), place)
    });
    Set::of(places.collect())
}

/// Ownership recorded when a type was granular, for a type that has become atomic: the whole is owned then.
pub fn reconciled(type_: Type<'_>, fields: &Set) -> Set {
    let atom = type_.atom();
    let places = fields.places().map(|(element, place)| {
        let below = match element {
            Element::Field(name) => atom.map.and_then(|map| map.member(atom.types, name)),
            Element::Key(_) | Element::Value(_) => atom.list.map(|list| list.item(atom.types)),
            Element::Index(_) => None,
        };
        let Some(below) = below.filter(|_| !place.below.is_empty()) else {
            return (element.clone(), place.clone());
        };
        let inner = below.atom();
        let atomic = match (inner.map, inner.scalar, inner.list) {
            _ if below.is_deduced() => false,
            (Some(map), ..) => map.atomic,
            (None, None, Some(list)) => list.is_atomic(),
            _ => false,
        };
        let mut place = place.clone();
        if atomic {
            place.member = true;
            place.below = Set::default();
        } else {
            place.below = reconciled(below, &place.below);
        }
        (element.clone(), place)
    });
    Set::of(places.collect())
}
