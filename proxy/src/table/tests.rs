//! Rules of Services of every sort.

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
        let got: Vec<u8> = rules.ports[0].endpoints.iter().map(|e| last(e.ip())).collect();
        assert_eq!(got, want, "{endpoints}");
    }
}

fn last(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

#[test]
fn families_have_rules_of_their_own() {
    let six: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web-2"}, "addressType": "IPv6", "endpoints": [{"addresses": ["fd00:244::2"]}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
    }))
    .unwrap();
    let slices = [slice(json!([{"addresses": ["10.244.0.2"]}])), six];
    let (four, six) = (("10.96.0.10:80", "10.244.0.2:8080"), ("[fd00:96::10]:80", "[fd00:244::2]:8080"));
    for (ips, want) in [
        (json!(["10.96.0.10"]), vec![four]),
        (json!(["fd00:96::10"]), vec![six]),
        (json!(["10.96.0.10", "fd00:96::10"]), vec![four, six]),
        (json!(["fd00:96::10", "10.96.0.10"]), vec![four, six]),
    ] {
        let spec = with(plain(), json!({"clusterIP": ips[0], "clusterIPs": ips}));
        let rules = rules(&service(spec), &slices, A);
        let got: Vec<(String, String)> = rules
            .ports
            .iter()
            .map(|p| (SocketAddr::new(p.addresses[0], p.port).to_string(), p.endpoints[0].to_string()))
            .collect();
        let want: Vec<(String, String)> = want.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        assert_eq!(got, want, "{ips}");
    }
    let outside = json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.10", "fd00:96::10"],
        "externalIPs": ["192.0.2.1", "2001:db8::1"], "loadBalancerSourceRanges": ["10.0.0.0/8"]});
    let mut service = service(with(plain(), outside));
    service.status = serde_json::from_value(
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}]}}),
    )
    .unwrap();
    let ports = rules(&service, &slices, A).ports;
    let shown = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&ports[0].balanced_addresses), ["192.0.2.9"]);
    assert_eq!(shown(&ports[1].external_addresses), ["2001:db8::1"]);
    assert!(ports[1].balanced_addresses.is_empty(), "nobody of its family is let in");
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
        service.metadata.annotations = by.map(|by: &str| [(ANNOUNCED_BY.to_owned(), by.to_owned())].into());
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
        let got =
            rules(&service(with(plain(), extra.clone())), &slices, Place { node, zone: None }).health_check;
        assert_eq!(got.map(|h| h.local_endpoints), want, "{extra}");
    }
}

#[test]
fn clients_are_let_in_by_their_networks() {
    let sources = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"].map(|range| source(range).unwrap());
    for (client, want) in [
        ("10.1.2.3", true),
        ("11.0.0.1", false),
        ("192.0.2.7", true),
        ("::ffff:10.0.0.1", true),
        ("fd00::1", false),
        ("2001:db8::7", true),
    ] {
        assert_eq!(admits(&sources, client.parse().unwrap()), want, "{client}");
    }
    assert!(
        admits(&[], "1.2.3.4".parse().unwrap())
            && admits(&[("0.0.0.0".parse().unwrap(), 0)], "1.2.3.4".parse().unwrap())
    );
}
