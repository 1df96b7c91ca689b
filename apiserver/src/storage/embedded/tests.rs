//! The embedded store on a real disk: the conformance suite, restarts, locks, and a process that is killed.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write as _},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

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

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // The last two are read-only even to root.
    for path in [file.path().join("store"), "/proc/coracle-store".into(), "/proc".into()] {
        let refused = Embedded::open(&path, Options::default()).err().unwrap();
        assert!(matches!(refused, Error::Io { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&*path.to_string_lossy()), "{refused}");
    }
}

#[tokio::test]
async fn damage_on_a_real_disk_stops_the_open_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    for i in 0..200 {
        store.write(put(format!("/k/{i}"), Expected::Absent, vec![b'v'; 500])).await.unwrap();
    }
    store.close().await.unwrap();
    let path = directory.path().join("00000000000000000001.log");
    let whole = std::fs::read(&path).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("a zeroed page", |b| b[8_192..12_288].fill(0)),
        ("a cut tail", |b| b.truncate(b.len() - 4_000)),
        ("a flipped bit in the last write", |b| {
            let last = b.len() - 4_000;
            b[last] ^= 1;
        }),
        ("an empty file", Vec::clear),
    ];
    for (what, damage) in damages {
        let mut damaged = whole.clone();
        damage(&mut damaged);
        std::fs::write(&path, &damaged).unwrap();
        let refused = Embedded::open(directory.path(), Options::default()).err().expect(what);
        assert!(
            matches!(&refused, Error::Corrupt { path: named, .. } if *named == path),
            "{what}: {refused}"
        );
        assert!(!refused.to_string().contains('\n'), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "{what}: the evidence must stay");
    }
    std::fs::write(&path, &whole).unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.load("/").await.unwrap().entries.len(), 200);
}

#[tokio::test]
async fn damage_under_a_running_store_is_noticed_by_the_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    store.write(put("/k", Expected::Absent, vec![b'v'; 5_000])).await.unwrap();
    let path = directory.path().join("00000000000000000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = store.get("/k").await.err().unwrap();
    assert!(matches!(&refused, Error::Corrupt { path: named, .. } if *named == path), "{refused}");
}

#[tokio::test]
async fn a_queue_that_is_full_sheds() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    let value = Bytes::from(vec![0; 4 * 1024 * 1024]);
    let writes = (0..40).map(|i| store.write(put(format!("/k/{i}"), Expected::Absent, value.clone())));
    let outcomes = futures::future::join_all(writes).await;
    let (written, shed): (Vec<_>, Vec<_>) = outcomes.iter().partition(|o| o.is_ok());
    assert!(!written.is_empty() && !shed.is_empty(), "{} written", written.len());
    assert!(shed.iter().all(|o| matches!(o, Err(Error::Overloaded { queued }) if *queued > 0)));
    assert!(matches!(store.write(put("/later", Expected::Absent, "v")).await, Ok(Outcome::Written { .. })));
    assert_eq!(store.load("/k/").await.unwrap().entries.len(), written.len());
}

const CHILD: &str = "CORACLE_STORE_KILL_TEST";
const CHILD_CLIENTS: usize = 16;

/// Not a test of its own: what the process that gets killed does. Prints a line for every acknowledged write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_of_the_kill_test() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let store =
        Arc::new(Embedded::open(Path::new(&directory), Options { segment_bytes: 128 * 1024 }).unwrap());
    let clients = (0..CHILD_CLIENTS).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            let key = format!("/k/{client}");
            let (entry, _) = store.get(&key).await.unwrap();
            let (mut at, mut round) = entry.map_or((0, 0), |e| (e.revision, round_of(&e.value)));
            loop {
                round += 1;
                let value = format!("{round} {}", "x".repeat(round * 37 % 3_000));
                match store.write(put(&key, Expected::Revision(at), value)).await.unwrap() {
                    Outcome::Written { revision } => at = revision,
                    other => panic!("{other:?}"),
                }
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {client} {round} {at}").unwrap();
                out.flush().unwrap();
            }
        })
    });
    futures::future::join_all(clients).await;
}

fn round_of(value: &[u8]) -> usize {
    std::str::from_utf8(value).unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
    let (_, module) = module_path!().split_once("::").unwrap();
    for life in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                &format!("{module}::child_of_the_kill_test"),
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut count = 0;
        for line in lines {
            // The test harness may print its own words in front of the first.
            let Some((_, numbers)) = line.split_once("acknowledged ") else { continue };
            let numbers: Vec<u64> = numbers.split(' ').filter_map(|n| n.parse().ok()).collect();
            let [client, round, revision] = numbers[..] else { continue };
            acknowledged.insert(client as usize, (round as usize, revision));
            count += 1;
            if count == 300 + life * 130 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= 300, "life {life}: only {count} writes");
        let store = Embedded::open(directory.path(), Options { segment_bytes: 128 * 1024 }).unwrap();
        let snapshot = store.load("/").await.unwrap();
        assert_eq!(snapshot.entries.len(), acknowledged.len());
        for entry in snapshot.entries {
            let client: usize = entry.key.strip_prefix("/k/").unwrap().parse().unwrap();
            let (round, revision) = acknowledged[&client];
            let found = round_of(&entry.value);
            // The one write that was on its way may be there as well, and nothing else.
            assert!(
                found == round || found == round + 1,
                "life {life} client {client}: {found} after {round}"
            );
            assert!(entry.revision >= revision && entry.revision <= snapshot.revision);
            acknowledged.insert(client, (found, entry.revision));
        }
        store.close().await.unwrap();
    }
}
