//! Deployment: rolls ReplicaSets so that pods of the newest template replace those of older ones.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::selector::Selector;
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Key, Object, PatchType, Resource, WorkQueue,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::context::Context;
use crate::{ownership, template};

mod plan;
mod sets;
mod status;

use plan::Scale;
use sets::{REVISION, Sets, Wanted, name, replicas};

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        deployments: context.of::<Deployment>(),
        sets: context.of::<ReplicaSet>(),
        pods: context.of::<Pod>(),
        events: context.recorder("deployment-controller"),
    };
    ownership::index(&controller.sets);
    let queue = WorkQueue::new();
    let deployments = queue.clone();
    controller.deployments.on_change(move |change| deployments.add(change.key()));
    watch_sets(&controller, &queue);
    watch_pods(&controller, &queue);
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    deployments: Informer,
    sets: Informer,
    pods: Informer,
    events: EventRecorder,
}

fn watch_sets(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, deployments) = (queue.clone(), controller.deployments.clone());
    controller.sets.on_change(move |change: &Change| {
        for set in [&change.old, &change.new].into_iter().flatten() {
            if let Some(key) = controlling(&deployments, set) {
                queue.add(key);
            }
        }
        if let Some(set) = &change.new
            && set.head.controller().is_none()
            && !set.head.deleting
        {
            for object in deployments.list_namespace(&set.head.namespace) {
                let matches = object.decode::<Deployment>().is_ok_and(|d| {
                    Selector::from_label_selector(Some(&d.spec.selector))
                        .is_ok_and(|s| !s.is_everything() && s.matches(&set.head))
                });
                if matches {
                    queue.add(object.key());
                }
            }
        }
    });
}

/// Recreate waits until the last old pod is gone: pods that go are looked at, through their set.
fn watch_pods(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, deployments, sets) = (queue.clone(), controller.deployments.clone(), controller.sets.clone());
    controller.pods.on_change(move |change: &Change| {
        let over = |o: &Object| matches!(o.head.field("status.phase"), Some("Succeeded" | "Failed"));
        if change.new.as_ref().is_some_and(|pod| !over(pod)) {
            return;
        }
        let pod = change.object();
        let Some(owner) = pod.head.controller().filter(|o| &*o.kind == "ReplicaSet") else { return };
        if let Some(set) = sets.get(&pod.head.namespace, &owner.name)
            && let Some(key) = controlling(&deployments, &set)
        {
            queue.add(key);
        }
    });
}

fn controlling(deployments: &Informer, set: &Object) -> Option<Key> {
    let owner = set.head.controller().filter(|o| &*o.kind == "Deployment")?;
    let deployment = deployments.get(&set.head.namespace, &owner.name)?;
    (deployment.head.uid == owner.uid).then(|| deployment.key())
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.deployments.get_key(key) else { return Ok(Outcome::Done) };
        let deployment: Deployment = object.decode()?;
        let Ok(selector) = Selector::from_label_selector(Some(&deployment.spec.selector)) else {
            return Ok(Outcome::Done);
        };
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.event(&deployment, EventType::Warning, "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        let sets = Sets::split(&deployment, self.claim(&deployment, &selector, key).await?);
        let mut sync = Sync { controller: self, wanted: Wanted::of(&deployment), deployment, sets };
        sync.run().await
    }
}

impl Controller {
    async fn claim(
        &self,
        deployment: &Deployment,
        selector: &Selector,
        key: &Key,
    ) -> Result<Vec<ReplicaSet>, ApiError> {
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let candidates = ownership::candidates(&self.sets, &key.namespace, uid);
        let claimed = ownership::claim_all::<Deployment, ReplicaSet>(
            &self.client,
            &deployment.metadata,
            selector,
            candidates,
        )
        .await?;
        Ok(claimed.iter().map(|o| o.decode()).collect::<Result<_, _>>()?)
    }
}

/// One look at one Deployment.
struct Sync<'a> {
    controller: &'a Controller,
    deployment: Deployment,
    sets: Sets,
    wanted: Wanted,
}

impl Sync<'_> {
    async fn run(&mut self) -> Result<Outcome, ApiError> {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.write_counts().await;
        }
        self.note_pause().await?;
        if self.deployment.spec.paused == Some(true) {
            self.sync_new_set(false).await?;
            self.apply(plan::rescale(&self.deployment, &self.sets, &self.wanted)).await?;
            self.clean_up().await?;
            return self.write_counts().await;
        }
        if plan::was_scaled(&self.sets, &self.wanted) {
            self.sync_new_set(false).await?;
            self.apply(plan::rescale(&self.deployment, &self.sets, &self.wanted)).await?;
            return self.write_counts().await;
        }
        if self.wanted.rolling { self.roll().await } else { self.recreate().await }
    }

    async fn roll(&mut self) -> Result<Outcome, ApiError> {
        self.sync_new_set(true).await?;
        let up: Vec<Scale> = plan::roll_new(&self.sets, &self.wanted).into_iter().collect();
        let step = if up.is_empty() { plan::roll_old(&self.sets, &self.wanted) } else { up };
        if step.is_empty() {
            self.clean_up_when_complete().await?;
        } else {
            self.apply(step).await?;
        }
        self.write_rollout().await
    }

    async fn recreate(&mut self) -> Result<Outcome, ApiError> {
        self.sync_new_set(false).await?;
        let down = plan::drop_old(&self.sets);
        if !down.is_empty() {
            self.apply(down).await?;
            return self.write_rollout().await;
        }
        if self.old_pods_run() {
            return self.write_rollout().await;
        }
        self.sync_new_set(true).await?;
        if let Some(new) = &self.sets.new
            && replicas(new) != self.wanted.replicas
        {
            let step = vec![Scale { set: name(new).to_owned(), to: self.wanted.replicas }];
            self.apply(step).await?;
        }
        self.clean_up_when_complete().await?;
        self.write_rollout().await
    }

    /// Any pod of an old set that is not over.
    fn old_pods_run(&self) -> bool {
        self.sets.old.iter().any(|set| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            sets::actual(set) > 0
                || self
                    .controller
                    .pods
                    .by_owner(uid)
                    .iter()
                    .any(|pod| !matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed")))
        })
    }

    /// Brings the new set's annotations, and the Deployment's revision, up to date; creates the set where asked to.
    async fn sync_new_set(&mut self, create: bool) -> Result<(), ApiError> {
        let next_revision = self.sets.next_revision();
        let Some(mut new) = self.sets.new.take() else {
            return if create { self.create_new_set(next_revision).await } else { Ok(()) };
        };
        let changed = sets::annotate(&self.deployment, &mut new, next_revision, true);
        let min_ready = self.deployment.spec.min_ready_seconds.filter(|s| *s != 0);
        if changed || new.spec.min_ready_seconds.filter(|s| *s != 0) != min_ready {
            new.spec.min_ready_seconds = min_ready;
            new = self.controller.client.update(&new).await?.decode()?;
        }
        self.note_revision(&new).await?;
        let known = self.status();
        if status::deadline(&self.deployment).is_some() && status::find(&known, status::PROGRESSING).is_none()
        {
            let message = format!("Found new replica set \"{}\"", name(&new));
            self.set_progress("True", "FoundNewReplicaSet", &message).await?;
        }
        self.sets.new = Some(new);
        Ok(())
    }

    async fn create_new_set(&mut self, revision: i64) -> Result<(), ApiError> {
        let (set, canonical) = self.new_set(revision);
        let client = &self.controller.client;
        let (created, existed) = match client.create(&set).await {
            Ok(written) => (written.decode()?, false),
            Err(error) if error.is_already_exists() => {
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                let present: ReplicaSet = client.get(namespace, name(&set)).await?;
                let ours = present.metadata.owner_references.iter().flatten().any(|o| {
                    o.controller == Some(true) && Some(&o.uid) == self.deployment.metadata.uid.as_ref()
                });
                let same =
                    present.spec.template.as_ref().is_some_and(|t| template::canonical(t) == canonical);
                if !ours || !same {
                    // Another's set has this name: the next try hashes to another one.
                    let mut status = self.status();
                    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    self.write(status).await?;
                    return Err(error);
                }
                (present, true)
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{}\": {error}", name(&set));
                if status::deadline(&self.deployment).is_some() {
                    self.set_progress("False", "ReplicaSetCreateError", &message).await?;
                }
                let events = &self.controller.events;
                events.event(&self.deployment, EventType::Warning, "ReplicaSetCreateError", message);
                return Err(error);
            }
        };
        if !existed {
            let size = replicas(&created);
            if size > 0 {
                let message = format!("Scaled up replica set {} from 0 to {size}", name(&created));
                let events = &self.controller.events;
                events.event(&self.deployment, EventType::Normal, "ScalingReplicaSet", message);
            }
            if status::deadline(&self.deployment).is_some() {
                let message = format!("Created new replica set \"{}\"", name(&created));
                self.set_progress("True", "NewReplicaSetCreated", &message).await?;
            }
        }
        self.note_revision(&created).await?;
        self.sets.new = Some(created);
        Ok(())
    }

    fn new_set(&self, revision: i64) -> (ReplicaSet, serde_json::Value) {
        let deployment = &self.deployment;
        let canonical = template::canonical(&deployment.spec.template);
        let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
        let hash = template::hash(&canonical, collisions);
        let mut template = deployment.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(template::HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = deployment.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(template::HASH_LABEL.into(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                namespace: deployment.metadata.namespace.clone(),
                name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
                owner_references: Some(vec![ownership::controller_of::<Deployment>(&deployment.metadata)]),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(plan::new_replicas(&self.wanted, self.sets.old_total(), 0)),
                min_ready_seconds: deployment.spec.min_ready_seconds.filter(|s| *s != 0),
                selector,
                template: Some(template),
            },
            status: None,
        };
        sets::annotate(deployment, &mut set, revision, false);
        (set, canonical)
    }

    /// The Deployment carries the revision of its newest set.
    async fn note_revision(&mut self, new: &ReplicaSet) -> Result<(), ApiError> {
        let revision = sets::annotation(new.metadata.annotations.as_ref(), REVISION);
        if revision.is_none()
            || revision == sets::annotation(self.deployment.metadata.annotations.as_ref(), REVISION)
        {
            return Ok(());
        }
        let patch =
            json!({"metadata": {"uid": self.deployment.metadata.uid, "annotations": {REVISION: revision}}});
        let namespace = self.deployment.metadata.namespace.as_deref().unwrap_or_default();
        let name = self.deployment.metadata.name.as_deref().unwrap_or_default();
        let client = &self.controller.client;
        let patched =
            client.patch::<Deployment>(namespace, name, None, PatchType::Merge, &patch).await?.decode()?;
        if patched.metadata.generation != self.deployment.metadata.generation {
            // The spec is another one by now: what was decided for the old one must not be written as observed.
            let resource = Resource::of::<Deployment>();
            return Err(ApiError::conflict(&resource, name, coracle_client::status::MODIFIED));
        }
        self.deployment = patched;
        Ok(())
    }

    /// While paused the deadline does not run: the condition says so, and again when it runs on.
    async fn note_pause(&mut self) -> Result<(), ApiError> {
        if status::deadline(&self.deployment).is_none() {
            return Ok(());
        }
        let known = self.status();
        let reason = status::find(&known, status::PROGRESSING).and_then(|c| c.reason.as_deref());
        let paused = self.deployment.spec.paused == Some(true);
        match (paused, reason) {
            (_, Some(status::TIMED_OUT)) => Ok(()),
            (true, reason) if reason != Some(status::PAUSED) => {
                self.set_progress("Unknown", status::PAUSED, "Deployment is paused").await
            }
            (false, Some(status::PAUSED)) => {
                self.set_progress("Unknown", "DeploymentResumed", "Deployment is resumed").await
            }
            _ => Ok(()),
        }
    }

    /// Scales sets, and notes in each what the Deployment asked for at that time.
    async fn apply(&mut self, steps: Vec<Scale>) -> Result<(), ApiError> {
        for step in steps {
            let Some(set) =
                self.sets.new.iter_mut().chain(&mut self.sets.old).find(|set| name(set) == step.set)
            else {
                continue;
            };
            let from = replicas(set);
            let mut next = set.clone();
            let counted = sets::set_counts(next.metadata.annotations.get_or_insert_default(), &self.wanted);
            if from == step.to && !counted {
                continue;
            }
            next.spec.replicas = Some(step.to);
            *set = self.controller.client.update(&next).await?.decode()?;
            if from != step.to {
                let direction = if step.to > from { "up" } else { "down" };
                let message =
                    format!("Scaled {direction} replica set {} from {from} to {}", step.set, step.to);
                let events = &self.controller.events;
                events.event(&self.deployment, EventType::Normal, "ScalingReplicaSet", message);
            }
        }
        Ok(())
    }

    async fn clean_up_when_complete(&self) -> Result<(), ApiError> {
        if status::complete(&self.deployment, &self.status()) { self.clean_up().await } else { Ok(()) }
    }

    async fn clean_up(&self) -> Result<(), ApiError> {
        let namespace = self.deployment.metadata.namespace.as_deref().unwrap_or_default();
        for set in plan::expired(&self.deployment, &self.sets.old) {
            let options = DeleteOptions::default().uid(set.metadata.uid.as_deref().unwrap_or_default());
            match self.controller.client.delete::<ReplicaSet>(namespace, name(set), options).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn status(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    async fn set_progress(&mut self, state: &str, reason: &str, message: &str) -> Result<(), ApiError> {
        let mut next = self.status();
        let progress = status::condition(status::PROGRESSING, state, reason, message, Timestamp::now());
        status::set(&mut next, progress);
        self.write(next).await
    }

    async fn write_counts(&mut self) -> Result<Outcome, ApiError> {
        let next = status::counted(&self.deployment, &self.sets, Timestamp::now());
        self.write(next).await?;
        Ok(Outcome::Done)
    }

    async fn write_rollout(&mut self) -> Result<Outcome, ApiError> {
        let now = Timestamp::now();
        let next = status::rollout(&self.deployment, &self.sets, now);
        let again = status::check_after(&self.deployment, &next, now);
        self.write(next).await?;
        Ok(again.map_or(Outcome::Done, Outcome::After))
    }

    async fn write(&mut self, status: DeploymentStatus) -> Result<(), ApiError> {
        if self.deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let next = Deployment { status: Some(status), ..self.deployment.clone() };
        self.deployment = self.controller.client.update_status(&next).await?.decode()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
