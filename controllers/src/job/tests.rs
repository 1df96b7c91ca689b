//! The job controller against a fake API, with a kubelet that ends pods as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_client::{DeleteOptions, PatchType};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::job::pod::{FINALIZER, INDEX};
use crate::testing::{Cluster, from};

/// What becomes of a pod: None: it runs on.
type Fate = fn(&Pod) -> Option<i32>;

fn kubelet(cluster: &Cluster, fate: Fate) {
    let pods = cluster.context.of::<Pod>();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    pods.on_change(move |change| {
        if let Some(pod) = &change.new {
            let _ = sender.send(pod.key());
        }
    });
    let (fake, client) = (cluster.fake.clone(), cluster.context.client.clone());
    tokio::spawn(async move {
        while let Some(key) = receiver.recv().await {
            let Some(mut pod) = fake.get::<Pod>(&key.namespace, &key.name) else { continue };
            let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
            if matches!(phase.as_str(), "Succeeded" | "Failed") {
                continue;
            }
            let going = pod.metadata.deletion_timestamp.is_some();
            let code = if going { Some(143) } else { fate(&pod) };
            pod.spec.get_or_insert_default().node_name = Some("n1".into());
            let state = code.map(|code| json!({"terminated": {"exitCode": code, "finishedAt": long_ago()}}));
            let next = match code {
                Some(0) => "Succeeded",
                Some(_) => "Failed",
                None => "Running",
            };
            if next == phase {
                continue;
            }
            let ready = if code.is_none() { "True" } else { "False" };
            pod.status = Some(from(
                json!({"phase": next, "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": state.unwrap_or(json!({}))}]}),
            ));
            let _ = fake.put(&pod);
            if going {
                let _ = client.delete::<Pod>(&key.namespace, &key.name, DeleteOptions::grace(0)).await;
            }
        }
    });
}

/// The controller's clock is the real one, which stands still here: no backoff may be left.
fn long_ago() -> String {
    (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string()
}

fn job(spec: Value) -> Job {
    let mut value = json!({"metadata": {"namespace": "ns", "name": "work"}, "spec": {
        "selector": {"matchLabels": {"job": "work"}},
        "template": {"metadata": {"labels": {"job": "work"}}, "spec": {"containers": [{"name": "main"}]}}}});
    for (field, given) in spec.as_object().unwrap() {
        value["spec"][field] = given.clone();
    }
    from(value)
}

fn status(fake: &coracle_client::fake::Fake) -> JobStatus {
    fake.get::<Job>("ns", "work").and_then(|job| job.status).unwrap_or_default()
}

fn ended(fake: &coracle_client::fake::Fake, kind: &str) -> bool {
    status(fake).conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

fn held(fake: &coracle_client::fake::Fake) -> usize {
    let holds = |pod: &Pod| pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    fake.list::<Pod>("ns").iter().filter(|pod| holds(pod)).count()
}

async fn start(cluster: &Cluster, fate: Fate, spec: Value) {
    cluster.start(|c| Box::pin(super::run(c)));
    kubelet(cluster, fate);
    cluster.context.client.create(&job(spec)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_its_pods_and_completes_with_nothing_counted_twice() {
    let cluster = Cluster::new();
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            seen.fetch_max(all.len(), Ordering::Relaxed);
        }
    });
    start(&cluster, |_| Some(0), json!({"parallelism": 7, "completions": 20})).await;
    cluster.until("complete", |f| ended(f, "Complete")).await;
    cluster.settle().await;
    let status = status(&cluster.fake);
    assert_eq!((status.succeeded, status.failed, status.active), (Some(20), None, None));
    assert_eq!(most.load(Ordering::Relaxed), 20, "none made beyond what was asked");
    assert_eq!(held(&cluster.fake), 0);
    assert!(
        cluster.events().iter().any(|(reason, message)| reason == "Completed" && message == "Job completed")
    );
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_has_each_index_once() {
    let cluster = Cluster::new();
    let spec = json!({"parallelism": 3, "completions": 9, "completionMode": "Indexed"});
    start(&cluster, |_| Some(0), spec).await;
    cluster.until("complete", |f| ended(f, "Complete")).await;
    cluster.settle().await;
    let status = status(&cluster.fake);
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0-8"), Some(9)));
    let mut indexes: Vec<String> = cluster
        .fake
        .list::<Pod>("ns")
        .iter()
        .map(|pod| pod.metadata.annotations.as_ref().unwrap()[INDEX].clone())
        .collect();
    indexes.sort();
    assert_eq!(indexes.join(""), "012345678");
}

#[tokio::test(start_paused = true)]
async fn failed_pods_are_replaced_until_the_limit_ends_the_job() {
    let cluster = Cluster::new();
    start(&cluster, |_| Some(1), json!({"parallelism": 1, "completions": 1, "backoffLimit": 2})).await;
    cluster.until("failed", |f| ended(f, "Failed")).await;
    cluster.settle().await;
    let status = status(&cluster.fake);
    assert_eq!((status.failed, status.succeeded), (Some(3), None));
    assert_eq!(cluster.fake.list::<Pod>("ns").len(), 3);
    assert_eq!(held(&cluster.fake), 0);
    assert!(cluster.events().iter().any(|(reason, _)| reason == "BackoffLimitExceeded"));
}

#[tokio::test(start_paused = true)]
async fn running_pods_are_ended_with_the_job_and_it_waits_for_them() {
    let cluster = Cluster::new();
    let spec = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    start(&cluster, |pod| (pod.metadata.annotations.as_ref().unwrap()[INDEX] == "1").then_some(0), spec)
        .await;
    cluster.until("complete", |f| ended(f, "Complete")).await;
    cluster.settle().await;
    let status = status(&cluster.fake);
    assert_eq!((status.succeeded, status.failed, status.terminating), (Some(1), None, Some(0)));
    assert_eq!(cluster.fake.list::<Pod>("ns").len(), 1, "the others are gone");
}

#[tokio::test(start_paused = true)]
async fn suspending_takes_the_pods_away_and_resuming_makes_new_ones() {
    let cluster = Cluster::new();
    start(&cluster, |_| None, json!({"parallelism": 2, "completions": 2})).await;
    cluster.until("2 ready", |f| status(f).ready == Some(2)).await;
    let suspend = |on: bool| {
        let client = cluster.context.client.clone();
        async move {
            let patch = json!({"spec": {"suspend": on}});
            client.patch::<Job>("ns", "work", None, PatchType::Merge, &patch).await.unwrap();
        }
    };
    suspend(true).await;
    cluster.until("no pods", |f| f.list::<Pod>("ns").is_empty() && ended(f, "Suspended")).await;
    cluster.settle().await;
    assert_eq!((status(&cluster.fake).failed, status(&cluster.fake).active), (None, None));
    suspend(false).await;
    cluster.until("2 ready again", |f| status(f).ready == Some(2)).await;
    let reasons: Vec<String> = cluster.events().into_iter().map(|(reason, _)| reason).collect();
    assert!(reasons.contains(&"Suspended".into()) && reasons.contains(&"Resumed".into()), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_job_that_is_gone_are_let_go() {
    let cluster = Cluster::new();
    start(&cluster, |_| None, json!({"parallelism": 2, "completions": 2})).await;
    cluster.until("2 ready", |f| status(f).ready == Some(2)).await;
    cluster.fake.remove::<Job>("ns", "work");
    cluster.until("none held", |f| held(f) == 0).await;
    assert_eq!(cluster.fake.list::<Pod>("ns").len(), 2, "the garbage collector's business");
}

#[tokio::test(start_paused = true)]
async fn a_job_of_another_manager_is_left_alone() {
    let cluster = Cluster::new();
    start(&cluster, |_| Some(0), json!({"completions": 1, "managedBy": "example.com/other"})).await;
    cluster.settle().await;
    assert!(cluster.fake.list::<Pod>("ns").is_empty());
    assert_eq!(status(&cluster.fake), JobStatus::default());
}
