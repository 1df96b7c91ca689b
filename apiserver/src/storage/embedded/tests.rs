//! The embedded store on a real disk: the conformance suite, restarts, locks, and a process that is killed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    super::{Expected, Operation, Store, Write, conformance},
    *,
};

fn put(key: impl Into<String>, expected: Expected, value: impl Into<Bytes>) -> Write {
    Write { key: key.into(), expected, operation: Operation::Put { value: value.into(), ttl: None } }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    // Small segments: the suite runs through rolls and cleaning as well.
    let store = Arc::new(Embedded::open(directory.path(), Options { segment_bytes: 256 * 1024 }).unwrap());
    let writer = store.clone();
    let forget_history = move || {
        let store = writer.clone();
        Box::pin(async move {
            let value = Bytes::from(vec![0; 1024 * 1024]);
            let mut at = 0;
            for _ in 0..=watchers::HISTORY_BYTES_MAX / value.len() {
                match store.write(put("/filler", Expected::Revision(at), value.clone())).await.unwrap() {
                    Outcome::Written { revision } => at = revision,
                    other => panic!("{other:?}"),
                }
            }
        }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    conformance::run(conformance::Subject { store, forget_history: Box::new(forget_history) }).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.revision().await.unwrap(), 1, "as an empty etcd");
    for i in 0..50 {
        store.write(put(format!("/k/{i:02}"), Expected::Absent, format!("v{i}"))).await.unwrap();
    }
    let deleted = store.write(Write {
        key: "/k/07".into(),
        expected: Expected::Revision(9),
        operation: Operation::Delete,
    });
    assert_eq!(deleted.await.unwrap(), Outcome::Written { revision: 52 });
    let before = store.load("/").await.unwrap();
    store.close().await.unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.load("/").await.unwrap(), before);
    assert_eq!(store.revision().await.unwrap(), 52, "the delete counts though nothing of it is left");
    assert!(matches!(store.watch("/", 51).await, Err(Error::Compacted { oldest: 52, .. })));
}

#[tokio::test]
async fn a_time_to_live_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    for (key, ttl) in [("/soon", 800), ("/late", 3_600_000)] {
        let operation =
            Operation::Put { value: Bytes::from_static(b"v"), ttl: Some(Duration::from_millis(ttl)) };
        store.write(Write { key: key.into(), expected: Expected::Absent, operation }).await.unwrap();
    }
    store.close().await.unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.load("/").await.unwrap().entries.len(), 2);
    let mut watch = store.watch("/", store.revision().await.unwrap()).await.unwrap();
    let item = futures::StreamExt::next(&mut watch).await.unwrap().unwrap();
    let super::super::WatchItem::Changes(changes) = item else { panic!("{item:?}") };
    assert_eq!((changes.len(), &*changes[0].key, &changes[0].value), (1, "/soon", &None));
    assert!(store.get("/late").await.unwrap().0.is_some());
}

#[tokio::test]
async fn a_second_open_is_refused_and_works_after_the_close() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    let refused = Embedded::open(directory.path(), Options::default()).err().unwrap();
    assert!(matches!(&refused, Error::Locked { path } if path == directory.path()), "{refused}");
    assert!(refused.to_string().contains(&*directory.path().to_string_lossy()));
    store.close().await.unwrap();
    drop(Embedded::open(directory.path(), Options::default()).unwrap());
    drop(Embedded::open(directory.path(), Options::default()).unwrap());
}
