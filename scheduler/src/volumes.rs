//! What the scheduler knows of claims, volumes and classes, with what it has decided and the API does not show yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use coracle_client::Key;
use coracle_client::persistent_volumes::{
    ClaimInfo, NO_PROVISIONER, Place, PodClaim, VolumeInfo, best_match, waits_for_consumer,
};
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::cache::NodeInfo;
use crate::framework::Rejection;
use crate::pod::{Load, PodInfo};

const NOT_REACHED: &str = "node(s) didn't match PersistentVolume's node affinity";
const NOTHING_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// The part of a class that counts here.
#[derive(Clone, Debug)]
pub struct ClassInfo {
    pub provisioner: String,
    pub delayed: bool,
    pub topologies: Vec<TopologySelectorTerm>,
}

impl ClassInfo {
    pub fn of(class: &StorageClass) -> Self {
        Self {
            provisioner: class.provisioner.clone(),
            delayed: waits_for_consumer(class),
            topologies: class.allowed_topologies.clone().unwrap_or_default(),
        }
    }

    fn allows(&self, node: &NodeInfo) -> bool {
        self.topologies.is_empty()
            || self.topologies.iter().any(|term| {
                let mut expressions = term.match_label_expressions.iter().flatten();
                expressions.all(|e| node.labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
            })
    }
}

#[derive(Debug, Default)]
pub struct Volumes {
    claims: HashMap<Key, Arc<ClaimInfo>>,
    volumes: HashMap<String, Arc<VolumeInfo>>,
    /// Those that are nobody's, by class and name.
    free: HashMap<String, BTreeMap<String, Arc<VolumeInfo>>>,
    by_claim: HashMap<Key, HashSet<String>>,
    classes: HashMap<String, ClassInfo>,
    /// The most volumes of each CSI driver that a node may have.
    limits: HashMap<String, HashMap<String, i64>>,
    /// Volumes that are being given to claims.
    given: HashMap<String, Key>,
    /// Nodes that were chosen for claims.
    chosen: HashMap<Key, String>,
    /// Pods on nodes, by the claims they use.
    users: HashMap<Key, HashSet<Box<str>>>,
}

/// What is to be written before a pod is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Claims and the volumes that they get.
    pub given: Vec<(Key, String)>,
    /// Claims whose volumes are to be made for the node.
    pub made: Vec<Key>,
}

impl Decision {
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.made.is_empty()
    }

    pub fn claims(&self) -> impl Iterator<Item = &Key> {
        self.given.iter().map(|(key, _)| key).chain(&self.made)
    }
}

impl Volumes {
    pub fn set_claim(&mut self, key: Key, claim: Option<ClaimInfo>) {
        match claim {
            Some(claim) => drop(self.claims.insert(key, Arc::new(claim))),
            None => drop(self.claims.remove(&key)),
        }
    }

    pub fn set_class(&mut self, name: &str, class: Option<ClassInfo>) {
        match class {
            Some(class) => drop(self.classes.insert(name.to_owned(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    pub fn set_volume(&mut self, name: &str, volume: Option<VolumeInfo>) {
        if let Some(old) = self.volumes.remove(name) {
            match &old.claim {
                None => {
                    if let Some(free) = self.free.get_mut(&old.class) {
                        free.remove(name);
                    }
                }
                Some(claim) => {
                    if let Some(names) = self.by_claim.get_mut(&claim.key) {
                        names.remove(name);
                        if names.is_empty() {
                            self.by_claim.remove(&claim.key);
                        }
                    }
                }
            }
        }
        let Some(volume) = volume.map(Arc::new) else { return };
        match &volume.claim {
            None => {
                self.free.entry(volume.class.clone()).or_default().insert(name.to_owned(), volume.clone());
            }
            Some(claim) => {
                self.by_claim.entry(claim.key.clone()).or_default().insert(name.to_owned());
            }
        }
        self.volumes.insert(name.to_owned(), volume);
    }

    pub fn set_limits(&mut self, node: &str, limits: HashMap<String, i64>) {
        if limits.is_empty() {
            self.limits.remove(node);
        } else {
            self.limits.insert(node.to_owned(), limits);
        }
    }

    /// Nodes where the pod's volumes would be too many of some driver.
    pub fn nodes_full<'a>(
        &self,
        pod: &PodInfo,
        nodes: impl Iterator<Item = &'a NodeInfo>,
    ) -> HashSet<String> {
        let mut full = HashSet::new();
        let wanted = self.driver_volumes(&pod.load);
        if wanted.is_empty() || self.limits.is_empty() {
            return full;
        }
        for node in nodes {
            let Some(limits) = self.limits.get(&node.name) else { continue };
            let here: HashSet<_> = node.pods.values().flat_map(|load| self.driver_volumes(load)).collect();
            // What is there already takes no more room.
            let new: HashSet<_> = wanted.iter().filter(|volume| !here.contains(*volume)).collect();
            let over = limits.iter().any(|(driver, most)| {
                let more = new.iter().filter(|(of, _)| of == driver).count();
                let count = more + here.iter().filter(|(of, _)| of == driver).count();
                more > 0 && i64::try_from(count).unwrap_or(i64::MAX) > *most
            });
            if over {
                full.insert(node.name.clone());
            }
        }
        full
    }

    /// Driver and handle of each volume; one that is still to be made counts by its claim.
    fn driver_volumes(&self, load: &Load) -> Vec<(String, String)> {
        let of = |claim: &PodClaim| {
            let key = Key::new(&load.namespace, &claim.name);
            let info = self.claims.get(&key)?;
            if info.is_bound() {
                return self.volumes.get(&info.volume_name)?.csi.clone();
            }
            let class = self.classes.get(&info.class)?;
            Some((class.provisioner.clone(), format!("{}-{}", key.namespace, key.name)))
        };
        load.claims.iter().filter_map(of).collect()
    }

    pub fn claim(&self, key: &Key) -> Option<&Arc<ClaimInfo>> {
        self.claims.get(key)
    }

    pub fn volume(&self, name: &str) -> Option<&Arc<VolumeInfo>> {
        self.volumes.get(name)
    }

    pub fn use_claims(&mut self, namespace: &str, claims: &[PodClaim], uid: &str) {
        for claim in claims {
            self.users.entry(Key::new(namespace, &claim.name)).or_default().insert(uid.into());
        }
    }

    pub fn leave_claims(&mut self, namespace: &str, claims: &[PodClaim], uid: &str) {
        for claim in claims {
            let key = Key::new(namespace, &claim.name);
            if let Some(users) = self.users.get_mut(&key) {
                users.remove(uid);
                if users.is_empty() {
                    self.users.remove(&key);
                }
            }
        }
    }

    /// Whether another pod that is on a node uses the claim.
    pub fn used_by_another(&self, key: &Key, uid: &str) -> bool {
        self.users.get(key).is_some_and(|users| users.iter().any(|user| **user != *uid))
    }

    pub fn assume(&mut self, decision: &Decision, node: &str) {
        for (claim, volume) in &decision.given {
            self.given.insert(volume.clone(), claim.clone());
        }
        for claim in &decision.made {
            self.chosen.insert(claim.clone(), node.to_owned());
        }
    }

    /// It is written by now, or will not be.
    pub fn forget(&mut self, decision: &Decision) {
        for (_, volume) in &decision.given {
            self.given.remove(volume);
        }
        for claim in &decision.made {
            self.chosen.remove(claim);
        }
    }

    /// What the pod's claims need, whatever the node. A rejection is about the pod itself.
    pub fn ask(&self, pod: &PodInfo) -> Result<Asked, Rejection> {
        let refuse = |why: String| Err(Rejection::unresolvable(why));
        let mut asked = Asked::default();
        let mut immediate = false;
        for wanted in &*pod.load.claims {
            let key = Key::new(&pod.load.namespace, &wanted.name);
            let name = &wanted.name;
            let Some(claim) = self.claims.get(&key) else {
                return refuse(if wanted.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                    )
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if claim.lost {
                let volume = &claim.volume_name;
                return refuse(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.deleting {
                return refuse(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if wanted.ephemeral && claim.owner.as_deref() != Some(&pod.uid) {
                let pod = pod.key.as_ref().map(ToString::to_string).unwrap_or_default();
                return refuse(format!("PVC {key} was not created for pod {pod} (pod is not owner)"));
            }
            if claim.is_bound() {
                asked.bound.push(self.volumes.get(&claim.volume_name).cloned());
                continue;
            }
            let class = self.classes.get(&claim.class);
            // A claim that names a volume is the binder's work.
            if !class.is_some_and(|c| c.delayed) || !claim.volume_name.is_empty() {
                immediate = true;
                continue;
            }
            let node = self.chosen.get(&key).cloned().or_else(|| claim.selected_node.clone());
            asked.waiting.push(Waiting {
                candidates: self.candidates(claim),
                class: class.cloned(),
                claim: claim.clone(),
                node,
            });
        }
        if immediate {
            return refuse("pod has unbound immediate PersistentVolumeClaims".into());
        }
        asked.waiting.sort_by_key(|waiting| waiting.claim.size);
        Ok(asked)
    }

    fn candidates(&self, claim: &ClaimInfo) -> Vec<Arc<VolumeInfo>> {
        let reserved = self.by_claim.get(&claim.key).into_iter().flatten();
        let reserved = reserved.filter_map(|name| self.volumes.get(name));
        let free = self.free.get(&claim.class).into_iter().flat_map(BTreeMap::values);
        reserved
            .chain(free)
            .filter(|v| self.given.get(&v.name).is_none_or(|to| *to == claim.key))
            .cloned()
            .collect()
    }
}

/// What a pod's claims need of a node.
#[derive(Debug, Default)]
pub struct Asked {
    /// None: the volume does not exist.
    pub bound: Vec<Option<Arc<VolumeInfo>>>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    claim: Arc<ClaimInfo>,
    candidates: Vec<Arc<VolumeInfo>>,
    class: Option<ClassInfo>,
    /// It was chosen before: only there.
    node: Option<String>,
}

impl Asked {
    /// What would have to be done for the pod to run on the node, or every reason why it cannot.
    pub fn on(&self, node: &NodeInfo) -> Result<Decision, Rejection> {
        let mut reasons = Vec::new();
        if self.bound.iter().flatten().any(|volume| !volume.reaches(&node.name, &node.labels)) {
            reasons.push(NOT_REACHED.into());
        }
        let decision = self.decide(node);
        if decision.is_none() {
            reasons.push(NOTHING_TO_BIND.into());
        }
        if self.bound.iter().any(Option::is_none) {
            reasons.push(NO_VOLUME.into());
        }
        match decision {
            Some(decision) if reasons.is_empty() => Ok(decision),
            _ => Err(Rejection { reasons, unresolvable: true }),
        }
    }

    fn decide(&self, node: &NodeInfo) -> Option<Decision> {
        let mut decision = Decision::default();
        let place = Place { node: &node.name, labels: &node.labels };
        for waiting in &self.waiting {
            let key = &waiting.claim.key;
            if let Some(chosen) = &waiting.node {
                if *chosen != node.name {
                    return None;
                }
                decision.made.push(key.clone());
                continue;
            }
            let taken: Vec<&str> = decision.given.iter().map(|(_, name)| name.as_str()).collect();
            let candidates = waiting.candidates.iter().map(|v| &**v);
            if let Some(volume) = best_match(&waiting.claim, candidates, Some(place), true, &taken) {
                let name = volume.name.clone();
                decision.given.push((key.clone(), name));
                continue;
            }
            let class = waiting.class.as_ref()?;
            if matches!(class.provisioner.as_str(), "" | NO_PROVISIONER) || !class.allows(node) {
                return None;
            }
            decision.made.push(key.clone());
        }
        Some(decision)
    }
}
