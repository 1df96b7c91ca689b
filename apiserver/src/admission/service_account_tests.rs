//! What becomes of a pod's volumes and mounts, and what mirrors and restricted accounts may not name.

use serde_json::json;

use super::*;

fn spec(value: serde_json::Value) -> PodSpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_token_is_mounted_where_nothing_else_is() {
    let mut pod = spec(json!({
        "initContainers": [{"name": "i"}],
        "containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}
        ]
    }));
    mount_token(&mut pod);
    let volumes = pod.volumes.clone().unwrap();
    assert_eq!(volumes.len(), 1);
    assert!(volumes[0].name.starts_with(VOLUME) && volumes[0].name.len() == VOLUME.len() + 5);
    assert_eq!(
        serde_json::to_value(&volumes[0].projected).unwrap(),
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
            ]}}
        ]})
    );
    let mounts =
        |c: &Container| -> Vec<String> { c.volume_mounts.iter().flatten().map(|m| m.name.clone()).collect() };
    assert_eq!(mounts(&pod.containers[0]), [volumes[0].name.clone()]);
    assert_eq!(mounts(&pod.containers[1]), ["own"]);
    assert_eq!(mounts(&pod.init_containers.as_ref().unwrap()[0]), [volumes[0].name.clone()]);

    // Again: nothing changes.
    let before = pod.clone();
    mount_token(&mut pod);
    assert_eq!(pod, before);

    let mut full = spec(json!({
        "containers": [{"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]
    }));
    mount_token(&mut full);
    assert_eq!((full.volumes, full.init_containers), (None, None));
}

#[test]
fn mirrors_name_no_accounts_and_secrets() {
    for (value, want) in [
        (json!({"containers": []}), None),
        (
            json!({"containers": [], "serviceAccountName": "x"}),
            Some("a mirror pod may not reference service accounts"),
        ),
        (
            json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            Some("a mirror pod may not reference secrets"),
        ),
        (
            json!({"containers": [], "volumes": [
                {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
            ]}),
            Some("a mirror pod may not use ServiceAccountToken volume projections"),
        ),
    ] {
        assert_eq!(mirror(&spec(value.clone())), want, "{value}");
    }
}

#[test]
fn an_account_may_list_what_its_pods_mount() {
    let account: Account = serde_json::from_value(json!({
        "metadata": {"name": "sa"},
        "secrets": [{"name": "listed"}],
        "imagePullSecrets": [{"name": "pull"}]
    }))
    .unwrap();
    for (value, want) in [
        (json!({"containers": [], "imagePullSecrets": [{"name": "pull"}]}), None),
        (
            json!({"containers": [], "imagePullSecrets": [{"name": "other"}]}),
            Some(
                "imagePullSecrets[0].name=\"other\" is not allowed because service account sa does not reference that imagePullSecret",
            ),
        ),
        (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "listed"}}]}), None),
        (
            json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "x"}}]}),
            Some(
                "volume with secret.secretName=\"x\" is not allowed because service account sa does not reference that secret",
            ),
        ),
        (
            json!({"containers": [{"name": "c", "env": [
                {"name": "E", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}
            ]}]}),
            Some(
                "container c with envVar E referencing secret.secretName=\"x\" is not allowed because service account sa does not reference that secret",
            ),
        ),
        (
            json!({"containers": [], "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "x"}}]}]}),
            Some(
                "init container i with envFrom referencing secret.secretName=\"x\" is not allowed because service account sa does not reference that secret",
            ),
        ),
    ] {
        assert_eq!(unlisted_secret(&spec(value.clone()), &account).as_deref(), want, "{value}");
    }
}
