//! Writes a pod's status from the worker's state: upstream's phases, conditions and container states. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::plan::{is_complete, is_initialized};
use super::spec::{RestartPolicy, Spec};
use super::state::{Condition, ContainerState, PodState, Run, Sandbox, Terminated, Waiting};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

const RESIZE_PENDING: &str = "PodResizePending";

/// Facts of the API object that go into the status unchanged.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// Conditions that others set: type and whether it is True. Readiness gates look here.
    pub gates: Vec<(String, bool)>,
    /// When the scheduler's PodScheduled became true, where it did.
    pub scheduled_since: Option<Timestamp>,
}

impl Given {
    pub fn of(pod: &Pod, host_ips: &[impl ToString]) -> Self {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let scheduled = conditions.clone().find(|c| c.type_ == "PodScheduled" && c.status == "True");
        let gates: Vec<_> = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()).collect();
        Given {
            host_ips: host_ips.iter().map(ToString::to_string).collect(),
            gates: conditions
                .filter(|c| gates.iter().any(|gate| gate.condition_type == c.type_))
                .map(|c| (c.type_.clone(), c.status == "True"))
                .collect(),
            scheduled_since: scheduled.and_then(|c| c.last_transition_time.as_ref()).map(|time| time.0),
        }
    }
}

pub fn phase(spec: &Spec, state: &PodState) -> Phase {
    if state.failure.is_some() {
        return Phase::Failed;
    }
    let terminal = is_complete(spec, state)
        || matches!(state.sandbox, Sandbox::TearingDown | Sandbox::Closed)
        || (spec.deletion.is_some() && state.quiet());
    let (mut pending_init, mut failed_init) = (false, false);
    for (view, container) in spec.containers.iter().zip(&state.containers).take(spec.init_count) {
        if view.sidecar {
            pending_init |= container.last.is_none()
                && !terminal
                && (matches!(container.run, Run::Waiting(_) | Run::Starting(_)) || !container.started);
            continue;
        }
        match (&container.run, &container.last) {
            (Run::Terminated(t), _) => failed_init |= t.exit_code != 0,
            (Run::Running(_), _) | (_, None) => pending_init = true,
            (_, Some(last)) => failed_init |= last.exit_code != 0,
        }
    }
    let mains = state.containers.get(spec.mains()).unwrap_or_default();
    let begun =
        mains.iter().any(|c| c.last.is_some() || !matches!(c.run, Run::Waiting(_) | Run::Starting(_)));
    if failed_init && (spec.restart_policy == RestartPolicy::Never || terminal) {
        return Phase::Failed;
    }
    if !begun && !terminal && (pending_init || failed_init) {
        return Phase::Pending;
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in mains {
        match (&container.run, &container.last) {
            (Run::Running(_), _) => running += 1,
            (Run::Terminated(t), _) => {
                stopped += 1;
                succeeded += usize::from(t.exit_code == 0);
            }
            (_, Some(last)) => {
                stopped += 1;
                succeeded += usize::from(last.exit_code == 0);
            }
            (_, None) => waiting += 1,
        }
    }
    if terminal && running == 0 {
        return match (stopped, succeeded == stopped) {
            // Deleted before anything ran.
            (0, _) => Phase::Failed,
            (_, true) if waiting == 0 => Phase::Succeeded,
            _ => Phase::Failed,
        };
    }
    if waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 || stopped > 0 { Phase::Running } else { Phase::Pending }
}

/// Recomputes the conditions, keeping the times of those whose status is as before.
pub fn refresh_conditions(spec: &Spec, state: &mut PodState, given: &Given, now: Timestamp) {
    let phase = phase(spec, state);
    let mut fresh = Vec::with_capacity(5);
    let sandbox_ready = state.sandbox == Sandbox::Ready;
    fresh.push(("PodReadyToStartContainers", sandbox_ready, "", String::new()));
    fresh.push(initialized(spec, state, phase));
    let (ready, reason, message) = containers_ready(spec, state, phase);
    fresh.push(pod_ready(spec, given, ready, reason, message.clone()));
    fresh.push(("ContainersReady", ready, reason, message));
    fresh.push(("PodScheduled", true, "", String::new()));
    if let Some(resize) = &state.resize {
        state.resize_told = true;
        fresh.push((RESIZE_PENDING, true, resize.reason, resize.message.clone()));
    }
    state.conditions = fresh
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let before = state.conditions.iter().find(|c| c.kind == kind && c.status == status);
            let scheduled = given.scheduled_since.filter(|_| kind == "PodScheduled");
            let since = scheduled.or(before.map(|c| c.since)).unwrap_or(now);
            Condition { kind, status, reason, message, since }
        })
        .collect();
}

type Fresh = (&'static str, bool, &'static str, String);

fn initialized(spec: &Spec, state: &PodState, phase: Phase) -> Fresh {
    const KIND: &str = "Initialized";
    if phase == Phase::Succeeded {
        return (KIND, true, "PodCompleted", String::new());
    }
    let mains = state.containers.get(spec.mains()).unwrap_or_default();
    let begun =
        mains.iter().any(|c| c.last.is_some() || matches!(c.run, Run::Running(_) | Run::Terminated(_)));
    if begun || is_initialized(spec, state) {
        return (KIND, true, "", String::new());
    }
    let names =
        names(spec.containers.iter().zip(&state.containers).take(spec.init_count).filter_map(|(v, c)| {
            let done = if v.sidecar { c.running().is_some() && c.started } else { c.succeeded() };
            (!done).then_some(&*v.name)
        }));
    (KIND, false, "ContainersNotInitialized", format!("containers with incomplete status: [{names}]"))
}

fn containers_ready(spec: &Spec, state: &PodState, phase: Phase) -> (bool, &'static str, String) {
    match phase {
        Phase::Succeeded => return (false, "PodCompleted", String::new()),
        Phase::Failed => return (false, "PodFailed", String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let unready =
        names(spec.containers.iter().zip(&state.containers).enumerate().filter_map(|(index, (v, c))| {
            ((v.sidecar || !spec.is_init(index)) && !spec.is_ephemeral(index) && !is_ready(spec, index, c))
                .then_some(&*v.name)
        }));
    if unready.is_empty() {
        (true, "", String::new())
    } else {
        (false, "ContainersNotReady", format!("containers with unready status: [{unready}]"))
    }
}

fn pod_ready(
    spec: &Spec,
    given: &Given,
    containers_ready: bool,
    reason: &'static str,
    message: String,
) -> Fresh {
    const KIND: &str = "Ready";
    if !containers_ready {
        return (KIND, false, reason, message);
    }
    let mut unmet = Vec::new();
    for gate in &spec.readiness_gates {
        match given.gates.iter().find(|(kind, _)| **kind == **gate) {
            None => unmet
                .push(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
            Some((_, false)) => {
                unmet.push(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but False"));
            }
            Some((_, true)) => {}
        }
    }
    if unmet.is_empty() {
        (KIND, true, "", String::new())
    } else {
        (KIND, false, "ReadinessGatesNotReady", unmet.join(", "))
    }
}

/// A container's own `ready`.
pub fn is_ready(spec: &Spec, index: usize, container: &ContainerState) -> bool {
    let view = &spec.containers[index];
    if spec.is_ephemeral(index) {
        return false;
    }
    if spec.is_init(index) && !view.sidecar {
        return container.succeeded();
    }
    container.running().is_some() && container.started && (!view.readiness_probe || container.ready)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(" ")
}

/// The `status` of a strategic merge patch. Conditions of others stay as they are: they merge by type.
pub fn compose(spec: &Spec, state: &PodState, given: &Given, runtime: &str) -> Value {
    let phase = phase(spec, state);
    let (reason, message) = match &state.failure {
        Some(failure) => (json!(failure.reason), json!(failure.message)),
        None => (Value::Null, Value::Null),
    };
    let mut status = Map::new();
    if spec.generation > 0 {
        status.insert("observedGeneration".into(), json!(spec.generation));
    }
    status.insert("phase".into(), json!(phase.as_str()));
    status.insert("reason".into(), reason);
    status.insert("message".into(), message);
    let listed = |ips: &[String]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    status.insert("hostIP".into(), json!(given.host_ips.first().map_or("", String::as_str)));
    status.insert("hostIPs".into(), listed(&given.host_ips).into());
    if let Some(ip) = state.ip {
        status.insert("podIP".into(), json!(ip));
        let all: Vec<String> =
            std::iter::once(ip.to_string()).chain(state.ip6.map(|ip| ip.to_string())).collect();
        status.insert("podIPs".into(), listed(&all).into());
    }
    if let Some(start) = state.start_time {
        status.insert("startTime".into(), time(start));
    }
    let mut conditions: Vec<Value> = state.conditions.iter().map(|c| condition(c, spec.generation)).collect();
    if state.resize.is_none() && state.resize_told {
        conditions.push(json!({"$patch": "delete", "type": RESIZE_PENDING}));
    }
    status.insert("conditions".into(), conditions.into());
    let statuses = |range: std::ops::Range<usize>| -> Value {
        range.map(|index| container_status(spec, state, index, runtime)).collect()
    };
    if spec.init_count > 0 {
        status.insert("initContainerStatuses".into(), statuses(0..spec.init_count));
    }
    status.insert("containerStatuses".into(), statuses(spec.mains()));
    if spec.main_end < spec.containers.len() {
        let all = statuses(spec.main_end..spec.containers.len());
        status.insert("ephemeralContainerStatuses".into(), all);
    }
    Value::Object(status)
}

fn condition(condition: &Condition, generation: i64) -> Value {
    let mut out = Map::new();
    out.insert("type".into(), json!(condition.kind));
    out.insert("status".into(), json!(if condition.status { "True" } else { "False" }));
    out.insert("lastProbeTime".into(), Value::Null);
    out.insert("lastTransitionTime".into(), time(condition.since));
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    out.insert("reason".into(), text(condition.reason));
    out.insert("message".into(), text(&condition.message));
    if generation > 0 {
        out.insert("observedGeneration".into(), json!(generation));
    }
    Value::Object(out)
}

fn container_status(spec: &Spec, state: &PodState, index: usize, runtime: &str) -> Value {
    let (view, container) = (&spec.containers[index], &state.containers[index]);
    let mut out = Map::new();
    out.insert("name".into(), json!(view.name));
    let (image, image_id) = match &container.image {
        Some(facts) => (facts.image.as_str(), facts.image_id.as_str()),
        None => (&*view.image, ""),
    };
    out.insert("image".into(), json!(image));
    out.insert("imageID".into(), json!(image_id));
    let id = match &container.run {
        Run::Running(running) => Some(&running.id),
        Run::Terminated(ended) => Some(&ended.id),
        Run::Waiting(_) | Run::Starting(_) => container.last.as_ref().map(|last| &last.id),
    };
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        out.insert("containerID".into(), json!(format!("{runtime}://{id}")));
    }
    let shown = match &container.run {
        Run::Waiting(waiting) | Run::Starting(waiting) => {
            // Until the pod is initialised, nothing shows its main containers as being created.
            let held = spec.mains().contains(&index) && spec.init_count > 0 && !is_initialized(spec, state);
            if held && waiting.reason == "ContainerCreating" {
                json!({"waiting": waiting_value(&Waiting::of("PodInitializing"))})
            } else {
                json!({"waiting": waiting_value(waiting)})
            }
        }
        Run::Running(running) => json!({"running": {"startedAt": time(running.started_at)}}),
        Run::Terminated(ended) => json!({"terminated": terminated_value(ended, runtime)}),
    };
    out.insert("state".into(), shown);
    let last = match &container.last {
        Some(last) => json!({"terminated": terminated_value(last, runtime)}),
        None => json!({}),
    };
    out.insert("lastState".into(), last);
    out.insert("ready".into(), json!(is_ready(spec, index, container)));
    if let Some(resources) = &container.resources {
        if let Some(requests) = resources.requests.as_ref().filter(|r| !r.is_empty()) {
            out.insert("allocatedResources".into(), json!(requests));
        }
        if container.running().is_some() {
            let mut shown = Map::new();
            for (name, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
                if let Some(amounts) = amounts.as_ref().filter(|a| !a.is_empty()) {
                    shown.insert(name.into(), json!(amounts));
                }
            }
            out.insert("resources".into(), shown.into());
        }
    }
    out.insert("restartCount".into(), json!(container.restarts));
    out.insert("started".into(), json!(container.running().is_some() && container.started));
    Value::Object(out)
}

fn waiting_value(waiting: &Waiting) -> Value {
    let mut out = Map::new();
    out.insert("reason".into(), json!(waiting.reason));
    if let Some(message) = &waiting.message {
        out.insert("message".into(), json!(message));
    }
    Value::Object(out)
}

fn terminated_value(ended: &Terminated, runtime: &str) -> Value {
    let mut out = Map::new();
    out.insert("exitCode".into(), json!(ended.exit_code));
    if ended.signal != 0 {
        out.insert("signal".into(), json!(ended.signal));
    }
    out.insert("reason".into(), json!(ended.reason));
    if let Some(message) = ended.message.as_ref().filter(|m| !m.is_empty()) {
        out.insert("message".into(), json!(message));
    }
    for (key, at) in [("startedAt", ended.started_at), ("finishedAt", ended.finished_at)] {
        if let Some(at) = at {
            out.insert(key.into(), time(at));
        }
    }
    if !ended.id.is_empty() {
        out.insert("containerID".into(), json!(format!("{runtime}://{}", ended.id)));
    }
    Value::Object(out)
}

/// RFC 3339 in whole seconds, as `metav1.Time` is written.
pub fn time(at: Timestamp) -> Value {
    Value::String(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests;
