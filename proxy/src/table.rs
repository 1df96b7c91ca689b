//! What the rules of one Service are, worked out of it and its EndpointSlices. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::dns::Family;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Everything a dataplane must do for one Service. The default does nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    pub ports: Vec<PortRules>,
    pub announcement: Announcement,
    pub health_check: Option<HealthCheck>,
}

/// Addresses that this node answers for on the network, though they are not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    pub addresses: Vec<Ipv4Addr>,
}

/// By this a load balancer finds out whether the node has endpoints of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: u16,
    pub local_endpoints: usize,
}

/// A network whose clients are let in.
pub type Source = (IpAddr, u8);

/// One port of a Service in one family, which all its addresses are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    pub family: Family,
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// The addresses on which `port` is served inside the cluster.
    pub addresses: Vec<IpAddr>,
    /// Those outside: external IPs.
    pub external_addresses: Vec<IpAddr>,
    /// Load balancers' addresses.
    pub balanced_addresses: Vec<IpAddr>,
    /// Whose clients load balancers let in; empty: everybody's.
    pub sources: Vec<Source>,
    /// Served on every address of the node.
    pub node_port: Option<u16>,
    /// A client keeps its endpoint for this long after its last connection.
    pub affinity: Option<Duration>,
    /// For clients inside the cluster; empty: refuse.
    pub endpoints: Vec<SocketAddr>,
    /// From outside, where the traffic policy is `Local` the node's own only; empty: refuse.
    pub node_port_endpoints: Vec<SocketAddr>,
    /// With the policy `Local`: what clients inside the cluster reach by the addresses for outside. Else empty.
    pub inside_endpoints: Vec<SocketAddr>,
}

/// A way in to a port, for clients inside the cluster, which this node's own are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayIn<'a> {
    pub family: Family,
    /// None: every address of the node.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub endpoints: &'a [SocketAddr],
    /// Whose clients are let in; empty: everybody's.
    pub sources: &'a [Source],
}

impl PortRules {
    pub fn ways_in(&self) -> Vec<WayIn<'_>> {
        let outside =
            if self.inside_endpoints.is_empty() { &self.node_port_endpoints } else { &self.inside_endpoints };
        let at = |addresses: &[IpAddr]| addresses.iter().map(|a| (Some(*a), self.port)).collect::<Vec<_>>();
        let groups = [
            (at(&self.addresses), &self.endpoints, &[][..]),
            (at(&self.external_addresses), outside, &[][..]),
            (at(&self.balanced_addresses), outside, &self.sources[..]),
            (
                self.node_port.map(|number| (None, number)).into_iter().collect(),
                &self.node_port_endpoints,
                &[][..],
            ),
        ];
        groups
            .into_iter()
            .flat_map(|(ways, endpoints, sources)| {
                ways.into_iter().map(move |(address, port)| WayIn {
                    family: self.family,
                    address,
                    port,
                    endpoints,
                    sources,
                })
            })
            .collect()
    }
}

/// The node whose proxy answers for the addresses of a Service's load balancer; cloud controllers say so.
pub const ANNOUNCED_BY: &str = "coracle.dev/announced-by";

/// Where the node is, for policies and hints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    pub node: &'a str,
    /// Of its label `topology.kubernetes.io/zone`.
    pub zone: Option<&'a str>,
}

/// The rules of a Service on a node at `place`. Headless and external-name Services have none.
pub fn rules(service: &Service, slices: &[EndpointSlice], place: Place<'_>) -> ServiceRules {
    let Some(spec) = &service.spec else { return ServiceRules::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return ServiceRules::default();
    }
    // "None" is no address.
    let listed = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    let mut cluster_ips: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    cluster_ips.dedup();
    cluster_ips.sort_by_key(IpAddr::is_ipv6);
    cluster_ips.dedup_by_key(|ip| ip.is_ipv6());
    if cluster_ips.is_empty() {
        return ServiceRules::default();
    }
    let external: Vec<IpAddr> = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let balanced: Vec<IpAddr> = if is_balanced { balanced(service) } else { Vec::new() };
    let sources: Vec<Source> =
        spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| source(range)).collect();
    let is_restricted = spec.load_balancer_source_ranges.as_ref().is_some_and(|r| !r.is_empty());
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref())
            .and_then(|c| c.timeout_seconds)
            .unwrap_or(10_800);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(10_800))
    });
    let local = |policy: Option<&str>| policy == Some("Local");
    let exposes_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let of = |family: Family, addresses: &[IpAddr]| -> Vec<IpAddr> {
        addresses.iter().filter(|ip| Family::of(**ip) == family).copied().collect()
    };
    let ports = |cluster_ip: IpAddr| {
        let family = Family::of(cluster_ip);
        let sources: Vec<Source> = sources.iter().filter(|s| Family::of(s.0) == family).copied().collect();
        // Ranges of which none is of the family, or can be read, let nobody in.
        let balanced = if is_restricted && sources.is_empty() { Vec::new() } else { of(family, &balanced) };
        let external = of(family, &external);
        spec.ports.iter().flatten().filter_map(move |port| {
            let all = endpoints(port, slices, family, Reach::Near(place));
            let own = || endpoints(port, slices, family, Reach::Node(place.node));
            let for_policy = |only_own: bool| if only_own { own() } else { all.clone() };
            let is_local_outside = local(spec.external_traffic_policy.as_deref());
            Some(PortRules {
                family,
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
                addresses: vec![cluster_ip],
                external_addresses: external.clone(),
                balanced_addresses: balanced.clone(),
                sources: sources.clone(),
                node_port: port
                    .node_port
                    .filter(|_| exposes_node_ports)
                    .and_then(|p| u16::try_from(p).ok())
                    .filter(|p| *p != 0),
                affinity,
                endpoints: for_policy(local(spec.internal_traffic_policy.as_deref())),
                node_port_endpoints: for_policy(is_local_outside),
                inside_endpoints: if is_local_outside { all } else { Vec::new() },
            })
        })
    };
    let ports: Vec<PortRules> = cluster_ips.into_iter().flat_map(ports).collect();
    // What neighbours are told is IPv4's only.
    let told = ports.iter().flat_map(|port| &port.balanced_addresses);
    let mut told: Vec<Ipv4Addr> =
        told.filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect();
    told.sort_unstable();
    told.dedup();
    let announced = service.metadata.annotations.as_ref().and_then(|a| a.get(ANNOUNCED_BY));
    let announced = announced.is_some_and(|by| by == place.node);
    ServiceRules {
        ports,
        announcement: Announcement { addresses: if announced { told } else { Vec::new() } },
        health_check: health_check(service, slices, place.node),
    }
}

/// Addresses in the status whose traffic comes as it was sent; with `Proxy` the load balancer changes it on the way.
fn balanced(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    status
        .into_iter()
        .flat_map(|s| s.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect()
}

fn source(range: &str) -> Option<Source> {
    let (address, prefix) = range.trim().split_once('/')?;
    let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= bits).then(|| (masked(address, prefix), prefix))
}

/// The network address.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Whether an address lies in a network.
pub fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && masked(address, prefix) == masked(network, prefix)
}

/// Whether a client's address lies in one of the networks; without any everybody is let in.
pub fn admits(sources: &[Source], client: IpAddr) -> bool {
    sources.is_empty() || sources.iter().any(|source| contains(*source, client.to_canonical()))
}

fn health_check(service: &Service, slices: &[EndpointSlice], node: &str) -> Option<HealthCheck> {
    let spec = service.spec.as_ref()?;
    let port =
        spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    if spec.type_.as_deref() != Some("LoadBalancer")
        || spec.external_traffic_policy.as_deref() != Some("Local")
    {
        return None;
    }
    let own = |endpoint: &&Endpoint| {
        endpoint.node_name.as_deref() == Some(node) && matches!(state(endpoint), State::Ready)
    };
    // An endpoint of two families is one.
    let family = spec.ip_families.iter().flatten().next().map_or("IPv4", String::as_str);
    let addresses: BTreeSet<&String> = slices
        .iter()
        .filter(|slice| slice.address_type == family)
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(own)
        .filter_map(|endpoint| endpoint.addresses.first())
        .collect();
    Some(HealthCheck { port, local_endpoints: addresses.len() })
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        // SCTP is not carried.
        _ => None,
    }
}

/// Which endpoints come into question.
#[derive(Clone, Copy)]
enum Reach<'a> {
    /// All, or of those that are ready the ones that hints set aside for this place.
    Near(Place<'a>),
    Node(&'a str),
}

/// Ready endpoints of a port; where there are none, those that end but still serve.
fn endpoints(
    port: &ServicePort,
    slices: &[EndpointSlice],
    family: Family,
    reach: Reach<'_>,
) -> Vec<SocketAddr> {
    let mut ready: Vec<(SocketAddr, &Endpoint)> = Vec::new();
    let mut ending = BTreeSet::new();
    let protocol_text = port.protocol.as_deref().unwrap_or("TCP");
    let address_type = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    for slice in slices.iter().filter(|s| s.address_type == address_type) {
        let target = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && p.protocol.as_deref().unwrap_or("TCP") == protocol_text
        });
        let Some(target) = target.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if matches!(reach, Reach::Node(node) if endpoint.node_name.as_deref() != Some(node)) {
                continue;
            }
            // Addresses of one endpoint are alternatives; consumers use the first.
            let ip: Option<IpAddr> = endpoint.addresses.first().and_then(|a| a.parse().ok());
            let Some(ip) = ip.filter(|ip| Family::of(*ip) == family) else { continue };
            let address = SocketAddr::new(ip, target);
            match state(endpoint) {
                State::Ready => ready.push((address, endpoint)),
                State::Ending => drop(ending.insert(address)),
                State::Out => {}
            }
        }
    }
    if let Reach::Near(place) = reach {
        keep_near(&mut ready, place);
    }
    let chosen = if ready.is_empty() { ending } else { ready.into_iter().map(|(a, _)| a).collect() };
    chosen.into_iter().collect()
}

/// Hints count when every endpoint has one and one is for here; those for nodes before those for zones.
fn keep_near(ready: &mut Vec<(SocketAddr, &Endpoint)>, place: Place<'_>) {
    let for_node = |e: &Endpoint| {
        let nodes = e.hints.as_ref().and_then(|h| h.for_nodes.as_ref()).filter(|n| !n.is_empty());
        nodes.map(|nodes| nodes.iter().any(|n| n.name == place.node))
    };
    let for_zone = |e: &Endpoint| {
        let zones = e.hints.as_ref().and_then(|h| h.for_zones.as_ref()).filter(|z| !z.is_empty());
        zones.map(|zones| zones.iter().any(|z| Some(z.name.as_str()) == place.zone))
    };
    let count = |hint: &dyn Fn(&Endpoint) -> Option<bool>| {
        ready.iter().all(|(_, e)| hint(e).is_some()) && ready.iter().any(|(_, e)| hint(e) == Some(true))
    };
    if count(&for_node) {
        ready.retain(|(_, e)| for_node(e) == Some(true));
    } else if count(&for_zone) {
        ready.retain(|(_, e)| for_zone(e) == Some(true));
    }
}

enum State {
    Ready,
    Ending,
    Out,
}

fn state(endpoint: &Endpoint) -> State {
    let Some(conditions) = &endpoint.conditions else { return State::Ready };
    let ready = conditions.ready.unwrap_or(true);
    let ending = conditions.terminating.unwrap_or(false);
    if ready {
        State::Ready
    } else if ending && conditions.serving.unwrap_or(false) {
        State::Ending
    } else {
        State::Out
    }
}

#[cfg(test)]
mod tests;
