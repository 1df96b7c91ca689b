//! What a HorizontalPodAutoscaler measures: the rules for it, and how it is shown.

use coracle_client::quantity::Quantity;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use super::super::resource_names;
use crate::field_error::{Errors, Path};
use crate::validation;

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const TARGETS: &[&str] = &["Utilization", "Value", "AverageValue"];
/// How many metrics are shown before the rest is only counted.
const SHOWN_MAX: usize = 2;

pub(super) fn reference(reference: &CrossVersionObjectReference, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        if value.is_empty() {
            errors.required(path.child(field), "");
        } else {
            errors.check(path.child(field), value, validation::path_segment);
        }
    }
    let version = reference.api_version.as_deref().unwrap_or_default();
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.invalid(path.child("apiVersion"), version, detail);
    }
}

pub(super) fn validate(metric: &MetricSpec, path: &Path<'_>, errors: &mut Errors) {
    let type_ = metric.type_.as_str();
    let at = path.child("type");
    if type_.is_empty() {
        errors.required(at, "must specify a metric source type");
    }
    if !TYPES.contains(&type_) {
        errors.not_supported(at, type_, TYPES);
    }
    let present: Vec<&str> = [
        ("object", metric.object.is_some()),
        ("external", metric.external.is_some()),
        ("pods", metric.pods.is_some()),
        ("resource", metric.resource.is_some()),
        ("containerResource", metric.container_resource.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect();
    // Only the first is looked into, as upstream.
    if let Some(first) = present.first() {
        source(metric, first, &path.child(first), errors);
    }
    let mut expected = type_.to_owned();
    if let Some(first) = expected.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    if TYPES.contains(&type_) {
        if !present.contains(&expected.as_str()) {
            let detail = "must populate information for the given metric source";
            errors.required(path.child(&expected), detail);
        }
    } else {
        errors.not_supported(at, type_, TYPES);
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|name| *name != expected) {
            errors.forbidden(path.child(other), "must populate the given metric source only");
        }
    }
}

fn source(metric: &MetricSpec, which: &str, path: &Path<'_>, errors: &mut Errors) {
    let target = path.child("target");
    match which {
        "object" => {
            let Some(object) = &metric.object else { return };
            reference(&object.described_object, &path.child("describedObject"), errors);
            identifier(&object.metric, &path.child("metric"), errors);
            self::target(&object.target, &target, errors);
            if object.target.value.is_none() && object.target.average_value.is_none() {
                let detail = "must set either a target value or averageValue";
                errors.required(target.child("averageValue"), detail);
            }
        }
        "external" => {
            let Some(external) = &metric.external else { return };
            identifier(&external.metric, &path.child("metric"), errors);
            self::target(&external.target, &target, errors);
            match (&external.target.value, &external.target.average_value) {
                (None, None) => errors.required(
                    target.child("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                ),
                (Some(_), Some(_)) => errors.forbidden(
                    target.child("value"),
                    "may not set both a target value for metric and a per-pod target",
                ),
                _ => {}
            }
        }
        "pods" => {
            let Some(pods) = &metric.pods else { return };
            identifier(&pods.metric, &path.child("metric"), errors);
            self::target(&pods.target, &target, errors);
            if pods.target.average_value.is_none() {
                errors.required(target.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        "resource" => {
            let Some(resource) = &metric.resource else { return };
            if resource.name.is_empty() {
                errors.required(path.child("name"), "must specify a resource name");
            }
            self::target(&resource.target, &target, errors);
            one_of_two(&resource.target, &target, errors);
        }
        _ => {
            let Some(resource) = &metric.container_resource else { return };
            if resource.name.is_empty() {
                errors.required(path.child("name"), "must specify a resource name");
            } else {
                resource_names::of_container(&resource.name, &path.child("name"), errors);
            }
            if resource.container.is_empty() {
                errors.required(path.child("container"), "must specify a container");
            } else {
                errors.check(path.child("container"), &resource.container, validation::dns_label);
            }
            self::target(&resource.target, &target, errors);
            one_of_two(&resource.target, &target, errors);
        }
    }
}

fn one_of_two(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    match (target.average_utilization, &target.average_value) {
        (None, None) => errors.required(
            path.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_)) => errors.forbidden(
            path.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

fn identifier(metric: &MetricIdentifier, path: &Path<'_>, errors: &mut Errors) {
    if metric.name.is_empty() {
        errors.required(path.child("name"), "must specify a metric name");
    } else {
        errors.check(path.child("name"), &metric.name, validation::path_segment);
    }
}

fn target(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    if target.type_.is_empty() {
        errors.required(path.child("type"), "must specify a metric target type");
    }
    if !TARGETS.contains(&target.type_.as_str()) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(path.child("type"), &target.type_, detail);
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(value) = value
            && Quantity::of(value).is_ok_and(|amount| amount <= Quantity::ZERO)
        {
            errors.invalid(path.child(field), &value.0, "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

/// `cpu: 12%/60%, 3/10 + 1 more...`
pub(super) fn shown(metrics: &[MetricSpec], measured: &[MetricStatus]) -> String {
    if metrics.is_empty() {
        return "<none>".into();
    }
    let all: Vec<String> = metrics.iter().enumerate().map(|(i, m)| one(m, measured.get(i))).collect();
    let list = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    match all.len().checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => format!("{list} + {more} more..."),
        _ => list,
    }
}

fn one(metric: &MetricSpec, measured: Option<&MetricStatus>) -> String {
    let unknown = || "<unknown>".to_owned();
    let amount = |wire: Option<&Wire>| wire.map_or_else(unknown, |wire| wire.0.clone());
    let of_value = |target: &MetricTarget, current: Option<&MetricValueStatus>| match &target.average_value {
        Some(average) => {
            format!("{}/{} (avg)", amount(current.and_then(|c| c.average_value.as_ref())), average.0)
        }
        None => {
            let wanted = target.value.as_ref().map_or("0", |v| v.0.as_str());
            format!("{}/{wanted}", amount(current.and_then(|c| c.value.as_ref())))
        }
    };
    let of_load = |name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>| {
        if let Some(average) = &target.average_value {
            let current = amount(current.and_then(|c| c.average_value.as_ref()));
            return format!("{name}: {current}/{}", average.0);
        }
        let current = current.and_then(|c| c.average_utilization);
        let current = current.map_or_else(unknown, |percent| format!("{percent}%"));
        let wanted = target.average_utilization.map_or_else(|| "<auto>".into(), |p| format!("{p}%"));
        format!("{name}: {current}/{wanted}")
    };
    match metric.type_.as_str() {
        "External" => metric
            .external
            .as_ref()
            .map(|m| of_value(&m.target, measured.and_then(|s| s.external.as_ref()).map(|s| &s.current))),
        "Object" => metric
            .object
            .as_ref()
            .map(|m| of_value(&m.target, measured.and_then(|s| s.object.as_ref()).map(|s| &s.current))),
        "Pods" => metric.pods.as_ref().map(|m| {
            let current =
                measured.and_then(|s| s.pods.as_ref()).and_then(|s| s.current.average_value.as_ref());
            let wanted = m.target.average_value.as_ref().map_or("0", |v| v.0.as_str());
            format!("{}/{wanted}", amount(current))
        }),
        "Resource" => metric.resource.as_ref().map(|m| {
            let current = measured.and_then(|s| s.resource.as_ref()).map(|s| &s.current);
            of_load(&m.name, &m.target, current)
        }),
        "ContainerResource" => metric.container_resource.as_ref().map(|m| {
            let current = measured.and_then(|s| s.container_resource.as_ref()).map(|s| &s.current);
            of_load(&m.name, &m.target, current)
        }),
        _ => None,
    }
    .unwrap_or_else(|| "<unknown type>".into())
}
