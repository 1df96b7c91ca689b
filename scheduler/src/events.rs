//! Feeds what informers bring into the cache and the queue.

use std::sync::Arc;

use coracle_client::{Change, Informers, Object};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use tracing::warn;

use crate::cache::Cache;
use crate::framework::{ClusterEvent, Plugin};
use crate::pod::PodInfo;
use crate::queue::Queue;

/// What the informers' handlers and the cycles share.
pub struct Shared {
    pub cache: Mutex<Cache>,
    pub queue: Queue,
    pub plugins: Vec<Box<dyn Plugin>>,
    pub scheduler_name: String,
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

/// Follows nodes and pods from now on.
pub fn follow(shared: &Arc<Shared>, informers: &Informers) {
    let nodes = shared.clone();
    informers.of::<Node>().on_change(move |change| nodes.node_changed(change));
    let pods = shared.clone();
    informers.of::<Pod>().on_change(move |change| pods.pod_changed(change));
}
