//! Writes a binding: the volume first, so that whatever ends the process between two writes, the next try completes it.

use coracle_client::persistent_volumes::{BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimInfo, VolumeInfo};
use coracle_client::{ApiError, Client};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

pub async fn bind(
    client: &Client,
    mut volume: PersistentVolume,
    mut claim: PersistentVolumeClaim,
) -> Result<(), ApiError> {
    if reserve(&mut volume, &claim) {
        volume = client.update(&volume).await?.decode()?;
    }
    let status = volume.status.get_or_insert_default();
    if status.phase.as_deref() != Some("Bound") {
        status.phase = Some("Bound".into());
        status.message = None;
        volume = client.update_status(&volume).await?.decode()?;
    }
    if answer(&mut claim, &volume) {
        claim = client.update(&claim).await?.decode()?;
    }
    if say_bound(&mut claim, &volume) {
        client.update_status(&claim).await?;
    }
    Ok(())
}

/// The volume names the claim. Whether that changed it.
pub fn reserve(volume: &mut PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let meta = &claim.metadata;
    let chosen = VolumeInfo::of(volume).is_for(&ClaimInfo::of(claim));
    let spec = volume.spec.get_or_insert_default();
    if spec.claim_ref.as_ref().is_some_and(|r| r.uid == meta.uid) {
        return false;
    }
    spec.claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    });
    if !chosen {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    true
}

/// The claim names the volume.
fn answer(claim: &mut PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let name = volume.metadata.name.clone();
    let spec = claim.spec.get_or_insert_default();
    let annotations = claim.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    if spec.volume_name.as_deref().unwrap_or_default() != name.as_deref().unwrap_or_default() {
        spec.volume_name = name;
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        changed = true;
    }
    changed | annotations.insert(BIND_COMPLETED.into(), "yes".into()).is_none()
}

fn say_bound(claim: &mut PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = claim.status.get_or_insert_default();
    let before = status.clone();
    let first = status.phase.as_deref() != Some("Bound");
    status.phase = Some("Bound".into());
    status.access_modes = spec.access_modes;
    // A bound claim's capacity is what its file system has: the volume may be larger until a node has seen to it.
    if first || status.capacity.as_ref().is_none_or(|c| !c.contains_key("storage")) {
        status.capacity = spec.capacity;
    }
    if first {
        status.current_volume_attributes_class_name =
            spec.volume_attributes_class_name.filter(|n| !n.is_empty());
    }
    before != *status
}
