//! 1,000 watchers and 64 writers for a minute over HTTPS: nothing lost, doubled or out of order; lateness and memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::time::Duration;

use harness::Cluster;
use measure::watchers::{Load, run};
use measure::{header, memory, milliseconds, percentile, processor_time, row};
use serde_json::json;

const LOAD: Load = Load {
    watchers: 1_000,
    writers: 64,
    lasting: Duration::from_secs(60),
    write_every: Duration::from_millis(2_000),
};

fn main() {
    header("Watchers");
    let mut cluster = Cluster::start();
    let https = cluster.https();
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    assert_eq!(https.post("/api/v1/namespaces", body.to_string()).status, 201);
    let pid = cluster.process().pid();
    let before = (memory(pid), processor_time(pid));
    let mut outcome = run(&https, "bench", &LOAD);
    let after = (memory(pid), processor_time(pid));
    row(
        &format!("{} watchers, {} writers, {} s", LOAD.watchers, LOAD.writers, LOAD.lasting.as_secs()),
        &format!(
            "{} writes, {} events, none lost, doubled or out of order; {} watches ended early and were resumed",
            outcome.writes, outcome.events, outcome.resumed
        ),
        "no event lost",
    );
    row(
        "write sent to event received",
        &format!(
            "p50 {}, p99 {}, worst {}",
            milliseconds(percentile(&mut outcome.late, 0.5)),
            milliseconds(percentile(&mut outcome.late, 0.99)),
            milliseconds(percentile(&mut outcome.late, 1.0))
        ),
        "",
    );
    let grown = after.0.resident.saturating_sub(before.0.resident);
    row(
        "memory while they watch",
        &format!(
            "{:.1} MiB more than before, {} KiB a watcher",
            grown as f64 / 1024.0,
            grown / LOAD.watchers as u64
        ),
        "bounded",
    );
    let spent = (after.1 - before.1).as_secs_f64();
    row(
        "processor time of the server",
        &format!("{:.1} µs an event", spent * 1e6 / outcome.events as f64),
        "",
    );
}
