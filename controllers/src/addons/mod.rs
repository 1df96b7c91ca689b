//! The addon manager: what the files of a directory declare is applied, kept so, and taken away when it leaves them.
//!
//! A file's objects are applied on the server by one field manager. What was applied for a file stands in a ConfigMap of
//! `kube-system`, the file's record, which is written before the objects are: whoever leads next, after a crash at any
//! point, knows all that may exist. An object goes only if it left its file, no other file declares it, and it is marked
//! as this file's. Files are read when they have been written to their end, never in between.

mod directory;
mod plan;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::informer::InformerScope;
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Object, PatchType, Propagation, Request, Resource,
    Verb, WorkQueue, WriteOptions,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tracing::{info, warn};

use crate::context::Context;
use crate::manifest::Document;
use directory::{Content, Directory};
use plan::{FILE_ANNOTATION, Item, Reference};
use record::{Record, RecordError};

/// The owner of the fields that manifests set.
pub const FIELD_MANAGER: &str = "coracle-addons";
/// On every applied object: the name of its file's record.
const LABEL: &str = "coracle.dev/addon";

/// Where manifests are, and as whom they are applied: whoever writes the directory may do everything, so the client is
/// an administrator's with [`FIELD_MANAGER`].
#[derive(Clone)]
pub struct Addons {
    pub directory: PathBuf,
    pub client: Client,
}

impl std::fmt::Debug for Addons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Addons").field("directory", &self.directory).finish_non_exhaustive()
    }
}

type File = Arc<str>;

pub async fn run(context: Context) {
    let Some(addons) = context.options.addons.clone() else { return };
    let queue: WorkQueue<File> = WorkQueue::new();
    let failing = Arc::new(Mutex::new(HashSet::new()));
    let definitions = context.of::<CustomResourceDefinition>();
    let namespaces = context.of::<Namespace>();
    for informer in [&definitions, &namespaces] {
        // What a manifest waits for may have come.
        let (queue, failing): (_, Arc<Mutex<HashSet<File>>>) = (queue.clone(), failing.clone());
        informer.on_change(move |_: &Change| failing.lock().iter().for_each(|file| queue.add(file.clone())));
    }
    let served = context.served();
    if !context.synced().await {
        return;
    }
    let snapshot = served.borrow().clone().unwrap_or_default();
    let built_in = snapshot.all.iter().filter(|followed| !followed.custom);
    let known = built_in.map(|followed| followed.resource().clone()).collect();
    let changed = queue.clone();
    let again = failing.clone();
    let following = Directory::follow(&addons.directory, context.shutdown.clone(), move |file| {
        // What one file gives up another may wait for.
        again.lock().iter().for_each(|file: &File| changed.add(file.clone()));
        changed.add(file);
    });
    let directory = match following.await {
        Ok(directory) => directory,
        Err(error) => {
            warn!(%error, "manifests are not applied");
            return context.shutdown.cancelled().await;
        }
    };
    let controller = Controller {
        source: record::source(&addons.directory),
        client: addons.client.clone(),
        events: EventRecorder::new(addons.client, FIELD_MANAGER, None),
        context: context.clone(),
        definitions,
        known,
        directory,
        queue: queue.clone(),
        failing,
        followed: Mutex::default(),
        told: Mutex::default(),
        foreign: Mutex::default(),
    };
    if !controller.find_orphans().await {
        return;
    }
    // One at a time: files wait for one another's namespaces and definitions, and must not take one another's objects.
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    context: Context,
    definitions: Informer,
    known: Vec<Resource>,
    directory: Directory,
    /// This server's directory, as records name it.
    source: String,
    events: EventRecorder,
    queue: WorkQueue<File>,
    failing: Arc<Mutex<HashSet<File>>>,
    /// Resources of which there are applied objects: their changes are followed.
    followed: Mutex<HashSet<Resource>>,
    /// Which version of a file its last event was about.
    told: Mutex<BTreeMap<File, u64>>,
    /// Records of files in the directories of other servers, about which was warned.
    foreign: Mutex<BTreeSet<File>>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the record of the file: {0}")]
    Record(#[source] RecordError),
    #[error("{0} of its objects could not be applied")]
    Apply(usize),
    #[error("deleting {reference}: {source}")]
    Prune {
        reference: Reference,
        #[source]
        source: ApiError,
    },
}

impl Reconciler for Controller {
    type Key = File;
    type Error = Error;

    fn name(&self) -> &'static str {
        "addon-controller"
    }

    async fn reconcile(&self, file: &File) -> Result<Outcome, Error> {
        let result = self.sync(file).await;
        if result.is_err() {
            self.failing.lock().insert(file.clone());
        } else {
            self.failing.lock().remove(file);
        }
        result.map(|()| Outcome::Done)
    }
}

impl Controller {
    /// Records of files that are no longer there: they went while nobody led. False at shutdown.
    async fn find_orphans(&self) -> bool {
        loop {
            match record::list(&self.client).await {
                Ok(records) => {
                    for record in records {
                        self.queue.add(record.file.as_str().into());
                    }
                    return true;
                }
                Err(error) => warn!(%error, "listing the records of manifests failed, again in 1s"),
            }
            tokio::select! {
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                () = self.context.shutdown.cancelled() => return false,
            }
        }
    }

    async fn sync(&self, file: &File) -> Result<(), Error> {
        let (version, content) = self.directory.content(file);
        let record = record::find(&self.client, file).await.map_err(Error::Record)?;
        let documents = match content {
            Content::Skipped => return Ok(()),
            Content::Bad(problem) => {
                let record = self.keep(record.unwrap_or_else(|| Record::new(file)), Vec::new()).await?;
                if self.is_news(file, version) {
                    warn!(file = %self.path(file), "{problem}; nothing of the file was applied");
                    let text = format!("Parse manifest at {:?} failed: {problem}", self.path(file));
                    self.tell(&record, EventType::Warning, "ParseManifestFailed", text);
                }
                return Ok(());
            }
            Content::Missing => match &record {
                None => return Ok(()),
                Some(record) if record.source != self.source => {
                    if self.foreign.lock().insert(file.clone()) {
                        warn!(
                            file = %file, source = record.source,
                            "its objects were applied by another server, whose file this one does not have: they are left alone"
                        );
                    }
                    return Ok(());
                }
                Some(_) => Arc::new(Vec::new()),
            },
            Content::Good(documents) => documents,
        };
        self.apply(file, version, &documents, record.unwrap_or_else(|| Record::new(file))).await
    }

    async fn apply(
        &self,
        file: &File,
        version: u64,
        documents: &[Document],
        record: Record,
    ) -> Result<(), Error> {
        let (items, mut failures) = plan::items(documents, |api_version, kind| {
            plan::resource(&self.known, &self.definitions, api_version, kind)
        });
        let (items, claimed) = plan::uncontested(items, |reference| self.declared_before(file, reference));
        failures.extend(claimed);
        let declared: Vec<Reference> = items.iter().map(|item| item.reference.clone()).collect();
        // From here on the record knows all that may exist, whatever happens in between.
        let mut record = self.keep(record, declared.clone()).await?;
        for item in plan::ordered(items) {
            let (number, reference) = (item.number, item.reference.clone());
            if let Err(error) = self.apply_one(file, &record, item).await {
                failures.push((number, format!("{reference}: {error}")));
            }
        }
        if !failures.is_empty() {
            for (number, what) in &failures {
                warn!(file = %self.path(file), "document {number}: {what}");
                let text =
                    format!("Applying manifest at {:?} failed: document {number}: {what}", self.path(file));
                self.tell(&record, EventType::Warning, "ApplyManifestFailed", text);
            }
            return Err(Error::Apply(failures.len()));
        }
        // Only now: what is to take an object's place is there.
        let gone = plan::gone(&record.objects, &declared);
        for reference in &gone {
            self.prune(file, reference).await?;
        }
        if self.is_news(file, version) {
            info!(file = %self.path(file), objects = declared.len(), pruned = gone.len(), "manifest applied");
            if !documents.is_empty() || !declared.is_empty() {
                let text = format!("Applied manifest at {:?}", self.path(file));
                self.tell(&record, EventType::Normal, "AppliedManifest", text);
            }
        }
        record.objects = declared;
        if matches!(self.directory.content(file).1, Content::Missing) && record.objects.is_empty() {
            return record::remove(&self.client, &record).await.map_err(Error::Record);
        }
        record::write(&self.client, record, &self.source).await.map_err(Error::Record).map(drop)
    }

    /// The record with these objects too, as it is in the cluster then.
    async fn keep(&self, mut record: Record, more: Vec<Reference>) -> Result<Record, Error> {
        record.add(more);
        record::write(&self.client, record, &self.source).await.map_err(Error::Record)
    }

    async fn apply_one(&self, file: &File, record: &Record, item: Item) -> Result<(), ApiError> {
        let Some(resource) = item.resource else {
            let Reference { kind, .. } = &item.reference;
            let version = item.reference.api_version();
            let message = format!("no matches for kind \"{kind}\" in version \"{version}\"");
            return Err(ApiError::new(404, "NotFound", message));
        };
        let object = plan::marked(item.object, LABEL, &record.name, file);
        let body = Bytes::from(serde_json::to_vec(&object)?);
        let mut request = self.request(Verb::Patch(PatchType::Apply), &resource, &item.reference);
        // The manifest is what counts: who else has set its fields to something else loses them.
        request.options.force = true;
        request.body = body;
        self.client.raw(request).await?;
        self.follow(&resource);
        Ok(())
    }

    /// Deletes an object that left the file, unless another file has it, or somebody else made it anew.
    async fn prune(&self, file: &File, reference: &Reference) -> Result<(), Error> {
        let failed = |source| Error::Prune { reference: reference.clone(), source };
        if let Some(other) = self.directory.declaring(file, reference) {
            self.queue.add(other);
            return Ok(());
        }
        if self.recorded_elsewhere(file, reference).await? {
            return Ok(());
        }
        let version = reference.api_version();
        let Some(resource) = plan::resource(&self.known, &self.definitions, &version, &reference.kind) else {
            // Its kind went, and all of that kind with it.
            return Ok(());
        };
        let live = match self.client.raw(self.request(Verb::Get, &resource, reference)).await {
            Ok(json) => Object::parse(json, &[]).map_err(|error| failed(error.into()))?,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if file_of(&live).as_deref() != Some(&**file) {
            return Ok(());
        }
        info!(file = %self.path(file), "deleting {reference}, which left the manifest");
        let options = DeleteOptions::propagation(Propagation::Background).uid(&live.head.uid);
        match self.client.delete_object(&resource, &reference.namespace, &reference.name, options).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => other.map_err(failed),
        }
    }

    /// A file that cannot be read now, or is not to be, still has what was applied for it.
    async fn recorded_elsewhere(&self, file: &File, reference: &Reference) -> Result<bool, Error> {
        let unclear = self.directory.unclear();
        if unclear.iter().all(|other| other == file) {
            return Ok(false);
        }
        let records = record::list(&self.client).await.map_err(Error::Record)?;
        Ok(records.iter().any(|record| {
            record.file != **file
                && unclear.contains(record.file.as_str())
                && record.objects.iter().any(|known| known.is_same(reference))
        }))
    }

    /// Another file, earlier in order, that declares the object.
    fn declared_before(&self, file: &File, reference: &Reference) -> Option<File> {
        self.directory.declaring(file, reference).filter(|other| other < file)
    }

    fn request(&self, verb: Verb, resource: &Resource, reference: &Reference) -> Request {
        let mut request = Request::new(verb, resource.clone());
        request.namespace =
            Some(reference.namespace.clone()).filter(|n| resource.namespaced() && !n.is_empty());
        request.name = Some(reference.name.clone());
        request.options =
            WriteOptions { field_manager: Some(FIELD_MANAGER.into()), ..WriteOptions::default() };
        request
    }

    /// From now on changes of applied objects of the resource lead to their file being applied anew.
    fn follow(&self, resource: &Resource) {
        if !self.followed.lock().insert(resource.clone()) {
            return;
        }
        let scope = InformerScope { label_selector: Some(LABEL.into()), ..InformerScope::default() };
        let queue = self.queue.clone();
        self.context.scoped(resource.clone(), scope).on_change(move |change: &Change| {
            if let Some(old) = &change.old
                && let Some(file) = file_of(old)
                && change.new.as_ref().is_none_or(|new| plan::differs(old, new))
            {
                queue.add(file.into());
            }
        });
    }

    fn path(&self, file: &File) -> String {
        self.directory.path(file).display().to_string()
    }

    fn is_news(&self, file: &File, version: u64) -> bool {
        self.told.lock().insert(file.clone(), version) != Some(version)
    }

    fn tell(&self, record: &Record, kind: EventType, reason: &str, text: String) {
        self.events.event_for(record.reference(), kind, reason, text);
    }
}

/// The file that an applied object is marked with.
fn file_of(object: &Object) -> Option<String> {
    #[derive(Deserialize)]
    struct View {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        annotations: Option<BTreeMap<String, Value>>,
    }
    let annotations = object.decode::<View>().ok()?.metadata.annotations?;
    annotations.get(FILE_ANNOTATION)?.as_str().map(str::to_owned)
}
