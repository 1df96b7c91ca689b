//! What an idle Wasm pod costs the node: memory with 500 of them, less the memory with none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::time::{Duration, Instant};

use harness::Cluster;
use measure::{header, memory, row};
use serde_json::json;

const PODS: u64 = 500;
/// A pod is idle when its start is history: the apiserver's memory of recent changes reaches back five minutes, is looked at
/// every 30 s, and what is freed goes back to the system within another 15.
const SETTLING: Duration = Duration::from_secs(350);

fn main() {
    header("Density");
    measure_guest("tcp-echo", "a parked wasi:sockets guest that listens", 7000);
    measure_guest("hello-http", "a wasi:http component, instance per request", 8080);
}

fn measure_guest(sample: &str, what: &str, port: u16) {
    let mut cluster = Cluster::start();
    cluster.import_samples();
    let pid = cluster.process().pid();
    // One pod first: the compiled module and the API's own growth are not the next pod's cost.
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": sample},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": sample}}, "template": {
            "metadata": {"labels": {"app": sample}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "guest",
                "image": format!("coracle.dev/samples/{sample}:v1"), "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": port}]}]}}}});
    cluster.apply(&deployment.to_string());
    cluster.kubectl(&format!("rollout status deployment/{sample} --timeout=60s"));
    std::thread::sleep(SETTLING);
    let before = memory(pid);
    let started = Instant::now();
    cluster.kubectl(&format!("scale deployment/{sample} --replicas={}", PODS + 1));
    cluster.kubectl(&format!("rollout status deployment/{sample} --timeout=300s"));
    let took = started.elapsed();
    std::thread::sleep(SETTLING);
    let after = memory(pid);
    let each =
        |before: u64, after: u64| format!("{:.0} KiB", after.saturating_sub(before) as f64 / PODS as f64);
    row(
        &format!("memory per idle pod at {PODS}, {what}"),
        &format!(
            "{} RSS ({} anonymous, {} PSS); all Ready in {:.1} s",
            each(before.resident, after.resident),
            each(before.anonymous, after.anonymous),
            each(before.proportional, after.proportional),
            took.as_secs_f64()
        ),
        "≤ 100 KiB",
    );
}
