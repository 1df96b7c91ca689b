//! One HTTPS server for all virtual nodes: what their pods use, by node, as a kubelet's `/stats/summary` and
//! `/metrics/resource`.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fleet::{Fleet, Member};
use super::pod::Usage;
use crate::pods::status::time;

/// Where metrics-server looks for a node's path.
pub const METRICS_PATH_ANNOTATION: &str = "metrics.k8s.io/resource-metrics-path";

/// What a path of one node begins with, as all share an address and a port.
pub fn node_prefix(name: &str) -> String {
    format!("/nodes/{name}")
}

pub fn metrics_path(name: &str) -> String {
    format!("{}/metrics/resource", node_prefix(name))
}

/// Without the prefix the only node there is is meant.
pub fn router(fleet: Arc<Fleet>) -> Router {
    let nodes = Router::new()
        .route("/stats/summary", get(summary))
        .route("/metrics/resource", get(resource_metrics))
        .with_state(fleet.clone());
    let router = Router::new().route("/healthz", get(|| async { "ok" })).nest("/nodes/{node}", nodes);
    let only = if fleet.len() == 1 { fleet.names().next().map(|(name, _)| name.to_string()) } else { None };
    let router = match only {
        Some(name) => {
            let (one, two, also) = (fleet.clone(), fleet, name.clone());
            router
                .route("/stats/summary", get(move || summary(Path(name), State(one))))
                .route("/metrics/resource", get(move || resource_metrics(Path(also), State(two))))
        }
        None => router,
    };
    router.fallback(|| async {
        (
            StatusCode::NOT_FOUND,
            "404 page not found: a virtual node runs nothing, so it has no logs, exec, attach or port-forward; its figures are under /nodes/NAME/stats/summary and /nodes/NAME/metrics/resource",
        )
    })
}

/// One pod's containers and what they use.
struct PodUsage {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Box<str>,
    containers: Vec<(String, Timestamp, Usage)>,
}

impl PodUsage {
    fn total(&self) -> Usage {
        total(self.containers.iter().map(|(_, _, usage)| *usage))
    }
}

fn total(usages: impl Iterator<Item = Usage>) -> Usage {
    usages.fold(Usage { cpu_nanos: 0, cpu_nanocores: 0, memory_bytes: 0 }, |sum, next| Usage {
        cpu_nanos: sum.cpu_nanos.saturating_add(next.cpu_nanos),
        cpu_nanocores: sum.cpu_nanocores.saturating_add(next.cpu_nanocores),
        memory_bytes: sum.memory_bytes.saturating_add(next.memory_bytes),
    })
}

fn usages(fleet: &Fleet, member: &Member, now: Timestamp) -> Vec<PodUsage> {
    let pods = fleet.pods_of(member);
    let mut all: Vec<PodUsage> = pods
        .iter()
        .map(|pod| {
            let pod = pod.lock();
            PodUsage {
                namespace: pod.key.namespace.clone(),
                name: pod.key.name.clone(),
                uid: pod.uid.clone(),
                containers: pod.usage(now).into_iter().map(|(n, at, u)| (n.to_owned(), at, u)).collect(),
            }
        })
        .filter(|pod| !pod.containers.is_empty())
        .collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}

/// A node that is silent does not answer either.
fn live<'a>(fleet: &'a Fleet, name: &str) -> Result<&'a Member, (StatusCode, String)> {
    match fleet.member(name) {
        None => Err((StatusCode::NOT_FOUND, format!("no virtual node {name} here"))),
        Some(member) if !member.is_live() => {
            Err((StatusCode::SERVICE_UNAVAILABLE, format!("{name} is silent")))
        }
        Some(member) => Ok(member),
    }
}

fn figures(usage: Usage, now: Timestamp) -> (Value, Value) {
    let Usage { cpu_nanos, cpu_nanocores, memory_bytes } = usage;
    (
        json!({"time": time(now), "usageNanoCores": cpu_nanocores, "usageCoreNanoSeconds": cpu_nanos}),
        json!({"time": time(now), "usageBytes": memory_bytes, "workingSetBytes": memory_bytes, "rssBytes": memory_bytes}),
    )
}

async fn summary(
    Path(name): Path<String>,
    State(fleet): State<Arc<Fleet>>,
) -> Result<Response, (StatusCode, String)> {
    let member = live(&fleet, &name)?;
    let now = Timestamp::now();
    let pods = usages(&fleet, member, now);
    let (cpu, memory) = figures(total(pods.iter().map(PodUsage::total)), now);
    let pods: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let (cpu, memory) = figures(pod.total(), now);
            let containers = pod.containers.iter().map(|(name, started, usage)| {
                let (cpu, memory) = figures(*usage, now);
                json!({"name": name, "startTime": time(*started), "cpu": cpu, "memory": memory})
            });
            json!({
                "podRef": {"name": &*pod.name, "namespace": &*pod.namespace, "uid": pod.uid},
                "containers": containers.collect::<Vec<_>>(),
                "cpu": cpu,
                "memory": memory,
            })
        })
        .collect();
    let answer = json!({"node": {"nodeName": name, "cpu": cpu, "memory": memory}, "pods": pods});
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response())
}

async fn resource_metrics(
    Path(name): Path<String>,
    State(fleet): State<Arc<Fleet>>,
) -> Result<Response, (StatusCode, String)> {
    let member = live(&fleet, &name)?;
    let now = Timestamp::now();
    let text = exposition(&usages(&fleet, member, now), now);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// The families of upstream's `/metrics/resource`.
fn exposition(pods: &[PodUsage], now: Timestamp) -> String {
    let mut out = String::new();
    let at = now.as_millisecond();
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value} {at}");
        }
    };
    let of_pod = |pod: &PodUsage| format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name);
    let by_container = |value: fn(Timestamp, Usage) -> f64| -> Vec<(String, f64)> {
        let each = |pod: &PodUsage| -> Vec<(String, f64)> {
            let containers = pod.containers.iter().map(|(container, started, usage)| {
                let labels = format!(
                    "{{container=\"{container}\",namespace=\"{}\",pod=\"{}\"}}",
                    pod.namespace, pod.name
                );
                (labels, value(*started, *usage))
            });
            containers.collect()
        };
        pods.iter().flat_map(each).collect()
    };
    let whole = total(pods.iter().map(PodUsage::total));
    let (counter, gauge) = ("counter", "gauge");
    family(
        "container_cpu_usage_seconds_total",
        counter,
        "Cumulative cpu time consumed by the container in core-seconds",
        by_container(|_, usage| usage.cpu_nanos as f64 / 1e9),
    );
    family(
        "container_memory_working_set_bytes",
        gauge,
        "Current working set of the container in bytes",
        by_container(|_, usage| usage.memory_bytes as f64),
    );
    family(
        "container_start_time_seconds",
        gauge,
        "Start time of the container since unix epoch in seconds",
        by_container(|started, _| started.as_millisecond() as f64 / 1e3),
    );
    family(
        "node_cpu_usage_seconds_total",
        counter,
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![(String::new(), seconds(whole.cpu_nanos))],
    );
    family(
        "node_memory_working_set_bytes",
        gauge,
        "Current working set of the node in bytes",
        vec![(String::new(), whole.memory_bytes as f64)],
    );
    family(
        "pod_cpu_usage_seconds_total",
        counter,
        "Cumulative cpu time consumed by the pod in core-seconds",
        pods.iter().map(|pod| (of_pod(pod), seconds(pod.total().cpu_nanos))).collect(),
    );
    family(
        "pod_memory_working_set_bytes",
        gauge,
        "Current working set of the pod in bytes",
        pods.iter().map(|pod| (of_pod(pod), pod.total().memory_bytes as f64)).collect(),
    );
    family(
        "resource_scrape_error",
        gauge,
        "1 if there was an error while getting container metrics, 0 otherwise",
        vec![(String::new(), 0.0)],
    );
    out
}
