//! Where an autoscaler's figures come from: the metrics APIs, or whatever a test puts in their place.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, Client, ListOptions, Object, Resource};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde::Deserialize;

/// What one pod used, in thousandths, over a time that ended then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub milli: i64,
    pub at: Timestamp,
    pub window: Duration,
}

/// By the pod's name.
pub type PodMetrics = BTreeMap<String, Sample>;

/// An object whose metric is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `deployments.apps`
    pub resource: String,
    pub name: String,
}

#[async_trait]
pub trait Metrics: Send + Sync + 'static {
    /// What the pods use of a resource, as a whole or in one container.
    async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<PodMetrics, ApiError>;

    async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<PodMetrics, ApiError>;

    /// In thousandths.
    async fn object(
        &self,
        namespace: &str,
        object: &Described,
        metric: &str,
        metric_selector: &str,
    ) -> Result<i64, ApiError>;

    /// In thousandths, one for each series.
    async fn external(&self, namespace: &str, metric: &str, selector: &str) -> Result<Vec<i64>, ApiError>;
}

/// Reads `metrics.k8s.io`, `custom.metrics.k8s.io` and `external.metrics.k8s.io`.
pub struct MetricsApi {
    pub client: Client,
}

#[derive(Deserialize)]
struct PodUsage {
    timestamp: Option<Timestamp>,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerUsage>,
}

#[derive(Deserialize)]
struct ContainerUsage {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, Wire>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CustomValue {
    described_object: Named,
    timestamp: Option<Timestamp>,
    window_seconds: Option<u64>,
    value: Wire,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: Wire,
}

const WINDOW: Duration = Duration::from_secs(60);

impl MetricsApi {
    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        resource: Resource,
        namespace: &str,
        selector: &str,
        metric_selector: &str,
    ) -> Result<Vec<(std::sync::Arc<Object>, T)>, ApiError> {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let options = ListOptions {
            label_selector: given(selector),
            metric_label_selector: given(metric_selector),
            ..ListOptions::default()
        };
        let items = self.client.list_objects(&resource, namespace, options).await?.items;
        items.into_iter().map(|object| Ok((object.clone(), object.decode::<T>()?))).collect()
    }
}

fn milli(value: &Wire) -> i64 {
    Quantity::of(value).map_or(0, Quantity::milli_value)
}

/// `30s`, `1m0s`, `15.011s`.
fn window(text: &str) -> Duration {
    let span: Result<jiff::SignedDuration, _> = text.parse();
    span.ok().and_then(|span| Duration::try_from(span).ok()).unwrap_or(WINDOW)
}

/// The path of custom metrics of objects: the objects come before the metric in it.
fn custom(objects: &str, name: &str, metric: &str) -> Resource {
    let path = if objects == "namespaces" {
        format!("metrics/{metric}")
    } else {
        format!("{objects}/{name}/{metric}")
    };
    Resource::new("custom.metrics.k8s.io", "v1beta2", &path, "MetricValue", true)
}

#[async_trait]
impl Metrics for MetricsApi {
    async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<PodMetrics, ApiError> {
        let pods = Resource::new("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", true);
        let listed = self.list::<PodUsage>(pods, namespace, selector, "").await?;
        if listed.is_empty() {
            return Err(failure("no metrics returned from resource metrics API"));
        }
        let mut metrics = PodMetrics::new();
        for (object, usage) in listed {
            let name = object.head.name.to_string();
            let wanted = |c: &&ContainerUsage| container.is_none_or(|wanted| wanted == c.name);
            let mut parts = usage.containers.iter().filter(wanted).map(|c| c.usage.get(resource).map(milli));
            let found = usage.containers.iter().any(|c| wanted(&c));
            // A pod of which a part is missing counts as one without metrics.
            let Some(total) = parts.try_fold(0i64, |sum, part| Some(sum.saturating_add(part?))) else {
                continue;
            };
            if container.is_some() && !found {
                let container = container.unwrap_or_default();
                let message =
                    format!("container {container} not present in metrics for pod {namespace}/{name}");
                return Err(failure(&message));
            }
            let at = usage.timestamp.unwrap_or(Timestamp::UNIX_EPOCH);
            metrics.insert(name, Sample { milli: total, at, window: window(&usage.window) });
        }
        Ok(metrics)
    }

    async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<PodMetrics, ApiError> {
        let listed = self
            .list::<CustomValue>(custom("pods", "*", metric), namespace, selector, metric_selector)
            .await?;
        if listed.is_empty() {
            return Err(failure("no metrics returned from custom metrics API"));
        }
        let sample = |value: CustomValue| {
            let sample = Sample {
                milli: milli(&value.value),
                at: value.timestamp.unwrap_or(Timestamp::UNIX_EPOCH),
                window: value.window_seconds.map_or(WINDOW, Duration::from_secs),
            };
            (value.described_object.name, sample)
        };
        Ok(listed.into_iter().map(|(_, value)| sample(value)).collect())
    }

    async fn object(
        &self,
        namespace: &str,
        object: &Described,
        metric: &str,
        metric_selector: &str,
    ) -> Result<i64, ApiError> {
        let path = custom(&object.resource, &object.name, metric);
        let listed = self.list::<CustomValue>(path, namespace, "", metric_selector).await?;
        let value = listed.first().ok_or_else(|| failure("no metrics returned from custom metrics API"))?;
        Ok(milli(&value.1.value))
    }

    async fn external(&self, namespace: &str, metric: &str, selector: &str) -> Result<Vec<i64>, ApiError> {
        let series = Resource::new("external.metrics.k8s.io", "v1beta1", metric, "ExternalMetricValue", true);
        let listed = self.list::<ExternalValue>(series, namespace, selector, "").await?;
        if listed.is_empty() {
            return Err(failure("no metrics returned from external metrics API"));
        }
        Ok(listed.iter().map(|(_, value)| milli(&value.value)).collect())
    }
}

fn failure(message: &str) -> ApiError {
    ApiError::new(500, "", message)
}
