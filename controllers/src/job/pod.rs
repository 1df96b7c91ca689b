//! What the job controller decides by of a pod, decoded without the rest of it.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Object;
use jiff::Timestamp;
use serde::Deserialize;

use crate::pods::Phase;

/// Holds a pod until its job has counted it.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Which completion a pod works for: annotation and label.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index failed before this pod.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed without that counting.
pub const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

#[derive(Clone, Debug)]
pub struct JobPod {
    pub object: Arc<Object>,
    pub phase: Phase,
    pub node: Box<str>,
    pub created: Timestamp,
    pub ready_since: Option<Timestamp>,
    /// When it ended; meaningful for one that has.
    pub finished_at: Timestamp,
    /// Whether the finalizer is still on it.
    pub tracked: bool,
    pub index: Option<u32>,
    pub failures: i32,
    pub ignored_failures: i32,
    /// Of all its containers together.
    pub restarts: i32,
    pub conditions: Vec<Condition>,
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub r#type: String,
    pub status: String,
    last_transition_time: Option<Timestamp>,
}

/// A container that has run; init containers come last.
#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    pub exit_code: Option<i32>,
}

#[derive(Deserialize)]
struct View {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    deletion_grace_period_seconds: Option<u64>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    finalizers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    restart_count: i32,
    #[serde(default)]
    state: ContainerState,
}

#[derive(Deserialize, Default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
    finished_at: Option<Timestamp>,
}

impl JobPod {
    pub fn parse(object: &Arc<Object>) -> Result<Self, serde_json::Error> {
        let View { metadata, status } = object.decode()?;
        let created = metadata.creation_timestamp.unwrap_or(Timestamp::UNIX_EPOCH);
        let ready = status.conditions.iter().find(|c| c.r#type == "Ready");
        let number = |name: &str| metadata.annotations.get(name).and_then(|n| n.parse::<i32>().ok());
        let all = || status.container_statuses.iter().chain(&status.init_container_statuses);
        Ok(Self {
            phase: Phase::of(&object.head),
            node: object.head.field("spec.nodeName").unwrap_or_default().into(),
            created,
            ready_since: ready
                .filter(|c| c.status == "True")
                .map(|c| c.last_transition_time.unwrap_or(Timestamp::UNIX_EPOCH)),
            finished_at: finished_at(&metadata, &status).unwrap_or(created),
            tracked: metadata.finalizers.iter().any(|f| f == FINALIZER),
            index: metadata.annotations.get(INDEX).and_then(|n| n.parse().ok()),
            failures: number(INDEX_FAILURES).unwrap_or(0).max(0),
            ignored_failures: number(INDEX_IGNORED).unwrap_or(0).max(0),
            restarts: all().map(|c| c.restart_count).fold(0, i32::saturating_add),
            containers: all()
                .map(|c| Container {
                    name: c.name.clone(),
                    exit_code: c.state.terminated.as_ref().map(|t| t.exit_code),
                })
                .collect(),
            conditions: status.conditions,
            object: object.clone(),
        })
    }

    pub fn name(&self) -> &str {
        &self.object.head.name
    }

    pub fn uid(&self) -> &str {
        &self.object.head.uid
    }

    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    pub fn active(&self) -> bool {
        !self.ended() && !self.object.head.deleting
    }

    pub fn terminating(&self) -> bool {
        !self.ended() && self.object.head.deleting
    }

    pub fn ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Failed, or going before it could end; the latter not where only what has ended is replaced.
    pub fn failed(&self, only_ended: bool) -> bool {
        self.phase == Phase::Failed || (!only_ended && self.terminating())
    }

    /// Of its index, whether they counted or not.
    pub fn all_failures(&self) -> i32 {
        self.failures.saturating_add(self.ignored_failures)
    }
}

fn finished_at(meta: &Meta, status: &Status) -> Option<Timestamp> {
    let ends: Option<Vec<Timestamp>> = status
        .container_statuses
        .iter()
        .map(|c| c.state.terminated.as_ref().and_then(|t| t.finished_at))
        .collect();
    let not_ready = status.conditions.iter().find(|c| c.r#type == "Ready" && c.status == "False");
    let asked_to_go = || {
        let grace = Duration::from_secs(meta.deletion_grace_period_seconds.unwrap_or(0));
        meta.deletion_timestamp.map(|at| at.checked_sub(grace).unwrap_or(at))
    };
    ends.and_then(|ends| ends.into_iter().max())
        .or_else(|| not_ready.and_then(|c| c.last_transition_time))
        .or_else(asked_to_go)
}

/// Sorts so that what is furthest from being useful comes first.
pub fn sort_for_removal(pods: &mut [&JobPod]) {
    pods.sort_by(|a, b| order(a, b));
}

fn order(a: &JobPod, b: &JobPod) -> Ordering {
    let progress = |pod: &JobPod| match pod.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    (!a.node.is_empty())
        .cmp(&!b.node.is_empty())
        .then_with(|| progress(a).cmp(&progress(b)))
        .then_with(|| a.ready().cmp(&b.ready()))
        .then_with(|| Reverse(a.ready_since).cmp(&Reverse(b.ready_since)))
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| b.created.cmp(&a.created))
}
