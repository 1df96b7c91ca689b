//! One pod's private view of the network: which address it is, what it may bind and reach, and how names resolve.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cidr::Ranges;
use super::flows::Flows;
use super::host_ports::HostPorts;
use super::names::PodNames;
use super::node_addresses::NodeAddresses;
use super::outbound::Outbound;
use super::pod6::{self, Six};
use super::resolver::{Families, ResolveError, is_name};
use crate::runtime::Protocol;

/// Balances a guest's connect to a Service address; the proxy's table implements it, so that no packet takes a hop.
pub trait ConnectBalancer: Send + Sync + 'static {
    fn choose(&self, source: IpAddr, destination: SocketAddr, protocol: Protocol) -> Choice;
    /// For a port of the node itself.
    fn choose_node_port(&self, source: IpAddr, port: u16, protocol: Protocol) -> Choice;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Not a Service address: connect to it as it is.
    NotAService,
    Backend(SocketAddr),
    /// A Service without a ready endpoint: connection refused.
    NoBackend,
}

/// Why an address was not given to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("address is not the pod's own")]
    NotBindable,
    #[error("the pod has no IPv6 address")]
    Ipv6Unsupported,
    #[error("the node's own ports are not reachable from a pod")]
    Denied,
    #[error("the pod's allowed outbound hosts do not include it")]
    NotAllowed,
    #[error("the Service has no ready endpoint")]
    Refused,
    #[error("the pod has ended")]
    Closed,
}

/// What all pods of the node share.
pub(super) struct Shared {
    pub balancer: Option<Arc<dyn ConnectBalancer>>,
    /// Of the cluster's Services and pods.
    pub cluster_networks: Ranges,
    pub cluster_domain: String,
    pub node: NodeAddresses,
    pub host_ports: HostPorts,
}

/// The pod's network. Closed (and its address freed) when the pod has ended.
pub struct PodNetwork {
    ip: Ipv4Addr,
    loopback: Ipv4Addr,
    /// Where pods have addresses of both families.
    six: Option<Six>,
    /// Its network is the node's (`hostNetwork`).
    host: bool,
    names: PodNames,
    /// None: whatever upstream's pods may reach.
    outbound: Option<Outbound>,
    shared: Arc<Shared>,
    bound: Mutex<HashMap<(Protocol, SocketAddr), Bound>>,
    flows: Flows,
    /// Loopback addresses that a Service led to: the second line of defence cannot know them otherwise.
    chosen: Mutex<HashSet<SocketAddr>>,
    closed: CancellationToken,
}

/// How a guest bound a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    wildcard: bool,
}

/// Services on the node's loopback that one pod may hold on to.
const CHOSEN_MAX: usize = 64;

pub(super) struct PodNetworkParts {
    pub ip: Ipv4Addr,
    pub loopback: Ipv4Addr,
    pub six: Option<Six>,
    pub host: bool,
    pub names: PodNames,
    pub outbound: Option<Outbound>,
    pub shared: Arc<Shared>,
}

impl PodNetwork {
    pub(super) fn new(parts: PodNetworkParts) -> Self {
        PodNetwork {
            ip: parts.ip,
            loopback: parts.loopback,
            six: parts.six,
            host: parts.host,
            names: parts.names,
            outbound: parts.outbound,
            shared: parts.shared,
            bound: Mutex::default(),
            flows: Flows::default(),
            chosen: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    /// `status.podIP`.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The second of `status.podIPs`.
    pub fn ip6(&self) -> Option<Ipv6Addr> {
        self.six.map(|six| six.ip)
    }

    /// `status.podIPs`.
    pub fn ips(&self) -> Vec<IpAddr> {
        std::iter::once(self.ip.into()).chain(self.ip6().map(IpAddr::V6)).collect()
    }

    /// The address that stands for this pod's 127.0.0.1 on the node.
    pub fn loopback(&self) -> Ipv4Addr {
        self.loopback
    }

    /// Where a hostPort listens: at the address it names, or at every one of the node.
    pub fn host_addresses(&self, wanted: Option<IpAddr>) -> Vec<IpAddr> {
        match wanted.filter(|ip| !ip.is_unspecified()) {
            Some(address) => vec![address],
            // NOTE: not 0.0.0.0, which would take the port from every pod of the node.
            None => {
                let all = self.shared.node.all();
                all.iter().filter(|ip| ip.is_ipv4() || self.six.is_some()).copied().collect()
            }
        }
    }

    /// The pod's address for what came to a hostPort at this address of the node.
    pub fn ip_behind(&self, node_address: IpAddr) -> IpAddr {
        match (node_address, self.six) {
            (IpAddr::V6(_), Some(six)) => six.ip.into(),
            _ => self.ip.into(),
        }
    }

    /// Cancelled when the pod has ended: nothing binds or connects from then on.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        self.bound.lock().clear();
    }

    /// Resolves a name as the pod's hosts file and resolv.conf would; addresses stand for themselves. Of families only
    /// those that the pod has, IPv4 first: an IPv6 address may have no way out of the cluster.
    /// What it answers the pod may connect to, where it may connect to the name.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        if !is_name(name) {
            return Err(ResolveError::InvalidName(name.to_owned()));
        }
        let bare = name.trim_end_matches('.');
        if bare.eq_ignore_ascii_case("localhost") {
            let six = self.six.map(|_| Ipv6Addr::LOCALHOST.into());
            return Ok(std::iter::once(Ipv4Addr::LOCALHOST.into()).chain(six).collect());
        }
        let mut known = self.names.hosts.find(bare);
        known.retain(|address| address.is_ipv4() || self.six.is_some());
        let families = if self.six.is_some() { Families::Both } else { Families::V4 };
        if known.iter().all(|address| self.owns(*address)) && !known.is_empty() {
            return Ok(known);
        }
        let allows = |name: &str| self.outbound.as_ref().is_none_or(|outbound| outbound.allows_name(name));
        if !known.is_empty() {
            if !allows(bare) {
                return Err(ResolveError::Denied(name.to_owned()));
            }
            self.grant(&[bare], &known);
            return Ok(known);
        }
        let mut denied = false;
        for candidate in self.names.search.candidates(name) {
            if !allows(bare) && !allows(&candidate) {
                denied = true;
                continue;
            }
            match self.names.ask(&candidate, families).await {
                Ok(mut addresses) => {
                    addresses.retain(|address| address.is_ipv4() || self.six.is_some());
                    addresses.sort_by_key(IpAddr::is_ipv6);
                    if addresses.is_empty() {
                        continue;
                    }
                    self.drop_inner(&candidate, &mut addresses);
                    if addresses.is_empty() {
                        return Err(ResolveError::Denied(name.to_owned()));
                    }
                    self.grant(&[bare, &candidate], &addresses);
                    return Ok(addresses);
                }
                Err(ResolveError::NotFound(_) | ResolveError::InvalidName(_)) => {}
                Err(other) => return Err(other),
            }
        }
        if denied {
            return Err(ResolveError::Denied(name.to_owned()));
        }
        Err(ResolveError::NotFound(name.to_owned()))
    }

    /// A permitted name of somebody else's must not open the cluster or the node: whoever answers for it could make it
    /// lead there.
    fn drop_inner(&self, name: &str, addresses: &mut Vec<IpAddr>) {
        let domain = &self.shared.cluster_domain;
        let ours = name
            .len()
            .checked_sub(domain.len())
            .and_then(|cut| name.get(cut..))
            .is_some_and(|end| end.eq_ignore_ascii_case(domain));
        if self.outbound.is_none() || ours {
            return;
        }
        addresses.retain(|address| {
            let address = address.to_canonical();
            !is_surroundings(address)
                && !address.is_loopback()
                && !address.is_unspecified()
                && !self.shared.node.has(address)
                && !self.shared.cluster_networks.contains(address)
        });
    }

    fn grant(&self, names: &[&str], addresses: &[IpAddr]) {
        if let Some(outbound) = &self.outbound {
            outbound.grant(names, addresses, Instant::now());
        }
    }

    /// Whether the pod may send an http request there. Its connection is checked besides, when it is made.
    pub fn allows_request(&self, https: bool, host: &str, port: u16) -> bool {
        let Some(outbound) = &self.outbound else { return true };
        let own = host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| self.is_own(ip))
            || self.names.hosts.find(host).first().is_some_and(|ip| self.is_own(*ip));
        if own {
            return true;
        }
        let mut names = vec![host.to_owned()];
        if host.parse::<IpAddr>().is_err() {
            names.extend(self.names.search.candidates(host));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        outbound.allows_request(https, &names, port)
    }

    /// The node address that a guest's bind to `wanted` becomes.
    pub fn bind_address(&self, wanted: SocketAddr) -> Result<SocketAddr, AddressError> {
        if self.closed.is_cancelled() {
            return Err(AddressError::Closed);
        }
        let own = self.own_of(wanted.ip())?;
        let real = match wanted.ip() {
            ip if ip.is_unspecified() || ip == own.ip => own.ip,
            ip if self.host && self.shared.node.has(ip) => ip,
            ip if is_guest_loopback(ip) => own.loopback,
            _ => return Err(AddressError::NotBindable),
        };
        Ok(SocketAddr::new(real, wanted.port()))
    }

    /// The pod's addresses of that one's family.
    fn own_of(&self, ip: IpAddr) -> Result<Own, AddressError> {
        match (ip, self.six) {
            (IpAddr::V4(_), _) => Ok(Own { ip: self.ip.into(), loopback: self.loopback.into() }),
            (IpAddr::V6(_), Some(six)) => Ok(Own { ip: six.ip.into(), loopback: six.loopback.into() }),
            (IpAddr::V6(_), None) => Err(AddressError::Ipv6Unsupported),
        }
    }

    /// The node address that a guest's connect to `wanted` goes to.
    pub fn connect_address(
        &self,
        wanted: SocketAddr,
        protocol: Protocol,
    ) -> Result<SocketAddr, AddressError> {
        if self.closed.is_cancelled() {
            return Err(AddressError::Closed);
        }
        // ::ffff:10.0.0.1 is 10.0.0.1, for every rule below.
        let ip = wanted.ip().to_canonical();
        let wanted = SocketAddr::new(ip, wanted.port());
        let own = self.own_of(ip)?;
        if ip.is_unspecified() || is_guest_loopback(ip) {
            // A wildcard listener is bound to the pod IP only, and is reachable through loopback as on any host.
            let at_pod_ip = SocketAddr::new(own.ip, wanted.port());
            let wildcard = self.bound.lock().get(&(protocol, at_pod_ip)).is_some_and(|bound| bound.wildcard);
            let real = if wildcard { own.ip } else { own.loopback };
            return Ok(SocketAddr::new(real, wanted.port()));
        }
        if ip == own.ip {
            return Ok(wanted);
        }
        if let Some(outbound) = &self.outbound
            && !outbound.allows_address(wanted, protocol, Instant::now())
        {
            return Err(AddressError::NotAllowed);
        }
        if let Some(balancer) = &self.shared.balancer
            && let Some(backend) = self.backend(balancer.choose(own.ip, wanted, protocol))?
        {
            return Ok(backend);
        }
        if self.host {
            return Ok(wanted);
        }
        if is_surroundings(ip) {
            return Err(AddressError::Denied);
        }
        if ip.is_loopback() {
            return if self.is_inner(ip) { Ok(wanted) } else { Err(AddressError::Denied) };
        }
        if self.shared.node.has(ip) && !self.shared.host_ports.has(ip, wanted.port(), protocol) {
            let Some(balancer) = &self.shared.balancer else { return Err(AddressError::Denied) };
            let choice = balancer.choose_node_port(own.ip, wanted.port(), protocol);
            return self.backend(choice)?.ok_or(AddressError::Denied);
        }
        Ok(wanted)
    }

    fn backend(&self, choice: Choice) -> Result<Option<SocketAddr>, AddressError> {
        let backend = match choice {
            Choice::NotAService => return Ok(None),
            Choice::NoBackend => return Err(AddressError::Refused),
            Choice::Backend(backend) => backend,
        };
        let ip = backend.ip();
        if is_surroundings(ip) || is_private_loopback(ip) {
            return Err(AddressError::Denied);
        }
        if ip.is_loopback() && !self.is_inner(ip) {
            let mut chosen = self.chosen.lock();
            if chosen.len() >= CHOSEN_MAX {
                chosen.clear();
            }
            chosen.insert(backend);
        }
        Ok(Some(backend))
    }

    /// The node address that a guest's datagram to `wanted` goes to: to one endpoint as long as they talk.
    pub fn datagram_address(&self, wanted: SocketAddr) -> Result<SocketAddr, AddressError> {
        if let Some(known) = self.flows.endpoint_of(wanted, Instant::now()) {
            return if self.closed.is_cancelled() { Err(AddressError::Closed) } else { Ok(known) };
        }
        let real = self.connect_address(wanted, Protocol::Udp)?;
        if real != wanted && !is_guest_loopback_address(wanted) {
            self.flows.begin(wanted, real, Instant::now());
        }
        Ok(real)
    }

    /// Who a guest is told that a datagram is from: the address it sent its own to.
    pub fn datagram_source(&self, real: SocketAddr) -> SocketAddr {
        self.flows.wanted_of(real).unwrap_or_else(|| self.seen_by_guest(real))
    }

    /// The source address for a connection to `destination` (a node address).
    pub fn source_address(&self, destination: SocketAddr) -> SocketAddr {
        let (ip, loopback, any) = match (destination.ip(), self.six) {
            (IpAddr::V6(_), Some(six)) => (six.ip.into(), six.loopback.into(), Ipv6Addr::UNSPECIFIED.into()),
            _ => (self.ip.into(), self.loopback.into(), Ipv4Addr::UNSPECIFIED.into()),
        };
        let source = match destination.ip() {
            to if to == loopback => loopback,
            _ if self.host => any,
            _ => ip,
        };
        SocketAddr::new(source, 0)
    }

    /// What the guest is told an address is: its private loopback is its 127.0.0.1, or ::1.
    pub fn seen_by_guest(&self, address: SocketAddr) -> SocketAddr {
        let seen = match address.ip() {
            IpAddr::V4(ip) if ip == self.loopback => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if self.six.is_some_and(|six| six.loopback == ip) => Ipv6Addr::LOCALHOST.into(),
            _ => return address,
        };
        SocketAddr::new(seen, address.port())
    }

    /// True for addresses that the pod may bind.
    pub fn owns(&self, ip: IpAddr) -> bool {
        if self.host { ip.is_unspecified() || self.shared.node.has(ip) } else { self.is_own(ip) }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.own_of(ip).is_ok_and(|own| ip == own.ip || ip == own.loopback || is_guest_loopback(ip))
    }

    /// An address in 127.0.0.0/8 that is a pod's or a Service's (on rootless nodes).
    fn is_inner(&self, ip: IpAddr) -> bool {
        self.shared.cluster_networks.contains(ip)
    }

    /// Second line of defence, over node addresses: may the pod send to it?
    pub fn may_reach(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let Ok(own) = self.own_of(ip) else { return false };
        if self.host || ip == own.ip || ip == own.loopback {
            return true;
        }
        if is_surroundings(ip) {
            return false;
        }
        !ip.is_loopback() || self.is_inner(ip) || self.chosen.lock().contains(&address)
    }

    pub(crate) fn note_bound(&self, protocol: Protocol, address: SocketAddr, wildcard: bool) {
        self.bound.lock().insert((protocol, address), Bound { wildcard });
    }

    pub(crate) fn note_unbound(&self, protocol: Protocol, address: SocketAddr) {
        self.bound.lock().remove(&(protocol, address));
    }

    /// The pod's bound sockets, for diagnosis.
    pub fn bound(&self) -> Vec<(Protocol, SocketAddr)> {
        self.bound.lock().keys().copied().collect()
    }
}

impl fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodNetwork").field("ip", &self.ip).finish_non_exhaustive()
    }
}

/// The pod's two addresses of one family.
struct Own {
    ip: IpAddr,
    loopback: IpAddr,
}

/// What a guest calls loopback. The rest of 127/8 may be other pods on a rootless node.
fn is_guest_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [127, 0, 0, _]),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

fn is_guest_loopback_address(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_unspecified() || is_guest_loopback(ip)
}

/// Where the pods' own loopbacks are (see `private_loopback`).
fn is_private_loopback(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if matches!(ip.octets(), [127, second, ..] if second >= 0x80))
}

/// Addresses that mean the node's own link (the cloud's metadata, the neighbours by their link-local names), and pods'
/// IPv6 loopbacks.
fn is_surroundings(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => pod6::is_forbidden(ip),
    }
}

#[cfg(test)]
mod tests;
