//! An http container's ports and bounds, from its spec and annotations.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::http_workers::Reuse;
use crate::runtime::{ContainerSpec, Protocol, StartError};

/// The port served when the container declares none.
pub const ANNOTATION_HTTP_PORT: &str = "coracle.dev/http-port";
/// Requests in progress at once (each is an instance); more wait.
pub const ANNOTATION_HTTP_CONCURRENCY: &str = "coracle.dev/http-concurrency";
/// Requests that may wait; more get 503.
pub const ANNOTATION_HTTP_QUEUE: &str = "coracle.dev/http-queue";
/// How long a request may take in all, in seconds; without it, as long as its client stays.
pub const ANNOTATION_HTTP_TIMEOUT: &str = "coracle.dev/http-timeout-seconds";

/// Requests that one instance answers in its life. Without it: one of a WASI 0.2 handler, 128 of a 0.3 one.
pub const ANNOTATION_HTTP_REUSE: &str = "coracle.dev/http-instance-reuse";
/// Requests that one instance of a WASI 0.3 handler answers at once.
pub const ANNOTATION_HTTP_INSTANCE_CONCURRENCY: &str = "coracle.dev/http-instance-concurrency";

/// Served when neither a containerPort nor the annotation says otherwise.
pub const HTTP_PORT_DEFAULT: u16 = 8080;
const CONCURRENCY_DEFAULT: usize = 128;
const CONCURRENCY_MAX: usize = 10_000;
const QUEUE_DEFAULT: usize = 1_024;
const QUEUE_MAX: usize = 100_000;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
const REUSE_MAX: usize = 1_000_000;
const REUSE_P3_DEFAULT: usize = 128;
const INSTANCE_CONCURRENCY_MAX: usize = 1_000;
const INSTANCE_CONCURRENCY_DEFAULT: usize = 16;
/// Connections to one listener; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HttpLimits {
    pub concurrency_max: usize,
    pub queue_max: usize,
    pub queue_timeout: Duration,
    pub request_timeout: Option<Duration>,
    pub connections_max: usize,
}

impl HttpLimits {
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Self, StartError> {
        let timeout = number(annotations, ANNOTATION_HTTP_TIMEOUT, 1, 86_400)?;
        Ok(HttpLimits {
            concurrency_max: number(annotations, ANNOTATION_HTTP_CONCURRENCY, 1, CONCURRENCY_MAX)?
                .unwrap_or(CONCURRENCY_DEFAULT),
            queue_max: number(annotations, ANNOTATION_HTTP_QUEUE, 0, QUEUE_MAX)?.unwrap_or(QUEUE_DEFAULT),
            queue_timeout: QUEUE_TIMEOUT,
            request_timeout: timeout.map(|seconds| Duration::from_secs(seconds as u64)),
            connections_max: CONNECTIONS_MAX,
        })
    }

    /// HTTP/2 streams of one connection.
    pub fn streams_max(&self) -> u32 {
        u32::try_from(self.concurrency_max.saturating_add(self.queue_max)).unwrap_or(u32::MAX).min(1_000)
    }
}

fn number(
    annotations: &BTreeMap<String, String>,
    key: &str,
    min: usize,
    max: usize,
) -> Result<Option<usize>, StartError> {
    let Some(text) = annotations.get(key) else { return Ok(None) };
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => Err(StartError::Config(format!(
            "annotation {key}: {text:?} is not a whole number between {min} and {max}"
        ))),
    }
}

/// How instances are used; None: one for every request.
pub(super) fn reuse(annotations: &BTreeMap<String, String>, p3: bool) -> Result<Option<Reuse>, StartError> {
    let requests = number(annotations, ANNOTATION_HTTP_REUSE, 1, REUSE_MAX)?;
    let concurrency = number(annotations, ANNOTATION_HTTP_INSTANCE_CONCURRENCY, 1, INSTANCE_CONCURRENCY_MAX)?;
    if p3 {
        return Ok(Some(Reuse {
            requests_max: requests.unwrap_or(REUSE_P3_DEFAULT),
            concurrency_max: concurrency.unwrap_or(INSTANCE_CONCURRENCY_DEFAULT),
        }));
    }
    if concurrency.is_some_and(|concurrency| concurrency > 1) {
        return Err(StartError::Config(format!(
            "annotation {ANNOTATION_HTTP_INSTANCE_CONCURRENCY}: an instance of a wasi:http 0.2 handler answers one request at a time"
        )));
    }
    let reused = requests.filter(|requests| *requests > 1);
    Ok(reused.map(|requests_max| Reuse { requests_max, concurrency_max: 1 }))
}

/// Where the container's server listens: its TCP containerPorts at the pod's addresses, and their hostPorts at the
/// node's.
pub(super) fn addresses(spec: &ContainerSpec) -> Result<Vec<SocketAddr>, StartError> {
    let ips = spec.network.ips();
    let mut addresses = Vec::new();
    let mut add = |address| {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    };
    let tcp: Vec<_> = spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp).collect();
    for port in &tcp {
        ips.iter().for_each(|ip| add(SocketAddr::new(*ip, port.port)));
        if let Some(host_port) = port.host_port {
            let node = spec.network.host_addresses(port.host_ip).into_iter();
            node.for_each(|address| add(SocketAddr::new(address, host_port)));
        }
    }
    if tcp.is_empty() {
        let port = number(&spec.annotations, ANNOTATION_HTTP_PORT, 1, 65_535)?
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(HTTP_PORT_DEFAULT);
        ips.iter().for_each(|ip| add(SocketAddr::new(*ip, port)));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuse_is_opt_in_for_p2() {
        let of = |p3, pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            reuse(&pairs, p3).map(|reuse| reuse.map(|r| (r.requests_max, r.concurrency_max)))
        };
        let (many, at_once) = (ANNOTATION_HTTP_REUSE, ANNOTATION_HTTP_INSTANCE_CONCURRENCY);
        assert_eq!(of(false, &[]).unwrap(), None);
        assert_eq!(of(false, &[(many, "1")]).unwrap(), None);
        assert_eq!(of(false, &[(many, "100")]).unwrap(), Some((100, 1)));
        assert_eq!(of(true, &[]).unwrap(), Some((128, 16)));
        assert_eq!(of(true, &[(many, "1"), (at_once, "4")]).unwrap(), Some((1, 4)));
        for (p3, key, value) in
            [(false, many, "0"), (true, many, "x"), (false, at_once, "2"), (true, at_once, "0")]
        {
            let error = of(p3, &[(key, value)]).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn annotations_are_checked() {
        let of = |key: &str, value: &str| {
            HttpLimits::from_annotations(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert_eq!(of("unrelated", "x").unwrap().concurrency_max, CONCURRENCY_DEFAULT);
        assert_eq!(of(ANNOTATION_HTTP_CONCURRENCY, "3").unwrap().concurrency_max, 3);
        assert_eq!(of(ANNOTATION_HTTP_QUEUE, "0").unwrap().queue_max, 0);
        assert_eq!(of(ANNOTATION_HTTP_TIMEOUT, "5").unwrap().request_timeout, Some(Duration::from_secs(5)));
        for bad in ["0", "-1", "x", "", "99999999"] {
            let error = of(ANNOTATION_HTTP_CONCURRENCY, bad).unwrap_err();
            assert!(error.to_string().contains("coracle.dev/http-concurrency"), "{error}");
        }
    }
}
