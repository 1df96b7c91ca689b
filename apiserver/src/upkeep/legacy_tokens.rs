//! Since which day the use of tokens in Secrets is noted: a ConfigMap that says so to the one who clears them up.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::{ApiError, Change, Client, Informer, Informers, Key, Resource, WorkQueue};
use jiff::Timestamp;
use jiff::civil::Date;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;

use super::made;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";

pub(super) async fn run(client: Client, informers: &Informers, shutdown: CancellationToken) {
    let scope = InformerScope {
        namespace: Some(NAMESPACE.into()),
        field_selector: Some(format!("metadata.name={NAME}")),
        ..InformerScope::default()
    };
    let tracking = Tracking { client, maps: informers.scoped(Resource::of::<ConfigMap>(), scope) };
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    tracking.maps.on_change(move |change: &Change| added.add(change.key()));
    tracking.maps.synced().await;
    queue.add(Key::new(NAMESPACE, NAME));
    controller::run(Arc::new(tracking), queue, 1, shutdown).await;
}

struct Tracking {
    client: Client,
    maps: Informer,
}

impl Reconciler for Tracking {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "legacy-token-tracking"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
        let Some(object) = self.maps.get_key(key) else {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    namespace: Some(NAMESPACE.into()),
                    name: Some(NAME.into()),
                    ..ObjectMeta::default()
                },
                data: Some(BTreeMap::from([(SINCE.to_owned(), today)])),
                ..ConfigMap::default()
            };
            made(self.client.create(&map).await.map(drop))?;
            return Ok(Outcome::Done);
        };
        let mut map: ConfigMap = object.decode()?;
        let data = map.data.get_or_insert_default();
        // A day that is none, or is yet to come, would have the clean-up begin at no time.
        if data.get(SINCE).is_some_and(|day| day.parse::<Date>().is_ok() && *day <= today) {
            return Ok(Outcome::Done);
        }
        data.insert(SINCE.into(), today);
        self.client.update(&map).await?;
        Ok(Outcome::Done)
    }
}
