//! Steps of the plan as tables: what the pod is, what happened, what must be done.

use serde_json::json;

use super::*;
use crate::pods::state::{Running, Terminated};
use crate::pods::status::{Phase, phase};

/// A pod whose containers the test moves by hand.
struct Pod {
    spec: Spec,
    state: PodState,
    now: i64,
}

impl Pod {
    fn new(spec: serde_json::Value) -> Self {
        let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let spec = Spec::of(&pod);
        let mut state = PodState::new(&spec, "p_ns(u)");
        state.start_time = Some(at(0));
        Pod { spec, state, now: 0 }
    }

    fn ready(spec: serde_json::Value) -> Self {
        let mut pod = Pod::new(spec);
        assert_eq!(pod.step(), [Action::SetUp]);
        pod.state.sandbox = Sandbox::Ready;
        pod
    }

    fn step(&mut self) -> Vec<Action> {
        step(&self.spec, &mut self.state, at(self.now)).actions
    }

    fn wake(&mut self) -> Option<i64> {
        step(&self.spec, &mut self.state, at(self.now)).wake.map(|wake| wake.as_second() - at(0).as_second())
    }

    fn run(&mut self, index: usize) {
        assert!(self.state.containers[index].is_starting(), "container {index} was to start");
        self.state.containers[index].run =
            Run::Running(Running { id: "id".into(), started_at: at(self.now), stopping: None });
        if !self.spec.containers[index].startup_probe {
            self.state.containers[index].started = true;
        }
    }

    fn exit(&mut self, index: usize, code: i32) {
        assert!(self.state.containers[index].running().is_some(), "container {index} runs");
        self.state.containers[index].ended(Terminated {
            exit_code: code,
            signal: 0,
            reason: "x".into(),
            message: None,
            started_at: None,
            finished_at: Some(at(self.now)),
            id: "id".into(),
        });
    }

    fn delete(&mut self, grace_seconds: i64) {
        self.spec.deletion =
            Some(crate::pods::spec::Deletion { grace_seconds, deadline: at(self.now + grace_seconds) });
    }

    fn phase(&self) -> Phase {
        phase(&self.spec, &self.state)
    }

    fn waiting(&self, index: usize) -> String {
        match &self.state.containers[index].run {
            Run::Waiting(waiting) | Run::Starting(waiting) => waiting.reason.to_string(),
            other => format!("{other:?}"),
        }
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn containers(names: &[&str]) -> serde_json::Value {
    names.iter().map(|name| json!({"name": name, "image": "i"})).collect()
}

fn pod(policy: &str, names: &[&str]) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": containers(names)})
}

fn stop(index: usize, grace_seconds: i64) -> Action {
    Action::Stop { index, grace_seconds }
}

#[test]
fn main_containers_start_together_once_the_sandbox_is_ready() {
    let mut pod = Pod::new(pod("Always", &["a", "b"]));
    assert_eq!(pod.step(), [Action::SetUp]);
    assert_eq!(pod.step(), [], "it is under way");
    assert_eq!(pod.phase(), Phase::Pending);
    pod.state.sandbox = Sandbox::Ready;
    assert_eq!(pod.step(), [Action::Start(0), Action::Start(1)]);
    assert_eq!(pod.step(), []);
    pod.run(0);
    assert_eq!(pod.phase(), Phase::Pending);
    pod.run(1);
    assert_eq!(pod.phase(), Phase::Running);
    assert_eq!(pod.step(), []);
}

#[test]
fn a_failed_sandbox_is_tried_again() {
    let mut pod = Pod::new(pod("Always", &["a"]));
    pod.step();
    pod.state.sandbox = Sandbox::Failed(at(5));
    assert_eq!(pod.wake(), Some(5));
    assert_eq!(pod.step(), []);
    pod.now = 5;
    assert_eq!(pod.step(), [Action::SetUp]);
}

#[test]
fn what_an_exit_does() {
    for (policy, code, actions, phase) in [
        ("Always", 0, vec![Action::Start(0)], Phase::Running),
        ("Always", 1, vec![Action::Start(0)], Phase::Running),
        ("OnFailure", 0, vec![Action::TearDown], Phase::Succeeded),
        ("OnFailure", 1, vec![Action::Start(0)], Phase::Running),
        ("Never", 0, vec![Action::TearDown], Phase::Succeeded),
        ("Never", 1, vec![Action::TearDown], Phase::Failed),
    ] {
        let mut pod = Pod::ready(pod(policy, &["a"]));
        pod.step();
        pod.run(0);
        pod.exit(0, code);
        assert_eq!(pod.step(), actions, "{policy} {code}");
        assert_eq!(pod.phase(), phase, "{policy} {code}");
    }
}

#[test]
fn crashes_back_off() {
    let mut pod = Pod::ready(pod("Always", &["a"]));
    pod.step();
    pod.run(0);
    pod.exit(0, 1);
    assert_eq!(pod.step(), [Action::Start(0)], "the first time at once");
    assert_eq!(pod.state.containers[0].restarts, 1);
    for (wait, restarts) in [(10, 1), (20, 2), (40, 3), (80, 4), (160, 5), (300, 6), (300, 7)] {
        pod.run(0);
        pod.exit(0, 1);
        assert_eq!(pod.step(), [Action::CrashBackOff(0)], "{wait}");
        assert_eq!(pod.waiting(0), "CrashLoopBackOff");
        assert_eq!(pod.state.containers[0].restarts, restarts, "{wait}");
        assert_eq!(pod.wake(), Some(pod.now + wait), "{wait}");
        assert_eq!(pod.phase(), Phase::Running);
        pod.now += wait;
        assert_eq!(pod.step(), [Action::Start(0)], "{wait}");
    }
    let Run::Starting(_) = pod.state.containers[0].run else { panic!() };
    assert_eq!(pod.state.containers[0].last.as_ref().unwrap().exit_code, 1);
    // Ten minutes of running make it good again.
    pod.run(0);
    pod.now += 700;
    pod.exit(0, 1);
    assert_eq!(pod.step(), [Action::Start(0)]);
}

#[test]
fn the_back_off_message_is_upstreams() {
    let mut pod = Pod::ready(pod("Always", &["a"]));
    pod.step();
    for _ in 0..2 {
        pod.run(0);
        pod.exit(0, 3);
        pod.step();
    }
    let Run::Waiting(waiting) = &pod.state.containers[0].run else { panic!() };
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=a pod=p_ns(u)"));
}

#[test]
fn one_of_two_ends() {
    let mut pod = Pod::ready(pod("OnFailure", &["a", "b"]));
    pod.step();
    pod.run(0);
    pod.run(1);
    pod.exit(0, 0);
    assert_eq!(pod.step(), []);
    assert_eq!(pod.phase(), Phase::Running);
    pod.exit(1, 0);
    assert_eq!(pod.step(), [Action::TearDown]);
    assert_eq!(pod.phase(), Phase::Succeeded);
}

#[test]
fn init_containers_run_in_order() {
    let mut spec = pod("Always", &["main"]);
    spec["initContainers"] = containers(&["one", "two"]);
    let mut pod = Pod::ready(spec);
    assert_eq!(pod.waiting(2), "PodInitializing");
    assert_eq!(pod.step(), [Action::Start(0)]);
    pod.run(0);
    assert_eq!(pod.step(), []);
    assert_eq!(pod.phase(), Phase::Pending);
    pod.exit(0, 1);
    assert_eq!(pod.step(), [Action::Start(0)], "a failed one is tried again");
    pod.run(0);
    pod.exit(0, 0);
    assert_eq!(pod.step(), [Action::Start(1)]);
    pod.run(1);
    pod.exit(1, 0);
    assert_eq!(pod.step(), [Action::Start(2)]);
    pod.run(2);
    assert_eq!(pod.phase(), Phase::Running);
    pod.exit(2, 1);
    assert_eq!(pod.step(), [Action::Start(2)], "init containers are not run again for a restart");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_is_never_restarted() {
    let mut spec = pod("Never", &["main"]);
    spec["initContainers"] = containers(&["one"]);
    let mut pod = Pod::ready(spec);
    pod.step();
    pod.run(0);
    pod.exit(0, 2);
    assert_eq!(pod.step(), [Action::TearDown]);
    assert_eq!(pod.phase(), Phase::Failed);
    assert_eq!(pod.waiting(1), "PodInitializing");
}

fn with_sidecar(policy: &str, probe: bool) -> serde_json::Value {
    let mut spec = pod(policy, &["main"]);
    let mut sidecar = json!({"name": "side", "image": "i", "restartPolicy": "Always"});
    if probe {
        sidecar["startupProbe"] = json!({"tcpSocket": {"port": 1}});
    }
    spec["initContainers"] = json!([sidecar, {"name": "init", "image": "i"}]);
    spec
}

#[test]
fn sidecars_start_first_and_end_last() {
    let mut pod = Pod::ready(with_sidecar("Never", true));
    assert_eq!(pod.step(), [Action::Start(0)]);
    pod.run(0);
    assert_eq!(pod.step(), [], "its startup probe has not succeeded");
    pod.state.containers[0].started = true;
    assert_eq!(pod.step(), [Action::Start(1)]);
    pod.run(1);
    pod.exit(1, 0);
    assert_eq!(pod.step(), [Action::Start(2)]);
    pod.run(2);
    assert_eq!(pod.phase(), Phase::Running);
    pod.exit(0, 0);
    assert_eq!(pod.step(), [Action::Start(0)], "a sidecar is kept alive");
    pod.run(0);
    pod.exit(2, 0);
    assert_eq!(pod.step(), [stop(0, 30)]);
    assert_eq!(pod.step(), []);
    pod.exit(0, 143);
    assert_eq!(pod.step(), [Action::TearDown]);
    assert_eq!(pod.phase(), Phase::Succeeded, "how a sidecar ended does not matter");
}

#[test]
fn deletion_stops_main_containers_then_sidecars() {
    let mut pod = Pod::ready(with_sidecar("Always", false));
    pod.step();
    pod.run(0);
    pod.step();
    pod.run(1);
    pod.exit(1, 0);
    pod.step();
    pod.run(2);
    pod.delete(5);
    assert_eq!(pod.step(), [stop(2, 5)]);
    assert_eq!(pod.step(), []);
    pod.exit(2, 143);
    assert_eq!(pod.step(), [stop(0, 5)]);
    pod.exit(0, 143);
    assert_eq!(pod.step(), [Action::TearDown]);
    assert_eq!(pod.step(), []);
    pod.state.sandbox = Sandbox::Closed;
    assert_eq!(pod.step(), []);
    assert_eq!(pod.phase(), Phase::Failed, "143 is no success");
}

#[test]
fn a_shorter_grace_counts_a_longer_one_does_not() {
    let mut pod = Pod::ready(pod("Always", &["a"]));
    pod.step();
    pod.run(0);
    pod.delete(30);
    assert_eq!(pod.step(), [stop(0, 30)]);
    pod.now = 1;
    pod.delete(60);
    assert_eq!(pod.step(), []);
    pod.delete(3);
    assert_eq!(pod.step(), [stop(0, 3)]);
    pod.state.vanished = true;
    assert_eq!(pod.step(), [stop(0, 0)], "gone from the API: killed");
}

#[test]
fn deletion_waits_for_a_start_under_way() {
    let mut pod = Pod::ready(pod("Always", &["a"]));
    assert_eq!(pod.step(), [Action::Start(0)]);
    pod.delete(1);
    assert_eq!(pod.step(), []);
    pod.run(0);
    assert_eq!(pod.step(), [stop(0, 1)]);
}

#[test]
fn deletion_before_anything_began() {
    let mut pod = Pod::new(pod("Always", &["a"]));
    pod.delete(30);
    assert_eq!(pod.step(), [Action::TearDown]);
    let mut pod = Pod::new(self::pod("Always", &["a"]));
    pod.step();
    pod.delete(30);
    assert_eq!(pod.step(), [], "the set-up is under way");
    pod.state.sandbox = Sandbox::Ready;
    assert_eq!(pod.step(), [Action::TearDown]);
}

#[test]
fn deletion_in_a_crash_loop_shows_the_last_end() {
    let mut pod = Pod::ready(pod("Always", &["a"]));
    pod.step();
    for _ in 0..2 {
        pod.run(0);
        pod.exit(0, 7);
        pod.step();
    }
    pod.delete(30);
    assert_eq!(pod.step(), [Action::TearDown]);
    assert_eq!(pod.state.containers[0].terminated().unwrap().exit_code, 7);
    assert_eq!(pod.phase(), Phase::Failed);
}

#[test]
fn a_deadline_ends_the_pod() {
    let mut spec = pod("Always", &["a"]);
    spec["activeDeadlineSeconds"] = 60.into();
    spec["terminationGracePeriodSeconds"] = 4.into();
    let mut pod = Pod::ready(spec);
    pod.step();
    pod.run(0);
    assert_eq!(pod.wake(), Some(60));
    pod.now = 60;
    assert_eq!(pod.step(), [Action::Failed, stop(0, 4)]);
    assert_eq!(pod.phase(), Phase::Failed);
    assert_eq!(pod.state.failure.as_ref().unwrap().reason, "DeadlineExceeded");
    pod.exit(0, 143);
    assert_eq!(pod.step(), [Action::TearDown]);
}

#[test]
fn a_failed_start_is_tried_again_when_due() {
    let mut pod = Pod::ready(pod("Always", &["a"]));
    pod.step();
    let waiting = Waiting {
        reason: "ErrImagePull".into(),
        message: Some("not found".into()),
        until: Some(at(10)),
        settles: Some(at(1)),
    };
    pod.state.containers[0].run = Run::Waiting(waiting);
    assert_eq!(pod.wake(), Some(1));
    pod.now = 1;
    assert_eq!(pod.step(), [Action::PullBackOff(0)]);
    let Run::Waiting(waiting) = &pod.state.containers[0].run else { panic!() };
    assert_eq!(waiting.reason, "ImagePullBackOff");
    assert_eq!(waiting.message.as_deref(), Some("Back-off pulling image \"i\": ErrImagePull: not found"));
    assert_eq!(pod.wake(), Some(10));
    pod.now = 10;
    assert_eq!(pod.step(), [Action::Start(0)]);
    assert_eq!(pod.waiting(0), "ImagePullBackOff", "the error stays visible meanwhile");
    assert_eq!(pod.state.containers[0].restarts, 0, "a start that failed is no restart");
    assert_eq!(pod.phase(), Phase::Pending);
}
