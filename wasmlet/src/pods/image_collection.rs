//! Removes images that no pod uses when the disk fills up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_client::Object;
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::informer::Informer;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::components;
use crate::images::collection::{Candidate, Disk, Policy, plan};
use crate::images::{ImageStore, Listed, StoreError};
use crate::node::machine::Available;

/// The kubelet's interval.
const EVERY_MAX: Duration = Duration::from_secs(300);
const EVERY_MIN: Duration = Duration::from_secs(1);

/// With the kubelet's age that of the kubelet; shorter where images may go sooner.
fn interval(policy: Policy) -> Duration {
    (policy.age_least * 5 / 2).clamp(EVERY_MIN, EVERY_MAX)
}

pub struct Collector {
    pub store: Arc<ImageStore>,
    pub pods: Informer,
    /// A directory of the file system that fills up.
    pub data: PathBuf,
    pub policy: Policy,
    pub recorder: EventRecorder,
    pub node: ObjectReference,
    pub memory: Memory,
}

/// What is known of images from look to look.
#[derive(Default)]
pub struct Memory {
    /// By the digest of the module.
    seen: HashMap<String, Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    first: Instant,
    used: Option<Instant>,
}

impl Collector {
    /// `pressed`: the node is short of disk.
    pub async fn run(mut self, mut pressed: watch::Receiver<bool>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval(self.policy)) => {}
                Ok(()) = pressed.changed() => {}
                () = shutdown.cancelled() => return,
            }
            let short = *pressed.borrow_and_update();
            let Ok(back) = tokio::task::spawn_blocking(move || {
                self.look(short);
                self
            })
            .await
            else {
                return;
            };
            self = back;
        }
    }

    fn look(&mut self, short: bool) {
        if let Err(error) = self.collect(short) {
            self.recorder.event_for(
                self.node.clone(),
                EventType::Warning,
                "ImageGCFailed",
                format!("failed to garbage collect images: {error}"),
            );
        }
    }

    fn collect(&mut self, short: bool) -> Result<(), StoreError> {
        let now = Instant::now();
        let used = self.used()?;
        let candidates = self.memory.candidates(self.store.list()?, &used, now);
        let Available { disk_bytes, disk_total_bytes, .. } = Available::probe(&self.data);
        let disk = Disk { total_bytes: disk_total_bytes, available_bytes: disk_bytes };
        let plan = plan(&candidates, disk, self.policy, short, now);
        for image in &plan.remove {
            for reference in &image.references {
                match self.store.remove(reference) {
                    Ok(()) => tracing::info!(%reference, "an image that no pod uses is removed: disk space"),
                    // Somebody else was faster.
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if !short && plan.found_bytes < plan.wanted_bytes {
            self.recorder.event_for(
                self.node.clone(),
                EventType::Warning,
                "FreeDiskSpaceFailed",
                format!(
                    "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {} bytes eligible to free.",
                    plan.wanted_bytes, plan.found_bytes
                ),
            );
        }
        Ok(())
    }

    /// The digests of the modules that pods of this node name, but for pods that have ended.
    fn used(&self) -> Result<HashSet<String>, StoreError> {
        let running =
            |pod: &Arc<Object>| !matches!(pod.head.field("status.phase"), Some("Succeeded" | "Failed"));
        let names: HashSet<String> =
            self.pods.list().iter().filter(|pod| running(pod)).flat_map(|pod| named_by(pod)).collect();
        let mut used = HashSet::new();
        for name in names {
            let Ok(reference) = name.parse() else { continue };
            // An index that cannot be read must not make all images look unused.
            let found = self.store.lookup(&reference);
            let found = found.map_err(|source| StoreError::Io { step: "read the image index", source })?;
            used.extend(found.map(|image| image.wasm_digest.clone()));
        }
        Ok(used)
    }
}

impl Memory {
    fn candidates(&mut self, listed: Vec<Listed>, used: &HashSet<String>, now: Instant) -> Vec<Candidate> {
        let mut images: BTreeMap<String, Candidate> = BTreeMap::new();
        for image in listed {
            let in_use = used.contains(&image.wasm_digest);
            let seen = self.seen.entry(image.wasm_digest.clone()).or_insert(Seen { first: now, used: None });
            if in_use {
                seen.used = Some(now);
            }
            let candidate = images.entry(image.wasm_digest).or_insert_with(|| Candidate {
                references: Vec::new(),
                size_bytes: image.size_bytes,
                pinned: false,
                in_use,
                first_seen: seen.first,
                last_used: seen.used,
            });
            candidate.pinned |= image.pinned;
            candidate.references.push(image.reference);
        }
        self.seen.retain(|digest, _| images.contains_key(digest));
        images.into_values().collect()
    }
}

/// Every image that a pod names: of its containers, of what they are composed of, and of its volumes.
fn named_by(pod: &Object) -> Vec<String> {
    let Ok(pod) = pod.decode::<Pod>() else { return Vec::new() };
    let spec = pod.spec.clone().unwrap_or_default();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers = containers.map(|c| (c.name.as_str(), c.image.as_deref()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (c.name.as_str(), c.image.as_deref()));
    let mut images = Vec::new();
    for (name, image) in containers.chain(ephemeral) {
        images.extend(image.map(str::to_owned));
        images.extend(components::references(&pod, name).unwrap_or_default());
    }
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    images.extend(volumes.filter_map(|image| image.reference.clone()));
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_pod_names_is_in_use() {
        let pod = r#"{"metadata":{"name":"a","annotations":{"components.coracle.dev/main":"dep:v1, dep:v2"}},"spec":{
            "containers":[{"name":"main","image":"main:v1"},{"name":"second"}],
            "initContainers":[{"name":"first","image":"init:v1"}],
            "ephemeralContainers":[{"name":"debug","image":"debug:v1"}],
            "volumes":[{"name":"data","image":{"reference":"data:v1"}},{"name":"e","emptyDir":{}}]}}"#;
        let pod = Object::parse(pod.into(), &[]).unwrap();
        assert_eq!(named_by(&pod), ["main:v1", "dep:v1", "dep:v2", "init:v1", "debug:v1", "data:v1"]);
    }

    #[test]
    fn names_of_one_module_are_one_image() {
        let listed = |reference: &str, digest: &str, pinned: bool| Listed {
            reference: reference.to_owned(),
            digest: "sha256:manifest".to_owned(),
            wasm_digest: digest.to_owned(),
            size_bytes: 7,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            pinned,
        };
        let mut memory = Memory::default();
        let start = Instant::now();
        let images =
            vec![listed("a:v1", "d1", false), listed("a:v2", "d1", true), listed("b:v1", "d2", false)];
        let used = HashSet::from(["d2".to_owned()]);
        let first = memory.candidates(images, &used, start);
        let look = |c: &Candidate| (c.references.clone(), c.pinned, c.in_use, c.last_used);
        assert_eq!(look(&first[0]), (vec!["a:v1".to_owned(), "a:v2".to_owned()], true, false, None));
        assert_eq!(look(&first[1]), (vec!["b:v1".to_owned()], false, true, Some(start)));
        let later = start + Duration::from_secs(60);
        let second = memory.candidates(vec![listed("b:v1", "d2", false)], &HashSet::new(), later);
        assert_eq!(
            (second[0].first_seen, second[0].last_used, second[0].in_use),
            (start, Some(start), false)
        );
        assert_eq!(memory.seen.len(), 1, "what is gone is forgotten");
    }
}
