//! Custom resources through the router: definitions, their conditions, and objects of the kinds they make.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/probe.example.com/v1/namespaces/default/widgets";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn schema() -> Value {
    json!({"type": "object", "description": "A widget.", "properties": {
        "spec": {"type": "object", "required": ["color"], "properties": {
            "color": {"type": "string", "enum": ["red", "blue"]},
            "replicas": {"type": "integer", "default": 1, "maximum": 10},
            "any": {"x-kubernetes-int-or-string": true},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "port": {"type": "integer"}}}}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"}}}}})
}

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.replicas"}],
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "schema": {"openAPIV3Schema": schema()}})
}

fn definition(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.probe.example.com"},
        "spec": {"group": "probe.example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": versions}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "probe.example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Asks until the answer is as wanted: conditions follow within a moment.
async fn until(server: &Server, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let reply = server.get(path).await;
        if wanted(&reply) {
            return reply;
        }
        assert!(Instant::now() < end, "{path}: {} {}", reply.code, reply.json);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn condition<'v>(definition: &'v Value, type_: &str) -> Option<&'v Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)
}

pub async fn defined(server: &Server, definition: Value) -> Value {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    server.post(DEFINITIONS, definition).await.expect(201);
    let path = format!("{DEFINITIONS}/{name}");
    until(server, &path, |r| condition(&r.json, "Established").is_some_and(|c| c["status"] == "True"))
        .await
        .json
}

async fn served() -> Server {
    let server = Server::start().await;
    defined(&server, definition(json!([version("v1", true)]))).await;
    server
}

#[tokio::test]
async fn a_definition_is_established_and_found() {
    let server = Server::start().await;
    server.get(WIDGETS).await.expect(404);
    let definition = defined(&server, definition(json!([version("v1", true)]))).await;
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["status"]["acceptedNames"]["singular"], "widget");
    assert_eq!(definition["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(condition(&definition, "NamesAccepted").unwrap()["reason"], "NoConflicts");
    let list = server.get("/apis/probe.example.com/v1").await.expect(200).json;
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    let group = server.get("/apis/probe.example.com").await.expect(200).json;
    assert_eq!(group["preferredVersion"]["groupVersion"], "probe.example.com/v1");
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = server.send("GET", "/apis", &accept, "").await.expect(200).json;
    assert!(all.to_string().contains("\"resource\":\"widgets\""));
    let index = server.get("/openapi/v3").await.expect(200).json;
    let document = index["paths"]["apis/probe.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = server.get(document).await.expect(200).json;
    let schema = &document["components"]["schemas"]["com.example.probe.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["required"], json!(["color"]));
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["maximum"], json!(10));
    assert!(
        document["paths"]["/apis/probe.example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"]
            .is_object()
    );
    let swagger = server.get("/openapi/v2").await.expect(200).json;
    assert!(swagger["definitions"]["com.example.probe.v1.Widget"].is_object());
}

#[tokio::test]
async fn bodies_are_pruned_defaulted_and_judged() {
    let server = served().await;
    let body = json!({"apiVersion": "probe.example.com/v1", "kind": "Widget",
        "metadata": {"name": "a", "odd": 1, "finalizers": ["foo"]},
        "spec": {"color": "red", "x": 1, "free": {"any": [1]}}, "status": {"phase": "mine"}, "top": 1});
    let made = server.post(WIDGETS, body.clone()).await.expect(201);
    assert_eq!(made.json["spec"], json!({"color": "red", "replicas": 1, "free": {"any": [1]}}));
    assert_eq!((made.json.get("status"), made.json.get("top")), (None, None));
    assert_eq!(made.json["metadata"]["generation"], 1);
    let warnings: Vec<&str> = made.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    assert_eq!(
        warnings,
        [
            r#"299 - "unknown field \"metadata.odd\"""#,
            r#"299 - "unknown field \"spec.x\"""#,
            r#"299 - "unknown field \"top\"""#,
            r#"299 - "metadata.finalizers: \"foo\": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers""#,
        ]
    );
    let text = r#"{"apiVersion":"probe.example.com/v1","kind":"Widget","metadata":{"name":"a","odd":1},"spec":{"color":"red","x":1,"color":"blue"},"top":1}"#;
    let strict =
        server.send("POST", &format!("{WIDGETS}?fieldValidation=Strict"), JSON, text).await.expect(400);
    assert_eq!(
        strict.message(),
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.color\", unknown field \"metadata.odd\", unknown field \"spec.x\", unknown field \"top\""
    );
    for (body, code, message) in [
        (
            widget("b", json!({"color": "green"})),
            422,
            "Widget.probe.example.com \"b\" is invalid: spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (
            widget("b", json!({})),
            422,
            "Widget.probe.example.com \"b\" is invalid: spec.color: Required value",
        ),
        (
            widget("b", json!({"color": "red", "replicas": 11})),
            422,
            "Widget.probe.example.com \"b\" is invalid: spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (
            widget("b", json!({"color": "red", "ports": [{"name": "a"}, {"name": "a"}]})),
            422,
            "Widget.probe.example.com \"b\" is invalid: spec.ports[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        (
            json!({"metadata": {"name": "b"}, "spec": {"color": "red"}}),
            400,
            "the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{\"metadata\":{\"name\":\"b\"},\"spec\":{\"color\":\"red\"}}' ({\"metadata\":{\"name\":\"b\"},\"spec ...)",
        ),
        (
            json!({"kind": "Widget", "metadata": {"name": "b"}}),
            400,
            "the API version in the data () does not match the expected API version (probe.example.com/v1)",
        ),
        (
            json!({"apiVersion": "probe.example.com/v1", "kind": "Widget", "metadata": {"name": "b", "labels": {"a": 5}}}),
            400,
            "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string",
        ),
    ] {
        let reply = server.send("POST", WIDGETS, JSON, body.to_string()).await.expect(code);
        assert_eq!(reply.message(), message);
    }
    for (content_type, code) in [("application/vnd.kubernetes.protobuf", 415), ("text/plain", 415)] {
        server.send("POST", WIDGETS, &[("content-type", content_type)], "k8s").await.expect(code);
    }
    server.send("GET", WIDGETS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await.expect(406);
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let refused = server.send("PATCH", &format!("{WIDGETS}/a"), &strategic, "{}").await.expect(415);
    assert_eq!(
        refused.message(),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
}

#[tokio::test]
async fn objects_live_as_others_do() {
    let server = served().await;
    let path = format!("{WIDGETS}/a");
    let listed = server.get(WIDGETS).await.expect(200);
    let mut events = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion={}", listed.version())).await;
    let made = server.post(WIDGETS, widget("a", json!({"color": "red"}))).await.expect(201);
    assert_eq!(events.line().await, "ADDED a");
    assert_eq!(server.get(&path).await.expect(200).json, made.json);

    let changed =
        server.merge(&path, json!({"spec": {"color": "blue"}, "status": {"phase": "x"}})).await.expect(200);
    assert_eq!((&changed.json["metadata"]["generation"], changed.json.get("status")), (&json!(2), None));
    assert_eq!(events.line().await, "MODIFIED a");
    let same = server.merge(&path, json!({"metadata": {"labels": {"l": "x"}}})).await.expect(200);
    assert_eq!(same.json["metadata"]["generation"], 2);
    let status = server
        .merge(
            &format!("{path}/status"),
            json!({"spec": {"color": "red"}, "status": {"phase": "on"}, "metadata": {"labels": {"l": "y"}}}),
        )
        .await;
    let status = status.expect(200).json;
    assert_eq!((&status["status"]["phase"], &status["spec"]["color"]), (&json!("on"), &json!("blue")));
    assert_eq!(
        (&status["metadata"]["generation"], &status["metadata"]["labels"]["l"]),
        (&json!(2), &json!("x"))
    );
    let wrong =
        server.merge(&format!("{path}/status"), json!({"status": {"replicas": "x"}})).await.expect(422);
    assert_eq!(
        wrong.message(),
        "Widget.probe.example.com \"a\" is invalid: [status.replicas: Invalid value: \"string\": replicas in body must be of type integer: \"string\", .status.replicas: Invalid value: 0: .status.replicas accessor error: x is of the type string, expected int64]"
    );

    let blind = server.put(&path, widget("a", json!({"color": "red"}))).await.expect(422);
    assert!(
        blind
            .message()
            .ends_with("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{}",
        blind.message()
    );
    let scale = server.get(&format!("{path}/scale")).await.expect(200).json;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(1), &json!(0)));
    let scaled =
        server.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 4}})).await.expect(200).json;
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(server.get(&path).await.json["metadata"]["generation"], 3);
    let negative =
        server.merge(&format!("{path}/scale"), json!({"spec": {"replicas": -1}})).await.expect(422);
    assert!(
        negative.message().ends_with(".spec.replicas: Invalid value: -1: should be a non-negative integer")
    );

    server.post(WIDGETS, widget("b", json!({"color": "red"}))).await.expect(201);
    assert_eq!(server.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.names(), ["a"]);
    let unknown = server.get(&format!("{WIDGETS}?fieldSelector=spec.replicas%3D1")).await.expect(400);
    assert_eq!(unknown.message(), "field label not supported: spec.replicas");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = server.send("GET", WIDGETS, &table, "").await.expect(200).json;
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["cells"], json!(["a", 4]));
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let partial = server.send("GET", WIDGETS, &partial, "").await.expect(200);
    assert_eq!(partial.names(), ["a", "b"]);
    let generated = json!({"apiVersion": "probe.example.com/v1", "kind": "Widget", "metadata": {"generateName": "g-"}, "spec": {"color": "red"}});
    assert!(server.post(WIDGETS, generated).await.expect(201).name().starts_with("g-"));
    server.delete(WIDGETS).await.expect(200);
    assert_eq!(server.get(WIDGETS).await.names(), Vec::<&str>::new());
}

#[tokio::test]
async fn versions_show_the_same_objects() {
    let server = Server::start().await;
    let mut old = version("v1alpha1", false);
    old["deprecated"] = json!(true);
    old["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["old"] =
        json!({"type": "string", "default": "yes"});
    let hidden = json!({"name": "v0", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}});
    defined(&server, definition(json!([version("v1", true), old, hidden]))).await;
    let old = "/apis/probe.example.com/v1alpha1/namespaces/default/widgets";
    server.get("/apis/probe.example.com/v0/namespaces/default/widgets").await.expect(404);
    let made = server.post(WIDGETS, widget("a", json!({"color": "red"}))).await.expect(201);
    assert!(made.headers.get("warning").is_none());
    let shown = server.get(&format!("{old}/a")).await.expect(200);
    assert_eq!(shown.json["apiVersion"], "probe.example.com/v1alpha1");
    assert_eq!(shown.json["spec"], json!({"color": "red", "replicas": 1, "old": "yes"}));
    assert_eq!(shown.headers["warning"], "299 - \"probe.example.com/v1alpha1 Widget is deprecated\"");
    assert_eq!(shown.version(), made.version());
    let mut events = server.watch(&format!("{old}?watch=1&resourceVersion={}", made.version())).await;
    let changed = server.merge(&format!("{old}/a"), json!({"spec": {"replicas": 3}})).await.expect(200).json;
    assert_eq!(
        (&changed["apiVersion"], &changed["spec"]["replicas"]),
        (&json!("probe.example.com/v1alpha1"), &json!(3))
    );
    assert_eq!(events.line().await, "MODIFIED a");
    let stored = server.get(&format!("{WIDGETS}/a")).await.expect(200).json;
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]),
        (&json!("probe.example.com/v1"), &json!({"color": "red", "replicas": 3}))
    );
    let listed = server.get(old).await.expect(200).json;
    assert_eq!(
        (&listed["kind"], &listed["items"][0]["apiVersion"]),
        (&json!("WidgetList"), &json!("probe.example.com/v1alpha1"))
    );
    let group = server.get("/apis/probe.example.com").await.json;
    assert_eq!(group["preferredVersion"]["version"], "v1");
}

#[tokio::test]
async fn a_definition_changes_and_what_is_stored_follows() {
    let server = served().await;
    server.post(WIDGETS, widget("a", json!({"color": "red", "free": {"x": 1}}))).await.expect(201);
    let path = format!("{DEFINITIONS}/widgets.probe.example.com");
    let mut changed = server.get(&path).await.json;
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    changed.pointer_mut(spec).unwrap()["size"] = json!({"type": "string", "default": "L"});
    changed.pointer_mut(spec).unwrap().as_object_mut().unwrap().remove("free");
    changed.pointer_mut(spec).unwrap()["color"] = json!({"type": "string", "enum": ["blue"]});
    server.put(&path, changed).await.expect(200);
    let shown = until(&server, &format!("{WIDGETS}/a"), |r| r.json["spec"]["size"] == "L").await.json;
    assert_eq!(shown["spec"], json!({"color": "red", "replicas": 1, "size": "L"}));
    // What is no longer allowed may stay as it is.
    server.merge(&format!("{WIDGETS}/a"), json!({"spec": {"replicas": 2}})).await.expect(200);
    server
        .merge(&format!("{WIDGETS}/a"), json!({"spec": {"color": "red"}, "metadata": {"labels": {"a": "b"}}}))
        .await
        .expect(200);
    server.post(WIDGETS, widget("b", json!({"color": "red"}))).await.expect(422);
}

#[tokio::test]
async fn instances_go_before_their_definition() {
    let server = served().await;
    let mut held = widget("held", json!({"color": "red"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(WIDGETS, held).await.expect(201);
    server.post(WIDGETS, widget("free", json!({"color": "red"}))).await.expect(201);
    let path = format!("{DEFINITIONS}/widgets.probe.example.com");
    let marked = server.delete(&path).await.expect(200).json;
    assert_eq!(marked["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&server, WIDGETS, |r| r.code == 200 && r.names() == ["held"]).await;
    until(&server, &path, |r| {
        condition(&r.json, "Terminating").is_some_and(|c| c["reason"] == "InstanceDeletionInProgress")
    })
    .await;
    let refused = server.post(WIDGETS, widget("new", json!({"color": "red"}))).await.expect(405);
    assert_eq!(refused.message(), "create not allowed while custom resource definition is terminating");
    server.merge(&format!("{WIDGETS}/held"), json!({"metadata": {"finalizers": null}})).await.expect(200);
    until(&server, &path, |r| r.code == 404).await;
    until(&server, WIDGETS, |r| r.code == 404).await;
    until(&server, "/apis/probe.example.com", |r| r.code == 404).await;
    // And it can come again.
    defined(&server, definition(json!([version("v1", true)]))).await;
    assert_eq!(server.get(WIDGETS).await.expect(200).names(), Vec::<&str>::new());
}

#[tokio::test]
async fn names_wait_until_they_are_free() {
    let server = served().await;
    let mut other = definition(json!([version("v1", true)]));
    other["metadata"]["name"] = json!("gadgets.probe.example.com");
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    server.post(DEFINITIONS, other).await.expect(201);
    let path = format!("{DEFINITIONS}/gadgets.probe.example.com");
    let waiting = until(&server, &path, |r| condition(&r.json, "NamesAccepted").is_some()).await.json;
    let names = condition(&waiting, "NamesAccepted").unwrap();
    assert_eq!(
        (&names["reason"], &names["message"]),
        (&json!("ShortNamesConflict"), &json!("\"wd\" is already in use"))
    );
    assert_eq!(condition(&waiting, "Established").unwrap()["status"], "False");
    server.delete(&format!("{DEFINITIONS}/widgets.probe.example.com")).await.expect(200);
    until(&server, &path, |r| condition(&r.json, "Established").is_some_and(|c| c["status"] == "True")).await;
    server.get("/apis/probe.example.com/v1/namespaces/default/gadgets").await.expect(200);
}

#[tokio::test]
async fn definitions_are_judged_as_upstream() {
    let server = Server::start().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut all = definition(json!([version("v1", true)]));
        change(&mut all);
        all
    };
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    let cases: Vec<(Value, &str)> = vec![
        (
            with(&|d| d["metadata"]["name"] = json!("a.b")),
            "metadata.name: Invalid value: \"a.b\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            with(&|d| d["spec"]["versions"][0]["schema"] = Value::Null),
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            with(&|d| d["spec"]["versions"][0]["storage"] = json!(false)),
            "must have exactly one version marked as storage version",
        ),
        (
            with(&|d| d["spec"]["scope"] = json!("Galaxy")),
            "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            with(&|d| d.pointer_mut(schema).unwrap()["properties"]["x"] = json!({})),
            "spec.validation.openAPIV3Schema.properties[x].type: Required value: must not be empty for specified object fields",
        ),
        (
            with(&|d| {
                d.pointer_mut(schema).unwrap()["properties"]["x"] = json!({"type": "integer", "default": "a"})
            }),
            "spec.validation.openAPIV3Schema.properties[x].default: Invalid value: \"string\"",
        ),
        (
            with(&|d| d["spec"]["preserveUnknownFields"] = json!(true)),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
        (
            with(&|d| d["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.none"}])),
            "spec.selectableFields[0].jsonPath: Invalid value: \".spec.none\": is an invalid path",
        ),
        (
            with(&|d| {
                d["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] = json!(".status.x")
            }),
            "spec.subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
        ),
        (
            with(&|d| d["spec"]["conversion"] = json!({"strategy": "Webhook"})),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
    ];
    for (body, message) in cases {
        let reply = server.post(DEFINITIONS, body).await.expect(422);
        assert!(reply.message().contains(message), "wanted {message}\n   got {}", reply.message());
    }
    defined(&server, definition(json!([version("v1", true)]))).await;
    let path = format!("{DEFINITIONS}/widgets.probe.example.com");
    let reply = server.merge(&path, json!({"spec": {"scope": "Cluster"}})).await.expect(422);
    assert!(
        reply.message().contains("spec.scope: Invalid value: \"Cluster\": field is immutable"),
        "{}",
        reply.message()
    );
    let renamed = json!({"spec": {"versions": [version("v2", true)]}});
    let reply = server.merge(&path, renamed).await.expect(422);
    assert!(
        reply
            .message()
            .contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{}",
        reply.message()
    );
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = server.send("GET", DEFINITIONS, &table, "").await.expect(200).json;
    assert_eq!(table["columnDefinitions"][3]["name"], "Created At");
}

#[tokio::test]
async fn apply_merges_by_the_schema() {
    let server = served().await;
    let path = format!("{WIDGETS}/a");
    let apply = |manager: &str, ports: Value| {
        let body = json!({"apiVersion": "probe.example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
            "spec": {"color": "red", "ports": ports}});
        let path = format!("{path}?fieldManager={manager}");
        (path, body.to_string())
    };
    let headers = [("content-type", "application/apply-patch+yaml")];
    let (at, body) = apply("one", json!([{"name": "x", "port": 1}]));
    server.send("PATCH", &at, &headers, body).await.expect(201);
    let (at, body) = apply("two", json!([{"name": "y", "port": 2}]));
    let both = server.send("PATCH", &at, &headers, body).await.expect(200).json;
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2);
    let (at, body) = apply("two", json!([{"name": "x", "port": 9}]));
    let conflict = server.send("PATCH", &at, &headers, body).await.expect(409);
    assert!(conflict.message().contains(".spec.ports[name=\"x\"].port"), "{}", conflict.message());
}

#[tokio::test]
async fn rules_are_kept() {
    let server = Server::start().await;
    let mut ruled = definition(json!([version("v1", true)]));
    let spec = ruled.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
    spec["x-kubernetes-validations"] = json!([
        {"rule": "self.color != 'red' || self.replicas < 5", "message": "red ones are few"},
        {"rule": "self.replicas >= oldSelf.replicas", "message": "never fewer", "fieldPath": ".replicas", "reason": "FieldValueForbidden"}]);
    let mut wrong = ruled.clone();
    wrong.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap()["x-kubernetes-validations"]
        [0]["rule"] = json!("self.nope");
    let refused = server.post(DEFINITIONS, wrong).await.expect(422);
    assert!(
        refused.message().contains("spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self.nope\"") && refused.message().contains("undefined field 'nope'"),
        "{}",
        refused.message()
    );
    defined(&server, ruled).await;
    let reply = server.post(WIDGETS, widget("a", json!({"color": "red", "replicas": 6}))).await.expect(422);
    assert_eq!(
        reply.message(),
        "Widget.probe.example.com \"a\" is invalid: spec: Invalid value: red ones are few"
    );
    server.post(WIDGETS, widget("a", json!({"color": "red", "replicas": 4}))).await.expect(201);
    let reply = server.merge(&format!("{WIDGETS}/a"), json!({"spec": {"replicas": 2}})).await.expect(422);
    assert_eq!(
        reply.message(),
        "Widget.probe.example.com \"a\" is invalid: spec.replicas: Forbidden: never fewer"
    );
    let blocked =
        server.merge(&format!("{WIDGETS}/a"), json!({"spec": {"color": "green"}})).await.expect(422);
    assert!(blocked.message().ends_with("<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"), "{}", blocked.message());
}
