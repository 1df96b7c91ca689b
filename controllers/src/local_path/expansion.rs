//! Volumes of the class `local-path` grow in name only, as a directory has what its disk has: the volume first, then
//! the claim waits for its node, as upstream's resizer has it.

use coracle_client::ApiError;
use coracle_client::events::EventType;
use coracle_client::persistent_volumes::{LOCAL_PATH_PROVISIONER, PROVISIONED_BY};
use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Provisioner;

const PENDING: &str = "FileSystemResizePending";
const PENDING_MESSAGE: &str =
    "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";

fn requested(claim: &PersistentVolumeClaim) -> Option<(Quantity, Wire)> {
    let wire = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    Some((Quantity::of(wire).ok()?, wire.clone()))
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::of(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?).ok()
}

fn capacity_of(volume: &PersistentVolume) -> Quantity {
    let wire = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    wire.and_then(|wire| Quantity::of(wire).ok()).unwrap_or(Quantity::ZERO)
}

/// A bound claim asks for more than it has.
pub fn grows(claim: &PersistentVolumeClaim) -> bool {
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    bound
        && claim.metadata.deletion_timestamp.is_none()
        && requested(claim).zip(capacity(claim)).is_some_and(|((wanted, _), has)| wanted > has)
}

/// The claim waits for its node; None: it says so.
fn waiting(claim: &PersistentVolumeClaim, wanted: &Wire, now: Timestamp) -> Option<PersistentVolumeClaim> {
    let mut next = claim.clone();
    let status = next.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    let said = conditions.iter().any(|c| c.type_ == PENDING && c.status == "True");
    let allocated = status.allocated_resources.as_ref().and_then(|a| a.get("storage"));
    if said && allocated == Some(wanted) {
        return None;
    }
    conditions.retain(|c| !matches!(c.type_.as_str(), PENDING | "Resizing"));
    conditions.push(PersistentVolumeClaimCondition {
        type_: PENDING.into(),
        status: "True".into(),
        message: Some(PENDING_MESSAGE.into()),
        last_transition_time: Some(Time(now)),
        ..PersistentVolumeClaimCondition::default()
    });
    status.allocated_resources.get_or_insert_default().insert("storage".into(), wanted.clone());
    let statuses = status.allocated_resource_statuses.get_or_insert_default();
    statuses.insert("storage".into(), "NodeResizePending".into());
    Some(next)
}

impl Provisioner {
    pub(super) async fn expand(&self, claim: PersistentVolumeClaim) -> Result<(), ApiError> {
        let Some((wanted, wire)) = requested(&claim) else { return Ok(()) };
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let Some(object) = self.volumes.get("", name) else { return Ok(()) };
        let mut volume: PersistentVolume = object.decode()?;
        let ours = volume.metadata.annotations.as_ref().and_then(|a| a.get(PROVISIONED_BY));
        if ours.map(String::as_str) != Some(LOCAL_PATH_PROVISIONER) {
            return Ok(());
        }
        if capacity_of(&volume) < wanted {
            let message = format!("External resizer is resizing volume {name}");
            self.events.event(&claim, EventType::Normal, "Resizing", message);
            let spec = volume.spec.get_or_insert_default();
            spec.capacity.get_or_insert_default().insert("storage".into(), wire.clone());
            self.client.update(&volume).await?;
        }
        let Some(next) = waiting(&claim, &wire, Timestamp::now()) else { return Ok(()) };
        self.client.update_status(&next).await?;
        let message = "Require file system resize of volume on node";
        self.events.event(&claim, EventType::Normal, "FileSystemResizeRequired", message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    fn claim(phase: &str, wanted: &str, has: &str) -> PersistentVolumeClaim {
        from(json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": wanted}}},
            "status": {"phase": phase, "capacity": {"storage": has}}}))
    }

    #[test]
    fn bound_claims_grow() {
        for (claim, want) in [
            (claim("Bound", "2Gi", "1Gi"), true),
            (claim("Bound", "1Gi", "1024Mi"), false),
            (claim("Bound", "1Gi", "2Gi"), false),
            (claim("Pending", "2Gi", "1Gi"), false),
        ] {
            assert_eq!(grows(&claim), want);
        }
    }

    #[test]
    fn and_wait_for_their_node_once() {
        let wire = Wire("2Gi".into());
        let next = waiting(&claim("Bound", "2Gi", "1Gi"), &wire, Timestamp::UNIX_EPOCH).unwrap();
        let status = next.status.as_ref().unwrap();
        assert_eq!(status.conditions.as_ref().unwrap()[0].type_, PENDING);
        assert_eq!(status.allocated_resource_statuses.as_ref().unwrap()["storage"], "NodeResizePending");
        assert!(waiting(&next, &wire, Timestamp::UNIX_EPOCH).is_none());
        assert!(waiting(&next, &Wire("3Gi".into()), Timestamp::UNIX_EPOCH).is_some());
    }
}
