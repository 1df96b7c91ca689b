//! Garbage collector: deletes what its owners left behind, waits for dependents where a deletion is in the
//! foreground, and lets them go where it orphans.

mod follow;
mod graph;
mod plan;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Object, Owner, PatchType, Propagation, Request, Uid,
    Verb, WorkQueue, WriteOptions,
};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use graph::{Graph, Place, Target};
use plan::{Action, FOREGROUND, Item, ORPHAN, Standing};

/// Upstream's figure for --concurrent-gc-syncs.
const WORKERS: usize = 20;
/// Owners remembered as absent; uids never come back, so forgetting costs a lookup and nothing else.
const ABSENT_MAX: usize = 4096;

pub async fn run(context: Context) {
    let mut served = context.served();
    let graph = Graph::default();
    if !follow::start(&context, &mut served, &graph).await {
        return;
    }
    let queue = WorkQueue::new();
    for informer in graph.informers().iter() {
        watch(informer, &graph, &queue);
    }
    follow::follow(&context, served, &graph, &queue);
    let controller = Controller {
        client: context.client.clone(),
        graph,
        events: context.recorder("garbage-collector-controller"),
        absent: Mutex::default(),
    };
    context.work_with(controller, queue, WORKERS).await;
}

fn watch(informer: &Informer, graph: &Graph, queue: &WorkQueue<Place>) {
    let (resource, graph, queue) = (informer.resource().clone(), graph.clone(), queue.clone());
    informer.on_change(move |change: &Change| {
        let place = Place { resource: resource.clone(), key: change.key() };
        concerned(&graph, place, change).into_iter().for_each(|place| queue.add(place));
    });
}

/// The objects to look at again after a change.
fn concerned(graph: &Graph, place: Place, change: &Change) -> Vec<Place> {
    let owners =
        |object: &Option<Arc<Object>>| object.as_ref().map(|o| o.head.owners.clone()).unwrap_or_default();
    let (before, after) = (owners(&change.old), owners(&change.new));
    let mut places = Vec::new();
    // Whoever waits for this object may wait no longer.
    if change.new.is_none() || before != after {
        let waiting = before.iter().filter_map(|owner| match graph.target(owner, &place.key.namespace) {
            Target::Place(owner) => graph.get(&owner).filter(|o| o.head.deleting).map(|_| owner),
            _ => None,
        });
        places.extend(waiting);
    }
    let same_uid = |old: &Arc<Object>| change.new.as_ref().is_some_and(|new| new.head.uid == old.head.uid);
    if let Some(gone) = change.old.as_ref().filter(|old| !same_uid(old)) {
        places.extend(graph.dependents(&gone.head.uid).into_iter().map(|(place, _)| place));
    }
    if let Some(new) = &change.new
        && (!after.is_empty() && before != after || new.head.deleting && new.head.has_finalizers)
    {
        places.push(place);
    }
    places
}

struct Controller {
    client: Client,
    graph: Graph,
    events: EventRecorder,
    absent: Mutex<HashSet<Uid>>,
}

impl Reconciler for Controller {
    type Key = Place;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    async fn reconcile(&self, place: &Place) -> Result<Outcome, ApiError> {
        let Some(object) = self.graph.get(place) else { return Ok(Outcome::Done) };
        if object.head.deleting {
            let finalizers = graph::finalizers(&object);
            let has = |name: &str| finalizers.iter().any(|f| f == name);
            if has(ORPHAN) {
                self.orphan(place, &object).await?;
            } else if has(FOREGROUND) {
                self.wait_for_dependents(place, &object).await?;
            }
            return Ok(Outcome::Done);
        }
        if object.head.owners.is_empty() || self.all_solid(place, &object) {
            return Ok(Outcome::Done);
        }
        self.judge(place, &object).await?;
        Ok(Outcome::Done)
    }
}

impl Controller {
    /// The common case, settled without asking the API.
    fn all_solid(&self, place: &Place, object: &Object) -> bool {
        object.head.owners.iter().all(|owner| match self.graph.target(owner, &place.key.namespace) {
            Target::Place(target) => self
                .graph
                .get(&target)
                .is_some_and(|found| found.head.uid == owner.uid && !graph::waits(&found)),
            Target::Unknown => true,
            Target::Invalid => false,
        })
    }

    async fn judge(&self, place: &Place, seen: &Object) -> Result<(), ApiError> {
        let Some(object) = self.live(place).await?.filter(|o| o.head.uid == seen.head.uid) else {
            return Ok(());
        };
        if object.head.deleting {
            return Ok(());
        }
        let mut owners = Vec::with_capacity(object.head.owners.len());
        for owner in object.head.owners.iter() {
            owners.push((owner.clone(), self.standing(place, &object, owner).await?));
        }
        let dependents = self.graph.dependents(&object.head.uid);
        let item = Item {
            owners: &owners,
            finalizers: &graph::finalizers(&object),
            has_dependents: !dependents.is_empty(),
            dependent_waits: dependents.iter().any(|(_, dependent)| graph::waits(dependent)),
        };
        match plan::plan(&item) {
            Action::Nothing => Ok(()),
            Action::Disown(uids) => {
                self.change_references(place, &object, |all| {
                    all.retain(|r| !uids.iter().any(|u| **u == r.uid))
                })
                .await
            }
            Action::Unblock => {
                self.change_references(place, &object, |all| {
                    all.iter_mut().for_each(|reference| reference.block_owner_deletion = Some(false));
                })
                .await?;
                self.delete(place, &object, Propagation::Foreground, false).await
            }
            Action::Delete(policy) => self.delete(place, &object, policy, true).await,
        }
    }

    async fn standing(&self, place: &Place, object: &Object, owner: &Owner) -> Result<Standing, ApiError> {
        let target = match self.graph.target(owner, &place.key.namespace) {
            Target::Place(target) => target,
            Target::Unknown => return Ok(Standing::Solid),
            Target::Invalid => {
                let message =
                    format!("cluster-scoped dependent cannot have namespaced owner kind {}", owner.kind);
                self.complain(place, object, message);
                return Ok(Standing::Solid);
            }
        };
        let standing = |found: &Object| {
            if found.head.uid != owner.uid {
                Standing::Absent
            } else if graph::waits(found) {
                Standing::Waiting
            } else {
                Standing::Solid
            }
        };
        if let Some(found) = self.graph.get(&target).filter(|found| found.head.uid == owner.uid) {
            return Ok(standing(&found));
        }
        if self.absent.lock().contains(&owner.uid) {
            return Ok(Standing::Absent);
        }
        if let Some(found) = self.live(&target).await?
            && found.head.uid == owner.uid
        {
            return Ok(standing(&found));
        }
        if self.graph.elsewhere(&target, &owner.uid) {
            let message = format!(
                "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
                owner.api_version,
                owner.kind,
                place.key.namespace,
                owner.name,
                owner.uid,
                place.key.namespace
            );
            self.complain(place, object, message);
        } else {
            let mut absent = self.absent.lock();
            if absent.len() >= ABSENT_MAX {
                absent.clear();
            }
            absent.insert(owner.uid.clone());
        }
        Ok(Standing::Absent)
    }

    fn complain(&self, place: &Place, object: &Object, message: String) {
        let about = ObjectReference {
            api_version: Some(place.resource.api_version()),
            kind: Some(place.resource.kind().into()),
            namespace: Some(place.key.namespace.to_string()).filter(|n| !n.is_empty()),
            name: Some(place.key.name.to_string()),
            uid: Some(object.head.uid.to_string()),
            ..ObjectReference::default()
        };
        self.events.event_for(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// Deleted in the foreground: its dependents go, and once none is left that blocks it, it goes too.
    async fn wait_for_dependents(&self, place: &Place, object: &Object) -> Result<(), ApiError> {
        let uid = &object.head.uid;
        let mut blocked = false;
        for (dependent_place, dependent) in self.graph.dependents(uid) {
            blocked |= dependent.head.owners.iter().any(|o| o.uid == *uid && o.block_owner_deletion);
            if !dependent.head.deleting {
                self.judge(&dependent_place, &dependent).await?;
            }
        }
        if blocked {
            return Ok(());
        }
        self.drop_finalizer(place, object, FOREGROUND).await
    }

    async fn orphan(&self, place: &Place, object: &Object) -> Result<(), ApiError> {
        let uid = &object.head.uid;
        for (dependent_place, _) in self.graph.dependents(uid) {
            let Some(dependent) = self.live(&dependent_place).await? else { continue };
            if dependent.head.owners.iter().any(|o| o.uid == *uid) {
                self.change_references(&dependent_place, &dependent, |all| all.retain(|r| *r.uid != **uid))
                    .await?;
            }
        }
        self.drop_finalizer(place, object, ORPHAN).await
    }

    async fn live(&self, place: &Place) -> Result<Option<Arc<Object>>, ApiError> {
        match self.client.get_object(&place.resource, &place.key.namespace, &place.key.name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `unchanged`: only in the very version that was judged.
    async fn delete(
        &self,
        place: &Place,
        object: &Object,
        policy: Propagation,
        unchanged: bool,
    ) -> Result<(), ApiError> {
        let mut options = DeleteOptions::propagation(policy).uid(&object.head.uid);
        if unchanged {
            let version = object.head.resource_version.to_string();
            options.preconditions.get_or_insert_default().resource_version = Some(version);
        }
        gone_is_fine(
            self.client.delete_object(&place.resource, &place.key.namespace, &place.key.name, options).await,
        )
    }

    async fn change_references(
        &self,
        place: &Place,
        object: &Object,
        change: impl FnOnce(&mut Vec<OwnerReference>),
    ) -> Result<(), ApiError> {
        #[derive(Deserialize)]
        struct View {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            #[serde(default)]
            owner_references: Vec<OwnerReference>,
        }
        let mut references = object.decode::<View>()?.metadata.owner_references;
        change(&mut references);
        self.patch(place, object, json!({"ownerReferences": Some(references).filter(|r| !r.is_empty())}))
            .await
    }

    async fn drop_finalizer(&self, place: &Place, object: &Object, name: &str) -> Result<(), ApiError> {
        let mut finalizers = graph::finalizers(object);
        finalizers.retain(|f| f != name);
        self.patch(place, object, json!({"finalizers": Some(finalizers).filter(|f| !f.is_empty())})).await
    }

    /// Changes metadata of the very version that was looked at.
    async fn patch(&self, place: &Place, object: &Object, mut metadata: Value) -> Result<(), ApiError> {
        metadata["uid"] = json!(object.head.uid);
        metadata["resourceVersion"] = json!(object.head.resource_version.to_string());
        let mut request = Request::new(Verb::Patch(PatchType::Merge), place.resource.clone());
        request.namespace = Some(place.key.namespace.to_string()).filter(|n| !n.is_empty());
        request.name = Some(place.key.name.to_string());
        request.options = WriteOptions {
            field_manager: Some(self.client.field_manager().to_owned()),
            ..WriteOptions::default()
        };
        request.body = Bytes::from(serde_json::to_vec(&json!({"metadata": metadata}))?);
        gone_is_fine(self.client.raw(request).await.map(drop))
    }
}

fn gone_is_fine(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests;
