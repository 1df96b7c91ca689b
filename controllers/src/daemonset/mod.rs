//! DaemonSet: one pod on every node that suits it, replaced node by node when its template changes.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::EventType;
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Change, Informer, Key, Object, PatchType, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{self, Pod};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::history::{self, POD_LABEL, Update};
use crate::pod_changes::{self, Owners};
use crate::pod_control::PodControl;
use crate::{ownership, pods};

mod backoff;
mod daemon;
mod nodes;
mod plan;
mod status;

use backoff::Backoff;
use daemon::Daemon;
use nodes::{Demands, Fit, Node, Nodes};
use plan::Plan;

pub async fn run(context: Context) {
    let expectations: Arc<_> = Arc::default();
    let controller = Controller {
        sets: context.of::<DaemonSet>(),
        pods: context.of::<Pod>(),
        revisions: context.of::<ControllerRevision>(),
        nodes: Arc::default(),
        backoff: Backoff::default(),
        control: PodControl {
            client: context.client.clone(),
            events: context.recorder("daemonset-controller"),
            expectations: Arc::clone(&expectations),
        },
    };
    pods::index(&controller.pods);
    ownership::index(&controller.revisions);
    let queue = WorkQueue::new();
    pod_changes::follow_owners(&controller.sets, &queue, expectations.clone());
    let owners = Owners { informer: controller.sets.clone(), selector };
    pod_changes::follow(&controller.pods, owners, &queue, expectations);
    watch_revisions(&controller, &queue);
    watch_nodes(&controller, &context.of::<v1::Node>(), &queue);
    context.work(controller, queue).await;
}

struct Controller {
    sets: Informer,
    pods: Informer,
    revisions: Informer,
    nodes: Arc<Nodes>,
    backoff: Backoff,
    control: PodControl,
}

fn selector(set: &Object) -> Option<Selector> {
    let set: DaemonSet = set.decode().ok()?;
    Selector::from_label_selector(Some(&set.spec.selector)).ok().filter(|s| !s.is_everything())
}

/// A revision that is changed or gone is put right.
fn watch_revisions(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, sets) = (queue.clone(), controller.sets.clone());
    controller.revisions.on_change(move |change: &Change| {
        let revision = change.object();
        let owner = revision.head.controller().filter(|o| &*o.kind == "DaemonSet");
        if let Some(owner) = owner
            && let Some(set) = sets.get(&revision.head.namespace, &owner.name)
            && set.head.uid == owner.uid
        {
            queue.add(set.key());
        }
    });
}

/// A node's change is looked at by every set and concerns those for which it now suits, or no longer does.
fn watch_nodes(controller: &Controller, informer: &Informer, queue: &WorkQueue<Key>) {
    let (queue, sets, nodes) = (queue.clone(), controller.sets.clone(), controller.nodes.clone());
    informer.on_change(move |change: &Change| {
        let (before, after) = match &change.new {
            Some(object) => {
                let Ok(node) = Node::parse(object).map(Arc::new) else { return };
                let Some(before) = nodes.put(node.clone()) else { return };
                (before, Some(node))
            }
            None => (nodes.remove(&change.object().head.name), None),
        };
        for object in sets.list() {
            let Ok(set) = object.decode::<DaemonSet>() else { continue };
            let demands = Demands::of(&set);
            let fit = |node: &Option<Arc<Node>>| node.as_ref().map(|n| demands.fit(n)).unwrap_or_default();
            if fit(&before) != fit(&after) {
                queue.add(object.key());
            }
        }
    });
}

/// What the sync of one set works with.
struct Seen {
    set: DaemonSet,
    nodes: Vec<(Arc<Node>, Fit)>,
    daemons: Vec<Daemon>,
    /// The hash of the wanted template.
    hash: String,
    collisions: i32,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let expectations = &self.control.expectations;
        let Some(object) = self.sets.get_key(key) else {
            expectations.forget(key);
            return Ok(Outcome::Done);
        };
        // Before the pods are read: what is satisfied now shows in what is read next.
        let satisfied = expectations.satisfied(key);
        let set: DaemonSet = object.decode()?;
        let Some(selector) = selector(&object) else {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.events.event(&set, EventType::Warning, "SelectingAll", message);
            return Ok(Outcome::Done);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let history =
            history::claim::<DaemonSet>(&self.control.client, &self.revisions, &set.metadata, &selector)
                .await?;
        let daemons = self.daemons(&set, &selector, key).await?;
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let current = self.current(&set, &history, &mut collisions).await?;
        if !self.merge_duplicates(&set, &history, &current, &daemons).await? {
            // The pods come back with their new labels; by their old ones they would be replaced.
            return Ok(Outcome::Done);
        }
        let demands = Demands::of(&set);
        let nodes = self.nodes.list().into_iter().map(|node| (node.clone(), demands.fit(&node))).collect();
        let hash = hash_of(&current).to_owned();
        let seen = Seen { set, nodes, daemons, hash, collisions };
        let result = if satisfied { self.act(key, &seen).await } else { Ok(None) };
        self.write_status(&seen, satisfied).await?;
        let again = result?;
        self.truncate(&seen, &history, &current).await?;
        Ok(earliest(&seen, again))
    }
}

impl Controller {
    async fn daemons(
        &self,
        set: &DaemonSet,
        selector: &Selector,
        key: &Key,
    ) -> Result<Vec<Daemon>, ApiError> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let candidates = ownership::candidates(&self.pods, &key.namespace, uid);
        let claimed =
            ownership::claim_all::<DaemonSet, Pod>(&self.control.client, &set.metadata, selector, candidates)
                .await?;
        Ok(claimed.iter().map(Daemon::parse).collect::<Result<_, _>>()?)
    }

    /// The revision of the wanted template; made, or made the newest, where it is not.
    async fn current(
        &self,
        set: &DaemonSet,
        history: &[ControllerRevision],
        collisions: &mut i32,
    ) -> Result<ControllerRevision, ApiError> {
        let client = &self.control.client;
        let template = &set.spec.template;
        match history::update(history, template) {
            Update::Is(revision) => Ok(revision.clone()),
            Update::Renumber(revision, number) => history::renumber(client, revision, number).await,
            Update::Create(number) => {
                let meta = &set.metadata;
                history::create::<DaemonSet>(client, meta, template, POD_LABEL, number, collisions).await
            }
        }
    }

    /// Adopted revisions may hold the current template too: their pods become the current one's, and once none is left
    /// they go. False: pods have just been labelled anew.
    async fn merge_duplicates(
        &self,
        set: &DaemonSet,
        history: &[ControllerRevision],
        current: &ControllerRevision,
        daemons: &[Daemon],
    ) -> Result<bool, ApiError> {
        let client = &self.control.client;
        let mut merged = true;
        for duplicate in history::duplicates(history, current, &set.spec.template) {
            let (from, to) = (hash_of(duplicate), hash_of(current));
            let bears = |d: &&Daemon| d.pod.object.head.label(POD_LABEL) == Some(from);
            let theirs: Vec<&Daemon> = daemons.iter().filter(bears).collect();
            if theirs.is_empty() {
                history::delete(client, duplicate).await?;
                continue;
            }
            merged = false;
            for daemon in theirs {
                let head = &daemon.pod.object.head;
                let patch = json!({"metadata": {"uid": head.uid, "labels": {POD_LABEL: to}}});
                let patched =
                    client.patch::<Pod>(&head.namespace, &head.name, None, PatchType::Merge, &patch).await;
                match patched {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(merged)
    }

    /// Carries the plan out; when to look again at daemons that failed.
    async fn act(&self, key: &Key, seen: &Seen) -> Result<Option<Duration>, ApiError> {
        let uid = seen.set.metadata.uid.as_deref().unwrap_or_default();
        let plan = {
            let wait = |node: &str| self.backoff.wait(uid, node, Instant::now());
            let Seen { set, hash, nodes, daemons, .. } = seen;
            plan::plan(&plan::State { set, hash, nodes, daemons, wait: &wait }, Timestamp::now())
        };
        self.note_over(seen, uid, &plan);
        if !plan.is_empty() {
            let pod = daemon::new(&seen.set, &seen.hash);
            let wanted = plan.create.iter().map(|node| daemon::pin(pod.clone(), node));
            self.control.apply(key, &seen.set, wanted, &plan.delete).await?;
        }
        Ok(plan.again)
    }

    fn note_over(&self, seen: &Seen, uid: &str, plan: &Plan) {
        for (pod, node) in &plan.over {
            let namespace = &pod.object.head.namespace;
            let (kind, reason, message) = if pod.phase == pods::Phase::Failed {
                self.backoff.replaced(uid, node, Instant::now());
                let message = format!(
                    "Found failed daemon pod {namespace}/{} on node {node}, will try to kill it",
                    pod.name()
                );
                (EventType::Warning, "FailedDaemonPod", message)
            } else {
                let message = format!(
                    "Found succeeded daemon pod {namespace}/{} on node {node}, will try to delete it",
                    pod.name()
                );
                (EventType::Normal, "SucceededDaemonPod", message)
            };
            self.control.events.event(&seen.set, kind, reason, message);
        }
    }

    async fn write_status(&self, seen: &Seen, observed: bool) -> Result<(), ApiError> {
        let Seen { set, hash, nodes, daemons, collisions } = seen;
        let next: DaemonSetStatus =
            status::status(set, hash, nodes, daemons, *collisions, observed, Timestamp::now());
        if set.status.as_ref() == Some(&next) {
            return Ok(());
        }
        let updated = DaemonSet { status: Some(next), ..set.clone() };
        match self.control.client.update_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps as many old revisions as asked for; those of pods that live stay and count.
    async fn truncate(
        &self,
        seen: &Seen,
        history: &[ControllerRevision],
        current: &ControllerRevision,
    ) -> Result<(), ApiError> {
        let limit = usize::try_from(seen.set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let is_current = |revision: &ControllerRevision| history::name(revision) == history::name(current);
        let live = |revision: &ControllerRevision| {
            let hash = Some(hash_of(revision));
            is_current(revision) || seen.daemons.iter().any(|d| d.pod.object.head.label(POD_LABEL) == hash)
        };
        let excess = history.iter().filter(|r| !is_current(r)).count().saturating_sub(limit);
        for revision in history::expired(history, excess, live) {
            history::delete(&self.control.client, revision).await?;
        }
        Ok(())
    }
}

fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(POD_LABEL)).map_or_else(|| history::name(revision), String::as_str)
}

/// When the next daemon becomes available if it stays ready, or may be replaced.
fn earliest(seen: &Seen, again: Option<Duration>) -> Outcome {
    let min_ready = seen.set.spec.min_ready_seconds.unwrap_or(0);
    let now = Timestamp::now();
    let waits = seen.daemons.iter().filter_map(|d| d.pod.available_in(min_ready, now));
    waits.filter(|d| !d.is_zero()).chain(again).min().map_or(Outcome::Done, Outcome::After)
}

#[cfg(test)]
mod tests;
