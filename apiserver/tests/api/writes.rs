//! What creates, updates and patches refuse and how they say it; what they leave alone.

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[name] = value;
    object
}

#[tokio::test]
async fn creates_that_are_refused() {
    let server = Server::start().await;
    server.post(MAPS, map("taken")).await.expect(201);
    let cases: &[(&str, Value, u16, &str, &str)] = &[
        (MAPS, map("taken"), 409, "AlreadyExists", "configmaps \"taken\" already exists"),
        (
            MAPS,
            with(map("a"), "/metadata/namespace", json!("other")),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            MAPS,
            with(map("a"), "/metadata/resourceVersion", json!("5")),
            400,
            "BadRequest",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            MAPS,
            json!({"metadata": {}}),
            422,
            "Invalid",
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            MAPS,
            map("Bad_Name"),
            422,
            "Invalid",
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain",
        ),
        (
            MAPS,
            with(map("a"), "/metadata/labels", json!({"-": "v"})),
            422,
            "Invalid",
            "metadata.labels: Invalid value: \"-\"",
        ),
        (
            MAPS,
            with(map("a"), "/metadata/labels", json!({"k": "not valid"})),
            422,
            "Invalid",
            "metadata.labels: Invalid value: \"not valid\"",
        ),
        (
            MAPS,
            with(map("a"), "/metadata/annotations", json!({"k": "x".repeat(262_145)})),
            422,
            "Invalid",
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            MAPS,
            with(map("a"), "/metadata/finalizers", json!(["nonsense"])),
            422,
            "Invalid",
            "name is neither a standard finalizer name nor is it fully qualified",
        ),
        (
            MAPS,
            with(map("a"), "/metadata/finalizers", json!(["orphan", "foregroundDeletion"])),
            422,
            "Invalid",
            "finalizer orphan and foregroundDeletion cannot be both set",
        ),
        (
            MAPS,
            with(
                map("a"),
                "/metadata/ownerReferences",
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]),
            ),
            422,
            "Invalid",
            "metadata.ownerReferences[0].uid: Required value: must not be empty",
        ),
        (
            "/api/v1/namespaces/nowhere/configmaps",
            map("a"),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        (
            "/api/v1/namespaces",
            json!({"metadata": {"name": "a", "namespace": "default"}}),
            400,
            "BadRequest",
            "the namespace of the provided object does not match",
        ),
        (
            "/api/v1/configmaps",
            map("a"),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            &format!("{MAPS}?dryRun=Some"),
            map("a"),
            422,
            "Invalid",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (&format!("{MAPS}?dryRun=All"), map("taken"), 409, "AlreadyExists", "already exists"),
    ];
    for (path, body, code, reason, message) in cases {
        let reply = server.post(path, body.clone()).await.expect(*code);
        assert_eq!(reply.reason(), *reason, "{body}");
        assert!(reply.message().contains(message), "{}", reply.message());
        assert_eq!(reply.json["kind"], "Status");
    }
}

#[tokio::test]
async fn names_are_made_up_and_dry_runs_store_nothing() {
    let server = Server::start().await;
    let body = json!({"metadata": {"generateName": "web-"}, "data": {"a": "b"}});
    let dry = server.post(&format!("{MAPS}?dryRun=All"), body.clone()).await.expect(201);
    assert!(dry.json["metadata"]["resourceVersion"].is_null());
    let (one, two) =
        (server.post(MAPS, body.clone()).await.expect(201), server.post(MAPS, body).await.expect(201));
    assert_ne!(one.name(), two.name());
    for name in [one.name(), two.name()] {
        let suffix = name.strip_prefix("web-").unwrap();
        assert_eq!(suffix.len(), 5);
        assert!(suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)));
    }
    assert_eq!(server.get(MAPS).await.names().len(), 2);
}

#[tokio::test]
async fn updates_that_are_refused_and_what_they_keep() {
    let server = Server::start().await;
    let created = server.post(MAPS, map("a")).await.expect(201).json;
    let path = format!("{MAPS}/a");
    let cases: &[(Value, u16, &str)] = &[
        (map("b"), 400, "the name of the object (b) does not match the name on the URL (a)"),
        (
            json!({"metadata": {}}),
            400,
            "the name of the object (a based on URL) was undeterminable: name must be provided",
        ),
        (
            with(map("a"), "/metadata/uid", json!("other")),
            409,
            "Precondition failed: UID in precondition: other, UID in object meta: ",
        ),
        (with(map("a"), "/metadata/resourceVersion", json!("1")), 409, "the object has been modified"),
        (
            with(map("a"), "/metadata/creationTimestamp", json!("2001-01-01T00:00:00Z")),
            422,
            "metadata.creationTimestamp: Invalid value: \"2001-01-01T00:00:00Z\": field is immutable",
        ),
        (
            with(map("a"), "/metadata/deletionTimestamp", json!("2001-01-01T00:00:00Z")),
            422,
            "metadata.deletionTimestamp: Invalid value: \"2001-01-01T00:00:00Z\": field is immutable",
        ),
    ];
    for (body, code, message) in cases {
        let reply = server.put(&path, body.clone()).await.expect(*code);
        assert!(reply.message().contains(message), "{}", reply.message());
    }
    let absent = server.put(&format!("{MAPS}/b"), map("b")).await.expect(404);
    assert_eq!(absent.message(), "configmaps \"b\" not found");
    // Without a version it overwrites; what the client left out is kept.
    let updated = server.put(&path, with(map("a"), "/data", json!({"k": "v"}))).await.expect(200);
    for field in ["uid", "creationTimestamp"] {
        assert_eq!(updated.json["metadata"][field], created["metadata"][field]);
    }
    // The same again writes nothing.
    let same = server.put(&path, with(map("a"), "/data", json!({"k": "v"}))).await.expect(200);
    assert_eq!(same.version(), updated.version());
    let dry = server
        .put(&format!("{path}?dryRun=All"), with(map("a"), "/data", json!({"k": "w"})))
        .await
        .expect(200);
    assert_eq!(dry.json["data"]["k"], "w");
    assert_eq!(server.get(&path).await.json, updated.json);
}

#[tokio::test]
async fn patches_of_each_type() {
    let server = Server::start().await;
    server.post(MAPS, with(map("a"), "/data", json!({"k": "v"}))).await.expect(201);
    let path = format!("{MAPS}/a");
    let patch = |media: &'static str, body: Value| {
        let (server, path) = (&server, &path);
        async move { server.send("PATCH", path, &[("content-type", media)], body.to_string()).await }
    };
    const JSON: &str = "application/json-patch+json";
    const MERGE: &str = "application/merge-patch+json";
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    let reply = patch(JSON, json!([{"op": "add", "path": "/data/x", "value": "y"}])).await.expect(200);
    assert_eq!(reply.json["data"], json!({"k": "v", "x": "y"}));
    let reply = patch(MERGE, json!({"data": {"x": null}})).await.expect(200);
    assert_eq!(reply.json["data"], json!({"k": "v"}));
    let reply = patch(STRATEGIC, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(reply.json["metadata"]["labels"], json!({"a": "b"}));
    for (media, body, code, message) in [
        ("application/json", json!({}), 415, "415: Unsupported Media Type"),
        (MERGE, json!({"metadata": {"resourceVersion": "1"}}), 409, "the object has been modified"),
        (
            MERGE,
            json!({"metadata": {"uid": "other"}}),
            422,
            "metadata.uid: Invalid value: \"other\": field is immutable",
        ),
        (
            MERGE,
            json!({"metadata": {"name": "b"}}),
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (MERGE, json!({"data": 3}), 422, "patch: Invalid value"),
    ] {
        let reply = patch(media, body).await.expect(code);
        assert!(reply.message().contains(message), "{}", reply.message());
    }
    server.merge(&format!("{MAPS}/absent"), json!({})).await.expect(404);
}

#[tokio::test]
async fn many_patches_at_once_lose_nothing() {
    let server = std::sync::Arc::new(Server::start().await);
    server.post(MAPS, map("a")).await.expect(201);
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let server = server.clone();
            tokio::spawn(async move {
                for i in 0..10 {
                    let body = json!({"data": {format!("k{task}-{i}"): "v"}});
                    // More than five lost races in a row are a conflict for the client.
                    while server.merge(&format!("{MAPS}/a"), body.clone()).await.code == 409 {}
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let reply = server.get(&format!("{MAPS}/a")).await;
    assert_eq!(reply.json["data"].as_object().unwrap().len(), 40);
}

#[tokio::test]
async fn spec_and_status_are_written_apart() {
    let server = Server::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({
        "metadata": {"name": "web", "generation": 7},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
        "status": {"replicas": 9},
    });
    let created = server.post(path, body).await.expect(201);
    assert_eq!(created.json["metadata"]["generation"], 1);
    assert!(created.json["status"]["replicas"].is_null());
    let path = format!("{path}/web");
    let status = server
        .merge(&format!("{path}/status"), json!({"spec": {"replicas": 5}, "status": {"replicas": 2}}))
        .await
        .expect(200);
    assert_eq!(
        (&status.json["spec"]["replicas"], &status.json["status"]["replicas"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(status.json["metadata"]["generation"], 1);
    let main =
        server.merge(&path, json!({"spec": {"replicas": 5}, "status": {"replicas": 4}})).await.expect(200);
    assert_eq!((&main.json["spec"]["replicas"], &main.json["status"]["replicas"]), (&json!(5), &json!(2)));
    assert_eq!(main.json["metadata"]["generation"], 2);
    let labels = server.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(labels.json["metadata"]["generation"], 2);
    let mut object = labels.json.clone();
    object["status"]["replicas"] = json!(3);
    object["spec"]["replicas"] = json!(1);
    let put = server.put(&format!("{path}/status"), object).await.expect(200);
    assert_eq!((&put.json["spec"]["replicas"], &put.json["status"]["replicas"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn admission_completes_pods() {
    let server = Server::start().await;
    let pod = |spec: Value| {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        json!({"metadata": {"generateName": "p-"}, "spec": spec})
    };
    let created = server.post(PODS, pod(json!({}))).await.expect(201).json;
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(created["spec"]["priority"], 0);
    assert_eq!(created["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(created["status"]["phase"], "Pending");
    for (spec, message) in [
        (json!({"serviceAccountName": "nobody"}), "serviceaccount \"nobody\" not found"),
        (json!({"priorityClassName": "none"}), "no PriorityClass with name none was found"),
        (json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found"),
    ] {
        let reply = server.post(PODS, pod(spec)).await.expect(403);
        assert!(reply.message().contains(message), "{}", reply.message());
    }
    let critical =
        server.post(PODS, pod(json!({"priorityClassName": "system-node-critical"}))).await.expect(201);
    assert_eq!(critical.json["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn services_get_addresses_that_come_back() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let a = server.post(path, service("a", json!({"clusterIP": "10.96.7.7"}))).await.expect(201);
    assert_eq!(a.json["spec"]["clusterIP"], "10.96.7.7");
    let b = server.post(path, service("b", json!({"type": "NodePort"}))).await.expect(201);
    assert!(b.json["spec"]["clusterIP"].as_str().unwrap().starts_with("10.9"));
    assert!(b.json["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30000);
    let clash = server.post(path, service("c", json!({"clusterIP": "10.96.7.7"}))).await.expect(422);
    assert!(clash.message().contains("provided IP is already allocated"), "{}", clash.message());
    server
        .post(&format!("{path}?dryRun=All"), service("d", json!({"clusterIP": "10.96.7.8"})))
        .await
        .expect(201);
    server.post(path, service("e", json!({"clusterIP": "10.96.7.8"}))).await.expect(201);
    server.delete(&format!("{path}/a")).await.expect(200);
    server.post(path, service("c", json!({"clusterIP": "10.96.7.7"}))).await.expect(201);
}

#[tokio::test]
async fn what_is_refused_is_warned_of_too() {
    let server = Server::start().await;
    let told = |reply: &Reply| -> Vec<String> {
        reply.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect()
    };
    let unknown = |name: &str| json!({"metadata": {"name": name}, "odd": 1});
    let warning = r#"299 - "unknown field \"odd\"""#;
    assert_eq!(told(&server.post(MAPS, unknown("A")).await.expect(422)), [warning]);
    assert_eq!(told(&server.post(MAPS, unknown("a")).await.expect(201)), [warning]);
    assert_eq!(told(&server.post(MAPS, unknown("a")).await.expect(409)), [warning]);
    let patch = json!({"odd": 1, "metadata": {"labels": {"a": "-"}}});
    assert_eq!(told(&server.merge(&format!("{MAPS}/a"), patch).await.expect(422)), [warning]);

    let tls = json!({"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}});
    let made = server.post("/api/v1/namespaces/default/secrets", tls).await.expect(201);
    assert_eq!(told(&made), [r#"299 - "tls: failed to find any PEM data in certificate input""#]);
}

#[tokio::test]
async fn a_strict_apply_of_a_key_that_is_there_twice_writes_nothing() {
    const MAP: &str = "/api/v1/namespaces/default/configmaps/twice";
    let server = Server::start().await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twice}\ndata: {a: '1'}\ndata: {a: '2'}\n";
    let apply = |path: String| {
        let (server, path) = (&server, path);
        async move { server.send("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], text).await }
    };
    apply(format!("{MAP}?fieldManager=m&fieldValidation=Strict")).await.expect(400);
    server.get(MAP).await.expect(404);
    let made = apply(format!("{MAP}?fieldManager=m")).await.expect(201);
    assert!(made.headers["warning"].to_str().unwrap().contains("already"), "{:?}", made.headers["warning"]);
}
