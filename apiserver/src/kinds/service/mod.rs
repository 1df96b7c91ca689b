//! Service: one address for many pods. Addresses and node ports are handed out by [`ServiceAllocator`].

mod range;
mod families;
mod allocate;
mod validate;

pub use allocate::{Reservation, ServiceAllocator, Surroundings, addresses, node_ports, owner};
pub use range::{AddressRange, RangeError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::pod::defaults::text;
use super::{BuiltIn, Column};
use crate::field_error::Errors;
use crate::table;
use crate::validation::{self, given};

const SESSION_SECONDS: i32 = 10_800;
const HEADLESS: &str = "None";

impl BuiltIn for Service {
    const SINGULAR: &'static str = "service";
    const CREATE_ON_UPDATE: bool = true;
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["svc"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const SUBRESOURCES: &'static [&'static str] = &["proxy"];

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        text(&mut spec.session_affinity, "None");
        match spec.session_affinity.as_deref() {
            Some("None") => spec.session_affinity_config = None,
            Some("ClientIP") => {
                let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
                let client = config.client_ip.get_or_insert_with(ClientIPConfig::default);
                client.timeout_seconds.get_or_insert(SESSION_SECONDS);
            }
            _ => {}
        }
        text(&mut spec.type_, "ClusterIP");
        for port in spec.ports.iter_mut().flatten() {
            text(&mut port.protocol, "TCP");
            match &port.target_port {
                None | Some(IntOrString::Int(0)) => port.target_port = Some(IntOrString::Int(port.port)),
                Some(IntOrString::String(name)) if name.is_empty() => {
                    port.target_port = Some(IntOrString::Int(port.port));
                }
                Some(_) => {}
            }
        }
        let external = is_external(spec);
        if external
            || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) && type_of(spec) == "ClusterIP"
        {
            text(&mut spec.external_traffic_policy, "Cluster");
        }
        if type_of(spec) != "ExternalName" {
            text(&mut spec.internal_traffic_policy, "Cluster");
        }
        if type_of(spec) == "LoadBalancer" {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
        }
        self.status.get_or_insert_default().load_balancer.get_or_insert_with(LoadBalancerStatus::default);
    }

    fn prepare_create(&mut self) {
        self.status =
            Some(ServiceStatus { load_balancer: Some(LoadBalancerStatus::default()), conditions: None });
        if let Some(spec) = &mut self.spec
            && let (Some(one), true) = (given(&spec.cluster_ip), listed(&spec.cluster_ips).is_empty())
        {
            spec.cluster_ips = Some(vec![one.to_owned()]);
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        let (Some(new), Some(old)) = (&mut self.spec, &old.spec) else { return };
        keep_allocated(new, old);
        drop_unused(new, old);
        follow_single(new, old);
    }

    fn validate_name(name: &str) -> Result<(), String> {
        validation::dns_label(name)
    }

    fn validate(&self, errors: &mut Errors) {
        validate::validate(self, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        validate::validate_update(self, old, errors);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        self.spec.as_ref().map(ignored).unwrap_or_default()
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow(
                "Type",
                "string",
                "How the service is offered: ClusterIP, NodePort, LoadBalancer or ExternalName.",
            ),
            table::narrow("Cluster-IP", "string", "Its address inside the cluster."),
            table::narrow("External-IP", "string", "Its addresses outside the cluster."),
            table::narrow("Port(s)", "string", "Its ports, with the nodes' ports where there are any."),
            table::wide("Selector", "string", "The labels of the pods behind it."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let ip = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).or(spec.cluster_ip.as_ref());
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(type_of(&spec)),
                json!(table::or_none(ip.map(String::as_str))),
                json!(external_ip(self)),
                json!(ports(spec.ports.as_deref().unwrap_or_default())),
            ],
            vec![json!(table::labels(spec.selector.as_ref()))],
        )
    }
}

/// What a service says in vain, or by an old name.
fn ignored(spec: &ServiceSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    let external = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if type_of(spec) == "ClusterIP" && spec.cluster_ip.as_deref() == Some(HEADLESS) {
        if given(&spec.load_balancer_ip).is_some() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.session_affinity.as_deref() != Some("None") {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if external {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if type_of(spec) == "ExternalName" && external {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if type_of(spec) != "ExternalName" && given(&spec.external_name).is_some() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    warnings
}

pub(super) fn type_of(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

/// Reachable through the nodes' ports.
fn is_external(spec: &ServiceSpec) -> bool {
    matches!(type_of(spec), "NodePort" | "LoadBalancer")
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some(HEADLESS)
        || spec.cluster_ips.as_ref().and_then(|ips| ips.first()).is_some_and(|ip| ip == HEADLESS)
}

fn listed(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// A client that knows of `clusterIP` alone changes `clusterIPs` with it.
fn follow_single(new: &mut ServiceSpec, old: &ServiceSpec) {
    let (one, before) = (given(&new.cluster_ip).map(str::to_owned), given(&old.cluster_ip));
    if one.as_deref() != before && listed(&new.cluster_ips) == listed(&old.cluster_ips) {
        new.cluster_ips = one.map(|one| vec![one]);
    }
}

/// A client that leaves out what it was given keeps it.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    let has_ip = |spec: &ServiceSpec| type_of(spec) != "ExternalName";
    if has_ip(new) && has_ip(old) {
        if given(&new.cluster_ip).is_none() {
            new.cluster_ip = old.cluster_ip.clone();
        }
        if listed(&new.cluster_ips).is_empty() {
            new.cluster_ips = old.cluster_ips.clone();
        }
    }
    if is_external(new) && is_external(old) {
        let used = |spec: &ServiceSpec| -> Vec<i32> {
            spec.ports.iter().flatten().filter_map(|port| port.node_port).collect()
        };
        let (used, used_before) = (used(new), used(old));
        let name = |port: &ServicePort| port.name.clone().unwrap_or_default();
        for port in new.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or_default() == 0) {
            let before = old.ports.iter().flatten().rfind(|p| name(p) == name(port));
            let kept = before.and_then(|p| p.node_port);
            port.node_port =
                kept.filter(|p| !(used.contains(p) && used_before.contains(p))).or(port.node_port);
        }
    }
    if needs_health_port(new) && needs_health_port(old) && new.health_check_node_port.unwrap_or_default() == 0
    {
        new.health_check_node_port = old.health_check_node_port;
    }
}

fn needs_health_port(spec: &ServiceSpec) -> bool {
    type_of(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// A type that changes takes along what only the old type had, where the client did not touch it.
fn drop_unused(new: &mut ServiceSpec, old: &ServiceSpec) {
    if type_of(new) == "ExternalName" && type_of(old) != "ExternalName" {
        if new.cluster_ip == old.cluster_ip {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
        if new.internal_traffic_policy == old.internal_traffic_policy {
            new.internal_traffic_policy = None;
        }
    }
    if is_external(old) && !is_external(new) {
        let before: Vec<i32> = old.ports.iter().flatten().filter_map(|p| p.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            port.node_port = port.node_port.filter(|p| !before.contains(p));
        }
        let exposed = new.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        if !exposed && new.external_traffic_policy == old.external_traffic_policy {
            new.external_traffic_policy = None;
        }
    }
    if needs_health_port(old)
        && !needs_health_port(new)
        && new.health_check_node_port == old.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    if type_of(old) == "LoadBalancer" && type_of(new) != "LoadBalancer" {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
}

fn external_ip(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let mut ips = spec.external_ips.clone().unwrap_or_default();
    match type_of(&spec) {
        "ClusterIP" | "NodePort" if ips.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => ips.join(","),
        "LoadBalancer" => {
            let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let ingress = balancer.iter().flat_map(|b| b.ingress.iter().flatten());
            let mut all: Vec<String> =
                ingress.filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
            all.append(&mut ips);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => spec.external_name.unwrap_or_default(),
        _ => "<unknown>".into(),
    }
}

fn ports(ports: &[ServicePort]) -> String {
    let one = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or_default();
        match port.node_port.unwrap_or_default() {
            0 => format!("{}/{protocol}", port.port),
            node => format!("{}:{node}/{protocol}", port.port),
        }
    };
    if ports.is_empty() { "<none>".into() } else { ports.iter().map(one).collect::<Vec<_>>().join(",") }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn spec_of(spec: Value) -> Value {
        serde_json::to_value(defaulted::<Service>(json!({"spec": spec})).spec).unwrap()
    }

    #[test]
    fn defaults() {
        assert_eq!(
            spec_of(json!({"ports": [{"port": 80}]})),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
        assert_eq!(
            spec_of(
                json!({"type": "NodePort", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": "http"}]})
            ),
            json!({"type": "NodePort", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                "externalTrafficPolicy": "Cluster", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]})
        );
    }

    #[test]
    fn what_is_said_in_vain() {
        for (spec, want) in [
            (json!({"clusterIP": "None"}), vec![]),
            (
                json!({"clusterIP": "None", "sessionAffinity": "ClientIP"}),
                vec!["spec.SessionAffinity is ignored for headless services"],
            ),
            (
                json!({"externalName": "a.b"}),
                vec!["spec.externalName is ignored when spec.type is not \"ExternalName\""],
            ),
            (
                json!({"externalIPs": ["1.2.3.4"], "trafficDistribution": "PreferClose"}),
                vec![
                    "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                    "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
                ],
            ),
        ] {
            assert_eq!(defaulted::<Service>(json!({"spec": spec})).warnings(None), want);
        }
    }

    fn updated(old: Value, new: Value) -> Value {
        let mut new: Service = defaulted(json!({"spec": new}));
        new.prepare_update(&defaulted(json!({"spec": old})));
        serde_json::to_value(new.spec).unwrap()
    }

    #[test]
    fn what_was_given_is_kept_and_what_is_unused_goes() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "nodePort": 30080}]});
        let kept = updated(old.clone(), json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!((&kept["clusterIP"], &kept["ports"][0]["nodePort"]), (&json!("10.96.0.9"), &json!(30080)));
        assert_eq!(kept["clusterIPs"], json!(["10.96.0.9"]));
        let mut inner = old.clone();
        inner["type"] = json!("ClusterIP");
        inner["externalTrafficPolicy"] = json!("Cluster");
        let inner = updated(old.clone(), inner);
        assert_eq!((inner["ports"][0].get("nodePort"), inner.get("externalTrafficPolicy")), (None, None));
        let mut name = old.clone();
        name["type"] = json!("ExternalName");
        name["externalName"] = json!("example.com");
        let name = updated(old, name);
        assert_eq!(
            (name.get("clusterIP"), name.get("clusterIPs"), name.get("ipFamilies")),
            (None, None, None)
        );
    }

    #[test]
    fn columns() {
        let service = |spec: Value, status: Value| {
            testing::cells::<Service>(json!({"metadata": {"name": "s"}, "spec": spec, "status": status}))[1..]
                .join(" ")
        };
        for (spec, status, want) in [
            (
                json!({"type": "NodePort", "clusterIPs": ["10.96.0.9"], "selector": {"app": "x"},
                    "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                json!({}),
                "NodePort 10.96.0.9 <none> 80:30080/TCP,53/UDP <unknown> app=x",
            ),
            (
                json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9"}),
                json!({}),
                "LoadBalancer 10.96.0.9 <pending> <none> <unknown> <none>",
            ),
            (
                json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9"}),
                json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
                "LoadBalancer 10.96.0.9 1.2.3.4 <none> <unknown> <none>",
            ),
            (
                json!({"type": "ExternalName", "externalName": "example.com"}),
                json!({}),
                "ExternalName <none> example.com <none> <unknown> <none>",
            ),
            (json!({"clusterIP": "None"}), json!({}), "ClusterIP None <none> <none> <unknown> <none>"),
        ] {
            assert_eq!(service(spec, status), want);
        }
    }
}
