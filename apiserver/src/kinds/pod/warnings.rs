//! What is odd about a valid pod or template, for its author to be told.

use std::collections::{BTreeMap, BTreeSet};

use coracle_client::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, PodAffinityTerm, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::kinds::resource_names::fractional;
use crate::validation::{self, given};

/// Labels of nodes by names that are no longer the right ones.
const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// A name that pods are named after, which is no DNS label.
pub(crate) fn of_name(name: &str) -> Vec<String> {
    match validation::dns_label(name) {
        Ok(()) => Vec::new(),
        Err(detail) => vec![format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{detail}]"
        )],
    }
}

/// Of a template that is new or has changed; `path` is that of the template.
pub(crate) fn of_template(
    template: &PodTemplateSpec,
    path: &str,
    old: Option<&PodTemplateSpec>,
) -> Vec<String> {
    if old == Some(template) {
        return Vec::new();
    }
    let Some(spec) = &template.spec else { return Vec::new() };
    of_spec(spec, &template.metadata.clone().unwrap_or_default(), &format!("{path}."))
}

/// `prefix`: empty for pods, `spec.template.` for templates.
pub(super) fn of_spec(spec: &PodSpec, meta: &ObjectMeta, prefix: &str) -> Vec<String> {
    let mut all = Vec::new();
    placement(spec, prefix, &mut all);
    for (key, message) in ANNOTATIONS {
        if meta.annotations.as_ref().is_some_and(|a| a.contains_key(*key)) {
            all.push(format!("{prefix}metadata.annotations[{key}]: {message}"));
        }
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let present = super::volumes::sources(volume);
        for (source, message) in VOLUMES.iter().filter(|(source, _)| present.iter().any(|p| p == source)) {
            let shown = if *source == "storageos" { "storageOS" } else { source };
            all.push(format!("{prefix}spec.volumes[{i}].{shown}: {message}"));
        }
    }
    twice(
        spec.host_aliases.iter().flatten().map(|a| a.ip.as_str()),
        |i, ip| format!("{prefix}spec.hostAliases[{i}].ip: duplicate ip {ip:?}"),
        &mut all,
    );
    twice(
        spec.image_pull_secrets.iter().flatten().map(|s| s.name.as_str()),
        |i, name| format!("{prefix}spec.imagePullSecrets[{i}].name: duplicate name {name:?}"),
        &mut all,
    );
    bytes(spec.overhead.as_ref(), &format!("{prefix}spec.overhead"), &mut all);
    let containers = containers(spec, prefix);
    for (path, container) in &containers {
        of_container(container, path, &mut all);
    }
    ports(&containers, &mut all);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        all.push(format!(
            "{prefix}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    affinity(spec, prefix, &mut all);
    all
}

/// Init containers first, as upstream visits them.
fn containers<'a>(spec: &'a PodSpec, prefix: &str) -> Vec<(String, &'a Container)> {
    let numbered = |field: &'static str, list: &'a [Container]| {
        let prefix = prefix.to_owned();
        list.iter().enumerate().map(move |(i, c)| (format!("{prefix}spec.{field}[{i}]"), c))
    };
    numbered("initContainers", spec.init_containers.as_deref().unwrap_or_default())
        .chain(numbered("containers", &spec.containers))
        .collect()
}

fn twice<'a>(
    values: impl Iterator<Item = &'a str>,
    message: impl Fn(usize, &str) -> String,
    all: &mut Vec<String>,
) {
    let mut seen = BTreeSet::new();
    for (i, value) in values.enumerate() {
        if !seen.insert(value) {
            all.push(message(i, value));
        }
    }
}

fn placement(spec: &PodSpec, prefix: &str, all: &mut Vec<String>) {
    let deprecated = |key: &str| NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, m)| *m);
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        if let Some(message) = deprecated(key) {
            all.push(format!("{prefix}spec.nodeSelector[{key}]: {message}"));
        }
    }
    for (i, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let at = format!("{prefix}spec.topologySpreadConstraints[{i}]");
        if let Some(message) = deprecated(&constraint.topology_key) {
            all.push(format!("{at}.topologyKey: {} is {message}", constraint.topology_key));
        }
        if constraint.label_selector.is_none() {
            all.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
}

fn bytes(list: Option<&BTreeMap<String, Wire>>, path: &str, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = list.and_then(|list| Quantity::of(list.get(name)?).ok());
        if let Some(amount) = amount.filter(|amount| fractional(*amount)) {
            all.push(format!(
                "{path}[{name}]: fractional byte value \"{amount}\" is invalid, must be an integer"
            ));
        }
    }
}

fn of_container(container: &Container, path: &str, all: &mut Vec<String>) {
    let resources = container.resources.as_ref();
    bytes(resources.and_then(|r| r.limits.as_ref()), &format!("{path}.resources.limits"), all);
    bytes(resources.and_then(|r| r.requests.as_ref()), &format!("{path}.resources.requests"), all);
    let env = container.env.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (i, variable) in env.iter().enumerate() {
        if !seen.insert(&variable.name) && hides(variable) {
            all.push(format!(
                "{path}.env[{i}]: hides previous definition of {:?}, which may be dropped when using apply",
                variable.name
            ));
        }
    }
}

/// A variable set again is fine only where the new value builds on the old one.
fn hides(variable: &EnvVar) -> bool {
    let reference = format!("$({})", variable.name);
    let value = variable.value.as_deref().unwrap_or_default();
    variable.value_from.is_some() || value == reference || !value.contains(&reference)
}

fn ports(containers: &[(String, &Container)], all: &mut Vec<String>) {
    let mut open: BTreeMap<(i32, String), Vec<(String, &ContainerPort)>> = BTreeMap::new();
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut named = Vec::new();
    for (path, container) in containers {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let at = format!("{path}.ports[{i}]");
            let others =
                open.entry((port.container_port, port.protocol.clone().unwrap_or_default())).or_default();
            for (other_at, other) in others.iter() {
                let (ip, other_ip) = (given(&port.host_ip), given(&other.host_ip));
                let (on, other_on) = (port.host_port.unwrap_or(0), other.host_port.unwrap_or(0));
                if ip == other_ip && on == other_on {
                    all.push(format!("{at}: duplicate port definition with {other_at}"));
                } else if on == 0 || other_on == 0 {
                    all.push(format!("{at}: overlapping port definition with {other_at}"));
                } else if on == other_on && ip.is_some() != other_ip.is_some() {
                    all.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
                }
            }
            if let Some(name) = given(&port.name) {
                match names.get(name) {
                    Some(other) => named.push(format!(
                        "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                    )),
                    None => drop(names.insert(name, at.clone())),
                }
            }
            others.push((at, port));
        }
    }
    all.append(&mut named);
}

fn affinity(spec: &PodSpec, prefix: &str, all: &mut Vec<String>) {
    let Some(affinity) = &spec.affinity else { return };
    let mut check = |at: String, term: &PodAffinityTerm| {
        if term.label_selector.is_none() {
            all.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
        }
    };
    let near = affinity.pod_affinity.as_ref().map(|a| {
        (
            "podAffinity",
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    });
    let apart = affinity.pod_anti_affinity.as_ref().map(|a| {
        (
            "podAntiAffinity",
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    });
    for (side, required, preferred) in [near, apart].into_iter().flatten() {
        let at = format!("{prefix}spec.affinity.{side}");
        for (i, term) in required.iter().flatten().enumerate() {
            check(format!("{at}.requiredDuringSchedulingIgnoredDuringExecution[{i}]"), term);
        }
        for (i, term) in preferred.iter().flatten().enumerate() {
            let at = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}].podAffinityTerm");
            check(at, &term.pod_affinity_term);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn warnings(spec: Value) -> Vec<String> {
        of_spec(&serde_json::from_value(spec).unwrap(), &ObjectMeta::default(), "")
    }

    #[test]
    fn one_warning_per_oddity() {
        let container = |rest: Value| {
            let mut container = json!({"name": "c", "image": "i"});
            container.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        let with = |field: &str, value: Value| json!({"containers": [], field: value});
        for (spec, want) in [
            (container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]})), None),
            (
                container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]})),
                Some(
                    "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                ),
            ),
            (
                container(
                    json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]}),
                ),
                Some(
                    "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                ),
            ),
            (
                container(json!({"ports": [{"containerPort": 80, "hostPort": 1}, {"containerPort": 80}]})),
                Some(
                    "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                ),
            ),
            (
                container(json!({"resources": {"limits": {"memory": "100m"}}})),
                Some(
                    "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                ),
            ),
            (
                with("nodeSelector", json!({"beta.kubernetes.io/os": "linux"})),
                Some(
                    "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                ),
            ),
            (
                with("imagePullSecrets", json!([{"name": "a"}, {"name": "a"}])),
                Some("spec.imagePullSecrets[1].name: duplicate name \"a\""),
            ),
            (
                with("terminationGracePeriodSeconds", json!(-1)),
                Some(
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ),
            ),
            (
                with("volumes", json!([{"name": "v", "gitRepo": {"repository": "r"}}])),
                Some("spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"),
            ),
            (
                with(
                    "topologySpreadConstraints",
                    json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]),
                ),
                Some(
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                ),
            ),
        ] {
            assert_eq!(warnings(spec.clone()).first().map(String::as_str), want, "{spec}");
        }
    }

    #[test]
    fn what_stays_as_it_was_is_not_said_again() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"spec": {"containers": [], "terminationGracePeriodSeconds": -1}}))
                .unwrap();
        assert_eq!(of_template(&template, "spec.template", Some(&template)), [""; 0]);
        assert!(of_template(&template, "spec.template", None)[0].starts_with("spec.template.spec.term"));
    }
}
