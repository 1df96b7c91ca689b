//! Deployment and ReplicaSet controllers together against a fake API and kubelet.

use std::sync::Arc;

use coracle_client::fake::Fake;
use coracle_client::{Object, PatchType};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::status::{AVAILABLE, PROGRESSING, find};
use crate::testing::{Cluster, from, template};

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    from(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
            "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2},
    }))
}

fn rolling() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
}

fn start() -> Cluster {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.start(|c| Box::pin(crate::replicaset::replica_sets(c)));
    cluster.kubelet("n1", |pod| {
        pod.spec.as_ref().is_none_or(|s| s.containers[0].image.as_deref() != Some("broken"))
    });
    cluster
}

fn status(fake: &Fake) -> DeploymentStatus {
    fake.get::<Deployment>("ns", "web").and_then(|d| d.status).unwrap_or_default()
}

fn reason(fake: &Fake, kind: &str) -> String {
    find(&status(fake), kind).and_then(|c| c.reason.clone()).unwrap_or_default()
}

fn rolled_out(fake: &Fake, replicas: i32) -> bool {
    let Some(deployment) = fake.get::<Deployment>("ns", "web") else { return false };
    let status = deployment.status.clone().unwrap_or_default();
    super::status::complete(&deployment, &status)
        && status.replicas == Some(replicas)
        && reason(fake, PROGRESSING) == "NewReplicaSetAvailable"
}

async fn patch(cluster: &Cluster, patch: Value) {
    let client = &cluster.context.client;
    client.patch::<Deployment>("ns", "web", None, PatchType::Merge, &patch).await.unwrap();
}

async fn set_image(cluster: &Cluster, image: &str) {
    patch(cluster, json!({"spec": {"template": template(image)}})).await;
}

fn image(object: &Object) -> String {
    let pod: Pod = object.decode().unwrap();
    pod.spec.unwrap().containers[0].image.clone().unwrap()
}

fn available(object: &Object) -> bool {
    let pod: Pod = object.decode().unwrap();
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.and_then(|s| s.conditions).is_some_and(|c| c.iter().any(|c| c.status == "True"))
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_holds_its_bounds_at_every_instant() {
    let cluster = start();
    cluster.context.client.create(&deployment(8, rolling())).await.unwrap();
    cluster.until("8 of v1", |f| rolled_out(f, 8)).await;
    assert_eq!(reason(&cluster.fake, AVAILABLE), "MinimumReplicasAvailable");

    let bounds = Arc::new(Mutex::new((usize::MAX, 0)));
    let seen = bounds.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            let up = all.iter().filter(|o| available(o)).count();
            let there = all.iter().filter(|o| !o.head.deleting).count();
            let mut bounds = seen.lock();
            *bounds = (bounds.0.min(up), bounds.1.max(there));
        }
    });
    set_image(&cluster, "v2").await;
    cluster.until("8 of v2", |f| rolled_out(f, 8) && f.list::<Pod>("ns").len() == 8).await;
    let pods = cluster.context.of::<Pod>();
    cluster.settle().await;
    assert!(pods.list().iter().all(|o| image(o) == "v2"));
    let (least, most) = *bounds.lock();
    assert!(least >= 6, "maxUnavailable 25% of 8: at least 6, were {least}");
    assert!(most <= 10, "maxSurge 25% of 8: at most 10, were {most}");

    let live = cluster.fake.get::<Deployment>("ns", "web").unwrap();
    assert_eq!(live.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "2");
    let events = cluster.events();
    let sets = cluster.fake.list::<ReplicaSet>("ns");
    let old = sets.iter().find(|s| s.spec.replicas == Some(0)).unwrap();
    let scaled = format!("Scaled up replica set {} from 0 to 8", old.metadata.name.as_deref().unwrap());
    assert!(events.contains(&("ScalingReplicaSet".into(), scaled)), "{events:?}");
    assert!(events.iter().any(|(_, m)| m.starts_with("Scaled down replica set ")));
}

#[tokio::test(start_paused = true)]
async fn going_back_reuses_the_old_set_with_a_new_revision_and_history_is_bounded() {
    let cluster = start();
    cluster.context.client.create(&deployment(2, rolling())).await.unwrap();
    for version in ["v1", "v2", "v3", "v4", "v5"] {
        set_image(&cluster, version).await;
        cluster
            .until(version, |f| {
                rolled_out(f, 2) && cluster.context.of::<Pod>().list().iter().all(|o| image(o) == version)
            })
            .await;
    }
    cluster.until("history of 2", |f| f.list::<ReplicaSet>("ns").len() == 3).await;
    set_image(&cluster, "v4").await;
    cluster
        .until("back", |f| {
            rolled_out(f, 2) && cluster.context.of::<Pod>().list().iter().all(|o| image(o) == "v4")
        })
        .await;
    let sets = cluster.fake.list::<ReplicaSet>("ns");
    assert_eq!(sets.len(), 3);
    let current = sets.iter().find(|s| s.spec.replicas == Some(2)).unwrap();
    let annotations = current.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "6");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_broken_version_stops_the_rollout_and_times_out() {
    let cluster = start();
    cluster.context.client.create(&deployment(4, rolling())).await.unwrap();
    cluster.until("4 of v1", |f| rolled_out(f, 4)).await;
    set_image(&cluster, "broken").await;
    cluster.until("3 old, 2 broken", |f| status(f).updated_replicas == Some(2)).await;
    cluster.settle().await;
    let old = cluster.context.of::<Pod>().list().iter().filter(|o| image(o) == "v1").count();
    assert_eq!(old, 3);
    assert_eq!(reason(&cluster.fake, AVAILABLE), "MinimumReplicasAvailable");
    set_image(&cluster, "v2").await;
    cluster.until("4 of v2", |f| rolled_out(f, 4)).await;
}

#[tokio::test(start_paused = true)]
async fn recreate_never_runs_two_versions() {
    let cluster = start();
    let mixed = Arc::new(Mutex::new(false));
    let seen = mixed.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            let images: std::collections::HashSet<String> = all.iter().map(|o| image(o)).collect();
            *seen.lock() |= images.len() > 1;
        }
    });
    cluster.context.client.create(&deployment(5, json!({"type": "Recreate"}))).await.unwrap();
    cluster.until("5 of v1", |f| rolled_out(f, 5)).await;
    set_image(&cluster, "v2").await;
    cluster
        .until("5 of v2", |f| {
            rolled_out(f, 5) && cluster.context.of::<Pod>().list().iter().all(|o| image(o) == "v2")
        })
        .await;
    assert!(!*mixed.lock());
}

#[tokio::test(start_paused = true)]
async fn paused_scales_but_does_not_roll() {
    let cluster = start();
    cluster.context.client.create(&deployment(3, rolling())).await.unwrap();
    cluster.until("3 of v1", |f| rolled_out(f, 3)).await;
    patch(&cluster, json!({"spec": {"paused": true, "replicas": 5, "template": template("v2")}})).await;
    cluster.until("5 of v1", |f| status(f).available_replicas == Some(5)).await;
    cluster.settle().await;
    assert_eq!(reason(&cluster.fake, PROGRESSING), "DeploymentPaused");
    assert!(cluster.context.of::<Pod>().list().iter().all(|o| image(o) == "v1"));
    patch(&cluster, json!({"spec": {"paused": false}})).await;
    cluster
        .until("5 of v2", |f| {
            rolled_out(f, 5) && cluster.context.of::<Pod>().list().iter().all(|o| image(o) == "v2")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_makes_another_hash() {
    let cluster = Cluster::new();
    let wanted = deployment(1, rolling());
    let hash = crate::template::hash(&crate::template::canonical(&wanted.spec.template), None);
    let other: ReplicaSet = from(json!({"metadata": {"namespace": "ns", "name": format!("web-{hash}")},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}}));
    cluster.context.client.create(&other).await.unwrap();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.start(|c| Box::pin(crate::replicaset::replica_sets(c)));
    cluster.kubelet("n1", |_| true);
    cluster.context.client.create(&wanted).await.unwrap();
    cluster.until("rolled out", |f| rolled_out(f, 1)).await;
    assert_eq!(status(&cluster.fake).collision_count, Some(1));
}
