//! What a new object adds, changes and takes away.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::check::{self, Fault};
use super::element::{Element, same};
use super::items;
use super::set::{Place, Set};
use super::types::{Atom, ListType, MapType, Type};

/// No field is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without the fields in the set and all that is below them.
    pub fn without(self, fields: &Set) -> Self {
        if fields.is_empty() {
            return self;
        }
        Self {
            added: self.added.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            removed: self.removed.recursive_difference(fields),
        }
    }
}

/// Both objects are of the type; lists may hold items twice.
pub fn compare(type_: Type<'_>, old: &Value, new: &Value) -> Result<Changes, Fault> {
    let at = values(type_, Some(old), Some(new))?;
    Ok(Changes { added: at.added.below, modified: at.modified.below, removed: at.removed.below })
}

/// What is to be said of one place.
#[derive(Default)]
struct At {
    added: Place,
    modified: Place,
    removed: Place,
}

/// The places of a level.
#[derive(Default)]
struct Level {
    added: Vec<(Element, Place)>,
    modified: Vec<(Element, Place)>,
    removed: Vec<(Element, Place)>,
}

impl Level {
    fn push(&mut self, element: &Element, at: At) {
        for (list, place) in
            [(&mut self.added, at.added), (&mut self.modified, at.modified), (&mut self.removed, at.removed)]
        {
            if !place.is_empty() {
                list.push((element.clone(), place));
            }
        }
    }

    fn into_at(self) -> At {
        let place = |places| Place { member: false, below: Set::of(places) };
        At { added: place(self.added), modified: place(self.modified), removed: place(self.removed) }
    }
}

fn values(type_: Type<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<At, Fault> {
    if let (Some(old), Some(new)) = (old, new)
        && same(old, new)
    {
        return Ok(At::default());
    }
    if type_.is_nothing() {
        return Err(Fault::new("schema error: invalid atom: inlined"));
    }
    let (before, after) = (type_.deduce(old), type_.deduce(new));
    let (mut at, leaf) = match (old, new) {
        (_, None) => forms(&before, old, new)?,
        (None, Some(_)) => forms(&after, old, new)?,
        _ if before.same_forms(&after) => forms(&after, old, new)?,
        // A value of one form became one of another: what either makes of both.
        _ => {
            let (first, _) = forms(&before, old, new)?;
            let (second, leaf) = forms(&after, old, new)?;
            let both =
                |a: Place, b: Place| Place { member: a.member || b.member, below: a.below.union(&b.below) };
            let at = At {
                added: both(first.added, second.added),
                modified: both(first.modified, second.modified),
                removed: both(first.removed, second.removed),
            };
            (at, leaf)
        }
    };
    if !leaf {
        at.added.member |= old.is_none();
        at.removed.member |= old.is_some() && new.is_none();
    }
    Ok(at)
}

/// The comparison, and whether the place was compared as a whole.
fn forms(atom: &Atom<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<(At, bool), Fault> {
    if let Some(map) = atom.map {
        let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
        let empty = |map: Option<&Map<String, Value>>| map.is_none_or(Map::is_empty);
        if map.atomic || (empty(before) && empty(after)) {
            return Ok((whole(old, new), true));
        }
        return Ok((maps(atom, map, before, after)?, false));
    }
    if let Some(scalar) = atom.scalar {
        check::one_scalar(scalar, old, new)?;
        return Ok((whole(old, new), true));
    }
    let Some(list) = atom.list else { return Err(Fault::new("schema error: invalid atom: inlined")) };
    let before = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let after = new.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_atomic() || (before.is_empty() && after.is_empty()) {
        return Ok((whole(old, new), true));
    }
    Ok((lists(atom, list, before, after)?, false))
}

fn whole(old: Option<&Value>, new: Option<&Value>) -> At {
    let mut at = At::default();
    match (old, new) {
        (None, Some(_)) => at.added.member = true,
        (Some(_), None) => at.removed.member = true,
        (Some(old), Some(new)) if !same(old, new) => at.modified.member = true,
        _ => {}
    }
    at
}

fn maps(
    atom: &Atom<'_>,
    map: &MapType,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Result<At, Fault> {
    let mut level = Level::default();
    let mut member = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        let element = Element::field(name);
        let Some(type_) = map.member(atom.types, name) else {
            return Err(Fault::new("schema error: invalid atom: inlined").under(&element));
        };
        let at = values(type_, before, after).map_err(|fault| fault.under(&element))?;
        level.push(&element, at);
        Ok(())
    };
    for (name, before) in old.into_iter().flatten() {
        member(name, Some(before), new.and_then(|new| new.get(name)))?;
    }
    for (name, after) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            member(name, None, Some(after))?;
        }
    }
    Ok(level.into_at())
}

fn lists(atom: &Atom<'_>, list: &ListType, old: &[Value], new: &[Value]) -> Result<At, Fault> {
    let mut items: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    let index =
        |i: usize, item| items::element(list, item).map_err(|why| Fault::new(format!("element {i}: {why}")));
    for (i, item) in old.iter().enumerate() {
        items.entry(index(i, item)?).or_default().0.push(item);
    }
    for (i, item) in new.iter().enumerate() {
        items.entry(index(i, item)?).or_default().1.push(item);
    }
    let mut level = Level::default();
    for (element, (before, after)) in items {
        let one = |old: Option<&Value>, new: Option<&Value>| {
            values(list.item(atom.types), old, new).map_err(|fault| fault.under(&element))
        };
        let at = match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => one(before.first().copied(), after.first().copied())?,
            ([_, _, ..], [_, _, ..]) => {
                let equal = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| same(a, b));
                At { modified: Place { member: !equal, below: Set::default() }, ..At::default() }
            }
            ([_, _, ..], [new]) => {
                let mut at = one(None, Some(new))?;
                at.removed.member = true;
                at
            }
            ([_, _, ..], []) => At { removed: Place::leaf(), ..At::default() },
            ([old], _) => {
                let mut at = one(Some(old), None)?;
                at.added.member = true;
                at
            }
            ([], _) => At { added: Place::leaf(), ..At::default() },
        };
        level.push(&element, at);
    }
    Ok(level.into_at())
}
