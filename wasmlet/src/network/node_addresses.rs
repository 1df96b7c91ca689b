//! The addresses that are the node's own: those of its interfaces, looked at again every few seconds.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(5);

pub struct NodeAddresses {
    /// The one by which others know the node.
    primary: IpAddr,
    seen: Mutex<Option<(Instant, Arc<[Ipv4Addr]>)>>,
}

impl NodeAddresses {
    pub fn new(primary: IpAddr) -> Self {
        NodeAddresses { primary, seen: Mutex::new(None) }
    }

    pub fn all(&self) -> Arc<[Ipv4Addr]> {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        if let Some((at, addresses)) = &*seen
            && now.duration_since(*at) < LOOK_EVERY
        {
            return addresses.clone();
        }
        let mut addresses: Vec<Ipv4Addr> = match self.primary {
            IpAddr::V4(address) => vec![address],
            IpAddr::V6(_) => Vec::new(),
        };
        // What an interface is called after the colon is another address of it.
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let more = interfaces.filter_map(|i| Some(i.address?.as_sockaddr_in()?.ip()));
        addresses.extend(more.chain([Ipv4Addr::LOCALHOST]));
        addresses.sort_unstable();
        addresses.dedup();
        let addresses: Arc<[Ipv4Addr]> = addresses.into();
        *seen = Some((now, addresses.clone()));
        addresses
    }

    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.all().contains(&address)
    }

    /// The address by which others know the node, where it is IPv4; else its loopback.
    pub fn primary(&self) -> Ipv4Addr {
        match self.primary {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
        }
    }
}
