//! One HTTPS server for all virtual nodes: what their pods use, by node, as a kubelet's `/stats/summary` and
//! `/metrics/resource`.

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
use crate::server::resource_metrics::{ContainerUse, PodUse, exposition};

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
    uid: coracle_client::Uid,
    containers: Vec<(String, Timestamp, Usage)>,
}

impl PodUsage {
    fn total(&self) -> Usage {
        total(self.containers.iter().map(|(_, _, usage)| *usage))
    }
}

impl From<PodUsage> for PodUse {
    fn from(pod: PodUsage) -> Self {
        let PodUsage { namespace, name, containers, .. } = pod;
        let containers = containers.into_iter().map(|(name, started_at, usage)| ContainerUse {
            name,
            started_at,
            cpu_nanos: usage.cpu_nanos,
            memory_bytes: usage.memory_bytes,
        });
        PodUse { namespace, name, containers: containers.collect() }
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
    let pods: Vec<PodUse> = usages(&fleet, member, now).into_iter().map(PodUse::from).collect();
    let node = pods
        .iter()
        .map(PodUse::total)
        .fold((0, 0), |(cpu, memory), (more_cpu, more_memory)| (cpu + more_cpu, memory + more_memory));
    let text = exposition(&pods, node, now);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
