//! The few facts about a pod that controllers decide by, decoded without the rest of it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::client::Kind;
use coracle_client::persistent_volumes::claim_of;
use coracle_client::{Head, Informer, Object};
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::ownership;

/// Index of pods by the node they are bound to.
pub const BY_NODE: &str = "spec.nodeName";
/// Index of pods by the claims that their volumes are of, as `namespace/name`.
pub const BY_CLAIM: &str = "claim";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn of(head: &Head) -> Self {
        match head.field("status.phase").unwrap_or_default() {
            "" | "Pending" => Self::Pending,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

/// A pod and what controllers decide by; the latter is read once per state of the pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub object: Arc<Object>,
    facts: Arc<Facts>,
}

impl Deref for Pod {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

#[derive(Debug)]
pub struct Facts {
    pub phase: Phase,
    pub node: Box<str>,
    pub created: Option<Timestamp>,
    /// Since when the pod is Ready; None: it is not.
    pub ready_since: Option<Timestamp>,
    pub deletion_cost: i32,
    /// The most restarts of any of its containers.
    pub restarts: i32,
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
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    conditions: Option<Vec<Condition>>,
    container_statuses: Option<Vec<Container>>,
    init_container_statuses: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    last_transition_time: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    restart_count: i32,
    started: Option<bool>,
}

impl Facts {
    fn read(object: &Object) -> Result<Self, serde_json::Error> {
        let view: View = object.decode()?;
        let head = &object.head;
        let ready =
            view.status.conditions.iter().flatten().find(|c| c.r#type == "Ready" && c.status == "True");
        // Of the init containers only running sidecars count.
        let sidecars =
            view.status.init_container_statuses.iter().flatten().filter(|c| c.started == Some(true));
        let restarts =
            view.status.container_statuses.iter().flatten().chain(sidecars).map(|c| c.restart_count).max();
        Ok(Self {
            phase: Phase::of(head),
            node: head.field("spec.nodeName").unwrap_or_default().into(),
            created: view.metadata.creation_timestamp,
            ready_since: ready.map(|c| c.last_transition_time.unwrap_or(Timestamp::UNIX_EPOCH)),
            deletion_cost: view
                .metadata
                .annotations
                .and_then(|a| a.deletion_cost)
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
            restarts: restarts.unwrap_or(0),
        })
    }
}

impl Pod {
    pub fn parse(object: &Arc<Object>) -> Result<Self, serde_json::Error> {
        Ok(Self { facts: object.view(Facts::read)?, object: object.clone() })
    }

    pub fn name(&self) -> &str {
        &self.object.head.name
    }

    pub fn uid(&self) -> &str {
        &self.object.head.uid
    }

    /// Neither over nor going.
    pub fn active(&self) -> bool {
        !self.terminal() && !self.object.head.deleting
    }

    pub fn terminal(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    pub fn ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Ready for at least `min_ready` seconds.
    pub fn available(&self, min_ready: i32, now: Timestamp) -> bool {
        self.available_in(min_ready, now) == Some(Duration::ZERO)
    }

    /// How long until the pod is available if it stays ready; None: not ready.
    pub fn available_in(&self, min_ready: i32, now: Timestamp) -> Option<Duration> {
        let since = self.ready_since?;
        if min_ready <= 0 {
            return Some(Duration::ZERO);
        }
        let needed = Duration::from_secs(min_ready.unsigned_abs().into());
        let been = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
        Some(needed.saturating_sub(been))
    }
}

/// A pod of the template, without a name, controlled by an object of type `O`.
pub fn of_template<O: Kind>(owner: &ObjectMeta, template: &v1::PodTemplateSpec) -> v1::Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    v1::Pod {
        metadata: ObjectMeta {
            namespace: owner.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![ownership::controller_of::<O>(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Adds the indexes that controllers look pods up by.
pub fn index(pods: &Informer) {
    ownership::index(pods);
    pods.add_index(BY_NODE, |o| {
        o.head.field("spec.nodeName").filter(|n| !n.is_empty()).map(Box::from).into_iter().collect()
    });
}

#[derive(Deserialize)]
struct Volumes {
    #[serde(default)]
    spec: VolumesSpec,
}

#[derive(Deserialize, Default)]
struct VolumesSpec {
    volumes: Option<Vec<v1::Volume>>,
}

/// Whether the pod may have a field of that name somewhere.
pub fn mentions(pod: &Object, field: &str) -> bool {
    pod.contains(format!("\"{field}\":"))
}

/// The names of the claims that a pod's volumes are of.
pub fn claims_of(pod: &Object) -> Vec<String> {
    // Most pods have none, and every change of every pod comes by here.
    if !mentions(pod, "persistentVolumeClaim") && !mentions(pod, "ephemeral") {
        return Vec::new();
    }
    let Ok(view) = pod.decode::<Volumes>() else { return Vec::new() };
    let volumes = view.spec.volumes.iter().flatten();
    volumes.filter_map(|volume| claim_of(&pod.head.name, volume)).map(|claim| claim.name).collect()
}

pub fn index_by_claim(pods: &Informer) {
    pods.add_index(BY_CLAIM, |pod| {
        claims_of(pod).into_iter().map(|name| format!("{}/{name}", pod.head.namespace).into()).collect()
    });
}
