//! Which fields a value sets: every leaf, every item of a list or a map.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::Value;

use super::element::Element;
use super::items;
use super::set::{Place, Set};
use super::types::Type;

/// The fields that an object of the type sets. Items that stand in a list twice are members without anything below.
pub fn owned(type_: Type<'_>, value: &Value) -> Set {
    place(type_, value).below
}

fn place(type_: Type<'_>, value: &Value) -> Place {
    let atom = type_.deduce(Some(value));
    if let Some(map) = atom.map {
        if map.atomic {
            return Place::leaf();
        }
        let Value::Object(fields) = value else { return Place::default() };
        let mut places = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let Some(type_) = map.member(atom.types, name) else { continue };
            let mut below = place(type_, value);
            below.member |= value.is_null()
                || value.as_object().is_some_and(serde_json::Map::is_empty)
                || !map.declares(name);
            places.push((Element::field(name), below));
        }
        return Place { member: false, below: Set::of(places) };
    }
    if atom.scalar.is_some() {
        return Place::leaf();
    }
    let Some(list) = atom.list else { return Place::default() };
    if list.is_atomic() {
        return Place::leaf();
    }
    let mut places: BTreeMap<Element, Place> = BTreeMap::new();
    for item in value.as_array().into_iter().flatten() {
        let Ok(element) = items::element(list, item) else { continue };
        match places.entry(element) {
            Entry::Occupied(mut twice) => *twice.get_mut() = Place::leaf(),
            Entry::Vacant(vacant) => {
                let mut below = place(list.item(atom.types), item);
                below.member = true;
                vacant.insert(below);
            }
        }
    }
    Place { member: false, below: Set::of(places.into_iter().collect()) }
}
