//! Leader election on a Lease: one process of several runs, another takes over when it stops renewing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::client::Client;
use crate::events::{EventRecorder, EventType};
use crate::metrics;
use crate::status::ApiError;

/// By how much tries for the lease are spread, as in client-go.
const JITTER: f64 = 1.2;

/// How long what lasts. The defaults are kube-controller-manager's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Timing {
    /// How long others wait for a leader that has gone silent before they take over
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long a leader tries to renew before it stops leading
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// How often it is tried to become the leader, or to stay it
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            leader_elect_lease_duration: Duration::from_secs(15),
            leader_elect_renew_deadline: Duration::from_secs(10),
            leader_elect_retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// client-go's rules: a leader must know that it is none before others do.
    pub fn check(self) -> Result<(), &'static str> {
        if self.leader_elect_lease_duration < Duration::from_secs(1) {
            return Err("--leader-elect-lease-duration must be at least 1s");
        }
        if self.leader_elect_lease_duration <= self.leader_elect_renew_deadline {
            return Err("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline");
        }
        if self.leader_elect_retry_period.is_zero() {
            return Err("--leader-elect-retry-period must be greater than zero");
        }
        if self.leader_elect_renew_deadline <= self.leader_elect_retry_period.mul_f64(JITTER) {
            return Err("--leader-elect-renew-deadline must be greater than --leader-elect-retry-period*1.2");
        }
        Ok(())
    }
}

/// `15s`, `500ms`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

const NAMESPACE: &str = "kube-system";

/// Who stands for election to what.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Lease's name in `kube-system`, e.g. `kube-scheduler`.
    pub name: String,
    /// Unique per process.
    pub identity: String,
    pub timing: Timing,
}

impl Candidate {
    /// An identity that no other process has: upstream's `HOSTNAME_RANDOM`.
    pub fn new(name: &str, timing: Timing) -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = format!("{}_{:016x}", hostname.trim(), rand::random::<u64>());
        Self { name: name.to_owned(), identity, timing }
    }
}

/// Runs `lead` whenever this process holds the lease; its token ends when the lease is lost or at shutdown.
/// The lease is given up at shutdown, so that the next leader need not wait for it to expire.
pub async fn run<F, L>(client: Client, candidate: Candidate, shutdown: CancellationToken, mut lead: L)
where
    L: FnMut(CancellationToken) -> F,
    F: Future<Output = ()>,
{
    let recorder = EventRecorder::new(client.clone(), &candidate.name, None);
    let leading = metrics::leader(&candidate.name);
    leading.set(0);
    let mut elector = Elector { client, candidate, observed: None };
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = elector.acquire() => {}
            () = shutdown.cancelled() => return,
        }
        info!(lease = elector.candidate.name, identity = elector.candidate.identity, "became leader");
        if let Some((lease, _)) = &elector.observed {
            let message = format!("{} became leader", elector.candidate.identity);
            recorder.event(lease, EventType::Normal, "LeaderElection", message);
        }
        leading.set(1);
        let term = shutdown.child_token();
        let work = lead(term.clone());
        tokio::pin!(work);
        tokio::select! {
            // Nothing more to do: others may, as this process will not renew.
            () = &mut work => elector.release().await,
            () = elector.hold() => {
                warn!(lease = elector.candidate.name, "lost the lease");
                term.cancel();
                work.await;
            }
            () = shutdown.cancelled() => {
                // It is renewed until the work is over: nobody else begins before that.
                tokio::select! {
                    () = &mut work => {}
                    () = elector.hold() => work.await,
                }
                elector.release().await;
                leading.set(0);
                return;
            }
        }
        leading.set(0);
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
            let jitter = 1.0 + rand::random::<f64>() * JITTER;
            let jitter = self.candidate.timing.leader_elect_retry_period.mul_f64(jitter);
            tokio::time::sleep(jitter).await;
        }
    }

    /// Renews until that has failed for the renew deadline.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.candidate.timing.leader_elect_retry_period).await;
            let deadline = renewed + self.candidate.timing.leader_elect_renew_deadline;
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

    /// Only what is still ours is given up.
    async fn release(&mut self) {
        let Some((lease, _)) = &mut self.observed else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() != Some(&self.candidate.identity) {
            return;
        }
        let now = MicroTime(Timestamp::now());
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(now.clone());
        spec.acquire_time = Some(now);
        if let Err(error) = self.client.update(lease).await {
            warn!(lease = self.candidate.name, %error, "giving up the lease failed; it will expire");
        }
    }

    /// The leader's own lease is as it wrote it, but for the rare meddler: one write, no read.
    async fn renew_unread(&mut self) -> bool {
        let Some((lease, _)) = &self.observed else { return false };
        let Some(spec) = lease.spec.clone() else { return false };
        if spec.holder_identity.as_deref() != Some(&self.candidate.identity) {
            return false;
        }
        let fresh = Lease { spec: Some(self.spec(Some(&spec), Timestamp::now())), ..lease.clone() };
        let written = self.client.update(&fresh).await.and_then(|written| written.decode());
        match written {
            Ok(lease) => {
                self.observed = Some((lease, Instant::now()));
                true
            }
            Err(_) => false,
        }
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, ApiError> {
        if self.renew_unread().await {
            return Ok(true);
        }
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
            lease_duration_seconds: i32::try_from(
                self.candidate.timing.leader_elect_lease_duration.as_secs(),
            )
            .ok(),
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

#[cfg(test)]
mod tests;
