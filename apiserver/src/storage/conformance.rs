//! One suite of what every store promises, run over both engines.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};

use super::{
    Change, Error, Expected, Operation, Outcome, Store, VALUE_BYTES_MAX, WatchItem, WatchStream, Write,
};

type Done<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A running engine, and how to make it forget its history before the present revision.
pub struct Subject {
    pub store: Arc<dyn Store>,
    pub forget_history: Box<dyn Fn() -> Done<'static> + Send + Sync>,
}

/// Every case works under its own prefix, so that one store serves all of them.
pub async fn run(subject: Subject) {
    type Case = for<'a> fn(&'a Subject, &'a str) -> Done<'a>;
    macro_rules! cases {
        ($($name:ident),* $(,)?) => { [$((stringify!($name), (|s, p| Box::pin($name(s, p))) as Case)),*] };
    }
    let cases = cases![
        create_get_update_delete,
        compares_are_exact,
        revisions_grow_by_one,
        deleting_what_is_absent_is_a_conflict,
        a_prefix_ends_at_its_slash,
        load_is_sorted_and_whole,
        load_is_consistent_under_writes,
        empty_and_binary_values,
        big_values,
        too_large_is_refused,
        watch_reports_every_change_in_order,
        watch_resumes_after_a_revision,
        watch_sees_nothing_of_other_prefixes,
        nothing_is_lost_between_load_and_watch,
        watch_never_splits_or_reorders_under_concurrency,
        one_writer_wins_each_race,
        many_writers,
        progress_says_what_was_delivered,
        a_time_to_live_ends,
        a_later_put_ends_the_time_to_live,
        history_that_is_gone_says_so,
        healthy_and_sized,
    ];
    for (name, case) in cases {
        let prefix = format!("/registry/{name}/");
        let limit = tokio::time::timeout(Duration::from_secs(60), case(&subject, &prefix));
        assert!(limit.await.is_ok(), "case {name} did not end");
    }
    subject.store.close().await.unwrap();
    assert!(matches!(subject.store.revision().await, Err(Error::Closed)));
    assert!(matches!(subject.store.load("/").await, Err(Error::Closed)));
    assert!(matches!(subject.store.healthy().await, Err(Error::Closed)));
}

fn put(key: impl Into<String>, expected: Expected, value: impl Into<Bytes>) -> Write {
    Write { key: key.into(), expected, operation: Operation::Put { value: value.into(), ttl: None } }
}

fn delete(key: impl Into<String>, expected: Expected) -> Write {
    Write { key: key.into(), expected, operation: Operation::Delete }
}

async fn written(subject: &Subject, write: Write) -> u64 {
    let shown = format!("{} {:?}", write.key, write.expected);
    match subject.store.write(write).await {
        Ok(Outcome::Written { revision }) => revision,
        other => panic!("{shown}: {other:?}"),
    }
}

/// The value and revision that a write collided with.
async fn conflict(subject: &Subject, write: Write) -> Option<(Bytes, u64)> {
    let key = write.key.clone();
    match subject.store.write(write).await {
        Ok(Outcome::Conflict { current }) => current.map(|e| {
            assert_eq!(&*e.key, key);
            (e.value, e.revision)
        }),
        other => panic!("{key}: {other:?}"),
    }
}

/// Reads changes until `count` have come.
async fn changes(stream: &mut WatchStream, count: usize) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    while all.len() < count {
        match stream.next().await {
            Some(Ok(WatchItem::Changes(some))) => {
                assert!(!some.is_empty());
                all.extend(some);
            }
            Some(Ok(WatchItem::Progress(_))) => {}
            other => panic!("after {} of {count} changes: {other:?}", all.len()),
        }
    }
    all
}

fn shape(changes: &[Change]) -> Vec<(&str, u64, Option<&[u8]>)> {
    changes.iter().map(|c| (&*c.key, c.revision, c.value.as_deref())).collect()
}

async fn create_get_update_delete(s: &Subject, p: &str) {
    let key = format!("{p}ns/a");
    assert_eq!(s.store.get(&key).await.unwrap().0, None);
    let created = written(s, put(&key, Expected::Absent, "1")).await;
    let (entry, at) = s.store.get(&key).await.unwrap();
    let entry = entry.unwrap();
    assert_eq!((&*entry.key, &entry.value[..], entry.revision), (key.as_str(), &b"1"[..], created));
    assert!(at >= created);
    let updated = written(s, put(&key, Expected::Revision(created), "2")).await;
    assert!(updated > created);
    assert_eq!(s.store.get(&key).await.unwrap().0.unwrap().value, "2");
    let deleted = written(s, delete(&key, Expected::Revision(updated))).await;
    assert!(deleted > updated);
    let (entry, at) = s.store.get(&key).await.unwrap();
    assert_eq!(entry, None);
    assert!(at >= deleted);
    let again = written(s, put(&key, Expected::Absent, "3")).await;
    assert!(again > deleted);
}

async fn compares_are_exact(s: &Subject, p: &str) {
    let key = format!("{p}a");
    assert_eq!(conflict(s, put(&key, Expected::Revision(1), "x")).await, None);
    let first = written(s, put(&key, Expected::Revision(0), "1")).await;
    assert_eq!(conflict(s, put(&key, Expected::Absent, "x")).await, Some(("1".into(), first)));
    assert_eq!(conflict(s, put(&key, Expected::Revision(0), "x")).await, Some(("1".into(), first)));
    let second = written(s, put(&key, Expected::Revision(first), "2")).await;
    for stale in [first, second + 1, u64::from(u32::MAX)] {
        let current = Some(("2".into(), second));
        assert_eq!(conflict(s, put(&key, Expected::Revision(stale), "x")).await, current);
        assert_eq!(conflict(s, delete(&key, Expected::Revision(stale))).await, current);
    }
    assert_eq!(s.store.get(&key).await.unwrap().0.unwrap().revision, second);
}

async fn revisions_grow_by_one(s: &Subject, p: &str) {
    let start = s.store.revision().await.unwrap();
    assert!(start >= 1);
    let a = written(s, put(format!("{p}a"), Expected::Absent, "1")).await;
    assert_eq!(a, start + 1);
    let b = written(s, put(format!("{p}b"), Expected::Absent, "1")).await;
    assert_eq!(b, start + 2);
    conflict(s, put(format!("{p}b"), Expected::Absent, "2")).await;
    assert_eq!(s.store.revision().await.unwrap(), b, "a conflict writes nothing");
    assert_eq!(written(s, delete(format!("{p}a"), Expected::Revision(a))).await, start + 3);
    assert_eq!(s.store.revision().await.unwrap(), start + 3);
    assert_eq!(s.store.load(p).await.unwrap().revision, start + 3);
}

async fn deleting_what_is_absent_is_a_conflict(s: &Subject, p: &str) {
    let before = s.store.revision().await.unwrap();
    assert_eq!(conflict(s, delete(format!("{p}a"), Expected::Revision(1))).await, None);
    assert_eq!(conflict(s, delete(format!("{p}a"), Expected::Absent)).await, None);
    assert_eq!(s.store.revision().await.unwrap(), before);
    let there = written(s, put(format!("{p}a"), Expected::Absent, "1")).await;
    assert_eq!(conflict(s, delete(format!("{p}a"), Expected::Absent)).await, Some(("1".into(), there)));
}

async fn a_prefix_ends_at_its_slash(s: &Subject, p: &str) {
    for name in ["pods/a/x", "pods/b/x", "podsx/a/x", "pod/a", "pods", "pods0"] {
        written(s, put(format!("{p}{name}"), Expected::Absent, name.to_owned())).await;
    }
    let keys = |snapshot: super::Snapshot| -> Vec<String> {
        snapshot.entries.iter().map(|e| e.key.strip_prefix(p).unwrap().to_owned()).collect()
    };
    assert_eq!(keys(s.store.load(&format!("{p}pods/")).await.unwrap()), ["pods/a/x", "pods/b/x"]);
    assert_eq!(keys(s.store.load(&format!("{p}pods/a/")).await.unwrap()), ["pods/a/x"]);
    assert_eq!(keys(s.store.load(&format!("{p}podsx/")).await.unwrap()), ["podsx/a/x"]);
    assert_eq!(keys(s.store.load(&format!("{p}none/")).await.unwrap()), Vec::<String>::new());
    assert_eq!(keys(s.store.load(p).await.unwrap()).len(), 6);
}

async fn load_is_sorted_and_whole(s: &Subject, p: &str) {
    // More than two pages of any engine, and some bytes each.
    let count = 1_234;
    let writes = (0..count).map(|i| {
        let i = i * 7_919 % count;
        s.store.write(put(format!("{p}ns/{i:05}"), Expected::Absent, vec![b'v'; i % 300]))
    });
    for outcome in join_all(writes).await {
        assert!(matches!(outcome, Ok(Outcome::Written { .. })), "{outcome:?}");
    }
    let snapshot = s.store.load(p).await.unwrap();
    assert_eq!(snapshot.entries.len(), count);
    assert!(snapshot.entries.windows(2).all(|w| w[0].key < w[1].key));
    assert!(snapshot.entries.iter().enumerate().all(|(i, e)| e.value.len() == i % 300));
    assert!(snapshot.entries.iter().all(|e| e.revision <= snapshot.revision));
}

async fn load_is_consistent_under_writes(s: &Subject, p: &str) {
    // Two keys that are written in turn: at every revision `a` is at most one ahead of `b`.
    let (a, b) = (format!("{p}a"), format!("{p}b"));
    let (mut at_a, mut at_b) = (0, 0);
    let writer = async {
        for round in 0..100u32 {
            at_a = written(s, put(&a, Expected::Revision(at_a), round.to_string())).await;
            at_b = written(s, put(&b, Expected::Revision(at_b), round.to_string())).await;
        }
    };
    let reader = async {
        for _ in 0..100 {
            let snapshot = s.store.load(p).await.unwrap();
            let values: Vec<i64> = snapshot
                .entries
                .iter()
                .map(|e| std::str::from_utf8(&e.value).unwrap().parse().unwrap())
                .collect();
            match values[..] {
                [] | [0] => {}
                [a, b] => assert!(a == b || a == b + 1, "{a} {b}"),
                _ => panic!("{values:?}"),
            }
        }
    };
    tokio::join!(writer, reader);
}

async fn empty_and_binary_values(s: &Subject, p: &str) {
    let all_bytes: Vec<u8> = (0..=255).collect();
    written(s, put(format!("{p}binary"), Expected::Absent, all_bytes.clone())).await;
    written(s, put(format!("{p}empty"), Expected::Absent, "")).await;
    written(s, put(format!("{p}ünïcödé:name"), Expected::Absent, "u")).await;
    let snapshot = s.store.load(p).await.unwrap();
    let values: Vec<&[u8]> = snapshot.entries.iter().map(|e| &e.value[..]).collect();
    assert_eq!(values, [&all_bytes[..], b"", b"u"]);
}

async fn big_values(s: &Subject, p: &str) {
    let value = Bytes::from((0..3 * 1024 * 1024 + 1000).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let start = s.store.revision().await.unwrap();
    let mut watch = s.store.watch(p, start).await.unwrap();
    let revision = written(s, put(format!("{p}big"), Expected::Absent, value.clone())).await;
    assert_eq!(s.store.get(&format!("{p}big")).await.unwrap().0.unwrap().value, value);
    assert_eq!(s.store.load(p).await.unwrap().entries[0].value, value);
    assert_eq!(changes(&mut watch, 1).await[0].value, Some(value));
    written(s, delete(format!("{p}big"), Expected::Revision(revision))).await;
}

async fn too_large_is_refused(s: &Subject, p: &str) {
    let write = put(format!("{p}a"), Expected::Absent, vec![0; VALUE_BYTES_MAX + 1]);
    assert!(matches!(s.store.write(write).await, Err(Error::TooLarge { what: "value", .. })));
    let write = put(format!("{p}{}", "k".repeat(5_000)), Expected::Absent, "");
    assert!(matches!(s.store.write(write).await, Err(Error::TooLarge { what: "key", .. })));
    s.store.healthy().await.unwrap();
}

async fn watch_reports_every_change_in_order(s: &Subject, p: &str) {
    let start = s.store.revision().await.unwrap();
    let mut watch = s.store.watch(p, start).await.unwrap();
    let (a, b) = (format!("{p}a"), format!("{p}b"));
    let r1 = written(s, put(&a, Expected::Absent, "1")).await;
    let r2 = written(s, put(&b, Expected::Absent, "2")).await;
    let r3 = written(s, put(&a, Expected::Revision(r1), "3")).await;
    let r4 = written(s, delete(&a, Expected::Revision(r3))).await;
    let r5 = written(s, put(&a, Expected::Absent, "5")).await;
    let seen = changes(&mut watch, 5).await;
    assert_eq!(
        shape(&seen),
        [
            (a.as_str(), r1, Some(&b"1"[..])),
            (&b, r2, Some(b"2")),
            (&a, r3, Some(b"3")),
            (&a, r4, None),
            (&a, r5, Some(b"5")),
        ]
    );
}

async fn watch_resumes_after_a_revision(s: &Subject, p: &str) {
    let mut revisions = Vec::new();
    for i in 0..10 {
        revisions.push(written(s, put(format!("{p}{i}"), Expected::Absent, i.to_string())).await);
    }
    for (i, after) in revisions.iter().enumerate().take(9) {
        let mut watch = s.store.watch(p, *after).await.unwrap();
        let seen = changes(&mut watch, 9 - i).await;
        assert_eq!(seen.iter().map(|c| c.revision).collect::<Vec<_>>(), revisions[i + 1..]);
    }
}

async fn watch_sees_nothing_of_other_prefixes(s: &Subject, p: &str) {
    let start = s.store.revision().await.unwrap();
    let mut watch = s.store.watch(&format!("{p}pods/"), start).await.unwrap();
    for name in ["podsx/a", "pods", "pod/a", "services/a"] {
        written(s, put(format!("{p}{name}"), Expected::Absent, "no")).await;
    }
    let mine = written(s, put(format!("{p}pods/a"), Expected::Absent, "yes")).await;
    let seen = changes(&mut watch, 1).await;
    assert_eq!(shape(&seen), [(format!("{p}pods/a").as_str(), mine, Some(&b"yes"[..]))]);
}

async fn nothing_is_lost_between_load_and_watch(s: &Subject, p: &str) {
    let total = 400;
    let writer = async {
        for i in 0..total {
            written(s, put(format!("{p}{i:04}"), Expected::Absent, "v")).await;
        }
    };
    let reader = async {
        for _ in 0..8 {
            let snapshot = s.store.load(p).await.unwrap();
            let mut keys: Vec<Arc<str>> = snapshot.entries.into_iter().map(|e| e.key).collect();
            tokio::time::sleep(Duration::from_millis(3)).await;
            let mut watch = s.store.watch(p, snapshot.revision).await.unwrap();
            let rest = changes(&mut watch, total - keys.len()).await;
            keys.extend(rest.into_iter().map(|c| c.key));
            let expected: Vec<String> = (0..total).map(|i| format!("{p}{i:04}")).collect();
            assert_eq!(keys.iter().map(|k| k.to_string()).collect::<Vec<_>>(), expected);
        }
    };
    tokio::join!(writer, reader);
}

async fn watch_never_splits_or_reorders_under_concurrency(s: &Subject, p: &str) {
    let start = s.store.revision().await.unwrap();
    let (clients, rounds) = (32, 20);
    let writers = join_all((0..clients).map(|client| async move {
        let key = format!("{p}{client}");
        let mut at = 0;
        let mut all = Vec::new();
        for _ in 0..rounds {
            at = written(s, put(&key, Expected::Revision(at), "v")).await;
            all.push((at, key.clone()));
        }
        all
    }));
    let watchers = join_all((0..4).map(|_| async {
        let mut watch = s.store.watch(p, start).await.unwrap();
        changes(&mut watch, clients * rounds).await
    }));
    let (acknowledged, seen) = tokio::join!(writers, watchers);
    let acknowledged: BTreeMap<u64, String> = acknowledged.into_iter().flatten().collect();
    assert_eq!(acknowledged.len(), clients * rounds);
    for changes in seen {
        assert!(changes.windows(2).all(|w| w[0].revision < w[1].revision));
        let seen: BTreeMap<u64, String> =
            changes.into_iter().map(|c| (c.revision, c.key.to_string())).collect();
        assert_eq!(seen, acknowledged);
    }
}

async fn one_writer_wins_each_race(s: &Subject, p: &str) {
    let key = format!("{p}contended");
    let mut at = 0;
    for round in 0..20 {
        let write = |i: usize| s.store.write(put(&key, Expected::Revision(at), format!("{round} {i}")));
        let outcomes = join_all((0..16).map(write)).await;
        let mut won = Vec::new();
        for (i, outcome) in outcomes.into_iter().enumerate() {
            match outcome.unwrap() {
                Outcome::Written { revision } => won.push((i, revision)),
                Outcome::Conflict { current } => assert!(current.unwrap().revision > at),
            }
        }
        let [(i, revision)] = won[..] else { panic!("{won:?}") };
        let entry = s.store.get(&key).await.unwrap().0.unwrap();
        assert_eq!((entry.revision, entry.value), (revision, Bytes::from(format!("{round} {i}"))));
        at = revision;
    }
}

async fn many_writers(s: &Subject, p: &str) {
    let before = s.store.revision().await.unwrap();
    let clients = join_all((0..256).map(|client| {
        let (store, key) = (s.store.clone(), format!("{p}ns/{client:03}"));
        tokio::spawn(async move {
            let mut at = 0;
            for round in 0..5 {
                let write = put(&key, Expected::Revision(at), format!("{client} {round}"));
                match store.write(write).await {
                    Ok(Outcome::Written { revision }) => at = revision,
                    other => panic!("{key}: {other:?}"),
                }
            }
            at
        })
    }));
    let revisions: Vec<u64> = clients.await.into_iter().map(Result::unwrap).collect();
    let snapshot = s.store.load(p).await.unwrap();
    assert_eq!(snapshot.revision, before + 256 * 5);
    assert_eq!(snapshot.entries.iter().map(|e| e.revision).collect::<Vec<_>>(), revisions);
}

async fn progress_says_what_was_delivered(s: &Subject, p: &str) {
    let start = s.store.revision().await.unwrap();
    let mut watch = s.store.watch(&format!("{p}mine/"), start).await.unwrap();
    let mine = written(s, put(format!("{p}mine/a"), Expected::Absent, "1")).await;
    let other = written(s, put(format!("{p}other/a"), Expected::Absent, "1")).await;
    s.store.request_progress().await.unwrap();
    let mut seen = 0;
    loop {
        match watch.next().await {
            Some(Ok(WatchItem::Changes(changes))) => seen = changes.last().unwrap().revision,
            Some(Ok(WatchItem::Progress(revision))) => {
                assert!(revision < mine || seen == mine, "progress before the change it covers");
                if revision >= other {
                    break;
                }
                // An engine may answer for a moment before the last write; ask again.
                s.store.request_progress().await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, mine);
}

async fn a_time_to_live_ends(s: &Subject, p: &str) {
    let start = s.store.revision().await.unwrap();
    let mut watch = s.store.watch(p, start).await.unwrap();
    let ttl = Some(Duration::from_secs(1));
    let key = format!("{p}short");
    let write = Write {
        key: key.clone(),
        expected: Expected::Absent,
        operation: Operation::Put { value: "v".into(), ttl },
    };
    let put_at = written(s, write).await;
    let begun = tokio::time::Instant::now();
    written(s, put(format!("{p}stays"), Expected::Absent, "v")).await;
    assert!(s.store.get(&key).await.unwrap().0.is_some());
    let seen = changes(&mut watch, 3).await;
    assert!(begun.elapsed() > Duration::from_millis(900), "too early");
    assert_eq!((&*seen[2].key, seen[2].value.as_ref()), (key.as_str(), None));
    assert!(seen[2].revision > put_at);
    assert_eq!(s.store.get(&key).await.unwrap().0, None);
    assert_eq!(s.store.load(p).await.unwrap().entries.len(), 1);
}

async fn a_later_put_ends_the_time_to_live(s: &Subject, p: &str) {
    let ttl = Some(Duration::from_millis(1_000));
    let short = |key: String, expected, ttl| Write {
        key,
        expected,
        operation: Operation::Put { value: "v".into(), ttl },
    };
    let (kept, marker) = (format!("{p}kept"), format!("{p}marker"));
    let start = s.store.revision().await.unwrap();
    let mut watch = s.store.watch(p, start).await.unwrap();
    let first = written(s, short(kept.clone(), Expected::Absent, ttl)).await;
    written(s, short(kept.clone(), Expected::Revision(first), None)).await;
    // The marker has the later deadline: once it is gone, the first one has passed.
    written(s, short(marker.clone(), Expected::Absent, Some(Duration::from_millis(2_000)))).await;
    let seen = changes(&mut watch, 4).await;
    assert_eq!((&*seen[3].key, seen[3].value.as_ref()), (marker.as_str(), None));
    assert!(s.store.get(&kept).await.unwrap().0.is_some());
}

async fn history_that_is_gone_says_so(s: &Subject, p: &str) {
    let old = written(s, put(format!("{p}a"), Expected::Absent, "1")).await;
    let newer = written(s, put(format!("{p}a"), Expected::Revision(old), "2")).await;
    let mut open = s.store.watch(p, newer).await.unwrap();
    (s.forget_history)().await;
    // Refused at once or by the first item, whichever the engine can tell.
    let refused = match s.store.watch(p, old - 1).await {
        Err(error) => error,
        Ok(mut stream) => match stream.next().await {
            Some(Err(error)) => error,
            other => panic!("{other:?}"),
        },
    };
    let Error::Compacted { requested, oldest } = refused else { panic!("{refused:?}") };
    assert_eq!(requested, old - 1);
    assert!(oldest > old - 1, "{oldest}");
    let now = s.store.load(p).await.unwrap().revision;
    let mut watch = s.store.watch(p, now).await.unwrap();
    let next = written(s, put(format!("{p}a"), Expected::Revision(newer), "3")).await;
    assert_eq!(changes(&mut watch, 1).await[0].revision, next);
    assert_eq!(changes(&mut open, 1).await[0].revision, next, "an open watch outlives the compaction");
}

async fn healthy_and_sized(s: &Subject, _: &str) {
    s.store.healthy().await.unwrap();
    if let Some(bytes) = s.store.size_bytes() {
        assert!(bytes > 0);
    }
}
