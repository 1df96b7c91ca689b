//! What every change of an existing object has in common: optimistic concurrency, what clients may not touch,
//! generation, validation, no-op detection, and the real deletion when the last finalizer goes.

use std::sync::Arc;

use bytes::Bytes;
use coracle_client::status::MODIFIED;
use coracle_client::{ApiError, Object, Resource};
use serde_json::Value;

use super::commit::{Committed, encode};
use super::owners::Owners;
use super::{Answer, Call, metadata};
use crate::admission::{self, Operation, Reservations};
use crate::field_error::Errors;
use crate::kinds::KindDef;
use crate::object::ApiObject;
use crate::ownership::same_but_times;
use crate::storage::{self, Expected};
use crate::watch_cache::with_revision;

/// How often a change is made again on newer state before the client is told of the conflict, as upstream.
const TRIES_MAX: usize = 5;

/// Which part of the object a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but status, where the kind has a status subresource.
    Main,
    Status,
    /// A part with rules of its own, behind a subresource.
    Detail(&'static Detail),
    /// A subresource made the new object out of the old one and answers for it: nothing is restored or validated.
    Whole,
}

/// New, old: the object that a part's change makes.
type Confine = fn(&dyn ApiObject, &dyn ApiObject) -> Result<Box<dyn ApiObject>, ApiError>;

/// The rules of a part that a subresource changes.
pub struct Detail {
    pub name: &'static str,
    /// The old object with what may change taken from the new one.
    pub confine: Confine,
    /// New, old: what the part may become. All other rules of the kind hold as well.
    pub validate: fn(&dyn ApiObject, &dyn ApiObject, &mut Errors),
}

impl std::fmt::Debug for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Detail {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Detail {}

/// The state that a change starts from.
pub struct Current {
    pub object: Arc<Object>,
    pub typed: Box<dyn ApiObject>,
}

/// Changes the object that the URL names; `change` makes the new object out of the current one, and runs again when
/// somebody else wrote in between. A resourceVersion left in the new object's metadata is what the client requires.
pub async fn modify(
    call: &Call,
    part: Part,
    change: impl FnMut(&Current) -> Result<Box<dyn ApiObject>, ApiError> + Send,
) -> Result<Answer, ApiError> {
    modify_as(call, part, Versions::Require, change).await
}

/// What a resourceVersion in the new object's metadata means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The client's requirement.
    Require,
    /// Patched objects carry the version they were made from: only another one is a requirement.
    Inherit,
}

/// As [`modify`], for changes that start from the current object.
pub async fn modify_as(
    call: &Call,
    part: Part,
    versions: Versions,
    change: impl FnMut(&Current) -> Result<Box<dyn ApiObject>, ApiError> + Send,
) -> Result<Answer, ApiError> {
    let owners = if part == Part::Whole { Owners::Given } else { Owners::Track };
    modify_owned(call, part, versions, owners, change).await
}

/// As [`modify_as`], by somebody who may know who owns what then.
pub(crate) async fn modify_owned(
    call: &Call,
    part: Part,
    versions: Versions,
    owners: Owners,
    mut change: impl FnMut(&Current) -> Result<Box<dyn ApiObject>, ApiError> + Send,
) -> Result<Answer, ApiError> {
    for _ in 0..TRIES_MAX {
        let object = call.current().await?;
        let typed = call.kind.def.decode_stored(&object.json)?;
        let current = Current { object, typed };
        let attempted = match change(&current) {
            Ok(new) => attempt(call, part, versions, owners, &current, new).await,
            Err(refused) => Err(refused),
        };
        match attempted {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            // What is wrong with an old state may be right with the newest.
            Err(refused) if call.is_newest(&current.object).await? => return Err(refused),
            Err(_) => {}
        }
    }
    Err(ApiError::conflict(call.form.resource(), call.name(), MODIFIED))
}

/// None: the object changed meanwhile and the client did not pin a version.
async fn attempt(
    call: &Call,
    part: Part,
    versions: Versions,
    owners: Owners,
    current: &Current,
    mut new: Box<dyn ApiObject>,
) -> Result<Option<Answer>, ApiError> {
    let def = &call.kind.def;
    let (old, revision) = (&*current.typed, current.object.head.resource_version);
    let pinned = required_version(call, new.meta().resource_version.as_deref(), revision)?
        .filter(|version| versions == Versions::Require || *version != revision);
    if pinned.is_some_and(|version| version != revision) {
        return Err(ApiError::conflict(call.form.resource(), call.name(), MODIFIED));
    }
    metadata::inherit(new.meta_mut(), old.meta());
    if part == Part::Whole {
        return write(call, current, new, revision, pinned, Reservations::default()).await;
    }
    let mut new = match part {
        Part::Detail(detail) => {
            let version = new.meta().resource_version.clone();
            let managed = new.meta().managed_fields.clone();
            let mut confined = (detail.confine)(&*new, old)?;
            confined.meta_mut().resource_version = version;
            confined.meta_mut().managed_fields = managed;
            confined
        }
        _ => confine(call, part, new, old)?,
    };
    def.ops.set_defaults(&mut *new);
    if owners == Owners::Track {
        call.track(part, Some(old), &mut new)?;
    }
    admission::admit(call, Operation::Update, Some(&mut *new), Some(old)).await?;
    match part {
        Part::Status => def.ops.prepare_status_update(&mut *new, old),
        Part::Main | Part::Whole => def.ops.prepare_update(&mut *new, old),
        Part::Detail(_) => {}
    }
    let counts = matches!(part, Part::Main | Part::Detail(_)) && def.has_generation;
    if counts && spec_differs(&*new, old, def.has_status || def.built_in)? {
        new.meta_mut().generation = Some(old.meta().generation.unwrap_or(0) + 1);
    }
    let mut errors = Errors::default();
    metadata::validate(def, new.meta(), &mut errors);
    metadata::validate_update(new.meta(), old.meta(), &mut errors);
    if part == Part::Status {
        def.ops.validate_status_update(&*new, old, &mut errors);
    } else {
        def.ops.validate(&*new, &mut errors);
        match part {
            Part::Detail(detail) => (detail.validate)(&*new, old, &mut errors),
            _ => def.ops.validate_update(&*new, old, &mut errors),
        }
    }
    let invalid = |errors: Errors| ApiError::invalid(call.kind.resource(), call.name(), errors.into_causes());
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    if part == Part::Main {
        call.warn(def.ops.warnings(&*new, Some(old)));
    }
    let taken = admission::reserve(call, Operation::Update, &mut *new, Some(old)).await.map_err(invalid)?;
    admission::validate(call, Operation::Update, Some(&*new), Some(old)).await?;
    write(call, current, new, revision, pinned, taken).await
}

async fn write(
    call: &Call,
    current: &Current,
    mut new: Box<dyn ApiObject>,
    revision: u64,
    pinned: Option<u64>,
    taken: Reservations,
) -> Result<Option<Answer>, ApiError> {
    let deletes = gone(&call.kind.def, &*new);
    let (encoded, unchanged) = encode_at(&mut *new, &*current.typed, revision, &current.object.json)?;
    if call.options.dry_run || (!deletes && unchanged == current.object.json) {
        // Nothing is written that the store would refuse if another apiserver had written meanwhile.
        let newest = call.is_newest(&current.object).await?;
        return Ok(newest.then(|| Answer::ok(unchanged)));
    }
    let (key, expected) = (call.key(), Expected::Revision(revision));
    let committed = if deletes {
        match call.write(&key, expected, storage::Operation::Delete).await? {
            Ok(revision) => {
                admission::removed(call, &*current.typed).await;
                Committed::Written(with_revision(&encoded, revision))
            }
            Err(_) => Committed::Conflict,
        }
    } else {
        call.put(&key, expected, encoded).await?
    };
    match committed {
        Committed::Written(json) => {
            taken.confirm();
            Ok(Some(Answer::ok(json)))
        }
        Committed::Conflict if pinned.is_some() => {
            Err(ApiError::conflict(call.form.resource(), call.name(), MODIFIED))
        }
        Committed::Conflict => Ok(None),
    }
}

/// The object as it is stored, and as it is shown if it stays what it is. When nothing but the times of its managers
/// changed, it does.
fn encode_at(
    new: &mut dyn ApiObject,
    old: &dyn ApiObject,
    revision: u64,
    stored: &Bytes,
) -> Result<(Bytes, Bytes), ApiError> {
    let (theirs, ours) = (&old.meta().managed_fields, &new.meta().managed_fields);
    if theirs != ours && same_but_times(theirs.as_deref(), ours.as_deref()) {
        let times = std::mem::replace(&mut new.meta_mut().managed_fields, theirs.clone());
        let encoded = encode(new)?;
        let shown = with_revision(&encoded, revision);
        if shown == *stored {
            return Ok((encoded, shown));
        }
        new.meta_mut().managed_fields = times;
    }
    let encoded = encode(new)?;
    let shown = with_revision(&encoded, revision);
    Ok((encoded, shown))
}

/// The version the client insists on, if any.
fn required_version(call: &Call, given: Option<&str>, current: u64) -> Result<Option<u64>, ApiError> {
    let mut errors = Errors::default();
    let pinned = match given.unwrap_or_default() {
        "" | "0" if call.kind.def.unconditional_update => None,
        "" | "0" => {
            errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
            None
        }
        text => match text.parse() {
            Ok(version) => Some(version),
            Err(_) => {
                errors.invalid("metadata.resourceVersion", text, "must be a number");
                Some(current)
            }
        },
    };
    if errors.is_empty() {
        return Ok(pinned);
    }
    // Here upstream says the resource where it says the kind elsewhere.
    let resource = call.kind.resource();
    let named = Resource::new(
        resource.group(),
        resource.version(),
        resource.plural(),
        resource.plural(),
        resource.namespaced(),
    );
    Err(ApiError::invalid(&named, call.name(), errors.into_causes()))
}

/// Takes what the request may not change from the old object.
fn confine(
    call: &Call,
    part: Part,
    new: Box<dyn ApiObject>,
    old: &dyn ApiObject,
) -> Result<Box<dyn ApiObject>, ApiError> {
    let def = &call.kind.def;
    if !def.has_status {
        return Ok(new);
    }
    let (mut new, mut old) = (new.to_value()?, old.to_value()?);
    let merged = match part {
        Part::Main => {
            move_member(&mut old, &mut new, "status");
            new
        }
        _ => {
            move_member(&mut new, &mut old, "status");
            if let (Some(from), Some(to)) = (new.get_mut("metadata"), old.get_mut("metadata")) {
                let kept = call.kind.def.ops.ownership().status.field("metadata");
                let keeps = |member: &str| {
                    kept.is_some_and(|p| p.member || p.below.field(member).is_some_and(|below| below.member))
                };
                for member in ["labels", "annotations", "finalizers"].into_iter().filter(|m| !keeps(m)) {
                    move_member(from, to, member);
                }
                move_member(from, to, "managedFields");
            }
            old
        }
    };
    def.ops.decode_value(merged).map_err(ApiError::internal)
}

fn move_member(from: &mut Value, to: &mut Value, name: &str) {
    let (Some(from), Some(to)) = (from.as_object_mut(), to.as_object_mut()) else { return };
    match from.remove(name) {
        Some(value) => to.insert(name.to_owned(), value),
        None => to.remove(name),
    };
}

/// Whether anything but metadata (and status, where it is for others to write) differs.
fn spec_differs(new: &dyn ApiObject, old: &dyn ApiObject, status_apart: bool) -> Result<bool, ApiError> {
    let bare = |object: &dyn ApiObject| {
        object.to_value().map(|mut value| {
            if let Some(members) = value.as_object_mut() {
                members.remove("metadata");
                if status_apart {
                    members.remove("status");
                }
            }
            value
        })
    };
    Ok(bare(new)? != bare(old)?)
}

/// Whether nothing holds a deleted object any more.
fn gone(def: &KindDef, object: &dyn ApiObject) -> bool {
    let meta = object.meta();
    let held = meta.finalizers.as_ref().is_some_and(|f| !f.is_empty())
        || meta.deletion_grace_period_seconds.unwrap_or(0) > 0
        || def.ops.held_back(object);
    meta.deletion_timestamp.is_some() && !held
}
