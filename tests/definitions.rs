//! Definitions of custom resources as clients meet what they publish: documents of every version served, kubectl's
//! validation and explanations, field validation, defaults, and what is stored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::objects::{MERGE, good};
use harness::{ControlPlane, Https, eventually};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON_PATCH: (&str, &str) = ("content-type", "application/json-patch+json");
const APPLY: (&str, &str) = ("content-type", "application/apply-patch+yaml");

fn says(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in:\n{text}");
}

fn version(name: &str, schema: &Value) -> Value {
    json!({"name": name, "served": true, "storage": name == "v1", "schema": {"openAPIV3Schema": schema}})
}

/// Defines `plural.group` in these versions, and waits until it is served.
fn define(api: &Https, group: &str, plural: &str, kind: &str, versions: &[Value]) -> String {
    let body = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind}, "versions": versions}});
    good(api.post(DEFINITIONS, body.to_string()), 201);
    let path = format!("{DEFINITIONS}/{plural}.{group}");
    eventually("the definition to be established", || {
        let conditions = good(api.get(&path), 200)["status"]["conditions"].clone();
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        let all = conditions.as_array().cloned().unwrap_or_default();
        if all.iter().any(established) { Ok(()) } else { Err(conditions.to_string()) }
    });
    path
}

/// Until both documents have a definition, or have it no more.
fn published(api: &Https, group: &str, version: &str, kind: &str, wanted: bool) {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    let name = format!("{}.{version}.{kind}", reversed.join("."));
    eventually(&format!("{name} published: {wanted}"), || {
        let two = api.get("/openapi/v2").json()["definitions"].get(&name).is_some();
        let index = api.get("/openapi/v3").json();
        let three = index["paths"].get(format!("apis/{group}/{version}")).and_then(|document| {
            let document = api.get(document["serverRelativeURL"].as_str().unwrap()).json();
            document["components"]["schemas"].get(&name).cloned()
        });
        if two == wanted && three.is_some() == wanted { Ok(()) } else { Err(format!("{two} {three:?}")) }
    });
}

#[test]
fn every_served_version_is_published_renamed_and_withdrawn() {
    let server = ControlPlane::start();
    let api = server.https();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "string"}}}}});
    let both = [version("v1", &schema), version("v2", &schema)];
    let foos = define(&api, "a.example.com", "foos", "Foo", &both);
    define(&api, "a.example.com", "bars", "Bar", &both[..1]);
    define(&api, "b.example.com", "foos", "Foo", &both[..1]);
    for (group, version, kind) in [
        ("a.example.com", "v1", "Foo"),
        ("a.example.com", "v2", "Foo"),
        ("a.example.com", "v1", "Bar"),
        ("b.example.com", "v1", "Foo"),
    ] {
        published(&api, group, version, kind, true);
    }
    let rename = json!([{"op": "test", "path": "/spec/versions/1/name", "value": "v2"}, {"op": "replace", "path": "/spec/versions/1/name", "value": "v3"}]);
    good(api.request("PATCH", &foos, &[JSON_PATCH], rename.to_string().as_bytes()), 200);
    published(&api, "a.example.com", "v3", "Foo", true);
    published(&api, "a.example.com", "v2", "Foo", false);
    published(&api, "a.example.com", "v1", "Foo", true);
    let withdraw = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]);
    good(api.request("PATCH", &foos, &[JSON_PATCH], withdraw.to_string().as_bytes()), 200);
    published(&api, "a.example.com", "v3", "Foo", false);
    published(&api, "a.example.com", "v1", "Foo", true);
    assert_eq!(api.get("/apis/a.example.com/v3/namespaces/default/foos").status, 404);
}

#[test]
fn kubectl_judges_and_explains_by_the_published_schema() {
    let server = ControlPlane::start();
    let api = server.https();
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let mut bars = object(
        json!({"name": {"type": "string", "description": "Name of Bar."}, "age": {"type": "string", "description": "Age of Bar."}}),
    );
    bars["required"] = json!(["name"]);
    let strict =
        object(json!({"spec": {"type": "object", "description": "Specification of Foo", "properties": {
        "bars": {"type": "array", "description": "List of Bars and their specs.", "items": bars}}}}));
    let mut open = object(json!({}));
    open["x-kubernetes-preserve-unknown-fields"] = json!(true);
    let mut inner = object(json!({"a": {"type": "string"}}));
    inner["x-kubernetes-preserve-unknown-fields"] = json!(true);
    inner["description"] = json!("Anything beside a.");
    let nested = object(json!({"spec": inner}));
    for (plural, kind, schema) in
        [("stricts", "Strict", &strict), ("opens", "Open", &open), ("nesteds", "Nested", &nested)]
    {
        define(&api, "c.example.com", plural, kind, &[version("v1", schema)]);
        published(&api, "c.example.com", "v1", kind, true);
    }
    let input = |words: &[&str], kind: &str, more: Value| {
        let mut object = json!({"apiVersion": "c.example.com/v1", "kind": kind, "metadata": {"name": "a"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let client = harness::Kubectl::new(33, &server.kubeconfig(), server.directory());
        client.with_input(words, &object.to_string())
    };
    let (create, apply) = (["create", "-f", "-"], ["apply", "-f", "-"]);
    for words in [create, apply] {
        let unknown =
            input(&words, "Strict", json!({"spec": {"bars": [{"name": "n", "nothing": 1}]}})).failure();
        says(&unknown, "unknown field \"spec.bars[0].nothing\"");
        let missing = input(&words, "Strict", json!({"spec": {"bars": [{"age": "1"}]}})).failure();
        says(&missing, "spec.bars[0].name: Required value");
    }
    says(
        &input(&create, "Strict", json!({"spec": {"bars": [{"name": "n"}]}})).success(),
        "strict.c.example.com/a created",
    );
    says(&input(&apply, "Strict", json!({"spec": {"bars": [{"name": "m"}]}})).success(), "configured");
    for (kind, any) in [
        ("Open", json!({"any": {"thing": 1}, "spec": {"a": "b"}})),
        ("Nested", json!({"spec": {"a": "b", "any": [1]}})),
    ] {
        says(&input(&create, kind, any.clone()).success(), "created");
        says(&input(&apply, kind, any).success(), "configured");
    }
    says(&server.kubectl("explain stricts.spec"), "Specification of Foo");
    says(&server.kubectl("explain stricts.spec.bars"), "List of Bars and their specs.");
    says(&server.kubectl("explain stricts.spec.bars --recursive"), "age");
    says(&server.try_kubectl("explain stricts.spec.bars.none").failure(), "field \"none\" does not exist");
    says(&server.kubectl("explain opens"), "Open");
    says(&server.kubectl("explain nesteds.spec"), "Anything beside a.");
}

#[test]
fn field_validation_reaches_what_is_preserved_and_embedded() {
    let server = ControlPlane::start();
    let api = server.https();
    let mut open = json!({"type": "object"});
    open["x-kubernetes-preserve-unknown-fields"] = json!(true);
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    let holds = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"template": embedded, "known": {"type": "string"}}}}});
    define(&api, "d.example.com", "opens", "Open", &[version("v1", &open)]);
    define(&api, "d.example.com", "holders", "Holder", &[version("v1", &holds)]);
    let path = |plural: &str| format!("/apis/d.example.com/v1/namespaces/default/{plural}");
    let json_body = ("content-type", "application/json");
    let create = |plural: &str, validation: &str, text: &str| {
        let path = format!("{}?fieldValidation={validation}&dryRun=All", path(plural));
        api.request("POST", &path, &[json_body], text.as_bytes())
    };
    let open =
        r#"{"apiVersion":"d.example.com/v1","kind":"Open","metadata":{"name":"a"},"any":{"thing":[1]}}"#;
    assert_eq!(create("opens", "Strict", open).status, 201);
    let applied = format!("{}/a?fieldManager=me&fieldValidation=Strict", path("opens"));
    good(api.request("PATCH", &applied, &[APPLY], open.as_bytes()), 201);

    let twice = r#"{"apiVersion":"d.example.com/v1","kind":"Holder","metadata":{"name":"a"},"spec":{"any":1,"known":"a","known":"b","any":2}}"#;
    let refused = good(create("holders", "Strict", twice), 400);
    let message = refused["message"].as_str().unwrap();
    says(message, "duplicate field \"spec.known\"");
    says(message, "duplicate field \"spec.any\"");
    let warned = create("holders", "Warn", twice);
    let warnings: Vec<_> = warned.headers.iter().filter(|(name, _)| name == "warning").collect();
    assert_eq!((warned.status, warnings.len()), (201, 2), "{warnings:?}");
    let ignored = create("holders", "Ignore", twice);
    assert!(ignored.status == 201 && ignored.header("warning").is_none());

    let odd = r#"{"apiVersion":"d.example.com/v1","kind":"Holder","metadata":{"name":"a","odd":1},"spec":{"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","odder":1},"spec":{}}}}"#;
    let refused = good(create("holders", "Strict", odd), 400);
    let message = refused["message"].as_str().unwrap();
    says(message, "unknown field \"metadata.odd\"");
    says(message, "unknown field \"spec.template.metadata.odder\"");
    let applied = format!("{}/a?fieldManager=me&fieldValidation=Strict", path("holders"));
    let refused = api.request("PATCH", &applied, &[APPLY], odd.as_bytes());
    assert!(refused.status >= 400, "{}", refused.text());

    // The same of a built-in kind, in its metadata too.
    let deployment = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","odd":1},"spec":{"replicas":1,"replicas":2,"odder":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    let refused = api.request(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict",
        &[json_body],
        deployment.as_bytes(),
    );
    let refused = good(refused, 400);
    for part in [
        "unknown field \"metadata.odd\"",
        "duplicate field \"spec.replicas\"",
        "unknown field \"spec.odder\"",
    ] {
        says(refused["message"].as_str().unwrap(), part);
    }
}

#[test]
fn defaults_come_for_requests_and_from_the_store() {
    let server = ControlPlane::start();
    let api = server.https();
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
    let definition = define(&api, "e.example.com", "things", "Thing", &[version("v1", &schema)]);
    let things = "/apis/e.example.com/v1/namespaces/default/things";
    let thing = |name: &str| {
        json!({"apiVersion": "e.example.com/v1", "kind": "Thing", "metadata": {"name": name}}).to_string()
    };
    let default = |operations: Value| {
        good(api.request("PATCH", &definition, &[JSON_PATCH], operations.to_string().as_bytes()), 200);
    };
    let shows = |name: &str, field: &str, wanted: Value| {
        eventually(&format!("{name}.{field} to be {wanted}"), || {
            let found = good(api.get(&format!("{things}/{name}")), 200)[field].clone();
            if found == wanted { Ok(()) } else { Err(found.to_string()) }
        });
    };
    let at = |field: &str| format!("/spec/versions/0/schema/openAPIV3Schema/properties/{field}/default");
    good(api.post(things, thing("stored")), 201);
    default(json!([{"op": "add", "path": at("a"), "value": "A"}]));
    shows("stored", "a", json!("A"));
    assert_eq!(good(api.post(things, thing("asked")), 201)["a"], "A");
    default(json!([{"op": "remove", "path": at("a")}, {"op": "add", "path": at("b"), "value": "B"}]));
    shows("stored", "b", json!("B"));
    // What was written with its default keeps it; what only showed it does not.
    shows("asked", "a", json!("A"));
    shows("stored", "a", Value::Null);
    let listed = good(
        api.request("GET", things, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], b""),
        200,
    );
    assert_eq!(listed["kind"], "Table");
    good(api.request("PATCH", &format!("{things}/stored"), MERGE, b"{\"a\":\"own\"}"), 200);
    shows("stored", "a", json!("own"));
}
