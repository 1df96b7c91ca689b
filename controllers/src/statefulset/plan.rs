//! What a StatefulSet's pods need next: a pod for every ordinal, none beyond, and all of the wanted revision.

use std::cmp::Reverse;
use std::sync::Arc;

use coracle_client::Object;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::claims::{self, Place};
use super::identity::Member;
use crate::int_or_percent::scaled;
use crate::pods::Phase;

pub struct State<'a> {
    pub set: &'a StatefulSet,
    pub members: &'a [Member],
    /// The names of the revisions.
    pub current: &'a str,
    pub update: &'a str,
    /// A claim by its name.
    pub claim: &'a dyn Fn(&str) -> Option<Arc<Object>>,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// The pod of an ordinal with its claims; `updated`: of the update revision, else of the current one.
    Create {
        ordinal: i32,
        updated: bool,
    },
    Delete(Member),
    /// Claims of a pending pod that are missing.
    CreateClaims(Member),
    /// The pod's identity or volumes are not what its place asks for.
    Conform(Member),
    /// The owners of the pod's claims are not what the policy asks for.
    Own(Member),
}

/// Stages, one after the other; a failure ends the plan.
#[derive(Debug, Default)]
pub struct Plan {
    pub stages: Vec<Vec<Action>>,
    /// Pods of the current revision that the last stage deletes so that they become updated ones.
    pub outdated: i32,
}

impl Plan {
    /// How many pods it creates, and the uids of those that it deletes.
    pub fn pods(&self) -> (usize, Vec<Box<str>>) {
        let (mut creations, mut deletions) = (0, Vec::new());
        for action in self.stages.iter().flatten() {
            match action {
                Action::Create { .. } => creations += 1,
                Action::Delete(member) => deletions.push(member.pod.uid().into()),
                _ => {}
            }
        }
        (creations, deletions)
    }
}

/// Whether pods are made, and go, in order: each waits for those before it.
pub fn ordered(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() != Some("Parallel")
}

pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

pub fn first_ordinal(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0).max(0)
}

/// The ordinals below the partition keep the current revision.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.update_strategy.as_ref()?;
    (strategy.type_.as_deref() != Some("OnDelete")).then(|| {
        let rolling = strategy.rolling_update.as_ref();
        rolling.and_then(|r| r.partition).unwrap_or(0)
    })
}

fn max_unavailable(set: &StatefulSet) -> i32 {
    let rolling = set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let one = IntOrString::Int(1);
    let value = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&one);
    // A small share rounds down to none, with which nothing could move.
    scaled(Some(value), replicas(set), false).max(1)
}

impl State<'_> {
    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn place<'m>(&'m self, pod: &'m str, pod_uid: &'m str, scaled_down: bool) -> Place<'m> {
        Place { set: self.set, pod, pod_uid, scaled_down }
    }

    fn claims_suit(&self, member: &Member, scaled_down: bool) -> bool {
        let place = self.place(member.pod.name(), member.pod.uid(), scaled_down);
        claims::names(self.set, member.ordinal)
            .filter_map(|name| (self.claim)(&name))
            .all(|claim| place.suits(&claim.head))
    }

    fn claims_missing(&self, ordinal: i32) -> bool {
        claims::names(self.set, ordinal).any(|name| (self.claim)(&name).is_none())
    }

    /// A claim of an earlier pod of this ordinal is on its way out.
    fn claims_stale(&self, ordinal: i32) -> bool {
        let pod = super::identity::pod_name(self.set, ordinal);
        let place = self.place(&pod, "", false);
        claims::names(self.set, ordinal)
            .filter_map(|name| (self.claim)(&name))
            .any(|claim| place.stale(&claim))
    }

    /// Whether a pod made now for this place is of the update revision.
    fn updated(&self, index: i32) -> bool {
        let Some(partition) = partition(self.set) else { return true };
        let strategy = self.set.spec.update_strategy.as_ref();
        let status = self.set.status.as_ref();
        match strategy.and_then(|s| s.rolling_update.as_ref()) {
            Some(_) => index >= partition,
            // Without a partition: as many as there are of the current revision keep it.
            None => index >= status.and_then(|s| s.current_replicas).unwrap_or(0),
        }
    }
}

fn running_and_ready(member: &Member) -> bool {
    member.pod.phase == Phase::Running && member.pod.ready()
}

/// The pods in their places, and those that have none any more, highest ordinal first.
struct Places<'a> {
    wanted: Vec<Option<&'a Member>>,
    condemned: Vec<&'a Member>,
}

impl<'a> Places<'a> {
    fn of(set: &StatefulSet, members: &'a [Member]) -> Self {
        let start = first_ordinal(set);
        let size = usize::try_from(replicas(set)).unwrap_or(0);
        let (mut wanted, mut condemned) = (vec![None; size], Vec::new());
        for member in members {
            let index = member.ordinal.checked_sub(start).and_then(|i| usize::try_from(i).ok());
            match index.and_then(|index| wanted.get_mut(index)) {
                Some(place) => *place = Some(member),
                None => condemned.push(member),
            }
        }
        condemned.sort_by_key(|member| Reverse(member.ordinal));
        Self { wanted, condemned }
    }
}

pub fn plan(state: &State<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if state.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let places = Places::of(state.set, state.members);
    let blocked =
        fill(state, &places, now, &mut plan.stages) || shrink(state, &places, now, &mut plan.stages);
    if !blocked && let Some(partition) = partition(state.set) {
        let doomed = outdated(state, &places, partition, now);
        let of_current = doomed.iter().filter(|member| member.revision() == state.current).count();
        plan.outdated = i32::try_from(of_current).unwrap_or(i32::MAX);
        plan.stages.push(doomed.into_iter().cloned().map(Action::Delete).collect());
    }
    plan.stages.retain(|stage| !stage.is_empty());
    plan
}

/// Every wanted place has a sound pod. True: what comes after must wait.
fn fill(state: &State<'_>, places: &Places<'_>, now: Timestamp, stages: &mut Vec<Vec<Action>>) -> bool {
    let ordered = ordered(state.set);
    let mut stage = Vec::new();
    let mut blocked = false;
    for (index, place) in (0..).zip(&places.wanted) {
        if fill_one(state, index, *place, now, &mut stage) && ordered {
            blocked = true;
            break;
        }
    }
    stages.push(stage);
    blocked
}

/// True: those after this one must wait, where order is kept.
fn fill_one(
    state: &State<'_>,
    index: i32,
    place: Option<&Member>,
    now: Timestamp,
    stage: &mut Vec<Action>,
) -> bool {
    let Some(member) = place else {
        let ordinal = first_ordinal(state.set).saturating_add(index);
        if !state.claims_stale(ordinal) {
            stage.push(Action::Create { ordinal, updated: state.updated(index) });
        }
        return true;
    };
    // However it ended: what was evicted may have left with 0.
    if member.pod.terminal() {
        if !member.terminating() {
            stage.push(Action::Delete(member.clone()));
        }
        return true;
    }
    if member.pod.phase == Phase::Pending && state.claims_missing(member.ordinal) {
        stage.push(Action::CreateClaims(member.clone()));
    }
    let sound =
        !member.terminating() && running_and_ready(member) && member.pod.available(state.min_ready(), now);
    if !sound && ordered(state.set) {
        return true;
    }
    if !member.conforms {
        stage.push(Action::Conform(member.clone()));
    }
    if !state.claims_suit(member, false) {
        stage.push(Action::Own(member.clone()));
    }
    false
}

/// What has no place any more goes, from the highest ordinal. True: what comes after must wait.
fn shrink(state: &State<'_>, places: &Places<'_>, now: Timestamp, stages: &mut Vec<Vec<Action>>) -> bool {
    let condemned = &places.condemned;
    let disowned = condemned.iter().filter(|member| !state.claims_suit(member, true));
    stages.push(disowned.map(|member| Action::Own((*member).clone())).collect());
    if !ordered(state.set) {
        let going = condemned.iter().filter(|member| !member.terminating());
        stages.push(going.map(|member| Action::Delete((*member).clone())).collect());
        return false;
    }
    let Some(last) = condemned.first() else { return false };
    let available = |member: &Member| member.pod.available(state.min_ready(), now);
    // Of those that are not available the first may go; the others wait for it.
    let first_unavailable = condemned.iter().rev().find(|m| m.terminating() || !available(m));
    let sound = running_and_ready(last) && available(last);
    let may_go = sound || first_unavailable.is_some_and(|first| first.ordinal == last.ordinal);
    if !last.terminating() && may_go {
        stages.push(vec![Action::Delete((*last).clone())]);
    }
    true
}

/// Pods of another revision than the update's that may go now, from the highest ordinal.
fn outdated<'a>(state: &State<'_>, places: &Places<'a>, partition: i32, now: Timestamp) -> Vec<&'a Member> {
    let going = |member: &Member| member.terminating() || member.pod.terminal();
    let unavailable = places.wanted.iter().filter(|place| match place {
        None => true,
        Some(member) if going(member) => true,
        Some(member) if member.pod.available(state.min_ready(), now) => false,
        // Without order, what an old revision broke does not keep the new one from coming.
        Some(member) => ordered(state.set) || member.revision() == state.update,
    });
    let room = usize::try_from(max_unavailable(state.set)).unwrap_or(1).saturating_sub(unavailable.count());
    let partition = usize::try_from(partition).unwrap_or(0);
    let candidates = places.wanted.iter().skip(partition).rev().flatten().copied();
    candidates.filter(|member| member.revision() != state.update && !going(member)).take(room).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
