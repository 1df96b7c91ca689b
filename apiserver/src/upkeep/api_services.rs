//! Every version of a group that is served here has its APIService, and those of others say that they are not reached.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::{
    ApiError, Change, Client, DeleteOptions, Informer, Informers, Key, Resource, WorkQueue,
};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus, ServiceReference,
};
use tokio_util::sync::CancellationToken;

use super::made;
use crate::api::Api;
use crate::kinds::api_service::{AVAILABLE, locally_available, priorities};
use crate::subresources::REVIEWS;

/// On the objects that the server makes: `onstart` for its own groups, `true` for those of definitions.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Group and version, and whether they came with the server.
fn served(api: &Api) -> BTreeSet<(String, String, bool)> {
    let table = api.table();
    let kinds = table.kinds().iter().map(|kind| {
        let resource = kind.resource();
        (resource.group().to_owned(), resource.version().to_owned(), kind.def.built_in)
    });
    let reviews = REVIEWS.iter().map(|r| (r.group.to_owned(), r.version.to_owned(), true));
    // The group of these objects itself has none, as upstream.
    let own = Resource::of::<APIService>();
    kinds.chain(reviews).filter(|(group, ..)| group != own.group()).collect()
}

pub(super) async fn ensure(api: &Api, client: &Client) -> Result<(), ApiError> {
    try_join_all(served(api).iter().map(|(group, version, own)| keep(client, group, version, *own)))
        .await
        .map(drop)
}

async fn keep(client: &Client, group: &str, version: &str, own: bool) -> Result<(), ApiError> {
    let name = format!("{version}.{group}");
    if client.find::<APIService>("", &name).await?.is_some() {
        return Ok(());
    }
    let (least, priority) = priorities(group, version);
    let managed = if own { "onstart" } else { "true" };
    let object = APIService {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(MANAGED.to_owned(), managed.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: (!group.is_empty()).then(|| group.to_owned()),
            version: Some(version.to_owned()),
            group_priority_minimum: least,
            version_priority: priority,
            ..APIServiceSpec::default()
        }),
        status: None,
    };
    made(client.create(&object).await.map(drop))
}

pub(super) async fn run(api: Arc<Api>, client: Client, informers: &Informers, shutdown: CancellationToken) {
    let upkeep = Upkeep {
        objects: informers.of::<APIService>(),
        services: informers.of::<Service>(),
        api: api.clone(),
        client,
    };
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    upkeep.objects.on_change(move |change: &Change| added.add(change.key()));
    let (added, objects) = (queue.clone(), upkeep.objects.clone());
    upkeep.services.on_change(move |change: &Change| {
        if change.old.is_some() && change.new.is_some() {
            return;
        }
        objects.list().iter().for_each(|object| added.add(object.key()));
    });
    if api.kind(&Resource::of::<CustomResourceDefinition>()).is_ok() {
        let definitions = informers.of::<CustomResourceDefinition>();
        let (added, objects) = (queue.clone(), upkeep.objects.clone());
        let table = api.clone();
        definitions.on_change(move |_: &Change| {
            for (group, version, own) in served(&table) {
                if !own {
                    added.add(Key::new("", &format!("{version}.{group}")));
                }
            }
            objects.list().iter().for_each(|object| added.add(object.key()));
        });
    }
    upkeep.objects.synced().await;
    upkeep.services.synced().await;
    controller::run(Arc::new(upkeep), queue, 1, shutdown).await;
}

struct Upkeep {
    api: Arc<Api>,
    client: Client,
    objects: Informer,
    services: Informer,
}

impl Reconciler for Upkeep {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "api-service-upkeep"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let here = served(&self.api).into_iter().find(|(g, v, _)| format!("{v}.{g}") == *key.name);
        let Some(object) = self.objects.get_key(key) else {
            if let Some((group, version, own)) = here {
                keep(&self.client, &group, &version, own).await?;
            }
            return Ok(Outcome::Done);
        };
        let mut object: APIService = object.decode()?;
        let remote = object.spec.as_ref().and_then(|s| s.service.as_ref());
        let label = object.metadata.labels.as_ref().and_then(|l| l.get(MANAGED));
        if remote.is_none() && here.is_none() && label.is_some_and(|l| l == "true") {
            // The definition that it was made for is gone.
            let deleted = self.client.delete::<APIService>("", &key.name, DeleteOptions::default()).await;
            return gone_is_fine(deleted);
        }
        let condition = match remote {
            None => locally_available(Timestamp::now()),
            Some(service) => self.unreached(service),
        };
        if object.metadata.deletion_timestamp.is_some() || says(object.status.as_ref(), &condition) {
            return Ok(Outcome::Done);
        }
        let conditions = object.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|c| c.type_ != AVAILABLE);
        conditions.push(condition);
        gone_is_fine(self.client.update_status(&object).await.map(drop))
    }
}

fn gone_is_fine(result: Result<(), ApiError>) -> Result<Outcome, ApiError> {
    match result {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

fn says(status: Option<&APIServiceStatus>, wanted: &APIServiceCondition) -> bool {
    let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == AVAILABLE && c.status == wanted.status && c.reason == wanted.reason)
}

impl Upkeep {
    /// Requests are not passed on to other servers.
    fn unreached(&self, service: &ServiceReference) -> APIServiceCondition {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let (namespace, name) = (text(&service.namespace), text(&service.name));
        let (reason, message) = match self.services.get(&namespace, &name) {
            None => ("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")),
            Some(_) => {
                ("FailedDiscoveryCheck", "this server does not pass requests on to other servers".to_owned())
            }
        };
        APIServiceCondition {
            type_: AVAILABLE.into(),
            status: "False".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(Timestamp::now())),
        }
    }
}
