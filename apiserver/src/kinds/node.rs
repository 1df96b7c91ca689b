//! Node: a machine that runs pods.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE: &str = "kubernetes.io/role";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Labels of nodes that have newer names, and what upstream says of them.
const DEPRECATED_LABELS: &[(&str, &str)] = &[
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
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What is to be said of a node's label that is no longer used.
pub(super) fn deprecated_label(key: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(label, _)| *label == key).map(|(_, detail)| *detail)
}

impl BuiltIn for Node {
    const SINGULAR: &'static str = "node";
    const SHORT_NAMES: &'static [&'static str] = &["no"];
    const HAS_STATUS: bool = true;
    const SUBRESOURCES: &'static [&'static str] = &["proxy"];

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        // `podCIDR` mirrors the first of `podCIDRs`.
        match (validation::given(&spec.pod_cidr), spec.pod_cidrs.as_ref().and_then(|c| c.first())) {
            (Some(first), None) => spec.pod_cidrs = Some(vec![first.to_owned()]),
            (None, Some(first)) => spec.pod_cidr = Some(first.clone()),
            (Some(first), Some(_)) => {
                let first = first.to_owned();
                if let Some(listed) = spec.pod_cidrs.as_mut().and_then(|cidrs| cidrs.first_mut()) {
                    *listed = first;
                }
            }
            (None, None) => {}
        }
        let status = self.status.get_or_insert_default();
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
        // Upstream always writes the port, 0 where there is none.
        status.daemon_endpoints.get_or_insert_default().kubelet_endpoint.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        let taints = spec.taints.as_deref().unwrap_or_default();
        validate_taints(taints, &path.child("taints"), errors);
        let cidrs = path.child("podCIDRs");
        let list = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (i, cidr) in list.iter().enumerate() {
            errors.check(cidrs.index(i), cidr, validation::cidr);
        }
        if list.len() > 2 {
            errors.invalid(cidrs, list, "may specify no more than one CIDR for each IP family");
        } else if let [first, second] = list
            && first.contains(':') == second.contains(':')
        {
            errors.invalid(cidrs, list, "may specify no more than one CIDR for each IP family");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (new, old) = (self.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        if old.pod_cidrs.as_ref().is_some_and(|c| !c.is_empty()) && new.pod_cidrs != old.pod_cidrs {
            errors
                .forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
        }
        if validation::given(&old.provider_id).is_some() && new.provider_id != old.provider_id {
            errors.forbidden(
                "spec.providerID",
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let Some(status) = &self.status else { return };
        let addresses = status.addresses.as_deref().unwrap_or_default();
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) {
                errors.duplicate(path.child("addresses").index(i), address);
            }
        }
        for (field, quantities) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
            for (name, quantity) in quantities.iter().flatten() {
                validation::quantity(quantity, &path.child(field).key(name), errors);
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::narrow(
                "Status",
                "string",
                "Whether the node is ready, and whether pods may be placed on it.",
            ),
            table::narrow("Roles", "string", "The roles its labels give it."),
            table::AGE,
            table::narrow("Version", "string", "The version of its kubelet."),
            table::wide("Internal-IP", "string", "Its address inside the cluster."),
            table::wide("External-IP", "string", "Its address outside the cluster."),
            table::wide("OS-Image", "string", "Its operating system."),
            table::wide("Kernel-Version", "string", "Its kernel."),
            table::wide("Container-Runtime", "string", "What runs its containers."),
        ]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.as_ref();
        let info = status.and_then(|s| s.node_info.as_ref());
        let known = |text: Option<&String>| json!(text.filter(|t| !t.is_empty()).map_or("<unknown>", |t| t));
        let address = |type_: &str| {
            let found = status.iter().flat_map(|s| s.addresses.iter().flatten()).find(|a| a.type_ == type_);
            json!(found.map_or("<none>", |a| a.address.as_str()))
        };
        vec![
            json!(self.metadata.name),
            json!(readiness(self)),
            json!(roles(self.metadata.labels.as_ref())),
            json!(table::age(self.metadata.creation_timestamp.as_ref(), now)),
            json!(info.map_or("", |i| &i.kubelet_version)),
            address("InternalIP"),
            address("ExternalIP"),
            known(info.map(|i| &i.os_image)),
            known(info.map(|i| &i.kernel_version)),
            known(info.map(|i| &i.container_runtime_version)),
        ]
    }
}

fn readiness(node: &Node) -> String {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut words: Vec<&str> = conditions
        .filter(|c| c.type_ == "Ready")
        .map(|c| if c.status == "True" { "Ready" } else { "NotReady" })
        .collect();
    if words.is_empty() {
        words.push("Unknown");
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(labels: Option<&BTreeMap<String, String>>) -> String {
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None => (key == ROLE).then_some(value.as_str()),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn validate_taints(taints: &[Taint], path: &Path<'_>, errors: &mut Errors) {
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        errors.check(at.child("key"), &taint.key, validation::qualified_name);
        if let Some(value) = &taint.value {
            errors.check(at.child("value"), value, validation::label_value);
        }
        errors.one_of(at.child("effect"), Some(&taint.effect), EFFECTS);
        if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            errors.duplicate(at, taint);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    #[test]
    fn mirrors_and_allocatable() {
        let node: Node =
            defaulted(json!({"spec": {"podCIDR": "10.1.0.0/24"}, "status": {"capacity": {"cpu": "2"}}}));
        assert_eq!(node.spec.unwrap().pod_cidrs.unwrap(), ["10.1.0.0/24"]);
        assert_eq!(node.status.unwrap().allocatable.unwrap()["cpu"].0, "2");
    }

    #[test]
    fn taints_and_ranges() {
        let taints = |taints: Value| json!({"spec": {"taints": taints}});
        testing::invalid::<Node>(&[
            (
                taints(json!([{"key": "a b", "effect": "NoSchedule"}])),
                "spec.taints[0].key",
                "Invalid value: \"a b\": name part",
            ),
            (
                taints(json!([{"key": "a", "effect": "X"}])),
                "spec.taints[0].effect",
                "Unsupported value: \"X\"",
            ),
            (taints(json!([{"key": "a"}])), "spec.taints[0].effect", "Required value"),
            (
                taints(
                    json!([{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute", "value": "b"}]),
                ),
                "spec.taints[1]",
                "Duplicate value: ",
            ),
            (
                json!({"spec": {"podCIDR": "x"}}),
                "spec.podCIDRs[0]",
                "Invalid value: \"x\": must be a valid CIDR",
            ),
            (
                json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}}),
                "spec.podCIDRs",
                "Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR",
            ),
        ]);
        testing::updates::<Node>(&[
            (json!({}), json!({"spec": {"podCIDR": "10.0.0.0/24"}}), "", ""),
            (
                json!({"spec": {"podCIDR": "10.0.0.0/24"}}),
                json!({"spec": {"podCIDR": "10.0.1.0/24"}}),
                "spec.podCIDRs",
                "Forbidden: node updates may not change podCIDR except from \"\" to valid",
            ),
        ]);
    }

    #[test]
    fn columns_are_upstreams() {
        let names: Vec<_> = Node::columns().into_iter().map(|c| c.name).collect();
        let want =
            "Name Status Roles Age Version Internal-IP External-IP OS-Image Kernel-Version Container-Runtime";
        assert_eq!(names.join(" "), want);
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T11:00:00Z",
                "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.37.0", "osImage": "Debian"}}});
        assert_eq!(
            testing::cells::<Node>(node),
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane,edge",
                "60m",
                "v1.37.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "<unknown>",
                "<unknown>"
            ]
        );
        assert_eq!(testing::cells::<Node>(json!({}))[1], "Unknown");
    }
}
