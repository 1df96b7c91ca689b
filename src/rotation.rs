//! Renews a joined node's certificates long before they expire.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Client;
use coracle_client::http::Https;
use coracle_wasmlet::ServingIdentity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent::serving_identity;
use crate::join::{self, CLIENT_SIGNER, Credential, Held, SERVING_SIGNER, Wanted};

/// After a failed renewal; then twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What rotation keeps fresh.
pub struct Rotation {
    pub server: http::Uri,
    pub ca: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub directory: PathBuf,
    pub transport: Arc<Https>,
    pub client: Client,
    pub client_certificate: Held,
    pub serving_certificate: Held,
    pub serving: watch::Sender<ServingIdentity>,
}

impl Rotation {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut retry = RETRY_FIRST;
        let mut failed = false;
        loop {
            let due = self.client_certificate.due_at().min(self.serving_certificate.due_at());
            let left = due.saturating_sub(jiff::Timestamp::now().as_second()).max(0).unsigned_abs();
            let pause = if failed { retry } else { Duration::from_secs(left) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            let renewed = tokio::select! {
                renewed = self.renew() => renewed,
                () = shutdown.cancelled() => return,
            };
            retry = if failed { (retry * 2).min(RETRY_MAX) } else { RETRY_FIRST };
            failed = renewed.is_err();
            if let Err(error) = renewed {
                warn!(
                    error = format!("{error:#}"),
                    "renewing the node's certificates failed, again in {retry:?}"
                );
            }
        }
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        let now = jiff::Timestamp::now().as_second();
        if self.client_certificate.due_at() <= now {
            let wanted = Wanted { signer: CLIENT_SIGNER, node: &self.node, addresses: &[] };
            let held = Held::new(join::request_certificate(&self.client, &wanted).await?);
            join::store_client(&self.directory, &self.ca, &held.pair)?;
            self.transport.reconfigure(join::config(
                &self.server,
                &self.ca,
                Credential::Certificate(&held.pair),
            )?)?;
            self.client_certificate = held;
            info!("renewed the node's client certificate");
        }
        if self.serving_certificate.due_at() <= now {
            let wanted = Wanted { signer: SERVING_SIGNER, node: &self.node, addresses: &self.addresses };
            let held = Held::new(join::request_certificate(&self.client, &wanted).await?);
            join::store_serving(&self.directory, &held.pair)?;
            self.serving.send_replace(serving_identity(held.pair.clone()));
            self.serving_certificate = held;
            info!("renewed the node's serving certificate");
        }
        Ok(())
    }
}
