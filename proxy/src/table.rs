//! What the rules of one Service are, worked out of it and its EndpointSlices. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Everything a dataplane must do for one Service. The default does nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    pub ports: Vec<PortRules>,
    pub announcement: Announcement,
    pub health_check: Option<HealthCheck>,
}

/// Addresses that this node answers for on the network, though they are not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    pub addresses: Vec<Ipv4Addr>,
}

/// By this a load balancer finds out whether the node has endpoints of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: u16,
    pub local_endpoints: usize,
}

/// A network whose clients are let in.
pub type Source = (Ipv4Addr, u8);

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// The addresses on which `port` is served inside the cluster.
    pub addresses: Vec<Ipv4Addr>,
    /// Those outside: external IPs.
    pub external_addresses: Vec<Ipv4Addr>,
    /// Load balancers' addresses.
    pub balanced_addresses: Vec<Ipv4Addr>,
    /// Whose clients load balancers let in; empty: everybody's.
    pub sources: Vec<Source>,
    /// Served on every address of the node.
    pub node_port: Option<u16>,
    /// A client keeps its endpoint for this long after its last connection.
    pub affinity: Option<Duration>,
    /// For clients inside the cluster; empty: refuse.
    pub endpoints: Vec<SocketAddrV4>,
    /// From outside, where the traffic policy is `Local` the node's own only; empty: refuse.
    pub node_port_endpoints: Vec<SocketAddrV4>,
    /// With the policy `Local`: what clients inside the cluster reach by the addresses for outside. Else empty.
    pub inside_endpoints: Vec<SocketAddrV4>,
}

/// A way in to a port, for clients inside the cluster, which this node's own are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayIn<'a> {
    /// None: every address of the node.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    pub endpoints: &'a [SocketAddrV4],
    /// Whose clients are let in; empty: everybody's.
    pub sources: &'a [Source],
}

impl PortRules {
    pub fn ways_in(&self) -> Vec<WayIn<'_>> {
        let outside =
            if self.inside_endpoints.is_empty() { &self.node_port_endpoints } else { &self.inside_endpoints };
        let at = |addresses: &[Ipv4Addr]| addresses.iter().map(|a| (Some(*a), self.port)).collect::<Vec<_>>();
        let groups = [
            (at(&self.addresses), &self.endpoints, &[][..]),
            (at(&self.external_addresses), outside, &[][..]),
            (at(&self.balanced_addresses), outside, &self.sources[..]),
            (
                self.node_port.map(|number| (None, number)).into_iter().collect(),
                &self.node_port_endpoints,
                &[][..],
            ),
        ];
        groups
            .into_iter()
            .flat_map(|(ways, endpoints, sources)| {
                ways.into_iter().map(move |(address, port)| WayIn { address, port, endpoints, sources })
            })
            .collect()
    }
}

/// The node whose proxy answers for the addresses of a Service's load balancer; cloud controllers say so.
pub const ANNOUNCED_BY: &str = "coracle.dev/announced-by";

/// Where the node is, for policies and hints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    pub node: &'a str,
    /// Of its label `topology.kubernetes.io/zone`.
    pub zone: Option<&'a str>,
}

/// The rules of a Service on a node at `place`. Headless and external-name Services have none.
pub fn rules(service: &Service, slices: &[EndpointSlice], place: Place<'_>) -> ServiceRules {
    let Some(spec) = &service.spec else { return ServiceRules::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return ServiceRules::default();
    }
    // The first or the second address: "None" is no address.
    let addresses = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    let cluster_ip = addresses.filter_map(|ip| ip.parse::<Ipv4Addr>().ok()).next();
    let Some(cluster_ip) = cluster_ip else { return ServiceRules::default() };
    let external: Vec<Ipv4Addr> =
        spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let balanced: Vec<Ipv4Addr> = if is_balanced { balanced(service) } else { Vec::new() };
    let sources: Vec<Source> =
        spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| source(range)).collect();
    // Ranges of which none can be read let nobody in.
    let closed =
        spec.load_balancer_source_ranges.as_ref().is_some_and(|r| !r.is_empty()) && sources.is_empty();
    let balanced = if closed { Vec::new() } else { balanced };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref())
            .and_then(|c| c.timeout_seconds)
            .unwrap_or(10_800);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(10_800))
    });
    let local = |policy: Option<&str>| policy == Some("Local");
    let exposes_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let all = endpoints(port, slices, Reach::Near(place));
            let own = || endpoints(port, slices, Reach::Node(place.node));
            let for_policy = |only_own: bool| if only_own { own() } else { all.clone() };
            Some(PortRules {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
                addresses: vec![cluster_ip],
                external_addresses: external.clone(),
                balanced_addresses: balanced.clone(),
                sources: sources.clone(),
                node_port: port
                    .node_port
                    .filter(|_| exposes_node_ports)
                    .and_then(|p| u16::try_from(p).ok())
                    .filter(|p| *p != 0),
                affinity,
                endpoints: for_policy(local(spec.internal_traffic_policy.as_deref())),
                node_port_endpoints: for_policy(local(spec.external_traffic_policy.as_deref())),
                inside_endpoints: if local(spec.external_traffic_policy.as_deref()) {
                    all
                } else {
                    Vec::new()
                },
            })
        })
        .collect();
    let announced = service.metadata.annotations.as_ref().and_then(|a| a.get(ANNOUNCED_BY));
    let announced = announced.is_some_and(|by| by == place.node);
    ServiceRules {
        ports,
        announcement: Announcement { addresses: if announced { balanced } else { Vec::new() } },
        health_check: health_check(service, slices, place.node),
    }
}

/// Addresses in the status whose traffic comes as it was sent; with `Proxy` the load balancer changes it on the way.
fn balanced(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    status
        .into_iter()
        .flat_map(|s| s.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect()
}

fn source(range: &str) -> Option<Source> {
    let (address, prefix) = range.trim().split_once('/')?;
    let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32)?;
    let address: Ipv4Addr = address.parse().ok()?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Some((Ipv4Addr::from_bits(address.to_bits() & mask), prefix))
}

/// Whether a client's address lies in one of the networks; without any everybody is let in.
pub fn admits(sources: &[Source], client: IpAddr) -> bool {
    let IpAddr::V4(client) = client.to_canonical() else { return sources.is_empty() };
    sources.is_empty()
        || sources.iter().any(|(network, prefix)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
            client.to_bits() & mask == network.to_bits()
        })
}

fn health_check(service: &Service, slices: &[EndpointSlice], node: &str) -> Option<HealthCheck> {
    let spec = service.spec.as_ref()?;
    let port =
        spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    if spec.type_.as_deref() != Some("LoadBalancer")
        || spec.external_traffic_policy.as_deref() != Some("Local")
    {
        return None;
    }
    let own = |endpoint: &&Endpoint| {
        endpoint.node_name.as_deref() == Some(node) && matches!(state(endpoint), State::Ready)
    };
    let addresses: BTreeSet<&String> = slices
        .iter()
        .filter(|slice| slice.address_type == "IPv4")
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(own)
        .filter_map(|endpoint| endpoint.addresses.first())
        .collect();
    Some(HealthCheck { port, local_endpoints: addresses.len() })
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        // SCTP is not carried.
        _ => None,
    }
}

/// Which endpoints come into question.
#[derive(Clone, Copy)]
enum Reach<'a> {
    /// All, or of those that are ready the ones that hints set aside for this place.
    Near(Place<'a>),
    Node(&'a str),
}

/// Ready endpoints of a port; where there are none, those that end but still serve.
fn endpoints(port: &ServicePort, slices: &[EndpointSlice], reach: Reach<'_>) -> Vec<SocketAddrV4> {
    let mut ready: Vec<(SocketAddrV4, &Endpoint)> = Vec::new();
    let mut ending = BTreeSet::new();
    let protocol_text = port.protocol.as_deref().unwrap_or("TCP");
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let target = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && p.protocol.as_deref().unwrap_or("TCP") == protocol_text
        });
        let Some(target) = target.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if matches!(reach, Reach::Node(node) if endpoint.node_name.as_deref() != Some(node)) {
                continue;
            }
            // Addresses of one endpoint are alternatives; consumers use the first.
            let Some(IpAddr::V4(ip)) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                continue;
            };
            let address = SocketAddrV4::new(ip, target);
            match state(endpoint) {
                State::Ready => ready.push((address, endpoint)),
                State::Ending => drop(ending.insert(address)),
                State::Out => {}
            }
        }
    }
    if let Reach::Near(place) = reach {
        keep_near(&mut ready, place);
    }
    let chosen = if ready.is_empty() { ending } else { ready.into_iter().map(|(a, _)| a).collect() };
    chosen.into_iter().collect()
}

/// Hints count when every endpoint has one and one is for here; those for nodes before those for zones.
fn keep_near(ready: &mut Vec<(SocketAddrV4, &Endpoint)>, place: Place<'_>) {
    let for_node = |e: &Endpoint| {
        let nodes = e.hints.as_ref().and_then(|h| h.for_nodes.as_ref()).filter(|n| !n.is_empty());
        nodes.map(|nodes| nodes.iter().any(|n| n.name == place.node))
    };
    let for_zone = |e: &Endpoint| {
        let zones = e.hints.as_ref().and_then(|h| h.for_zones.as_ref()).filter(|z| !z.is_empty());
        zones.map(|zones| zones.iter().any(|z| Some(z.name.as_str()) == place.zone))
    };
    let count = |hint: &dyn Fn(&Endpoint) -> Option<bool>| {
        ready.iter().all(|(_, e)| hint(e).is_some()) && ready.iter().any(|(_, e)| hint(e) == Some(true))
    };
    if count(&for_node) {
        ready.retain(|(_, e)| for_node(e) == Some(true));
    } else if count(&for_zone) {
        ready.retain(|(_, e)| for_zone(e) == Some(true));
    }
}

enum State {
    Ready,
    Ending,
    Out,
}

fn state(endpoint: &Endpoint) -> State {
    let Some(conditions) = &endpoint.conditions else { return State::Ready };
    let ready = conditions.ready.unwrap_or(true);
    let ending = conditions.terminating.unwrap_or(false);
    if ready {
        State::Ready
    } else if ending && conditions.serving.unwrap_or(false) {
        State::Ending
    } else {
        State::Out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const A: Place<'_> = Place { node: "a", zone: Some("west") };

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn slice(endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
        }))
        .unwrap()
    }

    fn plain() -> Value {
        json!({"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]})
    }

    fn with(mut base: Value, extra: Value) -> Value {
        for (key, value) in extra.as_object().unwrap() {
            base[key] = value.clone();
        }
        base
    }

    #[test]
    fn endpoints_are_the_ready_ones_else_those_that_still_serve() {
        let ready = json!({"addresses": ["10.244.0.2"], "conditions": {"ready": true}, "nodeName": "a"});
        let unready = json!({"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": false}});
        let ending = json!({"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let unknown = json!({"addresses": ["10.244.0.5"]});
        for (endpoints, want) in [
            (json!([ready, unready, ending]), vec!["10.244.0.2:8080"]),
            (json!([unready, ending]), vec!["10.244.0.4:8080"]),
            (json!([unready]), vec![]),
            (json!([unknown]), vec!["10.244.0.5:8080"]),
            (json!([ready, ready]), vec!["10.244.0.2:8080"]),
        ] {
            let rules = rules(&service(plain()), &[slice(endpoints.clone())], A);
            let got: Vec<String> = rules.ports[0].endpoints.iter().map(ToString::to_string).collect();
            assert_eq!(got, want, "{endpoints}");
        }
    }

    #[test]
    fn services_have_rules_by_type() {
        for (spec, ports) in [
            (plain(), 1),
            (with(plain(), json!({"clusterIP": "None"})), 0),
            (with(plain(), json!({"type": "ExternalName"})), 0),
            (with(plain(), json!({"ports": [{"port": 80, "protocol": "SCTP"}]})), 0),
            (json!({"ports": [{"port": 80}]}), 0),
        ] {
            assert_eq!(rules(&service(spec.clone()), &[], A).ports.len(), ports, "{spec}");
        }
        let node_port = json!({"ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        let of_type =
            |t: &str| rules(&service(with(with(plain(), node_port.clone()), json!({"type": t}))), &[], A);
        assert_eq!(of_type("NodePort").ports[0].node_port, Some(30080));
        assert_eq!(of_type("ClusterIP").ports[0].node_port, None);
    }

    #[test]
    fn local_policies_keep_to_the_node() {
        let here = json!({"addresses": ["10.244.0.2"], "nodeName": "a"});
        let there = json!({"addresses": ["10.244.1.2"], "nodeName": "b"});
        let slices = [slice(json!([here, there]))];
        for (extra, inside, outside) in [
            (json!({}), 2, 2),
            (json!({"externalTrafficPolicy": "Local"}), 2, 1),
            (json!({"internalTrafficPolicy": "Local"}), 1, 2),
        ] {
            let got = rules(&service(with(plain(), extra.clone())), &slices, A);
            let counts = (got.ports[0].endpoints.len(), got.ports[0].node_port_endpoints.len());
            assert_eq!(counts, (inside, outside), "{extra}");
        }
    }

    #[test]
    fn hints_keep_traffic_near_where_all_have_them_and_one_is_for_here() {
        let zone = |ip: &str, zone: &str| json!({"addresses": [ip], "hints": {"forZones": [{"name": zone}]}});
        let node = |ip: &str, node: &str| json!({"addresses": [ip], "hints": {"forNodes": [{"name": node}], "forZones": [{"name": "west"}]}});
        let none = |ip: &str| json!({"addresses": [ip]});
        for (endpoints, want) in [
            (json!([zone("10.0.0.1", "west"), zone("10.0.0.2", "east")]), vec![1]),
            (json!([zone("10.0.0.1", "east"), zone("10.0.0.2", "east")]), vec![1, 2]),
            (json!([zone("10.0.0.1", "west"), none("10.0.0.2")]), vec![1, 2]),
            (json!([node("10.0.0.1", "b"), node("10.0.0.2", "a")]), vec![2]),
            (json!([node("10.0.0.1", "b"), node("10.0.0.2", "c")]), vec![1, 2]),
            (json!([node("10.0.0.1", "a"), zone("10.0.0.2", "east")]), vec![1]),
        ] {
            let rules = rules(&service(plain()), &[slice(endpoints.clone())], A);
            let got: Vec<u8> = rules.ports[0].endpoints.iter().map(|e| e.ip().octets()[3]).collect();
            assert_eq!(got, want, "{endpoints}");
        }
    }

    #[test]
    fn affinity_has_a_time() {
        for (extra, want) in [
            (json!({}), None),
            (json!({"sessionAffinity": "ClientIP"}), Some(10_800)),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
                Some(5),
            ),
        ] {
            let got = rules(&service(with(plain(), extra)), &[], A).ports[0].affinity;
            assert_eq!(got, want.map(Duration::from_secs));
        }
    }

    #[test]
    fn load_balancers_addresses_are_served_as_their_mode_and_ranges_say() {
        let base = with(plain(), json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.1"]}));
        for (spec, ingress, balanced, sources) in [
            (json!({}), json!([]), vec![], 0),
            (json!({}), json!([{"ip": "192.0.2.9"}]), vec!["192.0.2.9"], 0),
            (json!({}), json!([{"ip": "192.0.2.9", "ipMode": "VIP"}]), vec!["192.0.2.9"], 0),
            (json!({}), json!([{"ip": "192.0.2.9", "ipMode": "Proxy"}]), vec![], 0),
            (json!({}), json!([{"hostname": "lb.example.com"}, {"ip": "fd00::1"}]), vec![], 0),
            (json!({"type": "NodePort"}), json!([{"ip": "192.0.2.9"}]), vec![], 0),
            (
                json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "x"]}),
                json!([{"ip": "192.0.2.9"}]),
                vec!["192.0.2.9"],
                1,
            ),
            (json!({"loadBalancerSourceRanges": ["fd00::/8"]}), json!([{"ip": "192.0.2.9"}]), vec![], 0),
        ] {
            let mut service = service(with(base.clone(), spec.clone()));
            service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
            let port = rules(&service, &[], A).ports.remove(0);
            let got: Vec<String> = port.balanced_addresses.iter().map(ToString::to_string).collect();
            assert_eq!(
                (got, port.sources.len()),
                (balanced.into_iter().map(str::to_owned).collect(), sources),
                "{spec}"
            );
            assert_eq!(port.external_addresses.len(), 1);
        }
    }

    #[test]
    fn the_node_that_is_named_answers() {
        for (by, want) in [(None, 0), (Some("a"), 1), (Some("b"), 0)] {
            let mut service = service(with(plain(), json!({"type": "LoadBalancer"})));
            service.metadata.annotations =
                by.map(|by: &str| [(ANNOUNCED_BY.to_owned(), by.to_owned())].into());
            service.status =
                serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}})).unwrap();
            assert_eq!(rules(&service, &[], A).announcement.addresses.len(), want, "{by:?}");
        }
    }

    #[test]
    fn health_is_checked_where_the_policy_is_local() {
        let slices = [slice(json!([
            {"addresses": ["10.244.0.2"], "nodeName": "a"},
            {"addresses": ["10.244.0.3"], "nodeName": "a", "conditions": {"ready": false}},
            {"addresses": ["10.244.1.2"], "nodeName": "b"},
        ]))];
        let port = json!({"type": "LoadBalancer", "healthCheckNodePort": 30999});
        let local = json!({"externalTrafficPolicy": "Local"});
        for (extra, node, want) in [
            (with(port.clone(), local.clone()), "a", Some(1)),
            (with(port.clone(), local.clone()), "c", Some(0)),
            (port, "a", None),
            (with(json!({"type": "LoadBalancer"}), local), "a", None),
        ] {
            let got = rules(&service(with(plain(), extra.clone())), &slices, Place { node, zone: None })
                .health_check;
            assert_eq!(got.map(|h| h.local_endpoints), want, "{extra}");
        }
    }

    #[test]
    fn clients_are_let_in_by_their_networks() {
        let sources = [("10.0.0.0".parse().unwrap(), 8), ("192.0.2.7".parse().unwrap(), 32)];
        for (client, want) in [
            ("10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("::ffff:10.0.0.1", true),
            ("fd00::1", false),
        ] {
            assert_eq!(admits(&sources, client.parse().unwrap()), want, "{client}");
        }
        assert!(
            admits(&[], "1.2.3.4".parse().unwrap())
                && admits(&[("0.0.0.0".parse().unwrap(), 0)], "1.2.3.4".parse().unwrap())
        );
    }
}
