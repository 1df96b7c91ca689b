//! Every kind that is kept, from its place in discovery to the deletion of its collection, by each verb: what upstream's
//! conformance tests ask of the API of one kind after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::BTreeMap;

use harness::objects::{MERGE, gone};
use harness::{ControlPlane, Https, Response, eventually, repository};
use serde_json::{Value, json};

const NAMESPACE: &str = "lifecycles";
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Kinds that take their time: namespaces go in steps (tests/cluster_controllers.rs), and a range of addresses is let go ten
/// seconds after it was given up, as upstream.
const ELSEWHERE: &[&str] = &["Namespace", "ServiceCIDR"];

/// What is written into a status that has no conditions, or only some that are allowed.
const STATUSES: &[(&str, &str)] = &[
    ("CSINode", r#"{}"#),
    ("CronJob", r#"{"lastScheduleTime":"2026-01-01T00:00:00Z"}"#),
    ("HorizontalPodAutoscaler", r#"{"desiredReplicas":7}"#),
    ("Ingress", r#"{"loadBalancer":{"ingress":[{"ip":"192.0.2.7"}]}}"#),
    ("PersistentVolume", r#"{"message":"seen"}"#),
    (
        "PodCertificateRequest",
        r#"{"conditions":[{"type":"Denied","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}"#,
    ),
    ("ResourceClaim", r#"{}"#),
    ("ResourceQuota", r#"{"hard":{"services":"9"}}"#),
    // What its controller said may not be taken back.
    ("StorageVersionMigration", r#"{}"#),
    ("VolumeAttachment", r#"{"attached":true}"#),
];
const CONDITION: &str = r#"{"conditions":[{"type":"Life","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}"#;

struct Kind {
    name: String,
    /// `/apis/apps/v1` and `deployments`.
    root: String,
    plural: String,
    namespaced: bool,
    verbs: Vec<String>,
    subresources: Vec<String>,
}

impl Kind {
    fn collection(&self) -> String {
        let namespace = if self.namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        format!("{}{namespace}/{}", self.root, self.plural)
    }
}

/// By group version and kind, as the three levels of discovery tell of them.
fn kinds(api: &Https) -> BTreeMap<(String, String), Kind> {
    let mut roots = vec![("v1".to_owned(), "/api/v1".to_owned())];
    for group in api.get("/apis").json()["groups"].as_array().unwrap() {
        let alone = api.get(&format!("/apis/{}", group["name"].as_str().unwrap())).json();
        assert_eq!(&alone["versions"], &group["versions"], "{group}");
        assert_eq!(&alone["preferredVersion"], &group["preferredVersion"]);
        for version in group["versions"].as_array().unwrap() {
            let version = version["groupVersion"].as_str().unwrap();
            roots.push((version.to_owned(), format!("/apis/{version}")));
        }
    }
    let mut kinds: BTreeMap<(String, String), Kind> = BTreeMap::new();
    for (group_version, root) in roots {
        let list = api.get(&root).json();
        assert_eq!(list["groupVersion"], group_version.as_str());
        let resources = list["resources"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for resource in resources.iter().filter(|r| !r["name"].as_str().unwrap().contains('/')) {
            let plural = text(&resource["name"]);
            let subresource =
                |r: &Value| r["name"].as_str()?.strip_prefix(&format!("{plural}/")).map(str::to_owned);
            let kind = Kind {
                name: text(&resource["kind"]),
                root: root.clone(),
                namespaced: resource["namespaced"].as_bool().unwrap(),
                verbs: resource["verbs"].as_array().unwrap().iter().map(text).collect(),
                subresources: resources.iter().filter_map(subresource).collect(),
                plural,
            };
            kinds.insert((group_version.clone(), kind.name.clone()), kind);
        }
    }
    kinds
}

fn good(response: Response, code: u16, what: &str) -> Value {
    assert_eq!(response.status, code, "{what}: {}", response.text());
    response.json()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

/// Whether what is there says all that was written; it may say more.
fn holds(there: &Value, written: &Value) -> bool {
    match (there, written) {
        (Value::Object(there), Value::Object(written)) => {
            written.iter().all(|(name, value)| there.get(name).is_some_and(|there| holds(there, value)))
        }
        (Value::Array(there), Value::Array(written)) => {
            written.iter().all(|value| there.iter().any(|there| holds(there, value)))
        }
        (there, written) => there == written,
    }
}

/// Reads, changes and writes back until nobody came between.
fn update(api: &Https, path: &str, change: impl Fn(&mut Value)) -> Value {
    eventually(path, || {
        let mut object = good(api.get(path), 200, path);
        change(&mut object);
        let written = api.put(path, &object);
        if written.status == 409 { Err(written.text()) } else { Ok(good(written, 200, path)) }
    })
}

/// The version of the collection before the first of it was made.
fn live(api: &Https, kind: &Kind, object: &Value) -> String {
    let (collection, selector) = (kind.collection(), "labelSelector=life%3Dshort");
    let name = object["metadata"]["name"].as_str().unwrap();
    let one = format!("{collection}/{name}");
    let selected = format!("{collection}?{selector}");
    let before = good(api.get(&selected), 200, &selected);
    assert!(names(&before).is_empty(), "{before}");

    let made = good(api.post(&collection, object.to_string()), 201, &one);
    assert_eq!(made["metadata"]["labels"]["life"], "short");
    assert_eq!(good(api.get(&one), 200, &one)["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(names(&good(api.get(&selected), 200, &one)), [name]);
    let everywhere = format!("{}/{}?{selector}", kind.root, kind.plural);
    assert_eq!(names(&good(api.get(&everywhere), 200, &everywhere)), [name]);

    let patch = |path: &str, body: Value| {
        good(api.request("PATCH", path, MERGE, body.to_string().as_bytes()), 200, path)
    };
    let patched = patch(&one, json!({"metadata": {"labels": {"patched": "yes"}}}));
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
    let updated = update(api, &one, |object| object["metadata"]["labels"]["updated"] = json!("yes"));
    assert_eq!(updated["metadata"]["labels"]["updated"], "yes");
    let both = good(api.get(&format!("{selected},patched,updated")), 200, &one);
    assert_eq!(names(&both), [name]);

    if kind.subresources.iter().any(|subresource| subresource == "status") {
        let path = format!("{one}/status");
        assert_eq!(good(api.get(&path), 200, &path)["metadata"]["uid"], made["metadata"]["uid"]);
        let status = STATUSES.iter().find(|(of, _)| *of == kind.name).map_or(CONDITION, |(_, status)| status);
        let status: Value = serde_json::from_str(status).unwrap();
        let written = patch(&path, json!({"status": status}));
        for (field, value) in status.as_object().unwrap() {
            assert!(holds(&written["status"][field], value), "{path}: {written}");
        }
        let again = update(api, &path, |object| {
            for (field, value) in status.as_object().unwrap() {
                object["status"][field] = value.clone();
            }
        });
        assert_eq!(again["kind"], kind.name.as_str());
    }

    good(api.request("DELETE", &one, &[], b""), 200, &one);
    gone(api, &one);
    eventually(&format!("{one} a second time"), || {
        let again = api.post(&collection, object.to_string());
        if again.status == 409 { Err(again.text()) } else { Ok(good(again, 201, &one)) }
    });
    good(api.request("DELETE", &selected, &[], b""), 200, &selected);
    gone(api, &one);
    assert!(names(&good(api.get(&selected), 200, &selected)).is_empty());
    before["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[test]
fn every_kind_lives_by_every_verb() {
    let server = ControlPlane::start();
    let api = server.https();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    good(api.post("/api/v1/namespaces", namespace.to_string()), 201, NAMESPACE);
    eventually("the default account", || {
        let account = api.get(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"));
        if account.status == 200 { Ok(()) } else { Err(account.text()) }
    });
    let kinds = kinds(&api);
    let mut lived = Vec::new();
    for entry in std::fs::read_dir(repository("tests/fixtures/round_trip")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut object: Value = serde_norway::from_str(&text).unwrap();
        let key = ["apiVersion", "kind"].map(|name| object[name].as_str().unwrap().to_owned());
        let kind = kinds.get(&key.into()).unwrap_or_else(|| panic!("{} is not served", object["kind"]));
        if ELSEWHERE.contains(&kind.name.as_str()) {
            continue;
        }
        for verb in VERBS {
            assert!(kind.verbs.iter().any(|known| known == verb), "{} has no {verb}", kind.name);
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("finalizers");
        if kind.namespaced {
            metadata.insert("namespace".into(), json!(NAMESPACE));
        }
        metadata
            .entry("labels")
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .unwrap()
            .insert("life".into(), json!("short"));
        if let Some(involved) = object.get_mut("involvedObject").or(None) {
            involved["namespace"] = json!(NAMESPACE);
        }
        if let Some(regarding) = object.get_mut("regarding") {
            regarding["namespace"] = json!(NAMESPACE);
        }
        let before = live(&api, kind, &object);
        lived.push((kind, before));
    }
    assert!(lived.len() > 55, "{}", lived.len());
    // All at once, for each watch lasts its second.
    let api = &api;
    std::thread::scope(|scope| {
        for (kind, before) in &lived {
            scope.spawn(move || {
                let path = format!(
                    "{}?watch=1&timeoutSeconds=1&labelSelector=life%3Dshort&resourceVersion={before}",
                    kind.collection()
                );
                let text = api.get(&path).text();
                let types: Vec<String> = text
                    .lines()
                    .map(|line| {
                        serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned()
                    })
                    .collect();
                let told = |wanted: &str| types.iter().filter(|have| *have == wanted).count();
                // Events of two groups are the same objects: each sees the other's, too.
                let (added, deleted) = (told("ADDED"), told("DELETED"));
                assert!(added == deleted && added > 0 && added % 2 == 0, "{}: {types:?}", kind.name);
                assert!(told("MODIFIED") >= 2, "{}: {types:?}", kind.name);
                assert_eq!((types[0].as_str(), types[types.len() - 1].as_str()), ("ADDED", "DELETED"));
            });
        }
    });
}
