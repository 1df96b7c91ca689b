//! Routes of the node: to Services, so that connections to them get as far as the rules; to other nodes' pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use coracle_client::{Informer, Informers, Object};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, RouteMessageBuilder, new_connection};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{Error, Options};

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Routes(error.to_string())
}

async fn link_index(handle: &Handle, name: &str) -> Result<u32, Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link =
        links.try_next().await.map_err(failed)?.ok_or_else(|| failed(format!("no interface {name}")))?;
    Ok(link.header.index)
}

/// A route for the Service network by the loopback interface, with the node's address as the source: packets never
/// leave by it, since the rules change their destination.
pub async fn add_service_route(options: &Options) -> Result<(), Error> {
    let (connection, handle, _) = new_connection().map_err(failed)?;
    let connection = tokio::spawn(connection);
    let source = match options.node_address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
    };
    let (network, prefix) = options.service_cidr;
    let scope = if source.is_loopback() { RouteScope::Host } else { RouteScope::Link };
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, prefix)
        .output_interface(link_index(&handle, "lo").await?)
        .pref_source(source)
        .scope(scope)
        .build();
    let added = handle.route().add(route).replace().execute().await.map_err(failed);
    connection.abort();
    added
}

/// Keeps routes to the pods of the other nodes.
pub struct Keeper {
    own_name: String,
    nodes: Informer,
    changed: Arc<Notify>,
    routes: BTreeMap<(Ipv4Addr, u8), Ipv4Addr>,
}

pub fn follow(options: &Options, informers: &Informers) -> Keeper {
    let nodes = informers.of::<Node>();
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.on_change(move |change| {
        // Heartbeats change no route.
        let same = match (&change.old, &change.new) {
            (Some(old), Some(new)) => route_of(old) == route_of(new),
            _ => false,
        };
        if !same {
            notify.notify_one();
        }
    });
    Keeper { own_name: options.node_name.clone(), nodes, changed, routes: BTreeMap::new() }
}

impl Keeper {
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.nodes.synced().await;
        loop {
            self.reconcile().await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn reconcile(&mut self) {
        let wanted: BTreeMap<(Ipv4Addr, u8), Ipv4Addr> = self
            .nodes
            .list()
            .iter()
            .filter(|node| *node.head.name != *self.own_name)
            .filter_map(|node| route_of(node))
            .collect();
        if wanted == self.routes {
            return;
        }
        match self.change(&wanted).await {
            Ok(()) => self.routes = wanted,
            Err(error) => warn!(%error, "routes to other nodes' pods could not be set"),
        }
    }

    async fn change(&self, wanted: &BTreeMap<(Ipv4Addr, u8), Ipv4Addr>) -> Result<(), Error> {
        let (connection, handle, _) = new_connection().map_err(failed)?;
        let connection = tokio::spawn(connection);
        let route = |(network, prefix): (Ipv4Addr, u8), via: Ipv4Addr| {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, prefix).gateway(via).build()
        };
        for (to, via) in self.routes.iter().filter(|(to, _)| !wanted.contains_key(to)) {
            if let Err(error) = handle.route().del(route(*to, *via)).execute().await {
                debug!(%error, "a route was gone already");
            }
        }
        let mut result = Ok(());
        for (to, via) in wanted.iter().filter(|(to, via)| self.routes.get(to) != Some(via)) {
            if let Err(error) = handle.route().add(route(*to, *via)).replace().execute().await {
                result = Err(failed(format!("{}/{} via {via}: {error}", to.0, to.1)));
            }
        }
        connection.abort();
        result
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
