//! Watches: where they start, bookmarks, selection, and how they end.

use serde_json::json;

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(server: &Server, name: &str, label: &str) -> u64 {
    let body = json!({"metadata": {"name": name, "labels": {"l": label}}});
    server.post(MAPS, body).await.expect(201).version()
}

#[tokio::test]
async fn a_watch_starts_where_it_is_told() {
    let server = Server::start().await;
    let first = create(&server, "a", "x").await;
    create(&server, "b", "x").await;
    for (query, want) in [
        ("watch=1", vec!["ADDED a", "ADDED b"]),
        ("watch=true&resourceVersion=0", vec!["ADDED a", "ADDED b"]),
        (&format!("watch=1&resourceVersion={first}"), vec!["ADDED b"]),
        ("watch=1&fieldSelector=metadata.name%3Da", vec!["ADDED a"]),
    ] {
        let mut events = server.watch(&format!("{MAPS}?{query}&timeoutSeconds=1")).await;
        for line in want {
            assert_eq!(events.line().await, line, "{query}");
        }
        assert!(events.next().await.is_none(), "{query}");
    }
    let mut old = server.watch("/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1").await;
    assert_eq!(old.line().await, "ADDED a");
}

#[tokio::test]
async fn the_old_form_of_a_watch_goes_no_further_than_its_selector() {
    let server = Server::start().await;
    create(&server, "a", "x").await;
    let old = "/api/v1/watch/namespaces/default/configmaps/a";
    let mut events = server.watch(&format!("{old}?timeoutSeconds=1&fieldSelector=metadata.name%3Db")).await;
    assert!(events.next().await.is_none());
    server.get(&format!("{old}/status")).await.expect(405);
    server.get("/api/v1/namespaces/default/nodes/default").await.expect(404);
    server.get("/api/v1/namespaces/default").await.expect(200);
    // Longer than the clock goes.
    let forever = i64::MAX;
    let mut events = server.watch(&format!("{MAPS}?watch=1&timeoutSeconds={forever}")).await;
    assert_eq!(events.line().await, "ADDED a");
}

#[tokio::test]
async fn initial_events_end_in_a_bookmark() {
    let server = Server::start().await;
    create(&server, "a", "x").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut events = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.line().await, "ADDED a");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // One more before the end.
    let last = events.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    assert!(last["object"]["metadata"]["annotations"].is_null());
    assert!(events.next().await.is_none());
    for (query, message) in [
        (
            "watch=1&sendInitialEvents=true",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    ] {
        let reply = server.get(&format!("{MAPS}?{query}")).await.expect(422);
        assert!(reply.message().contains(message), "{}", reply.message());
    }
}

#[tokio::test]
async fn objects_enter_and_leave_the_selection() {
    let server = Server::start().await;
    let mut events = server.watch(&format!("{MAPS}?watch=1&labelSelector=l%3Dx")).await;
    create(&server, "a", "x").await;
    create(&server, "b", "y").await;
    let path = |name: &str| format!("{MAPS}/{name}");
    server.merge(&path("b"), json!({"metadata": {"labels": {"l": "x"}}})).await.expect(200);
    let left = server.merge(&path("a"), json!({"metadata": {"labels": {"l": "y"}}})).await.expect(200);
    server.delete(&path("b")).await.expect(200);
    assert_eq!(events.line().await, "ADDED a");
    assert_eq!(events.line().await, "ADDED b");
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["l"], "x");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left.version().to_string());
    assert_eq!(events.line().await, "DELETED b");
}
