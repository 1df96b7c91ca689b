//! Feeds what informers bring into the cache and the queue.

use std::sync::Arc;

use coracle_client::persistent_volumes::{ClaimInfo, VolumeInfo};
use coracle_client::{Change, Informers, Object};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use parking_lot::Mutex;
use tracing::warn;

use crate::cache::Cache;
use crate::framework::{ClusterEvent, Plugin};
use crate::pod::PodInfo;
use crate::queue::Queue;
use crate::volume_writes::ClaimWaits;
use crate::volumes::ClassInfo;

/// What the informers' handlers and the cycles share.
pub struct Shared {
    pub cache: Mutex<Cache>,
    pub queue: Queue,
    pub plugins: Vec<Box<dyn Plugin>>,
    pub scheduler_name: String,
    /// Bindings that wait for volumes.
    pub claim_waits: ClaimWaits,
}

impl Shared {
    fn helps(&self, plugin: &str, event: ClusterEvent) -> bool {
        self.plugins.iter().any(|p| p.name() == plugin && p.helps(event))
    }

    fn tell(&self, event: ClusterEvent) {
        self.queue.event(event, |plugin, event| self.helps(plugin, event));
    }

    fn node_changed(&self, change: &Change) {
        match &change.new {
            Some(node) => {
                let changed = self.cache.lock().set_node(node);
                match changed {
                    Ok(changed) if changed.any() => self.tell(ClusterEvent::Node(changed)),
                    Ok(_) => {}
                    Err(error) => warn!(node = %node.head.name, %error, "a node does not decode"),
                }
            }
            None => self.cache.lock().remove_node(&change.object().head.name),
        }
    }

    fn pod_changed(&self, change: &Change) {
        let Some(object) = &change.new else {
            let uid = &change.object().head.uid;
            self.queue.remove(uid);
            if self.cache.lock().remove(uid) {
                self.tell(ClusterEvent::PodRemoved);
            }
            return;
        };
        let pod = match PodInfo::decode(object) {
            Ok(pod) => pod,
            Err(error) => {
                warn!(pod = %object.key(), %error, "a pod does not decode");
                return;
            }
        };
        match pod.node_name.clone() {
            Some(node) => self.placed(pod, &node, change.old.as_ref()),
            None if pod.terminal || pod.deleting => self.queue.remove(&pod.uid),
            None if self.cache.lock().is_placed(&pod.uid) => self.queue.refresh(Arc::new(pod)),
            None if pod.scheduler_name == self.scheduler_name => {
                self.queue.add(Arc::new(pod), |plugin, event| self.helps(plugin, event));
            }
            None => {}
        }
    }

    fn placed(&self, pod: PodInfo, node: &str, old: Option<&Arc<Object>>) {
        self.queue.bound(&pod.uid);
        let was_placed = old.is_some_and(|o| o.head.field("spec.nodeName").is_some_and(|n| !n.is_empty()));
        let mut cache = self.cache.lock();
        if pod.terminal {
            let freed = cache.remove(&pod.uid);
            drop(cache);
            if freed {
                self.tell(ClusterEvent::PodRemoved);
            }
            return;
        }
        cache.confirm(&pod, node);
        drop(cache);
        if !was_placed {
            self.tell(ClusterEvent::PodPlaced);
        }
    }
}

impl Shared {
    fn claim_changed(&self, change: &Change) {
        let key = change.key();
        let claim = change.new.as_ref().and_then(|o| o.decode::<PersistentVolumeClaim>().ok());
        self.cache.lock().volumes.set_claim(key.clone(), claim.as_ref().map(ClaimInfo::of));
        self.claim_waits.wake(&key);
        let concerns = |pod: &PodInfo| {
            *pod.load.namespace == *key.namespace && pod.load.claims.iter().any(|c| *c.name == *key.name)
        };
        if change.new.is_some() {
            self.queue.event_for(ClusterEvent::Claim, |p, e| self.helps(p, e), concerns);
        }
    }

    fn volume_changed(&self, change: &Change) {
        let name = &change.object().head.name;
        let volume = change.new.as_ref().and_then(|o| o.decode::<PersistentVolume>().ok());
        let info = volume.as_ref().map(VolumeInfo::of);
        let of = info.as_ref().and_then(|v| v.claim.as_ref()).map(|c| c.key.clone());
        self.cache.lock().volumes.set_volume(name, info);
        if let Some(key) = &of {
            self.claim_waits.wake(key);
        }
        // One that is a claim's own helps the pods of that claim only.
        let concerns = |pod: &PodInfo| match &of {
            None => !pod.load.claims.is_empty(),
            Some(key) => {
                *pod.load.namespace == *key.namespace && pod.load.claims.iter().any(|c| *c.name == *key.name)
            }
        };
        if change.new.is_some() {
            self.queue.event_for(ClusterEvent::Volume, |p, e| self.helps(p, e), concerns);
        }
    }

    fn class_changed(&self, change: &Change) {
        let class = change.new.as_ref().and_then(|o| o.decode::<StorageClass>().ok());
        let name = &change.object().head.name;
        self.cache.lock().volumes.set_class(name, class.as_ref().map(ClassInfo::of));
        if change.new.is_some() {
            let concerns = |pod: &PodInfo| !pod.load.claims.is_empty();
            self.queue.event_for(ClusterEvent::StorageClass, |p, e| self.helps(p, e), concerns);
        }
    }
}

impl Shared {
    fn limits_changed(&self, change: &Change) {
        let node = change.new.as_ref().and_then(|o| o.decode::<CSINode>().ok());
        let drivers = node.into_iter().flat_map(|node| node.spec.drivers);
        let limits =
            drivers.filter_map(|driver| Some((driver.name, i64::from(driver.allocatable?.count?)))).collect();
        self.cache.lock().volumes.set_limits(&change.object().head.name, limits);
        self.queue.event_for(ClusterEvent::CsiNode, |p, e| self.helps(p, e), |p| !p.load.claims.is_empty());
    }
}

/// Follows nodes, pods and storage from now on.
pub fn follow(shared: &Arc<Shared>, informers: &Informers) {
    let nodes = shared.clone();
    informers.of::<Node>().on_change(move |change| nodes.node_changed(change));
    let pods = shared.clone();
    informers.of::<Pod>().on_change(move |change| pods.pod_changed(change));
    let claims = shared.clone();
    informers.of::<PersistentVolumeClaim>().on_change(move |change| claims.claim_changed(change));
    let volumes = shared.clone();
    informers.of::<PersistentVolume>().on_change(move |change| volumes.volume_changed(change));
    let classes = shared.clone();
    informers.of::<StorageClass>().on_change(move |change| classes.class_changed(change));
    let limits = shared.clone();
    informers.of::<CSINode>().on_change(move |change| limits.limits_changed(change));
}
