//! Node lifecycle, taint eviction and pod garbage collection against a fake API.

use std::time::Duration;

use coracle_client::DeleteOptions;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::Options;
use crate::testing::{Cluster, from};

fn node(name: &str, ready: &str) -> Node {
    from(json!({"metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}}))
}

fn pod(name: &str, node: &str, seconds: Option<i64>) -> Pod {
    from(json!({"metadata": {"namespace": "ns", "name": name},
        "spec": {"nodeName": node, "containers": [], "tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}))
}

fn cluster() -> Cluster {
    let grace = Duration::from_millis(300);
    let cluster = Cluster::with(Options { node_monitor_grace_period: grace, ..Options::default() });
    cluster.start(|c| Box::pin(super::run(c)));
    cluster.start(|c| Box::pin(super::eviction::run(c)));
    cluster.start(|c| Box::pin(super::pod_gc::run(c)));
    cluster
}

fn taints(cluster: &coracle_client::fake::Fake, name: &str) -> Vec<(String, String)> {
    let node = cluster.get::<Node>("", name).unwrap_or_default();
    let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
    taints.into_iter().map(|t| (t.key, t.effect)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_lost_its_pods_leave_and_it_can_come_back() {
    let cluster = cluster();
    for name in ["lost", "alive", "other"] {
        cluster.fake.put(&node(name, "True")).unwrap();
    }
    cluster.fake.put(&pod("impatient", "lost", Some(0))).unwrap();
    cluster.fake.put(&pod("patient", "lost", Some(300))).unwrap();
    let fake = cluster.fake.clone();
    let heartbeat = tokio::spawn(async move {
        for n in 0.. {
            for name in ["alive", "other"] {
                if let Some(mut node) = fake.get::<Node>("", name) {
                    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
                    conditions[0].last_heartbeat_time =
                        Some(from(json!(format!("2026-01-02T00:{:02}:{:02}Z", n / 60 % 60, n % 60))));
                    let _ = fake.put(&node);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    cluster.until("tainted", |f| taints(f, "lost").len() == 2).await;
    let lost = cluster.fake.get::<Node>("", "lost").unwrap();
    let ready = lost.status.unwrap().conditions.unwrap()[0].clone();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    cluster
        .until("the impatient pod leaves", |f| {
            f.get::<Pod>("ns", "impatient").is_none_or(|p| p.metadata.deletion_timestamp.is_some())
        })
        .await;
    cluster
        .until("the patient pod is not ready", |f| {
            f.get::<Pod>("ns", "patient")
                .and_then(|p| p.status?.conditions)
                .is_some_and(|c| c.iter().all(|c| c.status != "True"))
        })
        .await;
    assert!(cluster.fake.get::<Pod>("ns", "patient").unwrap().metadata.deletion_timestamp.is_none());
    assert!(taints(&cluster.fake, "alive").is_empty());
    cluster
        .until("events", |f| {
            let _ = f;
            let events = cluster.events();
            events.iter().any(|(r, m)| r == "NodeNotReady" && m == "Node lost status is now: NodeNotReady")
                && events
                    .iter()
                    .any(|(r, m)| r == "TaintManagerEviction" && m == "Marking for deletion Pod ns/impatient")
        })
        .await;

    let mut back = cluster.fake.get::<Node>("", "lost").unwrap();
    let ready = &mut back.status.get_or_insert_default().conditions.get_or_insert_default()[0];
    ready.status = "True".into();
    ready.last_heartbeat_time = Some(from(json!("2026-02-01T00:00:00Z")));
    cluster.fake.put(&back).unwrap();
    cluster.until("untainted", |f| taints(f, "lost").is_empty()).await;
    heartbeat.abort();
}

#[tokio::test(start_paused = true)]
async fn pods_of_vanished_nodes_and_unbound_deleted_pods_go() {
    let cluster = Cluster::new();
    cluster.start(|c| Box::pin(super::pod_gc::run(c)));
    cluster.fake.put(&node("n1", "True")).unwrap();
    cluster.fake.put(&pod("bound", "n1", None)).unwrap();
    cluster.fake.put(&pod("lost", "gone", None)).unwrap();
    let mut unbound = pod("unbound", "", None);
    unbound.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    unbound.metadata.deletion_grace_period_seconds = Some(30);
    cluster.fake.put(&unbound).unwrap();
    cluster.until("only the bound one", |f| f.list::<Pod>("ns").len() == 1).await;
    cluster.context.client.delete::<Node>("", "n1", DeleteOptions::default()).await.unwrap();
    cluster.until("none", |f| f.list::<Pod>("ns").is_empty()).await;
}
