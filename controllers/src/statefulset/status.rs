//! A StatefulSet's status, from its pods.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use super::identity::Member;
use super::plan::replicas;
use crate::pods::Phase;

/// What a sync worked with.
pub struct Seen<'a> {
    pub set: &'a StatefulSet,
    pub members: &'a [Member],
    pub current: &'a str,
    pub update: &'a str,
    pub collisions: i32,
    /// Pods of the current revision that this sync deletes for the update.
    pub outdated: i32,
}

pub fn status(seen: &Seen<'_>, now: Timestamp) -> StatefulSetStatus {
    let set = seen.set;
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let count = |of: &dyn Fn(&Member) -> bool| {
        i32::try_from(seen.members.iter().filter(|m| of(m)).count()).unwrap_or(i32::MAX)
    };
    let ready = |m: &Member| m.pod.phase == Phase::Running && m.pod.ready();
    let of = |revision: &str| count(&|m: &Member| !m.terminating() && m.revision() == revision);
    let (total, all_ready) = (count(&|_| true), count(&ready));
    let available = count(&|m: &Member| ready(m) && m.pod.available(min_ready, now));
    let updated = of(seen.update);
    let mut current = (of(seen.current) - seen.outdated).max(0);
    let mut current_revision = seen.current;
    let rolling = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
    // The rollout is complete: what was the update is the current revision from now on.
    if rolling && [updated, all_ready, total].iter().all(|n| *n == replicas(set)) {
        (current, current_revision) = (updated, seen.update);
    }
    let positive = |count: i32| Some(count).filter(|c| *c > 0);
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: total,
        ready_replicas: positive(all_ready),
        available_replicas: Some(available),
        current_replicas: positive(current),
        updated_replicas: positive(updated),
        current_revision: Some(current_revision.to_owned()),
        update_revision: Some(seen.update.to_owned()),
        collision_count: Some(seen.collisions),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}
