//! Decides what a claim needs next: a volume, a class, somebody who makes it one, or the news that its volume is lost.

use coracle_client::events::EventType;
use coracle_client::persistent_volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimInfo, SELECTED_NODE, VolumeInfo, class_of, has_annotation,
    waits_for_consumer,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

/// An event about the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason, message: message.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Claim and volume are to name each other and to say that they are bound.
    Bind {
        volume: String,
    },
    /// The claim waits; what there is to say about that.
    Wait(Option<Note>),
    /// It named no class, and there is a default one by now.
    TakeClass(String),
    /// Somebody else makes its volume.
    Provision {
        provisioner: String,
        note: Note,
    },
    Lost(Note),
    /// Cannot be: somebody took away what the controller had written.
    Broken(String),
}

/// What the plan looks at beside the claim.
#[derive(Default)]
pub struct World<'a> {
    /// The volume that the claim names.
    pub named: Option<&'a PersistentVolume>,
    /// The best of those it could have.
    pub best: Option<&'a str>,
    pub class: Option<&'a StorageClass>,
    pub default_class: Option<&'a str>,
    /// Pods that use the claim and are on no node.
    pub waiting_pods: &'a [String],
}

pub fn plan(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    let completed = has_annotation(&claim.metadata, BIND_COMPLETED);
    match (completed, named) {
        (false, "") => unbound(claim, world),
        (false, name) => choosing(claim, name, world),
        (true, name) => bound(claim, name, world),
    }
}

/// It takes what comes.
fn unbound(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    if let Some(volume) = world.best {
        return Step::Bind { volume: volume.into() };
    }
    let class = class_of(claim);
    if class.is_none()
        && let Some(default) = world.default_class
    {
        return Step::TakeClass(default.into());
    }
    let selected = has_annotation(&claim.metadata, SELECTED_NODE);
    if world.class.is_some_and(waits_for_consumer) && !selected {
        let note = match world.waiting_pods {
            [] => Note::normal(
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            ),
            [pod] => Note::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => Note::normal(
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", pods.join(",")),
            ),
        };
        return Step::Wait(Some(note));
    }
    let Some(name) = class.filter(|name| !name.is_empty()) else {
        return Step::Wait(Some(Note::normal(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )));
    };
    let Some(class) = world.class else {
        let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
        return Step::Wait(Some(Note::warning("ProvisioningFailed", message)));
    };
    let provisioner = class.provisioner.clone();
    // What was made in the controller manager once; all of it is drivers' work now.
    if provisioner.starts_with("kubernetes.io/") {
        let message = format!("no volume plugin matched name: {provisioner}");
        return Step::Wait(Some(Note::warning("ProvisioningFailed", message)));
    }
    let note = Note::normal(
        "ExternalProvisioning",
        format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        ),
    );
    Step::Provision { provisioner, note }
}

/// A user, or the scheduler, named a volume.
fn choosing(claim: &PersistentVolumeClaim, name: &str, world: &World<'_>) -> Step {
    let Some(volume) = world.named else { return Step::Wait(None) };
    let (offer, wanted) = (VolumeInfo::of(volume), ClaimInfo::of(claim));
    let bind = Step::Bind { volume: name.into() };
    if offer.claim.is_none() {
        return match offer.satisfies(&wanted) {
            Ok(()) => bind,
            Err(why) => {
                let message = format!("Cannot bind to requested volume \"{name}\": {why}");
                Step::Wait(Some(Note::warning("VolumeMismatch", message)))
            }
        };
    }
    if offer.is_for(&wanted) {
        return bind;
    }
    if has_annotation(&claim.metadata, BOUND_BY_CONTROLLER) {
        return Step::Broken(format!("claim {} names volume \"{name}\", which is another's", wanted.key));
    }
    let message = format!("volume \"{name}\" already bound to a different claim.");
    Step::Wait(Some(Note::warning("FailedBinding", message)))
}

/// It had a volume, so its data is there or lost.
fn bound(claim: &PersistentVolumeClaim, name: &str, world: &World<'_>) -> Step {
    let lost = |reason, message: &str| Step::Lost(Note::warning(reason, message));
    if name.is_empty() {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    let Some(volume) = world.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if reference.is_none_or(|r| r.uid == claim.metadata.uid) {
        return Step::Bind { volume: name.into() };
    }
    lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn claim(annotations: Value, spec: Value) -> PersistentVolumeClaim {
        let mut all =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        from(
            json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations}, "spec": all}),
        )
    }

    fn volume(reference: Value, size: &str) -> PersistentVolume {
        from(json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "claimRef": reference}}))
    }

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        from(json!({"metadata": {"name": "k"}, "provisioner": provisioner, "volumeBindingMode": mode}))
    }

    /// The reason that is shown, or what is done.
    fn shown(step: Step) -> String {
        match step {
            Step::Bind { volume } => format!("bind {volume}"),
            Step::Wait(None) => "wait".into(),
            Step::Wait(Some(note)) => format!("{}: {}", note.reason, note.message),
            Step::TakeClass(class) => format!("class {class}"),
            Step::Provision { provisioner, note } => format!("{} {provisioner}", note.reason),
            Step::Lost(note) => note.reason.into(),
            Step::Broken(_) => "broken".into(),
        }
    }

    #[test]
    fn claims_without_a_volume() {
        let (now, later) = (class("x.dev/p", "Immediate"), class("x.dev/p", "WaitForFirstConsumer"));
        let manual = class("kubernetes.io/no-provisioner", "Immediate");
        let plain = || claim(json!({}), json!({}));
        let of = |name: &str| claim(json!({}), json!({"storageClassName": name}));
        let one = ["p".to_owned()];
        let two = ["p".to_owned(), "q".to_owned()];
        for (claim, world, want) in [
            (plain(), World { best: Some("v"), ..World::default() }, "bind v"),
            (
                plain(),
                World::default(),
                "FailedBinding: no persistent volumes available for this claim and no storage class is set",
            ),
            (
                of(""),
                World { default_class: Some("d"), ..World::default() },
                "FailedBinding: no persistent volumes available for this claim and no storage class is set",
            ),
            (plain(), World { default_class: Some("d"), ..World::default() }, "class d"),
            (of("k"), World::default(), "ProvisioningFailed: storageclass.storage.k8s.io \"k\" not found"),
            (of("k"), World { class: Some(&now), ..World::default() }, "ExternalProvisioning x.dev/p"),
            (
                of("k"),
                World { class: Some(&manual), ..World::default() },
                "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
            ),
            (
                of("k"),
                World { class: Some(&later), ..World::default() },
                "WaitForFirstConsumer: waiting for first consumer to be created before binding",
            ),
            (
                of("k"),
                World { class: Some(&later), waiting_pods: &one, ..World::default() },
                "WaitForPodScheduled: waiting for pod p to be scheduled",
            ),
            (
                of("k"),
                World { class: Some(&later), waiting_pods: &two, ..World::default() },
                "WaitForPodScheduled: waiting for pods p,q to be scheduled",
            ),
            (
                claim(json!({SELECTED_NODE: "n"}), json!({"storageClassName": "k"})),
                World { class: Some(&later), ..World::default() },
                "ExternalProvisioning x.dev/p",
            ),
        ] {
            assert_eq!(shown(plan(&claim, &world)), want);
        }
    }

    #[test]
    fn claims_that_name_a_volume() {
        let naming = |annotations: Value| claim(annotations, json!({"volumeName": "v"}));
        let mine = json!({"namespace": "ns", "name": "c"});
        let other = json!({"namespace": "ns", "name": "d", "uid": "x"});
        for (claim, volume, want) in [
            (naming(json!({})), None, "wait"),
            (naming(json!({})), Some(volume(json!(null), "1Gi")), "bind v"),
            (
                naming(json!({})),
                Some(volume(json!(null), "1Mi")),
                "VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small",
            ),
            (naming(json!({})), Some(volume(mine, "1Mi")), "bind v"),
            (
                naming(json!({})),
                Some(volume(other.clone(), "1Gi")),
                "FailedBinding: volume \"v\" already bound to a different claim.",
            ),
            (naming(json!({BOUND_BY_CONTROLLER: "yes"})), Some(volume(other, "1Gi")), "broken"),
        ] {
            let world = World { named: volume.as_ref(), ..World::default() };
            assert_eq!(shown(plan(&claim, &world)), want);
        }
    }

    #[test]
    fn claims_that_had_a_volume() {
        let done = json!({BIND_COMPLETED: "yes"});
        let with = || claim(done.clone(), json!({"volumeName": "v"}));
        let of = |uid: &str| volume(json!({"namespace": "ns", "name": "c", "uid": uid}), "1Gi");
        for (claim, volume, want) in [
            (claim(done.clone(), json!({})), None, "ClaimLost"),
            (with(), None, "ClaimLost"),
            (with(), Some(volume(json!(null), "1Gi")), "bind v"),
            (with(), Some(of("u")), "bind v"),
            (with(), Some(of("other")), "ClaimMisbound"),
        ] {
            let world = World { named: volume.as_ref(), ..World::default() };
            assert_eq!(shown(plan(&claim, &world)), want);
        }
    }
}
