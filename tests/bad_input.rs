//! What the API answers to nonsense: upstream's code, reason and message form, and it stays up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Response, shared};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Checks that an answer is a `Status` that says failure with this code and reason; its message.
#[track_caller]
fn refused(response: &Response, code: u16, reason: &str) -> String {
    assert_eq!(response.status, code, "{}", response.text());
    let status = response.json();
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!(status["apiVersion"], "v1", "{status}");
    assert_eq!(status["status"], "Failure", "{status}");
    assert_eq!(status["code"], code, "{status}");
    assert_eq!(status["reason"], reason, "{status}");
    status["message"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn says(message: &str, part: &str) {
    assert!(message.contains(part), "«{part}» is not in «{message}»");
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": "nowhere",
        "containers": [{"name": "main", "image": "coracle.dev/samples/counter:v1"}]}})
}

#[test]
fn malformed_json() {
    let api = shared();
    for body in [
        "{",
        "",
        "not json",
        "{\"kind\":\"ConfigMap\",}",
        "[]",
        "\u{0}\u{1}",
        "{\"metadata\": {\"name\": \"x\"}",
    ] {
        let response = api.post(MAPS, body);
        let message = refused(&response, 400, "BadRequest");
        assert!(!message.is_empty(), "{body:?}");
        assert!(!message.contains("panic"), "{message}");
    }
}

#[test]
fn malformed_yaml_and_protobuf() {
    let api = shared();
    let yaml = api.request("POST", MAPS, &[("content-type", "application/yaml")], b"a: [b: }");
    refused(&yaml, 400, "BadRequest");
    for body in [&b"k8s\0\xff\xff\xff\xff"[..], b"junk", b""] {
        let response =
            api.request("POST", MAPS, &[("content-type", "application/vnd.kubernetes.protobuf")], body);
        refused(&response, 400, "BadRequest");
    }
}

#[test]
fn another_media_type() {
    let api = shared();
    let response = api.request("POST", MAPS, &[("content-type", "text/csv")], b"a,b");
    let message = refused(&response, 415, "UnsupportedMediaType");
    says(
        &message,
        "the body of the request was in an unknown format - accepted media types include: application/json",
    );
    let accept = api.request("GET", MAPS, &[("accept", "text/csv")], b"");
    assert_eq!(accept.status, 406, "{}", accept.text());
    says(&accept.text(), "application/json");
    let patch = api.request("PATCH", &format!("{MAPS}/x"), &[JSON], b"{}");
    assert_eq!(patch.status, 415, "{}", patch.text());
}

#[test]
fn unknown_and_duplicate_fields() {
    let api = shared();
    let mut body = map("unknown-fields");
    body["metadata"]["nmae"] = json!("typo");
    body["date"] = json!({});
    let strict = api.post(&format!("{MAPS}?fieldValidation=Strict"), body.to_string());
    let message = refused(&strict, 400, "BadRequest");
    says(&message, "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: ");
    says(&message, "unknown field \"metadata.nmae\"");
    says(&message, "unknown field \"date\"");

    let warned = api.post(&format!("{MAPS}?fieldValidation=Warn&dryRun=All"), body.to_string());
    assert_eq!(warned.status, 201, "{}", warned.text());
    let warnings: Vec<_> =
        warned.headers.iter().filter(|(name, _)| name == "warning").map(|(_, value)| value).collect();
    assert!(
        warnings.iter().any(|warning| *warning == "299 - \"unknown field \\\"date\\\"\""),
        "{warnings:?}"
    );

    let ignored = api.post(&format!("{MAPS}?fieldValidation=Ignore&dryRun=All"), body.to_string());
    assert_eq!(ignored.status, 201);
    assert!(ignored.header("warning").is_none());
    assert!(ignored.json().get("date").is_none(), "unknown fields are dropped");

    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice","name":"again"}}"#;
    let strict = api.post(&format!("{MAPS}?fieldValidation=Strict"), twice);
    says(&refused(&strict, 400, "BadRequest"), "duplicate field \"metadata.name\"");

    let nested = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "imagee": "j"}]}});
    let strict = api.post(&format!("{PODS}?fieldValidation=Strict"), nested.to_string());
    says(&refused(&strict, 400, "BadRequest"), "unknown field \"spec.containers[0].imagee\"");

    let nonsense = api.post(&format!("{MAPS}?fieldValidation=Maybe"), map("x").to_string());
    assert!([400, 422].contains(&nonsense.status), "{}", nonsense.text());
}

#[test]
fn wrong_types() {
    let api = shared();
    let mut body = map("wrong-types");
    body["data"] = json!({"number": 1});
    let message = refused(&api.post(MAPS, body.to_string()), 400, "BadRequest");
    says(
        &message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number",
    );
    says(&message, "of type string");

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": "three"}});
    let response = api.post("/apis/apps/v1/namespaces/default/deployments", deployment.to_string());
    let message = refused(&response, 400, "BadRequest");
    says(
        &message,
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
}

#[test]
fn the_wrong_kind_version_namespace_or_name() {
    let api = shared();
    let mut body = map("wrong-kind");
    body["kind"] = json!("Secret");
    let message = refused(&api.post(MAPS, body.to_string()), 400, "BadRequest");
    says(&message, "Secret in version \"v1\" cannot be handled as a ConfigMap");

    let mut body = map("wrong-version");
    body["apiVersion"] = json!("v2");
    refused(&api.post(MAPS, body.to_string()), 400, "BadRequest");

    let mut body = map("wrong-namespace");
    body["metadata"]["namespace"] = json!("kube-system");
    let message = refused(&api.post(MAPS, body.to_string()), 400, "BadRequest");
    says(&message, "the namespace of the provided object does not match the namespace sent on the request");

    assert_eq!(api.post(MAPS, map("right-name").to_string()).status, 201);
    let message = refused(&api.put(&format!("{MAPS}/right-name"), &map("other-name")), 400, "BadRequest");
    says(&message, "the name of the object (other-name) does not match the name on the URL (right-name)");
    let nowhere = api.post("/api/v1/namespaces/nowhere/configmaps", map("m").to_string());
    let message = refused(&nowhere, 404, "NotFound");
    says(&message, "namespaces \"nowhere\" not found");
}

#[test]
fn bad_names() {
    let api = shared();
    let message = refused(&api.post(MAPS, map("Bad_Name").to_string()), 422, "Invalid");
    says(
        &message,
        "ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
    );
    let message = refused(&api.post(MAPS, map(&"x".repeat(254)).to_string()), 422, "Invalid");
    says(&message, "must be no more than 253 ");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let message = refused(&api.post(MAPS, nameless.to_string()), 422, "Invalid");
    says(&message, "metadata.name: Required value: name or generateName is required");
    let mut labelled = map("labelled");
    labelled["metadata"]["labels"] = json!({"-bad": "value", "good": "not valid!"});
    let response = api.post(MAPS, labelled.to_string());
    let message = refused(&response, 422, "Invalid");
    says(&message, "metadata.labels: Invalid value: \"-bad\"");
    let causes = response.json()["details"]["causes"].as_array().unwrap().clone();
    assert!(causes.len() >= 2, "{causes:?}");
    assert_eq!(causes[0]["reason"], "FieldValueInvalid");
    assert_eq!(causes[0]["field"], "metadata.labels");

    let message = refused(&api.get(&format!("{MAPS}/absent")), 404, "NotFound");
    assert_eq!(message, "configmaps \"absent\" not found");
    let details = api.get(&format!("{MAPS}/absent")).json()["details"].clone();
    assert_eq!(details, json!({"name": "absent", "kind": "configmaps"}));
}

#[test]
fn invalid_objects_name_every_faulty_field() {
    let api = shared();
    let faulty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "faulty"}, "spec": {
    "restartPolicy": "Sometimes",
    "containers": [
        {"name": "A", "image": "i", "ports": [{"containerPort": 70000}]},
        {"name": "b", "image": "", "imagePullPolicy": "Perhaps"},
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
    ]}});
    let response = api.post(PODS, faulty.to_string());
    let message = refused(&response, 422, "Invalid");
    says(&message, "Pod \"faulty\" is invalid: [");
    for part in [
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        "spec.containers[0].name: Invalid value: \"A\"",
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.containers[1].image: Required value",
        "spec.containers[1].imagePullPolicy: Unsupported value: \"Perhaps\"",
        "spec.containers[2].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
    ] {
        says(&message, part);
    }
    let empty =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "empty"}, "spec": {"containers": []}});
    says(&refused(&api.post(PODS, empty.to_string()), 422, "Invalid"), "spec.containers: Required value");

    let selector = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let response = api.post("/apis/apps/v1/namespaces/default/deployments", selector.to_string());
    says(&refused(&response, 422, "Invalid"), "`selector` does not match template `labels`");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad_name"}, "spec": {"ports": [{"port": 0}]}});
    let message =
        refused(&api.post("/api/v1/namespaces/default/services", service.to_string()), 422, "Invalid");
    says(&message, "metadata.name: Invalid value: \"bad_name\"");
    says(&message, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive");
}

#[test]
fn what_may_not_change() {
    let api = shared();
    assert_eq!(api.post(PODS, pod("fixed").to_string()).status, 201);
    let patch = |body: Value| {
        let kind = [("content-type", "application/merge-patch+json")];
        api.request("PATCH", &format!("{PODS}/fixed"), &kind, body.to_string().as_bytes())
    };
    let message = refused(&patch(json!({"spec": {"restartPolicy": "Never"}})), 422, "Invalid");
    says(&message, "spec: Forbidden: pod updates may not change fields other than");
    let message = refused(&patch(json!({"metadata": {"uid": "other"}})), 422, "Invalid");
    says(&message, "metadata.uid: Invalid value: \"other\": field is immutable");
    assert_eq!(api.post(MAPS, map("other-uid").to_string()).status, 201);
    let mut other = map("other-uid");
    other["metadata"]["uid"] = json!("other");
    let message = refused(&api.put(&format!("{MAPS}/other-uid"), &other), 409, "Conflict");
    says(&message, "Precondition failed: UID in precondition: other, UID in object meta: ");
    let immutable = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "immutable"}, "immutable": true});
    assert_eq!(api.post(MAPS, immutable.to_string()).status, 201);
    let changed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "immutable"}, "immutable": true, "data": {"a": "b"}});
    let message = refused(&api.put(&format!("{MAPS}/immutable"), &changed), 422, "Invalid");
    says(&message, "data: Forbidden: field is immutable when `immutable` is set");
}

#[test]
fn oversize_bodies() {
    let api = shared();
    let mut body = map("large");
    body["data"] = json!({"a": "x".repeat(3 * 1024 * 1024 + 1)});
    let response = api.post(MAPS, body.to_string());
    let message = refused(&response, 413, "RequestEntityTooLarge");
    says(&message, "limit is 3145728");
    // Within the request's limit, past the object's own.
    body["data"] = json!({"a": "x".repeat(1024 * 1024 + 1)});
    let message = refused(&api.post(MAPS, body.to_string()), 422, "Invalid");
    says(&message, "Too long: may not be more than 1048576 bytes");
}

#[test]
fn deep_nesting() {
    let api = shared();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&api.post(MAPS, &deep), 400, "BadRequest");
    let deep = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"d"}},"x":{}1{}}}"#,
        r#"{"a":"#.repeat(20_000),
        "}".repeat(20_000)
    );
    refused(&api.post(MAPS, &deep), 400, "BadRequest");
    let yaml = format!("a: {}", "[".repeat(50_000));
    refused(
        &api.request("POST", MAPS, &[("content-type", "application/yaml")], yaml.as_bytes()),
        400,
        "BadRequest",
    );
    let kind = [("content-type", "application/json-patch+json")];
    let operations: Vec<_> =
        (0..20_000).map(|_| json!({"op": "add", "path": "/data", "value": {}})).collect();
    assert_eq!(api.post(MAPS, map("patched").to_string()).status, 201);
    let body = Value::from(operations).to_string();
    let response = api.request("PATCH", &format!("{MAPS}/patched"), &kind, body.as_bytes());
    let message = refused(&response, 413, "RequestEntityTooLarge");
    says(&message, "The allowed maximum operations in a JSON patch is 10000, got 20000");
}

#[test]
fn unknown_kinds_and_paths() {
    let api = shared();
    for path in [
        "/api/v1/gizmos",
        "/apis/apps/v1/namespaces/default/gizmos",
        "/apis/apps/v9",
        "/api/v1/namespaces/default/pods/absent/nosuchsubresource",
    ] {
        let response = api.get(path);
        let message = refused(&response, 404, "NotFound");
        assert_eq!(message, "the server could not find the requested resource", "{path}");
        // kubectl looks into the details without asking whether there are any.
        assert_eq!(response.json()["details"], json!({}), "{path}");
    }
    for path in ["/nowhere", "/apis/no.such.group/v1/things"] {
        let response = api.get(path);
        assert_eq!((response.status, response.text().as_str()), (404, "404 page not found\n"), "{path}");
    }
    let wrong = api.request("PUT", PODS, &[JSON], pod("x").to_string().as_bytes());
    refused(&wrong, 405, "MethodNotAllowed");
    let wrong = api.request("POST", &format!("{PODS}/x"), &[JSON], pod("x").to_string().as_bytes());
    refused(&wrong, 405, "MethodNotAllowed");
}

#[test]
fn stale_resource_versions() {
    let api = shared();
    let made = api.post(MAPS, map("versions").to_string()).json();
    let mut changed = made.clone();
    changed["data"] = json!({"a": "1"});
    let path = format!("{MAPS}/versions");
    assert_eq!(api.put(&path, &changed).status, 200);
    let message = refused(&api.put(&path, &changed), 409, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"versions\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let mut nonsense = changed.clone();
    nonsense["metadata"]["resourceVersion"] = json!("abc");
    let response = api.put(&path, &nonsense);
    assert!([400, 409, 422, 500].contains(&response.status), "{}", response.text());
    says(&response.text(), "abc");
    let mut created = map("created");
    created["metadata"]["resourceVersion"] = json!("5");
    let response = api.post(MAPS, created.to_string());
    assert!([400, 500].contains(&response.status), "{}", response.text());
    says(&response.text(), "resourceVersion should not be set on objects to be created");

    let kind = [("content-type", "application/merge-patch+json")];
    let body =
        json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"b": "2"}});
    refused(&api.request("PATCH", &path, &kind, body.to_string().as_bytes()), 409, "Conflict");
    let precondition =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "another"}});
    let response = api.request("DELETE", &path, &[JSON], precondition.to_string().as_bytes());
    says(
        &refused(&response, 409, "Conflict"),
        "the UID in the precondition (another) does not match the UID in record",
    );
}

#[test]
fn lists_and_watches_with_impossible_options() {
    let api = shared();
    refused(&api.get(&format!("{MAPS}?limit=x")), 400, "BadRequest");
    refused(&api.get(&format!("{MAPS}?continue=notatoken")), 400, "BadRequest");
    let message = refused(&api.get(&format!("{MAPS}?labelSelector=a%20b%20c")), 400, "BadRequest");
    says(&message, "unable to parse requirement");
    let message = refused(&api.get(&format!("{PODS}?fieldSelector=spec.nosuch%3Dx")), 400, "BadRequest");
    says(&message, "field label not supported: spec.nosuch");
    let response = api.get(&format!("{MAPS}?resourceVersion=abc"));
    assert!([400, 422].contains(&response.status), "{}", response.text());
    refused(&api.get(&format!("{MAPS}?resourceVersionMatch=Exact")), 422, "Invalid");
    // A version from the future cannot be waited for without end.
    let response = api.get(&format!("{MAPS}?resourceVersion=999999999"));
    let message = refused(&response, 504, "Timeout");
    says(&message, "Too large resource version: 999999999, current: ");
    let causes = &response.json()["details"]["causes"][0];
    assert_eq!(causes["reason"], "ResourceVersionTooLarge");
}

#[test]
fn a_stranger_gets_nothing_but_health() {
    let api = shared();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(api.anonymous("GET", path, &[]).status, 200, "{path}");
    }
    for path in [MAPS, "/api/v1/nodes", "/metrics", "/api/v1/namespaces/kube-system/secrets"] {
        let response = api.anonymous("GET", path, &[]);
        assert!([401, 403].contains(&response.status), "{path}: {}", response.text());
    }
    let bearer = [("authorization", "Bearer nonsense")];
    let message = refused(&api.anonymous("GET", MAPS, &bearer), 401, "Unauthorized");
    assert_eq!(message, "Unauthorized");
}

#[test]
fn broken_http_is_answered_or_closed_and_harms_nobody() {
    let api = shared();
    for (method, path) in [
        ("BREW", MAPS),
        ("GET", "/api/v1/%zz"),
        ("GET", "/api/v1/namespaces/../../secrets"),
        ("GET", "//api//v1//pods"),
    ] {
        if let Ok(response) = api.try_request(method, path, b"") {
            assert!(response.status >= 300 && response.status < 500, "{method} {path}: {}", response.status);
        }
    }
    let long = format!("{MAPS}?labelSelector={}", "a".repeat(200_000));
    if let Ok(response) = api.try_request("GET", &long, b"") {
        assert!((400..500).contains(&response.status), "{}", response.status);
    }
    assert_eq!(api.get("/readyz").status, 200);
}
