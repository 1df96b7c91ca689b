//! A thousand virtual nodes and thirty thousand pods: create, roll, drain a third of the nodes, delete; time, processor
//! time, memory, latencies by verb, and what one changed pod costs in reconciles and API calls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::{ControlPlane, Https};
use measure::{header, memory, processor_time, row};
use serde_json::{Value, json};

const NODES: u32 = 1_000;
const NODES_DRAINED: u32 = NODES / 3;
const PODS_PER_DEPLOYMENT: usize = 100;
/// The cluster's sizes, the smaller one to compare what a changed pod costs.
const SIZES: [usize; 2] = [3_000, 30_000];
const PATIENCE: Duration = Duration::from_secs(1_800);
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/bench/deployments";

fn main() {
    header("Cluster of virtual nodes");
    let sizes = std::env::var("CLUSTER_PODS").ok().and_then(|text| text.parse().ok());
    let sizes: Vec<usize> = sizes.map_or(SIZES.to_vec(), |pods| vec![pods]);
    for pods in sizes {
        measure_cluster(pods);
    }
}

fn measure_cluster(pods: usize) {
    let mut cluster = ControlPlane::start_with(&["--pod-cidr", "10.128.0.0/9"]);
    let began = Instant::now();
    cluster.play("node", NODES, &["--zones=a,b,c"]);
    let mut run = Run::new(cluster, pods);
    row(&format!("{pods} pods: {NODES} nodes Ready"), &seconds(began.elapsed()), "");
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    assert_eq!(run.https.post("/api/v1/namespaces", body.to_string()).status, 201);
    run.phase("create", pods, Run::create);
    run.phase("roll", pods, Run::roll);
    let moved = run.phase("drain a third of the nodes", pods / 3, Run::drain);
    assert!(moved, "nothing moved");
    run.phase("delete", pods, Run::delete);
    run.latencies();
}

struct Run {
    cluster: ControlPlane,
    https: Https,
    deployments: usize,
    pods: usize,
}

/// Counters at one moment.
struct Counters {
    at: Instant,
    server: Duration,
    nodes: Duration,
    calls: f64,
    reconciles: f64,
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

impl Run {
    fn new(cluster: ControlPlane, pods: usize) -> Run {
        let https = cluster.https();
        Run { cluster, https, deployments: pods / PODS_PER_DEPLOYMENT, pods }
    }

    fn samples(&self) -> BTreeMap<String, f64> {
        let text = self.https.get("/metrics").text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        samples.collect()
    }

    fn counters(&mut self) -> Counters {
        let samples = self.samples();
        let sum = |prefix: &str| -> f64 {
            samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
        };
        // Leases go on whatever happens, and are not the pods' doing.
        let leases: f64 = samples
            .iter()
            .filter(|(name, _)| {
                name.starts_with("apiserver_request_total") && name.contains("resource=\"leases\"")
            })
            .map(|(_, value)| value)
            .sum();
        let server = self.cluster.server().pid();
        let nodes = self.cluster.players()[0].pid();
        Counters {
            at: Instant::now(),
            server: processor_time(server),
            nodes: processor_time(nodes),
            calls: sum("apiserver_request_total") + sum("rest_client_requests_total") - leases,
            reconciles: sum("workqueue_work_duration_seconds_count"),
        }
    }

    fn phase(&mut self, what: &str, changed: usize, work: fn(&mut Run)) -> bool {
        let before = self.counters();
        work(self);
        let after = self.counters();
        let wall = after.at - before.at;
        let per = |count: f64| count / changed as f64;
        let (server, nodes) = (after.server - before.server, after.nodes - before.nodes);
        let (server_memory, node_memory) =
            (memory(self.cluster.server().pid()), memory(self.cluster.players()[0].pid()));
        row(
            &format!("{} pods: {what}", self.pods),
            &format!(
                "{} ({:.0} pods/s); processor {} server, {} nodes; memory {} MiB server, {} MiB nodes; {:.1} reconciles and {:.1} API calls a changed pod",
                seconds(wall),
                changed as f64 / wall.as_secs_f64(),
                seconds(server),
                seconds(nodes),
                server_memory.resident / 1024,
                node_memory.resident / 1024,
                per(after.reconciles - before.reconciles),
                per(after.calls - before.calls),
            ),
            "",
        );
        after.calls > before.calls
    }

    fn create(&mut self) {
        for index in 0..self.deployments {
            let name = format!("app-{index}");
            let made = self.https.post(DEPLOYMENTS, deployment(&name, PODS_PER_DEPLOYMENT, "v1"));
            assert_eq!(made.status, 201, "{}", made.text());
        }
        self.settle();
    }

    fn roll(&mut self) {
        for index in 0..self.deployments {
            let patch =
                json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "any:v2"}]}}}});
            self.patch(&format!("{DEPLOYMENTS}/app-{index}"), &patch);
        }
        self.settle();
    }

    /// Cordons a third of the nodes and evicts their pods, as `kubectl drain` does.
    fn drain(&mut self) {
        for index in 0..NODES_DRAINED {
            self.patch(&format!("/api/v1/nodes/node-{index}"), &json!({"spec": {"unschedulable": true}}));
        }
        for index in 0..NODES_DRAINED {
            let path = format!("/api/v1/namespaces/bench/pods?fieldSelector=spec.nodeName%3Dnode-{index}");
            let list = self.https.get(&path).json();
            for pod in list["items"].as_array().unwrap() {
                let name = pod["metadata"]["name"].as_str().unwrap();
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": name, "namespace": "bench"}});
                let answer = self
                    .https
                    .post(&format!("/api/v1/namespaces/bench/pods/{name}/eviction"), eviction.to_string());
                assert!(matches!(answer.status, 201 | 404), "{}", answer.text());
            }
        }
        self.settle();
    }

    fn delete(&mut self) {
        for index in 0..self.deployments {
            let answer = self.https.request("DELETE", &format!("{DEPLOYMENTS}/app-{index}"), &[], b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        self.until("no pods", |run| {
            let samples = run.samples();
            samples.get("apiserver_storage_objects{resource=\"pods\"}").copied() == Some(0.0)
        });
    }

    fn patch(&self, path: &str, patch: &Value) {
        let headers = [("content-type", "application/strategic-merge-patch+json")];
        let answer = self.https.request("PATCH", path, &headers, patch.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Until every Deployment has all of its pods, of the newest template, available.
    fn settle(&mut self) {
        self.until("all are available", |run| {
            let list = run.https.get(DEPLOYMENTS).json();
            list["items"].as_array().is_some_and(|items| {
                items.iter().all(|item| {
                    let (status, wanted) = (&item["status"], json!(PODS_PER_DEPLOYMENT));
                    status["observedGeneration"] == item["metadata"]["generation"]
                        && status["updatedReplicas"] == wanted
                        && status["availableReplicas"] == wanted
                        && status["replicas"] == wanted
                })
            })
        });
    }

    fn until(&mut self, what: &str, mut reached: impl FnMut(&Run) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self) {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Percentiles over the whole run, from the server's own histograms.
    fn latencies(&self) {
        let samples = self.samples();
        let mut by_verb: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
        for (name, value) in &samples {
            let Some(labels) = name.strip_prefix("apiserver_request_duration_seconds_bucket{") else {
                continue;
            };
            let label = |key: &str| {
                let rest = labels.split(&format!("{key}=\"")).nth(1)?;
                rest.split('"').next().map(str::to_owned)
            };
            let (Some(verb), Some(bound)) = (label("verb"), label("le")) else { continue };
            let bound = bound.parse::<f64>().unwrap_or(f64::INFINITY);
            *by_verb.entry(verb).or_default().entry(bound.to_bits()).or_default() += value;
        }
        for (verb, buckets) in by_verb {
            let total = buckets.values().copied().fold(0.0, f64::max);
            let at = |share: f64| {
                let bound = buckets.iter().find(|(_, count)| **count >= total * share);
                bound.map_or(f64::INFINITY, |(bits, _)| f64::from_bits(*bits))
            };
            row(
                &format!("{} pods: latency of {verb} over HTTPS", self.pods),
                &format!(
                    "{total:.0} requests, p50 ≤ {:.0} ms, p99 ≤ {:.0} ms",
                    at(0.5) * 1e3,
                    at(0.99) * 1e3
                ),
                "",
            );
        }
    }
}

fn deployment(name: &str, replicas: usize, version: &str) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "bench"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": format!("any:{version}"),
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}},
    })
    .to_string()
}
