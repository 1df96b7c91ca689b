//! What a Service wants of the cloud, which of its changes matter, and which nodes stand behind it. Pure.

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service, ServiceSpec};

pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// A node with this label, whatever its value, is behind no load balancer.
pub const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The cluster autoscaler is about to remove the node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is none of the cloud's business, and never was.
    Ignore,
    /// What there is for it is to go.
    Delete,
    Ensure,
}

pub fn step(service: &Service) -> Step {
    let deleting = service.metadata.deletion_timestamp.is_some();
    if wants(service) && !deleting {
        return Step::Ensure;
    }
    if has_finalizer(service) { Step::Delete } else { Step::Ignore }
}

/// One with a class is another controller's.
pub fn wants(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none())
}

pub fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

pub fn with_finalizer(service: &Service) -> Vec<String> {
    let mut all = service.metadata.finalizers.clone().unwrap_or_default();
    all.push(FINALIZER.into());
    all
}

pub fn without_finalizer(service: &Service) -> Vec<String> {
    let mut all = service.metadata.finalizers.clone().unwrap_or_default();
    all.retain(|f| f != FINALIZER);
    all
}

pub fn status(service: &Service) -> LoadBalancerStatus {
    service.status.as_ref().and_then(|s| s.load_balancer.clone()).unwrap_or_default()
}

/// An Event's reason and message.
pub type Change = (&'static str, String);

/// Whether the load balancer must be looked at after this change, and the Events that say why.
pub fn changes(old: &Service, new: &Service) -> Option<Vec<Change>> {
    if !wants(old) && !wants(new) && step(new) == Step::Ignore {
        return None;
    }
    let spec = |service: &Service| service.spec.clone().unwrap_or_default();
    let (before, after) = (spec(old), spec(new));
    let mut said: Vec<Change> = Vec::new();
    let mut differ = |reason: &'static str, before: String, after: String| {
        if before != after {
            said.push((reason, format!("{before} -> {after}")));
        }
    };
    let list =
        |values: &Option<Vec<String>>| format!("[{}]", values.as_deref().unwrap_or_default().join(" "));
    let word = |value: &Option<String>| value.clone().unwrap_or_default();
    differ("Type", word(&before.type_), word(&after.type_));
    differ(
        "LoadBalancerSourceRanges",
        list(&before.load_balancer_source_ranges),
        list(&after.load_balancer_source_ranges),
    );
    differ("LoadbalancerIP", word(&before.load_balancer_ip), word(&after.load_balancer_ip));
    differ(
        "ExternalTrafficPolicy",
        word(&before.external_traffic_policy),
        word(&after.external_traffic_policy),
    );
    let number = |value: Option<i32>| value.unwrap_or_default().to_string();
    differ(
        "HealthCheckNodePort",
        number(before.health_check_node_port),
        number(after.health_check_node_port),
    );
    differ("UID", word(&old.metadata.uid), word(&new.metadata.uid));
    let external = |spec: &ServiceSpec| spec.external_ips.clone().unwrap_or_default();
    if external(&before) != external(&after) {
        let counts = format!("Count: {} -> {}", external(&before).len(), external(&after).len());
        said.push(("ExternalIP", counts));
    }
    let silent = before.ports != after.ports
        || before.session_affinity != after.session_affinity
        || before.session_affinity_config != after.session_affinity_config
        || before.ip_families != after.ip_families
        || old.metadata.annotations != new.metadata.annotations
        || (has_finalizer(old) && !has_finalizer(new));
    (silent || !said.is_empty() || step(new) == Step::Delete).then_some(said)
}

/// The nodes that traffic may come in by, by name.
pub fn backends(mut nodes: Vec<Node>) -> Vec<Node> {
    nodes.retain(is_backend);
    nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    nodes
}

fn is_backend(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let tainted = node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED));
    node.metadata.deletion_timestamp.is_none() && !excluded && !tainted
}

/// What of a node load balancers depend on.
pub fn essence(node: &Node) -> impl PartialEq + use<> {
    let addresses: Vec<(String, String)> = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .map(|a| (a.type_.clone(), a.address.clone()))
        .collect();
    let provider_id = node.spec.as_ref().and_then(|s| s.provider_id.clone());
    (is_backend(node), provider_id, addresses, is_ready(node))
}

pub fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True")
}
