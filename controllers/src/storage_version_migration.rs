//! StorageVersionMigrations: every object of a resource is written again, so that it is stored in the current version.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::discovery::ServedResource;
use coracle_client::{
    ApiError, Change, Client, Informer, Key, ListOptions, Object, PatchType, Request, Resource, Verb,
    WorkQueue, WriteOptions,
};
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::{StorageVersionMigration, StorageVersionMigrationStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use crate::context::Context;

const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
const PAGE: u64 = 500;

pub async fn run(context: Context) {
    if !context.serves::<StorageVersionMigration>().await {
        return;
    }
    let controller =
        Controller { client: context.client.clone(), migrations: context.of::<StorageVersionMigration>() };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.migrations.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    // One at a time: each rewrites a whole resource.
    context.work_with(controller, queue, 1).await;
}

fn is(migration: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = migration.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

/// The status with that condition true; what ran has ended when another one is.
fn with_condition(
    status: &StorageVersionMigrationStatus,
    kind: &str,
    message: &str,
    now: Timestamp,
) -> StorageVersionMigrationStatus {
    let mut status = status.clone();
    let conditions = status.conditions.get_or_insert_default();
    let reason = match kind {
        RUNNING => "StorageVersionMigrationInProgress",
        SUCCEEDED => "StorageVersionMigrationSucceeded",
        _ => "StorageVersionMigrationFailed",
    };
    if kind != RUNNING {
        for condition in conditions.iter_mut().filter(|c| c.type_ == RUNNING && c.status == "True") {
            condition.status = "False".into();
            condition.last_transition_time = Time(now);
        }
    }
    conditions.retain(|c| c.type_ != kind);
    conditions.push(Condition {
        type_: kind.into(),
        status: "True".into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    });
    status
}

struct Controller {
    client: Client,
    migrations: Informer,
}

impl Controller {
    /// Asked each time: migrations are rare, and often of what has just been defined.
    async fn resource(&self, group: &str, plural: &str) -> Result<Option<Resource>, ApiError> {
        let served = self.client.discover().await?.resources;
        let is_it = |r: &ServedResource| {
            r.resource.group() == group && r.resource.plural() == plural && r.can("list") && r.can("patch")
        };
        Ok(served.into_iter().find(is_it).map(|r| r.resource))
    }

    async fn say(
        &self,
        migration: &mut StorageVersionMigration,
        kind: &str,
        message: &str,
    ) -> Result<(), ApiError> {
        let status = migration.status.clone().unwrap_or_default();
        migration.status = Some(with_condition(&status, kind, message, Timestamp::now()));
        *migration = self.client.update_status(migration).await?.decode()?;
        Ok(())
    }

    /// Writes each object as it is. What is gone or written by another meanwhile needs no more.
    async fn migrate(&self, resource: &Resource) -> Result<(), ApiError> {
        let mut continue_token = None;
        loop {
            let options = ListOptions { limit: Some(PAGE), continue_token, ..ListOptions::default() };
            let page = self.client.list_objects(resource, "", options).await?;
            for object in &page.items {
                match self.rewrite(resource, object).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                    _ => {}
                }
            }
            match page.continue_token.filter(|token| !token.is_empty()) {
                Some(token) => continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    async fn rewrite(&self, resource: &Resource, object: &Object) -> Result<(), ApiError> {
        let head = &object.head;
        let mut request = Request::new(Verb::Patch(PatchType::Merge), resource.clone());
        request.namespace = Some(head.namespace.to_string()).filter(|n| !n.is_empty());
        request.name = Some(head.name.to_string());
        request.options = WriteOptions {
            field_manager: Some("storage-version-migrator-controller".into()),
            ..WriteOptions::default()
        };
        let patch =
            json!({"metadata": {"uid": head.uid, "resourceVersion": head.resource_version.to_string()}});
        request.body = serde_json::to_vec(&patch)?.into();
        self.client.raw(request).await.map(drop)
    }
}

/// Whether trying again may help.
fn is_transient(error: &ApiError) -> bool {
    matches!(error.code(), 0 | 408 | 429 | 500 | 503 | 504)
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "storage-version-migrator-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.migrations.get_key(key) else { return Ok(Outcome::Done) };
        let mut migration: StorageVersionMigration = object.decode()?;
        if is(&migration, SUCCEEDED) || is(&migration, FAILED) || object.head.deleting {
            return Ok(Outcome::Done);
        }
        let asked = migration.spec.clone().unwrap_or_default().resource;
        let Some(resource) = self.resource(&asked.group, &asked.resource).await? else {
            self.say(&mut migration, FAILED, "resource does not exist in the API").await?;
            return Ok(Outcome::Done);
        };
        if !is(&migration, RUNNING) {
            let one = ListOptions { limit: Some(1), ..ListOptions::default() };
            let version = match self.client.list_objects(&resource, "", one).await {
                Ok(list) => list.resource_version,
                Err(error) if error.is_not_found() => {
                    self.say(&mut migration, FAILED, "resource does not exist in the API").await?;
                    return Ok(Outcome::Done);
                }
                Err(error) => return Err(error),
            };
            let status = migration.status.get_or_insert_default();
            status.resource_version.get_or_insert_with(|| version.to_string());
            self.say(&mut migration, RUNNING, "").await?;
        }
        match self.migrate(&resource).await {
            Ok(()) => self.say(&mut migration, SUCCEEDED, "").await?,
            Err(error) if is_transient(&error) => return Err(error),
            Err(error) => self.say(&mut migration, FAILED, &error.to_string()).await?,
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;
    use crate::testing::{Cluster, from};

    fn migration(resource: &str) -> StorageVersionMigration {
        from(
            json!({"metadata": {"name": resource}, "spec": {"resource": {"group": "", "resource": resource}}}),
        )
    }

    #[test]
    fn what_has_ended_does_not_run() {
        let running =
            with_condition(&StorageVersionMigrationStatus::default(), RUNNING, "", Timestamp::UNIX_EPOCH);
        let ended = with_condition(&running, SUCCEEDED, "", Timestamp::UNIX_EPOCH);
        let shown: Vec<_> = ended
            .conditions
            .unwrap()
            .into_iter()
            .map(|c| format!("{}={} {}", c.type_, c.status, c.reason))
            .collect();
        assert_eq!(
            shown,
            [
                "Running=False StorageVersionMigrationInProgress",
                "Succeeded=True StorageVersionMigrationSucceeded"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_object_is_written_and_the_end_is_said() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        for n in 0..3 {
            let map: ConfigMap = from(json!({"metadata": {"name": format!("m{n}"), "namespace": "ns"}}));
            client.create(&map).await.unwrap();
        }
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.fake.forget_requests();
        client.create(&migration("configmaps")).await.unwrap();
        client.create(&migration("nonsenses")).await.unwrap();
        let ends = |f: &coracle_client::fake::Fake, name: &str, kind: &str| {
            f.get::<StorageVersionMigration>("", name).is_some_and(|m| is(&m, kind))
        };
        cluster.until("succeeded", |f| ends(f, "configmaps", SUCCEEDED)).await;
        cluster.until("failed", |f| ends(f, "nonsenses", FAILED)).await;
        let written = cluster.fake.requests().iter().filter(|r| matches!(r.verb, Verb::Patch(_))).count();
        assert_eq!(written, 3);
        let done = cluster.fake.get::<StorageVersionMigration>("", "configmaps").unwrap();
        assert!(done.status.unwrap().resource_version.is_some());
    }
}
