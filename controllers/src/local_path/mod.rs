//! The default provisioner: claims of the class `local-path` get a directory on the node of their first pod.
//!
//! The volume names the directory; the node makes it when it mounts the volume, and removes it when the volume is
//! deleted: until then a finalizer keeps the volume, so that nothing is left behind by a node that was away.

mod expansion;
mod plan;

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::persistent_volumes::{
    DEFAULT_CLASS, LOCAL_PATH_FINALIZER, LOCAL_PATH_NODE, LOCAL_PATH_PROVISIONER, SELECTED_NODE, class_of,
};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tracing::debug;

use crate::context::Context;
use crate::subject::Subject;
use plan::{Making, Unmaking, make, node_for, unmake};

const CLASS: &str = "local-path";
/// Index of volumes by the node whose disk they are on.
const BY_NODE: &str = "node of local-path";
const RETRY: Duration = Duration::from_secs(1);

pub async fn run(context: Context) {
    if !ensure_class(&context).await {
        return;
    }
    let provisioner = Provisioner {
        client: context.client.clone(),
        claims: context.of::<PersistentVolumeClaim>(),
        volumes: context.of::<PersistentVolume>(),
        classes: context.of::<StorageClass>(),
        nodes: context.of::<Node>(),
        events: context.recorder(LOCAL_PATH_PROVISIONER),
    };
    provisioner
        .volumes
        .add_index(BY_NODE, |o| o.head.label(LOCAL_PATH_NODE).map(Into::into).into_iter().collect());
    let queue = WorkQueue::new();
    Subject::follow(&provisioner.claims, &queue, Subject::Claim);
    Subject::follow(&provisioner.volumes, &queue, Subject::Other);
    let (added, volumes) = (queue.clone(), provisioner.volumes.clone());
    provisioner.nodes.on_change(move |change: &Change| {
        if change.new.is_none() {
            for volume in volumes.by_index(BY_NODE, &change.object().head.name) {
                added.add(Subject::Other(volume.key()));
            }
        }
    });
    context.work(provisioner, queue).await;
}

/// Makes the class, as long as there is none of that name. False at shutdown.
async fn ensure_class(context: &Context) -> bool {
    let class = StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.into()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: LOCAL_PATH_PROVISIONER.into(),
        reclaim_policy: Some("Delete".into()),
        volume_binding_mode: Some("WaitForFirstConsumer".into()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    };
    loop {
        match context.client.create(&class).await {
            Ok(_) => return true,
            Err(error) if error.is_already_exists() => return true,
            Err(error) => debug!(%error, "making the storage class {CLASS}"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = context.shutdown.cancelled() => return false,
        }
    }
}

struct Provisioner {
    client: Client,
    claims: Informer,
    volumes: Informer,
    classes: Informer,
    nodes: Informer,
    events: EventRecorder,
}

impl Provisioner {
    async fn claim(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.claims.get_key(key) else { return Ok(()) };
        let claim: PersistentVolumeClaim = object.decode()?;
        if expansion::grows(&claim) {
            return self.expand(claim).await;
        }
        let Some(node_name) = node_for(&claim) else { return Ok(()) };
        let class: Option<StorageClass> =
            self.classes.get("", class_of(&claim).unwrap_or_default()).map(|o| o.decode()).transpose()?;
        // A node that is missing here may just be new.
        let node: Option<Node> = match self.nodes.get("", node_name) {
            Some(object) => Some(object.decode()?),
            None if node_name.is_empty() => None,
            None => self.client.find("", node_name).await?,
        };
        match make(&claim, class.as_ref(), node.as_ref()) {
            Making::Nothing => Ok(()),
            Making::Make(volume) => self.make(&claim, &volume).await,
            Making::ChooseAgain => {
                let message = format!("failed to get target node: nodes \"{node_name}\" not found");
                self.events.event(&claim, EventType::Warning, "ProvisioningFailed", message);
                let mut claim = claim.clone();
                claim.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
                self.client.update(&claim).await.map(drop)
            }
            Making::Refuse(why) => {
                let class = class_of(&claim).unwrap_or_default();
                let message = format!("failed to provision volume with StorageClass \"{class}\": {why}");
                self.events.event(&claim, EventType::Warning, "ProvisioningFailed", message);
                Ok(())
            }
        }
    }

    async fn make(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), ApiError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        if self.volumes.get("", name).is_some() {
            return Ok(());
        }
        let of = coracle_client::persistent_volumes::ClaimInfo::of(claim).key;
        self.events.event(
            claim,
            EventType::Normal,
            "Provisioning",
            format!("External provisioner is provisioning volume for claim \"{of}\""),
        );
        match self.client.create(volume).await {
            Ok(_) => {
                let message = format!("Successfully provisioned volume {name}");
                self.events.event(claim, EventType::Normal, "ProvisioningSucceeded", message);
                Ok(())
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn volume(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.volumes.get_key(key) else { return Ok(()) };
        let volume: PersistentVolume = object.decode()?;
        match unmake(&volume, |node| self.nodes.get("", node).is_some()) {
            Unmaking::Nothing => Ok(()),
            Unmaking::Delete => {
                let options = DeleteOptions::default().uid(&object.head.uid);
                self.client.delete::<PersistentVolume>("", &key.name, options).await
            }
            Unmaking::Abandon => {
                let node = object.head.label(LOCAL_PATH_NODE).unwrap_or_default();
                if self.client.find::<Node>("", node).await?.is_some() {
                    return Ok(());
                }
                let mut finalizers = volume.metadata.finalizers.unwrap_or_default();
                finalizers.retain(|f| f != LOCAL_PATH_FINALIZER);
                let patch = json!({"metadata": {
                    "resourceVersion": object.head.resource_version.to_string(), "finalizers": finalizers}});
                self.client
                    .patch::<PersistentVolume>("", &key.name, None, PatchType::Merge, &patch)
                    .await
                    .map(drop)
            }
        }
    }
}

impl Reconciler for Provisioner {
    type Key = Subject;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "local-path-provisioner-controller"
    }

    async fn reconcile(&self, subject: &Subject) -> Result<Outcome, ApiError> {
        subject.done(match subject {
            Subject::Claim(key) => self.claim(key).await,
            Subject::Other(key) => self.volume(key).await,
        })
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::persistent_volumes::LOCAL_PATH_DIRECTORY;

    use super::*;
    use crate::testing::{Cluster, from};

    #[tokio::test(start_paused = true)]
    async fn from_the_chosen_node_to_the_end_of_the_data() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.start(|c| Box::pin(crate::persistent_volume::run(c)));
        let node: Node =
            from(json!({"metadata": {"name": "n", "annotations": {LOCAL_PATH_DIRECTORY: "/d"}}}));
        client.create(&node).await.unwrap();
        cluster.until("the class", |f| f.get::<StorageClass>("", CLASS).is_some()).await;
        let claim: PersistentVolumeClaim = from(
            json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {
            "storageClassName": CLASS, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        );
        client.create(&claim).await.unwrap();
        cluster
            .until("it waits", |_| {
                cluster.events().iter().any(|(reason, _)| reason == "WaitForFirstConsumer")
            })
            .await;
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: "gone"}}});
        client.patch::<PersistentVolumeClaim>("ns", "c", None, PatchType::Merge, &patch).await.unwrap();
        cluster
            .until("no such node", |_| {
                cluster.events().iter().any(|(reason, _)| reason == "ProvisioningFailed")
            })
            .await;
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}});
        client.patch::<PersistentVolumeClaim>("ns", "c", None, PatchType::Merge, &patch).await.unwrap();
        let phase = |f: &coracle_client::fake::Fake| {
            f.get::<PersistentVolumeClaim>("ns", "c").and_then(|c| c.status?.phase)
        };
        cluster.until("bound", |f| phase(f).as_deref() == Some("Bound")).await;
        client.delete::<PersistentVolumeClaim>("ns", "c", DeleteOptions::default()).await.unwrap();
        cluster
            .until("deleted, and held for the node", |f| {
                f.list::<PersistentVolume>("").iter().any(|v| v.metadata.deletion_timestamp.is_some())
            })
            .await;
        cluster.settle().await;
        assert_eq!(cluster.fake.list::<PersistentVolume>("").len(), 1);
        client.delete::<Node>("", "n", DeleteOptions::default()).await.unwrap();
        cluster.until("gone with its node", |f| f.list::<PersistentVolume>("").is_empty()).await;
    }
}
