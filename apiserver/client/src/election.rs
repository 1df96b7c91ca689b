//! Leader election on a Lease: one process of several runs, another takes over when it stops renewing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::client::Client;
use crate::status::ApiError;

/// As kube-controller-manager's defaults.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);

const NAMESPACE: &str = "kube-system";

/// Who stands for election to what.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Lease's name in `kube-system`, e.g. `kube-scheduler`.
    pub name: String,
    /// Unique per process.
    pub identity: String,
}

/// Runs `lead` whenever this process holds the lease; its token ends when the lease is lost or at shutdown.
/// The lease is given up at shutdown, so that the next leader need not wait for it to expire.
pub async fn run<F, L>(client: Client, candidate: Candidate, shutdown: CancellationToken, mut lead: L)
where
    L: FnMut(CancellationToken) -> F,
    F: Future<Output = ()>,
{
    let mut elector = Elector { client, candidate, observed: None };
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = elector.acquire() => {}
            () = shutdown.cancelled() => return,
        }
        info!(lease = elector.candidate.name, identity = elector.candidate.identity, "became leader");
        let term = shutdown.child_token();
        let work = lead(term.clone());
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => {}
            () = elector.hold() => {
                warn!(lease = elector.candidate.name, "lost the lease");
                term.cancel();
                work.await;
            }
            () = shutdown.cancelled() => {
                work.await;
                elector.release().await;
                return;
            }
        }
    }
}

struct Elector {
    client: Client,
    candidate: Candidate,
    /// The lease as last seen, and when: expiry is counted on our clock from when it last changed.
    observed: Option<(Lease, Instant)>,
}

impl Elector {
    async fn acquire(&mut self) {
        loop {
            match self.try_acquire_or_renew().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!(lease = self.candidate.name, %error, "trying for the lease failed"),
            }
            let jitter = RETRY_PERIOD.mul_f64(1.0 + rand::random::<f64>() * 0.2);
            tokio::time::sleep(jitter).await;
        }
    }

    /// Renews until that has failed for the renew deadline.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY_PERIOD).await;
            let deadline = renewed + RENEW_DEADLINE;
            match tokio::time::timeout_at(deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    warn!(lease = self.candidate.name, %error, "renewing the lease failed");
                    if Instant::now() >= deadline {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    async fn release(&mut self) {
        let Some((lease, _)) = &mut self.observed else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        if let Err(error) = self.client.update(lease).await {
            warn!(lease = self.candidate.name, %error, "giving up the lease failed; it will expire");
        }
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, ApiError> {
        let now = Timestamp::now();
        let Some(mut lease) = self.client.find::<Lease>(NAMESPACE, &self.candidate.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.candidate.name.clone()),
                    namespace: Some(NAMESPACE.into()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None, now)),
            };
            return match self.client.create(&lease).await {
                Ok(written) => {
                    self.observed = Some((written.decode()?, Instant::now()));
                    Ok(true)
                }
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        if self.observed.as_ref().is_none_or(|(seen, _)| seen.spec != lease.spec) {
            self.observed = Some((lease.clone(), Instant::now()));
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let since = self.observed.as_ref().map_or_else(Instant::now, |(_, at)| *at);
        let lasts =
            Duration::from_secs(spec.lease_duration_seconds.unwrap_or(15).max(1).unsigned_abs().into());
        if !holder.is_empty() && holder != self.candidate.identity && since.elapsed() < lasts {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(&spec), now));
        match self.client.update(&lease).await {
            Ok(written) => {
                self.observed = Some((written.decode()?, Instant::now()));
                Ok(true)
            }
            // Someone else wrote; who holds it now is in the next look. A holder has until the renew deadline.
            Err(error) if error.is_conflict() && holder != self.candidate.identity => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let held = old.filter(|o| o.holder_identity.as_deref() == Some(&self.candidate.identity));
        let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: Some(held.and_then(|h| h.acquire_time.clone()).unwrap_or(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if held.is_some() || old.is_none() {
                transitions
            } else {
                transitions + 1
            }),
            ..LeaseSpec::default()
        }
    }
}
