//! The worker's probes: when the next round is due, and what a verdict does to its container.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::events::EventType;
use futures::FutureExt;
use tokio::time::Instant;

use super::Worker;
use crate::pods::backoff::later;
use crate::pods::operations::Done;
use crate::pods::state::Run;
use crate::probes::{Check, Kind, Outcome, ProbeSpec, Tracker, check};

/// One probe of a running container.
pub(super) struct Probing {
    spec: Arc<ProbeSpec>,
    tracker: Tracker,
    /// When its last round began.
    began: Instant,
}

impl Probing {
    pub(super) fn new(spec: ProbeSpec) -> Self {
        Probing { spec: Arc::new(spec), tracker: Tracker::default(), began: Instant::now() }
    }
}

impl Worker {
    /// The startup probe goes first; the others follow when it has succeeded.
    pub(super) fn begin_probes(&mut self, index: usize) {
        let started = self.state.containers[index].started;
        let Some(live) = self.live.get(&index) else { return };
        let running_for = live.started.elapsed();
        let due: Vec<_> = live
            .probes
            .iter()
            .filter(|probing| (probing.spec.kind == Kind::Startup) != started)
            .map(|probing| (probing.spec.kind, probing.spec.initial_delay.saturating_sub(running_for)))
            .collect();
        for (kind, delay) in due {
            self.probe_after(index, kind, delay);
        }
    }

    fn probe_after(&mut self, index: usize, kind: Kind, delay: Duration) {
        let Some(live) = self.live.get_mut(&index) else { return };
        let run = live.run;
        let Some(probing) = live.probes.iter_mut().find(|p| p.spec.kind == kind) else { return };
        probing.began = Instant::now() + delay;
        let (spec, container) = (probing.spec.clone(), live.container.clone());
        let round = async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            // Boxed: while a probe only waits for its time, it holds no more than a timer.
            let outcome = Box::pin(check::run(&spec.check, spec.timeout, &container)).await;
            Done::Probed { index, run, kind, outcome }
        };
        self.operations.push(round.boxed());
    }

    pub(super) fn probed(&mut self, index: usize, run: u64, kind: Kind, outcome: Outcome) {
        let Some(live) = self.live.get_mut(&index).filter(|live| live.run == run) else { return };
        // Whoever is to end is not probed for life any more; its readiness still counts.
        if live.stopping && kind != Kind::Readiness {
            return;
        }
        let running_for = live.started.elapsed();
        let Some(probing) = live.probes.iter_mut().find(|p| p.spec.kind == kind) else { return };
        let spec = probing.spec.clone();
        if let Some(delay) = probing.tracker.retry_early(&spec, &outcome, running_for) {
            self.probe_after(index, kind, delay);
            return;
        }
        let verdict = probing.tracker.observe(&spec, &outcome);
        let next = spec.period.saturating_sub(probing.began.elapsed());
        self.tell(index, kind, &outcome);
        if matches!(spec.check, Check::Impossible(_)) {
            return;
        }
        let container = &mut self.state.containers[index];
        match (kind, verdict) {
            (Kind::Startup, Some(true)) => {
                container.started = true;
                self.status_dirty = true;
                self.begin_probes(index);
                return;
            }
            (Kind::Readiness, Some(ready)) if container.ready != ready => {
                container.ready = ready;
                self.status_dirty = true;
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                self.end_unhealthy(index, &spec);
                return;
            }
            _ => {}
        }
        self.probe_after(index, kind, next);
    }

    fn tell(&self, index: usize, kind: Kind, outcome: &Outcome) {
        let message = match outcome {
            Outcome::Success => return,
            Outcome::Failure(text) | Outcome::Refused(text) => {
                format!("{} probe failed: {text}", kind.title())
            }
            Outcome::Unknown(text) => format!("{} probe errored: {text}", kind.title()),
        };
        let field = self.spec.field_path(index);
        self.events().container(&field, EventType::Warning, "Unhealthy", message);
    }

    fn end_unhealthy(&mut self, index: usize, spec: &ProbeSpec) {
        let grace_seconds = spec.grace_seconds.unwrap_or(self.spec.grace_seconds).max(0);
        let Run::Running(running) = &mut self.state.containers[index].run else { return };
        let grace = jiff::SignedDuration::from_secs(grace_seconds.min(i64::from(u32::MAX)));
        running.stopping = Some(later(jiff::Timestamp::now(), grace));
        let name = &self.spec.containers[index].name;
        let probe = if spec.kind == Kind::Startup { "startup" } else { "liveness" };
        self.kill_event(index, &format!("Container {name} failed {probe} probe, will be restarted"));
        self.stop(index, grace_seconds);
    }
}
