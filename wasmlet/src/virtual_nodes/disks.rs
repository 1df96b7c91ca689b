//! The disks of virtual nodes: volumes of the class `local-path` are made for them as for others, and nothing is on them.

use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::informer::{Informer, InformerScope, Informers};
use coracle_client::persistent_volumes::{LOCAL_PATH_FINALIZER, LOCAL_PATH_NODE};
use coracle_client::{ApiError, Client, Key, Object, PatchType, Resource, WorkQueue, controller};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;

/// Where a virtual node says that its volumes are.
pub const DIRECTORY: &str = "/virtual/local-path";
/// Volumes let go at once.
const WRITERS: usize = 4;

/// Lets go of deleted volumes of the nodes until the shutdown. `node`: only that one's are looked at.
pub fn run(
    fleet: Arc<Fleet>,
    client: Client,
    informers: &Informers,
    node: Option<&str>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let selector = node.map_or(LOCAL_PATH_NODE.to_owned(), |node| format!("{LOCAL_PATH_NODE}={node}"));
    let scope = InformerScope { label_selector: Some(selector), ..InformerScope::default() };
    let volumes = informers.scoped(Resource::of::<PersistentVolume>(), scope);
    let queue = WorkQueue::new();
    let added = queue.clone();
    volumes.on_change(move |change| {
        if change.new.as_ref().is_some_and(|volume| volume.head.deleting) {
            added.add(change.key());
        }
    });
    controller::run(Arc::new(Disks { fleet, client, volumes }), queue, WRITERS, shutdown)
}

struct Disks {
    fleet: Arc<Fleet>,
    client: Client,
    volumes: Informer,
}

/// Whether the node is the last that holds the deleted volume: as on a real one, the protection of bound volumes comes
/// first.
fn held_by_its_node(volume: &Object) -> bool {
    let finalizers = || volume.decode::<PersistentVolume>().ok()?.metadata.finalizers;
    volume.head.deleting && finalizers().is_some_and(|all| all == [LOCAL_PATH_FINALIZER])
}

impl Reconciler for Disks {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "virtual-disks"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(volume) = self.volumes.get_key(key) else { return Ok(Outcome::Done) };
        let node = volume.head.label(LOCAL_PATH_NODE).unwrap_or_default();
        if self.fleet.member(node).is_none() || !held_by_its_node(&volume) {
            return Ok(Outcome::Done);
        }
        let version = volume.head.resource_version.to_string();
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": null}});
        let patched = self.client.patch::<PersistentVolume>("", &key.name, None, PatchType::Merge, &patch);
        match patched.await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lets_go_last() {
        for (deleted, finalizers, want) in [
            (true, json!([LOCAL_PATH_FINALIZER]), true),
            (true, json!(["kubernetes.io/pv-protection", LOCAL_PATH_FINALIZER]), false),
            (true, json!([]), false),
            (false, json!([LOCAL_PATH_FINALIZER]), false),
        ] {
            let mut value = json!({"metadata": {"name": "v", "finalizers": finalizers}});
            if deleted {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let volume = Object::parse(value.to_string().into(), &[]).unwrap();
            assert_eq!(held_by_its_node(&volume), want, "{value}");
        }
    }
}
