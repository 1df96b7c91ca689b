//! A Deployment's ReplicaSets as its decisions see them, and its rollout numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::int_or_percent::scaled;
use crate::template;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations that stay with the Deployment, as upstream's.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The longest revision history kept on a set, in characters.
const HISTORY_MAX: usize = 2000;

/// What a Deployment's spec asks for, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub rolling: bool,
}

impl Wanted {
    pub fn of(deployment: &Deployment) -> Self {
        let spec = &deployment.spec;
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, max_surge: 0, max_unavailable: 0, rolling: false };
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = rolling.map_or(Some(&quarter), |r| r.max_surge.as_ref());
        let unavailable = rolling.map_or(Some(&quarter), |r| r.max_unavailable.as_ref());
        let max_surge = scaled(surge, replicas, true);
        let mut max_unavailable = scaled(unavailable, replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // With neither, nothing could ever move.
            max_unavailable = 1;
        }
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas), rolling: true }
    }
}

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Available pods that stay: a status may not know yet that its set was made smaller, and count what is about to go.
pub fn staying(set: &ReplicaSet) -> i32 {
    available(set).min(replicas(set))
}

/// The set's status knows of its present size.
pub fn observed(set: &ReplicaSet) -> bool {
    let seen = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    seen >= set.metadata.generation.unwrap_or(0)
}

pub fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

pub fn annotation<'a>(annotations: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    annotations?.get(key).map(String::as_str)
}

pub fn number(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(set.metadata.annotations.as_ref(), key)?.parse().ok()
}

pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(set.metadata.annotations.as_ref(), REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// Oldest first; the name decides between sets of one second.
pub fn by_age(sets: &mut [ReplicaSet]) {
    sets.sort_by(|a, b| {
        let (a, b) = (&a.metadata, &b.metadata);
        a.creation_timestamp.cmp(&b.creation_timestamp).then_with(|| a.name.cmp(&b.name))
    });
}

/// The sets of a Deployment, split: the one of its current template, and the others, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    pub new: Option<ReplicaSet>,
    pub old: Vec<ReplicaSet>,
}

impl Sets {
    pub fn split(deployment: &Deployment, mut all: Vec<ReplicaSet>) -> Self {
        by_age(&mut all);
        let wanted = template::canonical(&deployment.spec.template);
        let at = all.iter().position(|set| {
            set.spec.template.as_ref().is_some_and(|template| template::canonical(template) == wanted)
        });
        let new = at.map(|at| all.remove(at));
        Self { new, old: all }
    }

    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.new.iter().chain(&self.old)
    }

    /// Replicas asked for over all sets.
    pub fn total(&self) -> i32 {
        self.all().map(replicas).sum()
    }

    pub fn old_total(&self) -> i32 {
        self.old.iter().map(replicas).sum()
    }

    pub fn available(&self) -> i32 {
        self.all().map(available).sum()
    }

    /// The set to scale when nothing is rolling: the only active one, else the newest; None while several are active.
    pub fn active_or_latest(&self) -> Option<&ReplicaSet> {
        let mut active = self.all().filter(|set| replicas(set) > 0);
        match (active.next(), active.next()) {
            (None, _) => self.new.as_ref().or_else(|| self.old.last()),
            (Some(only), None) => Some(only),
            (Some(_), Some(_)) => None,
        }
    }

    pub fn next_revision(&self) -> i64 {
        self.old.iter().map(revision).max().unwrap_or(0) + 1
    }
}

/// Brings the annotations of the new set up to date; true where that changed them.
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, next_revision: i64, exists: bool) -> bool {
    let wanted = Wanted::of(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    if old.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0_i64) < next_revision {
        annotations.insert(REVISION.into(), next_revision.to_string());
        if let (true, Some(old)) = (exists, old.filter(|old| !old.is_empty())) {
            let history = annotations.entry(REVISION_HISTORY.into()).or_default();
            *history = remember(history, &old);
        }
    }
    if !exists {
        set_counts(annotations, &wanted);
    }
    *annotations != before
}

/// Appends a revision, dropping the oldest where the history would grow too long.
fn remember(history: &str, revision: &str) -> String {
    let mut all: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
    all.push(revision);
    while all.len() > 1 && all.iter().map(|r| r.len() + 1).sum::<usize>() > HISTORY_MAX {
        all.remove(0);
    }
    all.join(",")
}

/// Notes what the Deployment asked for when the set was last scaled; true where that changed.
pub fn set_counts(annotations: &mut BTreeMap<String, String>, wanted: &Wanted) -> bool {
    let mut changed = false;
    for (key, value) in
        [(DESIRED_REPLICAS, wanted.replicas), (MAX_REPLICAS, wanted.replicas + wanted.max_surge)]
    {
        changed |= annotations.insert(key.into(), value.to_string()) != Some(value.to_string());
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        for (replicas, surge, unavailable, want) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (4, json!("25%"), json!("25%"), (1, 1)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (1, json!(0), json!("25%"), (0, 1)),
            (3, json!(0), json!(0), (0, 1)),
            (3, json!(1), json!(9), (1, 3)),
            (0, json!("25%"), json!("25%"), (0, 0)),
            (3, json!("200%"), json!("100%"), (6, 3)),
        ] {
            let deployment: Deployment = from(
                json!({"spec": {"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}),
            );
            let got = Wanted::of(&deployment);
            assert_eq!((got.max_surge, got.max_unavailable), want, "{replicas} {surge} {unavailable}");
        }
        let deployment: Deployment = from(json!({"spec": {"replicas": 8, "selector": {}, "template": {}}}));
        assert_eq!(Wanted::of(&deployment).max_surge, 2, "25% where nothing is said");
    }

    #[test]
    fn annotations_carry_revisions_and_their_history() {
        let deployment: Deployment =
            from(json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "x", REVISION: "7"}},
            "spec": {"replicas": 3, "selector": {}, "template": {}}}));
        let mut set: ReplicaSet = from::<ReplicaSet>(json!({"spec": {"selector": {}}}));
        assert!(annotate(&deployment, &mut set, 2, false));
        let got = |set: &ReplicaSet| serde_json::to_value(&set.metadata.annotations).unwrap_or(Value::Null);
        assert_eq!(
            got(&set),
            json!({"kubernetes.io/change-cause": "x", REVISION: "2", DESIRED_REPLICAS: "3", MAX_REPLICAS: "4"})
        );
        assert!(!annotate(&deployment, &mut set, 2, true));
        assert!(annotate(&deployment, &mut set, 5, true));
        assert!(annotate(&deployment, &mut set, 9, true));
        assert_eq!(got(&set)[REVISION_HISTORY], "2,5");
        assert_eq!(remember(&"1,".repeat(999), "1000").len(), 1998);
    }
}
