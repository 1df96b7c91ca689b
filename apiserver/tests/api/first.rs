//! The whole way of an object: create, get, list, watch, update, patch, delete; over HTTP and directly.

use coracle_apiserver::authn::Identity;
use coracle_apiserver::direct::Direct;
use coracle_client::{Client, DeleteOptions, ListOptions, PatchType, Resource, WatchEventKind, WatchOptions};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use crate::harness::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_config_map_lives_and_dies() {
    let server = Server::start().await;
    let created = server
        .post(
            MAPS,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}),
        )
        .await
        .expect(201);
    assert_eq!(created.json["metadata"]["namespace"], "default");
    assert!(created.json["metadata"]["uid"].is_string());
    assert!(created.json["metadata"]["creationTimestamp"].is_string());
    let got = server.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(got.json, created.json);
    let listed = server.get(MAPS).await.expect(200);
    assert_eq!(listed.json["kind"], "ConfigMapList");
    assert_eq!(listed.json["items"][0], created.json);

    let mut events = server.watch(&format!("{MAPS}?watch=1&resourceVersion={}", listed.version())).await;
    let mut object = created.json.clone();
    object["data"]["k"] = json!("w");
    let updated = server.put(&format!("{MAPS}/a"), object.clone()).await.expect(200);
    assert!(updated.version() > created.version());
    assert_eq!(events.line().await, "MODIFIED a");
    let conflict = server.put(&format!("{MAPS}/a"), object).await.expect(409);
    assert_eq!(
        conflict.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let patched = server.merge(&format!("{MAPS}/a"), json!({"data": {"x": "y"}})).await.expect(200);
    assert_eq!(patched.json["data"], json!({"k": "w", "x": "y"}));
    assert_eq!(events.line().await, "MODIFIED a");
    let unchanged = server.merge(&format!("{MAPS}/a"), json!({"data": {"x": "y"}})).await.expect(200);
    assert_eq!(unchanged.json, patched.json);

    let deleted = server.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(deleted.json["status"], "Success");
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    let version: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(version > patched.version());
    let gone = server.get(&format!("{MAPS}/a")).await.expect(404);
    assert_eq!(gone.message(), "configmaps \"a\" not found");
}

#[tokio::test]
async fn components_call_directly() {
    let server = Server::start().await;
    let client = Client::new(Direct::new(server.api.clone(), Identity::new("tester", &[])), "tester");
    let maps = Resource::of::<ConfigMap>();
    let mut events = client.watch_objects(&maps, "", WatchOptions::default()).await.unwrap();
    let mut map = ConfigMap::default();
    map.metadata.name = Some("a".into());
    map.metadata.namespace = Some("default".into());
    let created = client.create(&map).await.unwrap().decode().unwrap();
    let event = events.next().await.unwrap().unwrap();
    assert_eq!((event.kind, &*event.object.head.name), (WatchEventKind::Added, "a"));
    let mut changed = created.clone();
    changed.data = Some([("k".to_owned(), "v".to_owned())].into());
    client.update(&changed).await.unwrap();
    client
        .patch::<ConfigMap>("default", "a", None, PatchType::Merge, &json!({"data": {"k": null}}))
        .await
        .unwrap();
    let listed = client.list::<ConfigMap>("default", ListOptions::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let uid = created.metadata.uid.unwrap();
    client.delete::<ConfigMap>("default", "a", DeleteOptions::default().uid("other")).await.unwrap_err();
    client.delete::<ConfigMap>("default", "a", DeleteOptions::default().uid(&uid)).await.unwrap();
    assert!(client.find::<ConfigMap>("default", "a").await.unwrap().is_none());
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        kinds.push(events.next().await.unwrap().unwrap().kind);
    }
    assert_eq!(kinds, [WatchEventKind::Modified, WatchEventKind::Modified, WatchEventKind::Deleted]);
}
