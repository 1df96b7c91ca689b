//! Routes of the node: to Services, so that connections to them get as far as the rules; to other nodes' pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informer, Informers, Object};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Error, Options};

const OWN: RouteProtocol = crate::marks::NETWORKS;
/// A route that could not be set, as its interface is down, is tried again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Routes(error.to_string())
}

const OWN_SERVICES: RouteProtocol = crate::marks::SERVICES6;
/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u32 = 255;

type Network = (IpAddr, u8);

/// Where a network's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nowhere: the rules change their destination before they would leave. This is the source that they get.
    Loopback(Ipv4Addr),
    Node(IpAddr),
}

/// Keeps the node's routes as they should be, until the end.
pub struct Keeper {
    own_name: String,
    keep: bool,
    service: (Network, Way),
    /// Services' IPv6 network, and the source that packets to it get.
    service6: Option<((Ipv6Addr, u8), Option<Ipv6Addr>)>,
    /// Whether nodes' IPv6 networks have routes, too.
    two_families: bool,
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
            new_multicast_connection(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route])
                .map_err(failed)?;
        let connection = tokio::spawn(connection);
        let changed = Arc::new(Notify::new());
        let lost = changed.clone();
        // The kernel drops routes when their interface goes down.
        let watching = tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) = message.payload
                    && (is_own(&route) || route.header.protocol == OWN_SERVICES)
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
                (Some(old), Some(new)) => routes_of(old) == routes_of(new),
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
        let (network, prefix) = options.service_cidr;
        let service = ((network.into(), prefix), Way::Loopback(source));
        let service6 = options.second.and_then(|s| Some((s.service_cidr?, s.node_address)));
        let keeper = Self {
            own_name: options.node_name.clone(),
            keep: options.keep_rules,
            service,
            service6,
            two_families: options.second.is_some(),
            nodes,
            changed,
            handle,
            loopback,
            tasks: [connection, watching],
        };
        keeper.set(service.0, service.1).await?;
        keeper.set_service6().await?;
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
            .flat_map(|node| routes_of(node))
            .filter(|(_, via)| via.is_ipv4() || self.two_families)
            .map(|(network, via)| (network, Way::Node(via)))
            .collect();
        if !wanted.is_empty() {
            allow_forwarding().await;
        }
        if wanted.keys().any(|(network, _)| network.is_ipv6()) {
            allow_forwarding6().await;
        }
        self.set_service6().await?;
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
        let mut queries = vec![RouteMessageBuilder::<Ipv4Addr>::new().build()];
        if self.two_families {
            queries.push(RouteMessageBuilder::<Ipv6Addr>::new().build());
        }
        let mut all = BTreeMap::new();
        for query in queries {
            let routes = self.handle.route().get(query).execute();
            let own = routes.try_filter(|route| std::future::ready(is_own(route)));
            let own: Vec<RouteMessage> = own.try_collect().await.map_err(failed)?;
            all.extend(
                own.into_iter().filter_map(|m| Some((network_of(&m)?, (way_of(&m, self.loopback), m)))),
            );
        }
        Ok(all)
    }

    async fn set(&self, (network, prefix): Network, way: Way) -> Result<(), Error> {
        let route = match (network, way) {
            (IpAddr::V4(network), way) => {
                let route =
                    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, prefix).protocol(OWN);
                match way {
                    Way::Loopback(source) => {
                        let scope = if source.is_loopback() { RouteScope::Host } else { RouteScope::Link };
                        route.output_interface(self.loopback).pref_source(source).scope(scope).build()
                    }
                    Way::Node(IpAddr::V4(via)) => route.gateway(via).build(),
                    Way::Node(IpAddr::V6(via)) => route.via(via).build(),
                }
            }
            (IpAddr::V6(network), Way::Node(IpAddr::V6(via))) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, prefix)
                .protocol(OWN)
                .gateway(via)
                .build(),
            (IpAddr::V6(_), way) => return Err(failed(format!("{network}/{prefix}: no way by {way:?}"))),
        };
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(|error| match way {
            Way::Loopback(_) => failed(format!("{network}/{prefix}: {error}")),
            Way::Node(via) => failed(format!(
                "{network}/{prefix} via {via}: {error}; nodes must be neighbours on one network"
            )),
        })
    }

    /// NOTE: local, as IPv6 makes a route over the loopback interface one that refuses.
    fn service6_route(&self) -> Option<RouteMessage> {
        let ((network, prefix), source) = self.service6?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(network, prefix)
            .output_interface(self.loopback)
            .table_id(TABLE_LOCAL)
            .kind(RouteType::Local)
            .protocol(OWN_SERVICES);
        Some(match source {
            Some(source) => route.pref_source(source).build(),
            None => route.build(),
        })
    }

    async fn set_service6(&self) -> Result<(), Error> {
        let Some(route) = self.service6_route() else { return Ok(()) };
        self.handle.route().add(route).replace().execute().await.map_err(failed)
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
        if let Some(route) = self.service6_route() {
            self.delete(route).await;
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
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    Some((destination?, route.header.destination_prefix_length))
}

fn way_of(route: &RouteMessage, loopback: u32) -> Option<Way> {
    let (mut gateway, mut source, mut by_loopback) = (None, None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                gateway = Some(Way::Node(IpAddr::V4(*address)))
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
                gateway = Some(Way::Node(IpAddr::V6(*address)))
            }
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
        switch_on(name).await;
    }
}

/// NOTE: an interface of a machine that forwards forgets the routers that told it of themselves, unless its `accept_ra`
/// is 2.
async fn allow_forwarding6() {
    const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
    if tokio::fs::read_to_string(format!("/proc/sys/{FORWARDING}")).await.is_ok_and(|v| v.trim() == "1") {
        return;
    }
    let Ok(mut interfaces) = tokio::fs::read_dir("/proc/sys/net/ipv6/conf").await else { return };
    while let Ok(Some(interface)) = interfaces.next_entry().await {
        let path = interface.path().join("accept_ra");
        if tokio::fs::read_to_string(&path).await.is_ok_and(|value| value.trim() == "1")
            && let Err(error) = tokio::fs::write(&path, "2").await
        {
            warn!(%error, "{} should be 2", path.display());
        }
    }
    switch_on(FORWARDING).await;
}

async fn switch_on(name: &str) {
    let path = format!("/proc/sys/{name}");
    if !tokio::fs::read_to_string(&path).await.is_ok_and(|value| value.trim() == "1") {
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
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
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

/// The node's pod networks and the addresses of their families behind which they are; loopback addresses lead nowhere.
fn routes_of(node: &Object) -> Vec<(Network, IpAddr)> {
    let Ok(View { spec, status }) = node.decode::<View>() else { return Vec::new() };
    let addresses = status.addresses.iter().flatten().filter(|a| a.kind == "InternalIP");
    let addresses: Vec<IpAddr> = addresses.filter_map(|a| a.address.parse().ok()).collect();
    let listed = spec.pod_cidrs.filter(|all| !all.is_empty());
    let cidrs = listed.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let route = |cidr: &String| {
        let (network, prefix) = cidr.split_once('/')?;
        let network: IpAddr = network.parse().ok()?;
        let via = addresses.iter().find(|a| a.is_ipv4() == network.is_ipv4() && !a.is_loopback())?;
        Some(((network, prefix.parse().ok()?), *via))
    };
    cidrs.iter().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_network_and_an_address_has_a_route() {
        let node = |spec: &str, addresses: &[&str]| -> Vec<String> {
            let addresses: Vec<String> =
                addresses.iter().map(|a| format!(r#"{{"type":"InternalIP","address":"{a}"}}"#)).collect();
            let json = format!(
                r#"{{"metadata":{{"name":"n"}},"spec":{{{spec}}},"status":{{"addresses":[{}]}}}}"#,
                addresses.join(",")
            );
            let routes = routes_of(&Object::parse(json.into(), &[]).unwrap());
            routes.iter().map(|((network, prefix), via)| format!("{network}/{prefix} {via}")).collect()
        };
        let one = r#""podCIDR":"10.244.1.0/24""#;
        let two = r#""podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24","fd00:244:0:1::/64"]"#;
        let (four, six) = ("10.244.1.0/24 192.0.2.2", "fd00:244:0:1::/64 2001:db8::2");
        for (spec, addresses, want) in [
            (one, &["192.0.2.2"][..], vec![four]),
            (one, &["127.0.0.1"], vec![]),
            ("", &["192.0.2.2"], vec![]),
            (one, &["fd00::1"], vec![]),
            (two, &["192.0.2.2"], vec![four]),
            (two, &["192.0.2.2", "2001:db8::2"], vec![four, six]),
        ] {
            assert_eq!(node(spec, addresses), want, "{spec} {addresses:?}");
        }
    }
}
