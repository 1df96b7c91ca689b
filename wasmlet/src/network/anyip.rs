//! Makes a pod range local to the machine with one route, so that any address in it can be bound.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
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
}

/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u32 = 255;

/// `ip route replace local CIDR dev lo`; the same again changes nothing.
pub(super) async fn make_local(cidr: Cidr) -> Result<(), RouteError> {
    let lo = nix::net::if_::if_nametoindex("lo").map_err(RouteError::Loopback)?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Netlink)?;
    let connection = tokio::spawn(connection);
    let added = add(&handle, cidr, lo).await;
    connection.abort();
    added
}

async fn add(handle: &Handle, cidr: Cidr, lo: u32) -> Result<(), RouteError> {
    handle.route().add(route(cidr, lo)).replace().execute().await.map_err(RouteError::Add)
}

/// Undoes `make_local`.
#[cfg(test)]
pub(super) async fn remove(cidr: Cidr) -> Result<(), RouteError> {
    let lo = nix::net::if_::if_nametoindex("lo").map_err(RouteError::Loopback)?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Netlink)?;
    let connection = tokio::spawn(connection);
    let removed = handle.route().del(route(cidr, lo)).execute().await.map_err(RouteError::Add);
    connection.abort();
    removed
}

fn route(cidr: Cidr, lo: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(cidr.network(), cidr.prefix())
        .output_interface(lo)
        .table_id(TABLE_LOCAL)
        .scope(RouteScope::Host)
        .kind(RouteType::Local)
        .protocol(RouteProtocol::Boot)
        .build()
}
