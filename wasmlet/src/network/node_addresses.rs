//! The addresses that are the node's own: those of its interfaces, looked at again every few seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(5);

pub struct NodeAddresses {
    /// The one by which others know the node.
    primary: IpAddr,
    /// The other one, of IPv6.
    second: Option<Ipv6Addr>,
    seen: Mutex<Option<(Instant, Arc<[IpAddr]>)>>,
}

impl NodeAddresses {
    pub fn new(primary: IpAddr, second: Option<Ipv6Addr>) -> Self {
        NodeAddresses { primary, second, seen: Mutex::new(None) }
    }

    /// NOTE: without link-local ones of IPv6, which mean nothing without their interface; no pod may reach any.
    pub fn all(&self) -> Arc<[IpAddr]> {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        if let Some((at, addresses)) = &*seen
            && now.duration_since(*at) < LOOK_EVERY
        {
            return addresses.clone();
        }
        // What an interface is called after the colon is another address of it.
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let found = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let four = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        let six_exists = std::path::Path::new("/proc/net/if_inet6").exists();
        let loopbacks =
            [Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), six_exists.then_some(Ipv6Addr::LOCALHOST.into())];
        let known = [Some(self.primary), self.second.map(IpAddr::V6)];
        let mut addresses: Vec<IpAddr> = found.chain(loopbacks.into_iter().chain(known).flatten()).collect();
        addresses.retain(|address| !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local()));
        addresses.sort_unstable();
        addresses.dedup();
        let addresses: Arc<[IpAddr]> = addresses.into();
        *seen = Some((now, addresses.clone()));
        addresses
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.all().contains(&address)
    }

    /// The address by which others know the node, where it is IPv4; else its loopback.
    pub fn primary(&self) -> Ipv4Addr {
        match self.primary {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
        }
    }

    pub fn primary6(&self) -> Option<Ipv6Addr> {
        match self.primary {
            IpAddr::V4(_) => self.second,
            IpAddr::V6(address) => Some(address),
        }
    }
}
