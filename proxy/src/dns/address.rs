//! Makes the cluster's DNS address one of this node's, with one route.

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tracing::warn;

/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u32 = 255;
const OWN: RouteProtocol = crate::marks::DNS;

/// `ip route replace local ADDRESS dev lo`; one that an earlier process left for another address goes.
pub async fn make_local(address: Ipv4Addr) -> Result<(), String> {
    let lo = nix::net::if_::if_nametoindex("lo").map_err(|e| format!("interface lo: {e}"))?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(lo)
        .table_id(TABLE_LOCAL)
        .scope(RouteScope::Host)
        .kind(RouteType::Local)
        .protocol(OWN)
        .build();
    let made = handle.route().add(route).replace().execute().await;
    let result = match made {
        Ok(()) => remove_where(&handle, |known| known != address).await,
        Err(error) => Err(error),
    };
    connection.abort();
    result.map_err(|e| format!("making it local: {e}"))
}

pub async fn remove_all() {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return };
    let connection = tokio::spawn(connection);
    if let Err(error) = remove_where(&handle, |_| true).await {
        warn!(%error, "the address of cluster DNS could not be removed");
    }
    connection.abort();
}

async fn remove_where(handle: &Handle, unwanted: impl Fn(Ipv4Addr) -> bool) -> Result<(), rtnetlink::Error> {
    let all = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let all: Vec<RouteMessage> = all.try_collect().await?;
    for route in all.into_iter().filter(|r| r.header.protocol == OWN && r.header.kind == RouteType::Local) {
        let destination = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        });
        if destination.is_some_and(&unwanted) {
            handle.route().del(route).execute().await?;
        }
    }
    Ok(())
}
