//! An object with a configuration applied to it: maps and keyed lists merge, everything else is replaced.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::check::Fault;
use super::element::Element;
use super::items;
use super::types::{Atom, ListType, Type};

/// Nothing goes away; where both say something, `config` does. Lists are in the order of `config` where it says
/// something of them.
pub fn merge(type_: Type<'_>, live: &Value, config: &Value) -> Result<Value, Fault> {
    let atom = type_.deduce(Some(config));
    if let Some(map) = atom.map {
        let (ours, theirs) = (live.as_object(), config.as_object());
        let empty = |map: Option<&Map<String, Value>>| map.is_none_or(Map::is_empty);
        if map.atomic || (empty(ours) && empty(theirs)) {
            return Ok(config.clone());
        }
        let mut merged = ours.cloned().unwrap_or_default();
        for (name, value) in theirs.into_iter().flatten() {
            let element = Element::field(name);
            let value = match (merged.get(name), map.member(atom.types, name)) {
                (Some(have), Some(type_)) => {
                    merge(type_, have, value).map_err(|fault| fault.under(&element))?
                }
                _ => value.clone(),
            };
            merged.insert(name.clone(), value);
        }
        return Ok(Value::Object(merged));
    }
    let Some(list) = atom.list.filter(|list| atom.scalar.is_none() && !list.is_atomic()) else {
        return Ok(config.clone());
    };
    let ours = live.as_array().map(Vec::as_slice).unwrap_or_default();
    let theirs = config.as_array().map(Vec::as_slice).unwrap_or_default();
    if ours.is_empty() && theirs.is_empty() {
        return Ok(config.clone());
    }
    lists(&atom, list, ours, theirs).map(Value::Array)
}

/// Both lists' items: those of the configuration in its order, each of the others behind what it stood behind.
fn lists(atom: &Atom<'_>, list: &ListType, live: &[Value], config: &[Value]) -> Result<Vec<Value>, Fault> {
    let elements = |items: &[Value]| {
        let elements = items.iter().enumerate().map(|(i, item)| {
            items::element(list, item).map_err(|why| Fault::new(format!("element {i}: {why}")))
        });
        elements.collect::<Result<Vec<Element>, Fault>>()
    };
    let (ours, theirs) = (elements(live)?, elements(config)?);
    let mut wanted: BTreeSet<&Element> = BTreeSet::new();
    for element in &theirs {
        if !wanted.insert(element) {
            return Err(Fault::new(format!("duplicate entries for key {element}")));
        }
    }
    // An item that stands in the live list twice is nobody's partner.
    let mut partners: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, item) in ours.iter().zip(live) {
        partners.entry(element).and_modify(|partner| *partner = None).or_insert(Some(item));
    }
    let take = |at: usize| -> Result<Option<Value>, Fault> {
        let (Some(element), Some(item)) = (theirs.get(at), config.get(at)) else { return Ok(None) };
        Ok(Some(match partners.get(element) {
            Some(Some(partner)) => {
                merge(list.item(atom.types), partner, item).map_err(|fault| fault.under(element))?
            }
            _ => item.clone(),
        }))
    };
    // The items of the configuration that the live list has, in the configuration's order: when the walk through the
    // live list meets another of them than the next one, it is passed over.
    let mut shared = theirs.iter().filter(|element| partners.contains_key(element)).peekable();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut done: BTreeSet<&Element> = BTreeSet::new();
    let (mut l, mut r) = (0, 0);
    while l < ours.len() || r < theirs.len() {
        if let (Some(our), Some(their)) = (ours.get(l), theirs.get(r)) {
            if our == their {
                merged.extend(take(r)?);
                done.insert(our);
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if wanted.contains(our) && shared.peek().is_some_and(|next| *next != our) {
                l += 1;
                continue;
            }
        }
        if let Some(our) = ours.get(l) {
            if !wanted.contains(our) {
                merged.extend(live.get(l).cloned());
                l += 1;
                continue;
            }
            if done.contains(our) {
                l += 1;
            }
        }
        if let Some(their) = theirs.get(r) {
            merged.extend(take(r)?);
            done.insert(their);
            r += 1;
            if shared.peek().is_some_and(|next| *next == their) {
                shared.next();
            }
        }
    }
    Ok(merged)
}
