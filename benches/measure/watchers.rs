//! Many watchers and many writers at once: every watcher checks that it hears every write once and in order.
//!
//! A writer makes, changes and deletes one object over and over and numbers what it does; so each watcher can tell a
//! lost, doubled or misplaced event by the number alone.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::load::Kept;
use crate::harness::Https;

/// A watcher is a thread: a thousand of them must not take a thousand full stacks.
const STACK_BYTES: usize = 256 * 1024;
/// The object whose appearance ends a watch.
const LAST: &str = "zz-last";

pub struct Load {
    pub watchers: usize,
    pub writers: usize,
    pub lasting: Duration,
    /// Of one writer.
    pub write_every: Duration,
}

#[derive(Default)]
pub struct Outcome {
    pub writes: usize,
    pub events: usize,
    /// Watches that the server ended and that were taken up again where they were.
    pub resumed: usize,
    pub late: Vec<Duration>,
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn body(name: &str, number: u64, version: Option<&str>) -> Vec<u8> {
    let mut metadata = json!({"name": name});
    if let Some(version) = version {
        metadata["resourceVersion"] = json!(version);
    }
    let data = json!({"number": number.to_string(), "stamp": now().to_string(), "fill": "x".repeat(200)});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        .to_string()
        .into_bytes()
}

/// Runs the load in a namespace that is there, of which nothing else makes use; panics where an event is lost, doubled or misplaced.
pub fn run(https: &Https, namespace: &str, load: &Load) -> Outcome {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    // Every namespace gets this one from the root CA publisher; it must not come in between.
    crate::harness::eventually("kube-root-ca.crt", || {
        match https.get(&format!("{path}/kube-root-ca.crt")).status {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    });
    let start = https.get(&path).json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let ready = Barrier::new(load.watchers + load.writers);
    let (writes, resumed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        let thread = || std::thread::Builder::new().stack_size(STACK_BYTES);
        let (path, ready, start) = (&path, &ready, &start);
        for _ in 0..load.watchers {
            let (resumed, outcome) = (&resumed, &outcome);
            let watch = move || {
                let mut watcher = Watcher::default();
                let mut version = start.clone();
                let mut connection = Kept::open(https);
                connection.watch(&format!("{path}?watch=true&resourceVersion={version}"));
                ready.wait();
                while !watcher.take(&mut connection) {
                    resumed.fetch_add(1, Ordering::Relaxed);
                    version = watcher.version.to_string();
                    connection = Kept::open(https);
                    connection.watch(&format!("{path}?watch=true&resourceVersion={version}"));
                }
                let mut outcome = outcome.lock().unwrap();
                outcome.events += watcher.events;
                outcome.late.append(&mut watcher.late);
            };
            thread().spawn_scoped(scope, watch).unwrap();
        }
        let writers: Vec<_> = (0..load.writers)
            .map(|writer| {
                let writes = &writes;
                let write = move || {
                    let name = format!("writer-{writer}");
                    let mut connection = Kept::open(https);
                    ready.wait();
                    // Not all in the same instant.
                    std::thread::sleep(load.write_every * writer as u32 / load.writers as u32);
                    let begun = Instant::now();
                    let mut number = 0;
                    while begun.elapsed() < load.lasting {
                        let next = Instant::now() + load.write_every;
                        number += 1;
                        let own = format!("{path}/{name}");
                        let (status, wanted) = match number % 4 {
                            1 => (connection.exchange("POST", path, &body(&name, number, None)).status, 201),
                            0 => (connection.exchange("DELETE", &own, b"").status, 200),
                            _ => (connection.exchange("PUT", &own, &body(&name, number, None)).status, 200),
                        };
                        assert_eq!(status, wanted, "write {number} of {name}");
                        writes.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                };
                thread().spawn_scoped(scope, write).unwrap()
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(https.post(path, body(LAST, 0, None)).status, 201);
    });
    let mut outcome = outcome.into_inner().unwrap();
    outcome.writes = writes.into_inner();
    outcome.resumed = resumed.into_inner();
    assert_eq!(outcome.events, outcome.writes * load.watchers, "events that the watchers saw of all writes");
    outcome
}

/// What one watcher has heard so far.
#[derive(Default)]
struct Watcher {
    /// By object: the number of the last write heard of.
    numbers: HashMap<String, u64>,
    version: u64,
    events: usize,
    late: Vec<Duration>,
    rest: Vec<u8>,
}

impl Watcher {
    /// Takes in events until the last one (true) or until the server ends the watch (false).
    fn take(&mut self, connection: &mut Kept) -> bool {
        self.rest.clear();
        loop {
            let done = connection.chunk(|bytes| {
                let seen = now();
                self.rest.extend_from_slice(bytes);
                let rest = std::mem::take(&mut self.rest);
                let mut begin = 0;
                while let Some(length) = rest[begin..].iter().position(|byte| *byte == b'\n') {
                    if self.event(&rest[begin..begin + length], seen) {
                        return true;
                    }
                    begin += length + 1;
                }
                self.rest = rest[begin..].to_vec();
                false
            });
            match done {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
    }

    fn event(&mut self, line: &[u8], seen: u64) -> bool {
        let event: Value = serde_json::from_slice(line).unwrap();
        let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
        assert!(matches!(kind, "ADDED" | "MODIFIED" | "DELETED"), "{event}");
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
        let name = text(&object["metadata"]["name"]);
        let version: u64 = text(&object["metadata"]["resourceVersion"]).parse().unwrap();
        assert!(version > self.version, "{version} after {}: {event}", self.version);
        self.version = version;
        if name == LAST {
            return true;
        }
        let number: u64 = text(&object["data"]["number"]).parse().unwrap();
        let before = self.numbers.get(&name).copied().unwrap_or(0);
        // A deletion shows the object as it last was, and is itself a write.
        let number = if kind == "DELETED" { number + 1 } else { number };
        assert_eq!(number, before + 1, "{kind} of {name} at {version}");
        let wanted = match number % 4 {
            1 => "ADDED",
            0 => "DELETED",
            _ => "MODIFIED",
        };
        assert_eq!(kind, wanted, "{name} at {version}");
        self.numbers.insert(name, number);
        self.events += 1;
        if kind != "DELETED" {
            let stamp: u64 = text(&object["data"]["stamp"]).parse().unwrap();
            self.late.push(Duration::from_nanos(seen.saturating_sub(stamp)));
        }
        false
    }
}
