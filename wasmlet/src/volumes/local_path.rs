//! Removes the data of deleted volumes of the class `local-path` from this node's disk, and then lets them go.

use std::path::{Path, PathBuf};

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::informer::{Informer, InformerScope, Informers};
use coracle_client::persistent_volumes::{LOCAL_PATH_FINALIZER, LOCAL_PATH_NODE};
use coracle_client::{ApiError, Client, Key, PatchType, Resource, WorkQueue};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Follows the volumes on this node's disk until the shutdown.
pub fn run(
    client: Client,
    informers: &Informers,
    node: &str,
    directory: PathBuf,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let scope = InformerScope {
        label_selector: Some(format!("{LOCAL_PATH_NODE}={node}")),
        ..InformerScope::default()
    };
    let volumes = informers.scoped(Resource::of::<PersistentVolume>(), scope);
    let queue = WorkQueue::new();
    let added = queue.clone();
    volumes.on_change(move |change| {
        if change.new.as_ref().is_some_and(|volume| volume.head.deleting) {
            added.add(change.key());
        }
    });
    let remover = std::sync::Arc::new(Remover { client, volumes, directory });
    controller::run(remover, queue, 1, shutdown)
}

struct Remover {
    client: Client,
    volumes: Informer,
    /// All volumes' directories are right in this one.
    directory: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    /// The data goes first.
    Remove(PathBuf),
    /// The data stays: it is the administrator's, or not ours to touch.
    Keep,
}

fn plan(volume: &PersistentVolume, directory: &Path) -> Action {
    let meta = &volume.metadata;
    let finalizers: Vec<&str> = meta.finalizers.iter().flatten().map(String::as_str).collect();
    // Others that hold it, the protection of bound volumes above all, come first.
    if meta.deletion_timestamp.is_none() || finalizers != [LOCAL_PATH_FINALIZER] {
        return Action::Nothing;
    }
    let Some(spec) = &volume.spec else { return Action::Keep };
    if spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return Action::Keep;
    }
    let path = spec.host_path.as_ref().map(|source| PathBuf::from(&source.path));
    // Whatever the volume says: nothing outside, and not the directory of all.
    match path {
        Some(path) if path.parent() == Some(directory) && path.file_name().is_some() => Action::Remove(path),
        _ => Action::Keep,
    }
}

#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error("removing {path}: {source}")]
    Disk { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("decoding: {0}")]
    Decode(#[from] serde_json::Error),
}

impl Reconciler for Remover {
    type Key = Key;
    type Error = RemovalError;

    fn name(&self) -> &'static str {
        "local-path"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, RemovalError> {
        let Some(object) = self.volumes.get_key(key) else { return Ok(Outcome::Done) };
        let directory = self.directory.canonicalize().unwrap_or_else(|_| self.directory.clone());
        match plan(&object.decode()?, &directory) {
            Action::Nothing => return Ok(Outcome::Done),
            Action::Keep => {}
            Action::Remove(path) => {
                remove(path.clone()).await.map_err(|source| RemovalError::Disk { path, source })?;
            }
        }
        let patch = json!({"metadata": {
            "resourceVersion": object.head.resource_version.to_string(), "finalizers": null}});
        match self.client.patch::<PersistentVolume>("", &key.name, None, PatchType::Merge, &patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}

async fn remove(path: PathBuf) -> std::io::Result<()> {
    let work = move || match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_what_is_ours_goes() {
        let volume = |deleting: bool, finalizers: Value, policy: &str, path: &str| -> PersistentVolume {
            let mut value = json!({"metadata": {"name": "v", "finalizers": finalizers}, "spec": {
                "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": path}}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(value).unwrap()
        };
        let held = || json!([LOCAL_PATH_FINALIZER]);
        for (volume, want) in [
            (volume(false, held(), "Delete", "/d/v"), Action::Nothing),
            (volume(true, held(), "Delete", "/d/v"), Action::Remove("/d/v".into())),
            (
                volume(true, json!(["kubernetes.io/pv-protection", LOCAL_PATH_FINALIZER]), "Delete", "/d/v"),
                Action::Nothing,
            ),
            (volume(true, json!([]), "Delete", "/d/v"), Action::Nothing),
            (volume(true, held(), "Retain", "/d/v"), Action::Keep),
            (volume(true, held(), "Delete", "/etc"), Action::Keep),
            (volume(true, held(), "Delete", "/d"), Action::Keep),
            (volume(true, held(), "Delete", "/d/.."), Action::Keep),
            (volume(true, held(), "Delete", "/d/a/b"), Action::Keep),
        ] {
            assert_eq!(plan(&volume, Path::new("/d")), want, "{volume:?}");
        }
    }
}
