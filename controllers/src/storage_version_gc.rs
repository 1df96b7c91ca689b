//! Takes servers out of the StorageVersions whose identity Lease is gone.

use std::collections::BTreeSet;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::storage_versions::{IDENTITY, IDENTITY_LABEL, IDENTITY_NAMESPACE, retain};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use k8s_openapi::api::coordination::v1::Lease;

use crate::context::Context;

/// Index of StorageVersions by the servers in them.
const BY_SERVER: &str = "status.storageVersions.apiServerID";

pub async fn run(context: Context) {
    if !context.serves::<StorageVersion>().await {
        return;
    }
    let scope = InformerScope {
        namespace: Some(IDENTITY_NAMESPACE.into()),
        label_selector: Some(format!("{IDENTITY_LABEL}={IDENTITY}")),
        ..InformerScope::default()
    };
    let controller = Controller {
        client: context.client.clone(),
        versions: context.of::<StorageVersion>(),
        leases: context.scoped(Resource::of::<Lease>(), scope),
    };
    controller.versions.add_index(BY_SERVER, |object| servers(object).into_iter().map(Box::from).collect());
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.versions.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    let (added, versions) = (queue.clone(), controller.versions.clone());
    controller.leases.on_change(move |change: &Change| {
        if change.new.is_none() {
            let of_it = versions.by_index(BY_SERVER, &change.object().head.name);
            of_it.iter().for_each(|version| added.add(version.key()));
        }
    });
    context.work(controller, queue).await;
}

fn servers(object: &Object) -> BTreeSet<String> {
    let version: Option<StorageVersion> = object.decode().ok();
    let entries = version.and_then(|version| version.status?.storage_versions).unwrap_or_default();
    entries.into_iter().map(|entry| entry.api_server_id).collect()
}

struct Controller {
    client: Client,
    versions: Informer,
    leases: Informer,
}

impl Controller {
    async fn lives(&self, server: &str) -> Result<bool, ApiError> {
        if self.leases.get(IDENTITY_NAMESPACE, server).is_some() {
            return Ok(true);
        }
        // One that has just come may not be seen here yet.
        let lease: Option<Lease> = self.client.find(IDENTITY_NAMESPACE, server).await?;
        let labels = lease.and_then(|lease| lease.metadata.labels).unwrap_or_default();
        Ok(labels.get(IDENTITY_LABEL).map(String::as_str) == Some(IDENTITY))
    }
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "storageversion-garbage-collector-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.versions.get_key(key) else { return Ok(Outcome::Done) };
        let mut live = BTreeSet::new();
        for server in servers(&object) {
            if self.lives(&server).await? {
                live.insert(server);
            }
        }
        let mut version: StorageVersion = object.decode()?;
        if !retain(&mut version, |server| live.contains(server), Timestamp::now()) {
            return Ok(Outcome::Done);
        }
        let done = if live.is_empty() {
            let options = DeleteOptions::default().uid(&object.head.uid);
            self.client.delete::<StorageVersion>("", &key.name, options).await
        } else {
            self.client.update_status(&version).await.map(drop)
        };
        match done {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    #[tokio::test(start_paused = true)]
    async fn servers_without_a_lease_are_taken_out() {
        let cluster = Cluster::new();
        let lease = |name: &str, identity: &str| {
            from::<Lease>(json!({"metadata": {"namespace": IDENTITY_NAMESPACE, "name": name,
                "labels": {IDENTITY_LABEL: identity}}, "spec": {}}))
        };
        for (name, identity) in [("a", IDENTITY), ("b", IDENTITY), ("not-a-server", "other")] {
            cluster.fake.put(&lease(name, identity)).unwrap();
        }
        let version = |name: &str, servers: &[&str]| {
            let entries = servers.iter().map(|server| {
                let encoding = if *server == "b" { "v2" } else { "v1" };
                json!({"apiServerID": server, "encodingVersion": encoding, "decodableVersions": [encoding]})
            });
            from::<StorageVersion>(json!({"metadata": {"name": name}, "spec": {},
                "status": {"storageVersions": entries.collect::<Vec<_>>()}}))
        };
        cluster.fake.put(&version("core.pods", &["a", "b"])).unwrap();
        cluster.fake.put(&version("core.events", &["a", "nobody", "not-a-server"])).unwrap();
        cluster.fake.put(&version("x.gone", &["nobody"])).unwrap();
        cluster.start(|c| Box::pin(super::run(c)));
        let of = |f: &coracle_client::fake::Fake, name: &str| -> Option<Vec<String>> {
            let status = f.get::<StorageVersion>("", name)?.status;
            Some(status?.storage_versions.into_iter().flatten().map(|e| e.api_server_id).collect())
        };
        cluster.until("who never was is out", |f| of(f, "core.events") == Some(vec!["a".into()])).await;
        cluster.until("what nobody stores is gone", |f| of(f, "x.gone").is_none()).await;
        assert_eq!(of(&cluster.fake, "core.pods").unwrap(), ["a", "b"]);
        let options = DeleteOptions::default();
        cluster.context.client.delete::<Lease>(IDENTITY_NAMESPACE, "b", options).await.unwrap();
        cluster.until("b is out", |f| of(f, "core.pods") == Some(vec!["a".into()])).await;
        let status = cluster.fake.get::<StorageVersion>("", "core.pods").unwrap().status.unwrap();
        assert_eq!(status.common_encoding_version.as_deref(), Some("v1"));
        assert_eq!(status.conditions.unwrap()[0].status, "True");
    }
}
