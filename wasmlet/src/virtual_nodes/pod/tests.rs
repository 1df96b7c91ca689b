//! A virtual pod's life as time passes, step by step.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

const START: i64 = 1_767_225_600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// A pod as JSON: annotations without their prefix.
fn document(annotations: &[(&str, &str)], policy: &str, owner: &str) -> Value {
    let annotations: BTreeMap<String, &str> =
        annotations.iter().map(|(k, v)| (format!("{}{k}", super::super::PREFIX), *v)).collect();
    json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1", "annotations": annotations,
            "ownerReferences": [{"apiVersion": "v1", "kind": owner, "name": "o", "uid": "o"}]},
        "spec": {"nodeName": "n", "restartPolicy": policy,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
    })
}

struct Played {
    document: Value,
    pod: VirtualPod,
}

impl Played {
    fn new(document: Value) -> Self {
        let (object, typed) = parse(&document);
        let (behaviour, complaints) = Behaviour::of(&typed, &BTreeMap::new());
        assert!(complaints.is_empty(), "{complaints:?}");
        Self { pod: VirtualPod::new(&object, &typed, "n".into(), "127.0.0.1", behaviour, at(0)), document }
    }

    fn change(&mut self, change: impl FnOnce(&mut Value), now: i64) {
        change(&mut self.document);
        let (object, typed) = parse(&self.document);
        let behaviour = Behaviour::of(&typed, &BTreeMap::new()).0;
        self.pod.observe(&object, &typed, "127.0.0.1", behaviour, at(now));
    }

    fn next(&mut self, now: i64) -> Next {
        self.pod.next(at(now), || Ok(Ipv4Addr::new(10, 0, 0, 2)), Some(Ipv4Addr::LOCALHOST))
    }

    /// The status to be written, taken as written.
    fn status(&mut self, now: i64) -> Option<Value> {
        match self.next(now).write? {
            Write::Status { status, hash } => {
                self.pod.written(hash);
                self.document["status"] = status.clone();
                Some(status)
            }
            Write::Remove => Some(json!("removed")),
        }
    }

    /// The phase, whether it is ready, and when to look again.
    fn shown(&mut self, now: i64) -> (String, bool, Option<i64>) {
        let next = self.next(now);
        if let Some(Write::Status { status, hash }) = next.write {
            self.pod.written(hash);
            self.document["status"] = status;
        }
        let status = &self.document["status"];
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        let wake = next.wake.map(|at| at.as_second() - START);
        (status["phase"].as_str().unwrap_or_default().to_owned(), ready, wake)
    }
}

fn parse(document: &Value) -> (Arc<Object>, Pod) {
    let object = Object::parse(document.to_string().into(), &[]).unwrap();
    let typed = object.decode().unwrap();
    (object, typed)
}

fn phase(name: &str, ready: bool, wake: Option<i64>) -> (String, bool, Option<i64>) {
    (name.to_owned(), ready, wake)
}

#[test]
fn a_pod_runs_and_is_ready_with_one_write() {
    let mut played = Played::new(document(&[], "Always", "ReplicaSet"));
    let status = played.status(0).unwrap();
    assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("10.0.0.2")));
    assert_eq!(status["containerStatuses"][0]["ready"], json!(true));
    assert_eq!(status["startTime"], "2026-01-01T00:00:00Z");
    assert_eq!(played.status(1), None, "nothing more to say");
    assert_eq!(played.shown(1), phase("Running", true, None));
}

#[test]
fn delays_pass_in_turn() {
    let pairs = [("start-delay", "2s"), ("ready-delay", "3s"), ("run-duration", "10s")];
    let mut played = Played::new(document(&pairs, "Never", "Job"));
    assert_eq!(played.shown(0), phase("Pending", false, Some(2)));
    assert_eq!(played.shown(1), phase("Pending", false, Some(2)));
    assert_eq!(played.shown(2), phase("Running", false, Some(5)));
    assert_eq!(played.shown(5), phase("Running", true, Some(12)));
    assert_eq!(played.shown(12), phase("Succeeded", false, None));
    let ended = &played.document["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(0), &json!("Completed")));
}

#[test]
fn a_jobs_pod_succeeds_and_a_failing_one_fails() {
    assert_eq!(Played::new(document(&[], "Never", "Job")).shown(0), phase("Succeeded", false, None));
    let failing = document(&[("exit-code", "3")], "Never", "Job");
    let mut played = Played::new(failing);
    assert_eq!(played.shown(0), phase("Failed", false, None));
    assert_eq!(
        played.document["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        json!(3)
    );
}

#[test]
fn crashes_back_off_as_upstream() {
    let mut played = Played::new(document(&[("failure", "CrashLoopBackOff")], "Always", "ReplicaSet"));
    // The first restart is at once, the second after ten seconds.
    let (_, ready, wake) = played.shown(0);
    assert!(!ready);
    assert_eq!(wake, Some(10));
    let container = &played.document["status"]["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(
        (&container["restartCount"], &container["lastState"]["terminated"]["exitCode"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(played.shown(10).2, Some(30));
    assert_eq!(played.document["status"]["containerStatuses"][0]["restartCount"], json!(2));
    let mut killed = Played::new(document(&[("failure", "OOMKilled")], "Never", "ReplicaSet"));
    assert_eq!(killed.shown(0).0, "Failed");
    let ended = &killed.document["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("OOMKilled")));
}

#[test]
fn an_image_that_is_missing_keeps_the_pod_pending() {
    let mut played = Played::new(document(&[("failure", "ImagePullBackOff")], "Always", "ReplicaSet"));
    let reason = |played: &Played| {
        played.document["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone()
    };
    assert_eq!(played.shown(0), phase("Pending", false, Some(1)));
    assert_eq!(reason(&played), "ErrImagePull");
    assert_eq!(played.shown(1), phase("Pending", false, Some(10)));
    assert_eq!(reason(&played), "ImagePullBackOff");
    played.change(|d| d["metadata"]["annotations"] = json!({}), 2);
    assert_eq!(played.shown(10), phase("Running", true, None), "once it is there");
}

#[test]
fn an_evicted_pod_has_failed() {
    let mut played = Played::new(document(&[("failure", "Evicted")], "Always", "ReplicaSet"));
    assert_eq!(played.shown(0), phase("Failed", false, None));
    assert_eq!(played.document["status"]["reason"], "Evicted");
}

#[test]
fn a_deleted_pod_goes_and_says_how_it_ended_where_somebody_looks() {
    let delete = |grace: i64| {
        move |d: &mut Value| {
            d["metadata"]["deletionTimestamp"] = json!(at(100 + grace).to_string());
            d["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        }
    };
    let mut plain = Played::new(document(&[], "Always", "ReplicaSet"));
    plain.shown(0);
    plain.change(delete(30), 100);
    assert_eq!(plain.status(100), Some(json!("removed")));
    plain.pod.was_removed();
    assert_eq!(plain.status(101), None, "once");

    let mut slow = Played::new(document(&[("stop-delay", "5s")], "Always", "ReplicaSet"));
    slow.shown(0);
    slow.change(delete(30), 100);
    let next = slow.next(100);
    assert_eq!((next.write, next.wake.map(|at| at.as_second() - START)), (None, Some(105)));
    assert_eq!(slow.status(105), Some(json!("removed")));

    let mut held = Played::new(document(&[], "Never", "ReplicaSet"));
    held.shown(0);
    held.change(|d| d["metadata"]["finalizers"] = json!(["x/y"]), 1);
    held.change(delete(0), 100);
    let status = held.status(100).unwrap();
    assert_eq!(
        (&status["phase"], &status["containerStatuses"][0]["state"]["terminated"]["exitCode"]),
        (&json!("Failed"), &json!(143))
    );
    assert_eq!(held.status(100), Some(json!("removed")));

    let mut waiting = Played::new(document(&[("start-delay", "1h")], "Always", "ReplicaSet"));
    waiting.shown(0);
    waiting.change(delete(30), 100);
    assert_eq!(waiting.status(100), Some(json!("removed")), "it need not start first");
}

#[test]
fn another_process_takes_a_pod_up_as_it_is() {
    let mut played = Played::new(document(&[("run-duration", "60s")], "Never", "ReplicaSet"));
    played.shown(0);
    let mut again = Played::new(played.document.clone());
    assert_eq!(again.pod.next(at(30), || panic!("it has one"), None).wake, Some(at(60)));
    assert_eq!(again.shown(60), phase("Succeeded", false, None));
    let ip = again.document["status"]["podIP"].clone();
    assert_eq!(ip, "10.0.0.2");
    let mut over = Played::new(again.document.clone());
    assert_eq!(over.status(70), None);
}

#[test]
fn without_an_address_it_waits() {
    let mut played = Played::new(document(&[], "Always", "ReplicaSet"));
    let next = played.pod.next(at(0), || Err("none left".into()), None);
    assert_eq!(next.incidents[0].reason, "FailedCreatePodSandBox");
    assert_eq!(next.wake, Some(at(5)));
    assert_eq!(played.shown(5), phase("Running", true, None));
}

#[test]
fn usage_adds_up_while_it_changes() {
    let mut played =
        Played::new(document(&[("cpu-usage", "500m"), ("memory-usage", "1Mi")], "Always", "ReplicaSet"));
    played.shown(0);
    let used = |played: &Played, now: i64| played.pod.usage(at(now))[0].2;
    assert_eq!(
        used(&played, 10),
        Usage { cpu_nanos: 5_000_000_000, cpu_nanocores: 500_000_000, memory_bytes: 1 << 20 }
    );
    played.change(|d| d["metadata"]["annotations"]["coracle.dev/fake-cpu-usage"] = json!("2"), 10);
    assert_eq!(used(&played, 20).cpu_nanos, 25_000_000_000);
}
