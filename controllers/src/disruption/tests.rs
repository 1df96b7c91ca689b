//! The disruption controller against a fake API.

use coracle_client::DeleteOptions;
use coracle_client::fake::Fake;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use serde_json::{Value, json};

use crate::testing::{Cluster, from};

fn status(fake: &Fake) -> PodDisruptionBudgetStatus {
    fake.get::<PodDisruptionBudget>("ns", "b").and_then(|b| b.status).unwrap_or_default()
}

fn numbers(fake: &Fake) -> (i32, i32, i32, i32) {
    let s = status(fake);
    let n = |value: Option<i32>| value.unwrap_or(-1);
    (n(s.expected_pods), n(s.desired_healthy), n(s.current_healthy), n(s.disruptions_allowed))
}

async fn budget(cluster: &Cluster, spec: Value) {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    let budget: PodDisruptionBudget =
        from(json!({"metadata": {"namespace": "ns", "name": "b"}, "spec": spec}));
    cluster.context.client.create(&budget).await.unwrap();
}

fn pod(cluster: &Cluster, name: &str, owner: Option<Value>, ready: bool) {
    let pod: Pod = from(json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"app": "web"}, "ownerReferences": owner.map(|o| vec![o])},
        "spec": {"containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }));
    cluster.fake.put(&pod).unwrap();
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true})
}

#[tokio::test(start_paused = true)]
async fn the_status_follows_pods() {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    budget(&cluster, json!({"minAvailable": 2})).await;
    cluster.until("no pods", |f| numbers(f) == (0, 2, 0, 0)).await;
    assert!(
        cluster.events().iter().any(|(reason, _)| reason == "NoPods") || {
            cluster.settle().await;
            cluster.events().iter().any(|(reason, _)| reason == "NoPods")
        }
    );
    for name in ["a", "b", "c"] {
        pod(&cluster, name, None, true);
    }
    cluster.until("one may go", |f| numbers(f) == (3, 2, 3, 1)).await;
    pod(&cluster, "c", None, false);
    cluster.until("none may go", |f| numbers(f) == (3, 2, 2, 0)).await;
    pod(&cluster, "c", None, true);
    cluster.until("one may go", |f| numbers(f) == (3, 2, 3, 1)).await;
    cluster.context.client.delete::<Pod>("ns", "a", DeleteOptions::grace(0)).await.unwrap();
    cluster.until("two are left", |f| numbers(f) == (2, 2, 2, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn what_should_be_there_comes_from_the_controllers() {
    let cluster = Cluster::new();
    let deployment: Deployment = from(json!({"metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": 10, "selector": {}, "template": {}}}));
    let deployment = cluster.fake.put(&deployment).unwrap();
    let above = owner("apps/v1", "Deployment", "web", deployment.metadata.uid.as_deref().unwrap());
    for set in ["old", "new"] {
        let set: ReplicaSet =
            from(json!({"metadata": {"namespace": "ns", "name": set, "ownerReferences": [above]},
            "spec": {"replicas": 3, "selector": {}}}));
        let set = cluster.fake.put(&set).unwrap();
        let name = set.metadata.name.clone().unwrap();
        let owner = owner("apps/v1", "ReplicaSet", &name, set.metadata.uid.as_deref().unwrap());
        for n in 0..3 {
            pod(&cluster, &format!("{name}-{n}"), Some(owner.clone()), true);
        }
    }
    cluster.start(|c| Box::pin(super::run(c)));
    budget(&cluster, json!({"maxUnavailable": "50%"})).await;
    cluster.until("counted once", |f| numbers(f) == (10, 5, 6, 1)).await;

    pod(&cluster, "lost", Some(owner("apps/v1", "ReplicaSet", "gone", "u")), true);
    cluster
        .until("nothing may go", |f| {
            let s = status(f);
            let reason = s.conditions.and_then(|c| Some(c.first()?.message.clone()));
            s.disruptions_allowed == Some(0)
                && reason.as_deref() == Some("found no controllers for pod \"lost\"")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn work_for_one_pod_does_not_touch_other_budgets() {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    budget(&cluster, json!({"minAvailable": 1})).await;
    pod(&cluster, "a", None, true);
    cluster.until("counted", |f| numbers(f) == (1, 1, 1, 0)).await;
    cluster.settle().await;
    cluster.fake.forget_requests();
    let other: Pod = from(
        json!({"metadata": {"namespace": "ns", "name": "z", "labels": {"app": "db"}}, "spec": {"containers": []}}),
    );
    cluster.fake.put(&other).unwrap();
    // A change that matters to nobody: the same readiness.
    pod(&cluster, "a", None, true);
    cluster.settle().await;
    let writes: Vec<_> =
        cluster.fake.requests().into_iter().filter(|r| r.resource.plural() != "events").collect();
    assert!(writes.is_empty(), "{writes:?}");
}
