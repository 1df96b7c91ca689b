//! What a (re)started node makes of a pod's status in the API: counts and histories are kept, lost containers have
//! ended. A pod's volumes outlive the node's restart, so init containers that were done are not run again.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::spec::Spec;
use super::state::{Condition, Failure, ImageFacts, PodState, Run, Running, Sandbox, Terminated};

/// The exit code upstream gives a container whose end nobody saw.
const EXIT_UNKNOWN: i32 = 255;

/// The condition types the worker owns.
const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

pub fn adopt(spec: &Spec, pod: &Pod, label: &str, now: Timestamp) -> PodState {
    let mut state = PodState::new(spec, label);
    let Some(status) = &pod.status else { return state };
    state.start_time = status.start_time.as_ref().map(|time| time.0);
    state.ip = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok());
    state.ip6 = status.pod_ips.iter().flatten().find_map(|listed| listed.ip.parse().ok());
    state.conditions = status
        .conditions
        .iter()
        .flatten()
        .filter_map(|c| {
            let kind = OWNED.into_iter().find(|kind| *kind == c.type_)?;
            let since = c.last_transition_time.as_ref()?.0;
            Some(Condition { kind, status: c.status == "True", reason: "", message: String::new(), since })
        })
        .collect();
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let statuses = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    for known in statuses {
        let Some(index) = spec.containers.iter().position(|view| *view.name == *known.name) else { continue };
        let container = &mut state.containers[index];
        container.restarts = u32::try_from(known.restart_count).unwrap_or(0);
        container.last = last_state(known).map(Box::new);
        if !known.image_id.is_empty() {
            container.image =
                Some(Box::new(ImageFacts { image: known.image.clone(), image_id: known.image_id.clone() }));
        }
        let current = known.state.as_ref();
        if let Some(ended) = current.and_then(|s| s.terminated.as_ref()) {
            container.run = Run::Terminated(Box::new(terminated(ended)));
        } else if let Some(running) = current.and_then(|s| s.running.as_ref()) {
            // It ran when the node went down; nobody saw its end.
            container.run = Run::Terminated(Box::new(Terminated {
                exit_code: EXIT_UNKNOWN,
                signal: 0,
                reason: Cow::Borrowed("Unknown"),
                message: None,
                started_at: running.started_at.as_ref().map(|time| time.0),
                finished_at: Some(now),
                id: bare_id(known.container_id.as_deref()),
            }));
        }
    }
    if over {
        state.sandbox = Sandbox::Closed;
        if status.phase.as_deref() == Some("Failed")
            && let Some(reason) = &status.reason
        {
            state.failure = Some(Failure {
                reason: reason.clone().into(),
                message: status.message.clone().unwrap_or_default(),
            });
        }
        return state;
    }
    state
}

/// The containers that the API says are running, for those whose containers outlive the process that plays them.
pub fn running_before(spec: &Spec, pod: &Pod) -> Vec<(usize, Running)> {
    let Some(status) = pod.status.as_ref().filter(|s| s.phase.as_deref() == Some("Running")) else {
        return Vec::new();
    };
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    statuses
        .filter_map(|known| {
            let index = spec.containers.iter().position(|view| *view.name == *known.name)?;
            let started_at = known.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0;
            let id = bare_id(known.container_id.as_deref());
            Some((index, Running { id, started_at, stopping: None }))
        })
        .collect()
}

fn last_state(known: &ContainerStatus) -> Option<Terminated> {
    known.last_state.as_ref()?.terminated.as_ref().map(terminated)
}

fn terminated(ended: &ContainerStateTerminated) -> Terminated {
    Terminated {
        exit_code: ended.exit_code,
        signal: ended.signal.unwrap_or(0),
        reason: ended.reason.clone().unwrap_or_default().into(),
        message: ended.message.clone(),
        started_at: ended.started_at.as_ref().map(|time| time.0),
        finished_at: ended.finished_at.as_ref().map(|time| time.0),
        id: bare_id(ended.container_id.as_deref()),
    }
}

/// `wasmtime://abc` -> `abc`.
fn bare_id(id: Option<&str>) -> Box<str> {
    id.and_then(|id| id.split_once("://")).map_or("", |(_, id)| id).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::plan::{Action, is_complete, step};
    use crate::pods::status::{Phase, phase};

    fn adopted(policy: &str, status: serde_json::Value) -> (Spec, PodState) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
            "status": status}))
        .unwrap();
        let spec = Spec::of(&pod);
        let state = adopt(&spec, &pod, "p_ns(u)", "2026-01-01T01:00:00Z".parse().unwrap());
        (spec, state)
    }

    fn running(restarts: i32) -> serde_json::Value {
        json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "podIP": "10.0.0.9", "containerStatuses": [
            {"name": "c", "image": "i", "imageID": "i@sha256:1", "ready": true, "restartCount": restarts,
             "containerID": "wasmtime://abc", "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}]})
    }

    #[test]
    fn a_running_pod_runs_again_with_its_count() {
        let (spec, mut state) = adopted("Always", running(3));
        assert_eq!(state.ip, Some([10, 0, 0, 9].into()));
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        assert_eq!(step(&spec, &mut state, now).actions, [Action::SetUp]);
        state.sandbox = Sandbox::Ready;
        assert_eq!(step(&spec, &mut state, now).actions, [Action::Start(0)]);
        assert_eq!(state.containers[0].restarts, 4);
        let last = state.containers[0].last.as_ref().unwrap();
        assert_eq!((last.exit_code, &*last.reason, &*last.id), (255, "Unknown", "abc"));
    }

    #[test]
    fn a_pod_that_is_never_restarted_has_failed() {
        let (spec, state) = adopted("Never", running(0));
        assert!(is_complete(&spec, &state));
        assert_eq!(phase(&spec, &state), Phase::Failed);
    }

    #[test]
    fn a_finished_pod_stays_finished() {
        let (spec, mut state) = adopted(
            "Never",
            json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
        );
        assert_eq!(phase(&spec, &state), Phase::Succeeded);
        assert!(step(&spec, &mut state, Timestamp::now()).actions.is_empty());
        let (spec, state) =
            adopted("Always", json!({"phase": "Failed", "reason": "OutOfcpu", "message": "m"}));
        assert_eq!(phase(&spec, &state), Phase::Failed);
        assert_eq!(state.failure.unwrap().reason, "OutOfcpu");
    }
}
