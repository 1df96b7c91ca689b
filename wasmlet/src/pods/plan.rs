//! Decides what the worker does next for its pod: pure, from the spec, the containers' states and the time.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

use super::backoff::{go_seconds, later};
use super::spec::Spec;
use super::state::{Failure, PodState, Run, Sandbox, Waiting};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give the pod its network and volumes.
    SetUp,
    Start(usize),
    /// Ask a container to end; it is killed when the grace is over.
    Stop {
        index: usize,
        grace_seconds: i64,
    },
    /// The container has entered CrashLoopBackOff.
    CrashBackOff(usize),
    /// ErrImagePull has become ImagePullBackOff.
    PullBackOff(usize),
    /// The pod as a whole has failed: tell.
    Failed,
    /// Every container has ended for good: free what the pod holds.
    TearDown,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Plan again at this time even if nothing happens.
    pub wake: Option<Timestamp>,
}

/// For how long `ErrImagePull` shows before it becomes `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// Upstream's words for `activeDeadlineSeconds`.
const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// One step. Everything that `state` says afterwards is true as soon as the actions have been begun.
pub fn step(spec: &Spec, state: &mut PodState, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if state.sandbox == Sandbox::Closed {
        return plan;
    }
    check_deadline(spec, state, now, &mut plan);
    if is_ending(spec, state) {
        end(spec, state, now, &mut plan);
        return plan;
    }
    match state.sandbox {
        Sandbox::Ready => run(spec, state, now, &mut plan),
        Sandbox::Absent => set_up(state, &mut plan),
        Sandbox::Failed(until) if until <= now => set_up(state, &mut plan),
        Sandbox::Failed(until) => plan.wake_at(until),
        Sandbox::SettingUp | Sandbox::TearingDown | Sandbox::Closed => {}
    }
    plan
}

/// Nothing of the pod starts any more.
pub fn is_ending(spec: &Spec, state: &PodState) -> bool {
    state.vanished || spec.deletion.is_some() || state.failure.is_some() || is_complete(spec, state)
}

/// Every main container has ended for good, or an init container has failed for good.
pub fn is_complete(spec: &Spec, state: &PodState) -> bool {
    let for_good = |index: usize| {
        state.containers[index]
            .terminated()
            .is_some_and(|t| !spec.containers[index].restarts_after(t.exit_code))
    };
    let init_failed = (0..spec.init_count).any(|index| {
        !spec.containers[index].sidecar && for_good(index) && !state.containers[index].succeeded()
    });
    init_failed || spec.mains().all(for_good)
}

/// Every init container has done its work, every sidecar among them has started.
pub fn is_initialized(spec: &Spec, state: &PodState) -> bool {
    (0..spec.init_count).all(|index| init_done(spec, state, index))
}

fn init_done(spec: &Spec, state: &PodState, index: usize) -> bool {
    let container = &state.containers[index];
    if spec.containers[index].sidecar {
        container.running().is_some() && container.started
    } else {
        container.succeeded()
    }
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

fn set_up(state: &mut PodState, plan: &mut Plan) {
    state.sandbox = Sandbox::SettingUp;
    plan.actions.push(Action::SetUp);
}

fn check_deadline(spec: &Spec, state: &mut PodState, now: Timestamp, plan: &mut Plan) {
    let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, state.start_time) else { return };
    if is_ending(spec, state) {
        return;
    }
    let deadline = later(start, SignedDuration::from_secs(seconds));
    if now < deadline {
        plan.wake_at(deadline);
        return;
    }
    state.failure =
        Some(Failure { reason: Cow::Borrowed("DeadlineExceeded"), message: DEADLINE_MESSAGE.into() });
    plan.actions.push(Action::Failed);
}

fn run(spec: &Spec, state: &mut PodState, now: Timestamp, plan: &mut Plan) {
    // Who debugs a pod that does not start needs them before all others.
    for index in spec.main_end..spec.containers.len() {
        keep_running(spec, state, index, now, plan);
    }
    // Once the main containers have begun, a finished init container is history; sidecars are still kept alive.
    let begun = spec.mains().any(|index| {
        let container = &state.containers[index];
        container.last.is_some() || !matches!(container.run, Run::Waiting(_))
    });
    for index in 0..spec.init_count {
        if !begun || spec.containers[index].sidecar {
            keep_running(spec, state, index, now, plan);
        }
        if !begun && !init_done(spec, state, index) {
            return;
        }
    }
    for index in spec.mains() {
        keep_running(spec, state, index, now, plan);
    }
}

/// Starts the container when it should run and does not.
fn keep_running(spec: &Spec, state: &mut PodState, index: usize, now: Timestamp, plan: &mut Plan) {
    let view = &spec.containers[index];
    let container = &mut state.containers[index];
    match &mut container.run {
        Run::Starting(_) | Run::Running(_) => {}
        Run::Terminated(ended) => {
            if !view.restarts_after(ended.exit_code) {
                return;
            }
            let finished = ended.finished_at.unwrap_or(now);
            container.last = Some(ended.clone());
            let due = container.crash_backoff.due(finished);
            let delay = go_seconds(container.crash_backoff.delay());
            let waiting = Waiting {
                reason: Cow::Borrowed("CrashLoopBackOff"),
                message: Some(format!(
                    "back-off {delay} restarting failed container={} pod={}",
                    view.name, state.label
                )),
                until: Some(due),
                settles: None,
            };
            if due <= now {
                container.crash_backoff.grow(finished);
                container.restarts += 1;
                container.run = Run::Starting(Waiting::of("ContainerCreating"));
                plan.actions.push(Action::Start(index));
            } else {
                container.run = Run::Waiting(waiting);
                plan.actions.push(Action::CrashBackOff(index));
                plan.wake_at(due);
            }
        }
        Run::Waiting(waiting) => {
            if let Some(settles) = waiting.settles {
                if settles <= now {
                    waiting.settles = None;
                    waiting.reason = Cow::Borrowed("ImagePullBackOff");
                    let cause = waiting.message.take().unwrap_or_default();
                    waiting.message =
                        Some(format!("Back-off pulling image \"{}\": ErrImagePull: {cause}", view.image));
                    plan.actions.push(Action::PullBackOff(index));
                } else {
                    plan.wake_at(settles);
                }
            }
            if let Some(until) = waiting.until.filter(|until| *until > now) {
                plan.wake_at(until);
                return;
            }
            if waiting.reason == "CrashLoopBackOff" {
                let finished = container.last.as_ref().and_then(|last| last.finished_at).unwrap_or(now);
                container.crash_backoff.grow(finished);
                container.restarts += 1;
            }
            let shown = Waiting { until: None, settles: None, ..waiting.clone() };
            container.run = Run::Starting(match &*shown.reason {
                "PodInitializing" => Waiting::of("PodInitializing"),
                "ContainerCreating" | "CrashLoopBackOff" => Waiting::of("ContainerCreating"),
                // While a failed start is tried again its error stays visible.
                _ => shown,
            });
            plan.actions.push(Action::Start(index));
        }
    }
}

fn end(spec: &Spec, state: &mut PodState, now: Timestamp, plan: &mut Plan) {
    let grace_seconds = match (state.vanished, spec.deletion) {
        (true, _) => 0,
        (false, Some(deletion)) => deletion.grace_seconds,
        (false, None) => spec.grace_seconds,
    };
    for container in &mut state.containers {
        // Who waited for another try has ended for good.
        if matches!(container.run, Run::Waiting(_))
            && let Some(last) = container.last.take()
        {
            container.run = Run::Terminated(last);
        }
    }
    let is_main = |index: usize| index >= spec.init_count || !spec.containers[index].sidecar;
    let quiet = |state: &PodState, index: usize| {
        matches!(state.containers[index].run, Run::Waiting(_) | Run::Terminated(_))
    };
    for index in (0..spec.containers.len()).filter(|index| is_main(*index)) {
        stop(state, index, grace_seconds, now, plan);
    }
    if !(0..spec.containers.len()).filter(|index| is_main(*index)).all(|index| quiet(state, index)) {
        return;
    }
    // Sidecars end after those they serve, the last started first.
    for index in (0..spec.init_count).rev().filter(|index| !is_main(*index)) {
        if !quiet(state, index) {
            stop(state, index, grace_seconds, now, plan);
            return;
        }
    }
    if !matches!(state.sandbox, Sandbox::SettingUp | Sandbox::TearingDown | Sandbox::Closed) {
        state.sandbox = Sandbox::TearingDown;
        plan.actions.push(Action::TearDown);
    }
}

fn stop(state: &mut PodState, index: usize, grace_seconds: i64, now: Timestamp, plan: &mut Plan) {
    let Run::Running(running) = &mut state.containers[index].run else { return };
    let deadline = later(now, SignedDuration::from_secs(grace_seconds.min(i64::from(u32::MAX))));
    // A later, shorter grace counts; a longer one does not.
    if running.stopping.is_none_or(|before| deadline < before) {
        running.stopping = Some(deadline);
        plan.actions.push(Action::Stop { index, grace_seconds });
    }
}

#[cfg(test)]
mod tests;
