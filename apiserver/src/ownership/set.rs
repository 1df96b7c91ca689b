//! Sets of fields as trees of path elements, and their algebra.

use serde_json::{Map, Value};

use super::element::{Element, ElementError};

/// A set of fields. Each place may be a member, have members below it, or both; places with neither do not stand here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// In the order of their elements.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    element: Element,
    place: Place,
}

/// What a set says of one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub member: bool,
    pub below: Set,
}

impl Place {
    pub fn leaf() -> Self {
        Self { member: true, below: Set::default() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// From places in any order, each element once.
    pub fn of(places: Vec<(Element, Place)>) -> Self {
        let mut entries: Vec<Entry> = places
            .into_iter()
            .filter(|(_, place)| !place.is_empty())
            .map(|(element, place)| Entry { element, place })
            .collect();
        if !entries.is_sorted_by(|a, b| a.element < b.element) {
            entries.sort_by(|a, b| a.element.cmp(&b.element));
        }
        Self { entries }
    }

    /// The fields with these names, from the root each.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut at = &mut set;
            for (i, name) in path.iter().enumerate() {
                let place = at.descend(&Element::field(name));
                place.member |= i + 1 == path.len();
                at = &mut place.below;
            }
        }
        set
    }

    /// Adds one member by its path; the root itself belongs to nobody.
    pub fn insert(&mut self, path: &[Element]) {
        if let Some((first, rest)) = path.split_first() {
            let place = self.descend(first);
            if rest.is_empty() {
                place.member = true;
            } else {
                place.below.insert(rest);
            }
        }
    }

    fn descend(&mut self, element: &Element) -> &mut Place {
        let at = match self.find(element) {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, Entry { element: element.clone(), place: Place::default() });
                at
            }
        };
        &mut self.entries[at].place
    }

    fn find(&self, element: &Element) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.element.cmp(element))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, element: &Element) -> Option<&Place> {
        self.find(element).ok().and_then(|at| self.entries.get(at)).map(|entry| &entry.place)
    }

    /// The place of a field by its name.
    pub fn field(&self, name: &str) -> Option<&Place> {
        let at = self.entries.binary_search_by(|entry| match &entry.element {
            Element::Field(have) => (**have).cmp(name),
            _ => std::cmp::Ordering::Greater,
        });
        at.ok().and_then(|at| self.entries.get(at)).map(|entry| &entry.place)
    }

    pub fn has(&self, path: &[Element]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.get(first).is_some_and(|place| place.member),
            Some((first, rest)) => self.get(first).is_some_and(|place| place.below.has(rest)),
        }
    }

    /// The places at the root, in order.
    pub fn places(&self) -> impl Iterator<Item = (&Element, &Place)> {
        self.entries.iter().map(|entry| (&entry.element, &entry.place))
    }

    /// All members; at each level first the members, then what is below, as upstream lists them.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<Element>, paths: &mut Vec<Vec<Element>>) {
        for (element, _) in self.places().filter(|(_, place)| place.member) {
            paths.push([prefix.as_slice(), std::slice::from_ref(element)].concat());
        }
        for (element, place) in self.places() {
            prefix.push(element.clone());
            place.below.collect(prefix, paths);
            prefix.pop();
        }
    }

    /// Goes through both in order; `both` decides of places that both have, the flags of those that one has.
    fn zip(
        &self,
        other: &Self,
        left: bool,
        right: bool,
        both: impl Fn(&Place, &Place) -> Place + Copy,
    ) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len());
        let (mut ours, mut theirs) = (self.entries.iter().peekable(), other.entries.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            if order.is_lt() {
                entries.extend(ours.next().filter(|_| left).cloned());
            } else if order.is_gt() {
                entries.extend(theirs.next().filter(|_| right).cloned());
            } else if let (Some(a), Some(b)) = (ours.next(), theirs.next()) {
                let place = both(&a.place, &b.place);
                if !place.is_empty() {
                    entries.push(Entry { element: a.element.clone(), place });
                }
            }
        }
        Self { entries }
    }

    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, true, true, |a, b| Place {
            member: a.member || b.member,
            below: a.below.union(&b.below),
        })
    }

    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, false, false, |a, b| Place {
            member: a.member && b.member,
            below: a.below.intersection(&b.below),
        })
    }

    /// What is a member here and not there; what is below a member there stays.
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, true, false, |a, b| Place {
            member: a.member && !b.member,
            below: a.below.difference(&b.below),
        })
    }

    /// As [`Self::difference`], and all that is below a member there goes with it.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.zip(other, true, false, |a, b| {
            if b.member {
                return Place::default();
            }
            Place { member: a.member, below: a.below.recursive_difference(&b.below) }
        })
    }

    /// `FieldsV1`.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.members(false))
    }

    fn members(&self, with_self: bool) -> Map<String, Value> {
        let mut members = Map::new();
        if with_self && !self.is_empty() {
            members.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, place) in self.places() {
            members.insert(element.text(), Value::Object(place.below.members(place.member)));
        }
        members
    }

    /// Elements of unknown kinds are left out.
    pub fn from_fields(fields: &Value) -> Result<Self, ElementError> {
        Ok(read(fields)?.unwrap_or_default().below)
    }
}

/// None: nothing below, so the place itself is meant.
fn read(fields: &Value) -> Result<Option<Place>, ElementError> {
    let Some(members) = fields.as_object() else { return Ok(None) };
    let mut place = Place::default();
    let mut places = Vec::with_capacity(members.len());
    for (text, below) in members {
        if text == "." {
            place.member = true;
            continue;
        }
        let element = match Element::parse(text) {
            Ok(element) => element,
            Err(ElementError::Unknown) => continue,
            Err(error) => return Err(error),
        };
        places.push((element, read(below)?.unwrap_or_else(Place::leaf)));
    }
    place.below = Set::of(places);
    if place.below.is_empty() {
        place.member = true;
    }
    Ok(Some(place))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(paths: &[&str]) -> Set {
        let mut set = Set::default();
        for path in paths {
            let path: Vec<Element> = path.split('.').map(Element::field).collect();
            set.insert(&path);
        }
        set
    }

    #[test]
    fn fields_are_read_and_written() {
        for fields in [
            json!({}),
            json!({"f:data": {"f:a": {}}}),
            json!({"f:data": {".": {}, "f:a": {}}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}}),
            json!({"f:list": {"v:\"a\"": {}, "v:1": {}}}),
        ] {
            assert_eq!(Set::from_fields(&fields).unwrap().to_fields(), fields);
        }
        let odd = json!({"f:a": {".": {}}, "f:b": {"z:new": {}}, "f:c": null});
        assert_eq!(Set::from_fields(&odd).unwrap(), set(&["a", "b", "c"]));
        assert!(Set::from_fields(&json!({"x": {}})).is_err());
    }

    #[test]
    fn algebra() {
        let a = set(&["a", "a.b", "c.d", "e"]);
        let b = set(&["a", "c.d", "c.x", "f"]);
        assert_eq!(a.union(&b), set(&["a", "a.b", "c.d", "c.x", "e", "f"]));
        assert_eq!(a.intersection(&b), set(&["a", "c.d"]));
        assert_eq!(a.difference(&b), set(&["a.b", "e"]));
        assert_eq!(a.recursive_difference(&b), set(&["e"]));
        assert_eq!(a.recursive_difference(&set(&["c"])), set(&["a", "a.b", "e"]));
        assert!(a.difference(&a).is_empty());
        assert!(a.has(&[Element::field("a"), Element::field("b")]));
        assert!(!a.has(&[Element::field("c")]));
        assert!(a.field("c").is_some() && a.field("x").is_none());
    }

    #[test]
    fn members_of_a_level_come_before_what_is_below() {
        let shown: Vec<String> = set(&["b", "a.c", "a.b.x", "a"])
            .paths()
            .iter()
            .map(|path| path.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(shown, [".a", ".b", ".a.c", ".a.b.x"]);
    }
}
