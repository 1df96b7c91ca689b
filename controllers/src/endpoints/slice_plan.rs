//! Which slices to create, change and delete so that they hold the wanted endpoints, touching as few as can be.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::backends::{Backend, Port};
use super::{HEADLESS, topology};
use crate::ownership;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Upstream's default of --max-endpoints-per-slice.
pub const ENDPOINTS_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(EndpointSlice),
}

/// The endpoints wanted, by the ports they serve.
pub type Wanted = BTreeMap<Vec<Port>, Vec<Endpoint>>;

pub fn wanted(
    service: &Service,
    backends: &[Backend],
    ipv6: bool,
    zone: impl Fn(&str) -> Option<String>,
) -> Wanted {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    // Hints by topology come before hints by distance, even where there are none.
    let distribution = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref());
    let distribution = distribution.filter(|_| !topology::asked_for(service));
    let mut groups = Wanted::new();
    for backend in backends {
        let Some(address) = backend.addresses.iter().find(|a| a.is_ipv6() == ipv6) else { continue };
        let ready = publish || (backend.serving && !backend.terminating);
        let zone = backend.node.as_deref().and_then(&zone);
        groups.entry(backend.ports.clone()).or_default().push(Endpoint {
            addresses: vec![address.to_string()],
            hints: hints(distribution, zone.as_deref(), backend.node.as_deref()).filter(|_| ready),
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                serving: Some(backend.serving),
                terminating: Some(backend.terminating),
            }),
            hostname: backend.hostname.clone(),
            zone,
            node_name: backend.node.clone(),
            target_ref: Some(backend.pod.clone()),
            ..Endpoint::default()
        });
    }
    groups
}

/// Who should use an endpoint where traffic is to stay close; for the same node also the zone, which proxies that
/// know no nodes go by.
fn hints(distribution: Option<&str>, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let same_node = match distribution? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|name| vec![ForZone { name: name.into() }]);
    let for_nodes = node.filter(|_| same_node).map(|name| vec![ForNode { name: name.into() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// `existing`: this controller's slices of the service and address type, not those under deletion.
pub fn plan(
    service: &Service,
    address_type: &str,
    existing: Vec<EndpointSlice>,
    wanted: Wanted,
) -> Vec<Action> {
    let template = Template { service, address_type };
    let mut by_ports: HashMap<Vec<Port>, Vec<EndpointSlice>> = HashMap::new();
    for slice in existing {
        by_ports.entry(ports_of(&slice)).or_default().push(slice);
    }
    let mut actions = Vec::new();
    let mut kept = 0;
    for (ports, endpoints) in wanted {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        kept += fill(&template, &ports, slices, endpoints, &mut actions);
    }
    let mut surplus: Vec<EndpointSlice> = by_ports.into_values().flatten().collect();
    surplus.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    if kept == 0 && !actions.iter().any(|a| matches!(a, Action::Create(_))) {
        // A service without endpoints keeps one empty slice, so that readers can tell "none" from "not known".
        let is_placeholder = |slice: &EndpointSlice| {
            slice.ports.iter().flatten().next().is_none() && slice.endpoints.iter().flatten().next().is_none()
        };
        match surplus.iter().position(is_placeholder) {
            Some(at) => {
                let placeholder = surplus.remove(at);
                if let Some(updated) = template.updated(&placeholder) {
                    actions.push(Action::Update(updated));
                }
            }
            None => actions.push(Action::Create(template.slice(&[], Vec::new()))),
        }
    }
    actions.extend(surplus.into_iter().map(Action::Delete));
    actions
}

/// One group of ports; returns how many slices stay.
fn fill(
    template: &Template<'_>,
    ports: &[Port],
    mut slices: Vec<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    actions: &mut Vec<Action>,
) -> usize {
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut missing: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut drafts: Vec<Draft> = Vec::with_capacity(slices.len());
    for slice in slices {
        let before = slice.endpoints.clone().unwrap_or_default();
        // What is wanted stays where it is, in its newest state; what is not goes.
        let endpoints: Vec<Endpoint> =
            before.iter().filter_map(|endpoint| missing.remove(&identity(endpoint))).collect();
        let labels = template.updated(&slice);
        let changed = endpoints != before || labels.is_some();
        drafts.push(Draft { slice: labels.unwrap_or(slice), endpoints, changed });
    }
    let mut missing: Vec<Endpoint> = missing.into_values().collect();
    // Slices that are written anyway take as much as they can.
    for draft in drafts.iter_mut().filter(|draft| draft.changed && !draft.endpoints.is_empty()) {
        draft.take(&mut missing);
    }
    // What is left goes into one more slice: the fullest that has room for all of it, an emptied one, a new one.
    if !missing.is_empty() && missing.len() < ENDPOINTS_MAX {
        let fits = |draft: &&mut Draft| draft.endpoints.len() + missing.len() <= ENDPOINTS_MAX;
        if let Some(draft) = drafts.iter_mut().filter(fits).max_by_key(|draft| draft.endpoints.len()) {
            draft.take(&mut missing);
            draft.changed = true;
        }
    }
    for draft in drafts.iter_mut().filter(|draft| draft.endpoints.is_empty()) {
        draft.take(&mut missing);
        draft.changed |= !draft.endpoints.is_empty();
    }
    let mut kept = 0;
    for mut draft in drafts {
        if draft.endpoints.is_empty() {
            actions.push(Action::Delete(draft.slice));
            continue;
        }
        kept += 1;
        if draft.changed {
            draft.slice.endpoints = Some(draft.endpoints);
            actions.push(Action::Update(draft.slice));
        }
    }
    while !missing.is_empty() {
        let rest = missing.split_off(missing.len().min(ENDPOINTS_MAX));
        actions.push(Action::Create(template.slice(ports, std::mem::replace(&mut missing, rest))));
    }
    kept
}

struct Draft {
    slice: EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    fn take(&mut self, missing: &mut Vec<Endpoint>) {
        let room = ENDPOINTS_MAX.saturating_sub(self.endpoints.len()).min(missing.len());
        self.endpoints.extend(missing.drain(..room));
    }
}

/// What an endpoint is, whatever its state: a pod at an address.
pub fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or_default();
    format!("{} {uid}", endpoint.addresses.first().map_or("", String::as_str))
}

pub fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

struct Template<'a> {
    service: &'a Service,
    address_type: &'a str,
}

impl Template<'_> {
    fn labels(&self) -> BTreeMap<String, String> {
        let meta = &self.service.metadata;
        let mut labels = meta.labels.clone().unwrap_or_default();
        labels.insert(SERVICE_NAME.into(), meta.name.clone().unwrap_or_default());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        if self.service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
            labels.insert(HEADLESS.into(), String::new());
        } else {
            labels.remove(HEADLESS);
        }
        labels
    }

    fn owner(&self) -> OwnerReference {
        ownership::controller_of::<Service>(&self.service.metadata)
    }

    fn slice(&self, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
        let meta = &self.service.metadata;
        EndpointSlice {
            metadata: ObjectMeta {
                namespace: meta.namespace.clone(),
                generate_name: meta.name.as_ref().map(|name| format!("{name}-")),
                labels: Some(self.labels()),
                owner_references: Some(vec![self.owner()]),
                ..ObjectMeta::default()
            },
            address_type: self.address_type.into(),
            endpoints: Some(endpoints),
            ports: Some(
                ports
                    .iter()
                    .map(|port| EndpointPort {
                        name: Some(port.name.clone()),
                        port: Some(port.number),
                        protocol: Some(port.protocol.clone()),
                        app_protocol: port.app_protocol.clone(),
                    })
                    .collect(),
            ),
        }
    }

    /// The slice with the service's labels and owner of now, where they differ.
    fn updated(&self, slice: &EndpointSlice) -> Option<EndpointSlice> {
        let (labels, owner) = (self.labels(), self.owner());
        let owned = slice.metadata.owner_references.iter().flatten().any(|o| *o == owner);
        if slice.metadata.labels.as_ref() == Some(&labels) && owned {
            return None;
        }
        let mut slice = slice.clone();
        slice.metadata.labels = Some(labels);
        let owners = slice.metadata.owner_references.get_or_insert_default();
        owners.retain(|o| o.uid != owner.uid && !(o.kind == owner.kind && o.controller == Some(true)));
        owners.push(owner);
        Some(slice)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::testing::from;

    static NAMES: AtomicUsize = AtomicUsize::new(0);

    fn service() -> Service {
        from(json!({"metadata": {"namespace": "ns", "name": "web", "uid": "s", "labels": {"team": "a"}},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}))
    }

    fn backend(n: u32, serving: bool, terminating: bool) -> Backend {
        Backend {
            addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))],
            node: Some("n1".into()),
            hostname: None,
            pod: from(json!({"kind": "Pod", "name": format!("p{n}"), "uid": format!("u{n}")})),
            serving,
            terminating,
            ports: vec![Port { name: "".into(), protocol: "TCP".into(), number: 8080, app_protocol: None }],
        }
    }

    fn many(range: std::ops::Range<u32>) -> Vec<Backend> {
        range.map(|n| backend(n, true, false)).collect()
    }

    /// Carries the actions out on the slices.
    fn apply(slices: &mut Vec<EndpointSlice>, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Create(slice) => {
                    let mut slice = slice.clone();
                    slice.metadata.name = Some(format!("web-{:03}", NAMES.fetch_add(1, Ordering::Relaxed)));
                    slices.push(slice);
                }
                Action::Update(slice) => {
                    let at = slices.iter().position(|s| s.metadata.name == slice.metadata.name).unwrap();
                    slices[at] = slice.clone();
                }
                Action::Delete(slice) => slices.retain(|s| s.metadata.name != slice.metadata.name),
            }
        }
    }

    fn step(slices: &mut Vec<EndpointSlice>, backends: &[Backend]) -> Vec<Action> {
        let wanted = wanted(&service(), backends, false, |_| Some("z".into()));
        let actions = plan(&service(), "IPv4", slices.clone(), wanted);
        apply(slices, &actions);
        actions
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|s| s.endpoints.iter().flatten().count()).collect()
    }

    #[test]
    fn slices_fill_up_and_one_change_touches_one_slice() {
        let mut slices = Vec::new();
        step(&mut slices, &[]);
        assert_eq!(sizes(&slices), [0], "a placeholder");
        assert!(step(&mut slices, &[]).is_empty(), "and it stays");
        step(&mut slices, &many(0..250));
        assert_eq!(sizes(&slices), [100, 100, 50]);
        assert!(step(&mut slices, &many(0..250)).is_empty());
        assert_eq!(step(&mut slices, &many(0..251)).len(), 1);
        assert_eq!(sizes(&slices), [100, 100, 51]);
        let mut one_not_ready = many(0..251);
        one_not_ready[7].serving = false;
        assert_eq!(step(&mut slices, &one_not_ready).len(), 1);
        // One leaves, one comes: the slice that is written anyway takes it.
        one_not_ready.remove(7);
        one_not_ready.push(backend(900, true, false));
        assert_eq!(step(&mut slices, &one_not_ready).len(), 1);
        assert_eq!(sizes(&slices), [100, 100, 51]);
        step(&mut slices, &many(0..1));
        assert_eq!(sizes(&slices), [1]);
        step(&mut slices, &[]);
        assert_eq!(sizes(&slices), [0]);
    }

    #[test]
    fn hints_say_who_is_close() {
        let names = |distribution: Option<&str>, zone: Option<&'static str>, up: bool| {
            let mut service = service();
            service.spec.get_or_insert_default().traffic_distribution = distribution.map(str::to_owned);
            let all = wanted(&service, &[backend(1, up, false)], false, |_| zone.map(str::to_owned));
            let hints = all.into_values().flatten().next().and_then(|e| e.hints)?;
            let zones = hints.for_zones.into_iter().flatten().map(|z| z.name);
            Some(
                zones
                    .chain(hints.for_nodes.into_iter().flatten().map(|n| n.name))
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        for (distribution, zone, up, want) in [
            (None, Some("z"), true, None),
            (Some("Elsewhere"), Some("z"), true, None),
            (Some("PreferClose"), Some("z"), true, Some("z")),
            (Some("PreferSameZone"), Some("z"), true, Some("z")),
            (Some("PreferSameNode"), Some("z"), true, Some("z n1")),
            (Some("PreferSameNode"), None, true, Some("n1")),
            (Some("PreferClose"), None, true, None),
            (Some("PreferClose"), Some("z"), false, None),
        ] {
            assert_eq!(names(distribution, zone, up).as_deref(), want, "{distribution:?} {zone:?} {up}");
        }
    }

    #[test]
    fn conditions_labels_and_ports() {
        let mut slices = Vec::new();
        step(&mut slices, &[backend(1, true, false), backend(2, true, true), backend(3, false, false)]);
        let slice = &slices[0];
        let conditions: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| e.conditions.as_ref().map(|c| (c.ready, c.serving, c.terminating)))
            .collect();
        let c = |r, s, t| Some((Some(r), Some(s), Some(t)));
        assert_eq!(conditions, [c(true, true, false), c(false, true, true), c(false, false, false)]);
        let labels = slice.metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels.get(SERVICE_NAME).map(String::as_str), Some("web"));
        assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        assert_eq!(slice.endpoints.iter().flatten().next().and_then(|e| e.zone.as_deref()), Some("z"));

        let mut publish = service();
        publish.spec.get_or_insert_default().publish_not_ready_addresses = Some(true);
        let all = wanted(&publish, &[backend(3, false, false)], false, |_| None);
        let ready = all.values().flatten().next().and_then(|e| e.conditions.as_ref()?.ready);
        assert_eq!(ready, Some(true));
        assert!(wanted(&service(), &many(0..1), true, |_| None).is_empty(), "no IPv6 address");
    }
}
