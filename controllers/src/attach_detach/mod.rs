//! Attach and detach: volumes of CSI drivers are attached to the nodes of their pods by VolumeAttachments, which the
//! drivers' attachers carry out; nodes are told what they have.

mod plan;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::persistent_volumes::{VolumeInfo, has_annotation};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::json;
use sha2::Digest;
use tokio::time::Instant;

use crate::context::Context;
use crate::pods;
use plan::{Action, Attachment, State, plan};

/// Nodes without it attach for themselves.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Indexes of attachments.
const BY_NODE: &str = "spec.nodeName";
const BY_VOLUME: &str = "spec.source.persistentVolumeName";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// One volume on one node.
    Place { volume: Arc<str>, node: Arc<str> },
    /// What the node is told.
    Node(Arc<str>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place { volume, node } => write!(f, "{volume} on {node}"),
            Self::Node(node) => node.fmt(f),
        }
    }
}

pub async fn run(context: Context) {
    if !context.serves::<VolumeAttachment>().await {
        return;
    }
    let controller = Controller {
        client: context.client.clone(),
        pods: context.of::<Pod>(),
        claims: context.of::<PersistentVolumeClaim>(),
        volumes: context.of::<PersistentVolume>(),
        attachments: context.of::<VolumeAttachment>(),
        nodes: context.of::<Node>(),
        drivers: context.of::<CSIDriver>(),
        events: context.recorder("attachdetach-controller"),
        unwanted: Mutex::default(),
        queue: WorkQueue::new(),
    };
    pods::index_by_claim(&controller.pods);
    controller
        .attachments
        .add_index(BY_NODE, |o| decode(o).map(|a| a.spec.node_name.into()).into_iter().collect());
    controller.attachments.add_index(BY_VOLUME, |o| {
        decode(o).and_then(|a| a.spec.source.persistent_volume_name).map(Into::into).into_iter().collect()
    });
    controller.follow();
    let queue = controller.queue.clone();
    context.work(controller, queue).await;
}

fn decode(object: &Object) -> Option<VolumeAttachment> {
    object.decode().ok()
}

/// How nodes name what they have.
fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// How upstream names attachments, so that each place has one only.
fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let digest = sha2::Sha256::digest(format!("{handle}{driver}{node}").as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

fn volume_of(claim: &Object) -> Option<String> {
    claim.decode::<PersistentVolumeClaim>().ok()?.spec?.volume_name.filter(|name| !name.is_empty())
}

struct Controller {
    client: Client,
    pods: Informer,
    claims: Informer,
    volumes: Informer,
    attachments: Informer,
    nodes: Informer,
    drivers: Informer,
    events: EventRecorder,
    /// Since when nobody wants them. Bounded by the attachments there are.
    unwanted: Mutex<HashMap<Subject, Instant>>,
    queue: WorkQueue<Subject>,
}

impl Controller {
    fn follow(&self) {
        let (queue, claims) = (self.queue.clone(), self.claims.clone());
        self.pods.on_change(move |change: &Change| {
            let pod = change.object();
            let node = pod.head.field("spec.nodeName").unwrap_or_default();
            if node.is_empty() {
                return;
            }
            for claim in pods::claims_of(pod) {
                if let Some(volume) = claims.get(&pod.head.namespace, &claim).as_deref().and_then(volume_of) {
                    queue.add(Subject::Place { volume: volume.into(), node: node.into() });
                }
            }
        });
        let (queue, pods) = (self.queue.clone(), self.pods.clone());
        self.claims.on_change(move |change: &Change| {
            let Some(volume) = volume_of(change.object()) else { return };
            for node in nodes_of(&pods, &change.key()) {
                queue.add(Subject::Place { volume: volume.as_str().into(), node });
            }
        });
        let (queue, pods) = (self.queue.clone(), self.pods.clone());
        self.volumes.on_change(move |change: &Change| {
            let Ok(volume) = change.object().decode::<PersistentVolume>() else { return };
            let info = VolumeInfo::of(&volume);
            let Some(claim) = info.claim.filter(|_| info.csi.is_some()) else { return };
            for node in nodes_of(&pods, &claim.key) {
                queue.add(Subject::Place { volume: info.name.as_str().into(), node });
            }
        });
        let (queue, pods, volumes) = (self.queue.clone(), self.pods.clone(), self.volumes.clone());
        self.attachments.on_change(move |change: &Change| {
            let Some(attachment) = decode(change.object()) else { return };
            queue.add(Subject::Node(attachment.spec.node_name.as_str().into()));
            let Some(name) = attachment.spec.source.persistent_volume_name else { return };
            queue
                .add(Subject::Place { volume: name.as_str().into(), node: attachment.spec.node_name.into() });
            // Who waits for it to leave that node.
            if change.new.is_none()
                && let Some(volume) = volumes.get("", &name).and_then(|o| o.decode().ok())
                && let Some(claim) = VolumeInfo::of(&volume).claim
            {
                for node in nodes_of(&pods, &claim.key) {
                    queue.add(Subject::Place { volume: name.as_str().into(), node });
                }
            }
        });
        let (queue, attachments) = (self.queue.clone(), self.attachments.clone());
        self.nodes.on_change(move |change: &Change| {
            let node = &change.object().head.name;
            let held = attachments.by_index(BY_NODE, node);
            for attachment in held.iter().filter_map(|o| decode(o)) {
                if let Some(volume) = attachment.spec.source.persistent_volume_name {
                    queue.add(Subject::Place { volume: volume.into(), node: node.clone() });
                }
            }
            if !held.is_empty() {
                queue.add(Subject::Node(node.clone()));
            }
        });
    }

    /// Pods on the node that use the volume and have not ended.
    fn users(&self, volume: &VolumeInfo, node: &str) -> Vec<Arc<Object>> {
        let Some(claim) = &volume.claim else { return Vec::new() };
        let bound = self.claims.get_key(&claim.key).is_some_and(|o| *o.head.uid == *claim.uid);
        let mut users =
            if bound { self.pods.by_index(pods::BY_CLAIM, &claim.key.to_string()) } else { Vec::new() };
        users.retain(|pod| {
            let ended = matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed"));
            !ended && pod.head.field("spec.nodeName") == Some(node)
        });
        users
    }

    fn volume(&self, name: &str) -> Result<Option<VolumeInfo>, ApiError> {
        let volume: Option<PersistentVolume> =
            self.volumes.get("", name).map(|object| object.decode()).transpose()?;
        Ok(volume.as_ref().map(VolumeInfo::of))
    }

    fn node(&self, name: &str) -> Result<Option<Node>, ApiError> {
        Ok(self.nodes.get("", name).map(|object| object.decode()).transpose()?)
    }

    /// Drivers need attaching unless they say that they do not.
    fn needs_attaching(&self, driver: &str) -> bool {
        let known = self.drivers.get("", driver).and_then(|o| o.decode::<CSIDriver>().ok());
        known.is_none_or(|driver| driver.spec.attach_required != Some(false))
    }

    async fn place(&self, subject: &Subject, volume: &str, node_name: &str) -> Result<Outcome, ApiError> {
        let info = self.volume(volume)?;
        let node = self.node(node_name)?;
        let all: Vec<VolumeAttachment> =
            self.attachments.by_index(BY_VOLUME, volume).iter().filter_map(|o| decode(o)).collect();
        let here = all.iter().find(|a| a.spec.node_name == node_name && is_ours(a));
        let users = info.as_ref().map(|info| self.users(info, node_name)).unwrap_or_default();
        let csi = info.as_ref().and_then(|info| info.csi.clone());
        let managed = node.as_ref().is_some_and(|node| has_annotation(&node.metadata, MANAGED));
        let wanted = !users.is_empty()
            && managed
            && csi.as_ref().is_some_and(|(driver, _)| self.needs_attaching(driver));
        let modes = info.as_ref().map(|i| i.access_modes.clone()).unwrap_or_default();
        let state = State {
            wanted,
            attachment: match here {
                None => Attachment::None,
                Some(a) if a.metadata.deletion_timestamp.is_some() => Attachment::Deleting,
                Some(_) => Attachment::Present,
            },
            exclusive: !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany"),
            elsewhere: all.iter().any(|a| a.spec.node_name != node_name),
            in_use: csi.as_ref().zip(node.as_ref()).is_some_and(|((driver, handle), node)| {
                let name = unique_name(driver, handle);
                node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).any(|v| *v == name)
            }),
            node_healthy: node.as_ref().is_some_and(is_ready),
            node_lost: node.as_ref().is_none_or(is_out_of_service),
            unwanted_for: self.unwanted_for(subject, !wanted && here.is_some()),
        };
        match plan(&state) {
            Action::Nothing => {}
            Action::Wait(left) => return Ok(Outcome::After(left)),
            Action::Attach => {
                let Some((driver, handle)) = csi else { return Ok(Outcome::Done) };
                match self.client.create(&attachment(&driver, &handle, volume, node_name)).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => {}
                }
            }
            Action::RefuseSecond => self.refuse(volume, node_name, info.as_ref(), &users),
            Action::Detach | Action::ForceDetach => {
                // The node must not take it for attached while it goes.
                self.tell(node_name, Some(volume)).await?;
                let Some(name) = here.and_then(|a| a.metadata.name.as_deref()) else {
                    return Ok(Outcome::Done);
                };
                self.client.delete::<VolumeAttachment>("", name, DeleteOptions::default()).await?;
            }
        }
        if let (true, Some(here)) = (wanted, here) {
            self.report(here, volume, &users);
        }
        Ok(Outcome::Done)
    }

    fn unwanted_for(&self, subject: &Subject, unwanted: bool) -> std::time::Duration {
        let mut all = self.unwanted.lock();
        if unwanted {
            return all.entry(subject.clone()).or_insert_with(Instant::now).elapsed();
        }
        all.remove(subject);
        std::time::Duration::ZERO
    }

    fn event(&self, pods: &[Arc<Object>], kind: EventType, reason: &str, message: &str) {
        for pod in pods.iter().filter_map(|o| o.decode::<Pod>().ok()) {
            self.events.event(&pod, kind, reason, message);
        }
    }

    fn refuse(&self, volume: &str, node: &str, info: Option<&VolumeInfo>, users: &[Arc<Object>]) {
        let claim = info.and_then(|i| i.claim.as_ref()).map(|c| c.key.to_string()).unwrap_or_default();
        let others: Vec<String> = self
            .pods
            .by_index(pods::BY_CLAIM, &claim)
            .iter()
            .filter(|pod| pod.head.field("spec.nodeName").is_some_and(|n| !n.is_empty() && n != node))
            .map(|pod| pod.head.name.to_string())
            .collect();
        let why = if others.is_empty() {
            "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
        } else {
            format!("Volume is already used by pod(s) {}", others.join(", "))
        };
        let message = format!("Multi-Attach error for volume \"{volume}\" {why}");
        self.event(users, EventType::Warning, "FailedAttachVolume", &message);
    }

    /// What the attacher said.
    fn report(&self, attachment: &VolumeAttachment, volume: &str, users: &[Arc<Object>]) {
        let Some(status) = &attachment.status else { return };
        if status.attached {
            let message = format!("AttachVolume.Attach succeeded for volume \"{volume}\" ");
            self.event(users, EventType::Normal, "SuccessfulAttachVolume", &message);
        } else if let Some(error) = &status.attach_error {
            let why = error.message.as_deref().unwrap_or_default();
            let message = format!("AttachVolume.Attach failed for volume \"{volume}\" : {why}");
            self.event(users, EventType::Warning, "FailedAttachVolume", &message);
        }
    }

    /// Writes what the node has into its status; `but`: a volume that is about to leave it.
    async fn tell(&self, node_name: &str, but: Option<&str>) -> Result<(), ApiError> {
        let Some(node) = self.node(node_name)? else { return Ok(()) };
        let mut attached: Vec<AttachedVolume> = Vec::new();
        for attachment in self.attachments.by_index(BY_NODE, node_name).iter().filter_map(|o| decode(o)) {
            let volume = attachment.spec.source.persistent_volume_name.unwrap_or_default();
            let going = attachment.metadata.deletion_timestamp.is_some() || but == Some(&volume);
            if going || !attachment.status.is_some_and(|s| s.attached) {
                continue;
            }
            if let Some((driver, handle)) = self.volume(&volume)?.and_then(|info| info.csi) {
                attached
                    .push(AttachedVolume { name: unique_name(&driver, &handle), device_path: String::new() });
            }
        }
        attached.sort_by(|a, b| a.name.cmp(&b.name));
        let mut told = node.status.and_then(|s| s.volumes_attached).unwrap_or_default();
        told.sort_by(|a, b| a.name.cmp(&b.name));
        if told == attached {
            return Ok(());
        }
        let patch = json!({"status": {"volumesAttached": attached}});
        self.client.patch::<Node>("", node_name, Some("status"), PatchType::Merge, &patch).await.map(drop)
    }
}

/// The nodes of the pods that use a claim.
fn nodes_of(pods: &Informer, claim: &Key) -> Vec<Arc<str>> {
    let users = pods.by_index(pods::BY_CLAIM, &claim.to_string());
    users
        .iter()
        .filter_map(|pod| pod.head.field("spec.nodeName").filter(|n| !n.is_empty()).map(Into::into))
        .collect()
}

fn attachment(driver: &str, handle: &str, volume: &str, node: &str) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(attachment_name(driver, handle, node)), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: driver.to_owned(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(volume.to_owned()),
                inline_volume_spec: None,
            },
        },
        status: None,
    }
}

/// Named as this controller names them: what others have made is theirs to delete.
fn is_ours(attachment: &VolumeAttachment) -> bool {
    let hash = attachment.metadata.name.as_deref().and_then(|name| name.strip_prefix("csi-"));
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

impl Reconciler for Controller {
    type Key = Subject;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "persistentvolume-attach-detach-controller"
    }

    async fn reconcile(&self, subject: &Subject) -> Result<Outcome, ApiError> {
        let done = match subject {
            Subject::Place { volume, node } => self.place(subject, volume, node).await,
            Subject::Node(node) => self.tell(node, None).await.map(|()| Outcome::Done),
        };
        match done {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{Cluster, from};

    #[test]
    fn attachments_are_ours_by_their_names() {
        let hash = "0123456789abcdef".repeat(4);
        for (name, want) in [
            (format!("csi-{hash}"), true),
            (format!("csi-{}", hash.to_uppercase()), true),
            (hash.clone(), false),
            (format!("csi-{}", &hash[1..]), false),
            (format!("csi-{hash}0"), false),
            (format!("csi-{}g", &hash[1..]), false),
            ("by-hand".into(), false),
            (String::new(), false),
        ] {
            let attachment: VolumeAttachment = from(serde_json::json!({"metadata": {"name": name},
                "spec": {"attacher": "x", "nodeName": "n", "source": {}}}));
            assert_eq!(is_ours(&attachment), want, "{name}");
        }
        assert!(!is_ours(&VolumeAttachment::default()));
    }

    fn node(name: &str, status: Value) -> Node {
        from(json!({"metadata": {"name": name, "annotations": {MANAGED: "true"}}, "status": status}))
    }

    fn pod(name: &str, node: &str) -> Pod {
        from(
            json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": node, "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, "status": {"phase": "Running"}}),
        )
    }

    async fn storage(cluster: &Cluster) {
        let client = &cluster.context.client;
        let claim: PersistentVolumeClaim =
            from(json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"volumeName": "v"}}));
        let claim: PersistentVolumeClaim = client.create(&claim).await.unwrap().decode().unwrap();
        let volume: PersistentVolume = from(json!({"metadata": {"name": "v"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.x", "volumeHandle": "h"},
            "claimRef": {"namespace": "ns", "name": "c", "uid": claim.metadata.uid}}}));
        client.create(&volume).await.unwrap();
    }

    fn attachments(fake: &coracle_client::fake::Fake) -> Vec<String> {
        fake.list::<VolumeAttachment>("").into_iter().map(|a| a.spec.node_name).collect()
    }

    #[test]
    fn names_are_upstreams() {
        assert_eq!(unique_name("d.x", "h"), "kubernetes.io/csi/d.x^h");
        assert!(attachment_name("d.x", "h", "n").starts_with("csi-"));
        assert_eq!(attachment_name("d.x", "h", "n").len(), 68);
    }

    #[tokio::test(start_paused = true)]
    async fn attached_told_and_detached_before_the_next_node_gets_it() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        let in_use = json!({"volumesInUse": [unique_name("d.x", "h")], "conditions": [{"type": "Ready", "status": "True"}]});
        cluster.fake.put(&node("a", in_use)).unwrap();
        cluster.fake.put(&node("b", json!({}))).unwrap();
        storage(&cluster).await;
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.fake.put(&pod("p", "a")).unwrap();
        cluster.until("attachment", |f| attachments(f) == ["a"]).await;
        let mut made = cluster.fake.list::<VolumeAttachment>("").remove(0);
        made.status.get_or_insert_default().attached = true;
        client.update_status(&made).await.unwrap();
        let told = |f: &coracle_client::fake::Fake, name: &str| {
            f.get::<Node>("", name).and_then(|n| n.status?.volumes_attached).unwrap_or_default().len()
        };
        cluster.until("told", |f| told(f, "a") == 1).await;
        cluster
            .until("said", |_| cluster.events().iter().any(|(reason, _)| reason == "SuccessfulAttachVolume"))
            .await;

        cluster.fake.put(&pod("q", "b")).unwrap();
        cluster
            .until("refused", |_| {
                cluster.events().contains(&(
                    "FailedAttachVolume".into(),
                    "Multi-Attach error for volume \"v\" Volume is already used by pod(s) p".into(),
                ))
            })
            .await;
        cluster.fake.remove::<Pod>("ns", "p");
        cluster.settle().await;
        assert_eq!(attachments(&cluster.fake), ["a"], "the node has it mounted");
        cluster.fake.put(&node("a", json!({"conditions": [{"type": "Ready", "status": "True"}]}))).unwrap();
        cluster.until("moved", |f| attachments(f) == ["b"]).await;
        assert_eq!(told(&cluster.fake, "a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_out_of_service_loses_its_volumes() {
        let cluster = Cluster::new();
        let mut lost = node("a", json!({"volumesInUse": [unique_name("d.x", "h")]}));
        cluster.fake.put(&lost).unwrap();
        storage(&cluster).await;
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.fake.put(&pod("p", "a")).unwrap();
        cluster.until("attachment", |f| attachments(f) == ["a"]).await;
        cluster.fake.remove::<Pod>("ns", "p");
        cluster.settle().await;
        assert_eq!(attachments(&cluster.fake), ["a"]);
        lost.spec.get_or_insert_default().taints =
            Some(vec![from(json!({"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}))]);
        cluster.fake.put(&lost).unwrap();
        cluster.until("taken", |f| attachments(f).is_empty()).await;
    }
}
