//! One pod's private view of the network: which address it is, what it may bind and reach, and how names resolve.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cidr::Cidr;
use super::resolver::{ResolveError, Resolver, SearchList, is_name};
use crate::runtime::Protocol;

/// Balances a guest's connect to a Service address; the proxy's table implements it, so that no packet takes a hop.
pub trait ConnectBalancer: Send + Sync + 'static {
    fn choose(&self, source: IpAddr, destination: SocketAddr, protocol: Protocol) -> Choice;
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
    #[error("pods have IPv4 addresses only")]
    Ipv6Unsupported,
    #[error("the node's loopback is not reachable from a pod")]
    Denied,
    #[error("the Service has no ready endpoint")]
    Refused,
    #[error("the pod has ended")]
    Closed,
}

/// The pod's network. Closed (and its address freed) when the pod has ended.
pub struct PodNetwork {
    ip: Ipv4Addr,
    loopback: Ipv4Addr,
    /// Loopback ranges that other pods and Services live in (rootless nodes).
    reachable_loopback: Vec<Cidr>,
    search: SearchList,
    resolver: Arc<dyn Resolver>,
    balancer: Option<Arc<dyn ConnectBalancer>>,
    bound: Mutex<HashMap<(Protocol, SocketAddr), Bound>>,
    closed: CancellationToken,
}

/// How a guest bound a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    wildcard: bool,
}

pub(super) struct PodNetworkParts {
    pub ip: Ipv4Addr,
    pub loopback: Ipv4Addr,
    pub reachable_loopback: Vec<Cidr>,
    pub search: SearchList,
    pub resolver: Arc<dyn Resolver>,
    pub balancer: Option<Arc<dyn ConnectBalancer>>,
}

impl PodNetwork {
    pub(super) fn new(parts: PodNetworkParts) -> Self {
        PodNetwork {
            ip: parts.ip,
            loopback: parts.loopback,
            reachable_loopback: parts.reachable_loopback,
            search: parts.search,
            resolver: parts.resolver,
            balancer: parts.balancer,
            bound: Mutex::new(HashMap::new()),
            closed: CancellationToken::new(),
        }
    }

    /// `status.podIP`.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The address that stands for this pod's 127.0.0.1 on the node.
    pub fn loopback(&self) -> Ipv4Addr {
        self.loopback
    }

    /// Cancelled when the pod has ended: nothing binds or connects from then on.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        self.bound.lock().clear();
    }

    /// Resolves a name as the pod's resolv.conf would; addresses stand for themselves. IPv4 only.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        if !is_name(name) {
            return Err(ResolveError::InvalidName(name.to_owned()));
        }
        if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
        }
        for candidate in self.search.candidates(name) {
            match self.resolver.resolve(&candidate).await {
                Ok(mut addresses) => {
                    addresses.retain(IpAddr::is_ipv4);
                    if !addresses.is_empty() {
                        return Ok(addresses);
                    }
                }
                Err(ResolveError::NotFound(_) | ResolveError::InvalidName(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Err(ResolveError::NotFound(name.to_owned()))
    }

    /// The node address that a guest's bind to `wanted` becomes.
    pub fn bind_address(&self, wanted: SocketAddr) -> Result<SocketAddr, AddressError> {
        if self.closed.is_cancelled() {
            return Err(AddressError::Closed);
        }
        match wanted.ip() {
            IpAddr::V6(_) => Err(AddressError::Ipv6Unsupported),
            IpAddr::V4(ip) if ip.is_unspecified() || ip == self.ip => {
                Ok(SocketAddr::new(self.ip.into(), wanted.port()))
            }
            IpAddr::V4(ip) if is_guest_loopback(ip) => {
                Ok(SocketAddr::new(self.loopback.into(), wanted.port()))
            }
            IpAddr::V4(_) => Err(AddressError::NotBindable),
        }
    }

    /// The node address that a guest's connect (or datagram) to `wanted` goes to.
    pub fn connect_address(
        &self,
        wanted: SocketAddr,
        protocol: Protocol,
    ) -> Result<SocketAddr, AddressError> {
        if self.closed.is_cancelled() {
            return Err(AddressError::Closed);
        }
        let IpAddr::V4(ip) = wanted.ip() else { return Err(AddressError::Ipv6Unsupported) };
        if ip.is_unspecified() || is_guest_loopback(ip) {
            // A wildcard listener is bound to the pod IP only, and is reachable through loopback as on any host.
            let at_pod_ip = SocketAddr::new(self.ip.into(), wanted.port());
            let wildcard = self.bound.lock().get(&(protocol, at_pod_ip)).is_some_and(|bound| bound.wildcard);
            let real = if wildcard { self.ip } else { self.loopback };
            return Ok(SocketAddr::new(real.into(), wanted.port()));
        }
        if let Some(balancer) = &self.balancer {
            match balancer.choose(self.ip.into(), wanted, protocol) {
                Choice::NotAService => {}
                Choice::Backend(backend) => return Ok(backend),
                Choice::NoBackend => return Err(AddressError::Refused),
            }
        }
        if ip.is_loopback() && ip != self.ip && !self.reachable_loopback.iter().any(|cidr| cidr.contains(ip))
        {
            return Err(AddressError::Denied);
        }
        Ok(wanted)
    }

    /// The source address for a connection to `destination` (a node address).
    pub fn source_address(&self, destination: SocketAddr) -> SocketAddr {
        let source = if destination.ip() == IpAddr::V4(self.loopback) { self.loopback } else { self.ip };
        SocketAddr::new(source.into(), 0)
    }

    /// What the guest is told an address is: its private loopback is its 127.0.0.1.
    pub fn seen_by_guest(&self, address: SocketAddr) -> SocketAddr {
        if address.ip() == IpAddr::V4(self.loopback) {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        } else {
            address
        }
    }

    /// True for the pod's own two addresses.
    pub fn owns(&self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(self.ip) || ip == IpAddr::V4(self.loopback)
    }

    /// Second line of defence, over node addresses: may the pod send to it?
    pub fn may_reach(&self, address: SocketAddr) -> bool {
        match address.ip() {
            IpAddr::V6(_) => false,
            IpAddr::V4(ip) => {
                !ip.is_loopback()
                    || self.owns(ip.into())
                    || self.reachable_loopback.iter().any(|cidr| cidr.contains(ip))
            }
        }
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

/// What a guest calls loopback. The rest of 127/8 may be other pods on a rootless node.
fn is_guest_loopback(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [127, 0, 0, _])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::resolver::HostResolver;

    struct OneService;
    impl ConnectBalancer for OneService {
        fn choose(&self, _source: IpAddr, destination: SocketAddr, _protocol: Protocol) -> Choice {
            match destination.to_string().as_str() {
                "10.96.0.10:80" => Choice::Backend("10.244.0.9:8080".parse().unwrap()),
                "10.96.0.11:80" => Choice::NoBackend,
                _ => Choice::NotAService,
            }
        }
    }

    fn pod(ip: &str, reachable: &[&str]) -> PodNetwork {
        PodNetwork::new(PodNetworkParts {
            ip: ip.parse().unwrap(),
            loopback: "127.200.0.5".parse().unwrap(),
            reachable_loopback: reachable.iter().map(|c| c.parse().unwrap()).collect(),
            search: SearchList::default(),
            resolver: Arc::new(HostResolver),
            balancer: Some(Arc::new(OneService)),
        })
    }

    #[test]
    fn binds() {
        let pod = pod("10.244.0.5", &[]);
        for (wanted, got) in [
            ("0.0.0.0:80", Ok("10.244.0.5:80")),
            ("10.244.0.5:0", Ok("10.244.0.5:0")),
            ("127.0.0.1:80", Ok("127.200.0.5:80")),
            ("127.1.0.1:80", Err(AddressError::NotBindable)),
            ("10.244.0.6:80", Err(AddressError::NotBindable)),
            ("[::]:80", Err(AddressError::Ipv6Unsupported)),
        ] {
            assert_eq!(
                pod.bind_address(wanted.parse().unwrap()),
                got.map(|a| a.parse().unwrap()),
                "{wanted}"
            );
        }
    }

    #[test]
    fn connects() {
        let pod = pod("10.244.0.5", &["127.64.0.0/16"]);
        pod.note_bound(Protocol::Tcp, "10.244.0.5:8080".parse().unwrap(), true);
        pod.note_bound(Protocol::Tcp, "10.244.0.5:8081".parse().unwrap(), false);
        for (wanted, got) in [
            ("127.0.0.1:8080", Ok("10.244.0.5:8080")),
            ("127.0.0.1:8081", Ok("127.200.0.5:8081")),
            ("127.0.0.1:9", Ok("127.200.0.5:9")),
            ("127.64.3.4:80", Ok("127.64.3.4:80")),
            ("127.3.4.5:80", Err(AddressError::Denied)),
            ("10.244.0.77:80", Ok("10.244.0.77:80")),
            ("10.96.0.10:80", Ok("10.244.0.9:8080")),
            ("10.96.0.11:80", Err(AddressError::Refused)),
            ("[::1]:80", Err(AddressError::Ipv6Unsupported)),
        ] {
            assert_eq!(
                pod.connect_address(wanted.parse().unwrap(), Protocol::Tcp),
                got.map(|a| a.parse().unwrap()),
                "{wanted}"
            );
        }
        assert_eq!(
            pod.connect_address("127.0.0.1:8080".parse().unwrap(), Protocol::Udp),
            Ok("127.200.0.5:8080".parse().unwrap()),
            "a TCP listener does not answer datagrams"
        );
    }

    #[test]
    fn a_closed_pod_binds_nothing() {
        let pod = pod("10.244.0.5", &[]);
        pod.close();
        assert_eq!(pod.bind_address("0.0.0.0:80".parse().unwrap()), Err(AddressError::Closed));
        assert_eq!(
            pod.connect_address("10.0.0.1:80".parse().unwrap(), Protocol::Tcp),
            Err(AddressError::Closed)
        );
    }

    #[tokio::test]
    async fn resolves_addresses_and_localhost_without_asking() {
        let pod = pod("10.244.0.5", &[]);
        assert_eq!(pod.resolve("10.1.2.3").await, Ok(vec!["10.1.2.3".parse().unwrap()]));
        assert_eq!(pod.resolve("localhost").await, Ok(vec!["127.0.0.1".parse().unwrap()]));
        assert_eq!(pod.resolve("a b").await, Err(ResolveError::InvalidName("a b".into())));
    }
}
