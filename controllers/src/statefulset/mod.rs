//! StatefulSet: pods with names and claims that last, made and replaced in order.

use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::EventRecorder;
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use crate::context::Context;
use crate::expectations::Expectations;
use crate::history::{self, Update};
use crate::pod_changes::{self, Owners};
use crate::pod_control::slow_start;
use crate::{ownership, pods};

mod act;
mod claims;
mod identity;
mod plan;
mod status;

use act::Act;
use identity::Member;
use plan::Plan;
use status::Seen;

/// The label of a revision that carries its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        sets: context.of::<StatefulSet>(),
        pods: context.of::<Pod>(),
        claims: context.of::<PersistentVolumeClaim>(),
        revisions: context.of::<ControllerRevision>(),
        events: context.recorder("statefulset-controller"),
        expectations: Arc::default(),
    };
    pods::index(&controller.pods);
    ownership::index(&controller.revisions);
    let queue = WorkQueue::new();
    let expectations = &controller.expectations;
    pod_changes::follow_owners(&controller.sets, &queue, expectations.clone());
    let owners = Owners { informer: controller.sets.clone(), selector };
    pod_changes::follow(&controller.pods, owners, &queue, expectations.clone());
    watch_claims(&controller, &queue);
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    sets: Informer,
    pods: Informer,
    claims: Informer,
    revisions: Informer,
    events: EventRecorder,
    expectations: Arc<Expectations>,
}

/// A pod may wait for a claim to be gone, or miss one that is.
fn watch_claims(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, sets) = (queue.clone(), controller.sets.clone());
    controller.claims.on_change(move |change: &Change| {
        let claim = change.object();
        if change.new.is_some() {
            return;
        }
        for name in claims::possible_sets(&claim.head.name) {
            if let Some(set) = sets.get(&claim.head.namespace, name) {
                queue.add(set.key());
            }
        }
    });
}

fn selector(set: &Object) -> Option<Selector> {
    let set: StatefulSet = set.decode().ok()?;
    Selector::from_label_selector(Some(&set.spec.selector)).ok().filter(|s| !s.is_everything())
}

/// The template to go from, and the one to go to.
struct Revisions {
    current: ControllerRevision,
    update: ControllerRevision,
    collisions: i32,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        // Before the pods are read: what is satisfied now shows in what is read next.
        let satisfied = self.expectations.satisfied(key);
        let set: StatefulSet = object.decode()?;
        let Some(selector) = selector(&object) else { return Ok(Outcome::Done) };
        let history =
            history::claim::<StatefulSet>(&self.client, &self.revisions, &set.metadata, &selector).await?;
        let members = self.members(&set, &selector, key).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return self.only_count(&set, &members).await;
        }
        let revisions = self.revisions(&set, &history).await?;
        let result = self.sync(key, &set, &members, &revisions, satisfied).await;
        self.truncate(&set, &history, &members, &revisions).await?;
        result
    }
}

impl Controller {
    /// The pods whose names and owner say that they are the set's.
    async fn members(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        key: &Key,
    ) -> Result<Vec<Member>, ApiError> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = ownership::candidates(&self.pods, &key.namespace, uid);
        let ordinal = |o: &Object| {
            let (parent, ordinal) = identity::parent_and_ordinal(&o.head.name)?;
            (*parent == *key.name).then_some(ordinal)
        };
        candidates.retain(|o| ordinal(o).is_some());
        let claimed =
            ownership::claim_all::<StatefulSet, Pod>(&self.client, &set.metadata, selector, candidates)
                .await?;
        let mut members = Vec::with_capacity(claimed.len());
        for pod in &claimed {
            if let Some(ordinal) = ordinal(pod) {
                members.push(Member::parse(pod, set, ordinal)?);
            }
        }
        Ok(members)
    }

    async fn revisions(
        &self,
        set: &StatefulSet,
        history: &[ControllerRevision],
    ) -> Result<Revisions, ApiError> {
        let status = set.status.as_ref();
        let mut collisions = status.and_then(|s| s.collision_count).unwrap_or(0);
        let template = &set.spec.template;
        let update = match history::update(history, template) {
            Update::Is(revision) => revision.clone(),
            Update::Renumber(revision, number) => history::renumber(&self.client, revision, number).await?,
            Update::Create(number) => {
                let meta = &set.metadata;
                history::create::<StatefulSet>(
                    &self.client,
                    meta,
                    template,
                    HASH_LABEL,
                    number,
                    &mut collisions,
                )
                .await?
            }
        };
        let current = status.and_then(|s| s.current_revision.as_deref());
        let current = history.iter().find(|r| Some(history::name(r)) == current).unwrap_or(&update).clone();
        Ok(Revisions { current, update, collisions })
    }

    /// `satisfied`: the informer shows all that earlier syncs did; else this one only counts.
    async fn sync(
        &self,
        key: &Key,
        set: &StatefulSet,
        members: &[Member],
        revisions: &Revisions,
        satisfied: bool,
    ) -> Result<Outcome, ApiError> {
        let now = Timestamp::now();
        let (current, update) = (history::name(&revisions.current), history::name(&revisions.update));
        let plan = if !satisfied {
            Plan::default()
        } else {
            let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
            let claim = |name: &str| self.claims.get(namespace, name);
            plan::plan(&plan::State { set, members, current, update, claim: &claim }, now)
        };
        let outdated = plan.outdated;
        let result = self.act(key, set, revisions, plan).await;
        if result.is_err() {
            // What of the plan has been done is not known here; the next try comes later than the informer.
            self.expectations.forget(key);
        }
        let outdated = if result.is_ok() { outdated } else { 0 };
        let collisions = revisions.collisions;
        let seen = Seen { set, members, current, update, collisions, outdated };
        let written = self.write(set, status::status(&seen, now)).await;
        result.and(written)?;
        Ok(again(set, members, now))
    }

    async fn act(
        &self,
        key: &Key,
        set: &StatefulSet,
        revisions: &Revisions,
        plan: Plan,
    ) -> Result<(), ApiError> {
        let (creations, deletions) = plan.pods();
        if creations > 0 || !deletions.is_empty() {
            self.expectations.expect(key, creations, deletions);
        }
        let template = |revision: &ControllerRevision| -> PodTemplateSpec {
            history::template_of(revision).unwrap_or_else(|| set.spec.template.clone())
        };
        let act = Act {
            client: &self.client,
            claims: &self.claims,
            events: &self.events,
            expectations: &self.expectations,
            key,
            set,
            current: (template(&revisions.current), history::name(&revisions.current)),
            update: (template(&revisions.update), history::name(&revisions.update)),
        };
        for stage in plan.stages {
            if plan::ordered(set) {
                for action in stage {
                    act.run(action).await?;
                }
            } else {
                slow_start(&mut stage.into_iter(), |action| act.run(action)).await?;
            }
        }
        Ok(())
    }

    /// A set that is going makes nothing any more, it only says what is left.
    async fn only_count(&self, set: &StatefulSet, members: &[Member]) -> Result<Outcome, ApiError> {
        let status = set.status.clone().unwrap_or_default();
        let seen = Seen {
            set,
            members,
            current: status.current_revision.as_deref().unwrap_or_default(),
            update: status.update_revision.as_deref().unwrap_or_default(),
            collisions: status.collision_count.unwrap_or(0),
            outdated: 0,
        };
        self.write(set, status::status(&seen, Timestamp::now())).await?;
        Ok(Outcome::Done)
    }

    async fn write(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), ApiError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let next = StatefulSet { status: Some(status), ..set.clone() };
        match self.client.update_status(&next).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps as many revisions as asked for beyond those that are in use.
    async fn truncate(
        &self,
        set: &StatefulSet,
        history: &[ControllerRevision],
        members: &[Member],
        revisions: &Revisions,
    ) -> Result<(), ApiError> {
        let Ok(limit) = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)) else {
            // Below zero: all are kept.
            return Ok(());
        };
        let live = |revision: &ControllerRevision| {
            let name = history::name(revision);
            name == history::name(&revisions.current)
                || name == history::name(&revisions.update)
                || members.iter().any(|member| member.revision() == name)
        };
        let excess = history.iter().filter(|r| !live(r)).count().saturating_sub(limit);
        for revision in history::expired(history, excess, live) {
            history::delete(&self.client, revision).await?;
        }
        Ok(())
    }
}

/// When the next pod becomes available, if it stays ready.
fn again(set: &StatefulSet, members: &[Member], now: Timestamp) -> Outcome {
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let waits = members.iter().filter_map(|m| m.pod.available_in(min_ready, now)).filter(|d| !d.is_zero());
    waits.min().map_or(Outcome::Done, Outcome::After)
}

#[cfg(test)]
mod tests;
