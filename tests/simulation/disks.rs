//! The disks of the simulation's machines: a pod starts when its claims are bound to volumes of its node, and the data
//! of deleted volumes is removed there.

use std::sync::Arc;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::persistent_volumes::{LOCAL_PATH_FINALIZER, LOCAL_PATH_NODE, claim_of};
use coracle_client::{
    ApiError, Client, DeleteOptions, Informer, Informers, Key, PatchType, Resource, WorkQueue,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub const DIRECTORY: &str = "/data/local-path";

/// The names of the claims that the pod's volumes are of.
fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(name, volume)).map(|claim| claim.name).collect()
}

/// Whether all the pod's data is here. Err: what is missing.
pub async fn mount(client: &Client, pod: &Pod, node: &str) -> Result<(), ApiError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for name in claims_of(pod) {
        let claim: PersistentVolumeClaim = client.get(namespace, &name).await?;
        let phase = claim.status.and_then(|status| status.phase).unwrap_or_default();
        let volume = claim.spec.and_then(|spec| spec.volume_name).unwrap_or_default();
        if phase != "Bound" {
            return Err(ApiError::internal(format!("claim {name} is {phase}")));
        }
        let volume: PersistentVolume = client.get("", &volume).await?;
        if node_of(&volume) != node {
            return Err(ApiError::internal(format!("claim {name} is on {}", node_of(&volume))));
        }
    }
    Ok(())
}

fn node_of(volume: &PersistentVolume) -> &str {
    volume.metadata.labels.as_ref().and_then(|labels| labels.get(LOCAL_PATH_NODE)).map_or("", String::as_str)
}

/// Removes the data of deleted volumes of the node.
pub async fn run(client: Client, informers: &Informers, node: &str, killed: CancellationToken) {
    let scope = InformerScope {
        label_selector: Some(format!("{LOCAL_PATH_NODE}={node}")),
        ..InformerScope::default()
    };
    let volumes = informers.scoped(Resource::of::<PersistentVolume>(), scope);
    let queue = WorkQueue::new();
    let added = queue.clone();
    volumes.on_change(move |change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    controller::run(Arc::new(Remover { client, volumes }), queue, 1, killed).await;
}

struct Remover {
    client: Client,
    volumes: Informer,
}

impl Reconciler for Remover {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "simulated-disk"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.volumes.get_key(key) else { return Ok(Outcome::Done) };
        let volume: PersistentVolume = object.decode()?;
        let finalizers = volume.metadata.finalizers.unwrap_or_default();
        if !object.head.deleting || finalizers != [LOCAL_PATH_FINALIZER] {
            return Ok(Outcome::Done);
        }
        let version = object.head.resource_version.to_string();
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": null}});
        let patched = self.client.patch::<PersistentVolume>("", &key.name, None, PatchType::Merge, &patch);
        match patched.await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

/// What an administrator does whose users lost data with a machine, or gave a claim up that is still in use: the claim
/// and its pods are deleted.
pub async fn give_up(client: &Client) -> Result<(), ApiError> {
    let nodes = client.list::<Node>("", Default::default()).await?.items;
    let mut lost = Vec::new();
    for object in client.list::<PersistentVolume>("", Default::default()).await?.items {
        let volume: PersistentVolume = object.decode()?;
        if !nodes.iter().any(|node| *node.head.name == *node_of(&volume)) {
            let claim = volume.spec.and_then(|spec| spec.claim_ref).unwrap_or_default();
            lost.push((claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default(), claim.uid));
        }
    }
    for object in client.list::<PersistentVolumeClaim>("", Default::default()).await?.items {
        let (head, uid) = (&object.head, object.head.uid.to_string());
        let place = (head.namespace.to_string(), head.name.to_string(), Some(uid.clone()));
        if lost.contains(&place) && !head.deleting {
            let options = DeleteOptions::default().uid(&uid);
            gone(client.delete::<PersistentVolumeClaim>(&head.namespace, &head.name, options).await)?;
        } else if !head.deleting {
            continue;
        }
        for pod in client.list::<Pod>(&head.namespace, Default::default()).await?.items {
            if !pod.head.deleting && claims_of(&pod.decode()?).iter().any(|claim| **claim == *head.name) {
                let options = DeleteOptions::default().uid(&pod.head.uid);
                gone(client.delete::<Pod>(&head.namespace, &pod.head.name, options).await)?;
            }
        }
    }
    Ok(())
}

fn gone(deleted: Result<(), ApiError>) -> Result<(), ApiError> {
    match deleted {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other,
    }
}
