//! The StatefulSet controller against a fake API and kubelet.

use std::sync::Arc;

use coracle_client::fake::Fake;
use coracle_client::{ApiError, DeleteOptions, Object, PatchType, Verb};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::testing::{Cluster, from, template};

fn set(replicas: i32, more: Value) -> StatefulSet {
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
            "template": template("v1"), "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
    });
    for (field, wanted) in more.as_object().unwrap() {
        value["spec"][field] = wanted.clone();
    }
    from(value)
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.containers[0].image.as_deref()).unwrap_or_default()
}

/// Pods of the image `broken` never become ready.
fn start() -> Cluster {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.kubelet("n1", |pod| image_of(pod) != "broken");
    cluster
}

async fn patch(cluster: &Cluster, patch: Value) {
    let client = &cluster.context.client;
    client.patch::<StatefulSet>("ns", "web", None, PatchType::Merge, &patch).await.unwrap();
}

async fn set_image(cluster: &Cluster, image: &str) {
    patch(cluster, json!({"spec": {"template": template(image)}})).await;
}

fn status(fake: &Fake) -> StatefulSetStatus {
    fake.get::<StatefulSet>("ns", "web").and_then(|s| s.status).unwrap_or_default()
}

/// `web-0=v1 web-1=v2`
fn pods(fake: &Fake) -> String {
    let all = fake.list::<Pod>("ns");
    let one = |pod: &Pod| format!("{}={}", pod.metadata.name.as_deref().unwrap_or_default(), image_of(pod));
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn settled(fake: &Fake, replicas: i32) -> bool {
    let status = status(fake);
    let generation = fake.get::<StatefulSet>("ns", "web").and_then(|s| s.metadata.generation);
    status.available_replicas == Some(replicas)
        && status.replicas == replicas
        && status.observed_generation == generation
        && status.current_revision == status.update_revision
        && fake.list::<Pod>("ns").len() == usize::try_from(replicas).unwrap()
}

/// Every order in which pods came (`+`) and went (`-`).
fn journal(cluster: &Cluster) -> Arc<Mutex<Vec<String>>> {
    let journal = Arc::new(Mutex::new(Vec::new()));
    let (lines, known) = (journal.clone(), Mutex::new(std::collections::HashMap::<String, bool>::new()));
    cluster.fake.observe(move |resource, all| {
        if resource.plural() != "pods" {
            return;
        }
        let now: std::collections::HashMap<String, bool> =
            all.iter().map(|o| (o.head.uid.to_string(), o.head.deleting)).collect();
        let mut known = known.lock();
        for object in all {
            let was = known.get(&*object.head.uid).copied();
            match (was, object.head.deleting) {
                (None, _) => lines.lock().push(format!("+{}", object.head.name)),
                (Some(false), true) => lines.lock().push(format!("-{}", object.head.name)),
                _ => {}
            }
        }
        *known = now;
    });
    journal
}

#[tokio::test(start_paused = true)]
async fn scales_in_order_up_and_down_with_events_and_identity() {
    let cluster = start();
    let journal = journal(&cluster);
    cluster.context.client.create(&set(3, json!({}))).await.unwrap();
    cluster.until("3 available", |f| settled(f, 3)).await;
    patch(&cluster, json!({"spec": {"replicas": 1}})).await;
    cluster.until("1 left", |f| settled(f, 1)).await;
    assert_eq!(*journal.lock(), ["+web-0", "+web-1", "+web-2", "-web-2", "-web-1"]);
    let pod = cluster.fake.get::<Pod>("ns", "web-0").unwrap();
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(Some(&labels["controller-revision-hash"]), status(&cluster.fake).current_revision.as_ref());
    let events = cluster.events();
    for (reason, message) in [
        ("SuccessfulCreate", "create Pod web-0 in StatefulSet web successful"),
        ("SuccessfulDelete", "delete Pod web-2 in StatefulSet web successful"),
    ] {
        assert!(events.contains(&(reason.into(), message.into())), "{message}: {events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_pod_halts_what_is_ordered_and_not_what_is_parallel() {
    let cluster = start();
    let broken = template("broken");
    cluster.context.client.create(&set(3, json!({"template": broken}))).await.unwrap();
    cluster.until("the first", |f| f.list::<Pod>("ns").len() == 1).await;
    cluster.settle().await;
    assert_eq!(pods(&cluster.fake), "web-0=broken");

    let cluster = start();
    let burst = json!({"template": broken, "podManagementPolicy": "Parallel"});
    cluster.context.client.create(&set(3, burst)).await.unwrap();
    cluster.until("all", |f| f.list::<Pod>("ns").len() == 3).await;
    patch(&cluster, json!({"spec": {"replicas": 0}})).await;
    cluster.until("none", |f| f.list::<Pod>("ns").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn rolls_forward_and_back_one_pod_at_a_time_and_keeps_a_bounded_history() {
    let cluster = start();
    let journal = journal(&cluster);
    cluster.context.client.create(&set(3, json!({}))).await.unwrap();
    cluster.until("3 of v1", |f| settled(f, 3)).await;
    let first = status(&cluster.fake).current_revision.unwrap();

    let least = Arc::new(Mutex::new(usize::MAX));
    let seen = least.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            let up = |o: &&Arc<Object>| {
                let pod: Pod = o.decode().unwrap();
                !o.head.deleting
                    && pod.status.and_then(|s| s.conditions).is_some_and(|c| c[0].status == "True")
            };
            let mut least = seen.lock();
            *least = (*least).min(all.iter().filter(up).count());
        }
    });
    journal.lock().clear();
    set_image(&cluster, "v2").await;
    cluster.until("3 of v2", |f| settled(f, 3) && pods(f) == "web-0=v2 web-1=v2 web-2=v2").await;
    assert_eq!(*journal.lock(), ["-web-2", "+web-2", "-web-1", "+web-1", "-web-0", "+web-0"]);
    assert_eq!(*least.lock(), 2, "one at a time");
    assert_ne!(status(&cluster.fake).current_revision.as_ref(), Some(&first));

    set_image(&cluster, "v1").await;
    cluster.until("back on v1", |f| settled(f, 3) && pods(f) == "web-0=v1 web-1=v1 web-2=v1").await;
    assert_eq!(
        status(&cluster.fake).current_revision.as_ref(),
        Some(&first),
        "the old revision is used again"
    );
    let revision = cluster.fake.get::<ControllerRevision>("ns", &first).unwrap();
    assert_eq!(revision.revision, Some(3));

    for image in ["v3", "v4", "v5", "v6"] {
        set_image(&cluster, image).await;
        cluster.until(image, |f| settled(f, 3) && pods(f).matches(image).count() == 3).await;
    }
    cluster.until("a history of 2", |f| f.list::<ControllerRevision>("ns").len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_canary_goes_first_and_phases_follow() {
    let cluster = start();
    let partition = |n: i32| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": n}}}});
    cluster.context.client.create(&set(3, json!({}))).await.unwrap();
    cluster.until("3 of v1", |f| settled(f, 3)).await;
    patch(&cluster, partition(2)).await;
    set_image(&cluster, "v2").await;
    cluster.until("the canary", |f| pods(f) == "web-0=v1 web-1=v1 web-2=v2").await;
    cluster
        .until("counted", |f| status(f).updated_replicas == Some(1) && status(f).current_replicas == Some(2))
        .await;
    assert_ne!(status(&cluster.fake).current_revision, status(&cluster.fake).update_revision);
    // What is deleted below the partition comes back as it was.
    let client = &cluster.context.client;
    client.delete::<Pod>("ns", "web-0", DeleteOptions::grace(0)).await.unwrap();
    cluster.until("it comes back", |f| pods(f) == "web-0=v1 web-1=v1 web-2=v2").await;
    patch(&cluster, partition(1)).await;
    cluster.until("the second phase", |f| pods(f) == "web-0=v1 web-1=v2 web-2=v2").await;
    patch(&cluster, partition(0)).await;
    cluster.until("the end", |f| settled(f, 3) && pods(f) == "web-0=v2 web-1=v2 web-2=v2").await;
}

#[tokio::test(start_paused = true)]
async fn on_delete_waits_for_the_user() {
    let cluster = start();
    let strategy = json!({"updateStrategy": {"type": "OnDelete"}});
    cluster.context.client.create(&set(2, strategy)).await.unwrap();
    cluster.until("2 of v1", |f| status(f).available_replicas == Some(2)).await;
    set_image(&cluster, "v2").await;
    cluster.settle().await;
    assert_eq!(pods(&cluster.fake), "web-0=v1 web-1=v1");
    cluster.context.client.delete::<Pod>("ns", "web-0", DeleteOptions::grace(0)).await.unwrap();
    cluster.until("only that one", |f| pods(f) == "web-0=v2 web-1=v1").await;
}

#[tokio::test(start_paused = true)]
async fn what_was_evicted_is_made_again() {
    let cluster = start();
    cluster.context.client.create(&set(2, json!({}))).await.unwrap();
    cluster.until("2", |f| settled(f, 2)).await;
    let mut pod = cluster.fake.get::<Pod>("ns", "web-1").unwrap();
    let uid = pod.metadata.uid.clone();
    pod.status.get_or_insert_default().phase = Some("Failed".into());
    cluster.fake.put(&pod).unwrap();
    cluster.until("another", |f| f.get::<Pod>("ns", "web-1").is_some_and(|p| p.metadata.uid != uid)).await;
    cluster.until("2 again", |f| settled(f, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn claims_come_with_pods_and_go_by_the_policy() {
    let cluster = start();
    cluster.start(|c| Box::pin(crate::gc::run(c)));
    let more = json!({
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"}});
    cluster.context.client.create(&set(3, more)).await.unwrap();
    cluster.until("3", |f| settled(f, 3)).await;
    let claims = |f: &Fake| -> Vec<String> {
        f.list::<PersistentVolumeClaim>("ns").into_iter().filter_map(|c| c.metadata.name).collect()
    };
    assert_eq!(claims(&cluster.fake), ["data-web-0", "data-web-1", "data-web-2"]);
    let message = "create Claim data-web-0 Pod web-0 in StatefulSet web success";
    assert!(cluster.events().iter().any(|(_, m)| m == message));
    patch(&cluster, json!({"spec": {"replicas": 1}})).await;
    cluster.until("claims go with their pods", |f| settled(f, 1) && claims(f) == ["data-web-0"]).await;
    patch(&cluster, json!({"spec": {"replicas": 2}})).await;
    cluster.until("and come again", |f| settled(f, 2) && claims(f).len() == 2).await;
    patch(&cluster, json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Retain"}}}))
        .await;
    cluster
        .until("nobody owns them", |f| {
            let all = f.list::<PersistentVolumeClaim>("ns");
            all.iter().all(|c| c.metadata.owner_references.iter().flatten().count() == 0)
        })
        .await;
    cluster.context.client.delete::<StatefulSet>("ns", "web", DeleteOptions::default()).await.unwrap();
    cluster.until("the pods go", |f| f.list::<Pod>("ns").is_empty()).await;
    cluster.settle().await;
    assert_eq!(claims(&cluster.fake).len(), 2, "the claims stay");
}

#[tokio::test(start_paused = true)]
async fn adopts_by_name_and_label_and_gives_an_identity() {
    let cluster = start();
    for (name, label) in [("web-0", "web"), ("web-x", "web"), ("other-1", "web")] {
        let pod: Pod = from(json!({"metadata": {"namespace": "ns", "name": name, "labels": {"app": label}},
            "spec": {"containers": [{"name": "web", "image": "v1"}]}}));
        cluster.context.client.create(&pod).await.unwrap();
    }
    cluster.context.client.create(&set(1, json!({}))).await.unwrap();
    cluster
        .until("it is adopted", |f| {
            f.get::<Pod>("ns", "web-0").is_some_and(|p| {
                p.metadata.owner_references.iter().flatten().count() == 1
                    && p.metadata.labels.unwrap().contains_key("statefulset.kubernetes.io/pod-name")
            })
        })
        .await;
    let others = cluster.fake.list::<Pod>("ns");
    let owned = others.iter().filter(|p| p.metadata.owner_references.iter().flatten().count() > 0).count();
    assert_eq!(owned, 1);
}

#[tokio::test(start_paused = true)]
async fn failing_creates_say_why_and_are_tried_again() {
    let cluster = start();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = broken.clone();
    cluster.fake.react(move |request| {
        let refused = request.verb == Verb::Create
            && request.resource.plural() == "pods"
            && switch.load(std::sync::atomic::Ordering::Relaxed);
        refused.then(|| ApiError::forbidden(&request.resource, "", "exceeded quota"))
    });
    cluster.context.client.create(&set(1, json!({}))).await.unwrap();
    let want = "create Pod web-0 in StatefulSet web failed error: pods is forbidden: exceeded quota";
    cluster
        .until("the event", |f| {
            let events = f.list::<k8s_openapi::api::core::v1::Event>("ns");
            events
                .iter()
                .any(|e| e.reason.as_deref() == Some("FailedCreate") && e.message.as_deref() == Some(want))
        })
        .await;
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    cluster.until("1", |f| settled(f, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_s_name_that_is_taken_makes_another() {
    let cluster = Cluster::new();
    let wanted = set(1, json!({}));
    let hash = crate::template::hash(&crate::template::canonical(&wanted.spec.template), None);
    let other: ControllerRevision = from(
        json!({"metadata": {"namespace": "ns", "name": format!("web-{hash}"),
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "d", "controller": true}]},
        "data": {}, "revision": 1}),
    );
    cluster.context.client.create(&other).await.unwrap();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.kubelet("n1", |_| true);
    cluster.context.client.create(&wanted).await.unwrap();
    cluster.until("settled", |f| settled(f, 1)).await;
    assert_eq!(status(&cluster.fake).collision_count, Some(1));
}
