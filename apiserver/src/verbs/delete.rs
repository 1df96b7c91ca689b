//! DELETE of one object: at once, gracefully, or when the last finalizer is gone.

use bytes::Bytes;
use coracle_client::status::Cause;
use coracle_client::{ApiError, Object, Propagation, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, ObjectMeta, Time};
use serde_json::json;

use super::commit::{Committed, encode};
use super::options::{self, Query};
use super::{Answer, Call, metadata};
use crate::admission::{self, Operation};
use crate::decode;
use crate::storage::{self, Expected};
use crate::watch_cache::with_revision;

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// A delete that loses this many races gives up; each lost race means that somebody else got ahead.
const TRIES_MAX: usize = 16;

/// `metav1.DeleteOptions` as the verb uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub orphan_dependents: Option<bool>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl Options {
    /// From the body where there is one, else from the query.
    pub fn read(call: &Call, query: &Query) -> Result<Self, ApiError> {
        let mut options = if call.body.is_empty() {
            Self {
                grace_seconds: query.number("gracePeriodSeconds")?,
                propagation: propagation(query.get("propagationPolicy"))?,
                orphan_dependents: query.contains("orphanDependents").then(|| query.flag("orphanDependents")),
                ..Self::default()
            }
        } else {
            let content_type = call.content_type.as_deref();
            let body = decode::options::<meta::DeleteOptions>("DeleteOptions", content_type, &call.body)?;
            let preconditions = body.preconditions.unwrap_or_default();
            Self {
                grace_seconds: body.grace_period_seconds,
                propagation: propagation(body.propagation_policy.as_deref())?,
                orphan_dependents: body.orphan_dependents,
                uid: preconditions.uid,
                resource_version: preconditions.resource_version,
                dry_run: dry_run(body.dry_run.as_deref().unwrap_or_default())?,
            }
        };
        options.dry_run |= call.options.dry_run;
        if options.propagation.is_some() && options.orphan_dependents.is_some() {
            return Err(wrong(Cause {
                reason: "FieldValueInvalid".into(),
                field: "propagationPolicy".into(),
                message: format!(
                    "Invalid value: \"{:?}\": orphanDependents and deletionPropagation cannot be both set",
                    options.propagation.unwrap_or(Propagation::Background)
                ),
            }));
        }
        Ok(options)
    }
}

fn wrong(cause: Cause) -> ApiError {
    options::invalid("DeleteOptions", vec![cause])
}

fn propagation(text: Option<&str>) -> Result<Option<Propagation>, ApiError> {
    Ok(Some(match text.unwrap_or_default() {
        "" => return Ok(None),
        "Orphan" => Propagation::Orphan,
        "Background" => Propagation::Background,
        "Foreground" => Propagation::Foreground,
        other => {
            return Err(wrong(Cause {
                reason: "FieldValueNotSupported".into(),
                field: "propagationPolicy".into(),
                message: format!(
                    "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            }));
        }
    }))
}

fn dry_run(values: &[String]) -> Result<bool, ApiError> {
    match values.iter().find(|v| *v != "All") {
        None => Ok(!values.is_empty()),
        Some(other) => Err(wrong(Cause {
            reason: "FieldValueNotSupported".into(),
            field: "dryRun".into(),
            message: format!("Unsupported value: {other:?}: supported values: \"All\""),
        })),
    }
}

/// What becomes of the object.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Removed now.
    Removed,
    /// Kept, marked as being deleted.
    Marked,
    /// A deletion is under way and this request does not hasten it.
    Pending,
}

pub async fn delete(call: &Call, options: &Options) -> Result<Answer, ApiError> {
    warn_of_default(call, options);
    for _ in 0..TRIES_MAX {
        let object = call.current().await?;
        match attempt(call, options, &object).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(refused) if call.is_newest(&object).await? => return Err(refused),
            Err(_) => {}
        }
    }
    Err(ApiError::conflict(call.form.resource(), call.name(), coracle_client::status::MODIFIED))
}

pub(super) fn warn_of_default(call: &Call, options: &Options) {
    if options.propagation.is_none() && options.orphan_dependents.is_none() {
        call.warn(call.kind.def.ops.deletion_warning().map(str::to_owned).into_iter().collect());
    }
}

/// None: the object changed meanwhile.
async fn attempt(call: &Call, options: &Options, object: &Object) -> Result<Option<Answer>, ApiError> {
    let def = &call.kind.def;
    preconditions(call, options, object)?;
    let mut typed = def.decode_stored(&object.json)?;
    admission::admit(call, Operation::Delete, None, Some(&*typed)).await?;
    admission::validate(call, Operation::Delete, None, Some(&*typed)).await?;
    let grace = def.ops.deletion_grace_seconds(&*typed);
    let held_back = def.ops.held_back(&*typed);
    let was_deleting = typed.meta().deletion_timestamp.is_some();
    let policy = by_default(typed.meta(), options, def.ops.orphans_by_default());
    let fate = decide(typed.meta_mut(), grace, held_back, &policy, metadata::now().0);
    if fate == Fate::Marked && !was_deleting {
        def.ops.prepare_deletion(&mut *typed);
    }
    let revision = object.head.resource_version;
    let encoded = encode(&mut *typed)?;
    let shown = with_revision(&encoded, revision);
    if fate == Fate::Pending || options.dry_run || (fate == Fate::Marked && shown == object.json) {
        let newest = call.is_newest(object).await?;
        return Ok(newest.then(|| answer(call, options, &fate, &object.head.uid, shown)));
    }
    let key = call.key();
    let committed = match fate {
        Fate::Marked => call.put(&key, Expected::Revision(revision), encoded).await?,
        _ => match call.write(&key, Expected::Revision(revision), storage::Operation::Delete).await? {
            Ok(revision) => {
                admission::removed(call, &*typed).await;
                Committed::Written(with_revision(&encoded, revision))
            }
            Err(_) => Committed::Conflict,
        },
    };
    match committed {
        Committed::Written(json) => Ok(Some(answer(call, options, &fate, &object.head.uid, json))),
        Committed::Conflict => Ok(None),
    }
}

pub(crate) fn preconditions(call: &Call, options: &Options, object: &Object) -> Result<(), ApiError> {
    let resource = call.kind.resource();
    // By the kind's name, as upstream's store says it.
    let named =
        Resource::new("", resource.version(), resource.kind(), resource.kind(), resource.namespaced());
    let conflict = |why: String| ApiError::conflict(&named, call.name(), &why);
    let head = &object.head;
    if let Some(uid) = options.uid.as_deref().filter(|uid| **uid != *head.uid) {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            head.uid
        )));
    }
    let current = head.resource_version.to_string();
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != current) {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({current}). The object might have been modified"
        )));
    }
    Ok(())
}

/// The options, with the kind's policy where neither the client nor an earlier delete named one.
fn by_default(meta: &ObjectMeta, options: &Options, orphans: bool) -> Options {
    let present = meta.finalizers.as_deref().unwrap_or_default();
    let named = options.propagation.is_some()
        || options.orphan_dependents.is_some()
        || present.iter().any(|f| f == ORPHAN || f == FOREGROUND);
    let propagation = if orphans && !named { Some(Propagation::Orphan) } else { options.propagation };
    Options { propagation, ..options.clone() }
}

/// Decides, and writes what it decides into the metadata. `grace`: what the kind grants this object by itself.
fn decide(
    meta: &mut ObjectMeta,
    grace: Option<i64>,
    held_back: bool,
    options: &Options,
    now: Timestamp,
) -> Fate {
    let graceful = match grace {
        None => false,
        Some(granted) => match graceful(meta, granted, options, now) {
            Some(graceful) => graceful,
            None => return Fate::Pending,
        },
    };
    meta.finalizers = Some(finalizers(meta.finalizers.as_deref().unwrap_or_default(), options))
        .filter(|list| !list.is_empty());
    let held = meta.finalizers.is_some() || held_back;
    if !graceful {
        if !held {
            return Fate::Removed;
        }
        if meta.deletion_timestamp.is_none() {
            meta.deletion_timestamp = Some(Time(now));
            if !held_back {
                bump_generation(meta);
            }
        }
        // What empties itself first has no grace to speak of and is of the same generation, as upstream.
        if !held_back {
            meta.deletion_grace_period_seconds = Some(0);
        }
        return Fate::Marked;
    }
    if held || meta.deletion_grace_period_seconds.unwrap_or(0) > 0 { Fate::Marked } else { Fate::Removed }
}

/// Some(true): the deletion was put into the metadata; Some(false): nothing graceful about it; None: already under way.
fn graceful(meta: &mut ObjectMeta, granted: i64, options: &Options, now: Timestamp) -> Option<bool> {
    if let Some(deletion) = &meta.deletion_timestamp {
        // Deleted without a grace period before: now it goes.
        let Some(before) = meta.deletion_grace_period_seconds else { return Some(false) };
        let seconds = options.grace_seconds.filter(|seconds| *seconds < before)?;
        let shift = SignedDuration::from_secs(seconds.max(0) - before);
        meta.deletion_timestamp = Some(Time(deletion.0.checked_add(shift).unwrap_or(now)));
        meta.deletion_grace_period_seconds = Some(seconds.max(0));
        return Some(true);
    }
    // The kind grants nothing to what never ran or has ended, whatever was asked.
    let seconds = if granted == 0 { 0 } else { options.grace_seconds.unwrap_or(granted) };
    let seconds = if seconds < 0 { 1 } else { seconds };
    let at = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    meta.deletion_timestamp = Some(Time(at));
    meta.deletion_grace_period_seconds = Some(seconds);
    bump_generation(meta);
    Some(true)
}

fn bump_generation(meta: &mut ObjectMeta) {
    if let Some(generation) = meta.generation.filter(|g| *g > 0) {
        meta.generation = Some(generation + 1);
    }
}

/// The garbage collector's finalizers as the options want them, the others as they are.
fn finalizers(present: &[String], options: &Options) -> Vec<String> {
    let has = |name: &str| present.iter().any(|f| f == name);
    let orphan = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => orphan,
        (None, Some(policy)) => policy == Propagation::Orphan,
        (None, None) => has(ORPHAN),
    };
    let foreground = match (options.orphan_dependents, options.propagation) {
        (Some(_), _) => false,
        (None, Some(policy)) => policy == Propagation::Foreground,
        (None, None) => has(FOREGROUND),
    };
    let mut list: Vec<String> =
        present.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    for (name, wanted) in [(ORPHAN, orphan), (FOREGROUND, foreground)] {
        if wanted {
            list.push(name.into());
        }
    }
    list
}

fn answer(call: &Call, options: &Options, fate: &Fate, uid: &str, json: Bytes) -> Answer {
    let def = &call.kind.def;
    if *fate != Fate::Removed {
        // As upstream: the client asked for cascading and the object is still there.
        let code = if options.orphan_dependents == Some(false) { 202 } else { 200 };
        return Answer { code, ..Answer::ok(json) };
    }
    if def.returns_deleted {
        return Answer::ok(json);
    }
    let resource = call.form.resource();
    let mut details = json!({ "name": call.name(), "kind": resource.plural(), "uid": uid });
    if let (false, Some(members)) = (resource.group().is_empty(), details.as_object_mut()) {
        members.insert("group".into(), json!(resource.group()));
    }
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    });
    Answer { of_kind: false, ..Answer::ok(status.to_string().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn deleting(before: Option<i64>) -> ObjectMeta {
        ObjectMeta {
            deletion_timestamp: Some(Time(Timestamp::from_second(1_000_000 + before.unwrap_or(0)).unwrap())),
            deletion_grace_period_seconds: before,
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_becomes_of_an_object() {
        let held = || ObjectMeta { finalizers: Some(vec!["a.b/c".into()]), ..ObjectMeta::default() };
        let grace = |s: i64| Options { grace_seconds: Some(s), ..Options::default() };
        let policy = |p| Options { propagation: Some(p), ..Options::default() };
        let none = Options::default;
        // metadata, the kind's grace, options, fate, grace in the metadata afterwards
        for (i, (mut meta, granted, options, fate, left)) in [
            (ObjectMeta::default(), None, none(), Fate::Removed, None),
            (ObjectMeta::default(), None, grace(30), Fate::Removed, None),
            (held(), None, none(), Fate::Marked, Some(0)),
            (ObjectMeta::default(), None, policy(Propagation::Foreground), Fate::Marked, Some(0)),
            (ObjectMeta::default(), None, policy(Propagation::Background), Fate::Removed, None),
            (ObjectMeta::default(), Some(30), none(), Fate::Marked, Some(30)),
            (ObjectMeta::default(), Some(30), grace(0), Fate::Removed, Some(0)),
            (ObjectMeta::default(), Some(30), grace(5), Fate::Marked, Some(5)),
            (ObjectMeta::default(), Some(30), grace(-7), Fate::Marked, Some(1)),
            (ObjectMeta::default(), Some(0), grace(30), Fate::Removed, Some(0)),
            (deleting(Some(30)), Some(30), none(), Fate::Pending, Some(30)),
            (deleting(Some(30)), Some(30), grace(60), Fate::Pending, Some(30)),
            (deleting(Some(30)), Some(30), grace(10), Fate::Marked, Some(10)),
            (deleting(Some(30)), Some(30), grace(0), Fate::Removed, Some(0)),
            (held(), Some(30), grace(0), Fate::Marked, Some(0)),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(decide(&mut meta, granted, false, &options, now()), fate, "case {i}");
            assert_eq!(meta.deletion_grace_period_seconds, left, "case {i}");
        }
        let mut namespace = ObjectMeta::default();
        assert_eq!(decide(&mut namespace, None, true, &none(), now()), Fate::Marked);
    }

    #[test]
    fn a_shorter_grace_moves_the_deadline() {
        let mut meta = deleting(Some(30));
        let options = Options { grace_seconds: Some(10), ..Options::default() };
        assert_eq!(decide(&mut meta, Some(30), false, &options, now()), Fate::Marked);
        assert_eq!(meta.deletion_timestamp.unwrap().0.as_second(), 1_000_010);
    }

    #[test]
    fn some_kinds_leave_what_they_own() {
        let held = |finalizer: &str| ObjectMeta {
            finalizers: Some(vec![finalizer.into()]),
            ..ObjectMeta::default()
        };
        let background = Options { propagation: Some(Propagation::Background), ..Options::default() };
        for (meta, options, orphans, want) in [
            (ObjectMeta::default(), Options::default(), false, None),
            (ObjectMeta::default(), Options::default(), true, Some(Propagation::Orphan)),
            (ObjectMeta::default(), background, true, Some(Propagation::Background)),
            (held(FOREGROUND), Options::default(), true, None),
        ] {
            assert_eq!(by_default(&meta, &options, orphans).propagation, want);
        }
    }

    #[test]
    fn finalizers_follow_the_policy() {
        let policy = |p| Options { propagation: Some(p), ..Options::default() };
        let orphans = |o| Options { orphan_dependents: Some(o), ..Options::default() };
        for (present, options, want) in [
            (vec!["x"], Options::default(), vec!["x"]),
            (vec!["x"], policy(Propagation::Orphan), vec!["x", ORPHAN]),
            (vec![ORPHAN], policy(Propagation::Foreground), vec![FOREGROUND]),
            (vec![FOREGROUND], policy(Propagation::Background), vec![]),
            (vec![], orphans(true), vec![ORPHAN]),
            (vec![ORPHAN], orphans(false), vec![]),
            (vec![FOREGROUND], Options::default(), vec![FOREGROUND]),
        ] {
            let present: Vec<String> = present.into_iter().map(Into::into).collect();
            assert_eq!(finalizers(&present, &options), want);
        }
    }
}
