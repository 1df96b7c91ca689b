//! Brings virtual pods' statuses to the API, a bounded number at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::EventType;
use coracle_client::{ApiError, Client, DeleteOptions, Key, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use serde_json::json;

use super::fleet::{Fleet, Uid};
use super::pod::{Incident, Write};

/// Writes of pods under way at once.
pub const WRITERS: usize = 64;
/// A write that failed is tried again after this, give or take half.
const RETRY: Duration = Duration::from_millis(500);
/// Another writer came first: what a node says of its pods stays true.
const CONFLICTS_MAX: u32 = 5;

pub struct Pods {
    pub fleet: Arc<Fleet>,
}

impl Reconciler for Pods {
    type Key = Uid;
    type Error = Infallible;

    fn name(&self) -> &'static str {
        "virtual-pods"
    }

    async fn reconcile(&self, uid: &Uid) -> Result<Outcome, Infallible> {
        let mut conflicts = 0;
        loop {
            let Some(pod) = self.fleet.pod(uid) else { return Ok(Outcome::Done) };
            let (next, key, member) = {
                let mut pod = pod.lock();
                let Some(member) = self.fleet.member(&pod.node) else { return Ok(Outcome::Done) };
                if !member.is_live() {
                    return Ok(Outcome::Done);
                }
                let next = pod.next(Timestamp::now(), || member.allocate(uid), self.fleet.host());
                (next, pod.key.clone(), member)
            };
            for incident in next.incidents {
                let kind = if incident.warning { EventType::Warning } else { EventType::Normal };
                let about = reference(&key, uid, &incident);
                member.recorder.event_for(about, kind, incident.reason, incident.message);
            }
            let Some(write) = next.write else {
                let wait = |at: Timestamp| {
                    let left = at.duration_since(Timestamp::now());
                    Outcome::After(Duration::try_from(left).unwrap_or_default().max(Duration::from_millis(1)))
                };
                return Ok(next.wake.map_or(Outcome::Done, wait));
            };
            match self.write(&member.client, &key, uid, &write).await {
                Ok(()) => {
                    let mut pod = pod.lock();
                    match write {
                        Write::Status { hash, .. } => pod.written(hash),
                        Write::Remove => pod.was_removed(),
                    }
                }
                Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) => {
                    tracing::debug!(pod = %key, %error, "writing a virtual pod");
                    return Ok(Outcome::After(RETRY.mul_f64(0.5 + rand::random::<f64>())));
                }
            }
        }
    }
}

impl Pods {
    async fn write(&self, client: &Client, key: &Key, uid: &str, write: &Write) -> Result<(), ApiError> {
        let written = match write {
            Write::Status { status, .. } => {
                // The uid makes it fail on a pod that took this one's name.
                let patch = json!({"metadata": {"uid": uid}, "status": status});
                let kind = PatchType::Strategic;
                client.patch::<Pod>(&key.namespace, &key.name, Some("status"), kind, &patch).await.map(drop)
            }
            Write::Remove => {
                let written =
                    client.delete::<Pod>(&key.namespace, &key.name, DeleteOptions::grace(0).uid(uid)).await;
                match written {
                    // Another pod has its name by now.
                    Err(error) if error.is_conflict() => Ok(()),
                    other => other,
                }
            }
        };
        match written {
            // Deleted by force: the watch says so too.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.code() == 422 => {
                tracing::error!(pod = %key, %error, "the API refuses a virtual pod's status");
                Ok(())
            }
            other => other,
        }
    }
}

fn reference(key: &Key, uid: &str, incident: &Incident) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(key.name.to_string()),
        namespace: Some(key.namespace.to_string()),
        uid: Some(uid.to_owned()),
        field_path: incident.field.clone(),
        ..ObjectReference::default()
    }
}
