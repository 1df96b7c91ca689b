//! Which slices mirror an Endpoints object that was written by hand: one for each set of ports and address family.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backends::Port;
use super::slice_plan::{Action, MANAGED_BY, SERVICE_NAME, identity, ports_of};
use crate::ownership;

pub const MIRROR_MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
pub const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Upstream's default of --mirroring-max-endpoints-per-subset.
pub const ADDRESSES_MAX: usize = 1000;

/// Annotations that say something of the Endpoints object alone.
const NOT_MIRRORED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Addresses that are none.
    pub invalid: usize,
    /// Addresses left out, those that are none included.
    pub skipped: usize,
}

/// Whether this object is one to mirror: neither asked not to be, nor a lock of an old leader election.
pub fn mirrored(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let annotations = endpoints.metadata.annotations.as_ref();
    labels.and_then(|l| l.get(SKIP)).map(String::as_str) != Some("true")
        && !annotations.is_some_and(|a| a.contains_key(LEADER))
}

type Group = (&'static str, Vec<Port>);

/// `existing`: the slices that mirror this object, not those under deletion.
pub fn plan(endpoints: &Endpoints, mut existing: Vec<EndpointSlice>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = wanted(endpoints, &mut plan);
    existing.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let (labels, annotations) = (labels(endpoints), annotations(endpoints));
    let mut surplus = Vec::new();
    for slice in existing {
        let Some(family) = family(&slice.address_type) else {
            surplus.push(slice);
            continue;
        };
        let mut ports = ports_of(&slice);
        ports.sort();
        let Some(endpoints_wanted) = wanted.remove(&(family, ports)) else {
            surplus.push(slice);
            continue;
        };
        let mut present = slice.endpoints.clone().unwrap_or_default();
        present.sort_by_cached_key(identity);
        let shown = slice.metadata.annotations.clone().unwrap_or_default();
        if present != endpoints_wanted
            || slice.metadata.labels.as_ref() != Some(&labels)
            || shown != annotations
        {
            let mut slice = slice;
            slice.endpoints = Some(endpoints_wanted);
            slice.metadata.labels = Some(labels.clone());
            slice.metadata.annotations = Some(annotations.clone());
            plan.actions.push(Action::Update(slice));
        }
    }
    let deleting = endpoints.metadata.deletion_timestamp.is_some();
    for ((family, ports), endpoints_wanted) in wanted {
        let slice_ports = slice_ports(&ports);
        // A slice that would go is used again: readers never see the addresses missing.
        let at = surplus.iter().position(|slice| slice.address_type == family);
        if let Some(mut slice) = at.map(|at| surplus.remove(at)) {
            slice.ports = Some(slice_ports);
            slice.endpoints = Some(endpoints_wanted);
            slice.metadata.labels = Some(labels.clone());
            slice.metadata.annotations = Some(annotations.clone());
            plan.actions.push(Action::Update(slice));
        } else if !deleting {
            plan.actions.push(Action::Create(EndpointSlice {
                metadata: ObjectMeta {
                    namespace: endpoints.metadata.namespace.clone(),
                    generate_name: Some(format!(
                        "{}-",
                        endpoints.metadata.name.as_deref().unwrap_or_default()
                    )),
                    labels: Some(labels.clone()),
                    annotations: Some(annotations.clone()).filter(|a| !a.is_empty()),
                    owner_references: Some(vec![ownership::controller_of::<Endpoints>(&endpoints.metadata)]),
                    ..ObjectMeta::default()
                },
                address_type: family.into(),
                endpoints: Some(endpoints_wanted),
                ports: Some(slice_ports),
            }));
        }
    }
    plan.actions.extend(surplus.into_iter().map(Action::Delete));
    plan
}

fn family(address_type: &str) -> Option<&'static str> {
    ["IPv4", "IPv6"].into_iter().find(|f| *f == address_type)
}

/// The endpoints of each group, sorted, an address once.
fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<Port> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                number: port.port,
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut taken = 0;
        for (address, ready) in ready.chain(unready) {
            if taken == ADDRESSES_MAX {
                plan.skipped += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                plan.invalid += 1;
                plan.skipped += 1;
                continue;
            };
            taken += 1;
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let endpoint = endpoint(address, ip, ready);
            groups.entry((family, ports.clone())).or_default().entry(identity(&endpoint)).or_insert(endpoint);
        }
    }
    groups.into_iter().map(|(group, set)| (group, set.into_values().collect())).collect()
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        ..Endpoint::default()
    }
}

fn slice_ports(ports: &[Port]) -> Vec<EndpointPort> {
    ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()),
            port: Some(port.number),
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MIRROR_MANAGER.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !NOT_MIRRORED.contains(&name.as_str()));
    annotations
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn endpoints(subsets: Value) -> Endpoints {
        from(json!({"metadata": {"namespace": "ns", "name": "db", "uid": "e", "labels": {"team": "a"},
            "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}, "subsets": subsets}))
    }

    fn named(mut slice: EndpointSlice, name: &str) -> EndpointSlice {
        slice.metadata.name = Some(name.into());
        slice
    }

    fn carried_out(actions: Vec<Action>) -> Vec<EndpointSlice> {
        let kept = |(n, action)| match action {
            Action::Create(slice) => Some(named(slice, &format!("db-{n}"))),
            Action::Update(slice) => Some(slice),
            Action::Delete(_) => None,
        };
        actions.into_iter().enumerate().filter_map(kept).collect()
    }

    fn verbs(actions: &[Action]) -> String {
        let verb = |action: &Action| match action {
            Action::Create(_) => 'c',
            Action::Update(_) => 'u',
            Action::Delete(_) => 'd',
        };
        actions.iter().map(verb).collect()
    }

    #[test]
    fn what_is_mirrored() {
        for (labels, annotations, want) in [
            (json!({}), json!({}), true),
            (json!({SKIP: "true"}), json!({}), false),
            (json!({SKIP: "false"}), json!({}), true),
            (json!({}), json!({LEADER: "{}"}), false),
        ] {
            let object: Endpoints =
                from(json!({"metadata": {"name": "db", "labels": labels, "annotations": annotations}}));
            assert_eq!(mirrored(&object), want, "{object:?}");
        }
    }

    #[test]
    fn one_slice_for_each_family_and_set_of_ports() {
        let both = endpoints(json!([
            {"addresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "n"}, {"ip": "fd00::1"}],
             "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "sql", "port": 5432}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 80, "protocol": "UDP"}]},
        ]));
        let first = plan(&both, Vec::new());
        assert_eq!(verbs(&first.actions), "ccc");
        let slices = carried_out(first.actions);
        let shape: Vec<_> =
            slices.iter().map(|s| (s.address_type.as_str(), s.endpoints.iter().flatten().count())).collect();
        assert_eq!(shape, [("IPv4", 1), ("IPv4", 2), ("IPv6", 1)]);
        let sql = &slices[1];
        let ready: Vec<_> =
            sql.endpoints.iter().flatten().map(|e| e.conditions.clone().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        let one = sql.endpoints.iter().flatten().next().unwrap();
        assert_eq!((one.hostname.as_deref(), one.node_name.as_deref()), (Some("h"), Some("n")));
        let labels = sql.metadata.labels.clone().unwrap();
        assert_eq!(labels[SERVICE_NAME], "db");
        assert_eq!(labels[MANAGED_BY], MIRROR_MANAGER);
        assert_eq!(labels["team"], "a");
        assert_eq!(sql.metadata.annotations.clone().unwrap(), [("note".to_owned(), "x".to_owned())].into());
        assert_eq!(sql.metadata.owner_references.clone().unwrap()[0].kind, "Endpoints");
        assert!(plan(&both, slices.clone()).actions.is_empty(), "and that is that");
    }

    #[test]
    fn changes_reuse_slices() {
        let of =
            |ip: &str, port: u16| endpoints(json!([{"addresses": [{"ip": ip}], "ports": [{"port": port}]}]));
        let slices = carried_out(plan(&of("10.0.0.1", 80), Vec::new()).actions);
        for (changed, want) in [
            (of("10.0.0.1", 80), ""),
            (of("10.0.0.2", 80), "u"),
            (of("10.0.0.1", 81), "u"),
            (of("fd00::1", 80), "cd"),
            (endpoints(json!([])), "d"),
        ] {
            let actions = plan(&changed, slices.clone()).actions;
            assert_eq!(verbs(&actions), want, "{changed:?}");
        }
        let mut relabelled = of("10.0.0.1", 80);
        relabelled.metadata.labels = None;
        assert_eq!(verbs(&plan(&relabelled, slices.clone()).actions), "u");
        let twice = vec![slices[0].clone(), named(slices[0].clone(), "db-9")];
        assert_eq!(verbs(&plan(&of("10.0.0.1", 80), twice).actions), "d", "a second one of the same goes");
        let mut going = of("fd00::1", 80);
        going.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
        assert_eq!(verbs(&plan(&going, slices).actions), "d", "nothing is made for what goes");
    }

    #[test]
    fn too_many_and_invalid_addresses_are_left_out() {
        let many: Vec<Value> = (0..1005_u32)
            .map(|n| json!({"ip": std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()}))
            .chain([json!({"ip": "nowhere"})])
            .collect();
        let got = plan(&endpoints(json!([{"addresses": many, "ports": []}])), Vec::new());
        assert_eq!((got.invalid, got.skipped), (0, 6), "past the bound nothing is looked at");
        let few = plan(&endpoints(json!([{"addresses": [{"ip": "nowhere"}, {"ip": "10.0.0.1"}]}])), vec![]);
        assert_eq!((few.invalid, few.skipped), (1, 1));
    }
}
