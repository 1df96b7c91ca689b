//! Decides whether a claim or a volume is protected, and who uses a claim.

use coracle_client::persistent_volumes::{claim_of, is_for_pod};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
pub const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// The finalizer is to be there.
    Protect,
    /// It is to go, and the object with it.
    Release,
}

pub fn plan(meta: &ObjectMeta, finalizer: &str, used: bool) -> Action {
    let protected = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match (meta.deletion_timestamp.is_some(), protected) {
        // Nothing can be added to what is being deleted.
        (false, false) => Action::Protect,
        (true, true) if !used => Action::Release,
        _ => Action::Nothing,
    }
}

/// The attributes classes that a claim has, wants or is being given.
pub fn classes_of(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|s| s.current_volume_attributes_class_name.clone());
    let next =
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [wanted, current, next].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

/// Whether the pod is on a node with this claim. One that is not will not be started with a claim that goes.
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = &pod.spec else { return false };
    if spec.node_name.as_deref().unwrap_or_default().is_empty() {
        return false;
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    spec.volumes.iter().flatten().filter_map(|volume| claim_of(name, volume)).any(|used| {
        // A claim of that name that is not the pod's own is somebody else's.
        Some(&used.name) == claim.metadata.name.as_ref()
            && (!used.ephemeral || is_for_pod(&claim.metadata, uid))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_used_stays() {
        let meta = |deleting: bool, finalizers: Value| -> ObjectMeta {
            let mut meta = json!({ "finalizers": finalizers });
            if deleting {
                meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(meta).unwrap()
        };
        for (deleting, finalizers, used, want) in [
            (false, json!([]), false, Action::Protect),
            (false, json!(["f"]), false, Action::Nothing),
            (true, json!(["f"]), true, Action::Nothing),
            (true, json!(["f"]), false, Action::Release),
            (true, json!(["other"]), false, Action::Nothing),
        ] {
            assert_eq!(plan(&meta(deleting, finalizers), "f", used), want);
        }
    }

    #[test]
    fn classes_are_used_as_long_as_they_count() {
        let claim = json!({"spec": {"volumeAttributesClassName": "a"},
            "status": {"currentVolumeAttributesClassName": "b",
                "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "c"}}});
        assert_eq!(classes_of(&serde_json::from_value(claim).unwrap()), ["a", "b", "c"]);
        assert!(classes_of(&PersistentVolumeClaim::default()).is_empty());
    }

    #[test]
    fn pods_on_nodes_use_claims() {
        let pod = |node: &str, volume: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"},
                "spec": {"nodeName": node, "containers": [], "volumes": [volume]}}))
            .unwrap()
        };
        let claim = |name: &str, owner: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}}))
            .unwrap()
        };
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let ephemeral = json!({"name": "v", "ephemeral": {}});
        for (pod, claim, want) in [
            (pod("n", named.clone()), claim("c", "x"), true),
            (pod("", named.clone()), claim("c", "x"), false),
            (pod("n", named), claim("d", "x"), false),
            (pod("n", ephemeral.clone()), claim("p-v", "u"), true),
            (pod("n", ephemeral), claim("p-v", "x"), false),
        ] {
            assert_eq!(uses(&pod, &claim), want);
        }
    }
}
