//! HorizontalPodAutoscaler in its `autoscaling/v1` form: never stored. What that form has no fields for travels in
//! annotations, as upstream writes them, so that a client of v1 that writes back what it read loses nothing.

use coracle_client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::autoscaling::v2;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::super::{Alias, BuiltIn, Column};
use crate::field_error::Errors;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const ROUND_TRIP: &[&str] = &[METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR];

impl BuiltIn for HorizontalPodAutoscaler {
    const SINGULAR: &'static str = <v2::HorizontalPodAutoscaler as BuiltIn>::SINGULAR;
    const SHORT_NAMES: &'static [&'static str] = <v2::HorizontalPodAutoscaler as BuiltIn>::SHORT_NAMES;
    const CATEGORIES: &'static [&'static str] = <v2::HorizontalPodAutoscaler as BuiltIn>::CATEGORIES;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;

    fn alias() -> Option<Alias> {
        Some(Alias {
            stored: Resource::of::<v2::HorizontalPodAutoscaler>(),
            to_stored: |o| Some(Box::new(to_v2(o.as_any().downcast_ref()?))),
            from_stored: |o| Some(Box::new(from_v2(o.as_any().downcast_ref()?))),
            fields: &[],
        })
    }

    fn set_defaults(&mut self) {
        self.spec.min_replicas.get_or_insert(1);
        self.status.get_or_insert_default();
    }

    /// The stored form's rules run after the conversion.
    fn validate(&self, _errors: &mut Errors) {}

    fn columns() -> Vec<Column> {
        <v2::HorizontalPodAutoscaler as BuiltIn>::columns()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        to_v2(self).cells(now)
    }
}

/// The load of the processors, which v1 has a field for.
fn is_cpu(metric: &v2::MetricSpec) -> bool {
    metric.type_ == "Resource"
        && metric.resource.as_ref().is_some_and(|r| r.name == "cpu" && r.target.average_utilization.is_some())
}

fn without_round_trip(mut meta: ObjectMeta) -> ObjectMeta {
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| !ROUND_TRIP.contains(&key.as_str()));
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
    meta
}

fn from_v2(stored: &v2::HorizontalPodAutoscaler) -> HorizontalPodAutoscaler {
    let spec = &stored.spec;
    let status = stored.status.clone().unwrap_or_default();
    let mut metadata = without_round_trip(stored.metadata.clone());
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let others: Vec<Value> = metrics.iter().filter(|m| !is_cpu(m)).map(|m| metric_out(&value(m))).collect();
    let current: Vec<Value> =
        status.current_metrics.iter().flatten().map(|m| metric_out(&value(m))).collect();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let behavior = spec.behavior.as_ref().map(|behavior| renamed(&value(behavior), capital));
    for (key, list) in [
        (METRICS, Some(json!(others)).filter(|_| !others.is_empty())),
        (CURRENT_METRICS, Some(json!(current)).filter(|_| !current.is_empty())),
        (CONDITIONS, Some(json!(conditions)).filter(|_| !conditions.is_empty())),
        (BEHAVIOR, behavior),
    ] {
        if let Some(list) = list {
            metadata.annotations.get_or_insert_default().insert(key.into(), list.to_string());
        }
    }
    let cpu = metrics.iter().find(|metric| is_cpu(metric));
    let measured = status.current_metrics.iter().flatten().filter_map(|m| m.resource.as_ref());
    HorizontalPodAutoscaler {
        metadata,
        spec: HorizontalPodAutoscalerSpec {
            max_replicas: spec.max_replicas,
            min_replicas: spec.min_replicas,
            scale_target_ref: CrossVersionObjectReference {
                api_version: spec.scale_target_ref.api_version.clone(),
                kind: spec.scale_target_ref.kind.clone(),
                name: spec.scale_target_ref.name.clone(),
            },
            target_cpu_utilization_percentage: cpu
                .and_then(|m| m.resource.as_ref()?.target.average_utilization),
        },
        status: Some(HorizontalPodAutoscalerStatus {
            current_cpu_utilization_percentage: measured
                .filter(|r| r.name == "cpu")
                .find_map(|r| r.current.average_utilization),
            current_replicas: status.current_replicas.unwrap_or_default(),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
    }
}

fn to_v2(shown: &HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
    let annotations = shown.metadata.annotations.clone().unwrap_or_default();
    let parsed = |key: &str| serde_json::from_str::<Value>(annotations.get(key)?).ok();
    let spec = &shown.spec;
    let status = shown.status.clone().unwrap_or_default();
    let mut metrics: Vec<v2::MetricSpec> = list(parsed(METRICS), metric_in);
    metrics.extend(spec.target_cpu_utilization_percentage.map(super::cpu));
    if metrics.is_empty() {
        metrics.push(super::cpu(super::CPU_UTILIZATION));
    }
    let mut measured: Vec<v2::MetricStatus> = list(parsed(CURRENT_METRICS), metric_in);
    if measured.is_empty() {
        let load = status.current_cpu_utilization_percentage;
        measured.extend(load.map(|percent| v2::MetricStatus {
            type_: "Resource".into(),
            resource: Some(v2::ResourceMetricStatus {
                name: "cpu".into(),
                current: v2::MetricValueStatus {
                    average_utilization: Some(percent),
                    ..v2::MetricValueStatus::default()
                },
            }),
            ..v2::MetricStatus::default()
        }));
    }
    let conditions = list(parsed(CONDITIONS), Value::clone);
    let behavior = parsed(BEHAVIOR).map(|behavior| renamed(&behavior, small));
    v2::HorizontalPodAutoscaler {
        metadata: without_round_trip(shown.metadata.clone()),
        spec: v2::HorizontalPodAutoscalerSpec {
            behavior: behavior.and_then(|behavior| serde_json::from_value(behavior).ok()),
            max_replicas: spec.max_replicas,
            metrics: Some(metrics),
            min_replicas: spec.min_replicas,
            scale_target_ref: v2::CrossVersionObjectReference {
                api_version: spec.scale_target_ref.api_version.clone(),
                kind: spec.scale_target_ref.kind.clone(),
                name: spec.scale_target_ref.name.clone(),
            },
        },
        status: Some(v2::HorizontalPodAutoscalerStatus {
            conditions: Some(conditions).filter(|list: &Vec<_>| !list.is_empty()),
            current_metrics: Some(measured).filter(|list| !list.is_empty()),
            current_replicas: Some(status.current_replicas),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
    }
}

fn value(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// What an annotation holds; one that does not parse holds nothing.
fn list<T: DeserializeOwned>(found: Option<Value>, convert: fn(&Value) -> Value) -> Vec<T> {
    let items = found.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| serde_json::from_value(convert(item)).ok()).collect()
}

/// The behaviour is written with the names of upstream's internal types.
fn renamed(value: &Value, rename: fn(&str) -> String) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (rename(name), renamed(value, rename)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(|item| renamed(item, rename)).collect(),
        other => other.clone(),
    }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

fn small(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}

/// The members of a metric in v2 (`target.averageValue`), and what v1's flat form calls them; by the metric's source,
/// and whether it is what is aimed at or what was measured.
fn names(source: &str, status: bool) -> Vec<(&'static str, &'static str)> {
    let identified = |selector| vec![("metric.name", "metricName"), ("metric.selector", selector)];
    match (source, status) {
        ("object", false) => [
            vec![
                ("describedObject", "target"),
                ("target.value", "targetValue"),
                ("target.averageValue", "averageValue"),
            ],
            identified("selector"),
        ]
        .concat(),
        ("object", true) => [
            vec![
                ("describedObject", "target"),
                ("current.value", "currentValue"),
                ("current.averageValue", "averageValue"),
            ],
            identified("selector"),
        ]
        .concat(),
        ("pods", false) => {
            [vec![("target.averageValue", "targetAverageValue")], identified("selector")].concat()
        }
        ("pods", true) => {
            [vec![("current.averageValue", "currentAverageValue")], identified("selector")].concat()
        }
        ("external", false) => [
            vec![("target.value", "targetValue"), ("target.averageValue", "targetAverageValue")],
            identified("metricSelector"),
        ]
        .concat(),
        ("external", true) => [
            vec![("current.value", "currentValue"), ("current.averageValue", "currentAverageValue")],
            identified("metricSelector"),
        ]
        .concat(),
        (_, false) => vec![
            ("name", "name"),
            ("container", "container"),
            ("target.averageUtilization", "targetAverageUtilization"),
            ("target.averageValue", "targetAverageValue"),
        ],
        (_, true) => vec![
            ("name", "name"),
            ("container", "container"),
            ("current.averageUtilization", "currentAverageUtilization"),
            ("current.averageValue", "currentAverageValue"),
        ],
    }
}

fn metric_out(metric: &Value) -> Value {
    let mut out = Map::new();
    for (source, body) in metric.as_object().into_iter().flatten() {
        if source == "type" {
            out.insert(source.clone(), body.clone());
            continue;
        }
        let mut flat = Map::new();
        for (path, name) in names(source, body.get("current").is_some()) {
            let found = path.split('.').try_fold(body, |at, part| at.get(part));
            if let Some(found) = found {
                flat.insert(name.into(), found.clone());
            }
        }
        out.insert(source.clone(), flat.into());
    }
    out.into()
}

fn metric_in(metric: &Value) -> Value {
    let mut out = Map::new();
    for (source, flat) in metric.as_object().into_iter().flatten() {
        if source == "type" {
            out.insert(source.clone(), flat.clone());
            continue;
        }
        let status = flat.as_object().is_some_and(|flat| flat.keys().any(|key| key.starts_with("current")));
        let mut body = Map::new();
        for (path, name) in names(source, status) {
            let Some(found) = flat.get(name) else { continue };
            match path.split_once('.') {
                None => drop(body.insert(path.into(), found.clone())),
                Some((part, field)) => {
                    let inner = body.entry(part).or_insert_with(|| json!({}));
                    if let Some(inner) = inner.as_object_mut() {
                        inner.insert(field.into(), found.clone());
                    }
                }
            }
        }
        if !status {
            aim(&mut body);
        }
        out.insert(source.clone(), body.into());
    }
    out.into()
}

/// The type of a target follows from what it names; a value that v1 cannot leave out is none where it is nothing.
fn aim(body: &mut Map<String, Value>) {
    let Some(target) = body.get_mut("target").and_then(Value::as_object_mut) else { return };
    if target.contains_key("averageValue") && target.get("value") == Some(&json!("0")) {
        target.remove("value");
    }
    let type_ = if target.contains_key("averageUtilization") {
        "Utilization"
    } else if target.contains_key("value") {
        "Value"
    } else {
        "AverageValue"
    };
    target.insert("type".into(), json!(type_));
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{defaulted, parse};

    use super::*;

    fn full() -> v2::HorizontalPodAutoscaler {
        defaulted(json!({"metadata": {"name": "h", "annotations": {"a": "b"}}, "spec": {"maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "hits", "selector": {"matchLabels": {"p": "q"}}},
                    "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "7"}}},
                {"type": "Object", "object": {"describedObject": {"apiVersion": "v1", "kind": "K", "name": "n"},
                    "metric": {"name": "o"}, "target": {"type": "Value", "value": "3"}}},
                {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                    "target": {"type": "Utilization", "averageUtilization": 30}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}]},
            "status": {"currentReplicas": 1, "desiredReplicas": 2,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12, "averageValue": "1"}}}]}}))
    }

    #[test]
    fn nothing_is_lost_by_way_of_v1() {
        let shown = from_v2(&full());
        assert_eq!(shown.spec.target_cpu_utilization_percentage, Some(60));
        assert_eq!(shown.status.as_ref().unwrap().current_cpu_utilization_percentage, Some(12));
        let annotations = shown.metadata.annotations.as_ref().unwrap();
        assert!(
            annotations[BEHAVIOR].contains("\"StabilizationWindowSeconds\":5"),
            "{}",
            annotations[BEHAVIOR]
        );
        assert!(annotations[METRICS].contains("\"metricName\":\"hits\""));
        assert_eq!(to_v2(&shown), full());
    }

    #[test]
    fn v1_alone_measures_processors() {
        let bare: HorizontalPodAutoscaler =
            parse(json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5,
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}));
        let metrics = to_v2(&bare).spec.metrics.unwrap();
        assert_eq!(metrics[0].resource.as_ref().unwrap().target.average_utilization, Some(80));
    }
}
