//! Discovery, health, media types, Tables, and what is not there.

use serde_json::json;

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn objects_come_as_asked() {
    let server = Server::start().await;
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    server.post(MAPS, body).await.expect(201);
    let table = server.send("GET", MAPS, &[("accept", TABLE)], "").await.expect(200);
    assert_eq!(table.json["kind"], "Table");
    assert_eq!(table.json["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table.json["rows"][0]["cells"][0], "a");
    assert_eq!(table.json["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table.json["rows"][0]["object"]["metadata"]["name"], "a");
    let one = server.send("GET", &format!("{MAPS}/a?includeObject=Object"), &[("accept", TABLE)], "").await;
    assert_eq!(one.json["rows"][0]["object"]["data"]["k"], "v");
    let none = server.send("GET", &format!("{MAPS}?includeObject=None"), &[("accept", TABLE)], "").await;
    assert!(none.json["rows"][0]["object"].is_null());
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = server.send("GET", MAPS, &[("accept", accept)], "").await.expect(200);
    assert_eq!(partial.json["kind"], "PartialObjectMetadataList");
    assert!(partial.json["items"][0]["data"].is_null());
    let yaml =
        server.send("GET", &format!("{MAPS}/a"), &[("accept", "application/yaml")], "").await.expect(200);
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(yaml.json.as_str().unwrap().contains("kind: ConfigMap"));
    let html = server.send("GET", MAPS, &[("accept", "text/html")], "").await.expect(406);
    assert_eq!(html.reason(), "NotAcceptable");
}

#[tokio::test]
async fn watches_bring_tables() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.post(MAPS, json!({"metadata": {"name": name}})).await.expect(201);
    }
    let response =
        server.raw("GET", &format!("{MAPS}?watch=1&timeoutSeconds=1"), &[("accept", TABLE)], "").await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let events: Vec<serde_json::Value> = body
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["object"]["kind"], "Table");
    assert!(!events[0]["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert!(events[1]["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert_eq!(events[1]["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn what_is_not_there() {
    let server = Server::start().await;
    for (method, path, code) in [
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/apis/nothing.example.com/v1/things", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", "/api/v1/configmaps/a", 404),
        ("GET", &format!("{MAPS}/a/status"), 404),
        ("GET", &format!("{MAPS}/a/nothing"), 404),
        ("GET", "//api//v1//configmaps", 404),
        ("GET", "/api/v1/%zz", 404),
        ("BREW", MAPS, 405),
        ("PUT", MAPS, 405),
        ("POST", &format!("{MAPS}/a"), 405),
        ("DELETE", "/api/v1/configmaps", 405),
    ] {
        let headers = [("content-type", "application/json")];
        let reply = server.send(method, path, &headers, "{}").await;
        assert_eq!(reply.code, code, "{method} {path}: {}", reply.json);
    }
    let big = "x".repeat(3 * 1024 * 1024 + 1);
    let reply = server.send("POST", MAPS, &[("content-type", "application/json")], big).await.expect(413);
    assert_eq!(reply.message(), "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.expect(200).json, json!("ok"));
    let verbose = server.get("/readyz?verbose").await.expect(200);
    assert!(verbose.json.as_str().unwrap().contains("[+]etcd ok\n"));
    assert!(verbose.json.as_str().unwrap().ends_with("readyz check passed\n"));
    server.get("/livez/ping").await.expect(200);
    server.get("/livez/nonsense").await.expect(404);
    assert_eq!(server.get("/version").await.expect(200).json["major"], "1");
    assert_eq!(server.get("/api").await.expect(200).json["versions"], json!(["v1"]));
    assert_eq!(server.get("/apis/apps").await.expect(200).json["kind"], "APIGroup");
    assert_eq!(server.get("/apis/apps/v1/").await.expect(200).json["groupVersion"], "apps/v1");
    server.get("/apis/nothing").await.expect(404);
    let index = server.get("/openapi/v3").await.expect(200);
    assert!(index.json["paths"]["apis/apps/v1"]["serverRelativeURL"].is_string());
    let apps = server.get("/openapi/v3/apis/apps/v1").await.expect(200);
    assert!(apps.json["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"].is_object());
    let metrics = server.get("/metrics").await.expect(200);
    let text = metrics.json.as_str().unwrap().to_owned();
    for name in [
        "apiserver_request_total{",
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_storage_objects{resource=\"namespaces\"} 2",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
}
