//! Generic ephemeral volumes: each gets a claim of its pod's own, which goes with the pod.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::persistent_volumes::{claim_of, is_for_pod};
use coracle_client::{ApiError, Change, Client, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;
use crate::ownership::controller_of;
use crate::pods;

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        pods: context.of::<Pod>(),
        claims: context.of::<PersistentVolumeClaim>(),
        events: context.recorder("ephemeral_volume"),
    };
    pods::index_by_claim(&controller.pods);
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.pods.on_change(move |change: &Change| {
        if let Some(pod) = change.new.as_ref().filter(|pod| !pod.head.deleting)
            && pods::mentions(pod, "ephemeral")
        {
            added.add(pod.key());
        }
    });
    let (added, pods) = (queue.clone(), controller.pods.clone());
    // A claim that is gone is made again while its pod needs it.
    controller.claims.on_change(move |change: &Change| {
        if change.new.is_none() {
            for pod in pods.by_index(pods::BY_CLAIM, &change.key().to_string()) {
                added.add(pod.key());
            }
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    pods: Informer,
    claims: Informer,
    events: EventRecorder,
}

#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(Box<PersistentVolumeClaim>),
    /// Somebody else's claim has the name.
    Conflict(String),
}

fn plan(pod: &Pod, volume: &Volume, existing: Option<&PersistentVolumeClaim>) -> Action {
    let meta = &pod.metadata;
    let pod_name = meta.name.as_deref().unwrap_or_default();
    let Some(source) = &volume.ephemeral else { return Action::Nothing };
    let Some(claim) = claim_of(pod_name, volume) else { return Action::Nothing };
    if let Some(existing) = existing {
        if is_for_pod(&existing.metadata, meta.uid.as_deref().unwrap_or_default()) {
            return Action::Nothing;
        }
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        return Action::Conflict(format!(
            "ephemeral volume {}: PVC {namespace}/{} was not created for pod {namespace}/{pod_name} (pod is not owner)",
            volume.name, claim.name
        ));
    }
    let Some(template) = source.volume_claim_template.clone() else { return Action::Nothing };
    let asked = template.metadata.unwrap_or_default();
    Action::Create(Box::new(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.name),
            namespace: meta.namespace.clone(),
            labels: asked.labels,
            annotations: asked.annotations,
            owner_references: Some(vec![controller_of::<Pod>(meta)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    }))
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.pods.get_key(key) else { return Ok(Outcome::Done) };
        let pod: Pod = object.decode()?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if object.head.deleting || matches!(phase, Some("Succeeded" | "Failed")) {
            return Ok(Outcome::Done);
        }
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let Some(claim) = claim_of(&key.name, volume).filter(|c| c.ephemeral) else { continue };
            let existing = self.claims.get(&key.namespace, &claim.name).map(|o| o.decode()).transpose()?;
            match plan(&pod, volume, existing.as_ref()) {
                Action::Nothing => {}
                Action::Create(claim) => match self.client.create(&*claim).await {
                    Err(error) if !error.is_already_exists() => {
                        let message =
                            format!("ephemeral volume {}: create PVC: {}", volume.name, error.message());
                        self.events.event(&pod, EventType::Warning, "FailedBinding", message);
                        return Err(error);
                    }
                    _ => {}
                },
                Action::Conflict(message) => {
                    self.events.event(&pod, EventType::Warning, "FailedBinding", message.clone());
                    return Err(ApiError::internal(message));
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    fn pod() -> Pod {
        from(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "plain", "emptyDir": {}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}),
        )
    }

    #[test]
    fn each_ephemeral_volume_has_its_claim() {
        let pod = pod();
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        assert_eq!(plan(&pod, &volumes[0], None), Action::Nothing);
        let Action::Create(claim) = plan(&pod, &volumes[1], None) else { panic!("not created") };
        assert_eq!(claim.metadata.name.as_deref(), Some("p-scratch"));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(plan(&pod, &volumes[1], Some(&claim)), Action::Nothing);
        assert_eq!(
            plan(&pod, &volumes[1], Some(&PersistentVolumeClaim::default())),
            Action::Conflict(
                "ephemeral volume scratch: PVC ns/p-scratch was not created for pod ns/p (pod is not owner)"
                    .into()
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn claims_are_made_and_conflicts_named() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        client.create(&pod()).await.unwrap();
        cluster.until("the claim", |f| f.get::<PersistentVolumeClaim>("ns", "p-scratch").is_some()).await;
        let stray: PersistentVolumeClaim =
            from(json!({"metadata": {"name": "q-scratch", "namespace": "ns"}}));
        client.create(&stray).await.unwrap();
        let mut other = pod();
        other.metadata.name = Some("q".into());
        client.create(&other).await.unwrap();
        cluster
            .until("the conflict", |_| {
                cluster
                    .events()
                    .iter()
                    .any(|(reason, message)| reason == "FailedBinding" && message.contains("is not owner"))
            })
            .await;
    }
}
