//! Phases, conditions and container states as tables.

use serde_json::json;

use super::*;
use crate::pods::state::{Failure, Running};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn build(pod: Value, runs: Vec<Run>) -> (Spec, PodState) {
    let spec =
        Spec::of(&serde_json::from_value(json!({"metadata": {"generation": 2}, "spec": pod})).unwrap());
    let mut state = PodState::new(&spec, "p_ns(u)");
    state.sandbox = Sandbox::Ready;
    for (container, run) in state.containers.iter_mut().zip(runs) {
        container.started = matches!(run, Run::Running(_));
        container.run = run;
    }
    (spec, state)
}

fn one(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]})
}

fn running() -> Run {
    Run::Running(Running { id: "abc".into(), started_at: at(1), stopping: None })
}

fn ended(code: i32) -> Run {
    Run::Terminated(Box::new(Terminated {
        exit_code: code,
        signal: 0,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: None,
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        id: "abc".into(),
    }))
}

fn waiting(reason: &'static str) -> Run {
    Run::Waiting(Waiting::of(reason))
}

fn given() -> Given {
    Given { host_ips: vec!["192.168.0.1".into()], ..Given::default() }
}

fn condition_of(spec: &Spec, state: &mut PodState, given: &Given, kind: &str) -> (bool, String, String) {
    refresh_conditions(spec, state, given, at(5));
    let found = state.conditions.iter().find(|c| c.kind == kind).unwrap();
    (found.status, found.reason.to_owned(), found.message.clone())
}

#[test]
fn conditions() {
    let gate = json!({"restartPolicy": "Always", "containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]});
    let probed = json!({"restartPolicy": "Always", "containers": [{"name": "a", "readinessProbe": {"tcpSocket": {"port": 1}}}]});
    let init = json!({"restartPolicy": "Always", "containers": [{"name": "a"}], "initContainers": [{"name": "i1"}, {"name": "i2"}]});
    let unready = "containers with unready status: [a]";
    for (what, pod, runs, kind, want) in [
        ("running", one("Always"), vec![running()], "Ready", (true, "", "")),
        ("running", one("Always"), vec![running()], "ContainersReady", (true, "", "")),
        (
            "creating",
            one("Always"),
            vec![waiting("ContainerCreating")],
            "Ready",
            (false, "ContainersNotReady", unready),
        ),
        ("creating", one("Always"), vec![waiting("ContainerCreating")], "Initialized", (true, "", "")),
        ("probe not yet", probed, vec![running()], "Ready", (false, "ContainersNotReady", unready)),
        ("succeeded", one("Never"), vec![ended(0)], "Ready", (false, "PodCompleted", "")),
        ("succeeded", one("Never"), vec![ended(0)], "Initialized", (true, "PodCompleted", "")),
        ("failed", one("Never"), vec![ended(1)], "ContainersReady", (false, "PodFailed", "")),
        (
            "initialising",
            init.clone(),
            vec![ended(0), running()],
            "Initialized",
            (false, "ContainersNotInitialized", "containers with incomplete status: [i2]"),
        ),
        ("initialised", init, vec![ended(0), ended(0), running()], "Initialized", (true, "", "")),
        (
            "gate unset",
            gate.clone(),
            vec![running()],
            "Ready",
            (
                false,
                "ReadinessGatesNotReady",
                "corresponding condition of pod readiness gate \"x/y\" does not exist.",
            ),
        ),
        ("gate unset", gate, vec![running()], "ContainersReady", (true, "", "")),
        ("any", one("Always"), vec![running()], "PodScheduled", (true, "", "")),
        ("any", one("Always"), vec![running()], "PodReadyToStartContainers", (true, "", "")),
    ] {
        let (spec, mut state) = build(pod, runs);
        let got = condition_of(&spec, &mut state, &given(), kind);
        assert_eq!((got.0, got.1.as_str(), got.2.as_str()), want, "{what} {kind}");
    }
}

#[test]
fn gates_open_by_their_condition() {
    let pod = json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]});
    let (spec, mut state) = build(pod, vec![running()]);
    for (value, want) in [(true, true), (false, false)] {
        let given = Given { gates: vec![("x/y".into(), value)], ..given() };
        assert_eq!(condition_of(&spec, &mut state, &given, "Ready").0, want);
    }
}

#[test]
fn transition_times_change_with_the_status_only() {
    let (spec, mut state) = build(one("Always"), vec![waiting("ContainerCreating")]);
    refresh_conditions(&spec, &mut state, &given(), at(10));
    state.containers[0].run = waiting("ErrImagePull");
    refresh_conditions(&spec, &mut state, &given(), at(20));
    let since = |state: &PodState| state.conditions.iter().find(|c| c.kind == "Ready").unwrap().since;
    assert_eq!(since(&state), at(10));
    state.containers[0].run = running();
    state.containers[0].started = true;
    refresh_conditions(&spec, &mut state, &given(), at(30));
    assert_eq!(since(&state), at(30));
}

#[test]
fn container_states_are_written_as_upstream_writes_them() {
    let (spec, mut state) = build(one("Always"), vec![running()]);
    state.containers[0].restarts = 2;
    if let Run::Terminated(last) = ended(3) {
        state.containers[0].last = Some(last);
    }
    state.ip = Some([10, 0, 0, 7].into());
    state.start_time = Some(at(0));
    refresh_conditions(&spec, &mut state, &given(), at(5));
    let status = compose(&spec, &state, &given(), "wasmtime");
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.7"}]));
    assert_eq!(status["hostIPs"], json!([{"ip": "192.168.0.1"}]));
    state.ip6 = Some([0xfd00, 0, 0, 0, 0, 0, 0, 7].into());
    let host_ips = vec!["192.168.0.1".to_owned(), "fd01::1".to_owned()];
    let both = compose(&spec, &state, &Given { host_ips, ..given() }, "wasmtime");
    assert_eq!(
        (&both["podIP"], &both["podIPs"]),
        (&json!("10.0.0.7"), &json!([{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]))
    );
    assert_eq!(
        (&both["hostIP"], &both["hostIPs"]),
        (&json!("192.168.0.1"), &json!([{"ip": "192.168.0.1"}, {"ip": "fd01::1"}]))
    );
    assert_eq!(status["startTime"], "2026-01-01T00:00:00Z");
    assert_eq!(status["observedGeneration"], 2);
    assert_eq!(
        status["containerStatuses"],
        json!([{
            "name": "a", "image": "i", "imageID": "", "containerID": "wasmtime://abc", "ready": true, "started": true,
            "restartCount": 2,
            "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}},
            "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "containerID": "wasmtime://abc",
                "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z"}},
        }])
    );
    assert!(serde_json::from_value::<k8s_openapi::api::core::v1::PodStatus>(status).is_ok());
}

#[test]
fn a_rejected_pod_says_why() {
    let (spec, mut state) = build(one("Always"), vec![waiting("ContainerCreating")]);
    state.failure = Some(Failure { reason: "OutOfcpu".into(), message: "Pod was rejected: x".into() });
    refresh_conditions(&spec, &mut state, &given(), at(5));
    let status = compose(&spec, &state, &given(), "wasmtime");
    assert_eq!(
        (&status["phase"], &status["reason"], &status["message"]),
        (&json!("Failed"), &json!("OutOfcpu"), &json!("Pod was rejected: x"))
    );
}
