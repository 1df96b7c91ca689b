//! Quotas as the API shows them: what they count of what comes and goes, in which scopes, and how their status follows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::objects::{MERGE, delete, gone, good, namespace, patch};
use harness::{Https, eventually, shared};
use serde_json::{Value, json};

fn pod(name: &str, spec: Value) -> String {
    let mut all = json!({"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": all}).to_string()
}

fn used(api: &Https, base: &str, quota: &str, wanted: Value) {
    eventually(&format!("{quota} to count {wanted}"), || {
        let used = good(api.get(&format!("{base}/resourcequotas/{quota}")), 200)["status"]["used"].clone();
        let differs = wanted.as_object().unwrap().iter().any(|(name, value)| used[name] != *value);
        if differs { Err(used.to_string()) } else { Ok(()) }
    });
}

fn quota(api: &Https, base: &str, name: &str, hard: Value, scopes: Value) {
    let body = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name, "labels": {"mine": "yes"}},
        "spec": {"hard": hard, "scopes": scopes}});
    good(api.post(&format!("{base}/resourcequotas"), body.to_string()), 201);
}

#[test]
fn quotas_count_what_comes_and_goes() {
    let api = shared();
    let base = namespace(&api, "counted");
    let counts = ["configmaps", "secrets", "services", "replicationcontrollers", "persistentvolumeclaims"];
    let mut hard = json!({"count/replicasets.apps": "5", "pods": "5", "requests.cpu": "1", "requests.memory": "1Gi",
        "requests.ephemeral-storage": "1Gi", "requests.example.com/dongle": "3", "services.nodeports": "1"});
    counts.iter().for_each(|name| hard[name] = json!("10"));
    quota(&api, &base, "all", hard, Value::Null);
    used(&api, &base, "all", json!({"pods": "0", "configmaps": "1", "requests.cpu": "0"}));
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let named = |more: Value| {
        let mut object = json!({"metadata": {"name": "one"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object.to_string()
    };
    let apps = base.replace("/api/v1", "/apis/apps/v1");
    for (path, body, name, more) in [
        (format!("{base}/configmaps"), named(json!({})), "configmaps", "2"),
        (format!("{base}/secrets"), named(json!({})), "secrets", "1"),
        (
            format!("{base}/services"),
            named(json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})),
            "services",
            "1",
        ),
        (
            format!("{base}/replicationcontrollers"),
            named(json!({"spec": {"replicas": 0, "selector": {"a": "b"}, "template": template}})),
            "replicationcontrollers",
            "1",
        ),
        (
            format!("{apps}/replicasets"),
            named(
                json!({"spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}}),
            ),
            "count/replicasets.apps",
            "1",
        ),
        (
            format!("{base}/persistentvolumeclaims"),
            named(
                json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}),
            ),
            "persistentvolumeclaims",
            "1",
        ),
    ] {
        good(api.post(&path, body), 201);
        used(&api, &base, "all", json!({ name: more }));
        if name == "services" {
            used(&api, &base, "all", json!({"services.nodeports": "1"}));
            let second =
                json!({"metadata": {"name": "two"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            let refused = good(api.post(&path, second.to_string()), 403);
            assert!(refused["message"].as_str().unwrap().contains("exceeded quota: all"), "{refused}");
        }
        delete(&api, &format!("{path}/one"));
        let before = if name == "configmaps" { "1" } else { "0" };
        used(&api, &base, "all", json!({ name: before }));
    }
    let asking = |cpu: &str| {
        let resources = json!({"requests": {"cpu": cpu, "memory": "100Mi", "ephemeral-storage": "100Mi", "example.com/dongle": "2"},
            "limits": {"example.com/dongle": "2"}});
        json!({"containers": [{"name": "c", "image": "i", "resources": resources}]})
    };
    let pods = format!("{base}/pods");
    good(api.post(&pods, pod("p", asking("600m"))), 201);
    let wanted = json!({"pods": "1", "requests.cpu": "600m", "requests.memory": "100Mi", "requests.ephemeral-storage": "100Mi",
        "requests.example.com/dongle": "2"});
    used(&api, &base, "all", wanted);
    for refused in [pod("q", asking("300m")), pod("q", json!({}))] {
        let refused = good(api.post(&pods, refused), 403);
        assert!(refused["message"].as_str().unwrap().contains(" quota: all"), "{refused}");
    }
    let more = json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "700m"}}}]}});
    let unchanged = api.request("PATCH", &format!("{pods}/p"), MERGE, more.to_string().as_bytes());
    assert_eq!(unchanged.status, 422, "{}", unchanged.text());
    delete(&api, &format!("{pods}/p"));
    used(&api, &base, "all", json!({"pods": "0", "requests.cpu": "0", "requests.example.com/dongle": "0"}));
}

#[test]
fn quotas_of_a_scope_count_the_pods_in_it() {
    let api = shared();
    let base = namespace(&api, "scopes");
    let pods = format!("{base}/pods");
    let hard = json!({"pods": "5", "requests.cpu": "1"});
    quota(&api, &base, "besteffort", json!({"pods": "5"}), json!(["BestEffort"]));
    quota(&api, &base, "not-besteffort", json!({"pods": "5"}), json!(["NotBestEffort"]));
    quota(&api, &base, "terminating", hard.clone(), json!(["Terminating"]));
    quota(&api, &base, "not-terminating", hard, json!(["NotTerminating"]));
    for name in ["besteffort", "not-besteffort", "terminating", "not-terminating"] {
        used(&api, &base, name, json!({"pods": "0"}));
    }
    let asks =
        json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]});
    let with = |mut spec: Value, seconds: Option<i64>| {
        if let Some(seconds) = seconds {
            spec["activeDeadlineSeconds"] = json!(seconds);
        }
        spec
    };
    // A quota on CPU in force for a pod takes none that asks for none.
    let refused = good(api.post(&pods, pod("b", json!({}))), 403);
    assert!(refused["message"].as_str().unwrap().contains("must specify requests.cpu"), "{refused}");
    for (spec, counted, idle) in [
        (with(asks.clone(), None), ["not-besteffort", "not-terminating"], ["besteffort", "terminating"]),
        (
            with(asks.clone(), Some(3600)),
            ["not-besteffort", "terminating"],
            ["besteffort", "not-terminating"],
        ),
    ] {
        good(api.post(&pods, pod("p", spec)), 201);
        counted.iter().for_each(|name| used(&api, &base, name, json!({"pods": "1"})));
        idle.iter().for_each(|name| used(&api, &base, name, json!({"pods": "0"})));
        delete(&api, &format!("{pods}/p"));
        counted.iter().for_each(|name| used(&api, &base, name, json!({"pods": "0"})));
    }
    for name in ["terminating", "not-terminating"] {
        delete(&api, &format!("{base}/resourcequotas/{name}"));
    }
    eventually("the quotas' end", || {
        let answer = api.post(&pods, pod("b", json!({})));
        if answer.status == 201 { Ok(()) } else { Err(answer.text()) }
    });
    used(&api, &base, "besteffort", json!({"pods": "1"}));
    used(&api, &base, "not-besteffort", json!({"pods": "0"}));
    delete(&api, &format!("{pods}/b"));
    used(&api, &base, "besteffort", json!({"pods": "0"}));
}

#[test]
fn a_quota_is_changed_and_its_status_follows() {
    let api = shared();
    let base = namespace(&api, "quota-life");
    quota(&api, &base, "q", json!({"cpu": "1", "memory": "500Mi"}), Value::Null);
    let one = format!("{base}/resourcequotas/q");
    let hard = |wanted: Value| {
        eventually(&format!("hard {wanted}"), || {
            let hard = good(api.get(&format!("{one}/status")), 200)["status"]["hard"].clone();
            if hard == wanted { Ok(()) } else { Err(hard.to_string()) }
        });
    };
    hard(json!({"cpu": "1", "memory": "500Mi"}));
    patch(&api, &one, json!({"spec": {"hard": {"cpu": "2", "memory": "1Gi"}}}));
    hard(json!({"cpu": "2", "memory": "1Gi"}));
    // What is written into the status leaves the spec alone; the controller goes by the spec when that changes.
    let written = patch(
        &api,
        &format!("{one}/status"),
        json!({"status": {"hard": {"cpu": "7"}}, "spec": {"hard": {"cpu": "8"}}}),
    );
    assert_eq!(
        (&written["status"]["hard"]["cpu"], &written["spec"]["hard"]["cpu"]),
        (&json!("7"), &json!("2"))
    );
    patch(&api, &one, json!({"spec": {"hard": {"cpu": "3"}}}));
    hard(json!({"cpu": "3", "memory": "1Gi"}));
    assert_eq!(
        good(
            api.get(
                "/api/v1/resourcequotas?labelSelector=mine&fieldSelector=metadata.namespace%3Dquota-life"
            ),
            200
        )["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    delete(&api, &format!("{base}/resourcequotas?labelSelector=mine"));
    gone(&api, &one);
}
