//! Decides what the local-path provisioner does for a claim, and for a volume that it made.

use std::collections::BTreeMap;

use coracle_client::persistent_volumes::{
    LOCAL_PATH_DIRECTORY, LOCAL_PATH_FINALIZER, LOCAL_PATH_NODE, LOCAL_PATH_PROVISIONER, PROVISIONED_BY,
    SELECTED_NODE, STORAGE_PROVISIONER,
};
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const HOSTNAME: &str = "kubernetes.io/hostname";
const MODES: &[&str] = &["ReadWriteOnce", "ReadWriteOncePod"];

#[derive(Debug, PartialEq)]
pub enum Making {
    /// Nothing to do, or not ours.
    Nothing,
    Make(Box<PersistentVolume>),
    /// The node is gone: the scheduler is to choose again.
    ChooseAgain,
    Refuse(String),
}

/// The node whose disk the claim's volume is to be on, if that is ours to make.
pub fn node_for(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotation = |name| claim.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if annotation(STORAGE_PROVISIONER) != Some(LOCAL_PATH_PROVISIONER)
        || !named.is_empty()
        || claim.metadata.deletion_timestamp.is_some()
    {
        return None;
    }
    Some(annotation(SELECTED_NODE).unwrap_or_default())
}

pub fn make(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, node: Option<&Node>) -> Making {
    let Some(node_name) = node_for(claim) else { return Making::Nothing };
    let Some(class) = class.filter(|c| c.provisioner == LOCAL_PATH_PROVISIONER) else {
        return Making::Nothing;
    };
    let spec = claim.spec.clone().unwrap_or_default();
    let refuse = |why: &str| Making::Refuse(why.to_owned());
    if spec.selector.is_some() {
        return refuse("claim.Spec.Selector is not supported");
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return refuse("block volumes are not supported: a volume is a directory of the node");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return refuse("data sources are not supported");
    }
    if spec.access_modes.iter().flatten().any(|mode| !MODES.contains(&mode.as_str())) {
        return refuse(
            "only the access modes ReadWriteOnce and ReadWriteOncePod are supported: the data is on one node",
        );
    }
    if node_name.is_empty() {
        return refuse(
            "configuration error, no node was specified: the class must have volumeBindingMode WaitForFirstConsumer",
        );
    }
    let Some(node) = node else { return Making::ChooseAgain };
    let directory = node.metadata.annotations.as_ref().and_then(|a| a.get(LOCAL_PATH_DIRECTORY));
    let Some(directory) = directory.filter(|d| d.starts_with('/')) else {
        return Making::Refuse(format!("node \"{node_name}\" offers no directory for volumes of this class"));
    };
    let host = node.metadata.labels.as_ref().and_then(|l| l.get(HOSTNAME)).map_or(node_name, String::as_str);
    if node_name.len() > 63 {
        return Making::Refuse(format!(
            "the name of node \"{node_name}\" is longer than a label's value may be"
        ));
    }
    Making::Make(Box::new(volume(claim, class, node_name, host, directory)))
}

pub fn name_of(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    host: &str,
    directory: &str,
) -> PersistentVolume {
    let (meta, spec) = (&claim.metadata, claim.spec.clone().unwrap_or_default());
    let name = name_of(claim);
    let path = format!(
        "{}/{name}_{}_{}",
        directory.trim_end_matches('/'),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    );
    let here = NodeSelectorRequirement {
        key: HOSTNAME.into(),
        operator: "In".into(),
        values: Some(vec![host.to_owned()]),
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(LOCAL_PATH_NODE.to_owned(), node.to_owned())].into()),
            annotations: Some([(PROVISIONED_BY.to_owned(), LOCAL_PATH_PROVISIONER.to_owned())].into()),
            finalizers: Some(vec![LOCAL_PATH_FINALIZER.into()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|r| r.requests).map(|requests| {
                requests.into_iter().filter(|(name, _)| name == "storage").collect::<BTreeMap<_, _>>()
            }),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                field_path: None,
            }),
            host_path: Some(HostPathVolumeSource { path, type_: Some("DirectoryOrCreate".into()) }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![here]),
                        match_fields: None,
                    }],
                }),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: class.metadata.name.clone(),
            mount_options: class.mount_options.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Unmaking {
    Nothing,
    /// Its node removes the data, and lets it go then.
    Delete,
    /// The data went with its node: nobody will remove it.
    Abandon,
}

/// `node_exists` is asked where it counts only.
pub fn unmake(volume: &PersistentVolume, node_exists: impl FnOnce(&str) -> bool) -> Unmaking {
    let meta = &volume.metadata;
    let ours = meta.annotations.as_ref().and_then(|a| a.get(PROVISIONED_BY)).map(String::as_str);
    if ours != Some(LOCAL_PATH_PROVISIONER) {
        return Unmaking::Nothing;
    }
    if meta.deletion_timestamp.is_some() {
        let held = meta.finalizers.iter().flatten().any(|f| f == LOCAL_PATH_FINALIZER);
        let node = meta.labels.as_ref().and_then(|l| l.get(LOCAL_PATH_NODE)).map_or("", String::as_str);
        return if held && !node_exists(node) { Unmaking::Abandon } else { Unmaking::Nothing };
    }
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    match (phase, policy) {
        (Some("Released" | "Failed"), Some("Delete")) => Unmaking::Delete,
        _ => Unmaking::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn claim(annotations: Value, spec: Value) -> PersistentVolumeClaim {
        let mut all =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        from(
            json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u", "annotations": annotations}, "spec": all}),
        )
    }

    fn ours(node: &str) -> Value {
        json!({STORAGE_PROVISIONER: LOCAL_PATH_PROVISIONER, SELECTED_NODE: node})
    }

    #[test]
    fn claims_get_a_directory_of_their_node() {
        let class: StorageClass = from(json!({"metadata": {"name": "local-path"}, "reclaimPolicy": "Delete",
            "provisioner": LOCAL_PATH_PROVISIONER}));
        let foreign: StorageClass = from(json!({"metadata": {"name": "x"}, "provisioner": "x"}));
        let node: Node = from(json!({"metadata": {"name": "n", "labels": {HOSTNAME: "host"},
            "annotations": {LOCAL_PATH_DIRECTORY: "/data/local-path"}}}));
        let bare: Node = from(json!({"metadata": {"name": "n"}}));
        let Making::Make(made) = make(&claim(ours("n"), json!({})), Some(&class), Some(&node)) else {
            panic!("not made")
        };
        assert_eq!(made.metadata.name.as_deref(), Some("pvc-u"));
        let spec = made.spec.unwrap();
        assert_eq!(spec.host_path.unwrap().path, "/data/local-path/pvc-u_ns_data");
        assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
        let terms = spec.node_affinity.unwrap().required.unwrap().node_selector_terms;
        assert_eq!(terms[0].match_expressions.as_ref().unwrap()[0].values.as_ref().unwrap(), &["host"]);

        for (what, claim, class, node, want) in [
            (
                "of another",
                claim(json!({STORAGE_PROVISIONER: "x"}), json!({})),
                &class,
                Some(&node),
                "nothing",
            ),
            ("bound", claim(ours("n"), json!({"volumeName": "v"})), &class, Some(&node), "nothing"),
            ("class of another", claim(ours("n"), json!({})), &foreign, Some(&node), "nothing"),
            ("node gone", claim(ours("n"), json!({})), &class, None, "again"),
            ("no node", claim(ours(""), json!({})), &class, None, "configuration error"),
            (
                "no directory",
                claim(ours("n"), json!({})),
                &class,
                Some(&bare),
                "node \"n\" offers no directory",
            ),
            (
                "mode",
                claim(ours("n"), json!({"accessModes": ["ReadWriteMany"]})),
                &class,
                Some(&node),
                "only the access modes",
            ),
            (
                "a snapshot",
                claim(
                    ours("n"),
                    json!({"dataSource": {"apiGroup": "snapshot.storage.k8s.io",
                    "kind": "VolumeSnapshot", "name": "s"}}),
                ),
                &class,
                Some(&node),
                "data sources are not supported",
            ),
            (
                "another claim",
                claim(ours("n"), json!({"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "c"}})),
                &class,
                Some(&node),
                "data sources are not supported",
            ),
            ("block", claim(ours("n"), json!({"volumeMode": "Block"})), &class, Some(&node), "block volumes"),
            (
                "selector",
                claim(ours("n"), json!({"selector": {}})),
                &class,
                Some(&node),
                "claim.Spec.Selector",
            ),
        ] {
            let got = match make(&claim, Some(class), node) {
                Making::Nothing => "nothing".to_owned(),
                Making::Make(_) => "made".into(),
                Making::ChooseAgain => "again".into(),
                Making::Refuse(why) => why,
            };
            assert!(got.starts_with(want), "{what}: {got}");
        }
    }

    #[test]
    fn volumes_go_when_their_claims_have() {
        let volume = |phase: &str, policy: &str, deleting: bool, finalizers: Value| -> PersistentVolume {
            let mut value = json!({"metadata": {"name": "v", "finalizers": finalizers,
                "labels": {LOCAL_PATH_NODE: "n"}, "annotations": {PROVISIONED_BY: LOCAL_PATH_PROVISIONER}},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            from(value)
        };
        let held = || json!([LOCAL_PATH_FINALIZER]);
        for (volume, node, want) in [
            (volume("Bound", "Delete", false, held()), true, Unmaking::Nothing),
            (volume("Released", "Delete", false, held()), true, Unmaking::Delete),
            (volume("Released", "Retain", false, held()), true, Unmaking::Nothing),
            (volume("Released", "Delete", true, held()), true, Unmaking::Nothing),
            (volume("Released", "Delete", true, held()), false, Unmaking::Abandon),
            (volume("Released", "Delete", true, json!([])), false, Unmaking::Nothing),
        ] {
            assert_eq!(unmake(&volume, |_| node), want);
        }
        assert_eq!(
            unmake(&from(json!({"metadata": {"name": "v"}, "status": {"phase": "Released"}})), |_| true),
            Unmaking::Nothing
        );
    }
}
