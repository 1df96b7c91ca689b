//! Who gets which address and port, and when they come back.

use serde_json::{Value, json};

use crate::kinds::testing::defaulted;

use super::*;

fn allocator() -> ServiceAllocator {
    ServiceAllocator::new("10.96.0.0/24").unwrap()
}

/// Nothing is taken but what the allocator itself handed out.
const ALONE: Surroundings<'static> = Surroundings { holder: &|_| None, ranges: &[], has_port: &|_, _| true };

fn service(name: &str, spec: Value) -> Service {
    defaulted(json!({"metadata": {"namespace": "a", "name": name}, "spec": spec}))
}

fn allocated(allocator: &mut ServiceAllocator, name: &str, spec: Value) -> Value {
    let mut service = service(name, spec);
    allocator.allocate(&mut service, None, &ALONE).unwrap();
    serde_json::to_value(service.spec).unwrap()
}

fn refused(allocator: &mut ServiceAllocator, name: &str, spec: Value) -> (String, String) {
    let causes = allocator.allocate(&mut service(name, spec), None, &ALONE).unwrap_err().into_causes();
    assert_eq!(causes.len(), 1);
    (causes[0].field.clone(), causes[0].message.clone())
}

#[test]
fn a_service_gets_an_address_and_its_family() {
    let spec = allocated(&mut allocator(), "s", json!({"ports": [{"port": 80}]}));
    assert_eq!(spec["clusterIP"], "10.96.0.16");
    assert_eq!(spec["clusterIPs"], json!(["10.96.0.16"]));
    assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
}

#[test]
fn a_port_that_another_server_freed_is_free() {
    let mut allocator = allocator();
    allocator.learn(30080, "a/other".into());
    let wish = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let (_, message) = refused(&mut allocator, "s", wish.clone());
    assert!(message.ends_with("provided port is already allocated"), "{message}");
    let gone = Surroundings { has_port: &|_, _| false, ..ALONE };
    let taken = allocator.allocate(&mut service("s", wish.clone()), None, &gone).unwrap();
    assert_eq!(taken.ports(), [30080]);
    let (_, message) = (allocator.allocate(&mut service("t", wish), None, &gone)).map_or_else(
        |errors| ((), errors.into_causes()[0].message.clone()),
        |_| panic!("under way is not free"),
    );
    assert!(message.ends_with("provided port is already allocated"), "{message}");
}

#[test]
fn headless_and_named_services_get_none() {
    let headless = allocated(&mut allocator(), "s", json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert_eq!((&headless["clusterIP"], &headless["ipFamilies"]), (&json!("None"), &json!(["IPv4"])));
    let bare = allocated(&mut allocator(), "s", json!({"clusterIP": "None"}));
    assert_eq!(bare["ipFamilies"], json!(["IPv4", "IPv6"]));
    let name = allocated(&mut allocator(), "s", json!({"type": "ExternalName", "externalName": "e"}));
    assert_eq!((name.get("clusterIP"), name.get("ipFamilies")), (None, None));
}

#[test]
fn wishes_are_granted_once() {
    let mut allocator = allocator();
    let wish =
        json!({"clusterIP": "10.96.0.1", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let spec = allocated(&mut allocator, "s", wish.clone());
    assert_eq!((&spec["clusterIP"], &spec["ports"][0]["nodePort"]), (&json!("10.96.0.1"), &json!(30080)));
    // The same service again: an update.
    assert_eq!(
        allocator.allocate(&mut service("s", wish.clone()), None, &ALONE).unwrap(),
        Reservation::default()
    );
    assert_eq!(
        refused(&mut allocator, "t", json!({"clusterIP": "10.96.0.1"})),
        (
            "spec.clusterIPs".into(),
            "Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: provided IP is already allocated".into()
        )
    );
    assert_eq!(
        refused(&mut allocator, "t", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]})),
        ("spec.ports[0].nodePort".into(), "Invalid value: 30080: provided port is already allocated".into())
    );
    assert_eq!(
        refused(&mut allocator, "t", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]})),
        (
            "spec.ports[0].nodePort".into(),
            "Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767".into()
        )
    );
    let (field, message) = refused(&mut allocator, "t", json!({"clusterIP": "10.97.0.1"}));
    assert_eq!(field, "spec.clusterIPs");
    assert!(message.ends_with("the provided network does not match the current range"), "{message}");
    // Once it is stored, the store says whose the address is.
    let reservation = Reservation { addresses: vec!["10.96.0.1".parse().unwrap()], ports: Vec::new() };
    allocator.stored(&reservation);
    allocator.release(&service("s", wish.clone()));
    allocated(&mut allocator, "t", wish);
}

#[test]
fn failures_take_nothing() {
    let mut allocator = allocator();
    refused(&mut allocator, "t", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}));
    assert!(allocator.addresses.is_empty() && allocator.ports.is_empty());
    let mut other = service("s", json!({"type": "NodePort", "ports": [{"port": 1}]}));
    let taken = allocator.allocate(&mut other, None, &ALONE).unwrap();
    allocator.undo(&taken);
    assert!(allocator.addresses.is_empty() && allocator.ports.is_empty());
}

#[test]
fn an_update_gives_back_what_it_drops() {
    let mut allocator = allocator();
    let mut old = service("s", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]}));
    allocator.allocate(&mut old, None, &ALONE).unwrap();
    let mut new = old.clone();
    new.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(30002);
    allocator.allocate(&mut new, None, &ALONE).unwrap();
    allocator.settle(&old, &new);
    assert_eq!(allocator.ports.keys().copied().collect::<Vec<_>>(), [30002]);
    allocator.rebuild([&old]);
    assert_eq!(allocator.ports.keys().copied().collect::<Vec<_>>(), [30001]);
}

#[test]
fn the_whole_range_is_used_and_no_more() {
    let mut allocator = ServiceAllocator::new("10.96.0.0/27").unwrap();
    let mut seen = std::collections::HashSet::new();
    for i in 0..30 {
        let spec = allocated(&mut allocator, &format!("s{i}"), json!({}));
        assert!(seen.insert(spec["clusterIP"].as_str().unwrap().to_owned()));
    }
    assert!(!seen.contains("10.96.0.0") && !seen.contains("10.96.0.31"));
    let (_, message) = refused(&mut allocator, "more", json!({}));
    assert!(message.ends_with("range is full"), "{message}");
}

#[test]
fn ranges_are_checked() {
    for bad in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/33", "x/8"] {
        assert!(ServiceAllocator::new(bad).is_err(), "{bad}");
    }
    let mut six = ServiceAllocator::new("fd00::/108").unwrap();
    assert_eq!(allocated(&mut six, "s", json!({}))["clusterIP"], "fd00::100");
    assert_eq!(allocated(&mut six, "t", json!({}))["ipFamilies"], json!(["IPv6"]));
}

#[test]
fn what_the_store_says_is_respected() {
    let taken = |ip: IpAddr| (ip.to_string() == "10.96.0.16").then(|| "b/other".to_owned());
    let more = [AddressRange::parse("10.97.0.0/28").unwrap()];
    let around = Surroundings { holder: &taken, ranges: &more, ..ALONE };
    let mut allocator = allocator();
    let mut free = service("s", json!({}));
    allocator.allocate(&mut free, None, &around).unwrap();
    assert_eq!(free.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.17"));
    let mut wish = service("s", json!({"clusterIP": "10.96.0.16"}));
    assert!(allocator.allocate(&mut wish, None, &around).is_err());
    let mut wish = service("s", json!({"clusterIP": "10.97.0.3"}));
    assert_eq!(allocator.allocate(&mut wish, None, &around).unwrap().addresses().len(), 1);
    // Where the own range is full, the next has room.
    let full = |ip: IpAddr| ip.to_string().starts_with("10.96.").then(|| "b/other".to_owned());
    let mut free = service("t", json!({}));
    allocator.allocate(&mut free, None, &Surroundings { holder: &full, ranges: &more, ..ALONE }).unwrap();
    assert_eq!(free.spec.unwrap().cluster_ip.as_deref(), Some("10.97.0.8"));
}

#[test]
fn services_of_two_families_have_two_addresses() {
    let mut allocator = ServiceAllocator::new("10.96.0.0/24,fd00:96::/112").unwrap();
    let spec = allocated(&mut allocator, "s", json!({"ipFamilyPolicy": "PreferDualStack"}));
    assert_eq!(spec["clusterIPs"], json!(["10.96.0.16", "fd00:96::100"]));
    assert_eq!(spec["clusterIP"], "10.96.0.16");
    let turned = allocated(
        &mut allocator,
        "t",
        json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd00:96::7"}),
    );
    assert_eq!(turned["clusterIPs"], json!(["fd00:96::7", "10.96.0.17"]));
    let wish = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "fd00:96::8", "clusterIPs": ["fd00:96::8", "10.96.0.3"]});
    assert_eq!(
        allocated(&mut allocator, "u", wish.clone())["clusterIPs"],
        json!(["fd00:96::8", "10.96.0.3"])
    );
    let (field, message) = refused(&mut allocator, "v", wish);
    assert_eq!(
        (field.as_str(), message.as_str()),
        (
            "spec.clusterIPs",
            "Invalid value: [\"fd00:96::8\",\"10.96.0.3\"]: failed to allocate IP fd00:96::8: provided IP is already allocated"
        )
    );
}

#[test]
fn a_second_address_comes_and_goes_with_the_policy() {
    let mut allocator = ServiceAllocator::new("10.96.0.0/24,fd00:96::/112").unwrap();
    let mut old = service("s", json!({}));
    allocator.allocate(&mut old, None, &ALONE).unwrap();
    let mut new = old.clone();
    new.spec.as_mut().unwrap().ip_family_policy = Some("RequireDualStack".into());
    let taken = allocator.allocate(&mut new, Some(&old), &ALONE).unwrap();
    assert_eq!(taken.addresses(), ["fd00:96::100".parse::<IpAddr>().unwrap()]);
    assert_eq!(addresses(&new).len(), 2);
    let mut single = new.clone();
    single.spec.as_mut().unwrap().ip_family_policy = Some("SingleStack".into());
    assert_eq!(allocator.allocate(&mut single, Some(&new), &ALONE).unwrap(), Reservation::default());
    assert_eq!(addresses(&single), addresses(&old));
}
