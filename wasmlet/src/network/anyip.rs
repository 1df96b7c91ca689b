//! Makes a pod range local to the machine with one route, so that any address in it can be bound.

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::cidr::Cidr;

#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("open a netlink socket: {0}")]
    Netlink(#[source] std::io::Error),
    #[error("find interface lo: {0}")]
    Loopback(#[source] nix::Error),
    #[error("add the route: {0}")]
    Add(#[source] rtnetlink::Error),
    #[error("list the routes: {0}")]
    List(#[source] rtnetlink::Error),
    #[error("remove a route: {0}")]
    Remove(#[source] rtnetlink::Error),
}

/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u32 = 255;

/// Marks our routes (`ip route show table local proto 67`), so that those of an earlier process are known as ours.
const OWN: RouteProtocol = RouteProtocol::Other(67);

/// `ip route replace local CIDR dev lo`; the same again changes nothing. Other ranges that were ours are not any more:
/// left behind by a kill, they would keep packets from the node that has them now.
pub(super) async fn make_local(cidr: Cidr) -> Result<(), RouteError> {
    let lo = nix::net::if_::if_nametoindex("lo").map_err(RouteError::Loopback)?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Netlink)?;
    let connection = tokio::spawn(connection);
    let made = async {
        add(&handle, cidr, lo).await?;
        remove_where(&handle, |destination| destination != (cidr.network(), cidr.prefix())).await
    };
    let made = made.await;
    connection.abort();
    made
}

/// Undoes `make_local`.
pub(super) async fn remove(cidr: Cidr) -> Result<(), RouteError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Netlink)?;
    let connection = tokio::spawn(connection);
    let removed = remove_where(&handle, |destination| destination == (cidr.network(), cidr.prefix())).await;
    connection.abort();
    removed
}

async fn remove_where(handle: &Handle, unwanted: impl Fn((Ipv4Addr, u8)) -> bool) -> Result<(), RouteError> {
    let all = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let all: Vec<RouteMessage> = all.try_collect().await.map_err(RouteError::List)?;
    for route in all {
        let own = route.header.protocol == OWN && route.header.kind == RouteType::Local;
        let destination = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        });
        if own && destination.is_some_and(|d| unwanted((d, route.header.destination_prefix_length))) {
            handle.route().del(route).execute().await.map_err(RouteError::Remove)?;
        }
    }
    Ok(())
}

async fn add(handle: &Handle, cidr: Cidr, lo: u32) -> Result<(), RouteError> {
    handle.route().add(route(cidr, lo)).replace().execute().await.map_err(RouteError::Add)
}

fn route(cidr: Cidr, lo: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(cidr.network(), cidr.prefix())
        .output_interface(lo)
        .table_id(TABLE_LOCAL)
        .scope(RouteScope::Host)
        .kind(RouteType::Local)
        .protocol(OWN)
        .build()
}
