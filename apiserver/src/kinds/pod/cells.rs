//! How `kubectl get pods` describes a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::{Value, json};

use crate::kinds::Column;
use crate::table;
use crate::validation::given;

pub(super) fn columns() -> Vec<Column> {
    table::columns(&[
        table::narrow("Ready", "string", "How many of its containers are ready, of how many."),
        table::narrow("Status", "string", "What the pod is doing, as its containers' states say in sum."),
        table::narrow("Restarts", "string", "How often its containers were restarted, and when last."),
        table::wide("IP", "string", "Its address."),
        table::wide("Node", "string", "The node it runs on."),
        table::wide("Nominated Node", "string", "The node the scheduler is making room on for it."),
        table::wide("Readiness Gates", "string", "How many of its readiness gates are open, of how many."),
    ])
}

pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, table::since(Some(last), now))
        }
        _ => summary.restarts.to_string(),
    };
    let status = pod.status.as_ref();
    let ip = status.and_then(|s| s.pod_ips.as_ref()?.first().map(|ip| ip.ip.as_str()));
    let ip = ip.or(status.and_then(|s| s.pod_ip.as_deref()));
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    let nominated = status.and_then(|s| s.nominated_node_name.as_deref());
    table::wide_cells(
        &pod.metadata,
        now,
        vec![json!(format!("{}/{}", summary.ready, summary.total)), json!(summary.reason), json!(restarts)],
        vec![
            json!(table::or_none(ip)),
            json!(table::or_none(node)),
            json!(table::or_none(nominated)),
            json!(readiness_gates(pod)),
        ],
    )
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| condition(pod, &gate.condition_type)).count();
    format!("{open}/{}", gates.len())
}

fn condition(pod: &Pod, type_: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// Restarts of some containers and when the last one ended.
#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count += status.restart_count;
        let ended = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()?.finished_at.as_ref());
        self.last = self.last.max(ended.map(|t| t.0));
    }
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i32,
    last_restart: Option<Timestamp>,
}

impl Summary {
    /// Upstream's `printPod`: init containers in order until one is not done, then the containers from the last to the
    /// first, so the first one that is in trouble has the word.
    fn of(pod: &Pod) -> Self {
        let (no_spec, no_status) = Default::default();
        let spec: &PodSpec = pod.spec.as_ref().unwrap_or(&no_spec);
        let status: &PodStatus = pod.status.as_ref().unwrap_or(&no_status);
        let phase = status.phase.as_deref().unwrap_or_default();
        let mut reason = given(&status.reason).unwrap_or(phase).to_owned();
        let gated = status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated"));
        if gated {
            reason = "SchedulingGated".into();
        }

        let init = spec.init_containers.as_deref().unwrap_or_default();
        let is_sidecar =
            |name: &str| init.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"));
        let total = spec.containers.len() + init.iter().filter(|c| is_sidecar(&c.name)).count();
        let mut ready = 0;
        let mut restarts = Restarts::default();
        let mut sidecar_restarts = Restarts::default();
        let mut initializing = false;
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            restarts.add(container);
            if is_sidecar(&container.name) {
                sidecar_restarts.add(container);
            }
            let state = container.state.as_ref();
            let terminated = state.and_then(|s| s.terminated.as_ref());
            reason = match (terminated, state.and_then(|s| s.waiting.as_ref())) {
                (Some(done), _) if done.exit_code == 0 => continue,
                _ if is_sidecar(&container.name) && container.started == Some(true) => {
                    ready += usize::from(container.ready);
                    continue;
                }
                (Some(failed), _) => format!("Init:{}", ending(failed)),
                (None, Some(waiting)) => match waiting.reason.as_deref().unwrap_or_default() {
                    "" | "PodInitializing" => format!("Init:{i}/{}", init.len()),
                    why => format!("Init:{why}"),
                },
                (None, None) => format!("Init:{i}/{}", init.len()),
            };
            initializing = true;
            break;
        }

        if !initializing || condition(pod, "Initialized") {
            restarts = sidecar_restarts;
            let mut running = false;
            for container in status.container_statuses.iter().flatten().rev() {
                restarts.add(container);
                let state = container.state.as_ref();
                let waiting = state.and_then(|s| given(&s.waiting.as_ref()?.reason));
                match (waiting, state.and_then(|s| s.terminated.as_ref())) {
                    (Some(why), _) => reason = why.to_owned(),
                    (None, Some(ended)) => reason = ending(ended),
                    (None, None) if container.ready && state.is_some_and(|s| s.running.is_some()) => {
                        running = true;
                        ready += 1;
                    }
                    (None, None) => {}
                }
            }
            if reason == "Completed" && running {
                reason = if condition(pod, "Ready") { "Running" } else { "NotReady" }.into();
            }
        }

        if pod.metadata.deletion_timestamp.is_some() {
            if status.reason.as_deref() == Some("NodeLost") {
                reason = "Unknown".into();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                reason = "Terminating".into();
            }
        }
        Self { ready, total, reason, restarts: restarts.count, last_restart: restarts.last }
    }
}

fn ending(state: &ContainerStateTerminated) -> String {
    match (given(&state.reason), state.signal.unwrap_or_default()) {
        (Some(reason), _) => reason.to_owned(),
        (None, 0) => format!("ExitCode:{}", state.exit_code),
        (None, signal) => format!("Signal:{signal}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    /// A pod of two containers and an init container with these statuses; its Ready, Status and Restarts.
    fn shown(phase: &str, init: Value, containers: Value, conditions: Value) -> String {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": {"phase": phase, "initContainerStatuses": init, "containerStatuses": containers, "conditions": conditions}});
        testing::cells::<Pod>(pod)[1..4].join(" ")
    }

    fn container(state: Value, ready: bool, restarts: i32) -> Value {
        json!({"name": "a", "state": state, "ready": ready, "restartCount": restarts,
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T11:55:00Z"}}})
    }

    #[test]
    fn the_status_in_sum() {
        let running = || json!({"running": {}});
        let done = json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}}]);
        for (phase, init, containers, conditions, want) in [
            ("Pending", json!([]), json!([]), json!([]), "0/2 Pending 0"),
            (
                "Pending",
                json!([]),
                json!([]),
                json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]),
                "0/2 SchedulingGated 0",
            ),
            (
                "Pending",
                json!([{"name": "i", "state": {"running": {}}}]),
                json!([]),
                json!([]),
                "0/2 Init:0/1 0",
            ),
            (
                "Pending",
                json!([{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
                json!([]),
                json!([]),
                "0/2 Init:CrashLoopBackOff 2",
            ),
            (
                "Pending",
                json!([{"name": "i", "state": {"terminated": {"exitCode": 3}}}]),
                json!([]),
                json!([]),
                "0/2 Init:ExitCode:3 0",
            ),
            (
                "Running",
                done.clone(),
                json!([container(running(), true, 0), container(running(), true, 0)]),
                json!([]),
                "2/2 Running 0",
            ),
            (
                "Running",
                done.clone(),
                json!([
                    container(running(), true, 1),
                    container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), false, 3)
                ]),
                json!([]),
                "1/2 CrashLoopBackOff 4 (5m ago)",
            ),
            (
                "Running",
                done.clone(),
                json!([
                    container(running(), true, 0),
                    container(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), false, 0)
                ]),
                json!([{"type": "Ready", "status": "True"}]),
                "1/2 Running 0",
            ),
            (
                "Succeeded",
                done.clone(),
                json!([container(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), false, 0)]),
                json!([]),
                "0/2 Completed 0",
            ),
            (
                "Failed",
                done,
                json!([container(json!({"terminated": {"exitCode": 137, "signal": 9}}), false, 0)]),
                json!([]),
                "0/2 Signal:9 0",
            ),
        ] {
            assert_eq!(shown(phase, init, containers, conditions), want);
        }
    }

    #[test]
    fn deletion_and_wide_columns() {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T10:00:00Z", "deletionTimestamp": "2026-01-01T11:59:00Z"},
            "spec": {"containers": [{"name": "a"}], "nodeName": "n", "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "g", "status": "True"}]}});
        assert_eq!(
            testing::cells::<Pod>(pod.clone()),
            ["p", "0/1", "Terminating", "0", "120m", "10.0.0.1", "n", "<none>", "1/2"]
        );
        let mut lost = pod;
        lost["status"]["reason"] = json!("NodeLost");
        assert_eq!(testing::cells::<Pod>(lost)[2], "Unknown");
    }
}
