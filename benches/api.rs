//! The API under load over HTTPS: durable creates, lists of 2,000 objects, and how late 50 watchers hear of a write.
//!
//! With PEER_KUBECONFIG set to another API server's kubeconfig, the same load runs on that one too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::{Cluster, Https};
use measure::load::Kept;
use measure::{header, milliseconds, percentile, row};
use serde_json::json;

const CLIENTS: usize = 64;
const CREATING: Duration = Duration::from_secs(8);
const LISTERS: usize = 4;
const LISTED: usize = 2_000;
const LISTING: Duration = Duration::from_secs(5);
const WATCHERS: usize = 50;
const WRITES: usize = 500;
const WRITE_EVERY: Duration = Duration::from_millis(10);

fn main() {
    header("API");
    let cluster = Cluster::start();
    measure_server(&cluster.https(), "");
    drop(cluster);
    if let Some(peer) = std::env::var_os("PEER_KUBECONFIG") {
        measure_server(&Https::from_kubeconfig(Path::new(&peer)), ", peer");
    }
}

fn measure_server(https: &Https, who: &str) {
    for namespace in ["bench-creates", "bench-lists", "bench-watches"] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let made = https.post("/api/v1/namespaces", body.to_string());
        assert_eq!(made.status, 201, "{}", made.text());
    }
    watches(https, who);
    lists(https, who);
    creates(https, who);
    for namespace in ["bench-creates", "bench-lists", "bench-watches"] {
        https.request("DELETE", &format!("/api/v1/namespaces/{namespace}"), &[], b"");
    }
}

/// A ConfigMap of about half a kilobyte, the size of a small real one.
fn config_map(name: &str, stamp: u128) -> Vec<u8> {
    let data = json!({"stamp": stamp.to_string(), "settings": "x".repeat(300)});
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
        "labels": {"app": "bench", "tier": "load"}}, "data": data});
    body.to_string().into_bytes()
}

fn creates(https: &Https, who: &str) {
    let path = "/api/v1/namespaces/bench-creates/configmaps";
    let barrier = Barrier::new(CLIENTS);
    let latencies = Mutex::new(Vec::<Duration>::new());
    let span = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (barrier, latencies, span) = (&barrier, &latencies, &span);
            scope.spawn(move || {
                let mut connection = Kept::open(https);
                connection.exchange("GET", "/version", b"");
                let mut own = Vec::new();
                barrier.wait();
                let begun = Instant::now();
                while begun.elapsed() < CREATING {
                    let body = config_map(&format!("c{client}-{}", own.len()), 0);
                    let sent = Instant::now();
                    let answer = connection.exchange("POST", path, &body);
                    assert_eq!(answer.status, 201);
                    own.push(sent.elapsed());
                }
                let took = begun.elapsed();
                latencies.lock().unwrap().append(&mut own);
                let mut span = span.lock().unwrap();
                *span = took.max(*span);
            });
        }
    });
    let (mut latencies, span) = (latencies.into_inner().unwrap(), span.into_inner().unwrap());
    let rate = latencies.len() as f64 / span.as_secs_f64();
    row(
        &format!("durable creates, {CLIENTS} clients{who}"),
        &format!(
            "{rate:.0}/s (p50 {}, p99 {})",
            milliseconds(percentile(&mut latencies, 0.5)),
            milliseconds(percentile(&mut latencies, 0.99))
        ),
        "≥ 10,000/s",
    );
}

fn lists(https: &Https, who: &str) {
    let path = "/api/v1/namespaces/bench-lists/configmaps";
    std::thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                let mut connection = Kept::open(https);
                for number in (client..LISTED).step_by(8) {
                    let made = connection.exchange("POST", path, &config_map(&format!("l{number}"), 0));
                    assert_eq!(made.status, 201);
                }
            });
        }
    });
    for (how, query) in [("", ""), (", resourceVersion=0", "?resourceVersion=0")] {
        let (count, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..LISTERS {
                scope.spawn(|| {
                    let mut connection = Kept::open(https);
                    while begun.elapsed() < LISTING {
                        let answer = connection.exchange("GET", &format!("{path}{query}"), b"");
                        assert_eq!(answer.status, 200);
                        bytes.store(answer.body_bytes, Ordering::Relaxed);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let rate = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        let size = bytes.load(Ordering::Relaxed) as f64 / 1024.0;
        row(
            &format!("LIST {LISTED} ConfigMaps{how}, {LISTERS} clients{who}"),
            &format!("{rate:.0}/s of {size:.0} KiB ({:.0} MiB/s)", rate * size / 1024.0),
            "≥ 2,000/s",
        );
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

fn watches(https: &Https, who: &str) {
    let path = "/api/v1/namespaces/bench-watches/configmaps";
    let ready = Barrier::new(WATCHERS + 1);
    let late = Mutex::new(Vec::<Duration>::new());
    std::thread::scope(|scope| {
        for _ in 0..WATCHERS {
            scope.spawn(|| {
                let mut connection = Kept::open(https);
                connection.watch(&format!("{path}?watch=true"));
                ready.wait();
                let mut own = Vec::with_capacity(WRITES);
                while own.len() < WRITES {
                    let stamps = connection.chunk(|bytes| {
                        let seen = now();
                        let text = String::from_utf8_lossy(bytes);
                        let parts = text.split("\"stamp\":\"").skip(1);
                        let stamps = parts.filter_map(|rest| rest.split('"').next()?.parse::<u128>().ok());
                        stamps.map(|stamp| seen.saturating_sub(stamp)).collect::<Vec<_>>()
                    });
                    // A server that ends a watch early is seen in the count of the row.
                    let Some(stamps) = stamps else { break };
                    own.extend(stamps.iter().map(|nanoseconds| Duration::from_nanos(*nanoseconds as u64)));
                }
                late.lock().unwrap().append(&mut own);
            });
        }
        ready.wait();
        let mut connection = Kept::open(https);
        for number in 0..WRITES {
            let next = Instant::now() + WRITE_EVERY;
            let made = connection.exchange("POST", path, &config_map(&format!("w{number}"), now()));
            assert_eq!(made.status, 201);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    let mut late = late.into_inner().unwrap();
    let heard = late.len() as f64 / (WATCHERS * WRITES) as f64 * 100.0;
    row(
        &format!("write sent to event received, {WATCHERS} watchers, 100 writes/s{who}"),
        &format!(
            "p50 {}, p99 {}, worst {}; {heard:.0} % of the events came",
            milliseconds(percentile(&mut late, 0.5)),
            milliseconds(percentile(&mut late, 0.99)),
            milliseconds(percentile(&mut late, 1.0))
        ),
        "p99 ≤ 10 ms",
    );
}
