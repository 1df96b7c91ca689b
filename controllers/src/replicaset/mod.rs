//! ReplicaSet and ReplicationController: keep as many pods of a template as were asked for.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Client, Informer, Key, Uid, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1;

use crate::context::Context;
use crate::ownership;
use crate::pod_changes::{self, Owners};
use crate::pod_control::PodControl;
use crate::pods::{self, Pod};

mod kinds;
mod plan;
mod rank;
mod status;

use kinds::Replicated;
use plan::Plan;

pub async fn replica_sets(context: Context) {
    run::<ReplicaSet>(context).await;
}

pub async fn replication_controllers(context: Context) {
    run::<v1::ReplicationController>(context).await;
}

async fn run<K: Replicated>(context: Context) {
    let expectations: Arc<_> = Arc::default();
    let controller = Controller::<K> {
        client: context.client.clone(),
        sets: context.of::<K>(),
        pods: context.of::<v1::Pod>(),
        control: PodControl {
            client: context.client.clone(),
            events: context.recorder(K::CONTROLLER),
            expectations: Arc::clone(&expectations),
        },
        kind: PhantomData,
    };
    pods::index(&controller.pods);
    let queue = WorkQueue::new();
    pod_changes::follow_owners(&controller.sets, &queue, expectations.clone());
    let owners = Owners { informer: controller.sets.clone(), selector: kinds::selector::<K> };
    pod_changes::follow(&controller.pods, owners, &queue, expectations);
    context.work(controller, queue).await;
}

struct Controller<K> {
    client: Client,
    sets: Informer,
    pods: Informer,
    control: PodControl,
    kind: PhantomData<fn() -> K>,
}

impl<K: Replicated> Reconciler for Controller<K> {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let expectations = &self.control.expectations;
        let Some(object) = self.sets.get_key(key) else {
            expectations.forget(key);
            return Ok(Outcome::Done);
        };
        // Before the pods are read: what is satisfied now shows in what is read next.
        let satisfied = expectations.satisfied(key);
        let set: K = object.decode()?;
        let Some(selector) = set.selector() else { return Ok(Outcome::Done) };
        let all = self.claim(&set, &selector, key).await?;
        let now = Timestamp::now();
        let mut active: Vec<Pod> = all.iter().filter(|pod| pod.active()).cloned().collect();
        let desired = usize::try_from(set.replicas()).unwrap_or(0);
        let mut result = Ok(());
        if satisfied && set.metadata().deletion_timestamp.is_none() {
            let neighbours = if active.len() > desired { self.neighbours(&set) } else { HashMap::new() };
            result = match plan::plan(&active, desired, &neighbours, now) {
                Plan::Nothing => Ok(()),
                Plan::Create(count) => {
                    let pod = pod_of(&set);
                    self.control.apply(key, &set, (0..count).map(|_| pod.clone()), &[]).await
                }
                Plan::Delete(doomed) => {
                    let deleted = self.control.apply(key, &set, std::iter::empty(), &doomed).await;
                    if deleted.is_ok() {
                        // A Deployment goes by these counts: what was just told to go is not among them.
                        active.retain(|pod| doomed.iter().all(|gone| gone.uid() != pod.uid()));
                    }
                    deleted
                }
            };
        }
        let terminating = all.iter().filter(|pod| pod.object.head.deleting && !pod.terminal()).count();
        let next = status::status(&set, &active, terminating, result.as_ref().err(), now);
        let updated = set.clone().with_status(next);
        if set.status() != updated.status() {
            match self.client.update_status(&updated).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return result.and(Err(error)),
            }
        }
        result?;
        let min_ready = set.min_ready_seconds();
        let next_available =
            active.iter().filter_map(|pod| pod.available_in(min_ready, now)).filter(|d| !d.is_zero()).min();
        Ok(next_available.map_or(Outcome::Done, Outcome::After))
    }
}

impl<K: Replicated> Controller<K> {
    async fn claim(&self, set: &K, selector: &Selector, key: &Key) -> Result<Vec<Pod>, ApiError> {
        let meta = set.metadata();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let mut candidates = ownership::candidates(&self.pods, &key.namespace, uid);
        // What is over is neither adopted nor released.
        candidates.retain(|o| !matches!(o.head.field("status.phase"), Some("Succeeded" | "Failed")));
        let claimed = ownership::claim_all::<K, v1::Pod>(&self.client, meta, selector, candidates).await?;
        Ok(claimed.iter().map(Pod::parse).collect::<Result<_, _>>()?)
    }

    /// How many active pods stand on each node that belong to this set or a sibling of the same Deployment.
    fn neighbours(&self, set: &K) -> HashMap<Box<str>, usize> {
        let meta = set.metadata();
        let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let uids: Vec<Uid> = match owner {
            Some(owner) => self.sets.by_owner(&owner.uid).iter().map(|s| s.head.uid.clone()).collect(),
            None => meta.uid.as_deref().map(Uid::from).into_iter().collect(),
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
}

fn pod_of<K: Replicated>(set: &K) -> v1::Pod {
    let meta = set.metadata();
    let mut pod = pods::of_template::<K>(meta, &set.template().cloned().unwrap_or_default());
    pod.metadata.generate_name = meta.name.as_ref().map(|name| format!("{name}-"));
    pod
}

#[cfg(test)]
mod tests;
