//! Writes what was decided for a pod's claims, and waits until each has its volume.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::persistent_volumes::{BOUND_BY_CONTROLLER, ClaimInfo, SELECTED_NODE, VolumeInfo};
use coracle_client::{ApiError, Key};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::binder::Binder;
use crate::volumes::Decision;

/// How long a volume may take: upstream's default.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("binding volumes: {0}")]
    Api(#[from] ApiError),
    #[error("binding volumes: volume \"{0}\" was given to another claim")]
    Taken(String),
    #[error("binding volumes: persistentvolumeclaim \"{0}\" not found")]
    Gone(Key),
    #[error("binding volumes: selectedNode annotation reset for PVC \"{0}\"")]
    Reset(Key),
    #[error("binding volumes: pv \"{volume}\" node affinity doesn't match node \"{node}\"")]
    Elsewhere { volume: String, node: String },
    #[error("binding volumes: context deadline exceeded")]
    Timeout,
}

/// Who waits for which claims. Bounded by the bindings under way.
#[derive(Default)]
pub struct ClaimWaits {
    waits: Mutex<HashMap<Key, Arc<Notify>>>,
}

impl ClaimWaits {
    fn of(&self, key: &Key) -> Arc<Notify> {
        self.waits.lock().entry(key.clone()).or_default().clone()
    }

    pub fn wake(&self, key: &Key) {
        if let Some(notify) = self.waits.lock().get(key) {
            notify.notify_waiters();
        }
    }

    fn leave(&self, key: &Key) {
        let mut waits = self.waits.lock();
        // This map's and the caller's.
        if waits.get(key).is_some_and(|notify| Arc::strong_count(notify) <= 2) {
            waits.remove(key);
        }
    }
}

impl Binder {
    /// `permit` is given back while there is only waiting to do.
    pub(crate) async fn bind_volumes(
        &self,
        node: &str,
        decision: &Decision,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), VolumeError> {
        for (claim, volume) in &decision.given {
            self.give(claim, volume).await?;
        }
        let mut versions = HashMap::new();
        for claim in &decision.made {
            versions.insert(claim.clone(), self.choose_node(claim, node).await?);
        }
        drop(permit.take());
        let deadline = Instant::now() + BIND_TIMEOUT;
        for claim in decision.claims() {
            let notify = self.shared.claim_waits.of(claim);
            let version = versions.get(claim).copied();
            let bound = loop {
                let notified = notify.notified();
                tokio::pin!(notified);
                // Registered before it is looked at: no change is missed.
                notified.as_mut().enable();
                match self.bound(claim, node, version) {
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(error) => break Err(error),
                }
                if tokio::time::timeout_at(deadline, notified).await.is_err() {
                    break Err(VolumeError::Timeout);
                }
            };
            self.shared.claim_waits.leave(claim);
            bound?;
        }
        *permit = self.writes.clone().acquire_owned().await.ok();
        Ok(())
    }

    /// Reserves the volume for the claim; the binder does the rest.
    async fn give(&self, key: &Key, name: &str) -> Result<(), VolumeError> {
        let claim: PersistentVolumeClaim = self.client.get(&key.namespace, &key.name).await?;
        let mut volume: PersistentVolume = self.client.get("", name).await?;
        let info = VolumeInfo::of(&volume);
        let wanted = ClaimInfo::of(&claim);
        if info.claim.as_ref().is_some_and(|of| of.uid == wanted.uid) {
            return Ok(());
        }
        let reserved = info.is_for(&wanted);
        if info.claim.is_some() && !reserved {
            return Err(VolumeError::Taken(name.to_owned()));
        }
        volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: claim.metadata.namespace,
            name: claim.metadata.name,
            uid: claim.metadata.uid,
            resource_version: claim.metadata.resource_version,
            field_path: None,
        });
        if !reserved {
            let annotations = volume.metadata.annotations.get_or_insert_default();
            annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        }
        self.client.update(&volume).await?;
        Ok(())
    }

    /// Says on the claim where its volume is to be; returns the version that says so.
    async fn choose_node(&self, key: &Key, node: &str) -> Result<u64, VolumeError> {
        let mut claim: PersistentVolumeClaim = self.client.get(&key.namespace, &key.name).await?;
        let info = ClaimInfo::of(&claim);
        if info.selected_node.as_deref() == Some(node) || info.is_bound() {
            return Ok(info.version);
        }
        let annotations = claim.metadata.annotations.get_or_insert_default();
        annotations.insert(SELECTED_NODE.into(), node.to_owned());
        let written: PersistentVolumeClaim = self.client.update(&claim).await?.decode()?;
        Ok(ClaimInfo::of(&written).version)
    }

    /// `version`: from when on the claim names the node.
    fn bound(&self, key: &Key, node: &str, version: Option<u64>) -> Result<bool, VolumeError> {
        let cache = self.shared.cache.lock();
        let Some(claim) = cache.volumes.claim(key) else { return Err(VolumeError::Gone(key.clone())) };
        if claim.is_bound() {
            let volume = cache.volumes.volume(&claim.volume_name);
            return match (volume, cache.node(node)) {
                (Some(volume), Some(info)) if !volume.reaches(&info.name, &info.labels) => {
                    Err(VolumeError::Elsewhere { volume: volume.name.clone(), node: node.to_owned() })
                }
                (volume, _) => Ok(volume.is_some()),
            };
        }
        let shown = version.is_some_and(|version| claim.version >= version);
        if shown && claim.selected_node.as_deref() != Some(node) {
            return Err(VolumeError::Reset(key.clone()));
        }
        Ok(false)
    }
}
