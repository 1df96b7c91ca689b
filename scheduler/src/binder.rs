//! Tells the API what a cycle decided: the binding, or why the pod waits.

use std::sync::Arc;

use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Client, Key, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::events::Shared;
use crate::pod::PodInfo;
use crate::volumes::Decision;

/// Bindings and status writes under way at once.
pub const WRITES_MAX: usize = 64;

pub struct Binder {
    pub client: Client,
    pub recorder: EventRecorder,
    pub shared: Arc<Shared>,
    pub writes: Arc<Semaphore>,
}

fn reference(pod: &PodInfo, key: &Key) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(key.namespace.to_string()),
        name: Some(key.name.to_string()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

impl Binder {
    /// Binds an assumed pod, after its volumes; when that fails the assumptions are taken back.
    pub async fn bind(&self, pod: &PodInfo, node: &str, volumes: Decision, permit: OwnedSemaphorePermit) {
        let Some(key) = &pod.key else { return };
        let mut permit = Some(permit);
        if !volumes.is_empty() {
            let bound = self.bind_volumes(node, &volumes, &mut permit).await;
            self.shared.cache.lock().volumes.forget(&volumes);
            if let Err(error) = bound {
                self.shared.cache.lock().forget(&pod.uid);
                let message = format!("running PreBind plugin \"VolumeBinding\": {error}");
                self.recorder.event_for(
                    reference(pod, key),
                    EventType::Warning,
                    "FailedScheduling",
                    &message,
                );
                self.explain(pod, "SchedulerError", &message).await;
                self.shared.queue.retry(&pod.uid);
                return;
            }
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.to_string()),
                namespace: Some(key.namespace.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        match self.client.create_subresource::<Pod>(&key.namespace, &key.name, "binding", &binding).await {
            Ok(_) => {
                self.shared.queue.bound(&pod.uid);
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.event_for(reference(pod, key), EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                self.shared.cache.lock().forget(&pod.uid);
                if error.is_not_found() {
                    self.shared.queue.remove(&pod.uid);
                    return;
                }
                // Bound by someone else: the informer will bring it. Anything else is tried again.
                if !error.is_conflict() {
                    warn!(pod = %key, node, %error, "binding failed");
                }
                self.shared.queue.retry(&pod.uid);
            }
        }
    }

    /// Says on the pod and in an event why it waits; on the pod only what is not there yet.
    pub async fn explain(&self, pod: &PodInfo, reason: &str, message: &str) {
        let Some(key) = &pod.key else { return };
        if reason == "Unschedulable" {
            self.recorder.event_for(reference(pod, key), EventType::Warning, "FailedScheduling", message);
        }
        if pod.told.as_deref() == Some(message) {
            return;
        }
        if let Err(error) = self.condition(pod, key, reason, message).await
            && !error.is_not_found()
        {
            warn!(pod = %key, %error, "writing the PodScheduled condition failed");
        }
    }

    async fn condition(&self, pod: &PodInfo, key: &Key, reason: &str, message: &str) -> Result<(), ApiError> {
        let patch = json!({
            "metadata": {"uid": pod.uid},
            "status": {"conditions": [{
                "type": "PodScheduled",
                "status": "False",
                "reason": reason,
                "message": message,
                "lastProbeTime": null,
                "lastTransitionTime": Time(Timestamp::now()),
            }]},
        });
        self.client
            .patch::<Pod>(&key.namespace, &key.name, Some("status"), PatchType::Strategic, &patch)
            .await
            .map(drop)
    }
}
