//! Puts one metric of an autoscaler to its source, and works out the replicas and the status from the answer.

use coracle_client::Resource;
use coracle_client::quantity::Quantity;
use coracle_client::selector::Selector;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::hpa::metrics::{Described, Metrics};
use crate::hpa::replicas::{self, Asked, Proposal};
use crate::scale;
use crate::served::Served;

/// What the metrics of one target have in common.
pub struct Target<'a> {
    pub namespace: &'a str,
    pub selector: &'a str,
    pub pods: &'a [Pod],
    /// How many there are, where `asked` has how many were asked for.
    pub present: i32,
    pub asked: Asked,
    pub served: &'a Served,
}

#[derive(Debug)]
pub struct Evaluated {
    pub replicas: i32,
    /// How events call the metric.
    pub name: String,
    pub status: MetricStatus,
}

/// The condition's reason, and what is wrong.
pub type Failure = (&'static str, String);

pub async fn evaluate(
    metrics: &dyn Metrics,
    target: &Target<'_>,
    spec: &MetricSpec,
) -> Result<Evaluated, Failure> {
    let missing = || ("InvalidMetricSourceType", format!("unknown metric source type {:?}", spec.type_));
    match spec.type_.as_str() {
        "Resource" => {
            let source = spec.resource.as_ref().ok_or_else(missing)?;
            let (proposal, kind) = resource(metrics, target, &source.name, None, &source.target)
                .await
                .map_err(|error| ("FailedGetResourceMetric", error))?;
            let current = current(&proposal);
            let status = ResourceMetricStatus { name: source.name.clone(), current };
            let name = format!("{} resource{kind}", source.name);
            let status = MetricStatus { resource: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas: proposal.replicas, name, status })
        }
        "ContainerResource" => {
            let source = spec.container_resource.as_ref().ok_or_else(missing)?;
            let container = Some(source.container.as_str());
            let (proposal, kind) = resource(metrics, target, &source.name, container, &source.target)
                .await
                .map_err(|error| ("FailedGetContainerResourceMetric", error))?;
            let (name, container) = (source.name.clone(), source.container.clone());
            let status = ContainerResourceMetricStatus { name, container, current: current(&proposal) };
            let name = format!("{} container resource{kind}", source.name);
            let status = MetricStatus { container_resource: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas: proposal.replicas, name, status })
        }
        "Pods" => {
            let source = spec.pods.as_ref().ok_or_else(missing)?;
            let proposal = pods(metrics, target, &source.metric, &source.target).await.map_err(|error| {
                ("FailedGetPodsMetric", format!("failed to get pods metric value: {error}"))
            })?;
            let status = PodsMetricStatus { metric: source.metric.clone(), current: current(&proposal) };
            let name = format!("pods metric {}", source.metric.name);
            let status = MetricStatus { pods: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas: proposal.replicas, name, status })
        }
        "Object" => {
            let source = spec.object.as_ref().ok_or_else(missing)?;
            let proposal = object(metrics, target, &source.described_object, &source.metric, &source.target)
                .await
                .map_err(|error| {
                    ("FailedGetObjectMetric", format!("failed to get object metric value: {error}"))
                })?;
            let status = ObjectMetricStatus {
                metric: source.metric.clone(),
                described_object: source.described_object.clone(),
                current: current(&proposal),
            };
            let name = format!("{} metric {}", source.described_object.kind, source.metric.name);
            let status = MetricStatus { object: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas: proposal.replicas, name, status })
        }
        "External" => {
            let source = spec.external.as_ref().ok_or_else(missing)?;
            let proposal =
                external(metrics, target, &source.metric, &source.target).await.map_err(|error| {
                    let message =
                        format!("failed to get {} external metric value: {error}", source.metric.name);
                    ("FailedGetExternalMetric", message)
                })?;
            let status = ExternalMetricStatus { metric: source.metric.clone(), current: current(&proposal) };
            let name = format!("external metric {}", source.metric.name);
            let status = MetricStatus { external: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas: proposal.replicas, name, status })
        }
        _ => Err(missing()),
    }
}

fn of_type(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

fn current(proposal: &Proposal) -> MetricValueStatus {
    let quantity = |milli: Option<i64>| milli.map(|milli| Quantity::from_millis(milli).to_wire());
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: quantity(proposal.average),
        value: quantity(proposal.value),
    }
}

fn milli(target: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Option<i64> {
    target.and_then(|wire| Quantity::of(wire).ok()).map(Quantity::milli_value)
}

fn selector_text(selector: Option<&LabelSelector>) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    Selector::from_label_selector(Some(selector)).map(|s| s.to_string()).map_err(|error| error.to_string())
}

const NO_TARGET: &str = "neither a value target nor an average value target was set";

/// Also what the metric is called beside the resource's name.
async fn resource(
    metrics: &dyn Metrics,
    at: &Target<'_>,
    name: &str,
    container: Option<&str>,
    target: &MetricTarget,
) -> Result<(Proposal, &'static str), String> {
    let samples = metrics.resource(at.namespace, at.selector, name, container).await;
    let samples = samples.map_err(|error| format!("unable to get metrics for resource {name}: {error}"));
    if let Some(average) = milli(target.average_value.as_ref()) {
        let proposal = samples
            .and_then(|samples| replicas::by_average(at.pods, &samples, name, average, &at.asked))
            .map_err(|error| format!("failed to get {name} usage: {error}"))?;
        return Ok((proposal, ""));
    }
    let Some(utilization) = target.average_utilization else {
        return Err(
            "invalid resource metric source: neither an average utilization target nor an average value \
                    (usage) target was set"
                .into(),
        );
    };
    let proposal = samples
        .and_then(|samples| {
            replicas::by_utilization(at.pods, &samples, name, container, utilization, &at.asked)
        })
        .map_err(|error| format!("failed to get {name} utilization: {error}"))?;
    Ok((proposal, " utilization (percentage of request)"))
}

async fn pods(
    metrics: &dyn Metrics,
    at: &Target<'_>,
    metric: &MetricIdentifier,
    target: &MetricTarget,
) -> Result<Proposal, String> {
    let series = selector_text(metric.selector.as_ref())?;
    let average = milli(target.average_value.as_ref()).ok_or(NO_TARGET)?;
    let samples = metrics
        .pods(at.namespace, at.selector, &metric.name, &series)
        .await
        .map_err(|error| format!("unable to get metric {}: {error}", metric.name))?;
    replicas::by_average(at.pods, &samples, "", average, &at.asked)
}

async fn object(
    metrics: &dyn Metrics,
    at: &Target<'_>,
    object: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
    target: &MetricTarget,
) -> Result<Proposal, String> {
    let series = selector_text(metric.selector.as_ref())?;
    let api_version = object.api_version.as_deref().unwrap_or("v1");
    let resource = scale::resource_of(at.served, api_version, &object.kind);
    let resource = resource
        .ok_or_else(|| format!("no matches for kind {:?} in version {api_version:?}", object.kind))?;
    let described = Described { resource: Resource::qualified(&resource), name: object.name.clone() };
    let usage = metrics.object(at.namespace, &described, &metric.name, &series).await.map_err(|error| {
        let Described { resource, name } = &described;
        format!("unable to get metric {}: {resource} on {} {name}/{error}", metric.name, at.namespace)
    })?;
    by_figure(at, usage, target)
}

async fn external(
    metrics: &dyn Metrics,
    at: &Target<'_>,
    metric: &MetricIdentifier,
    target: &MetricTarget,
) -> Result<Proposal, String> {
    let series = selector_text(metric.selector.as_ref())?;
    let values = metrics.external(at.namespace, &metric.name, &series).await.map_err(|error| {
        format!("unable to get external metric {}/{}/{series}: {error}", at.namespace, metric.name)
    })?;
    let usage = values.into_iter().fold(0i64, i64::saturating_add);
    by_figure(at, usage, target)
}

fn by_figure(at: &Target<'_>, usage: i64, target: &MetricTarget) -> Result<Proposal, String> {
    if let Some(value) = milli(target.value.as_ref()).filter(|_| target.type_ != "AverageValue") {
        return Ok(replicas::by_value(at.pods, usage, value, &at.asked));
    }
    match milli(target.average_value.as_ref()) {
        Some(average) => Ok(replicas::by_value_per_pod(at.present, usage, average, &at.asked)),
        None => Err(NO_TARGET.into()),
    }
}
