//! From sending a Deployment to the first HTTP 200 through its Service, image on the node, a hundred times.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::time::{Duration, Instant};

use harness::{Cluster, Namespace, http_get, is_root};
use measure::{header, milliseconds, percentile, row};
use serde_json::json;

const RUNS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    header("Apply to first answer");
    let rootless = Cluster::start();
    measure_on(&rootless, "rootless");
    drop(rootless);
    if is_root() {
        let namespace = Namespace::enter();
        measure_on(&Cluster::start_in(&namespace), "nftables");
    }
}

fn measure_on(cluster: &Cluster, how: &str) {
    cluster.import_samples();
    // The first run compiles the module; it is not what is measured.
    once(cluster, "warm-up");
    let mut samples: Vec<Duration> = (0..RUNS).map(|run| once(cluster, &format!("run-{run}"))).collect();
    row(
        &format!("apply to first 200, {how}, {RUNS} runs"),
        &format!(
            "p50 {}, p99 {}, worst {}",
            milliseconds(percentile(&mut samples, 0.5)),
            milliseconds(percentile(&mut samples, 0.99)),
            milliseconds(percentile(&mut samples, 1.0))
        ),
        "p50 ≤ 20 ms, p99 ≤ 100 ms",
    );
}

fn once(cluster: &Cluster, name: &str) -> Duration {
    let https = cluster.https();
    let labels = json!({"app": name});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": labels, "ports": [{"port": 8080}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "hello-http",
                "image": "coracle.dev/samples/hello-http:v1", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 8080}]}]}}}});
    let started = Instant::now();
    let made = https.post("/apis/apps/v1/namespaces/default/deployments", deployment.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    let made = https.post("/api/v1/namespaces/default/services", service.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    let address = format!("{}:8080", made.json()["spec"]["clusterIP"].as_str().unwrap());
    while !matches!(http_get(&address, "/"), Ok((200, _))) {
        assert!(started.elapsed() < PATIENCE, "{name} did not answer");
        // A refused connection returns at once: the pause only keeps this loop off the server's cores.
        std::thread::sleep(Duration::from_micros(200));
    }
    let elapsed = started.elapsed();
    https.request("DELETE", &format!("/apis/apps/v1/namespaces/default/deployments/{name}"), &[], b"");
    https.request("DELETE", &format!("/api/v1/namespaces/default/services/{name}"), &[], b"");
    elapsed
}
