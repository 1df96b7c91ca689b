//! The DaemonSet controller against a fake API and kubelets.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::fake::Fake;
use coracle_client::{DeleteOptions, PatchType};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::daemon::Daemon;
use crate::testing::{Cluster, from, template};

fn set(more: Value) -> DaemonSet {
    let mut value = json!({
        "metadata": {"namespace": "ns", "name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("v1"), "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}},
    });
    for (field, wanted) in more.as_object().unwrap() {
        value["spec"][field] = wanted.clone();
    }
    from(value)
}

fn node(name: &str, labels: Value) -> Node {
    from(json!({"metadata": {"name": name, "labels": labels}, "spec": {}}))
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.containers[0].image.as_deref()).unwrap_or_default()
}

/// Three nodes, whose kubelets run what is pinned to them; the image `broken` is never ready.
async fn start() -> Cluster {
    let cluster = Cluster::new();
    for name in ["n1", "n2", "n3"] {
        cluster.context.client.create(&node(name, json!({}))).await.unwrap();
    }
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.kubelets(
        |object| Daemon::parse(object).map(|d| d.node.to_string()).unwrap_or_default(),
        |pod| image_of(pod) != "broken",
    );
    cluster
}

fn status(fake: &Fake) -> DaemonSetStatus {
    fake.get::<DaemonSet>("ns", "agent").and_then(|s| s.status).unwrap_or_default()
}

async fn patch(cluster: &Cluster, patch: Value) {
    let client = &cluster.context.client;
    client.patch::<DaemonSet>("ns", "agent", None, PatchType::Merge, &patch).await.unwrap();
}

async fn set_image(cluster: &Cluster, image: &str) {
    patch(cluster, json!({"spec": {"template": template(image)}})).await;
}

/// `n1=v1 n2=v1`, in order.
fn pods(fake: &Fake) -> String {
    let one = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        format!("{node}={}", image_of(pod))
    };
    let mut all: Vec<String> = fake.list::<Pod>("ns").iter().map(one).collect();
    all.sort();
    all.join(" ")
}

fn settled(fake: &Fake, nodes: i32) -> bool {
    let status = status(fake);
    let generation = fake.get::<DaemonSet>("ns", "agent").and_then(|s| s.metadata.generation);
    status.desired_number_scheduled == nodes
        && status.number_available.unwrap_or(0) == nodes
        && status.updated_number_scheduled.unwrap_or(0) == nodes
        && status.observed_generation == generation
        && fake.list::<Pod>("ns").len() == usize::try_from(nodes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_on_every_node_and_another_when_it_is_deleted() {
    let cluster = start().await;
    cluster.context.client.create(&set(json!({}))).await.unwrap();
    cluster.until("3", |f| settled(f, 3)).await;
    assert_eq!(pods(&cluster.fake), "n1=v1 n2=v1 n3=v1");
    let events = cluster.events();
    assert_eq!(
        events
            .iter()
            .filter(|(r, m)| r == "SuccessfulCreate" && m.starts_with("Created pod: agent-"))
            .count(),
        3
    );
    let name = cluster.fake.list::<Pod>("ns")[0].metadata.name.clone().unwrap();
    cluster.context.client.delete::<Pod>("ns", &name, DeleteOptions::grace(0)).await.unwrap();
    cluster.until("3 again", |f| settled(f, 3) && f.get::<Pod>("ns", &name).is_none()).await;
    cluster.context.client.create(&node("n4", json!({}))).await.unwrap();
    cluster.until("4", |f| settled(f, 4)).await;
    cluster.fake.remove::<Node>("", "n4");
    cluster.until("3 wanted", |f| status(f).desired_number_scheduled == 3).await;
}

#[tokio::test(start_paused = true)]
async fn follows_the_labels_of_nodes() {
    let cluster = start().await;
    let mut blue = template("v1");
    blue["spec"]["nodeSelector"] = json!({"color": "blue"});
    cluster.context.client.create(&set(json!({"template": blue}))).await.unwrap();
    cluster.until("seen", |f| status(f).observed_generation == Some(1)).await;
    cluster.settle().await;
    assert_eq!(pods(&cluster.fake), "");
    let color = |name: &'static str, color: &'static str| {
        let patch = json!({"metadata": {"labels": {"color": color}}});
        let client = cluster.context.client.clone();
        async move { client.patch::<Node>("", name, None, PatchType::Merge, &patch).await.map(drop).unwrap() }
    };
    color("n2", "blue").await;
    cluster.until("one", |f| settled(f, 1) && pods(f) == "n2=v1").await;
    color("n2", "green").await;
    cluster.until("none", |f| settled(f, 0)).await;
    let mut green = template("v1");
    green["spec"]["nodeSelector"] = json!({"color": "green"});
    patch(&cluster, json!({"spec": {"template": green}})).await;
    cluster.until("one again", |f| settled(f, 1) && pods(f) == "n2=v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_a_node_is_nobody_s_business() {
    let cluster = start().await;
    cluster.context.client.create(&set(json!({}))).await.unwrap();
    cluster.until("3", |f| settled(f, 3)).await;
    cluster.settle().await;
    cluster.fake.forget_requests();
    for beat in 0..20 {
        let mut node = cluster.fake.get::<Node>("", "n1").unwrap();
        node.metadata.annotations.get_or_insert_default().insert("beat".into(), beat.to_string());
        cluster.fake.put(&node).unwrap();
        cluster.settle().await;
    }
    assert!(cluster.fake.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_daemon_is_replaced_with_an_event_and_ever_later() {
    let cluster = start().await;
    cluster.context.client.create(&set(json!({}))).await.unwrap();
    cluster.until("3", |f| settled(f, 3)).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let mut pod = cluster.fake.list::<Pod>("ns").remove(0);
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap();
        let name = pod.metadata.name.clone().unwrap();
        pod.status.get_or_insert_default().phase = Some("Failed".into());
        cluster.fake.put(&pod).unwrap();
        let since = tokio::time::Instant::now();
        cluster.until("replaced", |f| settled(f, 3) && f.get::<Pod>("ns", &name).is_none()).await;
        waits.push((node.clone(), since.elapsed().as_secs()));
        let message = format!("Found failed daemon pod ns/{name} on node {node}, will try to kill it");
        assert!(cluster.events().contains(&("FailedDaemonPod".into(), message)));
    }
    let nodes: BTreeSet<&String> = waits.iter().map(|(node, _)| node).collect();
    assert!(nodes.len() > 1 || waits.windows(2).all(|w| w[0].1 <= w[1].1), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn an_update_holds_its_bound_and_a_rollback_does_not_restart_what_it_need_not() {
    let cluster = start().await;
    cluster.context.client.create(&set(json!({}))).await.unwrap();
    cluster.until("3 of v1", |f| settled(f, 3)).await;
    let least = Arc::new(Mutex::new(usize::MAX));
    let seen = least.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            let up = all.iter().filter(|o| {
                let pod: Pod = o.decode().unwrap();
                !o.head.deleting
                    && pod.status.and_then(|s| s.conditions).is_some_and(|c| c[0].status == "True")
            });
            let mut least = seen.lock();
            *least = (*least).min(up.count());
        }
    });
    set_image(&cluster, "v2").await;
    cluster.until("3 of v2", |f| settled(f, 3) && pods(f) == "n1=v2 n2=v2 n3=v2").await;
    assert_eq!(*least.lock(), 2, "one at a time");

    let uids = |f: &Fake| -> BTreeSet<String> {
        f.list::<Pod>("ns").into_iter().filter_map(|p| p.metadata.uid).collect()
    };
    let before = uids(&cluster.fake);
    set_image(&cluster, "broken").await;
    cluster.until("one is broken", |f| pods(f).contains("broken")).await;
    cluster.settle().await;
    set_image(&cluster, "v2").await;
    cluster.until("back on v2", |f| settled(f, 3) && pods(f) == "n1=v2 n2=v2 n3=v2").await;
    assert_eq!(before.intersection(&uids(&cluster.fake)).count(), 2, "two were never touched");
    let revisions = cluster.fake.list::<ControllerRevision>("ns");
    let newest = revisions.iter().max_by_key(|r| r.revision).unwrap();
    assert_eq!(newest.revision, Some(4), "v2 again, as the newest");

    for image in ["v3", "v4", "v5"] {
        set_image(&cluster, image).await;
        cluster.until(image, |f| settled(f, 3) && pods(f).matches(image).count() == 3).await;
    }
    cluster.until("a history of 2", |f| f.list::<ControllerRevision>("ns").len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_surge_never_has_fewer() {
    let cluster = start().await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    cluster.context.client.create(&set(json!({"updateStrategy": strategy}))).await.unwrap();
    cluster.until("3 of v1", |f| settled(f, 3)).await;
    let bounds = Arc::new(Mutex::new((usize::MAX, 0)));
    let seen = bounds.clone();
    cluster.fake.observe(move |resource, all| {
        if resource.plural() == "pods" {
            let served: BTreeSet<String> = all
                .iter()
                .filter_map(|o| {
                    let pod: Pod = o.decode().unwrap();
                    let up = pod.status.and_then(|s| s.conditions).is_some_and(|c| c[0].status == "True");
                    (up && !o.head.deleting).then(|| pod.spec.unwrap().node_name.unwrap_or_default())
                })
                .collect();
            let there = all.iter().filter(|o| !o.head.deleting).count();
            let mut bounds = seen.lock();
            *bounds = (bounds.0.min(served.len()), bounds.1.max(there));
        }
    });
    set_image(&cluster, "v2").await;
    cluster.until("3 of v2", |f| settled(f, 3) && pods(f) == "n1=v2 n2=v2 n3=v2").await;
    assert_eq!(*bounds.lock(), (3, 4));
}

#[tokio::test(start_paused = true)]
async fn on_delete_waits_for_the_user() {
    let cluster = start().await;
    cluster.context.client.create(&set(json!({"updateStrategy": {"type": "OnDelete"}}))).await.unwrap();
    cluster.until("3 of v1", |f| settled(f, 3)).await;
    set_image(&cluster, "v2").await;
    cluster.until("seen", |f| status(f).observed_generation == Some(2)).await;
    cluster.settle().await;
    assert_eq!(pods(&cluster.fake), "n1=v1 n2=v1 n3=v1");
    let on_n2 = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some("n2");
    let name = cluster.fake.list::<Pod>("ns").into_iter().find(on_n2).and_then(|p| p.metadata.name).unwrap();
    cluster.context.client.delete::<Pod>("ns", &name, DeleteOptions::grace(0)).await.unwrap();
    cluster
        .until("that one", |f| {
            pods(f) == "n1=v1 n2=v2 n3=v1" && status(f).updated_number_scheduled == Some(1)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn orphans_are_adopted_and_a_second_history_of_the_same_template_is_merged() {
    let cluster = Cluster::new();
    cluster.context.client.create(&node("n1", json!({}))).await.unwrap();
    cluster.context.client.create(&set(json!({}))).await.unwrap();
    let labels = |hash: &str| json!({"app": "web", "controller-revision-hash": hash});
    for (hash, number) in [("first", 1), ("second", 2)] {
        let revision: ControllerRevision = from(json!({
            "metadata": {"namespace": "ns", "name": format!("agent-{hash}"), "labels": labels(hash)},
            "data": {"spec": {"template": template("v1")}}, "revision": number}));
        cluster.context.client.create(&revision).await.unwrap();
    }
    let mut pod = template("v1");
    pod["metadata"] = json!({"namespace": "ns", "name": "agent-x", "labels": labels("first")});
    pod["spec"]["nodeName"] = json!("n1");
    let pod: Pod = from(pod);
    cluster.context.client.create(&pod).await.unwrap();
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.kubelet("n1", |_| true);
    cluster
        .until("one history, and the pod stays", |f| {
            f.list::<ControllerRevision>("ns").len() == 1
                && settled(f, 1)
                && f.get::<Pod>("ns", "agent-x").is_some_and(|p| {
                    p.metadata.labels.is_some_and(|l| l["controller-revision-hash"] == "second")
                        && p.metadata.owner_references.iter().flatten().count() == 1
                })
        })
        .await;
}
