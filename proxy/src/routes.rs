//! Routes of the node: to Services, so that connections to them get as far as the rules; to other nodes' pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informer, Informers, Object};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Error, Options};

/// Marks our routes (`ip route show proto 67`), so that those of an earlier process are known as ours.
const OWN: RouteProtocol = RouteProtocol::Other(67);
/// A route that could not be set, as its interface is down, is tried again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Routes(error.to_string())
}

type Network = (Ipv4Addr, u8);

/// Where a network's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nowhere: the rules change their destination before they would leave. This is the source that they get.
    Loopback(Ipv4Addr),
    Node(Ipv4Addr),
}

/// Keeps the node's routes as they should be, until the end.
pub struct Keeper {
    own_name: String,
    keep: bool,
    service: (Network, Way),
    nodes: Informer,
    changed: Arc<Notify>,
    handle: Handle,
    loopback: u32,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Keeper {
    /// The route to Services is there when this returns.
    pub async fn start(options: &Options, informers: &Informers) -> Result<Self, Error> {
        let (connection, handle, mut messages) =
            new_multicast_connection(&[MulticastGroup::Ipv4Route]).map_err(failed)?;
        let connection = tokio::spawn(connection);
        let changed = Arc::new(Notify::new());
        let lost = changed.clone();
        // The kernel drops routes when their interface goes down.
        let watching = tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) = message.payload
                    && is_own(&route)
                {
                    lost.notify_one();
                }
            }
        });
        let nodes = informers.of::<Node>();
        let moved = changed.clone();
        nodes.on_change(move |change| {
            // Heartbeats change no route.
            let same = match (&change.old, &change.new) {
                (Some(old), Some(new)) => route_of(old) == route_of(new),
                _ => false,
            };
            if !same {
                moved.notify_one();
            }
        });
        let source = match options.node_address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
        };
        let loopback =
            nix::net::if_::if_nametoindex("lo").map_err(|e| failed(format!("interface lo: {e}")))?;
        let service = (options.service_cidr, Way::Loopback(source));
        let keeper = Self {
            own_name: options.node_name.clone(),
            keep: options.keep_rules,
            service,
            nodes,
            changed,
            handle,
            loopback,
            tasks: [connection, watching],
        };
        keeper.set(service.0, service.1).await?;
        Ok(keeper)
    }

    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.nodes.synced() => {}
            () = shutdown.cancelled() => return self.clean_up().await,
        }
        let mut retry = RETRY_FIRST;
        loop {
            let again = match self.reconcile().await {
                Ok(()) => {
                    retry = RETRY_FIRST;
                    None
                }
                Err(error) => {
                    warn!(%error, "the node's routes could not be set, again in {retry:?}");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    Some(tokio::time::sleep(pause))
                }
            };
            let again = async {
                match again {
                    Some(sleep) => sleep.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = again => {}
                () = shutdown.cancelled() => return self.clean_up().await,
            }
        }
    }

    async fn reconcile(&self) -> Result<(), Error> {
        let mut wanted: BTreeMap<Network, Way> = self
            .nodes
            .list()
            .iter()
            .filter(|node| *node.head.name != *self.own_name)
            .filter_map(|node| route_of(node))
            .map(|(network, via)| (network, Way::Node(via)))
            .collect();
        if !wanted.is_empty() {
            allow_forwarding().await;
        }
        wanted.insert(self.service.0, self.service.1);
        let present = self.present().await?;
        for (network, (_, message)) in present.iter().filter(|(network, _)| !wanted.contains_key(network)) {
            debug!(?network, "removing a route");
            self.delete(message.clone()).await;
        }
        let mut result = Ok(());
        for (network, way) in wanted {
            if present.get(&network).and_then(|(way, _)| *way) == Some(way) {
                continue;
            }
            debug!(?network, ?way, "setting a route");
            if let Err(error) = self.set(network, way).await {
                result = Err(error);
            }
        }
        result
    }

    /// Our routes in the kernel; a way that we would not have made is None.
    async fn present(&self) -> Result<BTreeMap<Network, (Option<Way>, RouteMessage)>, Error> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let own = all.try_filter(|route| std::future::ready(is_own(route)));
        let own: Vec<RouteMessage> = own.try_collect().await.map_err(failed)?;
        Ok(own.into_iter().filter_map(|m| Some((network_of(&m)?, (way_of(&m, self.loopback), m)))).collect())
    }

    async fn set(&self, (network, prefix): Network, way: Way) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, prefix).protocol(OWN);
        let route = match way {
            Way::Loopback(source) => {
                let scope = if source.is_loopback() { RouteScope::Host } else { RouteScope::Link };
                route.output_interface(self.loopback).pref_source(source).scope(scope)
            }
            Way::Node(via) => route.gateway(via),
        };
        let added = self.handle.route().add(route.build()).replace().execute().await;
        added.map_err(|error| match way {
            Way::Loopback(_) => failed(format!("{network}/{prefix}: {error}")),
            Way::Node(via) => failed(format!(
                "{network}/{prefix} via {via}: {error}; nodes must be neighbours on one network"
            )),
        })
    }

    async fn delete(&self, route: RouteMessage) {
        if let Err(error) = self.handle.route().del(route).execute().await {
            debug!(%error, "a route was gone already");
        }
    }

    async fn clean_up(self) {
        if self.keep {
            return;
        }
        match self.present().await {
            Ok(routes) => {
                for (_, (_, route)) in routes {
                    self.delete(route).await;
                }
            }
            Err(error) => warn!(%error, "the node's routes could not be removed"),
        }
    }
}

fn is_own(route: &RouteMessage) -> bool {
    route.header.protocol == OWN && route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn network_of(route: &RouteMessage) -> Option<Network> {
    let destination = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Some((destination?, route.header.destination_prefix_length))
}

fn way_of(route: &RouteMessage, loopback: u32) -> Option<Way> {
    let (mut gateway, mut source, mut by_loopback) = (None, None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(Way::Node(*address)),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => by_loopback = *index == loopback,
            _ => {}
        }
    }
    gateway.or(source.filter(|_| by_loopback).map(Way::Loopback))
}

/// A node port of this node may lead to a pod of another: the kernel must forward, also what came to 127.0.0.1.
/// NOTE: the rules drop what neighbours send to 127.0.0.0/8, which `route_localnet` alone would let in.
async fn allow_forwarding() {
    for name in ["net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"] {
        let path = format!("/proc/sys/{name}");
        if tokio::fs::read_to_string(&path).await.is_ok_and(|value| value.trim() == "1") {
            continue;
        }
        match tokio::fs::write(&path, "1").await {
            Ok(()) => info!(
                "set {} to 1, as pods of other nodes are reached through this one",
                name.replace('/', ".")
            ),
            Err(error) => {
                warn!(%error, "{} should be 1 for node ports to reach other nodes' pods", name.replace('/', "."))
            }
        }
    }
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

#[derive(Deserialize, Default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// The node's pod network and the address behind which it is; loopback addresses lead nowhere.
fn route_of(node: &Object) -> Option<((Ipv4Addr, u8), Ipv4Addr)> {
    let view: View = node.decode().ok()?;
    let cidr = view.spec.pod_cidr?;
    let (network, prefix) = cidr.split_once('/')?;
    let address = view.status.addresses?.into_iter().find(|a| a.kind == "InternalIP")?.address;
    let via: Ipv4Addr = address.parse().ok()?;
    (!via.is_loopback()).then_some(((network.parse().ok()?, prefix.parse().ok()?), via))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_network_and_an_address_has_a_route() {
        let node = |spec: &str, address: &str| {
            let json = format!(
                r#"{{"metadata":{{"name":"n"}},"spec":{{{spec}}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}]}}}}"#
            );
            route_of(&Object::parse(json.into(), &[]).unwrap())
        };
        let cidr = r#""podCIDR":"10.244.1.0/24""#;
        assert_eq!(node(cidr, "192.0.2.2"), Some((([10, 244, 1, 0].into(), 24), [192, 0, 2, 2].into())));
        for (spec, address) in [(cidr, "127.0.0.1"), ("", "192.0.2.2"), (cidr, "fd00::1")] {
            assert_eq!(node(spec, address), None, "{spec} {address}");
        }
    }
}
