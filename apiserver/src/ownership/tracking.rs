//! Who owns what after a write: an update takes what it changes, an apply owns what it says and gives up the rest.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use super::check::{Fault, check};
use super::compare::{Changes, compare};
use super::element::{Element, same};
use super::fill::fill;
use super::managers::{Manager, Managers, Operation, Who};
use super::merge::merge;
use super::owned::owned;
use super::remove::{reconciled, remove, with_named_fields};
use super::set::Set;
use super::types::Schema;

/// Who owned the fields of an object that nobody was known to own.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields that belong to the server, whoever writes.
const NOBODYS: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// An object in the versions that its managers wrote it in.
pub trait Versions {
    /// The object, given in the version of the request, in another one, with that one's type. None: no such version
    /// is known, and whoever wrote in it owns nothing any more.
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, Schema)>;
    /// The other way round.
    fn convert_back(&self, object: &Value, api_version: &str) -> Option<Value>;
}

/// Of kinds that have one version.
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _object: &Value, _api_version: &str) -> Option<(Value, Schema)> {
        None
    }

    fn convert_back(&self, _object: &Value, _api_version: &str) -> Option<Value> {
        None
    }
}

/// What a write is, as far as ownership goes.
pub struct Write<'a> {
    /// The version of the request is in it.
    pub who: Who,
    pub schema: &'a Schema,
    /// Fields that a request of this kind does not change, whatever it says (status on the main resource).
    pub reset: &'a Set,
    pub versions: &'a dyn Versions,
    pub now: Timestamp,
}

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub who: Who,
    pub path: Vec<Element>,
}

impl Conflict {
    pub fn field(&self) -> String {
        self.path.iter().map(ToString::to_string).collect()
    }
}

/// Why an apply fails.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("failed to create typed patch object: {0}")]
    Config(Fault),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("{} conflicts", .0.len())]
    Conflicts(Vec<Conflict>),
}

/// What an apply makes.
#[derive(Debug)]
pub struct Applied {
    /// None: the object stays what it is.
    pub object: Option<Value>,
    pub managers: Managers,
}

impl Write<'_> {
    /// The managers after an update from `old` (the kind's empty object at a creation) to `new`. `exists`: `old` is
    /// there, so if nobody is known to own anything, nobody is tracked.
    pub fn update(
        &self,
        old: &Value,
        new: &Value,
        managers: Managers,
        exists: bool,
    ) -> Result<Managers, Fault> {
        if managers.is_empty() && exists {
            return Ok(managers);
        }
        self.track(old, new, managers)
    }

    fn track(&self, old: &Value, new: &Value, managers: Managers) -> Result<Managers, Fault> {
        let (mut old, mut new) = (Cow::Borrowed(old), Cow::Borrowed(new));
        fill(self.schema.root(), old.to_mut());
        fill(self.schema.root(), new.to_mut());
        let mut managers = self.reconcile(&old, managers);
        let (changes, _) = self.take_away(&old, &new, &mut managers, None)?;
        let taken = changes.modified.union(&changes.added).recursive_difference(self.reset);
        let taken = taken.difference(&Set::of_fields(NOBODYS));
        if !taken.is_empty() {
            let before = managers.take(&self.who).map(|manager| manager.fields).unwrap_or_default();
            let fields = taken.union(&before);
            managers.set(Manager { who: self.who.clone(), time: Some(self.now), fields });
        }
        managers.cap();
        Ok(managers)
    }

    /// Takes what changes from everybody but `spare`, if nothing of what others own is changed or `force` is given.
    fn take_away(
        &self,
        old: &Value,
        new: &Value,
        managers: &mut Managers,
        apply: Option<(&Who, bool)>,
    ) -> Result<(Changes, Vec<Conflict>), Fault> {
        let changes = compare(self.schema.root(), old, new)?.without(self.reset);
        let mut others: Vec<(String, Option<Changes>)> = Vec::new();
        let mut conflicts = Vec::new();
        let mut left = Vec::with_capacity(managers.0.len());
        for manager in &managers.0 {
            if apply.is_some_and(|(spare, _)| manager.who.is(spare)) {
                left.push(Some(manager.fields.clone()));
                continue;
            }
            let version = &manager.who.api_version;
            let at = if *version == self.who.api_version {
                Some(&changes)
            } else {
                if !others.iter().any(|(have, _)| have == version) {
                    others.push((version.clone(), self.changes_in(old, new, version)?));
                }
                others.iter().find(|(have, _)| have == version).and_then(|(_, changes)| changes.as_ref())
            };
            let Some(at) = at else {
                left.push(None);
                continue;
            };
            if changes_nothing(at) {
                left.push(Some(manager.fields.clone()));
                continue;
            }
            let taken = manager.fields.intersection(&at.modified.union(&at.added));
            for path in taken.paths() {
                conflicts.push(Conflict { who: manager.who.clone(), path });
            }
            left.push(Some(manager.fields.difference(&taken).difference(&at.removed)));
        }
        if apply.is_some_and(|(_, force)| !force) && !conflicts.is_empty() {
            return Ok((changes, conflicts));
        }
        let mut left = left.into_iter();
        managers.0.retain_mut(|manager| match left.next().flatten() {
            Some(fields) if !fields.is_empty() => {
                manager.fields = fields;
                true
            }
            _ => false,
        });
        Ok((changes, Vec::new()))
    }

    fn changes_in(&self, old: &Value, new: &Value, version: &str) -> Result<Option<Changes>, Fault> {
        let converted = (self.versions.convert(old, version), self.versions.convert(new, version));
        let (Some((mut old, schema)), Some((mut new, _))) = converted else { return Ok(None) };
        fill(schema.root(), &mut old);
        fill(schema.root(), &mut new);
        compare(schema.root(), &old, &new).map(|changes| Some(changes.without(self.reset)))
    }

    /// Whoever owned a part of what is replaced whole by now owns the whole.
    fn reconcile(&self, live: &Value, managers: Managers) -> Managers {
        let managers = managers.0.into_iter().filter_map(|mut manager| {
            if manager.who.api_version == self.who.api_version {
                manager.fields = reconciled(self.schema.root(), &manager.fields);
            } else {
                let (_, schema) = self.versions.convert(live, &manager.who.api_version)?;
                manager.fields = reconciled(schema.root(), &manager.fields);
            }
            Some(manager)
        });
        Managers(managers.collect())
    }

    /// Applies a configuration to the live object; `empty` is what an object of the kind is before it is created.
    pub fn apply(
        &self,
        live: &Value,
        empty: &Value,
        config: &Value,
        managers: Managers,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        let root = self.schema.root();
        let managers = if managers.is_empty() {
            let before = Self {
                who: Who {
                    name: BEFORE_FIRST_APPLY.to_owned(),
                    operation: Operation::Update,
                    ..self.who.clone()
                },
                ..*self
            };
            before.track(empty, live, managers)?
        } else {
            managers
        };
        check(root, config).map_err(ApplyError::Config)?;
        let mut live = Cow::Borrowed(live);
        fill(root, live.to_mut());
        let mut managers = self.reconcile(&live, managers);
        let merged = merge(root, &live, config)?;
        let fields = owned(root, config).recursive_difference(self.reset);
        let last = managers.take(&self.who);
        let time = last.as_ref().and_then(|last| last.time);
        managers.set(Manager { who: self.who.clone(), time, fields });
        let object = match &last {
            Some(last) if !last.fields.is_empty() => self.prune(merged, &managers, last),
            _ => merged,
        };
        let (_, conflicts) = self.take_away(&live, &object, &mut managers, Some((&self.who, force)))?;
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        let changed = !same(&live, &object);
        if let Some(mut own) = managers.take(&self.who) {
            own.fields = own.fields.difference(&Set::of_fields(NOBODYS));
            if changed {
                own.time = Some(self.now);
            }
            if !own.fields.is_empty() {
                managers.set(own);
            }
        }
        Ok(Applied { object: changed.then_some(object), managers })
    }

    /// Without what this manager applied the last time, does not apply any more, and nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, last: &Manager) -> Value {
        let version = &last.who.api_version;
        if *version == self.who.api_version {
            return self.prune_in(self.schema, &merged, managers, last, version);
        }
        let Some((converted, schema)) = self.versions.convert(&merged, version) else { return merged };
        let pruned = self.prune_in(&schema, &converted, managers, last, version);
        self.versions.convert_back(&pruned, version).unwrap_or(merged)
    }

    fn prune_in(
        &self,
        schema: &Schema,
        merged: &Value,
        managers: &Managers,
        last: &Manager,
        version: &str,
    ) -> Value {
        let root = schema.root();
        let named = |fields: &Set| with_named_fields(root, fields);
        let last_fields = named(&last.fields);
        let pruned = remove(root, merged, &last_fields);
        // What others own, or this manager still does, stays. Managers of other versions are asked in theirs.
        let all = named(&owned(root, merged));
        let mut managed = Set::default();
        for manager in managers.0.iter().filter(|manager| manager.who.api_version == version) {
            managed = managed.union(&manager.fields);
        }
        let kept = named(&owned(root, &pruned)).union(&named(&managed));
        let mut pruned = remove(root, merged, &all.difference(&kept));
        for other in managers.0.iter().filter(|manager| manager.who.api_version != version) {
            pruned = self.keep_for(merged, pruned, version, other);
        }
        // What this manager never owned does not go.
        let gone = all.difference(&named(&owned(root, &pruned))).intersection(&last_fields);
        remove(root, merged, &gone)
    }

    /// Puts back into `pruned` what a manager that wrote in another version than `version` owns.
    fn keep_for(&self, merged: &Value, pruned: Value, version: &str, other: &Manager) -> Value {
        let their = &other.who.api_version;
        let own = |value: &Value| {
            if *version == self.who.api_version {
                Some(value.clone())
            } else {
                self.versions.convert_back(value, version)
            }
        };
        let there = |value: &Value| {
            let value = own(value)?;
            if *their == self.who.api_version {
                Some((value, self.schema.clone()))
            } else {
                self.versions.convert(&value, their)
            }
        };
        let back = |value: &Value| {
            let value = if *their == self.who.api_version {
                value.clone()
            } else {
                self.versions.convert_back(value, their)?
            };
            if *version == self.who.api_version {
                Some(value)
            } else {
                self.versions.convert(&value, version).map(|(value, _)| value)
            }
        };
        let (Some((merged, schema)), Some((bare, _))) = (there(merged), there(&pruned)) else {
            return pruned;
        };
        let root = schema.root();
        let named = |fields: &Set| with_named_fields(root, fields);
        let kept = named(&owned(root, &bare)).union(&named(&other.fields));
        let kept = remove(root, &merged, &named(&owned(root, &merged)).difference(&kept));
        back(&kept).unwrap_or(pruned)
    }
}

fn changes_nothing(changes: &Changes) -> bool {
    changes.is_empty()
}
