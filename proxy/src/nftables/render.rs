//! Renders rules as nft scripts. Pure.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Options;
use crate::dns::Family;
use crate::table::{PortRules, Protocol, ServiceRules, Source};

/// A client's affinity takes one element; more clients than this lose theirs.
const AFFINITY_CLIENTS_MAX: u32 = 65_536;

/// What the tables of the two families are called, and the addresses in them.
trait Words {
    fn table(self) -> &'static str;
    fn address(self) -> &'static str;
    fn kind(self) -> &'static str;
}

impl Words for Family {
    fn table(self) -> &'static str {
        match self {
            Self::V4 => "ip coracle",
            Self::V6 => "ip6 coracle",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

/// The tables with nothing in them, whatever was there before.
pub fn base(options: &Options) -> String {
    let network = |(address, prefix): (IpAddr, u8)| format!("{address}/{prefix}");
    let (pods, services) = (options.pod_cidr, options.service_cidr);
    // The node itself answers there.
    let dns = options.dns_address.map_or_else(String::new, |address| {
        format!("ip daddr {address} meta l4proto {{ tcp, udp }} th dport {} return", crate::dns::PORT)
    });
    // NOTE: `route_localnet` (see routes.rs) would let neighbours reach what listens on 127.0.0.1; `guard` does not.
    let guard = "  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname != \"lo\" ip daddr 127.0.0.0/8 drop
  }
";
    let services = network((services.0.into(), services.1));
    let four = table(Family::V4, &network((pods.0.into(), pods.1)), Some(&services), &dns, guard, "");
    let six = options.second.map(|second| {
        let services = second.service_cidr.map(|(address, prefix)| network((address.into(), prefix)));
        // NOTE: Services' IPv6 network is local (see routes.rs), but its addresses are not the node's.
        let not_services =
            services.as_ref().map_or_else(String::new, |services| format!("ip6 daddr != {services} "));
        let pods = network((second.pod_cidr.0.into(), second.pod_cidr.1));
        table(Family::V6, &pods, services.as_deref(), "", "", &not_services)
    });
    [four, six.unwrap_or_default()].concat()
}

fn table(
    family: Family,
    pods: &str,
    services: Option<&str>,
    dns: &str,
    guard: &str,
    not_services: &str,
) -> String {
    let (table, ip, kind) = (family.table(), family.address(), family.kind());
    let rest =
        services.map_or_else(String::new, |services| format!("{ip} daddr {services} goto no-endpoint"));
    // NOTE: for TCP a reset, not an ICMP error: that one does not reach a client on this machine.
    // NOTE: every pod address of the node is local to it, but a node port is not one of a pod's ports.
    format!(
        "add table {table}
delete table {table}
table {table} {{
  map services {{ type {kind} . inet_proto . inet_service : verdict; }}
  map nodeports {{ type inet_proto . inet_service : verdict; }}
  set refused {{ type {kind} . inet_proto . inet_service; }}
  set refused-nodeports {{ type inet_proto . inet_service; }}
  set pods {{ type {kind}; flags interval; elements = {{ {pods} }}; }}
  chain dispatch {{
    {dns}
    {ip} daddr . meta l4proto . th dport vmap @services
    {ip} daddr != {pods} {not_services}fib daddr type local meta l4proto . th dport vmap @nodeports
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump dispatch; }}
  chain output {{ type nat hook output priority -100; policy accept; jump dispatch; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != \"lo\" ct status dnat {ip} saddr != {pods} masquerade
  }}
{guard}  chain no-endpoint {{ meta l4proto tcp reject with tcp reset; reject; }}
  chain refuse {{
    {dns}
    {ip} daddr . meta l4proto . th dport @refused goto no-endpoint
    {ip} daddr != {pods} {not_services}fib daddr type local meta l4proto . th dport @refused-nodeports goto no-endpoint
    {rest}
  }}
  chain filter-input {{ type filter hook input priority filter; policy accept; ct state new jump refuse; }}
  chain filter-output {{ type filter hook output priority filter; policy accept; ct state new jump refuse; }}
  chain filter-forward {{ type filter hook forward priority filter; policy accept; ct state new jump refuse; }}
}}
"
    )
}

/// What takes a family's table away, whether it is there or not.
pub fn removal(family: Family) -> String {
    let table = family.table();
    format!("add table {table}\ndelete table {table}\n")
}

/// A way in: an element of a map that leads to a chain, or of a set of what is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entrance {
    Service { address: IpAddr, protocol: Protocol, port: u16 },
    NodePort { family: Family, protocol: Protocol, port: u16 },
}

impl Entrance {
    fn table(&self) -> &'static str {
        match self {
            Self::Service { address, .. } => Family::of(*address).table(),
            Self::NodePort { family, .. } => family.table(),
        }
    }

    /// The set and the element that make it lead to `target`, or be refused.
    fn element(&self, target: Option<&str>) -> (&'static str, String) {
        let (map, refused, key) = match self {
            Self::Service { address, protocol, port } => {
                ("services", "refused", format!("{address} . {} . {port}", protocol.as_str()))
            }
            Self::NodePort { protocol, port, .. } => {
                ("nodeports", "refused-nodeports", format!("{} . {port}", protocol.as_str()))
            }
        };
        match target {
            Some(chain) => (map, format!("{key} : goto {chain}")),
            None => (refused, key),
        }
    }

    /// As [`Self::element`], as far as it takes to delete it.
    fn key(&self, target: Option<&str>) -> (&'static str, String) {
        let (set, element) = self.element(target);
        (set, element.split(" : ").next().unwrap_or_default().to_owned())
    }

    pub fn add(&self, script: &mut String, target: Option<&str>) {
        let (set, element) = self.element(target);
        push(script, format_args!("add element {} {set} {{ {element} }}", self.table()));
    }

    pub fn delete(&self, script: &mut String, target: Option<&str>) {
        let (set, key) = self.key(target);
        push(script, format_args!("delete element {} {set} {{ {key} }}", self.table()));
    }
}

/// The endpoints behind one or more entrances of one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    pub family: Family,
    pub chain: String,
    pub protocol: Protocol,
    pub affinity: Option<Duration>,
    pub endpoints: &'a [SocketAddr],
    pub entrances: Vec<Entrance>,
    /// The chain for clients inside the cluster, where they have other endpoints than those outside.
    pub inside: Option<String>,
    /// Others than these networks' clients are dropped; empty: nobody is.
    pub sources: &'a [Source],
}

impl Group<'_> {
    /// Where its entrances lead; None: they are refused.
    pub fn target(&self) -> Option<&str> {
        (!self.endpoints.is_empty() || self.inside.is_some()).then_some(self.chain.as_str())
    }

    /// Whether both make the same chain.
    pub fn is_same_chain(&self, other: &Self) -> bool {
        self.endpoints == other.endpoints
            && self.affinity == other.affinity
            && self.inside == other.inside
            && self.sources == other.sources
    }
}

/// The groups of every port: by address and by node port, and by the addresses for outside where they differ from the
/// cluster's. A group stands after the one whose chain it leads to.
pub fn groups<'a>(service: &str, rules: &'a ServiceRules) -> Vec<Group<'a>> {
    rules.ports.iter().flat_map(|port| groups_of_port(service, port)).collect()
}

fn groups_of_port<'a>(service: &str, port: &'a PortRules) -> Vec<Group<'a>> {
    let protocol = port.protocol;
    let group = |way: &str, endpoints: &'a [SocketAddr], entrances: Vec<Entrance>| Group {
        family: port.family,
        // A protocol's port is unique in its Service, and each family has a table.
        chain: format!("{way}/{service}/{}/{}", protocol.as_str(), port.port),
        protocol,
        affinity: port.affinity,
        endpoints,
        entrances,
        inside: None,
        sources: &[],
    };
    let entrances = |addresses: &[IpAddr]| -> Vec<Entrance> {
        addresses.iter().map(|a| Entrance::Service { address: *a, protocol, port: port.port }).collect()
    };
    let mut by_address = entrances(&port.addresses);
    let outside_differs = !port.inside_endpoints.is_empty() || port.node_port_endpoints != port.endpoints;
    let mut outside = entrances(&port.external_addresses);
    let mut balanced = entrances(&port.balanced_addresses);
    if port.sources.is_empty() {
        outside.append(&mut balanced);
    }
    if !outside_differs {
        by_address.append(&mut outside);
    }
    let mut all = vec![group("service", &port.endpoints, by_address)];
    let is_reached = !outside.is_empty() || !balanced.is_empty();
    let has_inside = is_reached && !port.inside_endpoints.is_empty();
    let inside = has_inside.then(|| group("inside", &port.inside_endpoints, Vec::new()));
    for (way, entrances, sources) in
        [("external", outside, &[][..]), ("balanced", balanced, &port.sources[..])]
    {
        if !entrances.is_empty() {
            let inside = inside.as_ref().map(|inside| inside.chain.clone());
            all.push(Group { inside, sources, ..group(way, &port.node_port_endpoints, entrances) });
        }
    }
    if let Some(inside) = inside {
        all.insert(1, inside);
    }
    if let Some(node_port) = port.node_port {
        let entrance = Entrance::NodePort { family: port.family, protocol, port: node_port };
        all.push(group("nodeport", &port.node_port_endpoints, vec![entrance]));
    }
    all
}

/// Makes a group's chain, or makes it anew in place. Clients keep their endpoint where it stays.
pub fn set_chain(script: &mut String, old: Option<&Group<'_>>, new: &Group<'_>) {
    let (chain, t, ip) = (&new.chain, new.family.table(), new.family.address());
    push(script, format_args!("add chain {t} {chain}"));
    if old.is_some() {
        push(script, format_args!("flush chain {t} {chain}"));
    }
    if !new.sources.is_empty() {
        let networks: Vec<String> =
            new.sources.iter().map(|(network, prefix)| format!("{network}/{prefix}")).collect();
        let networks = networks.join(", ");
        push(script, format_args!("add rule {t} {chain} {ip} saddr != {{ {networks} }} drop"));
    }
    if let Some(inside) = &new.inside {
        push(script, format_args!("add rule {t} {chain} {ip} saddr @pods goto {inside}"));
        push(script, format_args!("add rule {t} {chain} fib saddr type local goto {inside}"));
    }
    if new.endpoints.is_empty() {
        // As upstream: whoever balances by health checks sends nothing here, and others may have endpoints.
        push(script, format_args!("add rule {t} {chain} drop"));
        if let Some(old) = old {
            remove_sticky(script, old, None);
        }
        return;
    }
    let Some(timeout) = new.affinity else {
        if let Some(old) = old {
            remove_sticky(script, old, None);
        }
        let targets: Vec<String> = new
            .endpoints
            .iter()
            .enumerate()
            .map(|(i, e)| format!("{i} : {} . {}", e.ip(), e.port()))
            .collect();
        let (count, protocol) = (new.endpoints.len(), new.protocol.as_str());
        let targets = targets.join(", ");
        push(
            script,
            format_args!(
                "add rule {t} {chain} meta l4proto {protocol} dnat {ip} to numgen random mod {count} map {{ {targets} }}"
            ),
        );
        return;
    };
    if let Some(old) = old {
        remove_sticky(script, old, Some(new));
    }
    for endpoint in new.endpoints {
        if !old.is_some_and(|old| keeps(old, new, endpoint)) {
            add_sticky(script, new, endpoint, timeout);
        }
        let own = sticky(chain, endpoint);
        push(script, format_args!("add rule {t} {chain} {ip} saddr @{own} goto {own}"));
    }
    let targets: Vec<String> =
        new.endpoints.iter().enumerate().map(|(i, e)| format!("{i} : goto {}", sticky(chain, e))).collect();
    let (count, targets) = (new.endpoints.len(), targets.join(", "));
    push(script, format_args!("add rule {t} {chain} numgen random mod {count} vmap {{ {targets} }}"));
}

/// No element may lead to it any more.
pub fn delete_chain(script: &mut String, old: &Group<'_>) {
    let t = old.family.table();
    push(script, format_args!("flush chain {t} {}", old.chain));
    remove_sticky(script, old, None);
    push(script, format_args!("delete chain {t} {}", old.chain));
}

/// The chain and the set of one endpoint that remembers its clients.
fn sticky(chain: &str, endpoint: &SocketAddr) -> String {
    // nft's names have no colons.
    let ip = endpoint.ip().to_string().replace(':', "-");
    format!("{chain}/{ip}/{}", endpoint.port())
}

/// Whether an endpoint's set of clients stays as it is.
fn keeps(old: &Group<'_>, new: &Group<'_>, endpoint: &SocketAddr) -> bool {
    old.affinity == new.affinity && old.endpoints.contains(endpoint) && new.endpoints.contains(endpoint)
}

fn add_sticky(script: &mut String, group: &Group<'_>, endpoint: &SocketAddr, timeout: Duration) {
    let (t, ip, kind) = (group.family.table(), group.family.address(), group.family.kind());
    let (own, protocol, seconds) =
        (sticky(&group.chain, endpoint), group.protocol.as_str(), timeout.as_secs());
    push(
        script,
        format_args!(
            "add set {t} {own} {{ type {kind}; flags dynamic,timeout; timeout {seconds}s; size {AFFINITY_CLIENTS_MAX}; }}"
        ),
    );
    push(script, format_args!("add chain {t} {own}"));
    push(
        script,
        format_args!(
            "add rule {t} {own} update @{own} {{ {ip} saddr }} meta l4proto {protocol} dnat to {endpoint}"
        ),
    );
}

fn remove_sticky(script: &mut String, old: &Group<'_>, new: Option<&Group<'_>>) {
    if old.affinity.is_none() {
        return;
    }
    for endpoint in old.endpoints.iter().filter(|e| !new.is_some_and(|new| keeps(old, new, e))) {
        let (own, t) = (sticky(&old.chain, endpoint), old.family.table());
        push(script, format_args!("flush chain {t} {own}"));
        push(script, format_args!("delete chain {t} {own}"));
        push(script, format_args!("delete set {t} {own}"));
    }
}

fn push(script: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{line}");
}
