//! The quota controller against a fake API.

use coracle_client::{DeleteOptions, PatchType};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use super::*;
use crate::testing::{Cluster, from};

fn shown(cluster: &coracle_client::fake::Fake) -> Option<(String, String)> {
    let status = cluster.get::<ResourceQuota>("ns", "q")?.status?;
    let of = |list: Option<BTreeMap<String, Quantity>>| list?.get("configmaps").map(|q| q.0.clone());
    Some((of(status.hard)?, of(status.used)?))
}

#[tokio::test(start_paused = true)]
async fn a_quota_shows_what_there_is() {
    let cluster = Cluster::new();
    let client = &cluster.context.client;
    let map = |name: &str| from::<ConfigMap>(json!({"metadata": {"namespace": "ns", "name": name}}));
    for name in ["a", "b"] {
        client.create(&map(name)).await.unwrap();
    }
    let quota: ResourceQuota =
        from(json!({"metadata": {"namespace": "ns", "name": "q"}, "spec": {"hard": {"configmaps": "5"}}}));
    client.create(&quota).await.unwrap();
    cluster.start(|c| Box::pin(super::run(c)));
    let both = |used: &str| Some(("5".to_owned(), used.to_owned()));
    cluster.until("both are counted", |fake| shown(fake) == both("2")).await;
    client.delete::<ConfigMap>("ns", "a", DeleteOptions::default()).await.unwrap();
    cluster.until("one is gone", |fake| shown(fake) == both("1")).await;
    client.create(&map("c")).await.unwrap();
    let patch = json!({"spec": {"hard": {"configmaps": "6"}}});
    client.patch::<ResourceQuota>("ns", "q", None, PatchType::Merge, &patch).await.unwrap();
    let changed = Some(("6".to_owned(), "2".to_owned()));
    cluster.until("a changed quota is counted anew", |fake| shown(fake) == changed).await;
}
