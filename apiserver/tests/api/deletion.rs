//! Deletes: at once, gracefully, held by finalizers, by collection, and what may not be deleted.

use serde_json::{Value, json};

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn delete(server: &Server, path: &str, options: Value) -> crate::harness::Reply {
    server.send("DELETE", path, &[("content-type", "application/json")], options.to_string()).await
}

async fn create(server: &Server, name: &str, metadata: Value) -> Value {
    let mut metadata = metadata;
    metadata["name"] = json!(name);
    server.post(MAPS, json!({"metadata": metadata})).await.expect(201).json
}

#[tokio::test]
async fn preconditions_and_options() {
    let server = Server::start().await;
    let object = create(&server, "a", json!({})).await;
    let path = format!("{MAPS}/a");
    let version = object["metadata"]["resourceVersion"].as_str().unwrap();
    for (options, code, message) in [
        (
            json!({"preconditions": {"uid": "x"}}),
            409,
            "the UID in the precondition (x) does not match the UID in record (",
        ),
        (
            json!({"preconditions": {"resourceVersion": "1"}}),
            409,
            "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (",
        ),
        (json!({"propagationPolicy": "Sideways"}), 422, "propagationPolicy: Unsupported value: \"Sideways\""),
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            422,
            "orphanDependents and deletionPropagation cannot be both set",
        ),
        (json!({"dryRun": ["Some"]}), 422, "dryRun: Unsupported value: \"Some\""),
    ] {
        let reply = delete(&server, &path, options).await.expect(code);
        assert!(reply.message().contains(message), "{}", reply.message());
    }
    delete(&server, &path, json!({"dryRun": ["All"]})).await.expect(200);
    // Typed clients name the group of what they delete.
    let typed = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "dryRun": ["All"]});
    delete(&server, &path, typed).await.expect(200);
    server.get(&path).await.expect(200);
    let done =
        delete(&server, &path, json!({"preconditions": {"resourceVersion": version}})).await.expect(200);
    assert_eq!(done.json["status"], "Success");
    assert_eq!(done.json["details"]["name"], "a");
    assert_eq!(done.json["details"]["uid"], object["metadata"]["uid"]);
    delete(&server, &path, json!({})).await.expect(404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    create(&server, "a", json!({"finalizers": ["example.com/one"]})).await;
    let path = format!("{MAPS}/a");
    let marked = server.delete(&path).await.expect(200);
    assert!(marked.json["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked.json["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = server.delete(&path).await.expect(200);
    assert_eq!(again.version(), marked.version());
    let added = server
        .merge(&path, json!({"metadata": {"finalizers": ["example.com/one", "example.com/two"]}}))
        .await
        .expect(422);
    assert!(added.message().contains("no new finalizers can be added if the object is being deleted"));
    let taken = server.post(MAPS, json!({"metadata": {"name": "a"}})).await.expect(409);
    assert_eq!(taken.message(), "object is being deleted: configmaps \"a\" already exists");
    let mut events = server.watch(&format!("{MAPS}?watch=1&resourceVersion={}", marked.version())).await;
    server.merge(&path, json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(events.line().await, "DELETED a");
    server.get(&path).await.expect(404);
}

#[tokio::test]
async fn propagation_is_left_to_the_collector() {
    let server = Server::start().await;
    for (name, query, finalizer) in [
        ("a", "propagationPolicy=Orphan", "orphan"),
        ("b", "propagationPolicy=Foreground", "foregroundDeletion"),
        ("c", "orphanDependents=true", "orphan"),
    ] {
        create(&server, name, json!({})).await;
        let marked = server.delete(&format!("{MAPS}/{name}?{query}")).await.expect(200);
        assert_eq!(marked.json["metadata"]["finalizers"], json!([finalizer]));
    }
    create(&server, "d", json!({})).await;
    server.delete(&format!("{MAPS}/d?propagationPolicy=Background")).await.expect(200);
    server.get(&format!("{MAPS}/d")).await.expect(404);
}

#[tokio::test]
async fn pods_get_their_grace_once_they_have_a_node() {
    let server = Server::start().await;
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post(PODS, pod("free")).await.expect(201);
    server.delete(&format!("{PODS}/free")).await.expect(200);
    server.get(&format!("{PODS}/free")).await.expect(404);

    server.post(PODS, pod("bound")).await.expect(201);
    let path = format!("{PODS}/bound");
    let binding = json!({"metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{path}/binding"), binding).await.expect(201);
    let marked = server.delete(&path).await.expect(200);
    assert_eq!(marked.json["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = delete(&server, &path, json!({"gracePeriodSeconds": 60})).await.expect(200);
    assert_eq!(longer.version(), marked.version());
    let shorter = delete(&server, &path, json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(shorter.json["metadata"]["deletionGracePeriodSeconds"], 5);
    let gone = delete(&server, &path, json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(gone.json["kind"], "Pod");
    server.get(&path).await.expect(404);
}

#[tokio::test]
async fn collections_go_by_selection() {
    let server = Server::start().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        create(&server, name, json!({"labels": {"l": label}})).await;
    }
    let reply = server.delete(&format!("{MAPS}?labelSelector=l%3Dx")).await.expect(200);
    assert_eq!(reply.names(), ["a", "c"]);
    assert_eq!(server.get(MAPS).await.names(), ["b"]);
}

#[tokio::test]
async fn namespaces_end_in_steps() {
    let server = Server::start().await;
    for name in ["default", "kube-system"] {
        let reply = server.delete(&format!("/api/v1/namespaces/{name}")).await.expect(403);
        assert_eq!(
            reply.message(),
            format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
        );
    }
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await.expect(201);
    let marked = server.delete("/api/v1/namespaces/a").await.expect(200);
    assert_eq!(marked.json["status"]["phase"], "Terminating");
    let refused =
        server.post("/api/v1/namespaces/a/configmaps", json!({"metadata": {"name": "m"}})).await.expect(403);
    assert_eq!(
        refused.message(),
        "configmaps \"m\" is forbidden: unable to create new content in namespace a because it is being terminated"
    );
    assert_eq!(refused.json["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut object = marked.json.clone();
    object["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/a/finalize", object).await.expect(200);
    server.get("/api/v1/namespaces/a").await.expect(404);
}
