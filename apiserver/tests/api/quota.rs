//! Quotas and limits: what is refused, and that many clients at once never get more than there is.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::Server;

const CLIENTS: usize = 200;
const ROOM: usize = 37;
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTA: &str = "/api/v1/namespaces/default/resourcequotas/q";

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

/// A quota as the controller leaves it when nothing is used yet.
async fn quota(server: &Server, hard: Value, used: Value) {
    let body = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    server.post("/api/v1/namespaces/default/resourcequotas", body).await.expect(201);
    server
        .merge(&format!("{QUOTA}/status"), json!({"status": {"hard": hard, "used": used}}))
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_never_get_more_than_there_is() {
    let server = Arc::new(Server::start().await);
    quota(
        &server,
        json!({"pods": ROOM.to_string(), "requests.cpu": "100"}),
        json!({"pods": "0", "requests.cpu": "0"}),
    )
    .await;
    let clients = (0..CLIENTS).map(|i| {
        let server = server.clone();
        tokio::spawn(async move {
            let body = pod(&format!("p{i}"), json!({"requests": {"cpu": "100m"}}));
            server.post(PODS, body).await
        })
    });
    let replies: Vec<_> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    let made = replies.iter().filter(|reply| reply.code == 201).count();
    assert_eq!(made, ROOM, "{:?}", replies.iter().map(|r| r.code).collect::<Vec<_>>());
    for refused in replies.iter().filter(|reply| reply.code != 201) {
        assert_eq!(refused.code, 403, "{}", refused.json);
        assert!(
            refused
                .message()
                .contains("exceeded quota: q, requested: pods=1, used: pods=37, limited: pods=37")
        );
    }
    assert_eq!(server.get(PODS).await.names().len(), ROOM);
    let used = server.get(QUOTA).await.json["status"]["used"].clone();
    assert_eq!(used, json!({"pods": "37", "requests.cpu": "3700m"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_refuses_what_it_cannot_count_or_has_no_room_for() {
    let server = Server::start().await;
    quota(
        &server,
        json!({"configmaps": "1", "limits.cpu": "1"}),
        json!({"configmaps": "0", "limits.cpu": "0"}),
    )
    .await;
    let reply = server.post(PODS, pod("p", json!({}))).await.expect(403);
    assert_eq!(reply.message(), "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: c");
    let maps = "/api/v1/namespaces/default/configmaps";
    // Dry runs are checked and not charged.
    server.post(&format!("{maps}?dryRun=All"), json!({"metadata": {"name": "a"}})).await.expect(201);
    server.post(maps, json!({"metadata": {"name": "a"}})).await.expect(201);
    let reply = server.post(maps, json!({"metadata": {"name": "b"}})).await.expect(403);
    assert_eq!(
        reply.message(),
        "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_given_and_kept() {
    let server = Server::start().await;
    let ranges = "/api/v1/namespaces/default/limitranges";
    let limits = json!([{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "250m"}}]);
    server.post(ranges, json!({"metadata": {"name": "l"}, "spec": {"limits": limits}})).await.expect(201);
    let made = server.post(PODS, pod("p", json!({}))).await.expect(201);
    assert_eq!(
        made.json["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}})
    );
    assert_eq!(
        made.json["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let reply = server.post(PODS, pod("q", json!({"limits": {"cpu": "2"}}))).await.expect(403);
    assert_eq!(
        reply.message(),
        "pods \"q\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}
