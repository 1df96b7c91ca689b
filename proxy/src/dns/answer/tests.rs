//! The specification's examples, and what is not in it.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::dns::names;

fn set(zone: &mut Zone, name: &str, spec: Value, slices: &[Value]) {
    let service: Service = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
    let slices: Vec<EndpointSlice> =
        slices.iter().map(|s| serde_json::from_value(s.clone()).unwrap()).collect();
    zone.set(&name.into(), names::of(&service, &slices));
}

fn slice(kind: &str, endpoints: Value) -> Value {
    json!({"metadata": {"name": "x"}, "addressType": kind, "endpoints": endpoints,
        "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}]})
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", Some("10.96.0.10".parse().unwrap()));
    let ports = json!([{"name": "https", "port": 443, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    set(
        &mut zone,
        "shop/web",
        json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00:96::20"], "ports": ports}),
        &[slice("IPv4", json!([{"addresses": ["10.244.1.9"], "conditions": {"ready": true}}]))],
    );
    set(
        &mut zone,
        "shop/db",
        json!({"clusterIP": "None", "ports": ports}),
        &[
            slice(
                "IPv4",
                json!([
                    {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.3"], "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.4"], "hostname": "db-2", "conditions": {"ready": false}},
                ]),
            ),
            slice("IPv6", json!([{"addresses": ["fd00:244::2"], "hostname": "db-0", "conditions": {}}])),
        ],
    );
    let unready = slice(
        "IPv4",
        json!([{"addresses": ["10.244.1.5"], "hostname": "peer-0", "conditions": {"ready": false}}]),
    );
    set(
        &mut zone,
        "shop/peers",
        json!({"clusterIP": "None", "publishNotReadyAddresses": true}),
        std::slice::from_ref(&unready),
    );
    set(&mut zone, "shop/none", json!({"clusterIP": "None"}), &[]);
    set(&mut zone, "shop/out", json!({"type": "ExternalName", "externalName": "Example.COM."}), &[]);
    set(&mut zone, "shop/waiting", json!({"ports": ports}), &[]);
    zone
}

/// `A 10.96.0.20`, one line per record, sorted; or what else is said.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    let networks = [
        ("10.96.0.0".parse().unwrap(), 16),
        ("10.244.0.0".parse().unwrap(), 16),
        ("fd00:96::".parse().unwrap(), 112),
    ];
    let show = |records: Vec<Record>| {
        let mut lines: Vec<String> =
            records.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    match answer(zone, &networks, &Name::from_ascii(name).unwrap(), kind) {
        Answer::Records { answers, .. } => show(answers),
        Answer::Alias(alias) => format!("alias {}", show(vec![alias.record])),
        Answer::Nothing => "nothing".into(),
        Answer::NoSuchName => "no such name".into(),
        Answer::NotOurs => "not ours".into(),
    }
}

#[test]
fn names_have_the_records_of_the_specification() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let zone = zone();
    for (name, kind, want) in [
        ("dns-version.cluster.local.", TXT, "TXT 1.1.0"),
        ("web.shop.svc.cluster.local.", A, "A 10.96.0.20"),
        ("WEB.Shop.svc.CLUSTER.local.", A, "A 10.96.0.20"),
        ("web.shop.svc.cluster.local.", AAAA, "AAAA fd00:96::20"),
        ("web.shop.svc.cluster.local.", MX, "nothing"),
        ("_https._tcp.web.shop.svc.cluster.local.", SRV, "SRV 0 100 443 web.shop.svc.cluster.local."),
        ("_dns._udp.web.shop.svc.cluster.local.", SRV, "SRV 0 100 53 web.shop.svc.cluster.local."),
        ("_dns._tcp.web.shop.svc.cluster.local.", SRV, "no such name"),
        ("_https._tcp.web.shop.svc.cluster.local.", A, "nothing"),
        ("_tcp.web.shop.svc.cluster.local.", SRV, "nothing"),
        ("20.0.96.10.in-addr.arpa.", PTR, "PTR web.shop.svc.cluster.local."),
        (
            "0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "PTR web.shop.svc.cluster.local.",
        ),
        ("10-244-1-9.web.shop.svc.cluster.local.", A, "A 10.244.1.9"),
        // Headless.
        ("db.shop.svc.cluster.local.", A, "A 10.244.1.2\nA 10.244.1.3"),
        ("db.shop.svc.cluster.local.", AAAA, "AAAA fd00:244::2"),
        ("db-0.db.shop.svc.cluster.local.", A, "A 10.244.1.2"),
        ("db-0.db.shop.svc.cluster.local.", AAAA, "AAAA fd00:244::2"),
        ("10-244-1-3.db.shop.svc.cluster.local.", A, "A 10.244.1.3"),
        ("db-2.db.shop.svc.cluster.local.", A, "no such name"),
        (
            "_https._tcp.db.shop.svc.cluster.local.",
            SRV,
            "SRV 0 33 8443 10-244-1-3.db.shop.svc.cluster.local.\nSRV 0 33 8443 db-0.db.shop.svc.cluster.local.\nSRV 0 33 8443 db-0.db.shop.svc.cluster.local.",
        ),
        ("2.1.244.10.in-addr.arpa.", PTR, "PTR db-0.db.shop.svc.cluster.local."),
        ("3.1.244.10.in-addr.arpa.", PTR, "no such name"),
        ("peers.shop.svc.cluster.local.", A, "A 10.244.1.5"),
        ("peer-0.peers.shop.svc.cluster.local.", A, "A 10.244.1.5"),
        ("none.shop.svc.cluster.local.", A, "nothing"),
        // External names.
        ("out.shop.svc.cluster.local.", CNAME, "CNAME example.com."),
        ("out.shop.svc.cluster.local.", A, "alias CNAME example.com."),
        // Pods.
        ("10-244-1-2.shop.pod.cluster.local.", A, "A 10.244.1.2"),
        ("10-244-1-2.shop.pod.cluster.local.", AAAA, "nothing"),
        ("fd00--1.shop.pod.cluster.local.", AAAA, "AAAA fd00::1"),
        ("nope.shop.pod.cluster.local.", A, "no such name"),
        // The zone itself, and names between others.
        ("cluster.local.", NS, "NS ns.dns.cluster.local."),
        ("cluster.local.", SOA, "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"),
        ("cluster.local.", A, "nothing"),
        ("ns.dns.cluster.local.", A, "A 10.96.0.10"),
        ("svc.cluster.local.", A, "nothing"),
        ("shop.svc.cluster.local.", A, "nothing"),
        ("empty.svc.cluster.local.", A, "no such name"),
        ("waiting.shop.svc.cluster.local.", A, "no such name"),
        ("missing.shop.svc.cluster.local.", A, "no such name"),
        ("a.b.web.shop.svc.cluster.local.", A, "no such name"),
        ("web.shop.cluster.local.", A, "no such name"),
        // Others' names.
        ("example.com.", A, "not ours"),
        ("notcluster.local.", A, "not ours"),
        ("1.2.0.192.in-addr.arpa.", PTR, "not ours"),
        ("99.0.96.10.in-addr.arpa.", PTR, "no such name"),
    ] {
        assert_eq!(ask(&zone, name, kind), want, "{name} {kind}");
    }
}

#[test]
fn names_come_and_go_with_their_service() {
    let mut zone = zone();
    for service in ["shop/web", "shop/db", "shop/peers", "shop/none", "shop/out"] {
        zone.set(&service.into(), None);
    }
    assert_eq!(ask(&zone, "shop.svc.cluster.local.", RecordType::A), "no such name");
    assert_eq!(ask(&zone, "2.1.244.10.in-addr.arpa.", RecordType::PTR), "no such name");
    set(&mut zone, "shop/web", json!({"clusterIP": "10.96.0.21"}), &[]);
    set(&mut zone, "shop/web", json!({"clusterIP": "10.96.0.22"}), &[]);
    assert_eq!(ask(&zone, "21.0.96.10.in-addr.arpa.", RecordType::PTR), "no such name");
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", RecordType::A), "A 10.96.0.22");
}
