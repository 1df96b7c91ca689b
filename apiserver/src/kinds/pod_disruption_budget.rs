//! PodDisruptionBudget: how many pods of a set may be taken away at once on purpose.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{BuiltIn, Column, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const EVICTION_POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

impl BuiltIn for PodDisruptionBudget {
    const SINGULAR: &'static str = "poddisruptionbudget";
    const SHORT_NAMES: &'static [&'static str] = &["pdb"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    /// Upstream has never looked at the name of a budget; that it can stand in a path is seen to elsewhere.
    fn validate_name(_name: &str) -> Result<(), String> {
        Ok(())
    }

    fn set_defaults(&mut self) {
        // Upstream always writes these numbers.
        let status = self.status.get_or_insert_default();
        for count in [
            &mut status.disruptions_allowed,
            &mut status.current_healthy,
            &mut status.desired_healthy,
            &mut status.expected_pods,
        ] {
            count.get_or_insert(0);
        }
    }

    fn prepare_create(&mut self) {
        self.status = None;
        self.set_defaults();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(path, &spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(value) = value {
                workload::int_or_percent(value, &path.child(field), errors);
                workload::at_most_all(value, &path.child(field), errors);
            }
        }
        if let Some(selector) = &spec.selector {
            validation::label_selector(selector, &path.child("selector"), errors);
        }
        if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref()
            && !EVICTION_POLICIES.contains(&policy)
        {
            errors.not_supported(path.child("unhealthyPodEvictionPolicy"), policy, EVICTION_POLICIES);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let status: PodDisruptionBudgetStatus = self.status.clone().unwrap_or_default();
        for (field, value) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Min Available", "string", "How many pods must stay."),
            table::narrow("Max Unavailable", "string", "How many pods may be missing."),
            table::narrow("Allowed Disruptions", "integer", "How many pods may be taken away now."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let shown = |value: Option<IntOrString>| match value {
            None => json!("N/A"),
            Some(IntOrString::Int(number)) => json!(number.to_string()),
            Some(IntOrString::String(text)) => json!(text),
        };
        let allowed = self.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default();
        let cells = vec![shown(spec.min_available), shown(spec.max_unavailable), json!(allowed)];
        table::cells(&self.metadata, now, cells)
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn budget(spec: Value) -> Value {
        json!({"metadata": {"name": "b"}, "spec": spec})
    }

    #[test]
    fn one_bad_budget_per_rule() {
        testing::valid::<PodDisruptionBudget>(&[
            budget(json!({"minAvailable": "50%", "selector": {}})),
            budget(json!({"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}})),
        ]);
        testing::invalid::<PodDisruptionBudget>(&[
            (
                budget(json!({"minAvailable": 1, "maxUnavailable": 1})),
                "spec",
                "Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
            ),
            (
                budget(json!({"minAvailable": -1})),
                "spec.minAvailable",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                budget(json!({"maxUnavailable": "x"})),
                "spec.maxUnavailable",
                "Invalid value: \"x\": a valid percent string must be",
            ),
            (
                budget(json!({"minAvailable": "101%"})),
                "spec.minAvailable",
                "Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                budget(json!({"selector": {"matchLabels": {"a b": "c"}}})),
                "spec.selector.matchLabels",
                "Invalid value: \"a b\": name part must consist of",
            ),
            (
                budget(json!({"unhealthyPodEvictionPolicy": "X"})),
                "spec.unhealthyPodEvictionPolicy",
                "Unsupported value: \"X\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ),
        ]);
    }

    #[test]
    fn columns() {
        let mut budget = budget(json!({"maxUnavailable": 1}));
        budget["status"] = json!({"disruptionsAllowed": 2});
        assert_eq!(testing::cells::<PodDisruptionBudget>(budget), ["b", "N/A", "1", "2", "<unknown>"]);
    }
}
