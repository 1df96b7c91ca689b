//! Lists of thousands, whole and in pages, in both encodings and compressed; and what ten thousand Pods cost in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Cluster, Https};
use crate::measure::load::Kept;
use crate::measure::{self, row};

const LISTERS: usize = 4;
const LISTING: Duration = Duration::from_secs(4);
const PATH: &str = "/api/v1/namespaces/bench-lists/configmaps";
const PODS: usize = 10_000;

const JSON: &str = "accept: application/json\r\n";
const GZIP: &str = "accept: application/json\r\naccept-encoding: gzip\r\n";
const PROTOBUF: &str = "accept: application/vnd.kubernetes.protobuf\r\n";
const PROTOBUF_GZIP: &str = "accept: application/vnd.kubernetes.protobuf\r\naccept-encoding: gzip\r\n";

fn fill(https: &Https, path: &str, from: usize, to: usize, body: impl Fn(usize) -> Vec<u8> + Sync) {
    std::thread::scope(|scope| {
        for client in 0..8 {
            let body = &body;
            scope.spawn(move || {
                let mut connection = Kept::open(https);
                for number in (from + client..to).step_by(8) {
                    assert_eq!(connection.exchange("POST", path, &body(number)).status, 201);
                }
            });
        }
    });
}

pub fn lists(https: &Https, who: &str) {
    let mut there = 0;
    for count in [2_000, 10_000] {
        fill(https, PATH, there, count, |number| crate::config_map(&format!("l{number}"), 0));
        there = count;
        let promise = if count == 2_000 { "≥ 2,000/s" } else { "" };
        for (how, query, headers) in [
            ("", "", JSON),
            (", resourceVersion=0", "?resourceVersion=0", JSON),
            (", limit=500", "?limit=500", JSON),
            (", gzip", "", GZIP),
            (", protobuf", "", PROTOBUF),
            (", protobuf and gzip", "", PROTOBUF_GZIP),
        ] {
            let (done, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..LISTERS {
                    scope.spawn(|| {
                        let mut connection = Kept::open(https);
                        while begun.elapsed() < LISTING {
                            let answer =
                                connection.exchange_as("GET", &format!("{PATH}{query}"), headers, b"");
                            assert_eq!(answer.status, 200);
                            bytes.store(answer.body_bytes, Ordering::Relaxed);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
            let size = bytes.load(Ordering::Relaxed) as f64 / 1024.0;
            row(
                &format!("LIST {count} ConfigMaps{how}, {LISTERS} clients{who}"),
                &format!("{rate:.0}/s of {size:.0} KiB ({:.0} MiB/s)", rate * size / 1024.0),
                promise,
            );
        }
    }
}

/// Pods that nobody schedules.
pub fn memory(cluster: &mut Cluster) {
    let https = cluster.https();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench-memory"}});
    https.post("/api/v1/namespaces", namespace.to_string());
    let pid = cluster.process().pid();
    let before = measure::memory(pid);
    fill(&https, "/api/v1/namespaces/bench-memory/pods", 0, PODS, |number| {
        let spec =
            json!({"schedulerName": "nobody", "containers": [{"name": "c", "image": "example.com/app:1"}]});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}")}, "spec": spec})
            .to_string()
            .into_bytes()
    });
    let after = measure::memory(pid);
    row(
        &format!("memory of {PODS} Pods in the whole cluster's process"),
        &format!("{:.1} MiB more", (after.resident.saturating_sub(before.resident)) as f64 / 1024.0),
        "",
    );
}
