//! Decides what a volume is: free, bound, or left behind by its claim, and then what becomes of it.

use coracle_client::persistent_volumes::{BOUND_BY_CONTROLLER, PROVISIONED_BY, has_annotation};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Phase(&'static str),
    /// The claim has not answered yet: it is to look.
    AskClaim,
    /// The claim that the volume names is of another mode.
    Mismatch,
    /// The claim has another volume: this one is free again. `forget`: whom it was for too.
    Unbind {
        forget: bool,
    },
    Reclaim(Reclaim),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// An administrator looks after it, or whoever made it does.
    Leave,
    /// The phase Failed, and the event that says why.
    Fail { reason: &'static str, message: String },
}

/// `claim`: the one that the volume is for, by name and uid.
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else {
        return Step::Phase("Available");
    };
    // Reserved by a user; the claim takes it from here.
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return Step::Phase("Available");
    }
    let Some(claim) = claim else { return Step::Reclaim(reclaim(volume)) };
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if Some(named) == volume.metadata.name.as_deref() {
        return Step::Phase("Bound");
    }
    if named.is_empty() {
        let mode = |mode: Option<&str>| mode.unwrap_or("Filesystem") == "Block";
        let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
        let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
        return if mode(of_volume) == mode(of_claim) { Step::AskClaim } else { Step::Mismatch };
    }
    let made_for_it = has_annotation(&volume.metadata, PROVISIONED_BY);
    if made_for_it && policy(volume) == "Delete" {
        return Step::Reclaim(reclaim(volume));
    }
    Step::Unbind { forget: has_annotation(&volume.metadata, BOUND_BY_CONTROLLER) }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume
        .spec
        .as_ref()
        .and_then(|s| s.persistent_volume_reclaim_policy.as_deref())
        .filter(|p| !p.is_empty())
        .unwrap_or("Retain")
}

fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match policy(volume) {
        "Retain" => Reclaim::Leave,
        "Delete" if has_annotation(&volume.metadata, PROVISIONED_BY) => Reclaim::Leave,
        "Delete" => Reclaim::Fail {
            reason: "VolumeFailedDelete",
            message: format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
            ),
        },
        "Recycle" => Reclaim::Fail {
            reason: "VolumeFailedRecycle",
            message: "No recycler plugin found for the volume!".into(),
        },
        _ => Reclaim::Fail {
            reason: "VolumeUnknownReclaimPolicy",
            message: "Volume has an unrecognized reclaim policy".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn volume(policy: &str, annotations: Value, reference: Value) -> PersistentVolume {
        from(json!({"metadata": {"name": "v", "annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": policy, "claimRef": reference}}))
    }

    fn claim(volume: &str, mode: &str) -> PersistentVolumeClaim {
        from(
            json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": volume, "volumeMode": mode}}),
        )
    }

    #[test]
    fn phases() {
        let of = json!({"namespace": "ns", "name": "c", "uid": "u"});
        let made = json!({PROVISIONED_BY: "x"});
        let chosen = json!({BOUND_BY_CONTROLLER: "yes"});
        let fail = |reason, message: &str| Step::Reclaim(Reclaim::Fail { reason, message: message.into() });
        for (what, volume, claim, want) in [
            ("free", volume("Retain", json!({}), json!(null)), None, Step::Phase("Available")),
            (
                "reserved",
                volume("Retain", json!({}), json!({"namespace": "ns", "name": "c"})),
                None,
                Step::Phase("Available"),
            ),
            ("bound", volume("Retain", json!({}), of.clone()), Some(claim("v", "")), Step::Phase("Bound")),
            (
                "not yet",
                volume("Retain", json!({}), of.clone()),
                Some(claim("", "Filesystem")),
                Step::AskClaim,
            ),
            ("mode", volume("Retain", json!({}), of.clone()), Some(claim("", "Block")), Step::Mismatch),
            (
                "the claim has another",
                volume("Retain", chosen, of.clone()),
                Some(claim("w", "")),
                Step::Unbind { forget: true },
            ),
            (
                "the claim has another, and a user chose",
                volume("Delete", json!({}), of.clone()),
                Some(claim("w", "")),
                Step::Unbind { forget: false },
            ),
            (
                "made for a claim that has another",
                volume("Delete", made.clone(), of.clone()),
                Some(claim("w", "")),
                Step::Reclaim(Reclaim::Leave),
            ),
            ("kept", volume("Retain", json!({}), of.clone()), None, Step::Reclaim(Reclaim::Leave)),
            ("its maker deletes", volume("Delete", made, of.clone()), None, Step::Reclaim(Reclaim::Leave)),
            (
                "nobody can delete it",
                volume("Delete", json!({}), of.clone()),
                None,
                fail(
                    "VolumeFailedDelete",
                    "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched",
                ),
            ),
            (
                "recycled",
                volume("Recycle", json!({}), of.clone()),
                None,
                fail("VolumeFailedRecycle", "No recycler plugin found for the volume!"),
            ),
            (
                "odd",
                volume("Odd", json!({}), of),
                None,
                fail("VolumeUnknownReclaimPolicy", "Volume has an unrecognized reclaim policy"),
            ),
        ] {
            assert_eq!(plan(&volume, claim.as_ref()), want, "{what}");
        }
    }
}
