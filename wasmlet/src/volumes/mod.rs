//! Volumes of pods: set up before the first container starts, kept current while mounted, removed with the pod.

pub mod atomic_writer;
mod downward;
pub mod empty_dir;
mod host_path;
mod keys;
pub mod local_path;
mod mounts;
mod persistent;
mod projected;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_client::ApiError;
use coracle_client::events::EventRecorder;
use coracle_client::quantity::Quantity;
use futures::future::select_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::watch;

use crate::pods::downward::{FieldError, Fields};
use crate::pods::env::Reference;
use crate::pods::sources::{Source, Sources};
use atomic_writer::Payload;
use keys::{Selection, mode_bits};
pub use mounts::of as mounts_of;

/// The mode of files in ConfigMap, Secret, projected and downwardAPI volumes, unless the volume says otherwise.
const MODE_DEFAULT: u32 = 0o644;

/// Where volumes live, and where their content comes from.
pub struct Volumes {
    pub sources: Arc<Sources>,
    /// One directory per pod uid.
    pub disk: PathBuf,
    /// The same on a memory file system, where there is one: secrets and `medium: Memory` go there.
    pub memory: Option<PathBuf>,
    /// Who the node is to volumes that say where they are.
    pub node: String,
    pub labels: BTreeMap<String, String>,
    pub recorder: EventRecorder,
    pub in_use: persistent::InUse,
}

/// The volumes of one pod.
#[derive(Default, Clone)]
pub struct PodVolumes {
    pub volumes: Vec<PodVolume>,
    /// Followed as long as the pod has them mounted (or waits for them).
    sources: Vec<Followed>,
    tokens: HashMap<(String, String), token::Token>,
}

#[derive(Clone)]
pub struct PodVolume {
    pub name: Box<str>,
    pub path: PathBuf,
    /// Written by the node only: guests see it read-only.
    pub managed: bool,
    /// `emptyDir.sizeLimit`.
    pub size_limit: Option<u64>,
    /// The pod wants it so; what is made in it is somebody's data all the same.
    pub read_only: bool,
}

/// A source, and its changes since it was read.
#[derive(Clone)]
struct Followed {
    source: Arc<Source>,
    changes: watch::Receiver<()>,
}

/// Shown in the event FailedMount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} references non-existent {} key: {key}", if *kind == "configmap" { "config" } else { "secret" })]
    NoKey { kind: &'static str, key: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("{0}")]
    HostPath(String),
    #[error("failed to fetch token: serviceaccounts \"{account}\": {}", source.message())]
    Token { account: String, source: ApiError },
    #[error("decoding: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("{0}")]
    Api(#[source] ApiError),
    /// About the claim, before there is a volume.
    #[error("error processing PVC {claim}: {reason}")]
    Claim { claim: coracle_client::Key, reason: String },
    /// Why the volume's plug-in could not.
    #[error("{0}")]
    Plugin(String),
    /// The whole text of the event.
    #[error("{0}")]
    Refused(String),
    #[error("volume type {0} is not supported on this node")]
    Unsupported(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("failed to prepare subPath for volumeMount \"{mount}\": {reason}")]
    SubPath { mount: String, reason: String },
}

/// Which volume failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}", shown(volume, source))]
pub struct VolumeError {
    pub volume: String,
    pub source: MountError,
}

/// Upstream's form of each step that can fail.
fn shown(volume: &str, error: &MountError) -> String {
    match error {
        MountError::Claim { .. } => format!(
            "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process volumes=[{volume}]: {error}"
        ),
        MountError::Refused(whole) => whole.clone(),
        _ => format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}"),
    }
}

impl Volumes {
    /// Makes the pod's volumes what they should be now; called again it only writes what has changed.
    /// Also after an error `pod_volumes` follows the sources, so that its changes say when to try again.
    pub async fn sync(
        &self,
        pod_volumes: &mut PodVolumes,
        pod: &Pod,
        fields: &Fields<'_>,
    ) -> Result<(), VolumeError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut before = std::mem::take(&mut pod_volumes.sources);
        let mut volumes = Vec::new();
        let mut failure = None;
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            match self.sync_one(pod_volumes, uid, pod, volume, fields).await {
                Ok(set_up) => volumes.push(set_up),
                Err(source) => {
                    failure = Some(VolumeError { volume: volume.name.clone(), source });
                    break;
                }
            }
        }
        if failure.is_some() {
            // What was not reached keeps its watch.
            pod_volumes.sources.append(&mut before);
        }
        match failure {
            Some(failure) => Err(failure),
            None => {
                pod_volumes.volumes = volumes;
                Ok(())
            }
        }
    }

    async fn sync_one(
        &self,
        pod_volumes: &mut PodVolumes,
        uid: &str,
        pod: &Pod,
        volume: &Volume,
        fields: &Fields<'_>,
    ) -> Result<PodVolume, MountError> {
        let on_disk = self.disk.join(uid).join(&volume.name);
        let in_memory = self.memory.as_ref().unwrap_or(&self.disk).join(uid).join(&volume.name);
        let mut managed = true;
        let mut size_limit = None;
        let path;
        if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            return self.persistent(pod_volumes, pod, volume).await;
        }
        if let Some(source) = &volume.empty_dir {
            managed = false;
            path = if empty_dir::in_memory(source) { in_memory } else { on_disk };
            let limit = source.size_limit.as_ref().and_then(|l| Quantity::of(l).ok());
            size_limit = limit.map(|l| l.value().unsigned_abs()).filter(|l| *l > 0);
            let (target, source) = (path.clone(), source.clone());
            blocking(&path, move || empty_dir::set_up(&target, &source)).await?;
        } else if let Some(source) = &volume.host_path {
            managed = false;
            path = PathBuf::from(&source.path);
            let source = source.clone();
            tokio::task::spawn_blocking(move || host_path::set_up(&source))
                .await
                .map_err(|e| MountError::Io { path: path.clone(), source: io::Error::other(e) })??;
        } else if let Some(source) = &volume.config_map {
            path = on_disk;
            let reference = Reference::ConfigMap(source.name.clone());
            let selection = Selection {
                kind: "configmap",
                name: &source.name,
                items: source.items.as_deref(),
                optional: source.optional == Some(true),
                default_mode: source.default_mode.map_or(MODE_DEFAULT, mode_bits),
            };
            let data = self.follow(pod_volumes, pod, &reference).await?;
            write(&path, keys::select(&selection, data)?).await?;
        } else if let Some(source) = &volume.secret {
            path = in_memory;
            let name = source.secret_name.as_deref().unwrap_or_default();
            let reference = Reference::Secret(name.to_owned());
            let selection = Selection {
                kind: "secret",
                name,
                items: source.items.as_deref(),
                optional: source.optional == Some(true),
                default_mode: source.default_mode.map_or(MODE_DEFAULT, mode_bits),
            };
            let data = self.follow(pod_volumes, pod, &reference).await?;
            write(&path, keys::select(&selection, data)?).await?;
        } else if let Some(source) = &volume.downward_api {
            path = on_disk;
            let mode = source.default_mode.map_or(MODE_DEFAULT, mode_bits);
            let files = source.items.as_deref().unwrap_or_default();
            write(&path, downward::select(files, mode, fields)?).await?;
        } else if let Some(source) = &volume.projected {
            path = in_memory;
            let payload = self.project(pod_volumes, pod, &volume.name, source, fields).await?;
            write(&path, payload).await?;
        } else if let Some(source) = &volume.csi {
            let step = "mounter.SetUpAt failed to get CSI client";
            return Err(MountError::Plugin(persistent::no_driver(step, &source.driver)));
        } else {
            return Err(MountError::Unsupported(kind_of(volume)));
        }
        Ok(PodVolume { name: volume.name.as_str().into(), path, managed, size_limit, read_only: false })
    }

    /// The object's data now, and its watch for as long as the pod lives.
    async fn follow(
        &self,
        pod_volumes: &mut PodVolumes,
        pod: &Pod,
        reference: &Reference,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, MountError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let source = self.sources.open(namespace, reference).await;
        pod_volumes.follow(&source);
        Ok(source.data()?)
    }

    /// Removes what the pod's volumes held; nothing of hostPath.
    pub async fn remove(&self, uid: &str) -> io::Result<()> {
        self.in_use.release(uid);
        let roots = [Some(&self.disk), self.memory.as_ref()].map(|root| root.map(|root| root.join(uid)));
        tokio::task::spawn_blocking(move || {
            for directory in roots.into_iter().flatten() {
                match std::fs::remove_dir_all(directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl PodVolumes {
    /// Its changes count from now on: whoever reads it reads it after this.
    fn follow(&mut self, source: &Arc<Source>) {
        if !self.sources.iter().any(|known| Arc::ptr_eq(&known.source, source)) {
            self.sources.push(Followed { source: source.clone(), changes: source.changes() });
        }
    }

    /// Nothing here ever changes by itself.
    pub fn is_static(&self) -> bool {
        self.sources.is_empty() && self.tokens.is_empty()
    }

    /// The emptyDir volumes that may not hold more than so many bytes.
    pub fn size_limits(&self) -> Vec<(Box<str>, PathBuf, u64)> {
        let limited =
            |volume: &PodVolume| Some((volume.name.clone(), volume.path.clone(), volume.size_limit?));
        self.volumes.iter().filter_map(limited).collect()
    }

    /// Resolves when a mounted object has changed or a token is due for renewal.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut receivers: Vec<_> = self.sources.iter().map(|followed| followed.changes.clone()).collect();
        let renewal = self.tokens.values().map(|token| token.renew_at).min();
        async move {
            let renewal = async {
                match renewal {
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            let changes = async {
                if receivers.is_empty() {
                    return std::future::pending().await;
                }
                let waits = receivers.iter_mut().map(|receiver| {
                    Box::pin(async {
                        if receiver.changed().await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    })
                });
                select_all(waits).await;
            };
            tokio::select! {
                () = renewal => {}
                () = changes => {}
            }
        }
    }
}

fn until(at: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

async fn write(path: &Path, payload: Payload) -> Result<(), MountError> {
    let target = path.to_owned();
    blocking(path, move || atomic_writer::write(&target, &payload).map(drop)).await
}

async fn blocking(
    path: &Path,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), MountError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|source| MountError::Io { path: path.to_owned(), source })
}

/// The name of the field that says what the volume is.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    value
        .as_object()
        .and_then(|fields| fields.keys().find(|key| *key != "name"))
        .cloned()
        .unwrap_or_else(|| "(none)".into())
}
