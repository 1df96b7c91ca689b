//! kill -9 at the worst moment: what was acknowledged is there afterwards, once, and pods run again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use harness::{Cluster, eventually, http_get};
use serde_json::json;

const CREATES: usize = 1000;
const WRITERS: usize = 8;

#[test]
fn kill_9_amid_a_thousand_creates_loses_nothing_and_doubles_nothing() {
    let mut cluster = Cluster::start_with_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("wait --for=condition=Available deployment/hello-http --timeout=60s");
    let uids = |cluster: &Cluster| {
        let mut uids: Vec<_> = cluster
            .kubectl("get pods,deployments,replicasets,services -o jsonpath={.items[*].metadata.uid}")
            .split(' ')
            .map(str::to_owned)
            .collect();
        uids.sort();
        uids
    };
    let before = uids(&cluster);

    // Each write that was answered 201, with the uid and resourceVersion that the answer promised.
    let acknowledged: Arc<Mutex<BTreeMap<String, (String, u64)>>> = Arc::default();
    let answered = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (https, acknowledged, answered) = (cluster.https(), acknowledged.clone(), answered.clone());
            std::thread::spawn(move || {
                for number in (writer..CREATES).step_by(WRITERS) {
                    let name = format!("write-{number}");
                    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
                        "data": {"number": number.to_string()}});
                    let path = "/api/v1/namespaces/default/configmaps";
                    let Ok(response) = https.try_request("POST", path, body.to_string().as_bytes()) else {
                        return;
                    };
                    assert_eq!(response.status, 201, "{}", response.text());
                    let metadata = &response.json()["metadata"];
                    let version = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
                    let uid = metadata["uid"].as_str().unwrap().to_owned();
                    acknowledged.lock().unwrap().insert(name, (uid, version));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < CREATES / 3 {
        std::thread::yield_now();
    }
    cluster.process().kill();
    for writer in writers {
        writer.join().unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() < CREATES, "all were written before the kill");

    cluster.restart();
    let list = cluster.https().get("/api/v1/namespaces/default/configmaps").json();
    let items = list["items"].as_array().unwrap();
    let mut found: BTreeMap<&str, &serde_json::Value> = BTreeMap::new();
    for item in items {
        let name = item["metadata"]["name"].as_str().unwrap();
        assert!(found.insert(name, item).is_none(), "{name} is there twice");
    }
    for (name, (uid, version)) in &acknowledged {
        let item = found.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
        assert_eq!(item["metadata"]["uid"], *uid, "{name}");
        assert_eq!(item["metadata"]["resourceVersion"], version.to_string(), "{name}");
        assert_eq!(item["data"]["number"], name.trim_start_matches("write-"));
    }
    let highest = acknowledged.values().map(|(_, version)| *version).max().unwrap();
    let now: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(now >= highest, "resourceVersion went back: {now} after {highest}");

    // The same objects, none anew, and they run.
    assert_eq!(uids(&cluster), before);
    eventually("pods that run again", || {
        let ready = cluster.field("deployment/hello-http", ".status.readyReplicas");
        let address = cluster.field("service/hello-http", ".spec.clusterIP");
        let (status, body) = http_get(&format!("{address}:8080"), "/")?;
        if ready == "2" && status == 200 { Ok(()) } else { Err(format!("{ready} ready; {status} {body}")) }
    });
    assert_eq!(uids(&cluster), before, "pods were made anew");

    // And it takes writes: the rest of the thousand.
    for number in 0..CREATES {
        let name = format!("write-{number}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let status = cluster.https().post("/api/v1/namespaces/default/configmaps", body.to_string()).status;
        let expected: &[u16] = if acknowledged.contains_key(&name) { &[409] } else { &[201, 409] };
        assert!(expected.contains(&status), "{name}: {status}");
    }
    let list = cluster.https().get("/api/v1/namespaces/default/configmaps").json();
    let written = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["metadata"]["name"].as_str().unwrap().starts_with("write-"))
        .count();
    assert_eq!(written, CREATES);
}

#[test]
fn ten_kills_in_a_row_are_survived() {
    let mut cluster = Cluster::start_with_samples();
    for round in 0..10 {
        cluster.kubectl(&format!("create configmap round-{round} --from-literal=a=b"));
        cluster.process().kill();
        cluster.restart();
    }
    let names = cluster.kubectl("get configmaps -o name");
    assert_eq!(names.matches("configmap/round-").count(), 10, "{names}");
    assert_eq!(cluster.kubectl("get nodes -o name").lines().count(), 1);
}

#[test]
fn a_clean_stop_keeps_everything_and_pods_come_back() {
    let mut cluster = Cluster::start_with_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("wait --for=condition=Available deployment/hello-http --timeout=60s");
    let pods = cluster.kubectl("get pods -o name");
    cluster.restart();
    assert_eq!(cluster.kubectl("get pods -o name"), pods);
    eventually("an answer after the restart", || {
        let address = cluster.field("service/hello-http", ".spec.clusterIP");
        match http_get(&format!("{address}:8080"), "/")? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(cluster.kubectl("get pods -o name"), pods, "pods were made anew");
}
