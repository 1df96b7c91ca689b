//! Lists: selectors, pages, and which state they show.

use serde_json::json;

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn filled() -> Server {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        let label = if name < "c" { "low" } else { "high" };
        server.post(MAPS, json!({"metadata": {"name": name, "labels": {"l": label}}})).await.expect(201);
    }
    server
        .post("/api/v1/namespaces/kube-system/configmaps", json!({"metadata": {"name": "s"}}))
        .await
        .expect(201);
    server
}

#[tokio::test]
async fn selectors_select() {
    let server = filled().await;
    for (path, want) in [
        ("/api/v1/configmaps", "a b c d e s"),
        (MAPS, "a b c d e"),
        (&format!("{MAPS}/"), "a b c d e"),
        (&format!("{MAPS}?labelSelector=l%3Dlow"), "a b"),
        (&format!("{MAPS}?labelSelector=l%20notin%20(low)"), "c d e"),
        (&format!("{MAPS}?fieldSelector=metadata.name%3Db"), "b"),
        (&format!("{MAPS}?fieldSelector=metadata.name!%3Db&labelSelector=l%3Dlow"), "a"),
        ("/api/v1/configmaps?fieldSelector=metadata.namespace%3Dkube-system", "s"),
        ("/api/v1/namespaces/nowhere/configmaps", ""),
    ] {
        assert_eq!(server.get(path).await.expect(200).names().join(" "), want, "{path}");
    }
}

#[tokio::test]
async fn pages_show_one_state_whatever_happens_between() {
    let server = filled().await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(first.names(), ["a", "b"]);
    assert_eq!(first.json["metadata"]["remainingItemCount"], 3);
    server.delete(&format!("{MAPS}/d")).await.expect(200);
    server.post(MAPS, json!({"metadata": {"name": "cc"}})).await.expect(201);
    let token = first.json["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(second.names(), ["c", "d"]);
    assert_eq!(second.version(), first.version());
    let token = second.json["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(third.names(), ["e"]);
    assert!(third.json["metadata"]["continue"].is_null());
    assert_eq!(server.get(MAPS).await.names(), ["a", "b", "c", "cc", "e"]);
    let exact =
        server.get(&format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", first.version())).await;
    assert_eq!(exact.expect(200).names(), ["a", "b", "c", "d", "e"]);
    let selected = server.get(&format!("{MAPS}?limit=1&labelSelector=l%3Dlow")).await.expect(200);
    assert!(selected.json["metadata"]["remainingItemCount"].is_null());
}

#[tokio::test]
async fn lists_that_are_refused() {
    let server = filled().await;
    let current = server.get(MAPS).await.version();
    for (query, code, reason, message) in [
        ("labelSelector=a%20b%20c", 400, "BadRequest", "unable to parse requirement"),
        ("fieldSelector=data.k%3Dv", 400, "BadRequest", "is not a known field selector"),
        ("limit=x", 400, "BadRequest", "strconv.ParseInt"),
        ("resourceVersion=x", 400, "BadRequest", "resourceVersion: Invalid value: \"x\""),
        ("continue=nonsense", 400, "BadRequest", "continue key is not valid"),
        (
            "resourceVersionMatch=Exact",
            422,
            "Invalid",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        ("sendInitialEvents=true", 422, "Invalid", "sendInitialEvents is forbidden for list"),
    ] {
        let reply = server.get(&format!("{MAPS}?{query}")).await.expect(code);
        assert_eq!(reply.reason(), reason, "{query}");
        assert!(reply.message().contains(message), "{}", reply.message());
    }
    let future = server.get(&format!("{MAPS}?resourceVersion={}", current + 1000)).await.expect(504);
    assert_eq!(
        future.message(),
        format!("Timeout: Too large resource version: {}, current: {current}", current + 1000)
    );
    assert_eq!(future.json["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let pods = server.get("/api/v1/pods?fieldSelector=spec.nosuch%3Dx").await.expect(400);
    assert_eq!(pods.message(), "field label not supported: spec.nosuch");
}
