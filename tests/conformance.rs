//! What upstream's conformance tests ask of the API beyond the life of a kind (tests/lifecycles.rs): watches, chunks, owners,
//! accounts, what may not change. `tests/conformance.md` says which behaviour is shown where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::objects::{MERGE, delete, gone, good, namespace, patch, there};
use harness::{Cluster, Https, eventually, shared};
use serde_json::{Value, json};

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn map(name: &str, labels: Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}).to_string()
}

fn pod(name: &str, spec: Value) -> String {
    let mut all = json!({"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": all}).to_string()
}

/// The events of a watch that ends by itself after a second: type, name and version.
fn watched(api: &Https, path: &str, query: &str, after: u64) -> Vec<(String, String, u64)> {
    let path = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={after}{query}");
    let response = api.get(&path);
    assert_eq!(response.status, 200, "{}", response.text());
    let events = response.text();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .map(|event| {
            let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
            (event["type"].as_str().unwrap().to_owned(), name, version(&event["object"]))
        })
        .collect()
}

#[test]
fn a_watch_goes_on_where_the_one_before_ended_and_all_see_one_order() {
    let api = shared();
    let maps = format!("{}/configmaps", namespace(&api, "orders"));
    let start = version(&good(api.get(&maps), 200));
    let write = |round: usize| {
        for number in 0..6 {
            let label = if number % 2 == 0 { "even" } else { "odd" };
            let name = format!("m-{round}-{number}");
            good(api.post(&maps, map(&name, json!({"is": label}))), 201);
            patch(&api, &format!("{maps}/{name}"), json!({"data": {"a": "b"}}));
            if number % 3 == 0 {
                delete(&api, &format!("{maps}/{name}"));
            }
        }
    };
    write(0);
    let first = watched(&api, &maps, "", start);
    assert_eq!(first.len(), 14);
    assert!(first.is_sorted_by(|a, b| a.2 < b.2), "{first:?}");
    // From any version that was seen, while more is written, everybody sees the same from there on.
    let end = first[first.len() - 1].2;
    let (rest, others) = std::thread::scope(|scope| {
        let watch = |after: u64, query: &'static str| {
            let (api, maps) = (&api, &maps);
            scope.spawn(move || watched(api, maps, query, after))
        };
        let rest = watch(end, "");
        let others: Vec<_> = first.iter().map(|event| (event.2, watch(event.2, ""))).collect();
        write(1);
        let others: Vec<_> =
            others.into_iter().map(|(after, watch)| (after, watch.join().unwrap())).collect();
        (rest.join().unwrap(), others)
    });
    let all: Vec<_> = first.iter().chain(&rest).cloned().collect();
    for (after, seen) in others {
        let wanted: Vec<_> = all.iter().filter(|event| event.2 > after).cloned().collect();
        let common = seen.len().min(wanted.len());
        assert_eq!(seen[..common], wanted[..common], "after {after}");
        assert!(seen.len() >= first.iter().filter(|event| event.2 > after).count());
    }
    // Selections of the same writes.
    for (query, wanted) in [
        ("&labelSelector=is%3Deven", vec!["even"]),
        ("&labelSelector=is%3Dodd", vec!["odd"]),
        ("&labelSelector=is%20in%20(even,odd)", vec!["even", "odd"]),
        ("&labelSelector=is%3Dnone", vec![]),
    ] {
        let is = |name: &str| if name.ends_with(['0', '2', '4']) { "even" } else { "odd" };
        let wanted: Vec<_> = first.iter().filter(|event| wanted.contains(&is(&event.1))).collect();
        let seen = watched(&api, &maps, query, start);
        let seen: Vec<_> = seen.iter().filter(|event| event.2 <= end).collect();
        assert_eq!(seen, wanted, "{query}");
    }
}

#[test]
fn a_list_comes_in_chunks_of_one_version() {
    let api = shared();
    let templates = format!("{}/podtemplates", namespace(&api, "chunks"));
    for number in 0..12 {
        let body = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": format!("t-{number:02}")},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        good(api.post(&templates, body.to_string()), 201);
    }
    let mut page = good(api.get(&format!("{templates}?limit=5")), 200);
    let (first, mut sizes) = (version(&page), vec![5]);
    assert_eq!(page["metadata"]["remainingItemCount"], 7);
    while let Some(token) = page["metadata"]["continue"].as_str().map(str::to_owned) {
        page = good(api.get(&format!("{templates}?limit=5&continue={token}")), 200);
        assert_eq!(version(&page), first);
        sizes.push(page["items"].as_array().unwrap().len());
    }
    assert_eq!(sizes, [5, 5, 2]);
    assert!(page["metadata"].get("remainingItemCount").is_none(), "{}", page["metadata"]);
    assert_eq!(good(api.get(&templates), 200)["items"].as_array().unwrap().len(), 12);
}

#[test]
fn a_list_whose_state_is_gone_goes_on_by_a_token_that_says_so() {
    let mut cluster = Cluster::start();
    let maps = "/api/v1/namespaces/default/configmaps";
    let api = cluster.https();
    for number in 0..12 {
        good(api.post(maps, map(&format!("t-{number:02}"), json!({"mine": "yes"}))), 201);
    }
    let selected = format!("{maps}?limit=5&fieldSelector=metadata.name!%3Dkube-root-ca.crt");
    let page = good(api.get(&selected), 200);
    let first = version(&page);
    let old = page["metadata"]["continue"].as_str().unwrap();
    good(api.post(maps, map("t-05-later", json!({"mine": "yes"}))), 201);
    // What was is forgotten with the process; what is, is kept.
    cluster.restart();
    let api = cluster.https();
    let expired = good(api.get(&format!("{selected}&continue={old}")), 410);
    assert_eq!(expired["reason"], "Expired");
    let onward = expired["metadata"]["continue"].as_str().unwrap();
    let rest = good(api.get(&format!("{selected}&continue={onward}")), 200);
    let names: Vec<_> =
        rest["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["t-05", "t-05-later", "t-06", "t-07", "t-08"]);
    assert!(version(&rest) > first);
    let token = rest["metadata"]["continue"].as_str().unwrap();
    let last = good(api.get(&format!("{selected}&continue={token}")), 200);
    assert_eq!((version(&last), last["items"].as_array().unwrap().len()), (version(&rest), 3));
}

#[test]
fn what_has_no_rows_makes_no_table() {
    let api = shared();
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let headers =
        [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let refused = good(api.request("POST", path, &headers, review.to_string().as_bytes()), 406);
    assert_eq!(refused["reason"], "NotAcceptable");
}

/// A controller whose template's pods nobody schedules.
fn controller(api: &Https, base: &str, name: &str, replicas: u32) -> Value {
    let template = json!({"metadata": {"labels": {"by": name}}, "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    let body = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"by": name}, "template": template}});
    let made = good(api.post(&format!("{base}/replicationcontrollers"), body.to_string()), 201);
    eventually(&format!("{replicas} pods of {name}"), || {
        let count = pods_of(api, base, name).len();
        if count == replicas as usize { Ok(()) } else { Err(count.to_string()) }
    });
    made
}

fn pods_of(api: &Https, base: &str, name: &str) -> Vec<Value> {
    good(api.get(&format!("{base}/pods?labelSelector=by%3D{name}")), 200)["items"].as_array().unwrap().clone()
}

#[test]
fn dependents_go_stay_or_are_waited_for_as_the_delete_says() {
    let api = shared();
    let base = namespace(&api, "garbage");
    let remove = |path: &str, policy: &str| {
        delete(&api, &format!("{path}?propagationPolicy={policy}"));
    };
    let path = |name: &str| format!("{base}/replicationcontrollers/{name}");

    controller(&api, &base, "background", 2);
    remove(&path("background"), "Background");
    eventually("no pods", || {
        if pods_of(&api, &base, "background").is_empty() { Ok(()) } else { Err("some".into()) }
    });

    controller(&api, &base, "orphans", 3);
    remove(&path("orphans"), "Orphan");
    gone(&api, &path("orphans"));
    let left = pods_of(&api, &base, "orphans");
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|pod| pod["metadata"].get("ownerReferences").is_none()
        && pod["metadata"].get("deletionTimestamp").is_none()));

    // It stays until the last of its pods is gone: one has a finalizer.
    controller(&api, &base, "foreground", 3);
    let held = pods_of(&api, &base, "foreground")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let held = format!("{base}/pods/{held}");
    patch(&api, &held, json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    remove(&path("foreground"), "Foreground");
    eventually("one pod", || match pods_of(&api, &base, "foreground").len() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    let waiting = good(api.get(&path("foreground")), 200);
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    patch(&api, &held, json!({"metadata": {"finalizers": null}}));
    gone(&api, &path("foreground"));
    gone(&api, &held);

    // Half of the pods have another owner, who stays: so do they.
    let other = controller(&api, &base, "other", 0);
    controller(&api, &base, "first", 4);
    for pod in pods_of(&api, &base, "first").iter().take(2) {
        let mut owners = pod["metadata"]["ownerReferences"].clone();
        owners.as_array_mut().unwrap().push(json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "other", "uid": other["metadata"]["uid"]}));
        patch(
            &api,
            &format!("{base}/pods/{}", pod["metadata"]["name"].as_str().unwrap()),
            json!({"metadata": {"ownerReferences": owners}}),
        );
    }
    remove(&path("first"), "Foreground");
    gone(&api, &path("first"));
    let left = pods_of(&api, &base, "first");
    assert_eq!(left.len(), 2);
    for pod in left {
        let owners = pod["metadata"]["ownerReferences"].as_array().unwrap();
        assert!(
            owners.len() == 1
                && owners[0]["name"] == "other"
                && pod["metadata"].get("deletionTimestamp").is_none()
        );
    }

    // Three that own one another in a circle.
    let uid = |name: &str| good(api.get(&format!("{base}/pods/{name}")), 200)["metadata"]["uid"].clone();
    ["c1", "c2", "c3"]
        .iter()
        .for_each(|name| drop(good(api.post(&format!("{base}/pods"), pod(name, json!({}))), 201)));
    for (of, owner) in [("c1", "c3"), ("c2", "c1"), ("c3", "c2")] {
        let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": uid(owner), "controller": true, "blockOwnerDeletion": true}]);
        patch(&api, &format!("{base}/pods/{of}"), json!({"metadata": {"ownerReferences": owners}}));
    }
    remove(&format!("{base}/pods/c1"), "Foreground");
    ["c1", "c2", "c3"].iter().for_each(|name| gone(&api, &format!("{base}/pods/{name}")));
}

#[test]
fn the_replica_set_of_a_deployment_goes_or_stays_with_its_pods() {
    let api = shared();
    let base = namespace(&api, "garbage-apps");
    let apps = base.replace("/api/v1", "/apis/apps/v1");
    for policy in ["Background", "Orphan"] {
        let name = policy.to_lowercase();
        let template = json!({"metadata": {"labels": {"by": name}}, "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
        let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"by": name}}, "template": template}});
        good(api.post(&format!("{apps}/deployments"), body.to_string()), 201);
        eventually("two pods", || match pods_of(&api, &base, &name).len() {
            2 => Ok(()),
            other => Err(other.to_string()),
        });
        delete(&api, &format!("{apps}/deployments/{name}?propagationPolicy={policy}"));
        gone(&api, &format!("{apps}/deployments/{name}"));
        let sets = || {
            good(api.get(&format!("{apps}/replicasets?labelSelector=by%3D{name}")), 200)["items"]
                .as_array()
                .unwrap()
                .clone()
        };
        if policy == "Orphan" {
            let sets = sets();
            assert!(sets.len() == 1 && sets[0]["metadata"].get("ownerReferences").is_none(), "{sets:?}");
            assert_eq!(pods_of(&api, &base, &name).len(), 2);
        } else {
            eventually("nothing left", || match (sets().len(), pods_of(&api, &base, &name).len()) {
                (0, 0) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }
}

#[test]
fn an_account_says_whether_its_pods_get_its_token() {
    let api = shared();
    let base = namespace(&api, "mounts");
    for (account, says) in [("silent", Value::Null), ("gives", json!(true)), ("keeps", json!(false))] {
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}, "automountServiceAccountToken": says});
        good(api.post(&format!("{base}/serviceaccounts"), body.to_string()), 201);
        for (index, asks) in [Value::Null, json!(true), json!(false)].into_iter().enumerate() {
            let spec = json!({"serviceAccountName": account, "automountServiceAccountToken": asks});
            let made = good(api.post(&format!("{base}/pods"), pod(&format!("{account}-{index}"), spec)), 201);
            let mounts = made["spec"]["containers"][0]["volumeMounts"].as_array().map_or(0, Vec::len);
            // The pod decides where it says anything, else its account.
            let wanted = asks.as_bool().or(says.as_bool()).unwrap_or(true);
            assert_eq!(mounts, usize::from(wanted), "{account} {asks}");
        }
    }
    // The CA's certificate is in every namespace, comes back and is put right.
    let root = format!("{base}/configmaps/kube-root-ca.crt");
    eventually("the root CA", || there(&api, &root));
    let right = good(api.get(&root), 200)["data"].clone();
    let is_right = || {
        let answer = api.get(&root);
        if answer.status == 200 && answer.json()["data"] == right { Ok(()) } else { Err(answer.text()) }
    };
    patch(&api, &root, json!({"data": {"ca.crt": "nothing"}}));
    eventually("the root CA to be right again", is_right);
    delete(&api, &root);
    eventually("the root CA to be back", is_right);
}

#[test]
fn a_tokens_issuer_is_discovered() {
    let api = shared();
    let base = namespace(&api, "issuer");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = good(api.post(&format!("{base}/serviceaccounts/default/token"), request.to_string()), 201);
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let part = |index: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap())
            .unwrap()
    };
    let bearer = format!("Bearer {token}");
    let with_token = |path: &str| good(api.anonymous("GET", path, &[("authorization", &bearer)]), 200);
    let document = with_token("/.well-known/openid-configuration");
    assert_eq!(document["issuer"], part(1)["iss"]);
    assert_eq!(document["id_token_signing_alg_values_supported"], json!([part(0)["alg"]]));
    let keys = document["jwks_uri"].as_str().unwrap();
    let keys = with_token(&keys[keys.find("/openid").unwrap()..]);
    let known = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .any(|key| key["kid"] == part(0)["kid"] && key["use"] == "sig");
    assert!(known, "{keys} has not {}", part(0));
}

#[test]
fn reviews_say_what_a_subject_meets() {
    let api = shared();
    let base = namespace(&api, "reviews");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    good(api.post(&format!("{base}/serviceaccounts"), account.to_string()), 201);
    let rbac = base.replace("/api/v1", "/apis/rbac.authorization.k8s.io/v1");
    let binding = json!({"metadata": {"name": "view"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "reviews"}]});
    good(api.post(&format!("{rbac}/rolebindings"), binding.to_string()), 201);
    let user = "system:serviceaccount:reviews:robot";
    let headers = [("impersonate-user", user), ("impersonate-group", "system:serviceaccounts")];
    for (verb, resource, group, path) in [
        ("list", "pods", "", format!("{base}/pods")),
        ("list", "secrets", "", format!("{base}/secrets")),
        ("list", "deployments", "apps", base.replace("/api/v1", "/apis/apps/v1") + "/deployments"),
    ] {
        let attributes = json!({"namespace": "reviews", "verb": verb, "resource": resource, "group": group});
        let spec =
            json!({"user": user, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes});
        let met = api.request("GET", &path, &headers, b"").status == 200;
        assert_eq!(met, resource != "secrets", "{resource}");
        for (review, kind) in [
            ("/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(), "SubjectAccessReview"),
            (
                "/apis/authorization.k8s.io/v1/namespaces/reviews/localsubjectaccessreviews".to_owned(),
                "LocalSubjectAccessReview",
            ),
        ] {
            let mut body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
            if kind.starts_with("Local") {
                body["metadata"] = json!({"namespace": "reviews"});
            }
            let said = good(api.post(&review, body.to_string()), 201);
            assert_eq!(said["status"]["allowed"], met, "{kind} {resource}");
        }
    }
}

#[test]
fn what_may_not_change_does_not() {
    let api = shared();
    let base = namespace(&api, "fixed");
    for (resource, kind, value) in [("configmaps", "ConfigMap", "x"), ("secrets", "Secret", "eA==")] {
        let path = format!("{base}/{resource}");
        let empty_key =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "empty"}, "data": {"": value}});
        assert_eq!(api.post(&path, empty_key.to_string()).status, 422);
        good(
            api.post(&path, json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}}).to_string()),
            201,
        );
        let one = format!("{path}/a");
        patch(&api, &one, json!({"data": {"k": value}}));
        patch(&api, &one, json!({"immutable": true}));
        for refused in [
            json!({"data": {"k": "eQ=="}}),
            json!({"data": {"l": value}}),
            json!({"immutable": false}),
            json!({"immutable": null}),
        ] {
            let answer = api.request("PATCH", &one, MERGE, refused.to_string().as_bytes());
            assert_eq!(answer.status, 422, "{kind} {refused}: {}", answer.text());
        }
        patch(&api, &one, json!({"metadata": {"labels": {"still": "mine"}}}));
        delete(&api, &one);
        gone(&api, &one);
    }
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    good(api.post(classes, json!({"metadata": {"name": "fixed"}, "value": 7}).to_string()), 201);
    let one = format!("{classes}/fixed");
    let listed = good(api.get(classes), 200);
    for (system, value) in
        [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
    {
        let there = |class: &Value| class["metadata"]["name"] == system && class["value"] == value;
        assert!(listed["items"].as_array().unwrap().iter().any(there), "{listed}");
        let kept = good(api.request("DELETE", &format!("{classes}/{system}"), &[], b""), 403);
        assert!(
            kept["message"]
                .as_str()
                .unwrap()
                .ends_with("this is a system priority class and cannot be deleted"),
            "{kept}"
        );
    }
    assert_eq!(patch(&api, &one, json!({"description": "said"}))["description"], "said");
    for refused in [json!({"value": 8}), json!({"preemptionPolicy": "Never"})] {
        assert_eq!(
            api.request("PATCH", &one, MERGE, refused.to_string().as_bytes()).status,
            422,
            "{refused}"
        );
        let mut whole = good(api.get(&one), 200);
        whole.as_object_mut().unwrap().extend(refused.as_object().unwrap().clone());
        assert_eq!(api.put(&one, &whole).status, 422, "{refused}");
    }
    delete(&api, &one);
    // A class of runtimes that is not there, or not any more, takes no pod.
    let runtimes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = json!({"metadata": {"name": "heavy"}, "handler": "h", "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}});
    let asks = || pod("p", json!({"runtimeClassName": "heavy"}));
    let pods = format!("{base}/pods");
    assert_eq!(api.post(&pods, asks()).status, 403);
    good(api.post(runtimes, class.to_string()), 201);
    let made = eventually("the class to be known", || match api.post(&pods, asks()) {
        made if made.status == 201 => Ok(made.json()),
        refused => Err(refused.text()),
    });
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m", "memory": "1Mi"}));
    delete(&api, &format!("{pods}/p"));
    delete(&api, &format!("{runtimes}/heavy"));
    assert_eq!(api.post(&pods, asks()).status, 403);
}

#[test]
fn a_namespace_is_labelled_updated_and_keeps_its_status_apart() {
    let api = shared();
    let base = namespace(&api, "changing");
    assert_eq!(
        patch(&api, &base, json!({"metadata": {"labels": {"a": "b"}}}))["metadata"]["labels"]["a"],
        "b"
    );
    let mut whole = good(api.get(&base), 200);
    whole["metadata"]["labels"]["updated"] = json!("yes");
    assert_eq!(good(api.put(&base, &whole), 200)["metadata"]["labels"]["updated"], "yes");
    let status = format!("{base}/status");
    assert_eq!(good(api.get(&status), 200)["status"]["phase"], "Active");
    let condition = json!({"type": "Mine", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(
        patch(&api, &status, json!({"status": {"conditions": [condition]}}))["status"]["conditions"],
        json!([condition])
    );
    let mut whole = good(api.get(&status), 200);
    whole["status"]["conditions"][0]["message"] = json!("n");
    assert_eq!(good(api.put(&status, &whole), 200)["status"]["conditions"][0]["message"], "n");
    // A finalizer of somebody's own comes and goes.
    for finalizers in [json!(["kubernetes", "example.com/fake"]), json!(["kubernetes"])] {
        let mut whole = good(api.get(&base), 200);
        whole["spec"]["finalizers"] = finalizers.clone();
        good(api.put(&format!("{base}/finalize"), &whole), 200);
        assert_eq!(good(api.get(&base), 200)["spec"]["finalizers"], finalizers);
    }
    // Whatever is in it goes with it.
    good(api.post(&format!("{base}/pods"), pod("p", json!({}))), 201);
    good(
        api.post(
            &format!("{base}/services"),
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}).to_string(),
        ),
        201,
    );
    delete(&api, &base);
    gone(&api, &base);
    assert!(good(api.get(&format!("{base}/pods")), 200)["items"].as_array().unwrap().is_empty());
    assert!(good(api.get(&format!("{base}/services")), 200)["items"].as_array().unwrap().is_empty());
}
