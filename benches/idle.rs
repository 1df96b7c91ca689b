//! What a whole cluster in one process costs while nobody uses it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::time::Duration;

use harness::Cluster;
use measure::{device_writes, header, memory, processor_time, row};

const SETTLING: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(60);

fn main() {
    header("Idle");
    let mut cluster = Cluster::start();
    measure_idle(&mut cluster, "no pods");
    cluster.import_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    measure_idle(&mut cluster, "two hello-http pods, probed each second");
}

fn measure_idle(cluster: &mut Cluster, what: &str) {
    let pid = cluster.process().pid();
    std::thread::sleep(SETTLING);
    let (before, written_before) = (processor_time(pid), device_writes(pid));
    std::thread::sleep(WATCHED);
    let used = processor_time(pid) - before;
    let written = device_writes(pid) - written_before;
    let memory = memory(pid);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    row(
        &format!("idle memory, {what}"),
        &format!(
            "RSS {} (anonymous {}, PSS {})",
            mib(memory.resident),
            mib(memory.anonymous),
            mib(memory.proportional)
        ),
        "≤ 60 MiB RSS",
    );
    row(
        &format!("idle processor over {} s, {what}", WATCHED.as_secs()),
        &format!("{:.2} % of a core", used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0),
        "≤ 0.5 %",
    );
    row(
        &format!("device writes in {} s, {what}", WATCHED.as_secs()),
        &format!("{:.0} KiB", written as f64 / 1024.0),
        "",
    );
}
