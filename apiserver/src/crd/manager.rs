//! Keeps what is served in step with the definitions: a definition in, its present state read, never the event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{ApiError, Object, Resource};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionStatus,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::conditions::{self, FINALIZER, Taken, condition, is_true};
use super::definition;
use super::kind::CustomKind;
use super::service::Plan;
use crate::api::Api;
use crate::authn::Identity;
use crate::object::ApiObject;
use crate::served::Served;
use crate::verbs::modify::{Part, modify};
use crate::verbs::{Call, delete};
use crate::watch_cache::{Filter, From, ResourceCache, store_error};

/// How long a step that failed waits before it is made again.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is served of one definition.
struct Serving {
    of: Made,
    resource: Resource,
    plan: Arc<CustomKind>,
    cache: Arc<ResourceCache>,
}

/// What of a definition decides what is served: made anew when any of it changes.
#[derive(PartialEq)]
struct Made {
    uid: String,
    generation: i64,
    names: CustomResourceDefinitionNames,
    stored: Vec<String>,
    terminating: bool,
}

pub struct Manager {
    api: Arc<Api>,
    identity: Identity,
    serving: BTreeMap<String, Serving>,
    /// Definitions whose instances are being deleted, by uid.
    emptying: BTreeSet<String>,
}

impl Manager {
    /// Serves what is defined already, and follows the definitions until shutdown.
    pub async fn start(api: Arc<Api>, shutdown: CancellationToken) -> Result<(), ApiError> {
        let identity = Identity::new("system:apiserver", &["system:masters"]);
        let mut manager = Self { api, identity, serving: BTreeMap::new(), emptying: BTreeSet::new() };
        let definitions = manager.definitions()?;
        for name in definitions.keys() {
            if let Err(error) = manager.reconcile(name, &definitions).await {
                warn!(name, %error, "a custom resource definition cannot be served yet");
            }
        }
        tokio::spawn(async move { manager.run(shutdown).await });
        Ok(())
    }

    fn kind(&self) -> Result<Arc<Served>, ApiError> {
        self.api.kind(&Resource::of::<CustomResourceDefinition>())
    }

    /// All definitions as they are now.
    fn definitions(&self) -> Result<BTreeMap<String, CustomResourceDefinition>, ApiError> {
        let page = self.kind()?.cache.list(&Filter::default(), None, None, None, self.api.cache.revision());
        let objects = page.map(|page| page.objects).unwrap_or_default();
        let decoded =
            objects.iter().filter_map(|object| Some((object.head.name.to_string(), decode(object)?)));
        Ok(decoded.collect())
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut retry = RETRY;
        loop {
            let followed = tokio::select! {
                followed = self.follow() => followed,
                () = shutdown.cancelled() => return,
            };
            match followed {
                Ok(()) => retry = RETRY,
                Err(error) => {
                    warn!(%error, "following the custom resource definitions; taking it up again");
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(retry) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Until the watch ends, or a step failed.
    async fn follow(&mut self) -> Result<(), ApiError> {
        let cache = self.kind()?.cache.clone();
        let watch = cache.watch(Filter::default(), From::Now, self.api.cache.revision());
        let mut watch = watch.map_err(|_| ApiError::internal("the cache of definitions is behind"))?;
        let mut changed: BTreeSet<String> =
            watch.initial.iter().map(|d| d.object.head.name.to_string()).collect();
        changed.extend(self.serving.keys().cloned());
        loop {
            while let Ok(delivery) = watch.receiver.try_recv() {
                changed.insert(delivery.object.head.name.to_string());
            }
            let mut failed = None;
            while !changed.is_empty() {
                let definitions = self.definitions()?;
                // Names that somebody gave up may be what others wait for.
                let waiting =
                    definitions.iter().filter(|(_, d)| !is_true(d.status.as_ref(), "NamesAccepted"));
                changed.extend(waiting.map(|(name, _)| name.clone()));
                for name in std::mem::take(&mut changed) {
                    if let Err(error) = self.reconcile(&name, &definitions).await {
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            match watch.receiver.recv().await {
                Some(delivery) => drop(changed.insert(delivery.object.head.name.to_string())),
                None => return Ok(()),
            }
        }
    }

    async fn reconcile(
        &mut self,
        name: &str,
        definitions: &BTreeMap<String, CustomResourceDefinition>,
    ) -> Result<(), ApiError> {
        let Some(definition) = definitions.get(name) else {
            self.stop(name)?;
            return Ok(());
        };
        let others = definitions.iter().filter(|(other, _)| *other != name).map(|(_, other)| other);
        let taken = Taken::by(&definition.spec.group, others);
        let violations = definition::violations(definition);
        let status = conditions::settled(definition, &taken, &violations, Timestamp::now());
        let established = is_true(Some(&status), "Established");
        if established {
            // Served first: who sees the condition finds the resource.
            self.serve(name, definition, &status).await?;
        }
        if definition.status.as_ref() != Some(&status) {
            self.write(name, |current| {
                let fresh = conditions::settled(current, &taken, &violations, Timestamp::now());
                current.status = Some(fresh);
            })
            .await?;
        }
        let meta = &definition.metadata;
        let held = meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
        if meta.deletion_timestamp.is_some() && held {
            let uid = meta.uid.clone().unwrap_or_default();
            if self.emptying.insert(uid.clone()) {
                self.empty(name, established);
            }
        }
        Ok(())
    }

    /// Takes a definition's resource out of service.
    fn stop(&mut self, name: &str) -> Result<(), ApiError> {
        let Some(serving) = self.serving.remove(name) else { return Ok(()) };
        self.emptying.remove(&serving.of.uid);
        self.api.serve(name, Vec::new()).map_err(ApiError::internal)?;
        self.api.cache.remove(&serving.resource);
        info!(name, "a custom resource is no longer served");
        Ok(())
    }

    async fn serve(
        &mut self,
        name: &str,
        definition: &CustomResourceDefinition,
        status: &CustomResourceDefinitionStatus,
    ) -> Result<(), ApiError> {
        let of = Made {
            uid: definition.metadata.uid.clone().unwrap_or_default(),
            generation: definition.metadata.generation.unwrap_or(0),
            names: status.accepted_names.clone().unwrap_or_default(),
            stored: status.stored_versions.clone().unwrap_or_default(),
            terminating: definition.metadata.deletion_timestamp.is_some(),
        };
        let before = self.serving.get(name);
        if before.is_some_and(|before| before.of == of) {
            return Ok(());
        }
        let Some(plan) = Plan::of(definition, status, &self.api) else { return Ok(()) };
        // Objects and watches stay where what is stored is read as before.
        let kept =
            before.filter(|before| before.of.uid == of.uid && plan.reads_as(&before.plan, &before.cache));
        let cache = match kept {
            Some(before) => before.cache.clone(),
            None => {
                let cache = plan.cache();
                self.api.cache.add(cache.clone(), &*self.api.store).await.map_err(store_error)?;
                cache
            }
        };
        let (resource, storage) = (plan.resource.clone(), plan.storage.clone());
        self.api.serve(name, plan.served(&cache)).map_err(ApiError::internal)?;
        self.serving.insert(name.to_owned(), Serving { of, resource, plan: storage, cache });
        Ok(())
    }

    async fn write(
        &self,
        name: &str,
        change: impl FnMut(&mut CustomResourceDefinition) + Send,
    ) -> Result<(), ApiError> {
        write(&self.api, &self.identity, name, change).await
    }

    /// Deletes the instances of a definition, then lets it go.
    fn empty(&self, name: &str, established: bool) {
        let (api, identity, name) = (self.api.clone(), self.identity.clone(), name.to_owned());
        tokio::spawn(async move {
            let mut retry = RETRY;
            loop {
                let emptied = tokio::select! {
                    emptied = empty(&api, &identity, &name, established) => emptied,
                    () = api.shutdown.cancelled() => return,
                };
                match emptied {
                    Ok(()) => return,
                    Err(error) if error.is_not_found() => return,
                    Err(error) => {
                        warn!(name, %error, "deleting the instances of a custom resource definition")
                    }
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        });
    }
}

fn decode(object: &Object) -> Option<CustomResourceDefinition> {
    object
        .decode()
        .inspect_err(|error| warn!(name = &*object.head.name, %error, "a stored definition does not decode"))
        .ok()
}

async fn write(
    api: &Arc<Api>,
    identity: &Identity,
    name: &str,
    mut change: impl FnMut(&mut CustomResourceDefinition) + Send,
) -> Result<(), ApiError> {
    let kind = api.kind(&Resource::of::<CustomResourceDefinition>())?;
    let call = Call { name: Some(name.to_owned()), ..Call::new(api, &kind, identity.clone()) };
    let changed = modify(&call, Part::Whole, |current| {
        let mut object = current.typed.clone_box();
        if let Some(definition) = object.as_any_mut().downcast_mut::<CustomResourceDefinition>() {
            change(definition);
        }
        Ok(object as Box<dyn ApiObject>)
    });
    match changed.await {
        Err(error) if error.is_not_found() => Ok(()),
        changed => changed.map(drop),
    }
}

async fn empty(api: &Arc<Api>, identity: &Identity, name: &str, established: bool) -> Result<(), ApiError> {
    const TYPE: &str = "Terminating";
    let say = |status: bool, reason: &'static str, message: &'static str, release: bool| {
        move |definition: &mut CustomResourceDefinition| {
            let status_of = definition.status.get_or_insert_default();
            conditions::set(status_of, condition(TYPE, status, reason, message), Timestamp::now());
            if release && let Some(finalizers) = &mut definition.metadata.finalizers {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
        }
    };
    if !established {
        let done = say(false, "NeverEstablished", "resource was never established", true);
        return write(api, identity, name, done).await;
    }
    let busy = say(true, "InstanceDeletionInProgress", "CustomResource deletion is in progress", false);
    write(api, identity, name, busy).await?;
    let table = api.table();
    if let Some(kind) = table.kinds().iter().find(|kind| kind.resource().qualified() == name) {
        let call = Call::new(api, kind, identity.clone());
        // The watch begins before the look, so the last to go is seen going.
        let watch = kind.cache.watch(Filter::default(), From::Now, api.cache.revision());
        let mut watch = watch.map_err(|_| ApiError::internal("the cache of instances is behind"))?;
        for instance in watch.initial.iter().map(|delivery| &delivery.object) {
            let namespace = Some(&*instance.head.namespace).filter(|namespace| !namespace.is_empty());
            let call = call.on(namespace, &instance.head.name);
            match delete::delete(&call, &delete::Options::default()).await {
                Err(error) if error.is_not_found() => {}
                result => drop(result?),
            }
        }
        while !kind.cache.is_empty() {
            if watch.receiver.recv().await.is_none() {
                return Err(ApiError::internal("the watch of the instances ended"));
            }
        }
    }
    write(api, identity, name, say(false, "InstanceDeletionCompleted", "removed all instances", true)).await
}
