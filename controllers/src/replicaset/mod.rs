//! ReplicaSet: keeps as many pods of a template as were asked for.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, WorkQueue};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;
use crate::expectations::Expectations;
use crate::ownership;
use crate::pods::{self, Pod};

mod plan;
mod rank;
mod status;

use plan::Plan;

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        sets: context.of::<ReplicaSet>(),
        pods: context.of::<v1::Pod>(),
        events: context.recorder("replicaset-controller"),
        expectations: Arc::default(),
    };
    pods::index(&controller.pods);
    let queue = WorkQueue::new();
    watch_sets(&controller, &queue);
    watch_pods(&controller, &queue);
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    sets: Informer,
    pods: Informer,
    events: EventRecorder,
    expectations: Arc<Expectations>,
}

fn watch_sets(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, expectations) = (queue.clone(), controller.expectations.clone());
    controller.sets.on_change(move |change| {
        let replaced = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.head.uid != new.head.uid,
            (_, new) => new.is_none(),
        };
        if replaced {
            expectations.forget(&change.key());
        }
        queue.add(change.key());
    });
}

fn watch_pods(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, expectations, sets) =
        (queue.clone(), controller.expectations.clone(), controller.sets.clone());
    controller.pods.on_change(move |change| {
        let pod = change.object();
        if let Some(key) = controlling(&sets, change) {
            if change.old.is_none() && change.new.is_some() {
                expectations.created(&key);
            }
            if change.new.is_none() || pod.head.deleting {
                expectations.deleted(&key, &pod.head.uid);
            }
            queue.add(key);
        } else if change.new.is_some() && !pod.head.deleting && pod.head.controller().is_none() {
            // An orphan whose labels just changed, or that is new: someone may want to adopt it.
            let same_labels = change
                .old
                .as_ref()
                .is_some_and(|o| o.head.labels == pod.head.labels && o.head.controller().is_none());
            if !same_labels {
                for set in sets.list_namespace(&pod.head.namespace) {
                    if selector(&set).is_some_and(|selector| selector.matches(&pod.head)) {
                        queue.add(set.key());
                    }
                }
            }
        }
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.head.controller() != new.head.controller()
        {
            let before = Change { old: None, new: Some(old.clone()) };
            if let Some(key) = controlling(&sets, &before) {
                queue.add(key);
            }
        }
    });
}

/// The set that controls the pod, if the informer has the very one.
fn controlling(sets: &Informer, change: &Change) -> Option<Key> {
    let pod = change.object();
    let owner = pod.head.controller().filter(|o| &*o.kind == "ReplicaSet")?;
    let set = sets.get(&pod.head.namespace, &owner.name)?;
    (set.head.uid == owner.uid).then(|| set.key())
}

fn selector(set: &coracle_client::Object) -> Option<Selector> {
    let set: ReplicaSet = set.decode().ok()?;
    Selector::from_label_selector(Some(&set.spec.selector)).ok().filter(|s| !s.is_everything())
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        // Before the pods are read: what is satisfied now shows in what is read next.
        let satisfied = self.expectations.satisfied(key);
        let set: ReplicaSet = object.decode()?;
        let Ok(selector) = Selector::from_label_selector(Some(&set.spec.selector)) else {
            return Ok(Outcome::Done);
        };
        let all = self.claim(&set, &selector, key).await?;
        let now = Timestamp::now();
        let active: Vec<Pod> = all.iter().filter(|pod| pod.active()).cloned().collect();
        let desired = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
        let mut result = Ok(());
        if satisfied && set.metadata.deletion_timestamp.is_none() {
            let neighbours = if active.len() > desired { self.neighbours(&set) } else { HashMap::new() };
            result = match plan::plan(&active, desired, &neighbours, now) {
                Plan::Nothing => Ok(()),
                Plan::Create(count) => self.create(key, &set, count).await,
                Plan::Delete(doomed) => self.delete(key, &set, &doomed).await,
            };
        }
        let terminating = all.iter().filter(|pod| pod.object.head.deleting && !pod.terminal()).count();
        let next = status::status(&set, &active, terminating, result.as_ref().err(), now);
        if set.status.as_ref() != Some(&next) {
            let updated = ReplicaSet { status: Some(next), ..set.clone() };
            match self.client.update_status(&updated).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return result.and(Err(error)),
            }
        }
        result?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
        let next_available =
            active.iter().filter_map(|pod| pod.available_in(min_ready, now)).filter(|d| !d.is_zero()).min();
        Ok(next_available.map_or(Outcome::Done, Outcome::After))
    }
}

impl Controller {
    async fn claim(&self, set: &ReplicaSet, selector: &Selector, key: &Key) -> Result<Vec<Pod>, ApiError> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.pods.by_owner(uid);
        candidates.extend(
            self.pods
                .by_index(pods::ORPHANS, &key.namespace)
                .into_iter()
                .filter(|o| o.head.owners.iter().all(|w| &*w.uid != uid)),
        );
        // What is over is neither adopted nor released.
        candidates.retain(|o| !matches!(o.head.field("status.phase"), Some("Succeeded" | "Failed")));
        let claimed =
            ownership::claim_all::<ReplicaSet, v1::Pod>(&self.client, &set.metadata, selector, candidates)
                .await?;
        Ok(claimed.iter().map(Pod::parse).collect::<Result<_, _>>()?)
    }

    /// How many active pods stand on each node that belong to this set or a sibling of the same Deployment.
    fn neighbours(&self, set: &ReplicaSet) -> HashMap<Box<str>, usize> {
        let owner = set
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|o| o.controller == Some(true))
            .map(|o| &o.uid);
        let uids: Vec<Box<str>> = match owner {
            Some(owner) => self.sets.by_owner(owner).iter().map(|s| s.head.uid.clone()).collect(),
            None => set.metadata.uid.as_deref().map(Box::from).into_iter().collect(),
        };
        let mut counts = HashMap::new();
        for pod in uids.iter().flat_map(|uid| self.pods.by_owner(uid)) {
            let over = matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed"));
            let node = pod.head.field("spec.nodeName").unwrap_or_default();
            if !over && !pod.head.deleting && !node.is_empty() {
                *counts.entry(node.into()).or_default() += 1;
            }
        }
        counts
    }

    /// In batches that double while they succeed, so that a set that cannot create does not flood the API.
    async fn create(&self, key: &Key, set: &ReplicaSet, count: usize) -> Result<(), ApiError> {
        self.expectations.expect(key, count, []);
        let pod = pod_of(set);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| self.create_one(key, set, &pod))).await;
            left -= size;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                (0..left).for_each(|_| self.expectations.created(key));
                // Not our failure: the namespace controller is at work.
                return if error.is_namespace_terminating() { Ok(()) } else { Err(error) };
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, key: &Key, set: &ReplicaSet, pod: &v1::Pod) -> Result<(), ApiError> {
        match self.client.create(pod).await {
            Ok(written) => {
                let name = written.decode()?.metadata.name.unwrap_or_default();
                self.events.event(set, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.expectations.created(key);
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {error}");
                    self.events.event(set, EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &Key, set: &ReplicaSet, doomed: &[Pod]) -> Result<(), ApiError> {
        self.expectations.expect(key, 0, doomed.iter().map(|pod| pod.uid().into()));
        let deletions = doomed.iter().map(|pod| async move {
            let options = DeleteOptions::default().uid(pod.uid());
            match self.client.delete::<v1::Pod>(&key.namespace, pod.name(), options).await {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.name());
                    self.events.event(set, EventType::Normal, "SuccessfulDelete", message);
                    Ok(())
                }
                // Gone, or another of the same name.
                Err(error) if error.is_not_found() || error.is_conflict() => {
                    self.expectations.deleted(key, pod.uid());
                    Ok(())
                }
                Err(error) => {
                    self.expectations.deleted(key, pod.uid());
                    let message = format!("Error deleting: {error}");
                    self.events.event(set, EventType::Warning, "FailedDelete", message);
                    Err(error)
                }
            }
        });
        join_all(deletions).await.into_iter().collect()
    }
}

fn pod_of(set: &ReplicaSet) -> v1::Pod {
    let template = set.spec.template.clone().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    v1::Pod {
        metadata: ObjectMeta {
            namespace: set.metadata.namespace.clone(),
            generate_name: set.metadata.name.as_ref().map(|name| format!("{name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![ownership::controller_of::<ReplicaSet>(&set.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests;
