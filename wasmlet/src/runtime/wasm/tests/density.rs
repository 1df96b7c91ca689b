//! Figures, not checks: `cargo test -p coracle-wasmlet --lib density -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Node;
use crate::runtime::Runtime;

fn rss_anon_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn density() {
    const PODS: u32 = 600;
    let node = Node::sized(PODS + 8).await;
    println!("capacity: {}", node.runtime.capacity());
    for (name, env) in
        [("counter", Some(("INTERVAL_MS", "3600000"))), ("tcp-echo", None), ("hello-http", None)]
    {
        let image = node.sample(name);
        let begun = Instant::now();
        node.runtime.prepare(&image).await.unwrap();
        let compiled = begun.elapsed();
        node.runtime.forget(&image.wasm_digest);
        let begun = Instant::now();
        node.runtime.prepare(&image).await.unwrap();
        let mapped = begun.elapsed();
        let (rss, mut times, mut containers) = (rss_anon_kib(), Vec::new(), Vec::new());
        for _ in 0..PODS {
            let mut spec = node.quiet_spec(&image);
            if let Some((name, value)) = env {
                spec.env.push((name.into(), value.into()));
            }
            let begun = Instant::now();
            containers.push(node.start(spec).await);
            times.push(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let per_pod = (rss_anon_kib() - rss) / u64::from(PODS);
        let cpu = process_cpu();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let idle = process_cpu() - cpu;
        times.sort();
        println!(
            "{name}: compile {compiled:?}, map {mapped:?}, start p50 {:?} p99 {:?}, {per_pod} KiB a pod, \
             CPU of {PODS} idle pods in 2 s {idle:?}",
            times[times.len() / 2],
            times[times.len() * 99 / 100],
        );
        let begun = Instant::now();
        let stops = containers.iter().map(|container| {
            let container = Arc::clone(container);
            async move {
                container.kill();
                container.wait().await
            }
        });
        futures::future::join_all(stops).await;
        println!("  all dropped in {:?}", begun.elapsed());
    }
}

fn process_cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), (time.tv_usec().unsigned_abs() * 1000) as u32)
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}
