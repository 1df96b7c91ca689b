//! The picture of the nodes that cycles decide on: what each has, what its pods take, and what is assumed of bindings
//! under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_client::selector::Selector;
use coracle_client::{Object, Uid};
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;

use crate::pod::{Load, PodInfo};
use crate::resources::Resources;
use crate::spread::{Domains, Selection, Spreads};
use crate::volumes::Volumes;

pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// One node as numbers.
#[derive(Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_max: i64,
    pub requested: Resources,
    /// Requests with defaults: cpu in thousandths, memory in bytes.
    pub scored: (i64, i64),
    /// By uid.
    pub pods: HashMap<Box<str>, Arc<Load>>,
    /// Pods per controller, for spreading.
    pub per_controller: HashMap<Uid, i64>,
    /// The Node object is there; without it only pods that name it are.
    pub known: bool,
}

impl NodeInfo {
    fn add(&mut self, uid: &str, load: Arc<Load>) {
        self.requested.add(&load.requests);
        self.scored = (self.scored.0 + load.scored.0, self.scored.1 + load.scored.1);
        if let Some(controller) = &load.controller_uid {
            *self.per_controller.entry(controller.clone()).or_default() += 1;
        }
        self.pods.insert(uid.into(), load);
    }

    fn remove(&mut self, uid: &str) -> bool {
        let Some(load) = self.pods.remove(uid) else { return false };
        self.requested.subtract(&load.requests);
        self.scored = (self.scored.0 - load.scored.0, self.scored.1 - load.scored.1);
        if let Some(controller) = &load.controller_uid
            && let Some(count) = self.per_controller.get_mut(controller)
        {
            *count -= 1;
            if *count == 0 {
                self.per_controller.remove(controller);
            }
        }
        true
    }
}

/// Nodes in a stable order that cycles walk through.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Where each pod is, by uid.
    placed: HashMap<Box<str>, Placed>,
    known: usize,
    /// Pods of a controller in each zone: a cycle must not walk all nodes to know.
    per_zone: HashMap<Uid, HashMap<String, i64>>,
    /// What constraints count. Behind a lock, as a question may have to be counted first.
    spreads: Mutex<Spreads>,
    pub volumes: Volumes,
}

#[derive(Debug)]
struct Placed {
    node: String,
    assumed: bool,
}

impl Cache {
    /// Nodes whose objects exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|n| n.known)
    }

    /// All slots, some of which may not be known nodes; for walking by index.
    pub fn slots(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|at| self.nodes.get(*at))
    }

    pub fn known_count(&self) -> usize {
        self.known
    }

    /// How many pods of the controller each zone has; zones with none are not there.
    pub fn zones_of(&self, controller: &str) -> Option<&HashMap<String, i64>> {
        self.per_zone.get(controller)
    }

    /// The domains of all nodes with the pods of the selection.
    pub fn spread(&self, selection: Selection, selector: &Selector) -> Arc<RwLock<Domains>> {
        self.spreads.lock().ask(selection, selector, self.nodes())
    }

    fn count_zone(&mut self, at: usize, controller: &str, by: i64) {
        let Some(zone) = self.nodes[at].labels.get(ZONE_LABEL) else { return };
        let zones = match self.per_zone.get_mut(controller) {
            Some(zones) => zones,
            None => self.per_zone.entry(controller.into()).or_default(),
        };
        match zones.get_mut(zone) {
            Some(count) => *count += by,
            None => drop(zones.insert(zone.clone(), by)),
        }
        if zones.get(zone) == Some(&0) {
            zones.remove(zone);
        }
        if zones.is_empty() {
            self.per_zone.remove(controller);
        }
    }

    /// All pods of a node leave its zone or enter it.
    fn count_node(&mut self, at: usize, sign: i64) {
        let counts: Vec<(Uid, i64)> =
            self.nodes[at].per_controller.iter().map(|(uid, count)| (uid.clone(), *count)).collect();
        for (controller, count) in counts {
            self.count_zone(at, &controller, sign * count);
        }
    }

    fn slot(&mut self, name: &str) -> &mut NodeInfo {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None => {
                self.nodes.push(NodeInfo { name: name.to_owned(), ..NodeInfo::default() });
                self.by_name.insert(name.to_owned(), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        &mut self.nodes[at]
    }

    /// What changed that may make a pod fit; None when nothing did.
    pub fn set_node(&mut self, object: &Object) -> Result<NodeChange, serde_json::Error> {
        let view: NodeView = object.decode()?;
        let node = self.slot(&object.head.name);
        let labels: BTreeMap<String, String> =
            object.head.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let allocatable = Resources::of(view.status.allocatable.as_ref());
        let pods_max = view
            .status
            .allocatable
            .as_ref()
            .and_then(|a| a.get("pods"))
            .and_then(|q| coracle_client::quantity::Quantity::of(q).ok())
            .map_or(0, |q| q.value());
        let taints = view.spec.taints.unwrap_or_default();
        let unschedulable = view.spec.unschedulable.unwrap_or(false);
        let change = NodeChange {
            added: !node.known,
            labels: node.labels != labels,
            taints: node.taints != taints || node.unschedulable != unschedulable,
            allocatable: node.allocatable != allocatable || node.pods_max != pods_max,
        };
        let moved = node.labels.get(ZONE_LABEL) != labels.get(ZONE_LABEL);
        let at = self.by_name.get(&*object.head.name).copied().unwrap_or_default();
        if moved {
            self.count_node(at, -1);
        }
        self.known += usize::from(change.added);
        let elsewhere = change.added || change.labels;
        if elsewhere && !change.added {
            self.spreads.get_mut().node(&self.nodes[at], -1);
        }
        let node = &mut self.nodes[at];
        node.labels = labels;
        node.allocatable = allocatable;
        node.pods_max = pods_max;
        node.taints = taints;
        node.unschedulable = unschedulable;
        node.known = true;
        if elsewhere {
            self.spreads.get_mut().node(&self.nodes[at], 1);
        }
        if moved {
            self.count_node(at, 1);
        }
        Ok(change)
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        if self.nodes[at].known {
            self.known -= 1;
            self.spreads.get_mut().node(&self.nodes[at], -1);
        }
        self.nodes[at].known = false;
        if self.nodes[at].pods.is_empty() {
            self.by_name.remove(name);
            self.nodes.swap_remove(at);
            if let Some(moved) = self.nodes.get(at) {
                self.by_name.insert(moved.name.clone(), at);
            }
        }
    }

    /// The API says that the pod is on the node.
    pub fn confirm(&mut self, pod: &PodInfo, node: &str) {
        self.place(&pod.uid, node, pod.load.clone(), false);
    }

    /// Counts a pod whose binding is under way.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        self.place(&pod.uid, node, pod.load.clone(), true);
    }

    fn place(&mut self, uid: &str, node: &str, load: Arc<Load>, assumed: bool) {
        self.remove(uid);
        let controller = load.controller_uid.clone();
        self.volumes.use_claims(&load.namespace, &load.claims, uid);
        self.slot(node).add(uid, load.clone());
        if let Some(at) = self.by_name.get(node).copied().filter(|at| self.nodes[*at].known) {
            self.spreads.get_mut().pod(&load, &self.nodes[at], 1);
        }
        if let (Some(controller), Some(at)) = (controller, self.by_name.get(node).copied()) {
            self.count_zone(at, &controller, 1);
        }
        self.placed.insert(uid.into(), Placed { node: node.to_owned(), assumed });
    }

    /// The binding failed. A pod that the API has confirmed meanwhile stays.
    pub fn forget(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|p| p.assumed) {
            self.remove(uid);
        }
    }

    /// The pod is gone or has ended. True when it took room.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        let Some(at) = self.by_name.get(&placed.node).copied() else { return false };
        if let Some(controller) = self.nodes[at].pods.get(uid).and_then(|load| load.controller_uid.clone()) {
            self.count_zone(at, &controller, -1);
        }
        if let Some(load) = self.nodes[at].pods.get(uid) {
            self.volumes.leave_claims(&load.namespace, &load.claims, uid);
            if self.nodes[at].known {
                self.spreads.get_mut().pod(load, &self.nodes[at], -1);
            }
        }
        let removed = self.nodes[at].remove(uid);
        if !self.nodes[at].known && self.nodes[at].pods.is_empty() {
            self.remove_node(&placed.node);
        }
        removed
    }

    /// Pods on nodes, and those of them whose binding is under way.
    pub fn placed_counts(&self) -> (usize, usize) {
        (self.placed.len(), self.placed.values().filter(|p| p.assumed).count())
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }
}

/// What of a node changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    pub added: bool,
    pub labels: bool,
    pub taints: bool,
    pub allocatable: bool,
}

impl NodeChange {
    pub fn any(self) -> bool {
        self.added || self.labels || self.taints || self.allocatable
    }
}

#[derive(Deserialize)]
struct NodeView {
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize, Default)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
    unschedulable: Option<bool>,
}

#[derive(Deserialize, Default)]
struct NodeStatus {
    allocatable: Option<BTreeMap<String, Wire>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: i64) -> PodInfo {
        let load = Load {
            requests: Resources { milli_cpu: cpu, ..Resources::default() },
            controller_uid: Some("rs".into()),
            ..Load::default()
        };
        PodInfo { uid: uid.into(), load: Arc::new(load), ..PodInfo::default() }
    }

    #[test]
    fn assumed_pods_count_until_forgotten_and_confirmed_ones_stay() {
        let mut cache = Cache::default();
        cache.assume(&pod("a", 100), "n");
        cache.assume(&pod("b", 200), "n");
        assert_eq!(cache.node("n").unwrap().requested.milli_cpu, 300);
        assert_eq!(cache.node("n").unwrap().per_controller["rs"], 2);
        cache.confirm(&pod("a", 100), "n");
        cache.forget("a");
        cache.forget("b");
        assert_eq!(cache.node("n").unwrap().requested.milli_cpu, 100);
        assert_eq!(cache.known_count(), 0, "a node without its object is no place for pods");
        assert!(cache.remove("a"));
        assert!(!cache.remove("a"));
        assert!(cache.node("n").is_none(), "and goes with its last pod");
    }

    #[test]
    fn a_node_says_what_changed() {
        let node = |json: &str| Object::parse(json.to_owned().into(), &[]).unwrap();
        let mut cache = Cache::default();
        let first = node(r#"{"metadata":{"name":"n"},"status":{"allocatable":{"cpu":"2","pods":"10"}}}"#);
        assert!(cache.set_node(&first).unwrap().added);
        assert!(!cache.set_node(&first).unwrap().any());
        let tainted = node(
            r#"{"metadata":{"name":"n"},"spec":{"unschedulable":true},"status":{"allocatable":{"cpu":"2","pods":"10"}}}"#,
        );
        let change = cache.set_node(&tainted).unwrap();
        assert!(change.taints && !change.allocatable);
        cache.remove_node("n");
        assert_eq!(cache.known_count(), 0);
    }
}
