//! Renders rules as nft scripts. Pure.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::net::SocketAddrV4;

use crate::Options;
use crate::table::{PortRules, Protocol, ServiceRules};

/// A client's affinity takes one element; more clients than this lose theirs.
const AFFINITY_CLIENTS_MAX: u32 = 65_536;

/// The table with nothing in it, whatever was there before.
pub fn base(options: &Options) -> String {
    let (service, service_prefix) = options.service_cidr;
    let (pod, pod_prefix) = options.pod_cidr;
    // NOTE: for TCP a reset, not an ICMP error: that one does not reach a client on this machine.
    format!(
        "add table ip coracle
delete table ip coracle
table ip coracle {{
  map services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map nodeports {{ type inet_proto . inet_service : verdict; }}
  set refused {{ type ipv4_addr . inet_proto . inet_service; }}
  set refused-nodeports {{ type inet_proto . inet_service; }}
  chain dispatch {{
    ip daddr . meta l4proto . th dport vmap @services
    fib daddr type local meta l4proto . th dport vmap @nodeports
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump dispatch; }}
  chain output {{ type nat hook output priority -100; policy accept; jump dispatch; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != \"lo\" ct status dnat ip saddr != {pod}/{pod_prefix} masquerade
  }}
  chain no-endpoint {{ meta l4proto tcp reject with tcp reset; reject; }}
  chain refuse {{
    ip daddr . meta l4proto . th dport @refused goto no-endpoint
    fib daddr type local meta l4proto . th dport @refused-nodeports goto no-endpoint
    ip daddr {service}/{service_prefix} goto no-endpoint
  }}
  chain filter-input {{ type filter hook input priority filter; policy accept; ct state new jump refuse; }}
  chain filter-output {{ type filter hook output priority filter; policy accept; ct state new jump refuse; }}
  chain filter-forward {{ type filter hook forward priority filter; policy accept; ct state new jump refuse; }}
}}
"
    )
}

/// What turns the old rules of one Service into the new ones, to run in one transaction with others.
pub fn change(script: &mut String, service: &str, old: &ServiceRules, new: &ServiceRules) {
    for port in &old.ports {
        if !new.ports.contains(port) {
            remove(script, service, port);
        }
    }
    for port in &new.ports {
        if !old.ports.contains(port) {
            add(script, service, port);
        }
    }
}

/// A name for chains: the same for the same port of the same Service.
fn id(service: &str, port: &PortRules) -> String {
    let mut hasher = DefaultHasher::new();
    (service, &port.name, port.protocol, port.port).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The two ways in: by address and by node port, which may have different endpoints.
struct Entrance<'a> {
    chain: String,
    endpoints: &'a [SocketAddrV4],
    map: &'static str,
    refused: &'static str,
    keys: Vec<String>,
}

fn entrances<'a>(service: &str, port: &'a PortRules) -> Vec<Entrance<'a>> {
    let (id, protocol) = (id(service, port), port.protocol.as_str());
    let mut all = vec![Entrance {
        chain: format!("svc-{id}"),
        endpoints: &port.endpoints,
        map: "services",
        refused: "refused",
        keys: port.addresses.iter().map(|a| format!("{a} . {protocol} . {}", port.port)).collect(),
    }];
    if let Some(node_port) = port.node_port {
        all.push(Entrance {
            chain: format!("node-{id}"),
            endpoints: &port.node_port_endpoints,
            map: "nodeports",
            refused: "refused-nodeports",
            keys: vec![format!("{protocol} . {node_port}")],
        });
    }
    all
}

fn add(script: &mut String, service: &str, port: &PortRules) {
    for entrance in entrances(service, port) {
        let Entrance { chain, endpoints, map, refused, keys } = &entrance;
        if endpoints.is_empty() {
            for key in keys {
                push(script, format_args!("add element ip coracle {refused} {{ {key} }}"));
            }
            continue;
        }
        push(script, format_args!("add chain ip coracle {chain}"));
        match port.affinity {
            Some(timeout) => add_sticky(script, chain, port.protocol, endpoints, timeout.as_secs()),
            None => add_random(script, chain, port.protocol, endpoints),
        }
        for key in keys {
            push(script, format_args!("add element ip coracle {map} {{ {key} : goto {chain} }}"));
        }
    }
}

fn add_random(script: &mut String, chain: &str, protocol: Protocol, endpoints: &[SocketAddrV4]) {
    let protocol = protocol.as_str();
    let targets: Vec<String> =
        endpoints.iter().enumerate().map(|(i, e)| format!("{i} : {} . {}", e.ip(), e.port())).collect();
    let (count, targets) = (endpoints.len(), targets.join(", "));
    push(
        script,
        format_args!(
            "add rule ip coracle {chain} meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {targets} }}"
        ),
    );
}

/// A chain per endpoint that remembers its clients, asked first.
fn add_sticky(
    script: &mut String,
    chain: &str,
    protocol: Protocol,
    endpoints: &[SocketAddrV4],
    seconds: u64,
) {
    let protocol = protocol.as_str();
    for (i, endpoint) in endpoints.iter().enumerate() {
        push(
            script,
            format_args!(
                "add set ip coracle {chain}-{i} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size {AFFINITY_CLIENTS_MAX}; }}"
            ),
        );
        push(script, format_args!("add chain ip coracle {chain}-{i}"));
        push(
            script,
            format_args!(
                "add rule ip coracle {chain}-{i} update @{chain}-{i} {{ ip saddr }} meta l4proto {protocol} dnat to {endpoint}"
            ),
        );
    }
    for i in 0..endpoints.len() {
        push(script, format_args!("add rule ip coracle {chain} ip saddr @{chain}-{i} goto {chain}-{i}"));
    }
    let targets: Vec<String> = (0..endpoints.len()).map(|i| format!("{i} : goto {chain}-{i}")).collect();
    let (count, targets) = (endpoints.len(), targets.join(", "));
    push(script, format_args!("add rule ip coracle {chain} numgen random mod {count} vmap {{ {targets} }}"));
}

fn remove(script: &mut String, service: &str, port: &PortRules) {
    for entrance in entrances(service, port) {
        let Entrance { chain, endpoints, map, refused, keys } = &entrance;
        if endpoints.is_empty() {
            for key in keys {
                push(script, format_args!("delete element ip coracle {refused} {{ {key} }}"));
            }
            continue;
        }
        for key in keys {
            push(script, format_args!("delete element ip coracle {map} {{ {key} }}"));
        }
        push(script, format_args!("flush chain ip coracle {chain}"));
        push(script, format_args!("delete chain ip coracle {chain}"));
        if port.affinity.is_some() {
            for i in 0..endpoints.len() {
                push(script, format_args!("flush chain ip coracle {chain}-{i}"));
                push(script, format_args!("delete chain ip coracle {chain}-{i}"));
                push(script, format_args!("delete set ip coracle {chain}-{i}"));
            }
        }
    }
}

fn push(script: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{line}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn port(endpoints: &[&str]) -> PortRules {
        let endpoints: Vec<SocketAddrV4> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        PortRules {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            addresses: vec!["10.96.0.10".parse().unwrap()],
            node_port: None,
            affinity: None,
            node_port_endpoints: endpoints.clone(),
            endpoints,
        }
    }

    fn script(old: &[PortRules], new: &[PortRules]) -> String {
        let mut script = String::new();
        change(
            &mut script,
            "ns/web",
            &ServiceRules { ports: old.to_vec() },
            &ServiceRules { ports: new.to_vec() },
        );
        script
    }

    #[test]
    fn endpoints_are_chosen_at_random_and_none_is_refused() {
        let some = script(&[], &[port(&["10.244.0.2:8080", "10.244.0.3:8080"])]);
        assert!(
            some.contains("numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.3 . 8080 }"),
            "{some}"
        );
        assert!(some.contains("services { 10.96.0.10 . tcp . 80 : goto svc-"), "{some}");
        let none = script(&[], &[port(&[])]);
        assert_eq!(none, "add element ip coracle refused { 10.96.0.10 . tcp . 80 }\n");
        assert_eq!(script(&[port(&[])], &[port(&[])]), "", "what is the same is not touched");
    }

    #[test]
    fn what_was_added_is_removed() {
        let mut full = port(&["10.244.0.2:8080"]);
        full.node_port = Some(30_080);
        full.affinity = Some(Duration::from_secs(60));
        let added = script(&[], std::slice::from_ref(&full));
        let removed = script(&[full], &[]);
        for what in ["chain", "set", "element"] {
            let count = |text: &str, verb: &str| text.matches(&format!("{verb} {what} ip coracle")).count();
            assert_eq!(count(&added, "add"), count(&removed, "delete"), "{what}\n{added}\n{removed}");
        }
        assert!(added.contains("nodeports { tcp . 30080 : goto node-"), "{added}");
    }
}
