//! HorizontalPodAutoscaler, as it is stored (`autoscaling/v2`); `autoscaling/v1` shows it in its own form
//! ([`v1`]).

mod metrics;
mod v1;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const CPU_UTILIZATION: i32 = 80;
const WINDOW_SECONDS_MAX: i32 = 3600;
const PERIOD_SECONDS_MAX: i32 = 1800;
const SELECT_POLICIES: &[&str] = &["Disabled", "Max", "Min"];
const POLICY_TYPES: &[&str] = &["Percent", "Pods"];

impl BuiltIn for HorizontalPodAutoscaler {
    const SINGULAR: &'static str = "horizontalpodautoscaler";
    const SHORT_NAMES: &'static [&'static str] = &["hpa"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu(CPU_UTILIZATION)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let policy =
                |type_: &str, value: i32| HPAScalingPolicy { type_: type_.into(), value, period_seconds: 15 };
            let up = behavior.scale_up.get_or_insert_default();
            up.stabilization_window_seconds.get_or_insert(0);
            rules(up, vec![policy("Pods", 4), policy("Percent", 100)]);
            rules(behavior.scale_down.get_or_insert_default(), vec![policy("Percent", 100)]);
        }
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &self.spec;
        if let Some(min) = spec.min_replicas.filter(|min| *min < 1) {
            errors.invalid(path.child("minReplicas"), min, "must be greater than or equal to 1");
        }
        let max = path.child("maxReplicas");
        if spec.max_replicas == 0 {
            errors.required(max, "must be set and greater than 0");
        } else if spec.max_replicas < 0 {
            errors.invalid(max, spec.max_replicas, "must be greater than or equal to 1");
        }
        if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
            errors.invalid(max, spec.max_replicas, "must be greater than or equal to `minReplicas`");
        }
        metrics::reference(&spec.scale_target_ref, &path.child("scaleTargetRef"), errors);
        for (i, metric) in spec.metrics.iter().flatten().enumerate() {
            metrics::validate(metric, &path.child("metrics").index(i), errors);
        }
        if let Some(behavior) = &spec.behavior {
            let path = path.child("behavior");
            for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
                if let Some(rules) = rules {
                    validate_rules(rules, &path.child(field), errors);
                }
            }
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let current = status.current_replicas.unwrap_or_default();
        validation::non_negative("status.currentReplicas", current, errors);
        validation::non_negative("status.desiredReplicas", status.desired_replicas, errors);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Reference", "string", "What it scales."),
            table::narrow("Targets", "string", "What is measured, and what it should be."),
            table::narrow("MinPods", "string", "The fewest pods there may be."),
            table::narrow("MaxPods", "string", "The most pods there may be."),
            table::narrow("Replicas", "string", "How many pods there are."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let status = self.status.clone().unwrap_or_default();
        let target = &spec.scale_target_ref;
        let min = spec.min_replicas.map_or_else(|| "<unset>".into(), |min| min.to_string());
        let measured = status.current_metrics.as_deref().unwrap_or_default();
        table::cells(
            &self.metadata,
            now,
            vec![
                json!(format!("{}/{}", target.kind, target.name)),
                json!(metrics::shown(spec.metrics.as_deref().unwrap_or_default(), measured)),
                json!(min),
                json!(spec.max_replicas),
                json!(status.current_replicas.unwrap_or_default()),
            ],
        )
    }
}

/// The processors' load that is aimed at.
fn cpu(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".into(),
        resource: Some(ResourceMetricSource {
            name: "cpu".into(),
            target: MetricTarget {
                type_: "Utilization".into(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn rules(rules: &mut HPAScalingRules, policies: Vec<HPAScalingPolicy>) {
    rules.select_policy.get_or_insert_with(|| "Max".into());
    if rules.policies.is_none() {
        rules.policies = Some(policies);
    }
}

fn validate_rules(rules: &HPAScalingRules, path: &Path<'_>, errors: &mut Errors) {
    if let Some(seconds) = rules.stabilization_window_seconds {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(at, seconds, "must be greater than or equal to zero");
        }
        if seconds > WINDOW_SECONDS_MAX {
            errors.invalid(at, seconds, format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
        }
    }
    if let Some(policy) = rules.select_policy.as_deref().filter(|p| !SELECT_POLICIES.contains(p)) {
        errors.not_supported(path.child("selectPolicy"), policy, SELECT_POLICIES);
    }
    let at = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.required(at, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = at.index(i);
        if !POLICY_TYPES.contains(&policy.type_.as_str()) {
            errors.not_supported(at.child("type"), &policy.type_, POLICY_TYPES);
        }
        for (field, value) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if value <= 0 {
                errors.invalid(at.child(field), value, "must be greater than zero");
            }
        }
        if policy.period_seconds > PERIOD_SECONDS_MAX {
            let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.invalid(at.child("periodSeconds"), policy.period_seconds, detail);
        }
    }
    if let Some(tolerance) = &rules.tolerance {
        validation::quantity(tolerance, &path.child("tolerance"), errors);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn scaler() -> Value {
        json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5, "scaleTargetRef":
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut scaler = scaler();
        scaler["spec"][field] = value;
        scaler
    }

    #[test]
    fn defaults() {
        let spec =
            |json: Value| serde_json::to_value(defaulted::<HorizontalPodAutoscaler>(json).spec).unwrap();
        let plain = spec(scaler());
        assert_eq!(plain["minReplicas"], 1);
        assert_eq!(
            plain["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}])
        );
        let behavior =
            spec(with("behavior", json!({"scaleDown": {"stabilizationWindowSeconds": 5}})))["behavior"]
                .clone();
        assert_eq!(
            behavior["scaleDown"],
            json!({"stabilizationWindowSeconds": 5, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]})
        );
        assert_eq!(behavior["scaleUp"]["policies"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn one_bad_scaler_per_rule() {
        let metric = |metric: Value| with("metrics", json!([metric]));
        let down = |rules: Value| with("behavior", json!({"scaleDown": rules}));
        let cpu = |target: Value| {
            metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}))
        };
        testing::valid::<HorizontalPodAutoscaler>(&[
            scaler(),
            metric(
                json!({"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "1"}}}),
            ),
            metric(
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                "target": {"type": "Utilization", "averageUtilization": 5}}}),
            ),
        ]);
        testing::invalid::<HorizontalPodAutoscaler>(&[
            (
                with("minReplicas", json!(-1)),
                "spec.minReplicas",
                "Invalid value: -1: must be greater than or equal to 1",
            ),
            (
                with("minReplicas", json!(9)),
                "spec.maxReplicas",
                "Invalid value: 5: must be greater than or equal to `minReplicas`",
            ),
            (
                with("scaleTargetRef", json!({"apiVersion": "apps/v1", "kind": "", "name": "a"})),
                "spec.scaleTargetRef.kind",
                "Required value",
            ),
            (
                with("scaleTargetRef", json!({"apiVersion": "apps/v1", "kind": "A", "name": "a/b"})),
                "spec.scaleTargetRef.name",
                "Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                cpu(json!({"type": "X", "averageUtilization": 5})),
                "spec.metrics[0].resource.target.type",
                "Invalid value: \"X\": must be either Utilization, Value, or AverageValue",
            ),
            (
                cpu(json!({"type": "Utilization"})),
                "spec.metrics[0].resource.target.averageUtilization",
                "Required value: must set either a target raw value or a target utilization",
            ),
            (
                cpu(json!({"type": "Utilization", "averageUtilization": 0})),
                "spec.metrics[0].resource.target.averageUtilization",
                "Invalid value: 0: must be greater than 0",
            ),
            (
                metric(json!({"type": "Pods"})),
                "spec.metrics[0].pods",
                "Required value: must populate information for the given metric source",
            ),
            (
                metric(
                    json!({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "-1"}}}),
                ),
                "spec.metrics[0].external.target.value",
                "Invalid value: \"-1\": must be positive",
            ),
            (
                metric(
                    json!({"type": "Object", "object": {"describedObject": {"apiVersion": "a/v1", "kind": "K", "name": "n"}, "metric": {"name": ""}, "target": {"type": "Value", "value": "1"}}}),
                ),
                "spec.metrics[0].object.metric.name",
                "Required value: must specify a metric name",
            ),
            (
                down(json!({"policies": []})),
                "spec.behavior.scaleDown.policies",
                "Required value: must specify at least one Policy",
            ),
            (
                down(json!({"selectPolicy": "X"})),
                "spec.behavior.scaleDown.selectPolicy",
                "Unsupported value: \"X\": supported values: \"Disabled\", \"Max\", \"Min\"",
            ),
            (
                down(json!({"stabilizationWindowSeconds": 3601})),
                "spec.behavior.scaleDown.stabilizationWindowSeconds",
                "Invalid value: 3601: must be less than or equal to 3600",
            ),
            (
                down(json!({"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1801}]})),
                "spec.behavior.scaleDown.policies[0].periodSeconds",
                "Invalid value: 1801: must be less than or equal to 1800",
            ),
        ]);
    }

    #[test]
    fn there_may_be_one_at_least() {
        for (most, want) in [
            (0, "Required value: must be set and greater than 0"),
            (-1, "Invalid value: -1: must be greater than or equal to 1"),
        ] {
            let mut errors = Errors::default();
            defaulted::<HorizontalPodAutoscaler>(with("maxReplicas", json!(most))).validate(&mut errors);
            assert_eq!(errors.into_causes()[0].message, want);
        }
    }

    #[test]
    fn columns() {
        let mut scaler = with(
            "metrics",
            json!([
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
            {"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
            {"type": "Pods", "pods": {"metric": {"name": "more"}, "target": {"type": "AverageValue", "averageValue": "10"}}}]),
        );
        scaler["status"] = json!({"desiredReplicas": 2, "currentReplicas": 1, "currentMetrics": [{"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": 12}}}]});
        assert_eq!(
            testing::cells::<HorizontalPodAutoscaler>(scaler),
            [
                "h",
                "Deployment/web",
                "cpu: 12%/60%, <unknown>/10 + 1 more...",
                "<unset>",
                "5",
                "1",
                "<unknown>"
            ]
        );
    }
}
