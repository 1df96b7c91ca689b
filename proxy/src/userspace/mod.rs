//! Services as sockets of this process, where the kernel cannot be told: accept, choose an endpoint, copy.

mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::events::{EventRecorder, EventType};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::balance::Balancer;
use crate::dns::Family;
use crate::table::{Protocol, ServiceRules, WayIn};
use crate::{Backend, Error};

/// A port that is in use is tried again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Once tries are this far apart, the Service is told.
const TELL_AFTER: Duration = Duration::from_millis(600);

pub struct Userspace {
    recorder: EventRecorder,
    services: BTreeMap<Arc<str>, BTreeMap<Entrance, Open>>,
}

/// Where clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entrance {
    address: SocketAddr,
    protocol: Protocol,
}

/// A socket that is served; closed when dropped.
struct Open {
    balancer: Arc<Balancer>,
    closed: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Userspace {
    pub fn new(recorder: EventRecorder) -> Self {
        Self { recorder, services: BTreeMap::new() }
    }

    fn open(&self, service: &str, entrance: Entrance, balancer: Arc<Balancer>) -> Option<Open> {
        let closed = CancellationToken::new();
        match listen(entrance, &balancer, &closed) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let (own, service) = (self.recorder.clone(), service.to_owned());
                tokio::spawn(wait_for_port(own, service, entrance, balancer.clone(), closed.clone()));
            }
            Err(error) => {
                complain(&self.recorder, service, entrance, &error);
                return None;
            }
        }
        Some(Open { balancer, closed })
    }
}

fn listen(entrance: Entrance, balancer: &Arc<Balancer>, closed: &CancellationToken) -> io::Result<()> {
    match entrance.protocol {
        Protocol::Tcp => tcp::serve(entrance.address, balancer.clone(), closed.clone()),
        Protocol::Udp => udp::serve(entrance.address, balancer.clone(), closed.clone()),
    }
}

/// A port that is taken comes free: at once, where a Service just gave it up, or when another program ends.
async fn wait_for_port(
    recorder: EventRecorder,
    service: String,
    entrance: Entrance,
    balancer: Arc<Balancer>,
    closed: CancellationToken,
) {
    let mut pause = RETRY_FIRST;
    let mut told = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closed.cancelled() => return,
        }
        let Err(error) = listen(entrance, &balancer, &closed) else { return };
        pause = (pause * 2).min(RETRY_MAX);
        if !told && pause >= TELL_AFTER {
            told = true;
            complain(&recorder, &service, entrance, &error);
        }
    }
}

/// Says on the Service that one of its ports cannot be served here.
fn complain(recorder: &EventRecorder, service: &str, entrance: Entrance, error: &io::Error) {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        "; ports below 1024 need privileges: give the Service a higher port, or set net.ipv4.ip_unprivileged_port_start=0"
    } else {
        ""
    };
    let message = format!("Cannot serve {} {}: {error}{hint}", entrance.protocol.as_str(), entrance.address);
    warn!(service, "{message}");
    if let Some((namespace, name)) = service.split_once('/') {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            ..ObjectReference::default()
        };
        recorder.event_for(about, EventType::Warning, "FailedToBind", message);
    }
}

/// What is to be served, and by which endpoints. An entrance without endpoints is closed: the kernel then refuses.
fn entrances(rules: &ServiceRules) -> BTreeMap<Entrance, (WayIn<'_>, Option<Duration>)> {
    let mut all = BTreeMap::new();
    for port in &rules.ports {
        for way in port.ways_in().into_iter().filter(|way| !way.endpoints.is_empty()) {
            let loopback: IpAddr = match way.family {
                Family::V4 => Ipv4Addr::LOCALHOST.into(),
                Family::V6 => Ipv6Addr::LOCALHOST.into(),
            };
            let address = SocketAddr::new(way.address.unwrap_or(loopback), way.port);
            all.insert(Entrance { address, protocol: port.protocol }, (way, port.affinity));
        }
    }
    all
}

#[async_trait]
impl Backend for Userspace {
    async fn apply(&mut self, changed: Vec<(Arc<str>, ServiceRules)>) -> Result<(), Error> {
        for (service, rules) in changed {
            let wanted = entrances(&rules);
            let mut open = self.services.remove(&service).unwrap_or_default();
            open.retain(|entrance, _| wanted.contains_key(entrance));
            for (entrance, (WayIn { endpoints, sources, .. }, affinity)) in wanted {
                if let Some(known) = open.get(&entrance) {
                    known.balancer.set(endpoints, affinity);
                    known.balancer.let_in(sources);
                    continue;
                }
                let balancer = Arc::new(Balancer::new(endpoints, affinity));
                balancer.let_in(sources);
                if let Some(socket) = self.open(&service, entrance, balancer) {
                    open.insert(entrance, socket);
                }
            }
            if !open.is_empty() {
                self.services.insert(service, open);
            }
        }
        Ok(())
    }

    async fn stop(&mut self) {
        self.services.clear();
    }
}
