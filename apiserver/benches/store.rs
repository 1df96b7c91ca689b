//! Acknowledged (fsynced) writes per second of the embedded store: 2 KiB values, 10,000 keys, 1, 64 and 256 clients.
//!
//! `cargo bench -p coracle-apiserver --bench store`. Each client waits for its write before it sends the next.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails has nothing to clean up")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_apiserver::storage::{
    Expected, Operation, Outcome, Store, Write,
    embedded::{Embedded, Options},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 2 * 1024;

/// The revisions of one client's keys, kept from sample to sample so that no compare fails.
type Revisions = Vec<Option<u64>>;

/// `count` writes by all `clients` together.
async fn write(store: Arc<Embedded>, clients: &mut Vec<Revisions>, count: usize) -> Duration {
    let left = Arc::new(AtomicUsize::new(count));
    let value = Bytes::from((0..VALUE_BYTES).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>());
    let begun = Instant::now();
    let tasks: Vec<_> = std::mem::take(clients)
        .into_iter()
        .enumerate()
        .map(|(client, mut revisions)| {
            let (store, left, value) = (store.clone(), left.clone(), value.clone());
            tokio::spawn(async move {
                let mut turn = 0;
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let index = turn % revisions.len();
                    turn += 1;
                    let key = format!("/registry/pods/ns-{client}/pod-{index}");
                    let operation = Operation::Put { value: value.clone(), ttl: None };
                    let expected = revisions[index].map_or(Expected::Absent, Expected::Revision);
                    match store.write(Write { key, expected, operation }).await.unwrap() {
                        Outcome::Written { revision } => revisions[index] = Some(revision),
                        conflict => panic!("{conflict:?}"),
                    }
                }
                revisions
            })
        })
        .collect();
    for task in tasks {
        clients.push(task.await.unwrap());
    }
    begun.elapsed()
}

fn acknowledged_writes(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("embedded store, acknowledged writes");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(5));
    for clients in [1, 64, 256] {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(directory.path(), Options::default()).unwrap());
        let mut revisions: Vec<Revisions> = vec![vec![None; KEYS / clients]; clients];
        group.bench_function(BenchmarkId::from_parameter(clients), |bencher| {
            bencher
                .iter_custom(|count| runtime.block_on(write(store.clone(), &mut revisions, count as usize)));
        });
    }
    group.finish();
}

criterion_group!(benches, acknowledged_writes);
criterion_main!(benches);
