//! Evictions: disruption budgets decide, and are spent once per pod.

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod that runs and is ready.
async fn running(server: &Server, name: &str, ready: &str) {
    let body = json!({"metadata": {"name": name, "labels": {"app": "a"}}, "spec":
        {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    server.post(PODS, body).await.expect(201);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    server.merge(&format!("{PODS}/{name}/status"), status).await.expect(200);
}

async fn budget(server: &Server, name: &str, spec: Value, allowed: i32) {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "a"}});
    server.post(BUDGETS, json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2,
        "desiredHealthy": 2, "expectedPods": 3}});
    server.merge(&format!("{BUDGETS}/{name}/status"), status).await.expect(200);
}

async fn evict(server: &Server, name: &str, query: &str) -> Reply {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    server.post(&format!("{PODS}/{name}/eviction{query}"), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_spent() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        running(&server, name, "True").await;
    }
    budget(&server, "b", json!({"minAvailable": 2}), 1).await;
    evict(&server, "a", "?dryRun=All").await.expect(201);
    let untouched = server.get(&format!("{BUDGETS}/b")).await.json["status"].clone();
    assert_eq!((&untouched["disruptionsAllowed"], &untouched["disruptedPods"]), (&json!(1), &json!(null)));

    evict(&server, "a", "").await.expect(201);
    let gone = server.get(&format!("{PODS}/a")).await;
    assert!(gone.json["metadata"]["deletionTimestamp"].is_string(), "{}", gone.json);
    let condition = gone.json["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(condition.unwrap()["reason"], "EvictionByEvictionAPI");
    let spent = server.get(&format!("{BUDGETS}/b")).await.json["status"].clone();
    assert_eq!(spent["disruptionsAllowed"], 0);
    assert!(spent["disruptedPods"]["a"].is_string());

    let refused = evict(&server, "b", "").await.expect(429);
    assert_eq!(refused.message(), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(
        refused.json["details"]["causes"],
        json!([{"reason": "DisruptionBudget", "message": "The disruption budget b needs 2 healthy pods and has 2 currently"}])
    );
    assert_eq!(server.get(&format!("{PODS}/b")).await.json["metadata"]["deletionTimestamp"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_counted_goes() {
    let server = Server::start().await;
    running(&server, "unready", "False").await;
    budget(&server, "b", json!({"minAvailable": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow"}), 0).await;
    evict(&server, "unready", "").await.expect(201);
    let pending = json!({"metadata": {"name": "pending", "labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post(PODS, pending).await.expect(201);
    evict(&server, "pending", "").await.expect(201);
    server.get(&format!("{PODS}/pending")).await.expect(404);
    evict(&server, "nothing", "").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_budget_per_pod() {
    let server = Server::start().await;
    running(&server, "a", "True").await;
    for name in ["one", "two"] {
        budget(&server, name, json!({"maxUnavailable": 1}), 1).await;
    }
    let reply = evict(&server, "a", "").await.expect(500);
    assert_eq!(
        reply.message(),
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
}
