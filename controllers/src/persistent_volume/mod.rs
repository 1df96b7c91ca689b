//! The persistent volume binder: claims and volumes find each other, and say how far they are.

mod binding;
mod claim;
mod volume;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::persistent_volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimInfo, STORAGE_PROVISIONER, STORAGE_PROVISIONER_BETA,
    VolumeInfo, best_match, class_of, default_class, has_annotation, waits_for_consumer,
};
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::context::Context;
use crate::pods;
use crate::subject::Subject;
use claim::World;
use volume::Reclaim;

/// Index of volumes that are nobody's, by class.
const FREE: &str = "free by class";
/// Index of volumes by the claim they are for.
const BY_CLAIM: &str = "claimRef";
/// Index of claims without a volume, by class; claims that name no class under [`CLASSLESS`].
const PENDING: &str = "pending by class";
const CLASSLESS: &str = "\0";
/// Index of claims by the volume they name.
const BY_VOLUME: &str = "spec.volumeName";

/// One queue and one worker, as two claims must not be given one volume.
pub async fn run(context: Context) {
    let binder = Binder {
        client: context.client.clone(),
        claims: context.of::<PersistentVolumeClaim>(),
        volumes: context.of::<PersistentVolume>(),
        classes: context.of::<StorageClass>(),
        pods: context.of::<Pod>(),
        events: context.recorder("persistentvolume-controller"),
        queue: WorkQueue::new(),
    };
    pods::index_by_claim(&binder.pods);
    binder.volumes.add_index(FREE, |o| {
        decode(o).filter(|v: &VolumeInfo| v.claim.is_none()).map(|v| v.class.into()).into_iter().collect()
    });
    binder.volumes.add_index(BY_CLAIM, |o| {
        decode(o).and_then(|v: VolumeInfo| v.claim).map(|c| c.key.to_string().into()).into_iter().collect()
    });
    binder.claims.add_index(PENDING, |o| pending_class(o).into_iter().collect());
    binder.claims.add_index(BY_VOLUME, |o| named_volume(o).map(Into::into).into_iter().collect());
    binder.follow();
    let queue = binder.queue.clone();
    context.work_with(binder, queue, 1).await;
}

fn decode(object: &Object) -> Option<VolumeInfo> {
    object.decode::<PersistentVolume>().ok().map(|volume| VolumeInfo::of(&volume))
}

fn named_volume(claim: &Object) -> Option<String> {
    claim.decode::<PersistentVolumeClaim>().ok()?.spec?.volume_name.filter(|name| !name.is_empty())
}

/// None: it has a volume, or names one.
fn pending_class(object: &Object) -> Option<Box<str>> {
    let claim = object.decode::<PersistentVolumeClaim>().ok()?;
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if !named.is_empty() || has_annotation(&claim.metadata, BIND_COMPLETED) {
        return None;
    }
    Some(class_of(&claim).unwrap_or(CLASSLESS).into())
}

struct Binder {
    client: Client,
    claims: Informer,
    volumes: Informer,
    classes: Informer,
    pods: Informer,
    events: EventRecorder,
    queue: WorkQueue<Subject>,
}

impl Binder {
    fn follow(&self) {
        Subject::follow(&self.claims, &self.queue, Subject::Claim);
        Subject::follow(&self.volumes, &self.queue, Subject::Other);
        let (queue, volumes) = (self.queue.clone(), self.volumes.clone());
        self.claims.on_change(move |change: &Change| {
            let key = change.key();
            for volume in volumes.by_index(BY_CLAIM, &key.to_string()) {
                queue.add(Subject::Other(volume.key()));
            }
        });
        let (queue, claims) = (self.queue.clone(), self.claims.clone());
        self.volumes.on_change(move |change: &Change| {
            let object = change.object();
            for claim in claims.by_index(BY_VOLUME, &object.head.name) {
                queue.add(Subject::Claim(claim.key()));
            }
            let Some(volume) = change.new.as_deref().and_then(decode) else { return };
            match volume.claim {
                Some(claim) => queue.add(Subject::Claim(claim.key)),
                None if volume.available => {
                    // A claim that names no class may have what is of none.
                    let classless = volume.class.is_empty().then_some(CLASSLESS);
                    for class in [volume.class.as_str()].into_iter().chain(classless) {
                        for claim in claims.by_index(PENDING, class) {
                            queue.add(Subject::Claim(claim.key()));
                        }
                    }
                }
                None => {}
            }
        });
        let (queue, claims) = (self.queue.clone(), self.claims.clone());
        self.classes.on_change(move |change: &Change| {
            for class in [&*change.object().head.name, CLASSLESS] {
                for claim in claims.by_index(PENDING, class) {
                    queue.add(Subject::Claim(claim.key()));
                }
            }
        });
    }

    async fn claim(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.claims.get_key(key) else { return Ok(()) };
        let claim: PersistentVolumeClaim = object.decode()?;
        let wanted = ClaimInfo::of(&claim);
        let class = self.class(class_of(&claim).unwrap_or_default())?;
        let named = match wanted.volume_name.as_str() {
            "" => None,
            name => self.volume_named(name, wanted.bind_completed).await?,
        };
        let delayed = class.as_ref().is_some_and(waits_for_consumer);
        let candidates = self.candidates(&wanted);
        let best = best_match(&wanted, candidates.iter(), None, delayed, &[]).map(|v| v.name.as_str());
        let classless = class_of(&claim).is_none();
        let default = if classless && best.is_none() { self.default_class()? } else { None };
        let waiting_pods: Vec<String> = self
            .pods
            .by_index(pods::BY_CLAIM, &key.to_string())
            .iter()
            .filter(|pod| pod.head.field("spec.nodeName").unwrap_or_default().is_empty())
            .map(|pod| pod.head.name.to_string())
            .collect();
        let world = World {
            named: named.as_ref(),
            best,
            class: class.as_ref(),
            default_class: default.as_deref(),
            waiting_pods: &waiting_pods,
        };
        self.take_step(claim::plan(&claim, &world), claim).await
    }

    async fn take_step(&self, step: claim::Step, mut claim: PersistentVolumeClaim) -> Result<(), ApiError> {
        match step {
            claim::Step::Bind { volume } => {
                let Some(volume) = self.volume_named(&volume, false).await? else { return Ok(()) };
                binding::bind(&self.client, volume, claim).await
            }
            claim::Step::Wait(note) => {
                self.say(&claim, note);
                self.claim_phase(claim, "Pending").await
            }
            claim::Step::TakeClass(class) => {
                claim.spec.get_or_insert_default().storage_class_name = Some(class);
                self.client.update(&claim).await.map(drop)
            }
            claim::Step::Provision { provisioner, note } => {
                let annotations = claim.metadata.annotations.get_or_insert_default();
                let said = [STORAGE_PROVISIONER, STORAGE_PROVISIONER_BETA]
                    .iter()
                    .all(|name| annotations.get(*name) == Some(&provisioner));
                if !said {
                    annotations.insert(STORAGE_PROVISIONER.into(), provisioner.clone());
                    annotations.insert(STORAGE_PROVISIONER_BETA.into(), provisioner);
                    claim = self.client.update(&claim).await?.decode()?;
                    self.say(&claim, Some(note));
                }
                self.claim_phase(claim, "Pending").await
            }
            claim::Step::Lost(note) => {
                if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost") {
                    self.say(&claim, Some(note));
                }
                self.claim_phase(claim, "Lost").await
            }
            claim::Step::Broken(why) => Err(ApiError::internal(why)),
        }
    }

    fn say(&self, claim: &PersistentVolumeClaim, note: Option<claim::Note>) {
        if let Some(note) = note {
            self.events.event(claim, note.kind, note.reason, note.message);
        }
    }

    /// A phase without a volume.
    async fn claim_phase(&self, mut claim: PersistentVolumeClaim, phase: &str) -> Result<(), ApiError> {
        let status = claim.status.get_or_insert_default();
        let same = status.phase.as_deref() == Some(phase)
            && status.access_modes.as_ref().is_none_or(Vec::is_empty)
            && status.capacity.as_ref().is_none_or(|c| c.is_empty());
        if same {
            return Ok(());
        }
        status.phase = Some(phase.into());
        status.access_modes = None;
        status.capacity = None;
        self.client.update_status(&claim).await.map(drop)
    }

    /// What the claim could have: volumes that are free in its class, and those reserved for it.
    fn candidates(&self, claim: &ClaimInfo) -> Vec<VolumeInfo> {
        if !claim.volume_name.is_empty() {
            return Vec::new();
        }
        let mut objects = self.volumes.by_index(BY_CLAIM, &claim.key.to_string());
        objects.extend(self.volumes.by_index(FREE, &claim.class));
        objects.iter().filter_map(|object| decode(object)).collect()
    }

    /// `sure`: it is asked for where the informer does not know it, as its absence means that data is lost.
    async fn volume_named(&self, name: &str, sure: bool) -> Result<Option<PersistentVolume>, ApiError> {
        match self.volumes.get("", name) {
            Some(object) => Ok(Some(object.decode()?)),
            None if sure => self.client.find("", name).await,
            None => Ok(None),
        }
    }

    fn class(&self, name: &str) -> Result<Option<StorageClass>, ApiError> {
        self.classes.get("", name).map(|object| object.decode()).transpose().map_err(Into::into)
    }

    fn default_class(&self) -> Result<Option<String>, ApiError> {
        let classes: Result<Vec<StorageClass>, _> = self.classes.list().iter().map(|o| o.decode()).collect();
        Ok(default_class(&classes?).and_then(|class| class.metadata.name.clone()))
    }

    async fn volume(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.volumes.get_key(key) else { return Ok(()) };
        let mut volume: PersistentVolume = object.decode()?;
        let claim = self.claim_of(&volume).await?;
        match volume::plan(&volume, claim.as_ref()) {
            volume::Step::Phase(phase) => self.volume_phase(volume, phase, None).await.map(drop),
            volume::Step::AskClaim => {
                self.queue
                    .add(Subject::Claim(claim.map(|c| ClaimInfo::of(&c).key).unwrap_or_else(|| key.clone())));
                Ok(())
            }
            volume::Step::Mismatch => {
                let kind = EventType::Warning;
                let named = claim.as_ref().map(|c| ClaimInfo::of(c).key.to_string()).unwrap_or_default();
                self.events.event(&volume, kind, "VolumeMismatch", format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{named}\" due to incompatible volumeMode."));
                if let Some(claim) = &claim {
                    let name = &key.name;
                    self.events.event(claim, kind, "VolumeMismatch", format!(
                        "Cannot bind PersistentVolume \"{name}\" to requested PersistentVolumeClaim \"{named}\" due to incompatible volumeMode."));
                }
                Ok(())
            }
            volume::Step::Unbind { forget } => {
                let spec = volume.spec.get_or_insert_default();
                if forget {
                    spec.claim_ref = None;
                    if let Some(annotations) = &mut volume.metadata.annotations {
                        annotations.remove(BOUND_BY_CONTROLLER);
                    }
                } else if let Some(reference) = &mut spec.claim_ref {
                    reference.uid = None;
                    reference.resource_version = None;
                }
                let volume = self.client.update(&volume).await?.decode()?;
                self.volume_phase(volume, "Available", None).await.map(drop)
            }
            volume::Step::Reclaim(reclaim) => {
                let phase = volume.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
                if phase == "Failed" {
                    return Ok(());
                }
                let volume = self.volume_phase(volume, "Released", None).await?;
                let Reclaim::Fail { reason, message } = reclaim else { return Ok(()) };
                self.events.event(&volume, EventType::Warning, reason, message.clone());
                self.volume_phase(volume, "Failed", Some(message)).await.map(drop)
            }
        }
    }

    /// The claim that the volume is for, if it is still the same. Its absence costs data, so the API is asked.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<PersistentVolumeClaim>, ApiError> {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.clone()).unwrap_or_default();
        let (namespace, name) = (reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
        let uid = reference.uid.unwrap_or_default();
        if uid.is_empty() {
            return Ok(None);
        }
        let same = |claim: &PersistentVolumeClaim| claim.metadata.uid.as_ref() == Some(&uid);
        let known = self.claims.get(&namespace, &name).and_then(|o| o.decode().ok()).filter(same);
        match known {
            Some(claim) => Ok(Some(claim)),
            None => Ok(self.client.find(&namespace, &name).await?.filter(same)),
        }
    }

    async fn volume_phase(
        &self,
        mut volume: PersistentVolume,
        phase: &str,
        message: Option<String>,
    ) -> Result<PersistentVolume, ApiError> {
        let status = volume.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(volume);
        }
        status.phase = Some(phase.into());
        status.message = message;
        self.client.update_status(&volume).await?.decode()
    }
}

impl Reconciler for Binder {
    type Key = Subject;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    async fn reconcile(&self, subject: &Subject) -> Result<Outcome, ApiError> {
        subject.done(match subject {
            Subject::Claim(key) => self.claim(key).await,
            Subject::Other(key) => self.volume(key).await,
        })
    }
}

#[cfg(test)]
mod tests;
