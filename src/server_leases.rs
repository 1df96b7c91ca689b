//! Which servers of a cluster live: each keeps a lease in the store that they share, and the endpoints of the
//! `kubernetes` Service are those with one. As upstream's lease reconciler.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::storage::{Expected, Operation, Outcome, Store, Write};
use coracle_client::Client;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::kubernetes_endpoints;

const PREFIX: &str = "/registry/masterleases/";
/// Upstream's: a server that is silent for so long is no endpoint any more.
const TTL: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(10);
/// A lease can run out between looking at it and writing it.
const TRIES: usize = 3;

#[derive(Clone)]
pub struct ServerLeases {
    pub store: Arc<dyn Store>,
    pub client: Client,
    pub own: SocketAddr,
    /// From then on nothing is renewed.
    pub leaving: CancellationToken,
}

impl ServerLeases {
    fn key(&self) -> String {
        format!("{PREFIX}{}", self.own)
    }

    async fn write(&self, operation: &Operation) -> anyhow::Result<()> {
        let (mut found, _) = self.store.get(&self.key()).await?;
        for _ in 0..TRIES {
            let expected = match (&found, operation) {
                (None, Operation::Delete) => return Ok(()),
                (None, Operation::Put { .. }) => Expected::Absent,
                (Some(entry), _) => Expected::Revision(entry.revision),
            };
            let write = Write { key: self.key(), expected, operation: operation.clone() };
            match self.store.write(write).await? {
                Outcome::Written { .. } => return Ok(()),
                Outcome::Conflict { current } => found = current,
            }
        }
        bail!("{} changes all the time: is another server running at this address?", self.key())
    }

    /// The servers with a lease.
    async fn live(&self) -> anyhow::Result<BTreeSet<SocketAddr>> {
        let snapshot = self.store.load(PREFIX).await?;
        let addresses =
            snapshot.entries.iter().filter_map(|entry| entry.key.strip_prefix(PREFIX)?.parse().ok());
        Ok(addresses.collect())
    }

    /// Renews the lease, and says in the API who lives.
    pub async fn renew(&self) -> anyhow::Result<()> {
        let address = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {},
            "subsets": [{"addresses": [{"ip": self.own.ip()}], "ports": [{"port": self.own.port()}]}]});
        let value = address.to_string().into();
        self.write(&Operation::Put { value, ttl: Some(TTL) })
            .await
            .context("renewing this server's lease")?;
        let mut live = self.live().await.context("reading the servers' leases")?;
        live.insert(self.own);
        kubernetes_endpoints::ensure(&self.client, &live).await.context("the endpoints of the servers")
    }

    /// Renews until this server leaves.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.leaving.cancelled() => return,
                _ = tick.tick() => {
                    if let Err(error) = self.renew().await {
                        warn!("keeping this server among the endpoints: {error:#}");
                    }
                }
            }
        }
    }

    /// Gives the lease up: the others are the endpoints from now on. The last one stays, as there is none instead.
    pub async fn leave(&self) -> anyhow::Result<()> {
        self.leaving.cancel();
        self.write(&Operation::Delete).await?;
        let live = self.live().await?;
        if live.is_empty() {
            return Ok(());
        }
        Ok(kubernetes_endpoints::ensure(&self.client, &live).await?)
    }
}
