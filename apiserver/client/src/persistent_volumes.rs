//! What claims ask for and volumes offer, and which volume answers a claim: upstream's rules, for binder, scheduler
//! and node alike. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::node_affinity::matches_term;
use crate::object::Key;
use crate::quantity::Quantity;
use crate::selector::{Labels, Selector};

/// On a claim: its first binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: the controller chose the other one, not a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it for its claim.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the node that the scheduler chose for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make its volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const STORAGE_PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The class of claims and volumes before there was a field.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Of classes whose volumes only administrators make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// On the class that claims get that name none.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
pub const DEFAULT_CLASS_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";

pub const READ_WRITE_ONCE_POD: &str = "ReadWriteOncePod";

/// On a node: where its volumes of the class `local-path` are made.
pub const LOCAL_PATH_DIRECTORY: &str = "coracle.dev/local-path-directory";
/// On a volume of the class `local-path`: the label that says whose disk it is on.
pub const LOCAL_PATH_NODE: &str = "coracle.dev/node";
/// On such a volume: the node has not removed its data yet.
pub const LOCAL_PATH_FINALIZER: &str = "coracle.dev/local-path";
pub const LOCAL_PATH_PROVISIONER: &str = "coracle.dev/local-path";

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

pub fn has_annotation(meta: &ObjectMeta, name: &str) -> bool {
    annotation(meta, name).is_some()
}

/// The class of a claim; None where it names none.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, CLASS_ANNOTATION)
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// Of several default classes the newest counts; of equally old ones, the first by name.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let says = |class: &StorageClass, name| annotation(&class.metadata, name) == Some("true");
    classes.into_iter().filter(|c| says(c, DEFAULT_CLASS) || says(c, DEFAULT_CLASS_BETA)).min_by_key(|c| {
        let created = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (std::cmp::Reverse(created), c.metadata.name.clone())
    })
}

/// Whether claims of the class wait for a pod.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// A claim that a pod's volume is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    pub name: String,
    /// Made for the pod, and only good when it owns it.
    pub ephemeral: bool,
}

/// The claim of one of the pod's volumes.
pub fn claim_of(pod_name: &str, volume: &Volume) -> Option<PodClaim> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(PodClaim { name: source.claim_name.clone(), ephemeral: false });
    }
    volume.ephemeral.as_ref()?;
    Some(PodClaim { name: format!("{pod_name}-{}", volume.name), ephemeral: true })
}

/// Whether the claim was made for the pod of this uid.
pub fn is_for_pod(claim: &ObjectMeta, pod_uid: &str) -> bool {
    claim.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == pod_uid)
}

/// What a claim asks for, and how far it has come.
#[derive(Clone, Debug)]
pub struct ClaimInfo {
    pub key: Key,
    pub uid: String,
    pub version: u64,
    pub class: String,
    pub size: Quantity,
    pub access_modes: Vec<String>,
    pub block: bool,
    pub selector: Selector,
    pub attributes_class: String,
    pub volume_name: String,
    pub bind_completed: bool,
    pub lost: bool,
    pub deleting: bool,
    pub selected_node: Option<String>,
    /// The uid of the controlling owner.
    pub owner: Option<String>,
}

fn amount(map: Option<&BTreeMap<String, Wire>>) -> Quantity {
    map.and_then(|m| m.get("storage")).and_then(|wire| Quantity::of(wire).ok()).unwrap_or(Quantity::ZERO)
}

impl ClaimInfo {
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let meta = &claim.metadata;
        let spec = claim.spec.clone().unwrap_or_default();
        let owners = meta.owner_references.iter().flatten();
        Self {
            key: Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.as_ref().and_then(|v| v.parse().ok()).unwrap_or(0),
            class: class_of(claim).unwrap_or_default().to_owned(),
            size: amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref())),
            access_modes: spec.access_modes.unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec.selector.map_or_else(Selector::default, |selector| {
                Selector::from_label_selector(Some(&selector)).unwrap_or_else(|_| Selector::nothing())
            }),
            attributes_class: spec.volume_attributes_class_name.unwrap_or_default(),
            volume_name: spec.volume_name.unwrap_or_default(),
            bind_completed: has_annotation(meta, BIND_COMPLETED),
            lost: claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost"),
            deleting: meta.deletion_timestamp.is_some(),
            selected_node: annotation(meta, SELECTED_NODE).map(str::to_owned),
            owner: owners.into_iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone()),
        }
    }

    /// It has its volume, for good.
    pub fn is_bound(&self) -> bool {
        self.bind_completed && !self.volume_name.is_empty()
    }

    pub fn is_exclusive(&self) -> bool {
        self.access_modes.iter().any(|mode| mode == READ_WRITE_ONCE_POD)
    }
}

/// Whom a volume is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeClaim {
    pub key: Key,
    /// Empty: whatever claim has that name.
    pub uid: String,
}

/// What a volume offers.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    pub name: String,
    pub class: String,
    pub capacity: Quantity,
    pub access_modes: Vec<String>,
    pub block: bool,
    pub attributes_class: String,
    pub labels: BTreeMap<String, String>,
    pub affinity: Option<NodeSelector>,
    pub claim: Option<VolumeClaim>,
    pub available: bool,
    pub deleting: bool,
    /// Driver and handle.
    pub csi: Option<(String, String)>,
}

impl VolumeInfo {
    pub fn of(volume: &PersistentVolume) -> Self {
        let spec = volume.spec.clone().unwrap_or_default();
        let annotated = annotation(&volume.metadata, CLASS_ANNOTATION).map(str::to_owned);
        Self {
            name: volume.metadata.name.clone().unwrap_or_default(),
            class: annotated.or(spec.storage_class_name).unwrap_or_default(),
            capacity: amount(spec.capacity.as_ref()),
            access_modes: spec.access_modes.unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            attributes_class: spec.volume_attributes_class_name.unwrap_or_default(),
            labels: volume.metadata.labels.clone().unwrap_or_default(),
            affinity: spec.node_affinity.and_then(|a| a.required),
            claim: spec.claim_ref.map(|r| VolumeClaim {
                key: Key::new(
                    r.namespace.as_deref().unwrap_or_default(),
                    r.name.as_deref().unwrap_or_default(),
                ),
                uid: r.uid.unwrap_or_default(),
            }),
            available: volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available"),
            deleting: volume.metadata.deletion_timestamp.is_some(),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        }
    }

    /// Reserved for the claim, or bound to it.
    pub fn is_for(&self, claim: &ClaimInfo) -> bool {
        self.claim.as_ref().is_some_and(|c| c.key == claim.key && (c.uid.is_empty() || c.uid == claim.uid))
    }

    pub fn reaches(&self, node: &str, labels: &impl Labels) -> bool {
        self.affinity
            .as_ref()
            .is_none_or(|s| s.node_selector_terms.iter().any(|term| matches_term(term, node, labels)))
    }

    /// Why a volume that the claim names cannot be its.
    pub fn satisfies(&self, claim: &ClaimInfo) -> Result<(), &'static str> {
        if self.capacity < claim.size {
            return Err("requested PV is too small");
        }
        if self.class != claim.class {
            return Err("storageClassName does not match");
        }
        if self.attributes_class != claim.attributes_class {
            return Err("VolumeAttributesClassName does not match");
        }
        if self.block != claim.block {
            return Err("incompatible volumeMode");
        }
        if !self.has_modes_of(claim) {
            return Err("incompatible accessMode");
        }
        Ok(())
    }

    fn has_modes_of(&self, claim: &ClaimInfo) -> bool {
        claim.access_modes.iter().all(|mode| self.access_modes.contains(mode))
    }
}

/// A node that a volume must be reachable from.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub node: &'a str,
    pub labels: &'a BTreeMap<String, String>,
}

/// The volume that the claim should get: the one reserved for it, else the smallest that will do, of those with the
/// fewest access modes. `place`: the scheduler asks, for this node. Without one, a claim that waits for its consumer
/// (`delayed`) only gets what is reserved for it.
pub fn best_match<'a>(
    claim: &ClaimInfo,
    volumes: impl Iterator<Item = &'a VolumeInfo>,
    place: Option<Place<'_>>,
    delayed: bool,
    taken: &[&str],
) -> Option<&'a VolumeInfo> {
    let mut best: Option<&VolumeInfo> = None;
    // The scheduler only looks for size, as upstream's.
    let rank = |v: &VolumeInfo| (if place.is_none() { v.access_modes.len() } else { 0 }, v.capacity);
    for volume in volumes {
        let reserved = volume.is_for(claim);
        if (volume.claim.is_some() && !reserved)
            || taken.contains(&volume.name.as_str())
            || volume.capacity < claim.size
            || volume.block != claim.block
            || volume.attributes_class != claim.attributes_class
            || volume.deleting
        {
            continue;
        }
        let reachable = place.is_none_or(|p| volume.reaches(p.node, p.labels));
        if reserved {
            return reachable.then_some(volume);
        }
        if (place.is_none() && delayed)
            || !volume.available
            || !reachable
            || volume.class != claim.class
            || !claim.selector.matches(&volume.labels)
            || !volume.has_modes_of(claim)
        {
            continue;
        }
        if best.is_none_or(|b| rank(volume) < rank(b)) {
            best = Some(volume);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> ClaimInfo {
        let mut all =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}, "spec": all});
        ClaimInfo::of(&serde_json::from_value(claim).unwrap())
    }

    fn volume(name: &str, size: &str, spec: Value) -> VolumeInfo {
        let mut all = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let volume = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": all,
            "status": {"phase": "Available"}});
        VolumeInfo::of(&serde_json::from_value(volume).unwrap())
    }

    fn found(claim: &ClaimInfo, volumes: &[VolumeInfo]) -> Option<String> {
        best_match(claim, volumes.iter(), None, false, &[]).map(|v| v.name.clone())
    }

    #[test]
    fn the_smallest_volume_that_will_do() {
        let none = || json!({});
        let both = || json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        for (what, claim, volumes, want) in [
            ("size", claim(none()), vec![volume("a", "1Gi", none()), volume("b", "2Gi", none())], Some("b")),
            (
                "smallest",
                claim(none()),
                vec![volume("a", "5Gi", none()), volume("b", "3Gi", none()), volume("c", "4Gi", none())],
                Some("b"),
            ),
            (
                "fewest modes before size",
                claim(none()),
                vec![volume("a", "3Gi", both()), volume("b", "4Gi", none())],
                Some("b"),
            ),
            ("modes", claim(both()), vec![volume("a", "2Gi", none())], None),
            ("class", claim(json!({"storageClassName": "fast"})), vec![volume("a", "2Gi", none())], None),
            (
                "class of both",
                claim(json!({"storageClassName": "fast"})),
                vec![volume("a", "2Gi", json!({"storageClassName": "fast"}))],
                Some("a"),
            ),
            ("mode", claim(json!({"volumeMode": "Block"})), vec![volume("a", "2Gi", none())], None),
            (
                "selector",
                claim(json!({"selector": {"matchLabels": {"disk": "b"}}})),
                vec![volume("a", "2Gi", none()), volume("b", "9Gi", none())],
                Some("b"),
            ),
            (
                "reserved for another",
                claim(none()),
                vec![volume("a", "2Gi", json!({"claimRef": {"namespace": "ns", "name": "d"}}))],
                None,
            ),
            (
                "reserved for it, whatever the class",
                claim(none()),
                vec![
                    volume("a", "2Gi", none()),
                    volume(
                        "b",
                        "9Gi",
                        json!({"storageClassName": "x", "claimRef": {"namespace": "ns", "name": "c"}}),
                    ),
                ],
                Some("b"),
            ),
            (
                "of an earlier claim of that name",
                claim(none()),
                vec![volume("a", "2Gi", json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "old"}}))],
                None,
            ),
            (
                "attributes",
                claim(json!({"volumeAttributesClassName": "gold"})),
                vec![volume("a", "2Gi", none())],
                None,
            ),
        ] {
            assert_eq!(found(&claim, &volumes).as_deref(), want, "{what}");
        }
        let mut released = volume("a", "2Gi", none());
        released.available = false;
        assert_eq!(found(&claim(none()), &[released]), None);
        let mut going = volume("a", "2Gi", none());
        going.deleting = true;
        assert_eq!(found(&claim(none()), &[going]), None);
    }

    #[test]
    fn claims_that_wait_are_for_the_scheduler() {
        let affinity = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "host", "operator": "In", "values": ["n1"]}]}]}}});
        let volumes = [volume("a", "2Gi", affinity.clone()), volume("b", "3Gi", json!({}))];
        let claim = claim(json!({}));
        let labels = |host: &str| BTreeMap::from([("host".to_owned(), host.to_owned())]);
        let at = |host: &str, taken: &[&str]| {
            let labels = labels(host);
            let place = Some(Place { node: host, labels: &labels });
            best_match(&claim, volumes.iter(), place, true, taken).map(|v| v.name.clone())
        };
        assert!(best_match(&claim, volumes.iter(), None, true, &[]).is_none());
        assert_eq!(at("n1", &[]).as_deref(), Some("a"));
        assert_eq!(at("n2", &[]).as_deref(), Some("b"));
        assert_eq!(at("n1", &["a"]).as_deref(), Some("b"));
        let mut reserved = volumes[0].clone();
        reserved.claim = Some(VolumeClaim { key: claim.key.clone(), uid: String::new() });
        let labels = labels("n2");
        let place = Some(Place { node: "n2", labels: &labels });
        let both = [reserved, volumes[1].clone()];
        assert!(best_match(&claim, both.iter(), place, true, &[]).is_none(), "its own is elsewhere");
        assert_eq!(
            best_match(&claim, both.iter(), None, true, &[]).map(|v| v.name.as_str()),
            Some("a"),
            "what is reserved needs no scheduler"
        );
    }

    #[test]
    fn named_volumes_say_why_not() {
        let claim = claim(json!({}));
        for (volume, want) in [
            (volume("a", "2Gi", json!({})), Ok(())),
            (volume("a", "1Gi", json!({})), Err("requested PV is too small")),
            (volume("a", "2Gi", json!({"storageClassName": "x"})), Err("storageClassName does not match")),
            (volume("a", "2Gi", json!({"volumeMode": "Block"})), Err("incompatible volumeMode")),
            (volume("a", "2Gi", json!({"accessModes": ["ReadOnlyMany"]})), Err("incompatible accessMode")),
        ] {
            assert_eq!(volume.satisfies(&claim), want);
        }
    }

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, created: &str, default: &str| -> StorageClass {
            serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {DEFAULT_CLASS: default}}, "provisioner": "p"}))
            .unwrap()
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let classes = [class("a", old, "true"), class("b", new, "true"), class("c", new, "false")];
        assert_eq!(default_class(&classes).and_then(|c| c.metadata.name.as_deref()), Some("b"));
        assert!(default_class(&classes[2..]).is_none());
    }
}
