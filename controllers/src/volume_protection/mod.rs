//! Volume protection: a claim that a pod uses, and a volume that is bound, are deleted only when that is over.

mod plan;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;
use crate::pods;
use plan::{Action, CLAIM_FINALIZER, CLASS_FINALIZER, VOLUME_FINALIZER, plan};

pub async fn claims(context: Context) {
    if !context.serves::<PersistentVolumeClaim>().await {
        return;
    }
    let controller = Claims {
        client: context.client.clone(),
        claims: context.of::<PersistentVolumeClaim>(),
        pods: context.of::<Pod>(),
    };
    pods::index_by_claim(&controller.pods);
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.claims.on_change(move |change: &Change| added.add(change.key()));
    let added = queue.clone();
    // A pod that goes, or that is another now, may have been the last.
    controller.pods.on_change(move |change: &Change| {
        for pod in change.old.iter().chain(&change.new) {
            pods::claims_of(pod).iter().for_each(|name| added.add(Key::new(&pod.head.namespace, name)));
        }
    });
    context.work(controller, queue).await;
}

struct Claims {
    client: Client,
    claims: Informer,
    pods: Informer,
}

impl Reconciler for Claims {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.claims.get_key(key) else { return Ok(Outcome::Done) };
        let mut claim: PersistentVolumeClaim = object.decode()?;
        let users = self.pods.by_index(pods::BY_CLAIM, &key.to_string());
        let used = users.iter().any(|pod| uses(pod, &claim));
        if !change(&mut claim.metadata, CLAIM_FINALIZER, used) {
            return Ok(Outcome::Done);
        }
        written(self.client.update(&claim).await.map(drop))
    }
}

/// Whether the pod may have the claim's volume mounted: it is on a node.
fn uses(pod: &Object, claim: &PersistentVolumeClaim) -> bool {
    pod.decode::<Pod>().is_ok_and(|pod| plan::uses(&pod, claim))
}

pub async fn volumes(context: Context) {
    if !context.serves::<PersistentVolume>().await {
        return;
    }
    let controller = Volumes { client: context.client.clone(), volumes: context.of::<PersistentVolume>() };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.volumes.on_change(move |change: &Change| added.add(change.key()));
    context.work(controller, queue).await;
}

struct Volumes {
    client: Client,
    volumes: Informer,
}

impl Reconciler for Volumes {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.volumes.get_key(key) else { return Ok(Outcome::Done) };
        let mut volume: PersistentVolume = object.decode()?;
        let used = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if !change(&mut volume.metadata, VOLUME_FINALIZER, used) {
            return Ok(Outcome::Done);
        }
        written(self.client.update(&volume).await.map(drop))
    }
}

pub async fn attributes_classes(context: Context) {
    if !context.serves::<VolumeAttributesClass>().await {
        return;
    }
    let controller = Classes {
        client: context.client.clone(),
        classes: context.of::<VolumeAttributesClass>(),
        claims: context.of::<PersistentVolumeClaim>(),
        volumes: context.of::<PersistentVolume>(),
    };
    controller.claims.add_index(BY_CLASS, classes_of_claim);
    controller.volumes.add_index(BY_CLASS, class_of_volume);
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.classes.on_change(move |change: &Change| added.add(change.key()));
    for (informer, classes) in [
        (&controller.claims, classes_of_claim as fn(&Object) -> Vec<Box<str>>),
        (&controller.volumes, class_of_volume),
    ] {
        let added = queue.clone();
        informer.on_change(move |change: &Change| {
            if let Some(object) = &change.old {
                classes(object).iter().for_each(|class| added.add(Key::new("", class)));
            }
        });
    }
    context.work(controller, queue).await;
}

const BY_CLASS: &str = "attributes class";

fn classes_of_claim(claim: &Object) -> Vec<Box<str>> {
    let classes = claim.decode().map(|claim| plan::classes_of(&claim)).unwrap_or_default();
    classes.into_iter().map(Into::into).collect()
}

fn class_of_volume(volume: &Object) -> Vec<Box<str>> {
    let class = volume.decode::<PersistentVolume>().ok().and_then(|v| v.spec?.volume_attributes_class_name);
    class.filter(|name| !name.is_empty()).into_iter().map(Into::into).collect()
}

struct Classes {
    client: Client,
    classes: Informer,
    claims: Informer,
    volumes: Informer,
}

impl Reconciler for Classes {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.classes.get_key(key) else { return Ok(Outcome::Done) };
        let mut class: VolumeAttributesClass = object.decode()?;
        let used = [&self.claims, &self.volumes].iter().any(|i| !i.by_index(BY_CLASS, &key.name).is_empty());
        if !change(&mut class.metadata, CLASS_FINALIZER, used) {
            return Ok(Outcome::Done);
        }
        written(self.client.update(&class).await.map(drop))
    }
}

/// Makes the metadata what the plan says; whether that changed it.
fn change(meta: &mut ObjectMeta, finalizer: &str, used: bool) -> bool {
    match plan(meta, finalizer, used) {
        Action::Nothing => return false,
        Action::Protect => meta.finalizers.get_or_insert_default().push(finalizer.to_owned()),
        Action::Release => meta.finalizers.get_or_insert_default().retain(|f| f != finalizer),
    }
    true
}

fn written(result: Result<(), ApiError>) -> Result<Outcome, ApiError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::DeleteOptions;
    use serde_json::json;

    use super::*;
    use crate::testing::Cluster;

    #[tokio::test(start_paused = true)]
    async fn a_claim_goes_when_its_last_pod_has_gone() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::claims(c)));
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "ns", "finalizers": [CLAIM_FINALIZER]}}),
        )
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec":
            {"nodeName": "n", "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}))
        .unwrap();
        client.create(&pod).await.unwrap();
        client.create(&claim).await.unwrap();
        client.delete::<PersistentVolumeClaim>("ns", "c", DeleteOptions::default()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert!(cluster.fake.get::<PersistentVolumeClaim>("ns", "c").is_some());
        client.delete::<Pod>("ns", "p", DeleteOptions::grace(0)).await.unwrap();
        cluster.until("gone", |f| f.get::<PersistentVolumeClaim>("ns", "c").is_none()).await;
    }
}
