//! Pod networking on the node: addresses, each pod's private view of the network, and name resolution.

pub mod allocator;
mod anyip;
pub mod cidr;
pub mod pod;
pub mod resolver;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::Mutex;

pub use allocator::AllocateError;
pub use anyip::RouteError;
pub use cidr::{Cidr, CidrError};
pub use pod::{AddressError, Choice, ConnectBalancer, PodNetwork};
pub use resolver::{HostResolver, ResolveError, Resolver, SearchList};

use allocator::Allocator;
use pod::PodNetworkParts;

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
    #[error("make {cidr} local: {source}")]
    Route { cidr: Cidr, source: RouteError },
}

/// What the node's network is made of.
pub struct Options {
    pub mode: Mode,
    pub resolver: Arc<dyn Resolver>,
    pub balancer: Option<Arc<dyn ConnectBalancer>>,
    /// Ranges in 127.0.0.0/8 that pods may connect to beside the node's own pod range: the Service range and the
    /// other nodes' pod ranges when everything is rootless on one machine. Empty for AnyIP.
    pub reachable_loopback: Vec<Cidr>,
}

/// The node's pod network: one per node.
pub struct Network {
    options: Options,
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
            Mode::AnyIp(_) => {
                anyip::make_local(cidr).await.map_err(|source| NetworkError::Route { cidr, source })?;
            }
        }
        let pods = Mutex::new(Pods { allocator: Allocator::new(cidr), networks: HashMap::new() });
        Ok(Network { options, pods })
    }

    /// The range is local no more. No pod may run by then.
    pub async fn close(&self) {
        if let Mode::AnyIp(cidr) = self.options.mode
            && let Err(error) = anyip::remove(cidr).await
        {
            tracing::warn!(%error, %cidr, "the route of the pod range could not be removed");
        }
    }

    pub fn mode(&self) -> Mode {
        self.options.mode
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
        search: SearchList,
    ) -> Result<Arc<PodNetwork>, AllocateError> {
        let mut pods = self.pods.lock();
        if let Some(existing) = pods.networks.get(pod_uid) {
            return Ok(existing.clone());
        }
        let ip = match wanted {
            Some(address) if pods.allocator.claim(address, pod_uid).is_ok() => address,
            _ => pods.allocator.allocate(pod_uid)?,
        };
        let mut reachable_loopback = self.options.reachable_loopback.clone();
        if let Mode::Rootless(cidr) = self.options.mode {
            reachable_loopback.push(cidr);
        }
        let network = Arc::new(PodNetwork::new(PodNetworkParts {
            ip,
            loopback: private_loopback(ip),
            reachable_loopback,
            search,
            resolver: self.options.resolver.clone(),
            balancer: self.options.balancer.clone(),
        }));
        pods.networks.insert(pod_uid.to_owned(), network.clone());
        Ok(network)
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
        Options { mode, resolver: Arc::new(HostResolver), balancer: None, reachable_loopback: Vec::new() }
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
        let a = network.create("a", None, SearchList::default()).unwrap();
        assert_eq!(a.ip(), Ipv4Addr::new(127, 9, 0, 2));
        assert_eq!(a.loopback(), Ipv4Addr::new(127, 137, 0, 2));
        assert!(Arc::ptr_eq(&a, &network.create("a", None, SearchList::default()).unwrap()));
        let wanted = Ipv4Addr::new(127, 9, 0, 77);
        assert_eq!(network.create("b", Some(wanted), SearchList::default()).unwrap().ip(), wanted);
        let c = network.create("c", Some(wanted), SearchList::default()).unwrap();
        assert_ne!(c.ip(), wanted, "taken: another one");
        network.release("a");
        assert!(a.closed().is_cancelled());
        assert!(network.create("d", Some(a.ip()), SearchList::default()).unwrap().ip() == a.ip());
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
        let pod = network.create("a", None, SearchList::default()).unwrap();
        let listener = tokio::net::TcpListener::bind((pod.ip(), 0)).await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(client.local_addr().unwrap().ip(), pod.ip(), "probes come from the pod's own address");
        drop((listener, client));
        anyip::remove(cidr).await.unwrap();
        assert!(before.is_err());
        assert!(tokio::net::TcpListener::bind((pod.ip(), 0)).await.is_err(), "removed");
    }
}
