//! Claims that are to grow: the work is their driver's, and this says so on the claim.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::persistent_volumes::{LOCAL_PATH_PROVISIONER, PROVISIONED_BY};
use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, Change, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::context::Context;

const WAITING: &str = "Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC.";

pub async fn run(context: Context) {
    let controller = Controller {
        claims: context.of::<PersistentVolumeClaim>(),
        volumes: context.of::<PersistentVolume>(),
        events: context.recorder("volume_expand"),
    };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.claims.on_change(move |change: &Change| {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return };
        let size = |o: &coracle_client::Object| o.decode().ok().as_ref().and_then(requested);
        if size(new) > size(old) {
            added.add(change.key());
        }
    });
    context.work(controller, queue).await;
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::of(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?).ok()
}

/// Whether somebody outside is to see to it. Volumes of the class `local-path` have their own provisioner for that.
fn is_external(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let made_by = volume.metadata.annotations.as_ref().and_then(|a| a.get(PROVISIONED_BY));
    let has = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    let has = has.and_then(|wire| Quantity::of(wire).ok());
    bound && made_by.is_none_or(|by| by != LOCAL_PATH_PROVISIONER) && requested(claim) > has
}

struct Controller {
    claims: Informer,
    volumes: Informer,
    events: EventRecorder,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "persistentvolume-expander-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.claims.get_key(key) else { return Ok(Outcome::Done) };
        let claim: PersistentVolumeClaim = object.decode()?;
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let volume: Option<PersistentVolume> =
            self.volumes.get("", name).map(|object| object.decode()).transpose()?;
        if volume.is_some_and(|volume| is_external(&claim, &volume)) {
            self.events.event(&claim, EventType::Normal, "ExternalExpanding", WAITING);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    #[test]
    fn drivers_are_waited_for() {
        let claim: PersistentVolumeClaim =
            from(json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound"}}));
        for (by, size, want) in
            [("x.dev/p", "1Gi", true), ("x.dev/p", "2Gi", false), (LOCAL_PATH_PROVISIONER, "1Gi", false)]
        {
            let volume = from(
                json!({"metadata": {"annotations": {PROVISIONED_BY: by}}, "spec": {"capacity": {"storage": size}}}),
            );
            assert_eq!(is_external(&claim, &volume), want, "{by} {size}");
        }
    }
}
