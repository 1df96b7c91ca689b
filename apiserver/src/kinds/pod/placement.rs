//! Where a pod may run: node selectors, affinity, tolerations, topology spread.

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use crate::field_error::{Errors, Path};
use crate::validation::{self, given};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const UNSATISFIABLE: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
const NODE_POLICIES: &[&str] = &["Ignore", "Honor"];

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    validation::labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    if let Some(tolerations) = &spec.tolerations {
        self::tolerations(tolerations, &path.child("tolerations"), errors);
    }
    if let Some(affinity) = &spec.affinity {
        self::affinity(affinity, &path.child("affinity"), errors);
    }
    if let Some(constraints) = &spec.topology_spread_constraints {
        spread(constraints, &path.child("topologySpreadConstraints"), errors);
    }
}

pub(crate) fn tolerations(tolerations: &[Toleration], path: &Path<'_>, errors: &mut Errors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let effect = given(&toleration.effect);
        match given(&toleration.key) {
            Some(key) => errors.check(at.child("key"), key, validation::qualified_name),
            None if toleration.operator.as_deref() != Some("Exists") => errors.invalid(
                at.child("operator"),
                toleration.operator.as_deref().unwrap_or_default(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ),
            None => {}
        }
        if toleration.toleration_seconds.is_some() && effect != Some("NoExecute") {
            errors.invalid(
                at.child("effect"),
                effect.unwrap_or_default(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        let value = toleration.value.as_deref().unwrap_or_default();
        match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => errors.check(at.child("operator"), value, validation::label_value),
            "Exists" if !value.is_empty() => {
                errors.invalid(
                    at.child("operator"),
                    value,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            other => errors.not_supported(at.child("operator"), other, &["Equal", "Exists"]),
        }
        if let Some(effect) = effect
            && !EFFECTS.contains(&effect)
        {
            errors.not_supported(at.child("effect"), effect, EFFECTS);
        }
    }
}

fn affinity(affinity: &Affinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(required, &path.child("requiredDuringSchedulingIgnoredDuringExecution"), errors);
        }
        let preferred = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in
            node.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate()
        {
            weight(term.weight, &preferred.index(i), errors);
            node_term(&term.preference, &preferred.index(i).child("preference"), errors);
        }
    }
    let sides = [
        affinity.pod_affinity.as_ref().map(|a| {
            (
                "podAffinity",
                &a.required_during_scheduling_ignored_during_execution,
                &a.preferred_during_scheduling_ignored_during_execution,
            )
        }),
        affinity.pod_anti_affinity.as_ref().map(|a| {
            (
                "podAntiAffinity",
                &a.required_during_scheduling_ignored_during_execution,
                &a.preferred_during_scheduling_ignored_during_execution,
            )
        }),
    ];
    for (name, required, preferred) in sides.into_iter().flatten() {
        pod_affinity(required.as_deref(), preferred.as_deref(), &path.child(name), errors);
    }
}

fn pod_affinity(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, term) in required.into_iter().flatten().enumerate() {
        pod_term(term, &path.child("requiredDuringSchedulingIgnoredDuringExecution").index(i), errors);
    }
    for (i, term) in preferred.into_iter().flatten().enumerate() {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        weight(term.weight, &path.index(i), errors);
        pod_term(&term.pod_affinity_term, &path.index(i).child("podAffinityTerm"), errors);
    }
}

fn weight(weight: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(path.child("weight"), weight, "must be in the range 1-100");
    }
}

pub(crate) fn node_selector(selector: &NodeSelector, path: &Path<'_>, errors: &mut Errors) {
    let terms = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(terms, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_term(term, &terms.index(i), errors);
    }
}

fn node_term(term: &NodeSelectorTerm, path: &Path<'_>, errors: &mut Errors) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let at = path.child("matchExpressions");
        let at = at.index(i);
        node_requirement(requirement, &at, errors);
        errors.check(at.child("key"), &requirement.key, validation::qualified_name);
        if matches!(requirement.operator.as_str(), "In" | "NotIn") {
            for (i, value) in requirement.values.iter().flatten().enumerate() {
                errors.check(at.child("values").index(i), value, validation::label_value);
            }
        }
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        let at = path.child("matchFields");
        let at = at.index(i);
        match (requirement.operator.as_str(), requirement.values.as_deref().unwrap_or_default()) {
            ("In" | "NotIn", [_]) => {}
            ("In" | "NotIn", _) => errors.required(
                at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            (other, _) => errors.invalid(at.child("operator"), other, "not a valid selector operator"),
        }
        if requirement.key != "metadata.name" {
            errors.invalid(at.child("key"), &requirement.key, "not a valid field selector key");
        }
        for (i, value) in requirement.values.iter().flatten().enumerate() {
            errors.check(at.child("values").index(i), value, validation::dns_subdomain);
        }
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, path: &Path<'_>, errors: &mut Errors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match (requirement.operator.as_str(), values) {
        ("In" | "NotIn", []) => {
            errors.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        ("Exists" | "DoesNotExist", [_, ..]) => errors.forbidden(
            path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        ("Gt" | "Lt", values) if values.len() != 1 => errors
            .required(path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"),
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        (other, _) => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    if let Some(selector) = &term.label_selector {
        validation::label_selector(selector, &path.child("labelSelector"), errors);
    }
    if let Some(selector) = &term.namespace_selector {
        validation::label_selector(selector, &path.child("namespaceSelector"), errors);
    }
    for (i, namespace) in term.namespaces.iter().flatten().enumerate() {
        errors.check(path.child("namespaces").index(i), namespace, validation::dns_label);
    }
    for (field, keys) in
        [("matchLabelKeys", &term.match_label_keys), ("mismatchLabelKeys", &term.mismatch_label_keys)]
    {
        for (i, key) in keys.iter().flatten().enumerate() {
            errors.check(path.child(field).index(i), key, validation::qualified_name);
            if term.label_selector.is_none() {
                errors.forbidden(
                    path.child(field).index(i),
                    "must not be specified when labelSelector is not set",
                );
            }
        }
    }
    if term.topology_key.is_empty() {
        errors.required(path.child("topologyKey"), "can not be empty");
    }
    errors.check_all(path.child("topologyKey"), &term.topology_key, validation::qualified_name_faults);
}

fn spread(constraints: &[TopologySpreadConstraint], path: &Path<'_>, errors: &mut Errors) {
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        if constraint.max_skew <= 0 {
            errors.invalid(at.child("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        if constraint.topology_key.is_empty() {
            errors.required(at.child("topologyKey"), "can not be empty");
        } else {
            errors.check(at.child("topologyKey"), &constraint.topology_key, validation::qualified_name);
        }
        if !UNSATISFIABLE.contains(&constraint.when_unsatisfiable.as_str()) {
            errors.not_supported(
                at.child("whenUnsatisfiable"),
                &constraint.when_unsatisfiable,
                UNSATISFIABLE,
            );
        }
        if constraints[..i].iter().any(|c| {
            c.topology_key == constraint.topology_key && c.when_unsatisfiable == constraint.when_unsatisfiable
        }) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            errors.duplicate(at.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                errors.invalid(at.child("minDomains"), domains, "must be greater than zero");
            } else if constraint.when_unsatisfiable != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    constraint.when_unsatisfiable
                );
                errors.invalid(at.child("minDomains"), domains, detail);
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy
                && !NODE_POLICIES.contains(&policy.as_str())
            {
                errors.not_supported(at.child(field), policy, NODE_POLICIES);
            }
        }
        for (i, key) in constraint.match_label_keys.iter().flatten().enumerate() {
            errors.check(at.child("matchLabelKeys").index(i), key, validation::qualified_name);
        }
        if let Some(selector) = &constraint.label_selector {
            validation::label_selector(selector, &at.child("labelSelector"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use crate::kinds::testing;

    fn pod(part: &str, value: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec[part] = value;
        json!({"spec": spec})
    }

    #[test]
    fn one_bad_placement_per_rule() {
        let node = |term: Value| {
            pod(
                "affinity",
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}),
            )
        };
        testing::invalid::<Pod>(&[
            (
                pod("nodeSelector", json!({"a": "b c"})),
                "spec.nodeSelector",
                "Invalid value: \"b c\": a valid label",
            ),
            (
                pod("tolerations", json!([{"operator": "Equal", "value": "x"}])),
                "spec.tolerations[0].operator",
                "Invalid value: \"Equal\": operator must be Exists when `key` is empty",
            ),
            (
                pod("tolerations", json!([{"key": "a", "operator": "X"}])),
                "spec.tolerations[0].operator",
                "Unsupported value: \"X\": supported values: \"Equal\", \"Exists\"",
            ),
            (
                pod(
                    "tolerations",
                    json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 1, "effect": "NoSchedule"}]),
                ),
                "spec.tolerations[0].effect",
                "Invalid value: \"NoSchedule\": effect must be 'NoExecute'",
            ),
            (
                node(json!({"matchExpressions": [{"key": "a", "operator": "In"}]})),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values",
                "Required value: must be specified when",
            ),
            (
                node(json!({"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["n"]}]})),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key",
                "Invalid value: \"metadata.uid\": not a valid field selector key",
            ),
            (
                pod(
                    "affinity",
                    json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 0, "podAffinityTerm": {"topologyKey": "zone"}}]}}),
                ),
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
                "Invalid value: 0: must be in the range 1-100",
            ),
            (
                pod(
                    "affinity",
                    json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a b"}]}}),
                ),
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey",
                "Invalid value: \"a b\": name part must consist of",
            ),
            (
                pod(
                    "topologySpreadConstraints",
                    json!([{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]),
                ),
                "spec.topologySpreadConstraints[0].maxSkew",
                "Invalid value: 0: must be greater than zero",
            ),
            (
                pod(
                    "topologySpreadConstraints",
                    json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "X"}]),
                ),
                "spec.topologySpreadConstraints[0].whenUnsatisfiable",
                "Unsupported value: \"X\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ),
        ]);
        testing::valid::<Pod>(&[
            pod(
                "tolerations",
                json!([{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}]),
            ),
            node(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]})),
        ]);
    }
}
