//! Server-side apply and `metadata.managedFields`, as upstream answers them.

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Server {
    async fn apply(&self, path: &str, config: Value) -> Reply {
        self.send("PATCH", path, &[("content-type", "application/apply-patch+yaml")], config.to_string())
            .await
    }
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// Manager, operation and fields of each entry.
fn owners(reply: &Reply) -> Vec<(String, Value)> {
    let entries = reply.json["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| {
            assert_eq!(entry["fieldsType"], "FieldsV1");
            let sub = match text(entry, "subresource").as_str() {
                "" => String::new(),
                sub => format!("/{sub}"),
            };
            let who = format!(
                "{}{sub} {} {}",
                text(entry, "manager"),
                text(entry, "operation"),
                text(entry, "apiVersion")
            );
            (who, entry["fieldsV1"].clone())
        })
        .collect()
}

#[tokio::test]
async fn an_apply_creates_changes_and_takes_away() {
    let server = Server::start().await;
    let path = format!("{MAPS}/a?fieldManager=m1");
    let made = server.apply(&path, map("a", json!({"a": "1", "b": "1"}))).await.expect(201);
    assert_eq!(owners(&made), [("m1 Apply v1".to_owned(), json!({"f:data": {"f:a": {}, "f:b": {}}}))]);
    let again = server.apply(&path, map("a", json!({"a": "1", "b": "1"}))).await.expect(200);
    assert_eq!(again.version(), made.version(), "nothing changed, nothing is written");
    let less = server.apply(&path, map("a", json!({"a": "2"}))).await.expect(200);
    assert_eq!(less.json["data"], json!({"a": "2"}));
    // Somebody else adds a key, which the first manager's apply leaves alone.
    let merged = server.merge(&format!("{MAPS}/a?fieldManager=other"), json!({"data": {"c": "1"}})).await;
    assert_eq!(
        owners(&merged),
        [
            ("m1 Apply v1".to_owned(), json!({"f:data": {"f:a": {}}})),
            ("other Update v1".to_owned(), json!({"f:data": {"f:c": {}}})),
        ]
    );
    let none = server.apply(&path, json!({"apiVersion": "v1", "kind": "ConfigMap"})).await.expect(200);
    assert_eq!(none.json["data"], json!({"c": "1"}));
    assert_eq!(owners(&none).len(), 1);
}

#[tokio::test]
async fn conflicts_name_managers_and_fields() {
    let server = Server::start().await;
    server.apply(&format!("{MAPS}/a?fieldManager=m1"), map("a", json!({"a": "1"}))).await.expect(201);
    let shared =
        server.apply(&format!("{MAPS}/a?fieldManager=m2"), map("a", json!({"a": "1"}))).await.expect(200);
    assert_eq!(owners(&shared).len(), 2, "the same value is no conflict");
    let theirs = format!("{MAPS}/a?fieldManager=m3");
    let refused = server.apply(&theirs, map("a", json!({"a": "2"}))).await.expect(409);
    assert_eq!(
        refused.message(),
        "Apply failed with 2 conflicts: conflicts with \"m1\":\n- .data.a\nconflicts with \"m2\":\n- .data.a"
    );
    assert_eq!(
        refused.json["details"]["causes"][0],
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"m1\"", "field": ".data.a"})
    );
    let forced = server.apply(&format!("{theirs}&force=true"), map("a", json!({"a": "2"}))).await.expect(200);
    assert_eq!(owners(&forced), [("m3 Apply v1".to_owned(), json!({"f:data": {"f:a": {}}}))]);
    server
        .merge(&format!("{MAPS}/a?fieldManager=kubectl-edit"), json!({"data": {"a": "3"}}))
        .await
        .expect(200);
    let refused = server.apply(&theirs, map("a", json!({"a": "4"}))).await.expect(409);
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a"
    );
}

#[tokio::test]
async fn what_is_refused() {
    let server = Server::start().await;
    server.apply(&format!("{MAPS}/a?fieldManager=m"), map("a", json!({"a": "1"}))).await.expect(201);
    let deployment = |spec: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    let typed = "failed to create typed patch object (/d; apps/v1, Kind=Deployment): ";
    let containers = |list: Value| json!({"template": {"spec": {"containers": list}}});
    for (path, config, code, message) in [
        ("configmaps/a", map("a", json!({})), 422, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".to_owned()),
        ("configmaps/a?fieldManager=m", json!({"kind": "Config", "apiVersion": "v1"}), 400, "invalid object type: /v1, Kind=Config".to_owned()),
        ("configmaps/a?fieldManager=m", json!({}), 400, "invalid object type: /, Kind=".to_owned()),
        ("configmaps/a?fieldManager=m", json!([]), 400, "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}".to_owned()),
        ("configmaps/a?fieldManager=m", map("b", json!({})), 400, "the name of the object (b) does not match the name on the URL (a)".to_owned()),
        ("configmaps/new?fieldManager=m", json!({"kind": "ConfigMap", "apiVersion": "v1"}), 400, "the name of the object (new based on URL) was undeterminable: name must be provided".to_owned()),
        ("configmaps/a?fieldManager=m", json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"managedFields": []}}), 400, "metadata.managedFields must be nil".to_owned()),
        ("configmaps/a?fieldManager=m", json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"namespace": "other"}}), 400, "the namespace of the provided object does not match the namespace sent on the request".to_owned()),
        ("configmaps/a?fieldManager=m", json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"uid": "x"}}), 422, "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable".to_owned()),
        ("configmaps/a?fieldManager=m", json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}}), 409, "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again".to_owned()),
        ("configmaps/new?fieldManager=m", json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "new", "uid": "x"}}), 409, "Operation cannot be fulfilled on configmaps \"new\": uid mismatch: the provided object specified uid x, and no existing object was found".to_owned()),
        ("deployments/d?fieldManager=m", deployment(json!({"replicas": "x"})), 500, format!("{typed}.spec.replicas: expected numeric (int or float), got string")),
        ("deployments/d?fieldManager=m", deployment(json!({"paused": "s"})), 500, format!("{typed}.spec.paused: expected boolean, got &{{s}}")),
        ("deployments/d?fieldManager=m", deployment(json!({"foo": 1})), 500, format!("{typed}.spec.foo: field not declared in schema")),
        ("deployments/d?fieldManager=m", deployment(json!({"template": [1]})), 500, format!("{typed}.spec.template: expected map, got &{{[1]}}")),
        ("deployments/d?fieldManager=m", deployment(containers(json!({"a": 1}))), 500, format!("{typed}.spec.template.spec.containers: expected list, got &{{map[a:1]}}")),
        ("deployments/d?fieldManager=m", deployment(containers(json!([null]))), 500, format!("{typed}.spec.template.spec.containers: element 0: associative list with keys may not have a null element")),
        ("deployments/d?fieldManager=m", deployment(containers(json!([{"name": "a", "image": 2.5}, {"name": "a"}]))), 500, format!("{typed}errors:\n  .spec.template.spec.containers[name=\"a\"].image: expected string, got &value.valueUnstructured{{Value:2.5}}\n  .spec.template.spec.containers: duplicate entries for key [name=\"a\"]")),
        ("deployments/d?fieldManager=m", deployment(json!({"template": {"spec": {"hostAliases": [{"hostnames": [1]}]}}})), 500, format!("{typed}.spec.template.spec.hostAliases[ip=\"\"].hostnames[0]: expected string, got &value.valueUnstructured{{Value:1}}")),
        ("deployments/none/status?fieldManager=m", deployment(json!({})), 404, "deployments.apps \"none\" not found".to_owned()),
    ] {
        let base = if path.starts_with("configmaps") { "/api/v1" } else { "/apis/apps/v1" };
        let answer = server.apply(&format!("{base}/namespaces/default/{path}"), config.clone()).await;
        assert_eq!((answer.code, answer.message()), (code, message.as_str()), "{path} {config}");
    }
    let forced = server.merge(&format!("{MAPS}/a?force=true"), json!({})).await.expect(422);
    assert!(forced.message().ends_with("force: Forbidden: may not be specified for non-apply patch"));
}

#[tokio::test]
async fn creates_and_updates_own_what_they_set() {
    let server = Server::start().await;
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "e", "labels": {"x": "y"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"nodeSelector": {}, "volumes": [{"name": "v"}], "containers": [{"name": "a", "image": "i", "ports": []}]}}}});
    let made = server.post(&format!("{DEPLOYMENTS}?fieldManager=cr"), body).await.expect(201);
    assert_eq!(
        owners(&made),
        [(
            "cr Update apps/v1".to_owned(),
            json!({"f:metadata":{"f:labels":{".":{},"f:x":{}}},"f:spec":{"f:progressDeadlineSeconds":{},"f:replicas":{},"f:revisionHistoryLimit":{},"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{},"f:maxUnavailable":{}},"f:type":{}},"f:template":{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{},"f:volumes":{".":{},"k:{\"name\":\"v\"}":{".":{},"f:emptyDir":{},"f:name":{}}}}}}})
        )]
    );
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "e"},
        "spec": {"replicas": 9}, "status": {"replicas": 1}});
    let applied = server.apply(&format!("{DEPLOYMENTS}/e/status?fieldManager=s"), status).await.expect(200);
    assert_eq!(applied.json["spec"]["replicas"], 1);
    assert_eq!(
        owners(&applied)[0],
        ("s/status Apply apps/v1".to_owned(), json!({"f:status": {"f:replicas": {}}}))
    );
    let agent = [("content-type", "application/merge-patch+json"), ("user-agent", "kubectl/v1.33 (linux)")];
    let path = format!("{DEPLOYMENTS}/e");
    let patched = server.send("PATCH", &path, &agent, r#"{"spec":{"replicas":3}}"#).await.expect(200);
    let ours = owners(&patched);
    assert_eq!(
        ours.iter().find(|(who, _)| who == "kubectl Update apps/v1").map(|(_, fields)| fields.clone()),
        Some(json!({"f:spec": {"f:replicas": {}}}))
    );
}
