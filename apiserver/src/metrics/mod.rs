//! What the apiserver counts, under upstream's names and labels.

mod process;

pub use coracle_client::metrics::MEDIA_TYPE;

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use bytes::Bytes;
use coracle_client::metrics::plain;
use coracle_client::{ApiError, KUBERNETES_VERSION, Resource};
use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::request_info::RequestInfo;

/// What a request was, without its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    code: u16,
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

/// Of what lasts: no dry run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LongLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    storage_cluster_id: &'static str,
}

/// Upstream's, in seconds.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const STORE_DURATIONS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const ANSWER_SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_SIZES: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

pub struct Metrics {
    registry: Registry,
    requests: Family<AnswerLabels, Counter>,
    durations: Histograms<RequestLabels>,
    answer_sizes: Histograms<RequestLabels>,
    in_flight: Family<InFlightLabels, Gauge>,
    long_running: Family<LongLabels, Gauge>,
    events: Family<ResourceLabels, Counter>,
    event_sizes: Histograms<ResourceLabels>,
    stored: Family<StoredLabels, Gauge>,
    objects: Family<ObjectLabels, Gauge>,
    store_size: Family<ClusterLabels, Gauge>,
    store_durations: Histograms<StoreLabels>,
    process: process::Process,
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

/// Counts the events that one watch sends.
pub struct Watching {
    _open: Held,
    events: Counter,
    sizes: Histogram,
}

impl Watching {
    pub fn sent(&self, bytes: usize) {
        self.events.inc();
        self.sizes.observe(bytes as f64);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            answer_sizes: Family::new_with_constructor(|| Histogram::new(ANSWER_SIZES)),
            in_flight: Family::default(),
            long_running: Family::default(),
            events: Family::default(),
            event_sizes: Family::new_with_constructor(|| Histogram::new(EVENT_SIZES)),
            stored: Family::default(),
            objects: Family::default(),
            store_size: Family::default(),
            store_durations: Family::new_with_constructor(|| Histogram::new(STORE_DURATIONS)),
            process: process::Process::register(&mut registry),
            registry: Registry::default(),
        };
        // The encoder appends `_total` to counters.
        registry.register(
            "apiserver_request",
            "Requests by verb, dry run, resource, scope, component and code",
            metrics.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds to the answer by verb, dry run, resource, scope and component",
            metrics.durations.clone(),
        );
        registry.register(
            "apiserver_response_sizes",
            "Bytes of answers to reads by resource, scope and component",
            metrics.answer_sizes.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests under way by kind",
            metrics.in_flight.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Open watches and streams by verb, resource, scope and component",
            metrics.long_running.clone(),
        );
        registry.register("apiserver_watch_events", "Events sent to watchers", metrics.events.clone());
        registry.register(
            "apiserver_watch_events_sizes",
            "Bytes of events sent to watchers",
            metrics.event_sizes.clone(),
        );
        registry.register("apiserver_storage_objects", "Stored objects by kind", metrics.stored.clone());
        registry.register("apiserver_resource_objects", "Stored objects by kind", metrics.objects.clone());
        registry.register(
            "apiserver_storage_size_bytes",
            "Bytes that the store has on disk",
            metrics.store_size.clone(),
        );
        registry.register(
            "etcd_request_duration_seconds",
            "Seconds to the store's answer by operation and kind",
            metrics.store_durations.clone(),
        );
        let mut version = KUBERNETES_VERSION.trim_start_matches('v').split('.').map(str::to_owned);
        let build = vec![
            ("major", version.next().unwrap_or_default()),
            ("minor", version.next().unwrap_or_default()),
            ("git_version", crate::health::git_version()),
            ("compiler", "rustc".to_owned()),
            ("platform", format!("{}/{}", std::env::consts::OS, crate::health::platform())),
        ];
        registry.register("kubernetes_build", "What was built, always 1", Info::new(build));
        Self { registry, ..metrics }
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        i if !i.is_resource() => "",
        i if !i.name.is_empty() || i.verb == "create" => "resource",
        i if !i.namespace.is_empty() => "namespace",
        _ => "cluster",
    }
}

/// Upstream's names: methods, but for what methods do not tell apart.
fn verb(info: &RequestInfo, method: &Method) -> &'static str {
    match info.verb {
        "list" => "LIST",
        "watch" => "WATCH",
        "deletecollection" => "DELETECOLLECTION",
        _ if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
        _ => match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "OTHER",
        },
    }
}

/// Of paths that are no resources, the first part of those there are: what clients make up has no bound.
fn plain_path(path: &str) -> String {
    let first = path.split('/').nth(1).unwrap_or_default();
    match first {
        "api" | "apis" | "healthz" | "livez" | "readyz" | "metrics" | "version" | "openapi" => {
            format!("/{first}")
        }
        _ => "/".to_owned(),
    }
}

/// A request as it is counted.
pub struct Counted {
    labels: RequestLabels,
    long_running: bool,
}

impl Metrics {
    pub fn counted(&self, info: &RequestInfo, method: &Method, dry_run: bool) -> Counted {
        let resource = info.is_resource();
        let labels = RequestLabels {
            verb: verb(info, method),
            dry_run: if dry_run { "All" } else { "" },
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: if resource { info.subresource.clone() } else { plain_path(&info.path) },
            scope: scope(info),
            component: if resource { "apiserver" } else { "" },
        };
        Counted { labels, long_running: info.is_long_running() }
    }

    pub fn in_flight(&self, info: &RequestInfo) -> Option<Held> {
        if info.is_long_running() {
            return None;
        }
        let request_kind = if matches!(info.verb, "get" | "list" | "head") { "readOnly" } else { "mutating" };
        Some(Held::new(self.in_flight.get_or_create(&InFlightLabels { request_kind }).clone()))
    }

    /// One watch, while the answer lives.
    pub fn watching(&self, resource: &Resource, info: &RequestInfo) -> Watching {
        let labels = LongLabels {
            verb: "WATCH",
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: String::new(),
            scope: scope(info),
            component: "apiserver",
        };
        let of = ResourceLabels {
            group: resource.group().into(),
            version: resource.version().into(),
            resource: resource.plural().into(),
        };
        Watching {
            _open: Held::new(self.long_running.get_or_create(&labels).clone()),
            events: self.events.get_or_create(&of).clone(),
            sizes: self.event_sizes.get_or_create(&of).clone(),
        }
    }

    /// `bytes`: of the answer, where they are known. `served`: the resource is one that there is.
    pub fn answered(&self, counted: Counted, code: u16, taken: Duration, bytes: Option<u64>, served: bool) {
        let Counted { mut labels, long_running } = counted;
        if labels.component == "apiserver" && (!served || code == 404 && !labels.subresource.is_empty()) {
            // Names that clients made up are not counted by name: their number has no bound.
            for word in
                [&mut labels.group, &mut labels.version, &mut labels.resource, &mut labels.subresource]
            {
                word.clear();
            }
        }
        if !long_running {
            self.durations.get_or_create(&labels).observe(taken.as_secs_f64());
            if let Some(bytes) = bytes.filter(|_| matches!(labels.verb, "GET" | "LIST")) {
                self.answer_sizes.get_or_create(&labels).observe(bytes as f64);
            }
        }
        let RequestLabels { verb, dry_run, group, version, resource, subresource, scope, component } = labels;
        let labels =
            AnswerLabels { code, verb, dry_run, group, version, resource, subresource, scope, component };
        self.requests.get_or_create(&labels).inc();
    }

    /// A write that the store has answered.
    pub fn stored(&self, resource: &Resource, operation: &'static str, taken: Duration) {
        let labels =
            StoreLabels { operation, group: resource.group().into(), resource: resource.plural().into() };
        self.store_durations.get_or_create(&labels).observe(taken.as_secs_f64());
    }

    pub fn encode(&self, api: &Api) -> Result<Bytes, ApiError> {
        for cache in api.cache.resources().values() {
            let count = i64::try_from(cache.len()).unwrap_or(i64::MAX);
            let resource = cache.resource();
            self.stored.get_or_create(&StoredLabels { resource: resource.qualified() }).set(count);
            let labels = ObjectLabels { group: resource.group().into(), resource: resource.plural().into() };
            self.objects.get_or_create(&labels).set(count);
        }
        if let Some(bytes) = api.store.size_bytes() {
            let labels = ClusterLabels { storage_cluster_id: "etcd-0" };
            self.store_size.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        self.process.read();
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(ApiError::internal)?;
        // Components of the same process have no other listener.
        let components = coracle_client::metrics::text().map_err(ApiError::internal)?;
        Ok((plain(&text) + &components).into())
    }
}
