//! The Lease by which this server says that it lives, and the end of Leases of servers that have not for long. As
//! upstream's API server identity.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::storage_versions::{IDENTITY, IDENTITY_LABEL, IDENTITY_NAMESPACE};
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Informers, Key, Resource, WorkQueue,
};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Upstream's: how long a Lease is good, and how often it is renewed.
const LASTS: Duration = Duration::from_secs(3600);
const RENEWAL: Duration = Duration::from_secs(10);
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Who this server is among those of its store.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// The same after a restart.
    pub id: String,
    host: String,
    /// Another for each process.
    process: String,
}

impl ServerIdentity {
    /// `address`: several servers may run on one machine.
    pub fn new(host: &str, address: &str) -> Self {
        let hash = Sha256::digest(format!("{host}/{address}/{IDENTITY}"));
        let id: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self {
            id: format!("apiserver-{id}"),
            host: host.to_lowercase(),
            process: format!("{:016x}", rand::random::<u64>()),
        }
    }

    fn lease(&self, now: Timestamp) -> Lease {
        let labels = [(IDENTITY_LABEL, IDENTITY), (HOSTNAME, self.host.as_str())];
        Lease {
            metadata: ObjectMeta {
                namespace: Some(IDENTITY_NAMESPACE.into()),
                name: Some(self.id.clone()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(format!("{}_{}", self.id, self.process)),
                lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Renews this server's Lease, or makes it.
pub(super) async fn ensure(client: &Client, identity: &ServerIdentity) -> Result<(), ApiError> {
    let mut lease = identity.lease(Timestamp::now());
    match client.find::<Lease>(IDENTITY_NAMESPACE, &identity.id).await? {
        Some(present) => {
            lease.metadata.resource_version = present.metadata.resource_version;
            client.update(&lease).await.map(drop)
        }
        None => super::made(client.create(&lease).await.map(drop)),
    }
}

pub(super) async fn run(
    client: Client,
    identity: ServerIdentity,
    informers: &Informers,
    shutdown: CancellationToken,
) {
    let scope = InformerScope {
        namespace: Some(IDENTITY_NAMESPACE.into()),
        label_selector: Some(format!("{IDENTITY_LABEL}={IDENTITY}")),
        ..InformerScope::default()
    };
    let leases = informers.scoped(Resource::of::<Lease>(), scope);
    let keeper = Keeper { client, identity, leases, seen: Mutex::default() };
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    keeper.leases.on_change(move |change: &Change| added.add(change.key()));
    keeper.leases.synced().await;
    queue.add(Key::new(IDENTITY_NAMESPACE, &keeper.identity.id));
    controller::run(Arc::new(keeper), queue, 1, shutdown).await;
}

struct Keeper {
    client: Client,
    identity: ServerIdentity,
    leases: Informer,
    /// When each Lease was last seen to change, on a clock that nobody sets. Bounded by the Leases.
    seen: Mutex<HashMap<Key, (u64, Instant)>>,
}

impl Keeper {
    /// How long ago the Lease changed, as far as this process knows.
    fn silent(&self, key: &Key, version: u64) -> Duration {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        let entry = seen.entry(key.clone()).or_insert((version, now));
        if entry.0 != version {
            *entry = (version, now);
        }
        now - entry.1
    }
}

impl Reconciler for Keeper {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "apiserver-identity"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let lease = self.leases.get_key(key);
        if *key.name == *self.identity.id {
            let silent = lease.map_or(RENEWAL, |lease| self.silent(key, lease.head.resource_version));
            if silent < RENEWAL {
                return Ok(Outcome::After(RENEWAL - silent));
            }
            ensure(&self.client, &self.identity).await?;
            return Ok(Outcome::After(RENEWAL));
        }
        let Some(lease) = lease else {
            self.seen.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let silent = self.silent(key, lease.head.resource_version);
        if silent < LASTS {
            return Ok(Outcome::After(LASTS - silent));
        }
        let options = DeleteOptions::default().uid(&lease.head.uid);
        match self.client.delete::<Lease>(&key.namespace, &key.name, options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}
