//! Whether pods that tolerate a taint for a while are left alone for that long, whatever the wall clock is set to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::clock;

const SECOND: i64 = 1_000_000_000;
/// How late a controller may learn that a taint is gone: one that comes again sooner may be the same to it.
const LAG: i64 = 120 * SECOND;
/// A leader that has not renewed its lease for so long may have begun anew.
const RENEWAL: i64 = 9 * SECOND;

/// A taint is dated when it is decided on: the writes that bring it may be as late as this under faults. Less than the
/// shorter of the jumps that are to be told from it.
const DATED_BEFORE: i64 = 20 * SECOND;

#[derive(Default)]
pub struct Evictions {
    /// By node and key of the taint: since when it has been there, and when it was taken off.
    taints: BTreeMap<(String, String), (i64, Option<i64>)>,
    /// Pod uid to when it was bound.
    bound: BTreeMap<String, i64>,
    evicted: BTreeSet<String>,
    leader: Leader,
}

#[derive(Default)]
struct Leader {
    holder: String,
    since: i64,
    renewed: i64,
}

impl Evictions {
    /// Takes in a write. Some: a pod was evicted before its time.
    pub fn see(&mut self, key: &str, object: &Value) -> Option<String> {
        let now = clock::elapsed();
        if key.ends_with("/kube-system/kube-controller-manager") && key.contains("/leases") {
            let holder = object["spec"]["holderIdentity"].as_str().unwrap_or_default();
            if self.leader.holder != holder || now - self.leader.renewed > RENEWAL {
                self.leader.since = now;
            }
            self.leader.holder = holder.to_owned();
            self.leader.renewed = now;
        } else if key.contains("/nodes/") {
            self.node(object["metadata"]["name"].as_str().unwrap_or_default(), object, now);
        } else if key.contains("/pods/") {
            return self.pod(key, object, now);
        }
        None
    }

    fn node(&mut self, name: &str, object: &Value, now: i64) {
        let taints = object["spec"]["taints"].as_array().map_or(&[][..], Vec::as_slice);
        let keys: BTreeSet<&str> =
            taints.iter().filter(|t| t["effect"] == "NoExecute").filter_map(|t| t["key"].as_str()).collect();
        for ((node, key), (_, until)) in &mut self.taints {
            if node == name && !keys.contains(key.as_str()) {
                until.get_or_insert(now);
            }
        }
        for key in keys {
            let entry = self.taints.entry((name.to_owned(), key.to_owned())).or_insert((now, None));
            if entry.1.is_some_and(|until| now - until > LAG) {
                entry.0 = now;
            }
            entry.1 = None;
        }
    }

    fn pod(&mut self, key: &str, object: &Value, now: i64) -> Option<String> {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let node = object["spec"]["nodeName"].as_str()?;
        let bound = *self.bound.entry(uid.to_owned()).or_insert(now);
        let conditions = object["status"]["conditions"].as_array()?;
        let driven = conditions.iter().any(|c| c["reason"] == "DeletionByTaintManager");
        if !driven || !self.evicted.insert(uid.to_owned()) {
            return None;
        }
        let tolerations = object["spec"]["tolerations"].as_array().map_or(&[][..], Vec::as_slice);
        let mut due = None;
        for ((_, taint), (since, _)) in self.taints.iter().filter(|((name, _), _)| name == node) {
            // Whoever leads anew knows how long it has been there by the wall clock only.
            if self.leader.since > *since {
                return None;
            }
            let tolerated = tolerations.iter().find(|t| t["key"] == **taint)?["tolerationSeconds"].as_i64();
            let Some(seconds) = tolerated else { continue };
            let ends = bound.max(*since) + seconds * SECOND;
            due = Some(due.map_or(ends, |due: i64| due.min(ends)));
        }
        let early = due? - now;
        (early > DATED_BEFORE).then(|| format!("{key} was evicted {} s before its time", early / SECOND))
    }
}
