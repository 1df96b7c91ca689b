//! How long `coracle up` takes on an empty data directory, and when started again on its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::time::Duration;

use harness::Cluster;
use measure::{header, milliseconds, percentile, row};

const RUNS: usize = 20;

fn main() {
    header("Start");
    let mut api: Vec<Duration> = Vec::new();
    let mut node: Vec<Duration> = Vec::new();
    let mut stop: Vec<Duration> = Vec::new();
    for _ in 0..RUNS {
        let mut cluster = Cluster::start();
        api.push(cluster.api_ready_after);
        node.push(cluster.node_ready_after);
        let started = std::time::Instant::now();
        assert!(cluster.process().stop().success());
        stop.push(started.elapsed());
    }
    for (what, samples, promise) in [
        ("start to API ready", &mut api, ""),
        ("start to node Ready", &mut node, "≤ 500 ms"),
        ("SIGTERM to exit", &mut stop, ""),
    ] {
        let (middle, worst) = (percentile(samples, 0.5), percentile(samples, 1.0));
        row(
            &format!("{what}, empty data directory, {RUNS} runs"),
            &format!("p50 {}, worst {}", milliseconds(middle), milliseconds(worst)),
            promise,
        );
    }
}
