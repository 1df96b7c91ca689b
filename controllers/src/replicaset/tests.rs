//! The ReplicaSet controller against a fake API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_client::{ApiError, PatchType, Verb};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::json;

use crate::testing::{Cluster, from, template};

fn set(replicas: i32) -> ReplicaSet {
    from(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("a")},
    }))
}

async fn scale(cluster: &Cluster, replicas: i32) {
    let patch = json!({"spec": {"replicas": replicas}});
    cluster.context.client.patch::<ReplicaSet>("ns", "web", None, PatchType::Merge, &patch).await.unwrap();
}

fn ready(cluster: &coracle_client::fake::Fake) -> i32 {
    cluster.get::<ReplicaSet>("ns", "web").and_then(|s| s.status?.available_replicas).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn scales_up_and_down_without_ever_having_too_many() {
    let cluster = Cluster::new();
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            seen.fetch_max(all.len(), Ordering::Relaxed);
        }
    });
    cluster.start(|c| Box::pin(super::replica_sets(c)));
    cluster.kubelet("n1", |_| true);
    cluster.context.client.create(&set(20)).await.unwrap();
    cluster.until("20 ready", |f| ready(f) == 20).await;
    cluster.settle().await;
    assert_eq!(most.load(Ordering::Relaxed), 20, "a stale informer must not make it create more");
    let pod = &cluster.fake.list::<Pod>("ns")[0];
    assert!(pod.metadata.name.as_deref().unwrap().starts_with("web-"));
    assert_eq!(pod.metadata.owner_references.as_ref().unwrap()[0].kind, "ReplicaSet");
    let events = cluster.events();
    assert_eq!(events.iter().filter(|(reason, _)| reason == "SuccessfulCreate").count(), 20);

    scale(&cluster, 3).await;
    cluster.until("3 left", |f| f.list::<Pod>("ns").len() == 3 && ready(f) == 3).await;
    cluster.settle().await;
    assert_eq!(cluster.fake.list::<Pod>("ns").len(), 3);
    let status = cluster.fake.get::<ReplicaSet>("ns", "web").unwrap().status.unwrap();
    assert_eq!(
        (status.replicas, status.fully_labeled_replicas, status.observed_generation),
        (3, Some(3), Some(2))
    );

    scale(&cluster, 0).await;
    cluster.until("none left", |f| f.list::<Pod>("ns").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn adopts_orphans_and_releases_what_no_longer_matches() {
    let cluster = Cluster::new();
    let orphan: Pod =
        from(json!({"metadata": {"namespace": "ns", "name": "orphan", "labels": {"app": "web"}},
        "spec": {"containers": []}}));
    cluster.context.client.create(&orphan).await.unwrap();
    cluster.start(|c| Box::pin(super::replica_sets(c)));
    cluster.kubelet("n1", |_| true);
    cluster.context.client.create(&set(2)).await.unwrap();
    cluster.until("2 ready", |f| ready(f) == 2).await;
    assert_eq!(cluster.fake.list::<Pod>("ns").len(), 2, "the orphan is one of them");

    let patch = json!({"metadata": {"labels": {"app": "debug"}}});
    cluster.context.client.patch::<Pod>("ns", "orphan", None, PatchType::Merge, &patch).await.unwrap();
    cluster.until("a replacement", |f| f.list::<Pod>("ns").len() == 3 && ready(f) == 2).await;
    let released = cluster.fake.get::<Pod>("ns", "orphan").unwrap();
    assert!(released.metadata.owner_references.unwrap_or_default().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failing_creates_start_slowly_and_show_in_the_status() {
    let cluster = Cluster::new();
    let tries = Arc::new(AtomicUsize::new(0));
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (count, switch) = (tries.clone(), broken.clone());
    cluster.fake.react(move |request| {
        if request.verb == Verb::Create
            && request.resource.plural() == "pods"
            && switch.load(Ordering::Relaxed)
        {
            count.fetch_add(1, Ordering::Relaxed);
            return Some(ApiError::forbidden(&request.resource, "", "exceeded quota"));
        }
        None
    });
    cluster.start(|c| Box::pin(super::replica_sets(c)));
    cluster.kubelet("n1", |_| true);
    cluster.context.client.create(&set(50)).await.unwrap();
    cluster
        .until("the failure shows", |f| {
            f.get::<ReplicaSet>("ns", "web")
                .and_then(|s| s.status?.conditions)
                .is_some_and(|c| c[0].reason.as_deref() == Some("FailedCreate"))
        })
        .await;
    assert!(tries.load(Ordering::Relaxed) < 10, "one at a time while it fails");
    broken.store(false, Ordering::Relaxed);
    cluster.until("50 ready", |f| ready(f) == 50).await;
    let status = cluster.fake.get::<ReplicaSet>("ns", "web").unwrap().status.unwrap();
    assert!(status.conditions.unwrap_or_default().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_replication_controller_is_kept_by_the_same_logic() {
    let cluster = Cluster::new();
    let orphan: Pod =
        from(json!({"metadata": {"namespace": "ns", "name": "orphan", "labels": {"app": "web"}},
        "spec": {"containers": []}}));
    cluster.context.client.create(&orphan).await.unwrap();
    cluster.start(|c| Box::pin(super::replication_controllers(c)));
    // Pods of a ReplicaSet of the same name are none of its.
    cluster.start(|c| Box::pin(super::replica_sets(c)));
    cluster.kubelet("n1", |_| true);
    let controller: ReplicationController = from(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": 3, "selector": {"app": "web"}, "template": template("a")},
    }));
    cluster.context.client.create(&controller).await.unwrap();
    let status = |f: &coracle_client::fake::Fake| {
        f.get::<ReplicationController>("ns", "web").and_then(|c| c.status).unwrap_or_default()
    };
    cluster.until("3 ready", |f| status(f).available_replicas == Some(3)).await;
    let pods = cluster.fake.list::<Pod>("ns");
    assert_eq!(pods.len(), 3, "the orphan is one of them");
    for pod in &pods {
        let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.api_version.as_str(), owner.kind.as_str()), ("v1", "ReplicationController"));
    }
    let patch = json!({"metadata": {"labels": {"app": "debug"}}});
    cluster.context.client.patch::<Pod>("ns", "orphan", None, PatchType::Merge, &patch).await.unwrap();
    cluster.until("a replacement", |f| f.list::<Pod>("ns").len() == 4 && status(f).replicas == 3).await;

    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = broken.clone();
    cluster.fake.react(move |request| {
        let refused = request.verb == Verb::Create
            && request.resource.plural() == "pods"
            && switch.load(Ordering::Relaxed);
        refused.then(|| ApiError::forbidden(&request.resource, "", "exceeded quota"))
    });
    let more = json!({"spec": {"replicas": 5}});
    let client = &cluster.context.client;
    client.patch::<ReplicationController>("ns", "web", None, PatchType::Merge, &more).await.unwrap();
    cluster
        .until("the failure shows", |f| {
            let conditions = status(f).conditions.unwrap_or_default();
            conditions.iter().any(|c| {
                c.type_ == "ReplicaFailure"
                    && c.status == "True"
                    && c.reason.as_deref() == Some("FailedCreate")
                    && c.message.as_deref() == Some("pods is forbidden: exceeded quota")
            })
        })
        .await;
    let fewer = json!({"spec": {"replicas": 2}});
    client.patch::<ReplicationController>("ns", "web", None, PatchType::Merge, &fewer).await.unwrap();
    cluster
        .until("2 left, and no failure", |f| {
            status(f).replicas == 2 && status(f).conditions.unwrap_or_default().is_empty()
        })
        .await;
    assert_eq!(status(&cluster.fake).observed_generation, Some(3));
}
