//! Renews a joined node's certificates long before they expire.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::pki::Pair;
use coracle_client::Client;
use coracle_client::http::Https;
use coracle_wasmlet::ServingIdentity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent::serving_identity;
use crate::join::{self, CLIENT_SIGNER, Credential, SERVING_SIGNER, Wanted};

/// After a failed renewal, and at least this often at all.
const RETRY: Duration = Duration::from_secs(300);

/// What rotation keeps fresh.
pub struct Rotation {
    pub server: http::Uri,
    pub ca: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub directory: PathBuf,
    pub transport: Arc<Https>,
    pub client: Client,
    pub client_certificate: Pair,
    pub serving: watch::Sender<ServingIdentity>,
}

impl Rotation {
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let now = jiff::Timestamp::now().as_second();
            let serving = self.serving.borrow().certificate.clone();
            let due = [&self.client_certificate.certificate, &serving].map(|c| due_at(join::validity(c), now));
            let pause = due.iter().min().map_or(RETRY, |at| Duration::from_secs(at.saturating_sub(now).max(0).unsigned_abs()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            if let Err(error) = self.renew(due).await {
                warn!(error = format!("{error:#}"), "renewing the node's certificates failed, again in {RETRY:?}");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn renew(&mut self, [client_due, serving_due]: [i64; 2]) -> anyhow::Result<()> {
        let now = jiff::Timestamp::now().as_second();
        if client_due <= now {
            let wanted = Wanted { signer: CLIENT_SIGNER, node: &self.node, addresses: &[] };
            let pair = join::request_certificate(&self.client, &wanted).await?;
            join::store(&self.directory, &self.ca, &pair)?;
            self.transport.reconfigure(join::config(&self.server, &self.ca, Credential::Certificate(&pair))?)?;
            self.client_certificate = pair;
            info!("renewed the node's client certificate");
        }
        if serving_due <= now {
            let wanted = Wanted { signer: SERVING_SIGNER, node: &self.node, addresses: &self.addresses };
            let pair = join::request_certificate(&self.client, &wanted).await?;
            self.serving.send_replace(serving_identity(pair));
            info!("renewed the node's serving certificate");
        }
        Ok(())
    }
}

/// A certificate is renewed when 70 % of its life is over; one that does not parse at once.
fn due_at(validity: Option<(i64, i64)>, now: i64) -> i64 {
    validity.map_or(now, |(from, to)| from + (to - from) / 10 * 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_at_seven_tenths_of_the_life() {
        assert_eq!(due_at(Some((1000, 2000)), 0), 1700);
        assert_eq!(due_at(None, 5), 5);
    }
}
