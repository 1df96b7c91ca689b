//! Makes pod ranges local to the machine with one route each, so that any address in them can be bound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::cidr::{Cidr, Cidr6};
use super::pod6::LOOPBACKS;

#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("open a netlink socket: {0}")]
    Netlink(#[source] std::io::Error),
    #[error("find interface lo: {0}")]
    Loopback(#[source] nix::Error),
    #[error("add the route: {0}")]
    Add(#[source] rtnetlink::Error),
    #[error("add the rule for pods' loopbacks: {0}")]
    Rule(#[source] rtnetlink::Error),
    #[error("list the routes: {0}")]
    List(#[source] rtnetlink::Error),
    #[error("remove a route: {0}")]
    Remove(#[source] rtnetlink::Error),
    #[error("the kernel has no IPv6 (or net.ipv6.conf.all.disable_ipv6 is 1)")]
    NoIpv6,
    #[error("set {NONLOCAL_BIND} to 1, without which no IPv6 pod address can be bound: {0}")]
    Bind(#[source] std::io::Error),
}

/// The kernel's table of local addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u32 = 255;
/// Ours, of what is local to senders on this machine only. Its number is the rule's priority, too.
const TABLE_LOOPBACKS: u32 = 67;

/// Marks our routes (`ip route show table local proto 67`), so that those of an earlier process are known as ours.
const OWN: RouteProtocol = RouteProtocol::Other(67);

/// NOTE: a local route is enough to bind an IPv4 address; IPv6 looks for the address at an interface unless this is 1.
const NONLOCAL_BIND: &str = "net.ipv6.ip_nonlocal_bind";

type Range = (IpAddr, u8);

/// `ip route replace local CIDR dev lo`; the same again changes nothing. Other ranges that were ours are not any more:
/// left behind by a kill, they would keep packets from the node that has them now.
pub(super) async fn make_local(cidr: Cidr, second: Option<Cidr6>) -> Result<(), RouteError> {
    let lo = nix::net::if_::if_nametoindex("lo").map_err(RouteError::Loopback)?;
    if second.is_some() {
        allow_ipv6()?;
    }
    let second = second.map(|second| (IpAddr::V6(second.network()), second.prefix()));
    let wanted: Vec<Range> =
        std::iter::once((IpAddr::V4(cidr.network()), cidr.prefix())).chain(second).collect();
    let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Netlink)?;
    let connection = tokio::spawn(connection);
    let made = async {
        for range in &wanted {
            add(&handle, *range, lo, TABLE_LOCAL).await?;
        }
        if second.is_some() {
            add(&handle, LOOPBACKS, lo, TABLE_LOOPBACKS).await?;
            add_rule(&handle).await?;
        }
        remove_where(&handle, |route| !wanted.contains(&route) && route != LOOPBACKS).await
    };
    let made = made.await;
    connection.abort();
    made
}

/// Undoes `make_local`, except for the sysctl, which others may have come to need.
pub(super) async fn remove(cidr: Cidr, second: Option<Cidr6>) -> Result<(), RouteError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Netlink)?;
    let connection = tokio::spawn(connection);
    let second = second.map(|second| (IpAddr::V6(second.network()), second.prefix()));
    let removed = async {
        if second.is_some() {
            remove_rule(&handle).await?;
        }
        remove_where(&handle, |route| {
            route == (IpAddr::V4(cidr.network()), cidr.prefix())
                || second.is_some_and(|second| route == second || route == LOOPBACKS)
        })
        .await
    };
    let removed = removed.await;
    connection.abort();
    removed
}

fn allow_ipv6() -> Result<(), RouteError> {
    let setting = |name: &str| format!("/proc/sys/{}", name.replace('.', "/"));
    let read = |name: &str| std::fs::read_to_string(setting(name)).map(|text| text.trim().to_owned());
    if read("net.ipv6.conf.lo.disable_ipv6").ok().as_deref() != Some("0") {
        return Err(RouteError::NoIpv6);
    }
    if read(NONLOCAL_BIND).is_ok_and(|value| value == "1") {
        return Ok(());
    }
    std::fs::write(setting(NONLOCAL_BIND), "1").map_err(RouteError::Bind)?;
    tracing::info!("set {NONLOCAL_BIND} to 1, as pods have IPv6 addresses");
    Ok(())
}

/// Every local route of the machine that is marked as ours.
async fn own_routes(handle: &Handle) -> Result<Vec<(Range, RouteMessage)>, RouteError> {
    let mut own = Vec::new();
    for query in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let all: Vec<RouteMessage> =
            handle.route().get(query).execute().try_collect().await.map_err(RouteError::List)?;
        for route in all {
            let destination = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
                _ => None,
            });
            if let Some(destination) = destination
                && route.header.protocol == OWN
                && route.header.kind == RouteType::Local
            {
                own.push(((destination, route.header.destination_prefix_length), route));
            }
        }
    }
    Ok(own)
}

async fn remove_where(handle: &Handle, unwanted: impl Fn(Range) -> bool) -> Result<(), RouteError> {
    for (range, route) in own_routes(handle).await? {
        if unwanted(range) {
            handle.route().del(route).execute().await.map_err(RouteError::Remove)?;
        }
    }
    Ok(())
}

async fn add(handle: &Handle, (network, prefix): Range, lo: u32, table: u32) -> Result<(), RouteError> {
    let route = match network {
        IpAddr::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network, prefix)
            .output_interface(lo)
            .table_id(table)
            .scope(RouteScope::Host)
            .kind(RouteType::Local)
            .protocol(OWN)
            .build(),
        IpAddr::V6(network) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(network, prefix)
            .output_interface(lo)
            .table_id(table)
            .kind(RouteType::Local)
            .protocol(OWN)
            .build(),
    };
    handle.route().add(route).replace().execute().await.map_err(RouteError::Add)
}

/// `ip -6 rule add iif lo to LOOPBACKS lookup 67`: what comes from the network does not find pods' loopbacks.
async fn add_rule(handle: &Handle) -> Result<(), RouteError> {
    if own_rule(handle).await?.is_some() {
        return Ok(());
    }
    let IpAddr::V6(network) = LOOPBACKS.0 else { return Ok(()) };
    let rule = handle.rule().add().v6().destination_prefix(network, LOOPBACKS.1).input_interface("lo");
    let rule = rule.table_id(TABLE_LOOPBACKS).priority(TABLE_LOOPBACKS).action(RuleAction::ToTable);
    rule.execute().await.map_err(RouteError::Rule)
}

async fn remove_rule(handle: &Handle) -> Result<(), RouteError> {
    match own_rule(handle).await? {
        Some(rule) => handle.rule().del(rule).execute().await.map_err(RouteError::Remove),
        None => Ok(()),
    }
}

async fn own_rule(handle: &Handle) -> Result<Option<RuleMessage>, RouteError> {
    let all = handle.rule().get(IpVersion::V6).execute();
    let all: Vec<RuleMessage> = all.try_collect().await.map_err(RouteError::List)?;
    let is_own = |rule: &RuleMessage| {
        let to =
            rule.attributes.iter().any(|a| matches!(a, RuleAttribute::Destination(to) if *to == LOOPBACKS.0));
        to && u32::from(rule.header.table) == TABLE_LOOPBACKS
    };
    Ok(all.into_iter().find(is_own))
}
