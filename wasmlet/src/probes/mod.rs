//! Probes: what they check, when they are due, and what a series of results means. Deciding is pure; `check` does IO.

pub mod check;

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As events begin: `Readiness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// One probe of one container, resolved against its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSpec {
    pub kind: Kind,
    pub check: Check,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// Instead of the pod's, when this probe ends the container.
    pub grace_seconds: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Http(HttpCheck),
    Tcp {
        host: String,
        port: u16,
    },
    /// A command in the container: 0 is success.
    Exec(Vec<String>),
    /// Never succeeds and never counts as a failure: told in an event.
    Impossible(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure(String),
    /// Nobody listens: the container has not seen this probe.
    Refused(String),
    /// No verdict: told, not counted.
    Unknown(String),
}

/// What the results so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tracker {
    successes: u32,
    failures: u32,
    early_tries: u32,
}

/// Retries while nobody listens yet, beginning here and doubling, until the first period is over.
const EARLY_RETRY: Duration = Duration::from_millis(5);

impl Tracker {
    /// Takes in one result. Some: the verdict, when a threshold is met.
    pub fn observe(&mut self, spec: &ProbeSpec, outcome: &Outcome) -> Option<bool> {
        match outcome {
            Outcome::Success => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                (self.successes >= spec.success_threshold).then_some(true)
            }
            Outcome::Failure(_) | Outcome::Refused(_) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                (self.failures >= spec.failure_threshold).then_some(false)
            }
            Outcome::Unknown(_) => None,
        }
    }

    /// A guest needs a moment until it listens. A refused connection does not disturb it, so in the first period it
    /// is tried again soon and not counted: readiness then follows the listening by milliseconds, not by a period.
    pub fn retry_early(
        &mut self,
        spec: &ProbeSpec,
        outcome: &Outcome,
        running_for: Duration,
    ) -> Option<Duration> {
        let eligible = matches!(outcome, Outcome::Refused(_))
            && spec.kind != Kind::Liveness
            && running_for < spec.initial_delay + spec.period;
        if !eligible {
            return None;
        }
        let delay = EARLY_RETRY * (1 << self.early_tries.min(8));
        self.early_tries += 1;
        Some(delay.min(spec.period))
    }
}

/// The probes of a container, in the order they matter.
pub fn of(container: &Container, pod_ip: Ipv4Addr) -> Vec<ProbeSpec> {
    [
        (Kind::Startup, &container.startup_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Liveness, &container.liveness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some(resolve(kind, probe.as_ref()?, container, pod_ip)))
    .collect()
}

fn resolve(kind: Kind, probe: &Probe, container: &Container, pod_ip: Ipv4Addr) -> ProbeSpec {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.map_or(default, |v| u64::try_from(v).unwrap_or(0)))
    };
    let threshold = |value: Option<i32>, default: u32| {
        value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default).max(1)
    };
    ProbeSpec {
        kind,
        check: check_of(probe, container, pod_ip),
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
        success_threshold: threshold(probe.success_threshold, 1),
        failure_threshold: threshold(probe.failure_threshold, 3),
        grace_seconds: probe.termination_grace_period_seconds,
    }
}

fn check_of(probe: &Probe, container: &Container, pod_ip: Ipv4Addr) -> Check {
    if let Some(http) = &probe.http_get {
        return match http_check(http, container, pod_ip) {
            Ok(check) => Check::Http(check),
            Err(reason) => Check::Impossible(reason),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        return match port_number(&tcp.port, container) {
            Ok(port) => Check::Tcp { host: host_or(tcp.host.as_deref(), pod_ip), port },
            Err(reason) => Check::Impossible(reason),
        };
    }
    if probe.exec.is_some() {
        let command = probe.exec.as_ref().and_then(|exec| exec.command.clone());
        return Check::Exec(command.unwrap_or_default());
    }
    if probe.grpc.is_some() {
        return Check::Impossible(
            "grpc probes are not supported for Wasm containers: use httpGet or tcpSocket".into(),
        );
    }
    Check::Impossible("missing probe handler".into())
}

/// The request of an httpGet probe or hook.
pub fn http_check(
    http: &HTTPGetAction,
    container: &Container,
    pod_ip: Ipv4Addr,
) -> Result<HttpCheck, String> {
    let path = http.path.as_deref().unwrap_or("/");
    Ok(HttpCheck {
        tls: http.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host: host_or(http.host.as_deref(), pod_ip),
        port: port_number(&http.port, container)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

fn host_or(host: Option<&str>, pod_ip: Ipv4Addr) -> String {
    host.filter(|h| !h.is_empty()).map_or_else(|| pod_ip.to_string(), str::to_owned)
}

fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    let shown = match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("couldn't find port {shown} in container {}", container.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(probe: serde_json::Value) -> ProbeSpec {
        let container: Container = serde_json::from_value(json!({"name": "c",
            "ports": [{"name": "web", "containerPort": 8080}], "readinessProbe": probe}))
        .unwrap();
        of(&container, [10, 0, 0, 5].into()).remove(0)
    }

    #[test]
    fn defaults_and_targets() {
        let probe = spec(
            json!({"httpGet": {"port": "web", "path": "healthz", "httpHeaders": [{"name": "X", "value": "y"}]}}),
        );
        assert_eq!(
            (probe.period, probe.timeout, probe.success_threshold, probe.failure_threshold),
            (Duration::from_secs(10), Duration::from_secs(1), 1, 3)
        );
        assert_eq!(
            probe.check,
            Check::Http(HttpCheck {
                tls: false,
                host: "10.0.0.5".into(),
                port: 8080,
                path: "/healthz".into(),
                headers: vec![("X".into(), "y".into())]
            })
        );
        for (probe, want) in [
            (json!({"tcpSocket": {"port": 7}}), Some(("10.0.0.5", 7))),
            (json!({"tcpSocket": {"port": "web", "host": "1.2.3.4"}}), Some(("1.2.3.4", 8080))),
            (json!({"tcpSocket": {"port": "none"}}), None),
            (json!({"tcpSocket": {"port": 70000}}), None),
            (json!({"grpc": {"port": 5}}), None),
        ] {
            match (spec(probe.clone()).check, want) {
                (Check::Tcp { host, port }, Some(want)) => assert_eq!((host.as_str(), port), want),
                (Check::Impossible(_), None) => {}
                (got, want) => panic!("{probe}: {got:?}, want {want:?}"),
            }
        }
        let command = spec(json!({"exec": {"command": ["cat", "/x"]}})).check;
        assert_eq!(command, Check::Exec(vec!["cat".into(), "/x".into()]));
    }

    #[test]
    fn verdicts_need_thresholds() {
        let probe = spec(json!({"tcpSocket": {"port": 7}, "successThreshold": 2, "failureThreshold": 3}));
        let mut tracker = Tracker::default();
        let fail = || Outcome::Failure("x".into());
        for (step, (outcome, want)) in [
            (Outcome::Success, None),
            (Outcome::Success, Some(true)),
            (Outcome::Success, Some(true)),
            (fail(), None),
            (Outcome::Unknown("x".into()), None),
            (fail(), None),
            (Outcome::Success, None),
            (fail(), None),
            (fail(), None),
            (fail(), Some(false)),
            (fail(), Some(false)),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(tracker.observe(&probe, &outcome), want, "step {step}");
        }
    }

    #[test]
    fn only_unseen_probes_are_retried_early() {
        let refused = Outcome::Refused("x".into());
        let probe = spec(json!({"tcpSocket": {"port": 7}, "periodSeconds": 1}));
        let mut tracker = Tracker::default();
        let early: Vec<_> = (0..10)
            .filter_map(|_| tracker.retry_early(&probe, &refused, Duration::from_millis(500)))
            .map(|d| d.as_millis())
            .collect();
        assert_eq!(early, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(tracker.retry_early(&probe, &refused, Duration::from_secs(2)), None);
        assert_eq!(tracker.retry_early(&probe, &Outcome::Failure("x".into()), Duration::ZERO), None);
        let liveness = ProbeSpec { kind: Kind::Liveness, ..probe };
        assert_eq!(tracker.retry_early(&liveness, &refused, Duration::ZERO), None);
    }
}
