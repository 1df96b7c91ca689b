//! Makes addresses of load balancers the node's own, and says so to its neighbours.
//!
//! `ip route add local ADDRESS dev lo`: the kernel then takes packets to it and answers ARP for it on every interface.
//! Neighbours that know another machine behind the address learn of the change by gratuitous ARP.

mod arp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use parking_lot::Mutex;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder, new_connection};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Error;
use crate::table::Announcement;

const OWN: RouteProtocol = crate::marks::ANNOUNCED;
/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u32 = 255;
const RETRY: Duration = Duration::from_secs(2);
/// Neighbours that miss the first announcement get another, as for any frame.
const REPEAT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// What is to be announced, by Service. Cheap to clone.
#[derive(Clone, Default)]
pub struct Announcer {
    wanted: Arc<Wanted>,
}

#[derive(Default)]
struct Wanted {
    by_service: Mutex<BTreeMap<Arc<str>, Vec<Ipv4Addr>>>,
    changed: Notify,
    begun: AtomicBool,
}

impl Announcer {
    pub fn set(&self, service: &Arc<str>, announcement: &Announcement) {
        let mut all = self.wanted.by_service.lock();
        let before = all.get(service).map(Vec::as_slice).unwrap_or_default();
        if before == announcement.addresses {
            return;
        }
        if announcement.addresses.is_empty() {
            all.remove(service);
        } else {
            all.insert(service.clone(), announcement.addresses.clone());
        }
        self.wanted.changed.notify_one();
    }

    /// All there is has been set once: until now what an earlier process announced stays.
    pub fn begin(&self) {
        if !self.wanted.begun.swap(true, Ordering::Relaxed) {
            self.wanted.changed.notify_one();
        }
    }

    fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.wanted.by_service.lock().values().flatten().copied().collect()
    }
}

/// Keeps the node's announced addresses as they should be until `shutdown`, and takes them back then unless they are to
/// be kept.
pub fn start(keep: bool, shutdown: CancellationToken) -> Result<(Announcer, Option<JoinHandle<()>>), Error> {
    let failed = |error: std::io::Error| Error::Routes(error.to_string());
    let (connection, handle, _) = new_connection().map_err(failed)?;
    let loopback = nix::net::if_::if_nametoindex("lo").map_err(|error| failed(error.into()))?;
    let announcer = Announcer::default();
    let keeper = Keeper { handle, loopback, keep, announcer: announcer.clone() };
    let task = tokio::spawn(async move {
        let connection = tokio::spawn(connection);
        keeper.run(shutdown).await;
        connection.abort();
    });
    Ok((announcer, Some(task)))
}

struct Keeper {
    handle: Handle,
    loopback: u32,
    keep: bool,
    announcer: Announcer,
}

impl Keeper {
    async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.announcer.wanted.changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
        loop {
            let failed = match self.reconcile(&self.announcer.addresses()).await {
                Ok(()) => false,
                Err(error) => {
                    warn!(%error, "addresses of load balancers could not be set, again in {RETRY:?}");
                    true
                }
            };
            tokio::select! {
                () = self.announcer.wanted.changed.notified() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
                () = shutdown.cancelled() => break,
            }
        }
        if self.keep {
            return;
        }
        // Whoever is not there must not be asked for.
        if let Err(error) = self.reconcile(&BTreeSet::new()).await {
            warn!(%error, "addresses of load balancers could not be taken back");
        }
    }

    async fn reconcile(&self, wanted: &BTreeSet<Ipv4Addr>) -> Result<(), rtnetlink::Error> {
        let present = self.present().await?;
        for (address, route) in &present {
            if !wanted.contains(address) {
                info!(%address, "not announced any more");
                self.handle.route().del(route.clone()).execute().await?;
            }
        }
        for address in wanted.iter().filter(|address| !present.contains_key(address)) {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(*address, 32)
                .output_interface(self.loopback)
                .protocol(OWN)
                .scope(RouteScope::Host)
                .table_id(TABLE_LOCAL)
                .build();
            route.header.kind = RouteType::Local;
            self.handle.route().add(route).replace().execute().await?;
            info!(%address, "announced");
            tokio::spawn(tell_neighbours(*address));
        }
        Ok(())
    }

    async fn present(&self) -> Result<BTreeMap<Ipv4Addr, RouteMessage>, rtnetlink::Error> {
        let mut routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let mut found = BTreeMap::new();
        while let Some(route) = routes.try_next().await? {
            if route.header.protocol == OWN
                && route.header.kind == RouteType::Local
                && let Some(address) = destination(&route)
            {
                found.insert(address, route);
            }
        }
        Ok(found)
    }
}

fn destination(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

async fn tell_neighbours(address: Ipv4Addr) {
    for pause in REPEAT {
        tokio::time::sleep(pause).await;
        for interface in arp::interfaces() {
            if let Err(error) = arp::announce(&interface, address) {
                warn!(%address, interface = interface.name, %error, "neighbours could not be told of an address");
            }
        }
    }
}
