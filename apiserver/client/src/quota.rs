//! What objects count for in a ResourceQuota: shared by the API server, which charges, and the controller, which
//! counts anew.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Affinity, Container, PersistentVolumeClaim, Pod, PodAffinityTerm, ResourceQuotaSpec,
    ScopedResourceSelectorRequirement, Service, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::amounts::{self, Amounts, Side};
use crate::quantity::Quantity;
use crate::resource::Resource;
use crate::selector::Selector;

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const VOLUME_ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";
const PRIORITY_CLASS: &str = "PriorityClass";

/// What pods are charged for, beside huge pages and what device plug-ins bring.
const OF_PODS: &[&str] = &[
    "count/pods",
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// What every container must name where a quota limits it.
const COMPUTE: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const OF_SERVICES: &[&str] = &["count/services", "services", "services.nodeports", "services.loadbalancers"];
const OF_CLAIMS: &[&str] = &["persistentvolumeclaims", "requests.storage"];
/// Resources that are counted by their bare name too.
const BARE: &[&str] = &["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];

/// An object as a quota sees it.
#[derive(Clone, Debug)]
pub enum Subject {
    Pod(Box<Pod>),
    Claim(Box<PersistentVolumeClaim>),
    Service(Box<Service>),
    /// Something that is one and no more.
    Other,
}

/// `count/deployments.apps`
pub fn count_name(resource: &Resource) -> String {
    format!("count/{}", resource.qualified())
}

/// Whether objects of this resource are charged to that name of a quota.
pub fn covers(resource: &Resource, name: &str) -> bool {
    match (resource.group(), resource.plural()) {
        ("", "pods") => {
            let device = name.starts_with("requests.") && name.contains('/');
            OF_PODS.contains(&name)
                || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                || (device && !name.contains("kubernetes.io/"))
        }
        ("", "services") => OF_SERVICES.contains(&name),
        ("", "persistentvolumeclaims") => {
            let class = name.split_once(STORAGE_CLASS).map(|(_, rest)| rest);
            name == "count/persistentvolumeclaims"
                || OF_CLAIMS.contains(&name)
                || class.is_some_and(|rest| OF_CLAIMS.contains(&rest))
        }
        ("", plural) if BARE.contains(&plural) && plural == name => true,
        _ => name == count_name(resource),
    }
}

/// What the object is charged.
pub fn usage(resource: &Resource, subject: &Subject, now: Timestamp) -> Amounts {
    let one = Quantity::from_units(1);
    match subject {
        Subject::Pod(pod) => of_pod(pod, now),
        Subject::Claim(claim) => of_claim(claim),
        Subject::Service(service) => of_service(service),
        Subject::Other => {
            let mut amounts = Amounts::from([(count_name(resource), one)]);
            if resource.group().is_empty() && BARE.contains(&resource.plural()) {
                amounts.insert(resource.plural().to_owned(), one);
            }
            amounts
        }
    }
}

fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut total = Amounts::from([("count/pods".to_owned(), Quantity::from_units(1))]);
    if over(pod, now) {
        return total;
    }
    let spec = pod.spec.clone().unwrap_or_default();
    let (mut requests, mut limits) =
        (amounts::of_pod(&spec, Side::Requests), amounts::of_pod(&spec, Side::Limits));
    let overhead = amounts::of(spec.overhead.as_ref());
    amounts::add(&mut requests, &overhead);
    for (name, amount) in &overhead {
        if let Some(limit) = limits.get_mut(name) {
            *limit += *amount;
        }
    }
    total.append(&mut compute(&requests, &limits));
    total
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut all = Amounts::from([("pods".to_owned(), Quantity::from_units(1))]);
    for (name, amount) in requests {
        let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if standard || name.starts_with("hugepages-") {
            all.insert(name.clone(), *amount);
            all.insert(format!("requests.{name}"), *amount);
        } else if name.contains('/') && !name.contains("kubernetes.io/") {
            all.insert(format!("requests.{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            all.insert(format!("limits.{name}"), *amount);
        }
    }
    all
}

/// It uses nothing any more: it has ended, or should have.
fn over(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return true;
    }
    let meta = &pod.metadata;
    let (Some(deleted), Some(grace)) = (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) else {
        return false;
    };
    deleted.0.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
}

fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let one = Quantity::from_units(1);
    let mut all = Amounts::new();
    for name in ["persistentvolumeclaims", "count/persistentvolumeclaims"] {
        all.insert(name.to_owned(), one);
    }
    let spec = claim.spec.as_ref();
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    let class = annotated.or(spec.and_then(|s| s.storage_class_name.as_ref())).filter(|c| !c.is_empty());
    if let Some(class) = class {
        all.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), one);
    }
    let requests = amounts::of(spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()));
    if let Some(asked) = requests.get("storage") {
        let given = amounts::of(claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref()));
        let most = given.get("storage").map_or(*asked, |given| *given.max(asked));
        // Whole bytes, as a quota's status demands.
        let whole = most.value();
        let most = if most == Quantity::from_units(whole) { most } else { Quantity::from_bytes(whole) };
        if let Some(class) = class {
            all.insert(format!("{class}{STORAGE_CLASS}requests.storage"), most);
        }
        all.insert("requests.storage".to_owned(), most);
    }
    all
}

fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let count = |n: usize| Quantity::from_units(i64::try_from(n).unwrap_or(i64::MAX));
    let fixed = ports.iter().filter(|p| p.node_port.unwrap_or_default() != 0).count();
    let (node_ports, balancers) = match spec.type_.as_deref() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => (fixed, 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let names = ["count/services", "services", "services.nodeports", "services.loadbalancers"];
    let counts = [1, 1, node_ports, balancers];
    names.into_iter().zip(counts).map(|(name, n)| (name.to_owned(), count(n))).collect()
}

/// Whether all scopes of the quota hold the object.
pub fn in_scopes(spec: &ResourceQuotaSpec, subject: &Subject) -> bool {
    let bare = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten().cloned());
    bare.chain(selected).all(|requirement| in_scope(&requirement, subject))
}

fn in_scope(requirement: &ScopedResourceSelectorRequirement, subject: &Subject) -> bool {
    let exists = requirement.operator == "Exists";
    let scope = requirement.scope_name.as_str();
    match (scope, subject) {
        ("Terminating", Subject::Pod(pod)) => terminating(pod),
        ("NotTerminating", Subject::Pod(pod)) => !terminating(pod),
        ("BestEffort", Subject::Pod(pod)) => best_effort(pod),
        ("NotBestEffort", Subject::Pod(pod)) => !best_effort(pod),
        (PRIORITY_CLASS, Subject::Pod(pod)) => {
            let class = pod.spec.as_ref().and_then(|s| s.priority_class_name.clone());
            let class = class.filter(|c| !c.is_empty());
            if exists { class.is_some() } else { selects(requirement, class) }
        }
        ("CrossNamespacePodAffinity", Subject::Pod(pod)) => {
            pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).is_some_and(across)
        }
        (VOLUME_ATTRIBUTES_CLASS, Subject::Claim(claim)) => {
            let classes = attribute_classes(claim);
            match (exists, classes.is_empty()) {
                (true, empty) => !empty,
                (false, true) => selects(requirement, None),
                (false, false) => classes.into_iter().any(|class| selects(requirement, Some(class))),
            }
        }
        _ => false,
    }
}

fn selects(requirement: &ScopedResourceSelectorRequirement, value: Option<String>) -> bool {
    let selector = LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: requirement.scope_name.clone(),
            operator: requirement.operator.clone(),
            values: requirement.values.clone(),
        }]),
        match_labels: None,
    };
    let labels: BTreeMap<String, String> =
        value.map(|value| (requirement.scope_name.clone(), value)).into_iter().collect();
    Selector::from_label_selector(Some(&selector)).is_ok_and(|s| s.matches(&labels))
}

/// Whether its time is limited.
pub fn terminating(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some_and(|seconds| seconds >= 0)
}

fn best_effort(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let asks = |side: Side| {
        let all = amounts::of_pod(spec, side);
        ["cpu", "memory"].iter().any(|name| all.get(*name).is_some_and(|amount| !amount.is_zero()))
    };
    !asks(Side::Requests) && !asks(Side::Limits)
}

fn across(affinity: &Affinity) -> bool {
    let far = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some()
    };
    let weighted = |term: &WeightedPodAffinityTerm| far(&term.pod_affinity_term);
    let near = affinity.pod_affinity.as_ref().is_some_and(|a| {
        a.required_during_scheduling_ignored_during_execution.iter().flatten().any(far)
            || a.preferred_during_scheduling_ignored_during_execution.iter().flatten().any(weighted)
    });
    let apart = affinity.pod_anti_affinity.as_ref().is_some_and(|a| {
        a.required_during_scheduling_ignored_during_execution.iter().flatten().any(far)
            || a.preferred_during_scheduling_ignored_during_execution.iter().flatten().any(weighted)
    });
    near || apart
}

fn attribute_classes(claim: &PersistentVolumeClaim) -> BTreeSet<String> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().filter(|class| !class.is_empty()).collect()
}

/// What the containers fail to name of what the quota limits: `limits.cpu for: a,b; limits.memory for: a`.
pub fn unnamed<'a>(pod: &Pod, limited: impl Iterator<Item = &'a str>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.resources.as_ref().is_some_and(|r| r.limits.is_some() || r.requests.is_some()) {
        return None;
    }
    let limited: BTreeSet<&str> = limited.filter(|name| COMPUTE.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        let named = named(container);
        for name in limited.iter().filter(|name| !named.contains_key(**name)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    let parts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn named(container: &Container) -> Amounts {
    let one = std::slice::from_ref(container);
    compute(
        &amounts::of_containers(one, &[], Side::Requests),
        &amounts::of_containers(one, &[], Side::Limits),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Subject {
        Subject::Pod(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    }

    fn shown(resource: &Resource, subject: &Subject) -> Value {
        let amounts = usage(resource, subject, Timestamp::UNIX_EPOCH);
        amounts
            .into_iter()
            .map(|(name, amount)| (name, json!(amount.to_string())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    #[test]
    fn what_objects_count_for() {
        let pods = Resource::of::<Pod>();
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1", "a.io/gpu": "2", "hugepages-2Mi": "4Mi"},
            "limits": {"memory": "1Gi"}}});
        assert_eq!(
            shown(&pods, &pod(json!({"containers": [container]}))),
            json!({"count/pods": "1", "pods": "1", "cpu": "1", "requests.cpu": "1", "requests.a.io/gpu": "2",
                "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi", "limits.memory": "1Gi"})
        );
        let over = Subject::Pod(
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": []}, "status": {"phase": "Failed"}}),
            )
            .unwrap(),
        );
        assert_eq!(shown(&pods, &over), json!({"count/pods": "1"}));
        let claim = Subject::Claim(
            serde_json::from_value(json!({"metadata": {}, "spec": {"storageClassName": "gold",
                "resources": {"requests": {"storage": "1Gi"}}}}))
            .unwrap(),
        );
        assert_eq!(
            shown(&Resource::of::<PersistentVolumeClaim>(), &claim),
            json!({"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "1Gi",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"})
        );
        let service = |spec: Value| -> Subject {
            Subject::Service(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
        };
        let balanced = service(json!({"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}));
        assert_eq!(
            shown(&Resource::of::<Service>(), &balanced),
            json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "1"})
        );
        let maps = Resource::of::<k8s_openapi::api::core::v1::ConfigMap>();
        assert_eq!(shown(&maps, &Subject::Other), json!({"configmaps": "1", "count/configmaps": "1"}));
        let jobs = Resource::of::<k8s_openapi::api::batch::v1::Job>();
        assert_eq!(shown(&jobs, &Subject::Other), json!({"count/jobs.batch": "1"}));
    }

    #[test]
    fn names_are_charged_by_what_they_name() {
        let (pods, jobs) = (Resource::of::<Pod>(), Resource::of::<k8s_openapi::api::batch::v1::Job>());
        for (resource, name, want) in [
            (&pods, "pods", true),
            (&pods, "requests.a.io/gpu", true),
            (&pods, "requests.hugepages-2Mi", true),
            (&pods, "requests.storage", false),
            (&pods, "services", false),
            (&jobs, "count/jobs.batch", true),
            (&jobs, "count/jobs", false),
        ] {
            assert_eq!(covers(resource, name), want, "{resource} {name}");
        }
    }

    #[test]
    fn scopes_hold_what_they_say() {
        let spec = |scopes: Value| -> ResourceQuotaSpec { serde_json::from_value(scopes).unwrap() };
        let selector =
            |requirement: Value| spec(json!({"scopeSelector": {"matchExpressions": [requirement]}}));
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let busy = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            "activeDeadlineSeconds": 5, "priorityClassName": "high", "affinity": {"podAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "namespaces": ["other"]}]}}}));
        for (quota, on_plain, on_busy) in [
            (spec(json!({})), true, true),
            (spec(json!({"scopes": ["BestEffort"]})), true, false),
            (spec(json!({"scopes": ["NotBestEffort"]})), false, true),
            (spec(json!({"scopes": ["Terminating"]})), false, true),
            (spec(json!({"scopes": ["NotTerminating"]})), true, false),
            (spec(json!({"scopes": ["PriorityClass"]})), false, true),
            (spec(json!({"scopes": ["CrossNamespacePodAffinity"]})), false, true),
            (
                selector(json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]})),
                false,
                true,
            ),
            (
                selector(json!({"scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"]})),
                true,
                false,
            ),
            (selector(json!({"scopeName": "PriorityClass", "operator": "DoesNotExist"})), true, false),
        ] {
            assert_eq!(
                (in_scopes(&quota, &plain), in_scopes(&quota, &busy)),
                (on_plain, on_busy),
                "{quota:?}"
            );
        }
        assert!(!in_scopes(&spec(json!({"scopes": ["BestEffort"]})), &Subject::Other));
    }

    #[test]
    fn what_is_limited_must_be_named() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "b"}, {"name": "a"}, {"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}))
        .unwrap();
        let unnamed = |names: &[&str]| super::unnamed(&pod, names.iter().copied());
        assert_eq!(unnamed(&["limits.cpu", "pods"]).as_deref(), Some("limits.cpu for: a,b"));
        assert_eq!(
            unnamed(&["limits.cpu", "memory"]).as_deref(),
            Some("limits.cpu for: a,b; memory for: a,b,c")
        );
        assert_eq!(unnamed(&["pods", "limits.ephemeral-storage"]), None);
    }
}
