//! The node's own object: registered, kept true, and kept alive by a lease.

pub mod machine;
pub mod status;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::informer::Informer;
use coracle_client::{ApiError, Client, Object, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::pods::images::Images;
use machine::Available;
use status::{Condition, Facts, compose, conditions};

/// Where the leases of nodes live.
pub const LEASES: &str = "kube-node-lease";
/// As many as upstream's apiserver tries a patch.
const CONFLICTS_MAX: u32 = 5;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// How often the node reports; the defaults are the kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub lease_every: Duration,
    pub lease_lasts: Duration,
    /// The status is written at least this often, and whenever it changes.
    pub status_every: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Heartbeat {
            lease_every: Duration::from_secs(10),
            lease_lasts: Duration::from_secs(40),
            status_every: Duration::from_secs(300),
        }
    }
}

/// The node's reporter.
pub struct Reporter {
    pub client: Client,
    pub heartbeat: Heartbeat,
    pub data: PathBuf,
    pub images: Arc<dyn Images>,
    facts: Mutex<Facts>,
    conditions: Mutex<Vec<Condition>>,
    /// Why the node is not ready; None when it is.
    not_ready: watch::Sender<Option<String>>,
    /// The API says that the node is ready.
    known_ready: watch::Sender<bool>,
    short_of_disk: watch::Sender<bool>,
}

impl Reporter {
    pub fn new(
        client: Client,
        heartbeat: Heartbeat,
        data: PathBuf,
        images: Arc<dyn Images>,
        facts: Facts,
    ) -> Arc<Self> {
        Arc::new(Reporter {
            client,
            heartbeat,
            data,
            images,
            facts: Mutex::new(facts),
            conditions: Mutex::default(),
            not_ready: watch::Sender::new(Some("node is starting".into())),
            known_ready: watch::Sender::new(false),
            short_of_disk: watch::Sender::new(false),
        })
    }

    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    pub fn limit_pods(&self, most: u64) {
        let mut facts = self.facts.lock();
        facts.pods_max = facts.pods_max.min(most);
    }

    /// Whether there is DiskPressure; told when it begins and ends.
    pub fn short_of_disk(&self) -> watch::Receiver<bool> {
        self.short_of_disk.subscribe()
    }

    pub fn set_not_ready(&self, why: Option<String>) {
        self.not_ready.send_replace(why);
    }

    /// Creates the node, or makes the one there is ours; until it works.
    pub async fn register(&self) -> Node {
        let mut backoff = RETRY_MIN;
        loop {
            match register(&self.client, &self.facts().node()).await {
                Ok(node) => return node,
                Err(error) => {
                    tracing::warn!(%error, "registering the node failed, again in {backoff:?}");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Keeps lease and status until the shutdown.
    pub async fn run(self: Arc<Self>, node: Node, own: Informer, shutdown: CancellationToken) {
        let (gone, mut removed) = watch::channel(());
        let (doubt, mut doubted) = watch::channel(());
        let uid = node.metadata.uid.clone();
        own.on_change(move |change| match &change.new {
            None => gone.send_replace(()),
            Some(node) if is_doubted(node) => doubt.send_replace(()),
            Some(_) => {}
        });
        removed.mark_unchanged();
        doubted.mark_unchanged();
        let mut lease = HeldLease { uid, lease: None };
        let mut not_ready = self.not_ready.subscribe();
        let mut ticks = tokio::time::interval(self.heartbeat.lease_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written: Option<(u64, Instant)> = None;
        let mut retry = None;
        loop {
            let beat = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => true,
                () = wait(retry) => { retry = None; true }
                Ok(()) = not_ready.changed() => false,
                Ok(()) = doubted.changed() => {
                    // The node was silent for too long, and is heard again: it says so at once, as of now.
                    self.conditions.lock().clear();
                    written = None;
                    false
                }
                Ok(()) = removed.changed() => {
                    // Somebody deleted the node while it lives: it comes back, as upstream's does on a restart.
                    let fresh = self.register().await;
                    lease = HeldLease { uid: fresh.metadata.uid, lease: None };
                    written = None;
                    true
                }
            };
            if beat && let Err(error) = lease.renew(&self).await {
                tracing::warn!(%error, "renewing the node's lease failed");
                retry = Some(Instant::now() + Duration::from_secs(1).min(self.heartbeat.lease_every));
            }
            if let Err(error) = self.report(&mut written).await {
                tracing::warn!(%error, "writing the node's status failed");
                retry = Some(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    /// Writes the status if it changed or is due.
    async fn report(&self, written: &mut Option<(u64, Instant)>) -> Result<(), ApiError> {
        let now = Timestamp::now();
        let available = Available::probe(&self.data);
        let not_ready = self.not_ready.borrow().clone();
        let facts = self.facts();
        let images = self.images.list();
        let fresh = conditions(&available, not_ready.as_deref(), &self.conditions.lock(), now);
        let short = fresh.iter().any(|condition| condition.kind == "DiskPressure" && condition.status);
        self.short_of_disk.send_if_modified(|before| std::mem::replace(before, short) != short);
        let mut hasher = DefaultHasher::new();
        hasher.write(compose(&facts, &fresh, &images, Timestamp::UNIX_EPOCH).to_string().as_bytes());
        let hash = hasher.finish();
        let due =
            written.is_none_or(|(known, at)| known != hash || at.elapsed() >= self.heartbeat.status_every);
        if !due {
            return Ok(());
        }
        let patch = json!({"status": compose(&facts, &fresh, &images, now)});
        // The node's other writers (IPAM, taints) meet us above all at its start.
        let mut tries = 0;
        loop {
            let write =
                self.client.patch::<Node>("", &facts.name, Some("status"), PatchType::Strategic, &patch);
            match write.await {
                Err(error) if error.is_conflict() && tries < CONFLICTS_MAX => tries += 1,
                other => break other.map(drop)?,
            }
        }
        *self.conditions.lock() = fresh;
        *written = Some((hash, Instant::now()));
        self.known_ready.send_replace(not_ready.is_none());
        Ok(())
    }

    /// Resolves when the API says that the node is ready.
    pub async fn known_ready(&self) {
        let mut known = self.known_ready.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = known.wait_for(|ready| *ready).await;
    }
}

/// Creates the node, or gives the one there is the labels and annotations that it lacks.
pub async fn register(client: &Client, wanted: &Node) -> Result<Node, ApiError> {
    let name = wanted.metadata.name.clone().unwrap_or_default();
    match client.create(wanted).await {
        Ok(created) => return created.decode(),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    let present: Node = client.get("", &name).await?;
    let lacks = |wanted: &Option<BTreeMap<String, String>>, present: &Option<BTreeMap<String, String>>| {
        let present = |key: &String| present.as_ref().and_then(|map| map.get(key));
        wanted.iter().flatten().any(|(key, value)| present(key) != Some(value))
    };
    let (meta, there) = (&wanted.metadata, &present.metadata);
    if !lacks(&meta.labels, &there.labels) && !lacks(&meta.annotations, &there.annotations) {
        return Ok(present);
    }
    let patch = json!({"metadata": {"labels": meta.labels, "annotations": meta.annotations}});
    client.patch::<Node>("", &name, None, PatchType::Merge, &patch).await?.decode()
}

/// Whether the node lifecycle controller has set one of our conditions to `Unknown`.
fn is_doubted(node: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct View {
        #[serde(default)]
        status: Status,
    }
    #[derive(serde::Deserialize, Default)]
    struct Status {
        #[serde(default)]
        conditions: Vec<Condition>,
    }
    #[derive(serde::Deserialize)]
    struct Condition {
        status: String,
    }
    node.decode::<View>().is_ok_and(|view| view.status.conditions.iter().any(|c| c.status == "Unknown"))
}

async fn wait(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The lease as we last wrote it.
struct HeldLease {
    uid: Option<String>,
    lease: Option<Lease>,
}

impl HeldLease {
    /// One write: an update of what we wrote last; when that is not current, of what there is.
    async fn renew(&mut self, reporter: &Reporter) -> Result<(), ApiError> {
        let name = reporter.facts.lock().name.clone();
        if let Some(mut lease) = self.lease.take() {
            lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
            match reporter.client.update(&lease).await {
                Ok(written) => {
                    self.lease = Some(written.decode()?);
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => {
                    self.lease = Some(lease);
                    return Err(error);
                }
            }
        }
        let seconds = i32::try_from(reporter.heartbeat.lease_lasts.as_secs()).unwrap_or(40);
        let spec = LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let owner = self.uid.as_ref().map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: uid.clone(),
            ..OwnerReference::default()
        });
        let written = match reporter.client.find::<Lease>(LEASES, &name).await? {
            Some(mut present) => {
                present.spec = Some(spec);
                present.metadata.owner_references = owner.map(|o| vec![o]);
                reporter.client.update(&present).await?
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(name),
                        namespace: Some(LEASES.into()),
                        owner_references: owner.map(|o| vec![o]),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                reporter.client.create(&lease).await?
            }
        };
        self.lease = Some(written.decode()?);
        Ok(())
    }
}
