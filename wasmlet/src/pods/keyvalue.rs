//! Where a pod's key-value buckets are kept, by its annotation, and which of its mounts are buckets to read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use coracle_client::{ApiError, Client};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, Volume};

use crate::runtime::{Mount, MountedObject, ObjectKind};

/// `memory` (the default): a container's buckets end with it. `namespace`: they are the namespace's, on this node.
pub const ANNOTATION_KEYVALUE: &str = "coracle.dev/keyvalue";

#[derive(Debug, thiserror::Error)]
pub enum KeyValueError {
    #[error("annotation {ANNOTATION_KEYVALUE}: {0:?} is neither \"memory\" nor \"namespace\"")]
    Annotation(String),
    #[error("annotation {ANNOTATION_KEYVALUE}: namespace {0} is not there")]
    NoNamespace(String),
    #[error("annotation {ANNOTATION_KEYVALUE}: get namespace {0}: {1}")]
    Api(String, #[source] ApiError),
}

/// The directory of the pod's namespace below `root`; None: its buckets are in memory.
/// It is named by the namespace's uid too: who makes a namespace of the same name later finds nothing.
pub async fn directory(client: &Client, root: &Path, pod: &Pod) -> Result<Option<PathBuf>, KeyValueError> {
    let annotations = pod.metadata.annotations.as_ref();
    match annotations.and_then(|all| all.get(ANNOTATION_KEYVALUE)).map(String::as_str) {
        None | Some("memory") => return Ok(None),
        Some("namespace") => {}
        Some(other) => return Err(KeyValueError::Annotation(other.to_owned())),
    }
    let name = pod.metadata.namespace.clone().unwrap_or_default();
    let namespace =
        client.find::<Namespace>("", &name).await.map_err(|error| KeyValueError::Api(name.clone(), error))?;
    let uid = namespace.and_then(|namespace| namespace.metadata.uid);
    let uid = uid.ok_or_else(|| KeyValueError::NoNamespace(name.clone()))?;
    Ok(Some(root.join(format!("{name}_{uid}"))))
}

/// Removes what namespaces left behind that are no more. Nothing is removed when the API does not answer.
pub async fn forget_gone(client: &Client, root: &Path) {
    let kept: HashSet<String> = match std::fs::read_dir(root) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(_) => return,
    };
    for directory in kept {
        let Some((name, uid)) = directory.split_once('_') else { continue };
        let Ok(found) = client.find::<Namespace>("", name).await else { return };
        if found.and_then(|namespace| namespace.metadata.uid).as_deref() == Some(uid) {
            continue;
        }
        let path = root.join(&directory);
        tracing::info!(path = %path.display(), "removing the key-value store of a namespace that is gone");
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&path)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%directory, %error, "removing the key-value store of a namespace that is gone");
        }
    }
}

/// The ConfigMaps and Secrets mounted whole; `mounts` as [`crate::volumes::mounts_of`] makes them.
pub fn mounted_objects(pod: &Pod, container: &Container, mounts: &[Mount]) -> Vec<MountedObject> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let of = |volume: &Volume| {
        let config_map = volume.config_map.as_ref().map(|map| (ObjectKind::ConfigMap, map.name.clone()));
        let secret = || Some((ObjectKind::Secret, volume.secret.as_ref()?.secret_name.clone()?));
        config_map.or_else(secret)
    };
    let mounted = container.volume_mounts.iter().flatten().zip(mounts);
    mounted
        .filter(|(view, _)| view.sub_path.as_deref().unwrap_or_default().is_empty())
        .filter(|(view, _)| view.sub_path_expr.as_deref().unwrap_or_default().is_empty())
        .filter_map(|(view, mount)| {
            let (kind, name) = of(volumes.iter().find(|volume| volume.name == view.name)?)?;
            Some(MountedObject { kind, name, host_path: mount.host_path.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_objects_are_buckets() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "config", "mountPath": "/config"},
                {"name": "config", "mountPath": "/one", "subPath": "key"},
                {"name": "secret", "mountPath": "/secret"}]}],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "settings"}},
                {"name": "secret", "secret": {"secretName": "passwords"}}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let mounts: Vec<_> = container
            .volume_mounts
            .iter()
            .flatten()
            .map(|view| Mount {
                host_path: Path::new("/host").join(view.mount_path.trim_start_matches('/')),
                container_path: view.mount_path.clone(),
                read_only: true,
            })
            .collect();
        let found = mounted_objects(&pod, container, &mounts);
        let found: Vec<_> =
            found.iter().map(|o| (o.kind, o.name.as_str(), o.host_path.to_str().unwrap())).collect();
        assert_eq!(
            found,
            [
                (ObjectKind::ConfigMap, "settings", "/host/config"),
                (ObjectKind::Secret, "passwords", "/host/secret")
            ]
        );
    }
}
