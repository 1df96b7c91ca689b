//! Every write of a simulation as it happens: what must never be, and a digest by which two runs are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use crate::bindings::Bindings;
use crate::clock;
use crate::evictions::Evictions;

#[derive(Default)]
pub struct History {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    digest: Digest,
    revision: u64,
    /// Pod uid to the node it was bound to.
    bound: BTreeMap<String, String>,
    /// What the last write left: key to uid.
    alive: BTreeMap<String, String>,
    /// Uids that are gone for good.
    gone: BTreeSet<String>,
    evictions: Evictions,
    bindings: Bindings,
    violations: Vec<String>,
    /// When which resource was last written, heartbeats aside.
    last_change: (i64, String),
    trace: bool,
}

/// FNV-1a, which is the same on every machine.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl History {
    /// Prints every write.
    pub fn print(&self) {
        self.state.lock().trace = true;
    }

    pub fn see(&self, key: &str, value: Option<&Bytes>, revision: u64) {
        let mut state = self.state.lock();
        let now = clock::elapsed();
        state.digest.write(key.as_bytes());
        state.digest.write_u64(revision);
        state.digest.write_i64(now);
        state.digest.write(value.map_or(&[], |v| v));
        state.revision = revision;
        if state.trace {
            let text = value.map_or("deleted".into(), |v| String::from_utf8_lossy(v).into_owned());
            println!("{:>12.3} {revision} {key} {text}", now as f64 / 1e9);
        }
        let heartbeat = ["/leases.", "/events", "/nodes/"].iter().any(|part| key.contains(part));
        if !heartbeat {
            state.last_change = (now, key.to_owned());
        }
        let Some(value) = value else {
            if let Some(uid) = state.alive.remove(key) {
                state.gone.insert(uid);
            }
            return;
        };
        let Ok(object) = serde_json::from_slice::<Value>(value) else {
            state.violations.push(format!("{key} holds no JSON at revision {revision}"));
            return;
        };
        if let Some(early) = state.evictions.see(key, &object) {
            state.violations.push(early);
        }
        if let Some(twice) = state.bindings.see(key, &object) {
            state.violations.push(twice);
        }
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if !uid.is_empty() && state.gone.contains(&uid) {
            state.violations.push(format!("{key} came back with the uid {uid} at revision {revision}"));
        }
        if let Some(before) = state.alive.insert(key.to_owned(), uid.clone())
            && before != uid
        {
            state.violations.push(format!("{key} changed its uid at revision {revision}"));
        }
        if let Some(node) = object["spec"]["nodeName"].as_str()
            && key.contains("/pods/")
        {
            let first = state.bound.entry(uid).or_insert_with(|| node.to_owned()).clone();
            if first != node {
                state.violations.push(format!("{key} was bound to {first}, then to {node}"));
            }
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// Nanoseconds since something but heartbeats was written, and what.
    pub fn quiet_for(&self) -> (i64, String) {
        let state = self.state.lock();
        (clock::elapsed() - state.last_change.0, state.last_change.1.clone())
    }

    pub fn digest(&self) -> String {
        let state = self.state.lock();
        format!("{:016x}-{}", state.digest.finish(), state.revision)
    }
}
