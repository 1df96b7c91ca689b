//! Pod networking on the node: addresses, each pod's private view of the network, and name resolution.

pub mod allocator;
mod anyip;
pub mod cidr;
pub mod dns_config;
mod flows;
pub mod host_ports;
mod names;
mod nameservers;
mod node_addresses;
pub mod outbound;
pub mod pod;
mod pod6;
pub mod resolver;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

pub use allocator::AllocateError;
pub use anyip::RouteError;
pub use cidr::{Cidr, Cidr6, Cidr6Error, CidrError, Ranges};
pub use dns_config::{DnsConfig, NodeDns, ResolvConf};
pub use host_ports::HostPortTaken;
pub use names::Hosts;
pub use outbound::AllowList;
pub use pod::{AddressError, Choice, ConnectBalancer, PodNetwork};
pub use resolver::{Families, ResolveError, Resolver, SearchList};

use crate::runtime::Port;
use allocator::Allocator;
use names::PodNames;
use nameservers::Nameservers;
use node_addresses::NodeAddresses;
use outbound::Outbound;
use pod::{PodNetworkParts, Shared};
use pod6::Six;

/// How pod addresses come to exist on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The whole range is made local by one route (`local CIDR dev lo`): needs CAP_NET_ADMIN.
    AnyIp(Cidr),
    /// The range lies in 127.0.0.0/8, which every Linux has local already: reachable from this machine only.
    Rootless(Cidr),
}

impl Mode {
    pub fn cidr(&self) -> Cidr {
        match self {
            Mode::AnyIp(cidr) | Mode::Rootless(cidr) => *cidr,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "rootless pod range {0} must lie in 127.1.0.0–127.127.255.255 (above are the pods' private loopbacks)"
    )]
    NotLoopback(Cidr),
    #[error("pod range {0} lies in 127.0.0.0/8, which only a rootless node may use")]
    Loopback(Cidr),
    #[error("a rootless node's pods cannot have addresses of {0} beside theirs in 127.0.0.0/8")]
    RootlessSecond(Cidr6),
    #[error("pod range {0} overlaps with fd7f:c0ac:1e::/64, where pods' own loopbacks are")]
    Loopbacks(Cidr6),
    #[error("make {cidr} local: {source}")]
    Route { cidr: String, source: RouteError },
}

/// What the node's network is made of.
pub struct Options {
    pub mode: Mode,
    /// Pods have an address of this range, too, with the same number in it as the one in the first.
    pub second: Option<Cidr6>,
    /// The address by which others know the node.
    pub address: IpAddr,
    /// Its second one, which pods on the node's network have as theirs.
    pub address6: Option<Ipv6Addr>,
    /// The cluster's DNS server.
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    /// Answers for that server in this process; None: it is asked over the network.
    pub resolver: Option<Arc<dyn Resolver>>,
    pub balancer: Option<Arc<dyn ConnectBalancer>>,
    /// Of the cluster's Services and pods; the node's own pod range need not be among them.
    pub cluster_networks: Ranges,
}

impl Options {
    pub fn new(mode: Mode) -> Self {
        Options {
            mode,
            second: None,
            address: Ipv4Addr::LOCALHOST.into(),
            address6: None,
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10).into(),
            cluster_domain: "cluster.local".into(),
            resolver: None,
            balancer: None,
            cluster_networks: Ranges::default(),
        }
    }
}

/// What one pod asks of the network.
#[derive(Debug, Clone)]
pub struct Request {
    /// `namespace/name`, for messages.
    pub pod: String,
    pub host_network: bool,
    pub dns: DnsConfig,
    /// Names that lead to the pod itself.
    pub own_names: Vec<String>,
    /// Further lines of its hosts file.
    pub hosts: Vec<(String, IpAddr)>,
    /// None: whatever upstream's pods may reach.
    pub allowed: Option<AllowList>,
    pub host_ports: Vec<Port>,
}

#[cfg(test)]
impl Default for Request {
    /// Asks the cluster's DNS server, for names as they stand.
    fn default() -> Self {
        Request {
            pod: String::new(),
            host_network: false,
            dns: DnsConfig {
                servers: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
                search: SearchList::default(),
                timeout: std::time::Duration::from_secs(5),
                attempts: 1,
                warnings: Vec::new(),
            },
            own_names: Vec::new(),
            hosts: Vec::new(),
            allowed: None,
            host_ports: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Address(#[from] AllocateError),
    #[error(transparent)]
    HostPort(#[from] HostPortTaken),
}

/// The node's pod network: one per node.
pub struct Network {
    mode: Mode,
    second: Option<Cidr6>,
    cluster_dns: IpAddr,
    nameservers: Nameservers,
    shared: Arc<Shared>,
    pods: Mutex<Pods>,
}

struct Pods {
    allocator: Allocator,
    networks: HashMap<String, Arc<PodNetwork>>,
}

impl Network {
    /// Makes the range local.
    pub async fn new(options: Options) -> Result<Self, NetworkError> {
        let cidr = options.mode.cidr();
        let low = u32::from(Ipv4Addr::new(127, 1, 0, 0));
        let high = u32::from(Ipv4Addr::new(127, 127, 255, 255));
        match options.mode {
            Mode::Rootless(_) if u32::from(cidr.network()) < low || u32::from(cidr.broadcast()) > high => {
                return Err(NetworkError::NotLoopback(cidr));
            }
            Mode::Rootless(_) => {}
            Mode::AnyIp(_) if cidr.network().is_loopback() => return Err(NetworkError::Loopback(cidr)),
            Mode::AnyIp(_) => {}
        }
        let second = options.second;
        if let Some(second) = second {
            if matches!(options.mode, Mode::Rootless(_)) {
                return Err(NetworkError::RootlessSecond(second));
            }
            let (IpAddr::V6(loopbacks), prefix) = pod6::LOOPBACKS else { unreachable!("IPv6") };
            if Cidr6::new(loopbacks, prefix).is_some_and(|loopbacks| second.overlaps(&loopbacks)) {
                return Err(NetworkError::Loopbacks(second));
            }
        }
        if let Mode::AnyIp(_) = options.mode {
            anyip::make_local(cidr, second).await.map_err(|source| NetworkError::Route {
                cidr: second.map_or_else(|| cidr.to_string(), |second| format!("{cidr} and {second}")),
                source,
            })?;
        }
        // A pod has the same number in both ranges: the smaller one bounds them.
        let fits = second.map_or(u64::MAX, |second| second.size());
        let allocator = Allocator::within(cidr, fits);
        let pods = Mutex::new(Pods { allocator, networks: HashMap::new() });
        let mut cluster_networks = options.cluster_networks;
        cluster_networks.add(cidr.network().into(), cidr.prefix());
        if let Some(second) = second {
            cluster_networks.add(second.network().into(), second.prefix());
        }
        Ok(Network {
            mode: options.mode,
            second,
            cluster_dns: options.cluster_dns,
            nameservers: Nameservers::new(options.resolver.map(|resolver| (options.cluster_dns, resolver))),
            shared: Arc::new(Shared {
                balancer: options.balancer,
                cluster_networks,
                cluster_domain: options.cluster_domain,
                node: NodeAddresses::new(options.address, options.address6),
                host_ports: Default::default(),
            }),
            pods,
        })
    }

    /// The range is local no more. No pod may run by then.
    pub async fn close(&self) {
        if let Mode::AnyIp(cidr) = self.mode
            && let Err(error) = anyip::remove(cidr, self.second).await
        {
            tracing::warn!(%error, %cidr, "the route of the pod range could not be removed");
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the cluster's DNS server is.
    pub fn cluster_dns(&self) -> IpAddr {
        self.cluster_dns
    }

    /// How many pods the range holds.
    pub fn pods_max(&self) -> u64 {
        self.pods.lock().allocator.usable()
    }

    /// A network for the pod. `wanted` is the address its status shows (after a node restart); when that is free the
    /// pod keeps it. Asking again for the same uid gives the same network.
    pub fn create(
        &self,
        pod_uid: &str,
        wanted: Option<Ipv4Addr>,
        request: Request,
    ) -> Result<Arc<PodNetwork>, CreateError> {
        let mut pods = self.pods.lock();
        if let Some(existing) = pods.networks.get(pod_uid) {
            return Ok(existing.clone());
        }
        self.shared.host_ports.claim(pod_uid, &request.pod, &request.host_ports)?;
        let ip = match wanted {
            _ if request.host_network => self.shared.node.primary(),
            Some(address) if pods.allocator.claim(address, pod_uid).is_ok() => address,
            _ => pods.allocator.allocate(pod_uid).inspect_err(|_| self.shared.host_ports.release(pod_uid))?,
        };
        let six = if request.host_network {
            self.shared.node.primary6().map(Six::of_node)
        } else {
            self.second_address(ip).map(|second| Six::of_pod(second, ip))
        };
        let addresses = || std::iter::once(IpAddr::V4(ip)).chain(six.map(|six| IpAddr::V6(six.ip)));
        let own =
            request.own_names.into_iter().flat_map(|name| addresses().map(move |ip| (name.clone(), ip)));
        let hosts = Hosts::new(own.chain(request.hosts));
        let network = Arc::new(PodNetwork::new(PodNetworkParts {
            ip,
            loopback: if request.host_network { Ipv4Addr::LOCALHOST } else { private_loopback(ip) },
            six,
            host: request.host_network,
            names: PodNames::new(hosts, &request.dns, |server| self.nameservers.at(server)),
            outbound: request.allowed.map(Outbound::new),
            shared: self.shared.clone(),
        }));
        pods.networks.insert(pod_uid.to_owned(), network.clone());
        Ok(network)
    }

    fn second_address(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        let number = ip.to_bits().wrapping_sub(self.mode.cidr().network().to_bits());
        self.second?.nth(number.into())
    }

    /// The pod that has an address.
    pub fn find(&self, ip: Ipv4Addr) -> Option<Arc<PodNetwork>> {
        self.pods.lock().networks.values().find(|network| network.ip() == ip).cloned()
    }

    pub fn of_pod(&self, pod_uid: &str) -> Option<Arc<PodNetwork>> {
        self.pods.lock().networks.get(pod_uid).cloned()
    }

    /// Closes the pod's network and frees its address. Call when its last container has ended.
    pub fn release(&self, pod_uid: &str) {
        let mut pods = self.pods.lock();
        if let Some(network) = pods.networks.remove(pod_uid) {
            network.close();
            self.shared.host_ports.release(pod_uid);
            pods.allocator.free(network.ip(), pod_uid);
        }
    }
}

/// Every pod's 127.0.0.1 is an address of its own in 127.128.0.0/9, made of the low 23 bits of its pod IP.
fn private_loopback(ip: Ipv4Addr) -> Ipv4Addr {
    let [_, b, c, d] = ip.octets();
    Ipv4Addr::new(127, 0x80 | (b & 0x7f), c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: Mode) -> Options {
        Options::new(mode)
    }

    #[tokio::test]
    async fn ranges_are_checked() {
        for bad in ["127.0.0.0/16", "127.128.0.0/16", "10.0.0.0/8", "127.0.0.0/8"] {
            let mode = Mode::Rootless(bad.parse().unwrap());
            assert!(matches!(Network::new(options(mode)).await, Err(NetworkError::NotLoopback(_))), "{bad}");
        }
        let mode = Mode::AnyIp("127.5.0.0/16".parse().unwrap());
        assert!(matches!(Network::new(options(mode)).await, Err(NetworkError::Loopback(_))));
    }

    #[tokio::test]
    async fn pods_keep_and_free_their_address() {
        let network = Network::new(options(Mode::Rootless("127.9.0.0/24".parse().unwrap()))).await.unwrap();
        let a = network.create("a", None, Request::default()).unwrap();
        assert_eq!(a.ip(), Ipv4Addr::new(127, 9, 0, 2));
        assert_eq!(a.loopback(), Ipv4Addr::new(127, 137, 0, 2));
        assert!(Arc::ptr_eq(&a, &network.create("a", None, Request::default()).unwrap()));
        let wanted = Ipv4Addr::new(127, 9, 0, 77);
        assert_eq!(network.create("b", Some(wanted), Request::default()).unwrap().ip(), wanted);
        let c = network.create("c", Some(wanted), Request::default()).unwrap();
        assert_ne!(c.ip(), wanted, "taken: another one");
        network.release("a");
        assert!(a.closed().is_cancelled());
        assert!(network.create("d", Some(a.ip()), Request::default()).unwrap().ip() == a.ip());
    }

    #[tokio::test]
    async fn pods_on_the_nodes_network_share_its_address_and_ports() {
        let network = Network::new(options(Mode::Rootless("127.9.1.0/24".parse().unwrap()))).await.unwrap();
        let host = || Request { host_network: true, ..Request::default() };
        let before = network.pods_max();
        let (a, b) = (network.create("a", None, host()).unwrap(), network.create("b", None, host()).unwrap());
        assert_eq!((a.ip(), b.ip()), (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST));
        assert_eq!(network.pods_max(), before);
        let port = Port { port: 80, protocol: Default::default(), host_port: Some(80), host_ip: None };
        let with_port = |pod: &str| Request {
            pod: format!("ns/{pod}"),
            host_ports: vec![port.clone()],
            ..Request::default()
        };
        network.create("c", None, with_port("c")).unwrap();
        let error = network.create("d", None, with_port("d")).unwrap_err();
        assert_eq!(error.to_string(), "hostPort 80/Tcp is taken by pod ns/c");
        network.release("c");
        network.create("d", None, with_port("d")).unwrap();
    }

    /// Needs CAP_NET_ADMIN, as the mode itself does; adds a route in 198.18.0.0/15 and takes it away again.
    #[tokio::test]
    async fn anyip_makes_every_address_of_the_range_bindable() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let cidr: Cidr = format!("198.18.{}.0/24", std::process::id() % 256).parse().unwrap();
        let before = tokio::net::TcpListener::bind((cidr.nth(7).unwrap(), 0)).await;
        let network = match Network::new(options(Mode::AnyIp(cidr))).await {
            Err(NetworkError::Route { .. }) => return,
            made => made.unwrap(),
        };
        Network::new(options(Mode::AnyIp(cidr))).await.expect("the same again changes nothing");
        let pod = network.create("a", None, Request::default()).unwrap();
        let listener = tokio::net::TcpListener::bind((pod.ip(), 0)).await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(client.local_addr().unwrap().ip(), pod.ip(), "probes come from the pod's own address");
        drop((listener, client));
        anyip::remove(cidr, None).await.unwrap();
        assert!(before.is_err());
        assert!(tokio::net::TcpListener::bind((pod.ip(), 0)).await.is_err(), "removed");
    }
}
