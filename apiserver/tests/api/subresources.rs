//! Subresources and reviews.

use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn pod(server: &Server, name: &str) {
    let body = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post(PODS, body).await.expect(201);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::start().await;
    pod(&server, "p").await;
    let path = format!("{PODS}/p/binding");
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": node}});
    server.post(&path, binding("")).await.expect(422);
    let done = server.post(&path, binding("n1")).await.expect(201);
    assert_eq!((&done.json["kind"], &done.json["status"]), (&json!("Status"), &json!("Success")));
    let bound = server.get(&format!("{PODS}/p")).await.expect(200).json;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["metadata"]["annotations"]["a"], "b");
    let conditions: Vec<&Value> = bound["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["type"] == "PodScheduled")
        .collect();
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0]["status"], "True");
    let again = server.post(&path, binding("n2")).await.expect(409);
    assert_eq!(
        again.message(),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    server
        .post(
            &format!("{PODS}/absent/binding"),
            json!({"metadata": {"name": "absent"}, "target": {"name": "n"}}),
        )
        .await
        .expect(404);
}

#[tokio::test]
async fn eviction_deletes() {
    let server = Server::start().await;
    pod(&server, "p").await;
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    server.post(&format!("{PODS}/p/eviction"), body).await.expect(201);
    server.get(&format!("{PODS}/p")).await.expect(404);
}

#[tokio::test]
async fn workloads_scale() {
    let server = Server::start().await;
    let body = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    server.post(DEPLOYMENTS, body).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = server.get(&path).await.expect(200);
    assert_eq!((&scale.json["kind"], &scale.json["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(
        (&scale.json["spec"]["replicas"], &scale.json["status"]["selector"]),
        (&json!(2), &json!("app=web"))
    );
    let mut wanted = scale.json.clone();
    wanted["spec"]["replicas"] = json!(5);
    let scaled = server.put(&path, wanted.clone()).await.expect(200);
    assert_eq!(scaled.json["spec"]["replicas"], 5);
    server.put(&path, wanted).await.expect(409);
    server.merge(&path, json!({"spec": {"replicas": 3}})).await.expect(200);
    let deployment = server.get(&format!("{DEPLOYMENTS}/web")).await.expect(200).json;
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]),
        (&json!(3), &json!(3))
    );
    let negative = server.merge(&path, json!({"spec": {"replicas": -1}})).await.expect(422);
    assert!(negative.message().contains("must be greater than or equal to 0"), "{}", negative.message());
}

#[tokio::test]
async fn reviews_are_answered() {
    let server = Server::start().await;
    let who = server.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.expect(201);
    assert_eq!(who.json["status"]["userInfo"]["username"], "tester");
    assert_eq!(who.json["kind"], "SelfSubjectReview");
    let body = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let may = server.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body).await.expect(201);
    assert_eq!(may.json["status"]["allowed"], true);
    server.get("/apis/authentication.k8s.io/v1/selfsubjectreviews").await.expect(405);
}

#[tokio::test]
async fn logs_and_tokens_say_what_is_missing() {
    let server = Server::start().await;
    pod(&server, "p").await;
    let unbound = server.get(&format!("{PODS}/p/log")).await.expect(400);
    assert_eq!(unbound.message(), "pod p does not have a host assigned");
    let wrong = server.get(&format!("{PODS}/p/log?container=x")).await.expect(400);
    assert_eq!(wrong.message(), "container x is not valid for pod p");
    server.get(&format!("{PODS}/absent/log")).await.expect(404);
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    server.post(token, json!({"spec": {"audiences": []}})).await.expect(503);
}

#[tokio::test]
async fn events_have_two_forms() {
    let server = Server::start().await;
    let core = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let body = json!({
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "it runs", "type": "Normal", "source": {"component": "wasmlet"},
    });
    server.post(core, body).await.expect(201);
    let shown = server.get(&format!("{new}/e")).await.expect(200).json;
    assert_eq!((&shown["apiVersion"], &shown["note"]), (&json!("events.k8s.io/v1"), &json!("it runs")));
    assert_eq!(shown["regarding"]["name"], "p");
    let list = server.get(&format!("{new}?fieldSelector=regarding.name%3Dp")).await.expect(200);
    assert_eq!(list.names(), ["e"]);
    assert_eq!(list.json["kind"], "EventList");
    assert_eq!(list.json["items"][0]["apiVersion"], "events.k8s.io/v1");
    let body = json!({
        "metadata": {"name": "f"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Pulled", "action": "Pull", "note": "there", "type": "Normal",
        "reportingController": "coracle.dev/wasmlet", "reportingInstance": "w-0",
    });
    let mut events = server.watch(&format!("{new}?watch=1&resourceVersion={}", list.version())).await;
    let created = server.post(new, body).await.expect(201);
    assert_eq!(created.json["apiVersion"], "events.k8s.io/v1");
    assert_eq!(events.next().await.unwrap()["object"]["note"], "there");
    let stored = server.get(&format!("{core}/f")).await.expect(200).json;
    assert_eq!(stored["message"], "there");
    server.delete(&format!("{new}/f")).await.expect(200);
    server.get(&format!("{core}/f")).await.expect(404);
}

#[tokio::test]
async fn certificates_are_asked_for_by_the_sender_approved_and_issued() {
    let server = Server::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({
        "metadata": {"name": "r"},
        "spec": {
            "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem),
            "signerName": "example.com/signer",
            "usages": ["client auth"],
            "username": "somebody else",
        },
    });
    let created = server.post(requests, body).await.expect(201);
    assert_eq!(created.json["spec"]["username"], "tester");
    let approve = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Test", "message": "fine"},
        {"type": "Failed", "status": "True", "reason": "Test"},
    ]}});
    let approved = server.merge(&format!("{requests}/r/approval"), approve).await.expect(200).json;
    let conditions = |object: &Value| -> Vec<String> {
        let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.iter().map(|c| c["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(conditions(&approved), ["Approved"]);
    let mut issued = approved.clone();
    issued["status"]["conditions"] = json!([]);
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    issued["status"]["certificate"] =
        json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate));
    let issued = server.put(&format!("{requests}/r/status"), issued).await.expect(200).json;
    assert_eq!(conditions(&issued), ["Approved"]);
    assert!(issued["status"]["certificate"].is_string());
}
