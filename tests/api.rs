//! The verbs as any HTTP client meets them: lists, watches, patches, deletions, dry runs, media types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Https, Response, eventually, shared};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A namespace of the test's own, so that tests share a cluster without seeing one another.
fn namespace(api: &Https, name: &str) -> String {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let response = api.post("/api/v1/namespaces", body.to_string());
    assert_eq!(response.status, 201, "{}", response.text());
    format!("/api/v1/namespaces/{name}")
}

/// One whose default service account is there, without which it takes no pods.
fn namespace_for_pods(api: &Https, name: &str) -> String {
    let base = namespace(api, name);
    eventually("the default service account", || {
        let response = api.get(&format!("{base}/serviceaccounts/default"));
        if response.status == 200 { Ok(()) } else { Err(response.text()) }
    });
    base
}

fn map(name: &str, data: Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).to_string()
}

#[track_caller]
fn made(response: Response) -> Value {
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()
}

#[track_caller]
fn good(response: Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// The events of a watch that ends by its own `timeoutSeconds`.
fn watched(api: &Https, path: &str) -> Vec<Value> {
    let response = api.get(path);
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn objects_get_their_metadata() {
    let api = shared();
    let base = namespace(&api, "metadata");
    let first = made(api.post(&format!("{base}/configmaps"), map("one", json!({"a": "b"}))));
    let metadata = &first["metadata"];
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(metadata["namespace"], "metadata");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let stamp = metadata["creationTimestamp"].as_str().unwrap();
    assert!(stamp.len() == 20 && stamp.ends_with('Z'), "{stamp}");
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let generated = made(api.post(&format!("{base}/configmaps"), generated.to_string()));
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 2, "paused": true, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"replicas": 9}});
    let path = "/apis/apps/v1/namespaces/metadata/deployments";
    let made_deployment = made(api.post(path, deployment.to_string()));
    assert_eq!(made_deployment["metadata"]["generation"], 1);
    assert_ne!(made_deployment["status"]["replicas"], 9, "status is not the creator's to set");
    let kind = [("content-type", "application/merge-patch+json")];
    let patch =
        |path: &str, body: Value| good(api.request("PATCH", path, &kind, body.to_string().as_bytes()));
    let labelled = patch(&format!("{path}/d"), json!({"metadata": {"labels": {"x": "y"}}}));
    assert_eq!(labelled["metadata"]["generation"], 1, "labels are not the specification");
    let changed =
        patch(&format!("{path}/d"), json!({"spec": {"minReadySeconds": 1}, "status": {"replicas": 8}}));
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_ne!(changed["status"]["replicas"], 8);
    let scale = good(api.get(&format!("{path}/d/scale")));
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "a=b");
}

#[test]
fn lists_are_chunked_selected_and_consistent() {
    let api = shared();
    let base = namespace(&api, "lists");
    let path = format!("{base}/configmaps?labelSelector=mine");
    for number in 0..10 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("m-{number}"), "labels": {"mine": "yes", "half": (number % 2).to_string()}}});
        made(api.post(&format!("{base}/configmaps"), body.to_string()));
    }
    let whole = good(api.get(&path));
    assert_eq!((&whole["kind"], &whole["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(whole["items"].as_array().unwrap().len(), 10);
    let first = good(api.get(&format!("{path}&limit=4")));
    assert_eq!(first["items"].as_array().unwrap().len(), 4);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // What is created after the first page is not of this list.
    made(
        api.post(
            &format!("{base}/configmaps"),
            json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "m-55", "labels": {"mine": "yes"}}})
            .to_string(),
        ),
    );
    let second = good(api.get(&format!("{path}&limit=100&continue={token}")));
    let names: Vec<_> =
        second["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["m-4", "m-5", "m-6", "m-7", "m-8", "m-9"]);
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none_or(|token| token == ""));

    for (selector, count) in [
        ("half=0", 5),
        ("half!=0", 6),
        ("half%20in%20(0,1)", 10),
        ("half", 10),
        ("!half,mine", 1),
        ("half%20notin%20(1)", 6),
    ] {
        let found = good(api.get(&format!("{base}/configmaps?labelSelector=mine,{selector}")));
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{selector}");
    }
    let one = good(api.get(&format!("{base}/configmaps?fieldSelector=metadata.name%3Dm-3")));
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let everywhere =
        good(api.get("/api/v1/configmaps?labelSelector=mine&fieldSelector=metadata.namespace%3Dlists"));
    assert_eq!(everywhere["items"].as_array().unwrap().len(), 11);
    let cached = good(api.get(&format!("{path}&resourceVersion=0")));
    assert_eq!(cached["items"].as_array().unwrap().len(), 11);
    let trailing = good(api.get(&format!("{base}/configmaps/?labelSelector=mine")));
    assert_eq!(trailing["items"].as_array().unwrap().len(), 11);
}

#[test]
fn a_watch_tells_what_happened_since_a_version() {
    let api = shared();
    let base = namespace(&api, "watches");
    let maps = format!("{base}/configmaps");
    let start = good(api.get(&maps))["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    made(api.post(&maps, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "w", "labels": {"seen": "no"}}}).to_string()));
    let kind = [("content-type", "application/merge-patch+json")];
    let label = |value: &str| {
        let body = json!({"metadata": {"labels": {"seen": value}}}).to_string();
        good(api.request("PATCH", &format!("{maps}/w"), &kind, body.as_bytes()))
    };
    label("yes");
    label("no");
    good(api.request("DELETE", &format!("{maps}/w"), &[], b""));
    let all = "&timeoutSeconds=1&fieldSelector=metadata.name%3Dw";
    let events = watched(&api, &format!("{maps}?watch=1&resourceVersion={start}{all}"));
    assert_eq!(types(&events), ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]);
    let versions: Vec<u64> = events
        .iter()
        .map(|event| event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    // To one that selects, an object that leaves the selection is deleted, and one that enters it is added.
    let events =
        watched(&api, &format!("{maps}?watch=true&resourceVersion={start}&labelSelector=seen%3Dyes{all}"));
    assert_eq!(types(&events), ["ADDED", "DELETED"]);
    let bookmarks = format!(
        "{maps}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let events = watched(&api, &bookmarks);
    let ended = events
        .iter()
        .find(|event| event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true");
    assert_eq!(ended.unwrap_or_else(|| panic!("{events:?}"))["type"], "BOOKMARK");
    let tables = api.request(
        "GET",
        &format!("{maps}?watch=1&resourceVersion={start}{all}"),
        &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
        b"",
    );
    let first: Value = serde_json::from_str(tables.text().lines().next().unwrap()).unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "w");
}

#[test]
fn the_three_patches_do_what_they_are_for() {
    let api = shared();
    let base = namespace_for_pods(&api, "patches");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "1", "b": "2"}},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "one", "image": "i:1"}, {"name": "two", "image": "i:1"}]}});
    made(api.post(&format!("{base}/pods"), pod.to_string()));
    let path = format!("{base}/pods/p");
    let patch = |kind: &str, body: Value| {
        let kind = format!("application/{kind}+json");
        api.request("PATCH", &path, &[("content-type", &kind)], body.to_string().as_bytes())
    };
    let strategic = json!({"spec": {"containers": [{"name": "two", "image": "i:2"}]}});
    let merged = good(patch("strategic-merge-patch", strategic));
    let images: Vec<_> = merged["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["image"].clone())
        .collect();
    assert_eq!(images, ["i:1", "i:2"], "containers merge by name");
    let merged = good(patch("merge-patch", json!({"metadata": {"labels": {"a": null, "c": "3"}}})));
    assert_eq!(merged["metadata"]["labels"], json!({"b": "2", "c": "3"}));
    let operations = json!([{"op": "test", "path": "/metadata/labels/b", "value": "2"},
        {"op": "replace", "path": "/metadata/labels/b", "value": "4"}, {"op": "remove", "path": "/metadata/labels/c"}]);
    let patched = good(patch("json-patch", operations.clone()));
    assert_eq!(patched["metadata"]["labels"], json!({"b": "4"}));
    let failed = patch("json-patch", operations);
    assert_eq!(failed.status, 422, "{}", failed.text());
    let nonsense = patch("json-patch", json!({"op": "add"}));
    assert_eq!(nonsense.status, 400, "{}", nonsense.text());
    assert_eq!(
        api.request(
            "PATCH",
            &format!("{base}/pods/absent"),
            &[("content-type", "application/merge-patch+json")],
            b"{}"
        )
        .status,
        404
    );
}

#[test]
fn a_deletion_waits_for_finalizers_and_heeds_its_options() {
    let api = shared();
    let base = namespace(&api, "deletions");
    let maps = format!("{base}/configmaps");
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    made(api.post(&maps, held.to_string()));
    let answer = good(api.request("DELETE", &format!("{maps}/held"), &[], b""));
    assert_eq!(answer["kind"], "ConfigMap", "an object that stays for its finalizers is the answer");
    let waiting = good(api.get(&format!("{maps}/held")));
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    let kind = [("content-type", "application/merge-patch+json")];
    let release = json!({"metadata": {"finalizers": null}}).to_string();
    good(api.request("PATCH", &format!("{maps}/held"), &kind, release.as_bytes()));
    assert_eq!(api.get(&format!("{maps}/held")).status, 404);

    let kept = made(api.post(&maps, map("kept", json!({}))));
    let status = good(api.request("DELETE", &format!("{maps}/kept?dryRun=All"), &[], b""));
    assert_eq!(status["status"], "Success", "{status}");
    assert_eq!(api.get(&format!("{maps}/kept")).status, 200, "a dry run deletes nothing");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": kept["metadata"]["uid"]}});
    let status =
        good(api.request("DELETE", &format!("{maps}/kept"), &[JSON], options.to_string().as_bytes()));
    assert_eq!(status["details"]["uid"], kept["metadata"]["uid"]);
    for number in 0..6 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c-{number}"), "labels": {"n": (number % 2).to_string()}}});
        made(api.post(&maps, body.to_string()));
    }
    let list = good(api.request("DELETE", &format!("{maps}?labelSelector=n%3D1"), &[], b""));
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(good(api.get(&format!("{maps}?labelSelector=n")))["items"].as_array().unwrap().len(), 3);
}

#[test]
fn owners_take_their_dependents_along() {
    let api = shared();
    let base = namespace(&api, "owners");
    let maps = format!("{base}/configmaps");
    let family = |name: &str| {
        let owner = made(api.post(&maps, map(name, json!({}))));
        let child = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-child"),
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"],
                "blockOwnerDeletion": true}]}});
        made(api.post(&maps, child.to_string()));
    };
    let there = |name: &str| api.get(&format!("{maps}/{name}")).status == 200;
    let gone = |name: &str| {
        eventually(&format!("{name} gone"), || if there(name) { Err("still there".into()) } else { Ok(()) });
    };
    for (name, policy) in [("background", "Background"), ("foreground", "Foreground")] {
        family(name);
        let answer = api.request("DELETE", &format!("{maps}/{name}?propagationPolicy={policy}"), &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        gone(&format!("{name}-child"));
        gone(name);
    }
    family("orphan");
    let answer = api.request("DELETE", &format!("{maps}/orphan?propagationPolicy=Orphan"), &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    gone("orphan");
    let child = good(api.get(&format!("{maps}/orphan-child")));
    assert!(child["metadata"].get("ownerReferences").is_none(), "{child}");
    // One whose owner never was is collected too.
    let stray = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stray", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "00000000-0000-0000-0000-000000000000"}]}});
    made(api.post(&maps, stray.to_string()));
    gone("stray");
}

#[test]
fn a_namespace_goes_with_all_it_holds() {
    let api = shared();
    let base = namespace_for_pods(&api, "doomed");
    made(api.post(&format!("{base}/configmaps"), map("m", json!({}))));
    eventually("the default service account", || {
        if api.get(&format!("{base}/serviceaccounts/default")).status == 200 {
            Ok(())
        } else {
            Err("absent".into())
        }
    });
    let answer = good(api.request("DELETE", &base, &[], b""));
    assert_eq!(answer["status"]["phase"], "Terminating");
    let late = api.post(&format!("{base}/configmaps"), map("late", json!({})));
    assert!([403, 404].contains(&late.status), "{}", late.text());
    eventually("the namespace gone", || {
        let response = api.get(&base);
        if response.status == 404 { Ok(()) } else { Err(response.text()) }
    });
    assert_eq!(
        good(api.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddoomed"))["items"],
        json!([])
    );
    let protected = api.request("DELETE", "/api/v1/namespaces/default", &[], b"");
    assert_eq!(protected.status, 403, "{}", protected.text());
}

#[test]
fn a_dry_run_answers_and_keeps_nothing() {
    let api = shared();
    let base = namespace(&api, "trials");
    let answer = made(api.post(&format!("{base}/configmaps?dryRun=All"), map("trial", json!({}))));
    assert!(answer["metadata"]["uid"].is_string());
    assert_eq!(api.get(&format!("{base}/configmaps/trial")).status, 404);
    assert_eq!(api.post(&format!("{base}/configmaps?dryRun=Some"), map("trial", json!({}))).status, 422);
}

#[test]
fn media_types_are_taken_and_given() {
    let api = shared();
    let base = namespace(&api, "media");
    let maps = format!("{base}/configmaps");
    let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-yaml}\ndata: {a: 'b'}\n";
    made(api.request("POST", &maps, &[("content-type", "application/yaml")], yaml));
    let text = api.request("GET", &format!("{maps}/from-yaml"), &[("accept", "application/yaml")], b"");
    assert!(text.text().contains("name: from-yaml"), "{}", text.text());
    let table = api
        .request(
            "GET",
            &maps,
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")],
            b"",
        )
        .json();
    assert_eq!(table["kind"], "Table");
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert!(table["rows"][0]["object"]["metadata"]["name"].is_string());
    let partial = api
        .request(
            "GET",
            &format!("{maps}/from-yaml"),
            &[("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")],
            b"",
        )
        .json();
    assert_eq!(partial["kind"], "PartialObjectMetadata");
    assert!(partial.get("data").is_none());

    let aggregated = api
        .request(
            "GET",
            "/apis",
            &[("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")],
            b"",
        )
        .json();
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    assert_eq!(good(api.get("/apis"))["kind"], "APIGroupList");
    assert_eq!(good(api.get("/api"))["kind"], "APIVersions");
    assert_eq!(good(api.get("/api/v1"))["kind"], "APIResourceList");
    let index = good(api.get("/openapi/v3"));
    let apps = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(good(api.get(apps))["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let version = good(api.get("/version"));
    assert_eq!(
        (&version["major"], version["gitVersion"].as_str().unwrap().starts_with("v1.37")),
        (&json!("1"), true)
    );
    let metrics = api.get("/metrics").text();
    assert!(metrics.contains("apiserver_request_total"), "no request counter in /metrics");
}

#[test]
fn pods_are_bound_once_and_evicted_gracefully() {
    let api = shared();
    let base = namespace_for_pods(&api, "bindings");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    made(api.post(&format!("{base}/pods"), pod.to_string()));
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "nowhere"}});
    let answer = made(api.post(&format!("{base}/pods/p/binding"), binding.to_string()));
    assert_eq!(answer["status"], "Success");
    let bound = good(api.get(&format!("{base}/pods/p")));
    assert_eq!(bound["spec"]["nodeName"], "nowhere");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "True"),
        "{conditions:?}"
    );
    let twice = api.post(&format!("{base}/pods/p/binding"), binding.to_string());
    assert_eq!(twice.status, 409, "{}", twice.text());
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let answer = made(api.post(&format!("{base}/pods/p/eviction"), eviction.to_string()));
    assert_eq!(answer["status"], "Success");
}

#[test]
fn a_service_account_has_a_token_and_no_rights() {
    let api = shared();
    let base = namespace(&api, "accounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    made(api.post(&format!("{base}/serviceaccounts"), account.to_string()));
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let answer = made(api.post(&format!("{base}/serviceaccounts/robot/token"), request.to_string()));
    let token = answer["status"]["token"].as_str().unwrap();
    assert_eq!(token.split('.').count(), 3, "{answer}");
    assert!(answer["status"]["expirationTimestamp"].is_string(), "{answer}");
    let bearer = format!("Bearer {token}");
    let with_token = |path: &str| api.anonymous("GET", path, &[("authorization", &bearer)]);
    assert_eq!(with_token("/api").status, 200, "discovery is for whoever is known");
    let refused = with_token(&format!("{base}/secrets"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    let status = refused.json();
    assert_eq!(status["reason"], "Forbidden");
    assert_eq!(
        status["message"],
        "secrets is forbidden: User \"system:serviceaccount:accounts:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"accounts\""
    );
    let mut forged = bearer.clone();
    forged.replace_range(forged.len() - 6.., "AAAAAA");
    let refused = api.anonymous("GET", &format!("{base}/secrets"), &[("authorization", &forged)]);
    assert_eq!(refused.status, 401, "{}", refused.text());
    // A token dies with its account.
    good(api.request("DELETE", &format!("{base}/serviceaccounts/robot"), &[], b""));
    eventually("the token's end", || {
        let response = with_token("/api");
        if response.status == 401 { Ok(()) } else { Err(response.text()) }
    });
}
