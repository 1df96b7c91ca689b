//! Volumes by claim: the claim's volume, checked as upstream checks it, and mounted where this node can.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use coracle_client::events::{EventType, reference};
use coracle_client::persistent_volumes::{
    ClaimInfo, LOCAL_PATH_PROVISIONER, PROVISIONED_BY, VolumeInfo, claim_of,
};
use coracle_client::quantity::Quantity;
use coracle_client::{Key, PatchType};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{MountError, PodVolume, PodVolumes, Volumes, host_path};

/// Which pods have which volumes of this node. Bounded by the pods' volumes.
#[derive(Default)]
pub struct InUse(Mutex<HashMap<String, HashSet<String>>>);

impl InUse {
    /// False: another pod has it, and it is for one alone.
    fn take(&self, volume: &str, uid: &str, exclusive: bool) -> bool {
        let mut all = self.0.lock();
        let users = all.entry(volume.to_owned()).or_default();
        if exclusive && users.iter().any(|user| user != uid) {
            return false;
        }
        users.insert(uid.to_owned());
        true
    }

    pub(super) fn release(&self, uid: &str) {
        self.0.lock().retain(|_, users| {
            users.remove(uid);
            !users.is_empty()
        });
    }
}

/// No driver of the Container Storage Interface runs beside this node.
pub(super) fn no_driver(step: &str, driver: &str) -> String {
    format!("kubernetes.io/csi: {step}: driver name {driver} not found in the list of registered CSI drivers")
}

impl Volumes {
    /// Also called for what is mounted already: the claim may have grown.
    pub(super) async fn persistent(
        &self,
        pod_volumes: &mut PodVolumes,
        pod: &Pod,
        volume: &Volume,
    ) -> Result<PodVolume, MountError> {
        let meta = &pod.metadata;
        let (pod_name, uid) =
            (meta.name.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
        let Some(wanted) = claim_of(pod_name, volume) else {
            return Err(MountError::Unsupported(volume.name.clone()));
        };
        let key = Key::new(meta.namespace.as_deref().unwrap_or_default(), &wanted.name);
        let refuse = |reason: String| MountError::Claim { claim: key.clone(), reason };
        let source = self.sources.open_claim(&key.namespace, &wanted.name).await;
        pod_volumes.follow(&source);
        let claim: Option<PersistentVolumeClaim> = source.object().map(|o| o.decode()).transpose()?;
        let mounted = pod_volumes.volumes.iter().find(|v| *v.name == *volume.name).cloned();
        let Some(claim) = claim else {
            // A pod keeps what it has.
            let name = &wanted.name;
            return mounted.ok_or_else(|| {
                refuse(format!(
                    "failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found"
                ))
            });
        };
        if let Some(mounted) = mounted {
            if shows_less(&claim) {
                let persistent = self.volume_of(&claim, &key).await?;
                self.finish_resize(pod, &claim, &persistent).await?;
            }
            return Ok(mounted);
        }
        let info = ClaimInfo::of(&claim);
        if wanted.ephemeral && info.owner.as_deref() != Some(uid) {
            let pod = Key::new(&key.namespace, pod_name);
            return Err(refuse(format!("PVC {key} was not created for pod {pod} (pod is not owner)")));
        }
        if info.deleting {
            return Err(refuse("PVC is being deleted".into()));
        }
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
            return Err(refuse("PVC is not bound".into()));
        }
        if info.volume_name.is_empty() {
            return Err(refuse("PVC has empty spec.VolumeName".into()));
        }
        let persistent = self.volume_of(&claim, &key).await?;
        let offer = VolumeInfo::of(&persistent);
        if offer.block {
            let name = &volume.name;
            return Err(refuse(format!(
                "volume {name} has volumeMode Block, but is specified in volumeMounts"
            )));
        }
        if !offer.reaches(&self.node, &self.labels) {
            let name = &offer.name;
            return Err(MountError::Refused(format!(
                "MountVolume.NodeAffinity check failed for volume \"{name}\" : no matching NodeSelectorTerms"
            )));
        }
        if !self.in_use.take(&offer.name, uid, info.is_exclusive()) {
            return Err(MountError::Refused(format!(
                "MountVolume.SetUp failed for volume \"{}\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod",
                offer.name
            )));
        }
        let path = set_up(&persistent).await?;
        if shows_less(&claim) {
            self.finish_resize(pod, &claim, &persistent).await?;
        }
        let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
        Ok(PodVolume { name: volume.name.as_str().into(), path, managed: false, size_limit: None, read_only })
    }

    async fn volume_of(
        &self,
        claim: &PersistentVolumeClaim,
        key: &Key,
    ) -> Result<PersistentVolume, MountError> {
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let refuse = |reason: String| MountError::Claim { claim: key.clone(), reason };
        let volume: PersistentVolume = match self.sources.client().get("", name).await {
            Ok(volume) => volume,
            Err(error) => {
                return Err(refuse(format!(
                    "failed to fetch PV {name} from API server: {}",
                    error.message()
                )));
            }
        };
        let of = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let Some(of) = of else {
            return Err(refuse(format!(
                "found PV object {name} has nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
            )));
        };
        if of.uid != claim.metadata.uid {
            let (has, wants) =
                (of.uid.clone().unwrap_or_default(), claim.metadata.uid.clone().unwrap_or_default());
            return Err(refuse(format!(
                "found PV object {name} bound to wrong PVC UID {has}, expected {wants}"
            )));
        }
        Ok(volume)
    }

    /// A directory has the room of its disk whatever the claim says, so all there is to do is to say so.
    async fn finish_resize(
        &self,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), MountError> {
        let Some(patch) = resized(claim, volume) else { return Ok(()) };
        let meta = &claim.metadata;
        let (namespace, name) =
            (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let written = self
            .sources
            .client()
            .patch::<PersistentVolumeClaim>(namespace, name, Some("status"), PatchType::Merge, &patch)
            .await;
        match written {
            // It has changed meanwhile: that change brings us here again.
            Err(error) if error.is_conflict() || error.is_not_found() => return Ok(()),
            Err(error) => return Err(MountError::Api(error)),
            Ok(_) => {}
        }
        let message = format!(
            "MountVolume.NodeExpandVolume succeeded for volume \"{}\" {}",
            volume.metadata.name.as_deref().unwrap_or_default(),
            self.node
        );
        for about in [reference(pod), reference(claim)] {
            self.recorder.event_for(about, EventType::Normal, "FileSystemResizeSuccessful", message.clone());
        }
        Ok(())
    }
}

fn storage(
    map: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> Option<Quantity> {
    Quantity::of(map?.get("storage")?).ok()
}

/// It asks for more than it says it has.
fn shows_less(claim: &PersistentVolumeClaim) -> bool {
    let wants = claim.spec.as_ref().and_then(|s| storage(s.resources.as_ref()?.requests.as_ref()));
    let has = claim.status.as_ref().and_then(|s| storage(s.capacity.as_ref()));
    wants.zip(has).is_some_and(|(wants, has)| wants > has)
}

/// The claim's status once its file system is as large as its volume; None: the volume has not grown.
fn resized(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    let spec = volume.spec.as_ref()?;
    let status = claim.status.as_ref()?;
    if storage(spec.capacity.as_ref())? <= storage(status.capacity.as_ref())? {
        return None;
    }
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| !matches!(c.type_.as_str(), "FileSystemResizePending" | "Resizing"))
        .collect();
    let conditions = Some(conditions).filter(|c| !c.is_empty());
    Some(json!({
        "metadata": {"resourceVersion": claim.metadata.resource_version},
        "status": {"capacity": spec.capacity, "conditions": conditions, "allocatedResourceStatuses": null},
    }))
}

/// Where the volume is on this node.
async fn set_up(volume: &PersistentVolume) -> Result<PathBuf, MountError> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(source) = spec.host_path {
        let path = PathBuf::from(&source.path);
        let annotations = volume.metadata.annotations.as_ref();
        let ours =
            annotations.and_then(|a| a.get(PROVISIONED_BY)).is_some_and(|by| by == LOCAL_PATH_PROVISIONER);
        let target = path.clone();
        let work = move || -> Result<(), MountError> {
            let fresh = ours && !target.exists();
            host_path::set_up(&source)?;
            if fresh {
                // Whoever the container runs as.
                std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o777))
                    .map_err(|source| MountError::Io { path: target, source })?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| MountError::Io { path: path.clone(), source: io::Error::other(e) })??;
        return Ok(path);
    }
    if let Some(source) = spec.local {
        let path = PathBuf::from(&source.path);
        if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
            return Err(MountError::Refused(format!(
                "MountVolume.NewMounter initialization failed for volume \"{name}\" : path \"{}\" does not exist",
                source.path
            )));
        }
        return Ok(path);
    }
    if let Some(csi) = spec.csi {
        let why = no_driver("attacher.MountDevice failed to create newCsiDriverClient", &csi.driver);
        return Err(MountError::Refused(format!(
            "MountVolume.MountDevice failed for volume \"{name}\" : {why}"
        )));
    }
    Err(MountError::Refused(format!(
        "MountVolume.NewMounter initialization failed for volume \"{name}\" : no volume plugin matched"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_volume_for_one_pod_has_one() {
        let all = InUse::default();
        assert!(all.take("v", "a", true) && all.take("v", "a", true));
        assert!(!all.take("v", "b", true));
        assert!(all.take("w", "a", false) && all.take("w", "b", false));
        all.release("a");
        assert!(all.take("v", "b", true));
    }

    #[test]
    fn claims_grow_to_their_volume() {
        let claim: PersistentVolumeClaim = from(json!({"metadata": {"resourceVersion": "7"},
            "spec": {"resources": {"requests": {"storage": "2Gi"}}},
            "status": {"capacity": {"storage": "1Gi"}, "conditions": [
                {"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}]}}));
        assert!(shows_less(&claim));
        let volume =
            |size: &str| -> PersistentVolume { from(json!({"spec": {"capacity": {"storage": size}}})) };
        assert!(resized(&claim, &volume("1Gi")).is_none(), "the volume comes first");
        let patch = resized(&claim, &volume("2Gi")).unwrap();
        assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn each_kind_of_volume_on_this_node() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let volume =
            |spec: Value| -> PersistentVolume { from(json!({"metadata": {"name": "v"}, "spec": spec})) };
        let path =
            set_up(&volume(json!({"hostPath": {"path": at("new"), "type": "DirectoryOrCreate"}}))).await;
        assert!(path.unwrap().is_dir());
        assert!(set_up(&volume(json!({"local": {"path": at("new")}}))).await.is_ok());
        for (spec, want) in [
            (
                json!({"local": {"path": "/no/such"}}),
                "MountVolume.NewMounter initialization failed for volume \"v\" : path \"/no/such\" does not exist",
            ),
            (
                json!({"csi": {"driver": "d.x", "volumeHandle": "h"}}),
                "MountVolume.MountDevice failed for volume \"v\" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name d.x not found in the list of registered CSI drivers",
            ),
            (
                json!({"nfs": {"server": "s", "path": "/p"}}),
                "MountVolume.NewMounter initialization failed for volume \"v\" : no volume plugin matched",
            ),
        ] {
            assert_eq!(set_up(&volume(spec)).await.unwrap_err().to_string(), want);
        }
    }
}
