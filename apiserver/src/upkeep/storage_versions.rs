//! This server's entries in the StorageVersions: in which version it stores each resource, and which it reads and serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::storage_versions::{IDENTITY_NAMESPACE, enter};
use coracle_client::{ApiError, Change, Client, Informers, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::{ServerStorageVersion, StorageVersion};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;

use super::made;
use crate::api::Api;
use crate::kinds::KindDef;

type Entries = BTreeMap<String, ServerStorageVersion>;

/// By the StorageVersion's name, `<group>.<resource>`. Resources that share their storage are one, by the first name
/// of them.
fn entries<'a>(kinds: impl Iterator<Item = &'a KindDef> + Clone, server: &str) -> Entries {
    let stored = kinds.clone().filter(|kind| kind.built_in && !kind.computed && kind.alias.is_none());
    stored
        .map(|kind| {
            let forms = kinds
                .clone()
                .filter(|form| form.alias.as_ref().is_some_and(|alias| alias.stored == kind.resource));
            let mut all: Vec<_> = std::iter::once(kind).chain(forms).map(|form| &form.resource).collect();
            all.sort_by_key(|resource| (resource.group(), resource.plural(), resource.version()));
            let named = all.first().copied().unwrap_or(&kind.resource);
            let group = if named.group().is_empty() { "core" } else { named.group() };
            let served = all.iter().filter(|resource| resource.group() == named.group());
            let entry = ServerStorageVersion {
                api_server_id: server.to_owned(),
                encoding_version: kind.resource.api_version(),
                decodable_versions: all.iter().map(|resource| resource.api_version()).collect(),
                served_versions: Some(served.map(|resource| resource.api_version()).collect()),
            };
            (format!("{group}.{}", named.plural()), entry)
        })
        .collect()
}

fn own(api: &Api, server: &str) -> Entries {
    entries(api.table().kinds().iter().map(|kind| &*kind.def), server)
}

async fn write(client: &Client, name: &str, entry: &ServerStorageVersion) -> Result<(), ApiError> {
    let mut version = match client.find::<StorageVersion>("", name).await? {
        Some(version) => version,
        None => {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            let version = StorageVersion { metadata, ..StorageVersion::default() };
            made(client.create(&version).await.map(drop))?;
            client.get("", name).await?
        }
    };
    if enter(&mut version, entry, Timestamp::now()) {
        client.update_status(&version).await?;
    }
    Ok(())
}

/// Before anything is written in these versions.
pub(super) async fn ensure(api: &Api, client: &Client, server: &str) -> Result<(), ApiError> {
    for (name, entry) in own(api, server) {
        loop {
            match write(client, &name, &entry).await {
                // Another server writes its own.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                done => break done?,
            }
        }
    }
    Ok(())
}

pub(super) async fn run(
    api: Arc<Api>,
    client: Client,
    server: String,
    informers: &Informers,
    shutdown: CancellationToken,
) {
    let versions = informers.of::<StorageVersion>();
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    versions.on_change(move |change: &Change| added.add(change.key()));
    versions.synced().await;
    let entries = own(&api, &server);
    entries.keys().for_each(|name| queue.add(Key::new("", name)));
    controller::run(Arc::new(Keeper { client, server, entries }), queue, 1, shutdown).await;
}

struct Keeper {
    client: Client,
    server: String,
    entries: Entries,
}

impl Reconciler for Keeper {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "storage-versions"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(entry) = self.entries.get(&*key.name) else { return Ok(Outcome::Done) };
        // Without it the controllers would take the entry out again; it is on its way back.
        if self.client.find::<Lease>(IDENTITY_NAMESPACE, &self.server).await?.is_none() {
            return Err(ApiError::internal("this server has no Lease"));
        }
        write(&self.client, &key.name, entry).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_share_their_storage_are_one() {
        let kinds = crate::kinds::all();
        let entries = entries(kinds.iter(), "me");
        for (name, encoding, decodable, served) in [
            ("core.pods", "v1", &["v1"][..], &["v1"][..]),
            ("apps.deployments", "apps/v1", &["apps/v1"], &["apps/v1"]),
            ("core.events", "v1", &["v1", "events.k8s.io/v1"], &["v1"]),
            (
                "autoscaling.horizontalpodautoscalers",
                "autoscaling/v2",
                &["autoscaling/v1", "autoscaling/v2"],
                &["autoscaling/v1", "autoscaling/v2"],
            ),
        ] {
            let entry = entries.get(name).unwrap_or_else(|| panic!("{name} of {:?}", entries.keys()));
            assert_eq!(entry.encoding_version, encoding, "{name}");
            assert_eq!(entry.decodable_versions, decodable, "{name}");
            assert_eq!(
                entry.served_versions.as_deref(),
                Some(&served.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{name}"
            );
        }
        for name in ["events.k8s.io.events", "metrics.k8s.io.pods"] {
            assert!(!entries.contains_key(name), "{name}");
        }
    }
}
