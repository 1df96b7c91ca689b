//! What the apiserver counts, under upstream's names.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use bytes::Bytes;
use coracle_client::{ApiError, Resource};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::request_info::RequestInfo;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    group: String,
    version: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoredLabels {
    resource: String,
}

/// Seconds, from a cached read to a patient list.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
    watchers: Family<ResourceLabels, Gauge>,
    stored: Family<StoredLabels, Gauge>,
}

/// Counts one while it lives.
pub struct Held(Gauge<i64, AtomicI64>);

impl Held {
    fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            in_flight: Family::default(),
            watchers: Family::default(),
            stored: Family::default(),
        };
        let registry = &mut metrics.registry;
        // The encoder appends `_total` to counters.
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and answer",
            metrics.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds to the answer (for a watch: to its beginning)",
            metrics.durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests under way by kind",
            metrics.in_flight.clone(),
        );
        registry.register("apiserver_registered_watchers", "Open watches", metrics.watchers.clone());
        registry.register("apiserver_storage_objects", "Stored objects", metrics.stored.clone());
        metrics
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        i if !i.is_resource() => "",
        i if !i.name.is_empty() => "resource",
        i if !i.namespace.is_empty() => "namespace",
        _ => "cluster",
    }
}

impl Metrics {
    pub fn in_flight(&self, info: &RequestInfo) -> Arc<Held> {
        let request_kind = match info.verb {
            "get" | "list" | "head" => "readOnly",
            "watch" => "watch",
            _ => "mutating",
        };
        Arc::new(Held::new(self.in_flight.get_or_create(&InFlightLabels { request_kind }).clone()))
    }

    pub fn watching(&self, resource: &Resource) -> Held {
        let labels = ResourceLabels {
            group: resource.group().into(),
            version: resource.version().into(),
            resource: resource.plural().into(),
        };
        Held::new(self.watchers.get_or_create(&labels).clone())
    }

    /// Names that clients made up are not counted by name: their number has no bound.
    pub fn answered(&self, info: &RequestInfo, code: u16, taken: Duration) {
        let known = code != 404;
        let word = |text: &str| if known { text.to_owned() } else { String::new() };
        let labels = DurationLabels {
            verb: info.verb.to_uppercase(),
            group: word(&info.group),
            version: word(&info.version),
            resource: word(&info.resource),
            subresource: word(&info.subresource),
            scope: scope(info),
        };
        self.durations.get_or_create(&labels).observe(taken.as_secs_f64());
        let DurationLabels { verb, group, version, resource, subresource, scope } = labels;
        let labels = RequestLabels { verb, group, version, resource, subresource, scope, code };
        self.requests.get_or_create(&labels).inc();
    }

    pub fn encode(&self, api: &Api) -> Result<Bytes, ApiError> {
        for cache in api.cache.resources().values() {
            let labels = StoredLabels { resource: cache.resource().qualified() };
            self.stored.get_or_create(&labels).set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(ApiError::internal)?;
        Ok(text.into())
    }
}
