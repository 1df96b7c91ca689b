//! ResourceQuota: what a namespace may use in all is charged before it is used, and never more than there is.
//!
//! Whoever writes into a namespace leaves a charge at the namespace's desk. One task per desk takes all the charges that
//! wait there, checks them one after the other against the quotas as they are, and writes each quota once, by comparing
//! its revision: two apiservers over one store do not give out the same room twice. What is charged for a write that
//! fails afterwards is found by the quota controller when it counts anew.

mod check;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::quota::Subject;
use coracle_client::{ApiError, Object, Resource, WriteOptions};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, ResourceQuota as Quota, Service};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Attributes, Operation, Plugin};
use crate::api::Api;
use crate::authn::Identity;
use crate::object::ApiObject;
use crate::verbs::Call;
use crate::verbs::modify::{Part, modify};
use crate::watch_cache::Filter;
use check::Charge;

/// How often quotas that others changed meanwhile are charged anew.
const TRIES_MAX: usize = 8;

/// Who writes what is used.
const MANAGER: &str = "kube-apiserver";

#[derive(Default)]
pub struct ResourceQuota {
    desks: Desks,
}

/// The charges that wait, by namespace. A namespace that is in has a task at work.
type Desks = Arc<Mutex<HashMap<String, Vec<Waiting>>>>;

struct Waiting {
    charge: Charge,
    answer: oneshot::Sender<Result<(), ApiError>>,
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let Some(object) = object.filter(|_| counted(attributes)) else { return Ok(()) };
        let Some(namespace) = call.namespace.as_deref() else { return Ok(()) };
        if quotas(&call.api, namespace)?.is_empty() {
            return Ok(());
        }
        let (new, old) = (subject(object), attributes.old.map(subject));
        // What is one and no more is charged once.
        if matches!((&new, &old), (Subject::Other, Some(_))) {
            return Ok(());
        }
        let charge = Charge {
            resource: call.kind.resource().clone(),
            name: call.name().to_owned(),
            new,
            old,
            always: call.subresource.as_deref() == Some("status"),
            dry_run: call.options.dry_run,
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { charge, answer };
        let idle = {
            let mut desks = self.desks.lock();
            match desks.get_mut(namespace) {
                Some(desk) => {
                    desk.push(waiting);
                    false
                }
                None => desks.insert(namespace.to_owned(), vec![waiting]).is_none(),
            }
        };
        if idle {
            tokio::spawn(work(call.api.clone(), self.desks.clone(), namespace.to_owned()));
        }
        answered.await.unwrap_or_else(|_| Err(ApiError::internal("the quota's desk was closed")))
    }
}

/// Whether the write could change what is used.
fn counted(attributes: &Attributes<'_>) -> bool {
    let call = attributes.call;
    let resource = call.kind.resource();
    if *resource == Resource::of::<Event>() {
        return false;
    }
    let is = |other: Resource| *resource == other;
    match (call.subresource.as_deref(), attributes.operation) {
        (None, Operation::Create) => true,
        (None, Operation::Update) => {
            is(Resource::of::<Pod>())
                || is(Resource::of::<Service>())
                || is(Resource::of::<PersistentVolumeClaim>())
        }
        (Some("resize"), Operation::Update) => is(Resource::of::<Pod>()),
        (Some("status"), Operation::Update) => is(Resource::of::<PersistentVolumeClaim>()),
        _ => false,
    }
}

fn subject(object: &dyn ApiObject) -> Subject {
    let any = object.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        return Subject::Pod(Box::new(pod.clone()));
    }
    if let Some(claim) = any.downcast_ref::<PersistentVolumeClaim>() {
        return Subject::Claim(Box::new(claim.clone()));
    }
    match any.downcast_ref::<Service>() {
        Some(service) => Subject::Service(Box::new(service.clone())),
        None => Subject::Other,
    }
}

/// The quotas of a namespace as they are now.
fn quotas(api: &Api, namespace: &str) -> Result<Vec<Arc<Object>>, ApiError> {
    let kind = api.kind(&Resource::of::<Quota>())?;
    let filter = Filter { namespace: Some(namespace.to_owned()), ..Filter::default() };
    Ok(kind.cache.list(&filter, None, None, None, 0).map(|page| page.objects).unwrap_or_default())
}

/// Takes what waits at a desk until nothing does.
async fn work(api: Arc<Api>, desks: Desks, namespace: String) {
    loop {
        let batch = {
            let mut desks = desks.lock();
            match desks.get_mut(&namespace) {
                Some(desk) if !desk.is_empty() => std::mem::take(desk),
                _ => {
                    desks.remove(&namespace);
                    return;
                }
            }
        };
        let (charges, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.charge, w.answer)).unzip();
        let results = settle(&api, &namespace, &charges).await;
        for (answer, result) in answers.into_iter().zip(results) {
            // Nobody listens any more: the request is gone, and what it was charged with it at the next count.
            let _ = answer.send(result);
        }
    }
}

/// Charges all, and says of each whether there was room for it.
async fn settle(api: &Arc<Api>, namespace: &str, charges: &[Charge]) -> Vec<Result<(), ApiError>> {
    let mut results: Vec<Result<(), ApiError>> = charges.iter().map(|_| Ok(())).collect();
    // The quotas that were changed by others while they were charged; None: all are still to be charged.
    let mut again: Option<HashSet<String>> = None;
    for _ in 0..TRIES_MAX {
        let listed = match quotas(api, namespace).and_then(|list| decode(&list, again.as_ref())) {
            Ok(listed) => listed,
            Err(error) => return all(results, &error),
        };
        let (mut books, revisions): (Vec<Quota>, Vec<u64>) = listed.into_iter().unzip();
        let mut touched = vec![false; books.len()];
        for (charge, result) in charges.iter().zip(&mut results).filter(|(_, result)| result.is_ok()) {
            match check::charge(&books, charge) {
                Err(error) => *result = Err(error),
                Ok(changes) if charge.dry_run => drop(changes),
                Ok(changes) => {
                    for (at, used) in changes {
                        if let (Some(book), Some(touched)) = (books.get_mut(at), touched.get_mut(at)) {
                            book.status.get_or_insert_default().used = Some(used);
                            *touched = true;
                        }
                    }
                }
            }
        }
        let mut conflicts = HashSet::new();
        for ((book, revision), _) in
            books.into_iter().zip(revisions).zip(touched).filter(|(_, touched)| *touched)
        {
            let name = book.metadata.name.clone().unwrap_or_default();
            match write(api, namespace, book, revision).await {
                Ok(()) => {}
                Err(error) if error.is_conflict() => drop(conflicts.insert(name)),
                // It is gone: it limits nothing.
                Err(error) if error.is_not_found() => {}
                Err(error) => return all(results, &error),
            }
        }
        if conflicts.is_empty() {
            return results;
        }
        again = Some(conflicts);
    }
    let error = ApiError::conflict(
        &Resource::of::<Quota>(),
        again.iter().flatten().next().map_or("", String::as_str),
        coracle_client::status::MODIFIED,
    );
    all(results, &error)
}

fn all(results: Vec<Result<(), ApiError>>, error: &ApiError) -> Vec<Result<(), ApiError>> {
    results.into_iter().map(|result| result.and_then(|()| Err(error.clone()))).collect()
}

fn decode(objects: &[Arc<Object>], only: Option<&HashSet<String>>) -> Result<Vec<(Quota, u64)>, ApiError> {
    let wanted = objects.iter().filter(|o| only.is_none_or(|only| only.contains(&*o.head.name)));
    wanted.map(|object| Ok((object.decode()?, object.head.resource_version))).collect()
}

/// Writes what is used, if the quota is still the one it was read from.
async fn write(api: &Arc<Api>, namespace: &str, book: Quota, revision: u64) -> Result<(), ApiError> {
    let kind = api.kind(&Resource::of::<Quota>())?;
    let call = Call {
        namespace: Some(namespace.to_owned()),
        name: book.metadata.name.clone(),
        subresource: Some("status".into()),
        options: WriteOptions { field_manager: Some(MANAGER.into()), ..WriteOptions::default() },
        ..Call::new(api, &kind, Identity::new("system:apiserver", &["system:masters"]))
    };
    let mut book = book;
    book.metadata.resource_version = Some(revision.to_string());
    modify(&call, Part::Status, |_| Ok(book.clone_box())).await.map(drop)
}
