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
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// The addresses on which `port` is served: cluster IP, external IPs.
    pub addresses: Vec<Ipv4Addr>,
    /// Served on every address of the node.
    pub node_port: Option<u16>,
    /// A client keeps its endpoint for this long after its last connection.
    pub affinity: Option<Duration>,
    /// For clients inside the cluster; empty: refuse.
    pub endpoints: Vec<SocketAddrV4>,
    /// For the node port, where the traffic policy is `Local` the node's own only; empty: refuse.
    pub node_port_endpoints: Vec<SocketAddrV4>,
}

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
    let cluster_ip = match spec.cluster_ip.as_deref() {
        Some("None") | None => None,
        Some(ip) => ip.parse::<Ipv4Addr>().ok(),
    };
    let Some(cluster_ip) = cluster_ip else { return ServiceRules::default() };
    let external = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse::<Ipv4Addr>().ok());
    let balanced = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|i| i.ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()));
    let mut addresses = vec![cluster_ip];
    addresses.extend(external.chain(balanced));
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
                addresses: addresses.clone(),
                node_port: port
                    .node_port
                    .filter(|_| exposes_node_ports)
                    .and_then(|p| u16::try_from(p).ok())
                    .filter(|p| *p != 0),
                affinity,
                endpoints: for_policy(local(spec.internal_traffic_policy.as_deref())),
                node_port_endpoints: for_policy(local(spec.external_traffic_policy.as_deref())),
            })
        })
        .collect();
    ServiceRules { ports }
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
}
