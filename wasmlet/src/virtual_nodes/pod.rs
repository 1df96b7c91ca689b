//! One virtual pod: the real pod state machine, with the passing of time in the place of guests. Pure.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_client::{Key, Object, Uid};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::behaviour::Behaviour;
use crate::pods::adopt::{adopt, running_before};
use crate::pods::backoff::later;
use crate::pods::plan::{Action, PULL_ERROR_SHOWN, is_ending, step};
use crate::pods::spec::Spec;
use crate::pods::state::{Failure, PodState, Run, Running, Sandbox, Terminated, Waiting};
use crate::pods::status::{self, Given};
use crate::runtime::{EXIT_KILLED, EXIT_TERMINATED};

/// What container ids and the node's runtime begin with.
pub const RUNTIME: &str = "fake";
/// Steps of one wake-up: more than any sound pod takes before it must wait.
const STEPS_MAX: usize = 64;
/// A pod that found no address tries again after this, and when its node gets a range.
const ADDRESS_RETRY: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

pub struct VirtualPod {
    pub key: Key,
    pub uid: Uid,
    pub node: Arc<str>,
    spec: Spec,
    state: PodState,
    given: Given,
    behaviour: Behaviour,
    host_network: bool,
    has_finalizers: bool,
    /// When this engine first saw it bound.
    seen: Timestamp,
    /// When containers that were asked to stop do.
    stops: Option<Timestamp>,
    /// Hash of the status that the API has.
    told: Option<u64>,
    removed: bool,
    meter: Meter,
}

/// What to write for a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Status {
        status: Value,
        hash: u64,
    },
    /// It has ended, and its object may go.
    Remove,
}

/// Worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    pub field: Option<String>,
}

#[derive(Debug, Default)]
pub struct Next {
    pub write: Option<Write>,
    /// Look again then.
    pub wake: Option<Timestamp>,
    pub incidents: Vec<Incident>,
}

/// What containers have used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanos: u64,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

/// Adds up processor time while usages change.
#[derive(Debug, Default)]
struct Meter {
    /// Per container: since when it is used at today's rate, and what was used before.
    parts: Box<[(Option<Timestamp>, u64)]>,
}

impl VirtualPod {
    pub fn new(
        object: &Object,
        pod: &Pod,
        node: Arc<str>,
        host_ip: &str,
        behaviour: Behaviour,
        now: Timestamp,
    ) -> Self {
        let head = &object.head;
        let spec = virtual_spec(pod);
        let label = format!("{}_{}({})", head.name, head.namespace, head.uid);
        let mut state = adopt(&spec, pod, &label, now);
        // Nothing of a virtual pod is lost with the process that plays it.
        for (index, running) in running_before(&spec, pod) {
            let container = &mut state.containers[index];
            container.started = true;
            container.run = Run::Running(running);
        }
        if state.sandbox != Sandbox::Closed && state.containers.iter().any(|c| c.running().is_some()) {
            state.sandbox = Sandbox::Ready;
        }
        let told = (state.sandbox == Sandbox::Closed).then_some(0);
        let parts = vec![(None, 0); spec.containers.len()].into();
        let mut virtual_pod = VirtualPod {
            key: object.key(),
            uid: head.uid.clone(),
            node,
            given: Given::of(pod, &[host_ip]),
            host_network: pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false),
            has_finalizers: head.has_finalizers,
            seen: now,
            stops: None,
            told,
            removed: false,
            meter: Meter { parts },
            spec,
            state,
            behaviour,
        };
        virtual_pod.begin(now);
        virtual_pod
    }

    fn begin(&mut self, now: Timestamp) {
        if self.state.sandbox != Sandbox::Closed {
            self.state.start_time.get_or_insert(now);
        }
    }

    /// The newest state of the object.
    pub fn observe(
        &mut self,
        object: &Object,
        pod: &Pod,
        host_ip: &str,
        behaviour: Behaviour,
        now: Timestamp,
    ) {
        let fresh = virtual_spec(pod);
        let same = (fresh.init_count, fresh.main_end) == (self.spec.init_count, self.spec.main_end);
        if same && fresh.containers.len() >= self.spec.containers.len() {
            self.state.containers.resize_with(fresh.containers.len(), Default::default);
            self.spec = fresh;
        }
        if self.behaviour != behaviour {
            self.meter.settle(&self.state, &self.behaviour, now);
            self.behaviour = behaviour;
        }
        self.given = Given::of(pod, &[host_ip]);
        self.has_finalizers = object.head.has_finalizers;
    }

    /// The address it has, unless it is its node's.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.state.ip.filter(|_| !self.host_network)
    }

    pub fn is_over(&self) -> bool {
        self.state.sandbox == Sandbox::Closed
    }

    pub fn is_running(&self) -> bool {
        self.state.containers.iter().any(|c| c.running().is_some())
    }

    /// The API has taken the status in (or will never).
    pub fn written(&mut self, hash: u64) {
        self.told = Some(hash);
    }

    pub fn was_removed(&mut self) {
        self.removed = true;
    }

    /// Lets pass what is due, and says what is to be written. `address` hands out one of the node's.
    pub fn next(
        &mut self,
        now: Timestamp,
        mut address: impl FnMut() -> Result<Ipv4Addr, String>,
        host: Option<Ipv4Addr>,
    ) -> Next {
        let mut next = Next::default();
        for _ in 0..STEPS_MAX {
            let mut wake = self.pass(now, &mut address, host, &mut next.incidents);
            let plan = step(&self.spec, &mut self.state, now);
            if let Some(at) = plan.wake {
                wake = Some(wake.map_or(at, |w: Timestamp| w.min(at)));
            }
            next.wake = wake;
            if plan.actions.is_empty() {
                break;
            }
            for action in plan.actions {
                self.perform(action, now, &mut next.incidents);
            }
        }
        next.write = self.write(now);
        next
    }

    /// What happens by itself: sandboxes become ready, containers become ready or end.
    fn pass(
        &mut self,
        now: Timestamp,
        address: &mut impl FnMut() -> Result<Ipv4Addr, String>,
        host: Option<Ipv4Addr>,
        incidents: &mut Vec<Incident>,
    ) -> Option<Timestamp> {
        let mut wakes = Vec::new();
        if self.state.sandbox == Sandbox::SettingUp {
            let due = later(self.seen, self.behaviour.start_delay);
            if is_ending(&self.spec, &self.state) {
                self.state.sandbox = Sandbox::Absent;
            } else if due > now {
                wakes.push(due);
            } else {
                match if self.host_network { host.ok_or_else(String::new) } else { address() } {
                    Ok(ip) => {
                        self.state.ip = Some(ip);
                        self.state.sandbox = Sandbox::Ready;
                    }
                    Err(message) => {
                        incidents.push(Incident {
                            warning: true,
                            reason: "FailedCreatePodSandBox",
                            message: format!("Failed to create pod sandbox: {message}"),
                            field: None,
                        });
                        self.state.sandbox = Sandbox::Failed(later(now, ADDRESS_RETRY));
                    }
                }
            }
        }
        if self.behaviour.evicted && self.state.failure.is_none() && self.is_running() {
            let message = "The node was low on resource: memory. (coracle.dev/fake-failure)".to_owned();
            incidents.push(Incident {
                warning: true,
                reason: "Evicted",
                message: message.clone(),
                field: None,
            });
            self.state.failure = Some(Failure { reason: Cow::Borrowed("Evicted"), message });
        }
        let stops = self.stops;
        for (index, container) in self.state.containers.iter_mut().enumerate() {
            let Run::Running(running) = &container.run else { continue };
            let behaviour = self.behaviour.containers.get(index).cloned().unwrap_or_default();
            let by_itself = behaviour.run_duration.map(|lasts| later(running.started_at, lasts));
            let stopped = running.stopping.map(|deadline| stops.unwrap_or(deadline).min(deadline));
            let due = [by_itself, stopped].into_iter().flatten().min();
            if let Some(due) = due.filter(|due| *due <= now) {
                let (exit_code, reason) = match stopped {
                    Some(at) if by_itself.is_none_or(|own| at < own) => {
                        let killed = stops.is_some_and(|stops| stops > at);
                        (if killed { EXIT_KILLED } else { EXIT_TERMINATED }, "Error")
                    }
                    _ if behaviour.out_of_memory => (behaviour.exit_code, "OOMKilled"),
                    _ if behaviour.exit_code == 0 => (0, "Completed"),
                    _ => (behaviour.exit_code, "Error"),
                };
                let ended = Terminated {
                    exit_code,
                    signal: 0,
                    reason: Cow::Borrowed(reason),
                    message: None,
                    started_at: Some(running.started_at),
                    finished_at: Some(due.max(running.started_at)),
                    id: running.id.clone(),
                };
                if let Some(part) = self.meter.parts.get_mut(index) {
                    part.1 += used(part.0, behaviour.cpu_nanocores, now);
                    part.0 = None;
                }
                container.ended(ended);
                continue;
            }
            wakes.extend(due);
            if !container.ready
                && let Some(delay) = behaviour.ready_delay
            {
                let at = later(running.started_at, delay);
                if at <= now {
                    container.ready = true;
                } else {
                    wakes.push(at);
                }
            }
        }
        if let Sandbox::Failed(until) = self.state.sandbox {
            wakes.push(until);
        }
        wakes.into_iter().min()
    }

    fn perform(&mut self, action: Action, now: Timestamp, incidents: &mut Vec<Incident>) {
        match action {
            // `pass` sees to it when the time has come.
            Action::SetUp | Action::Failed => {}
            Action::Start(index) => self.start(index, now, incidents),
            Action::Stop { .. } => {
                self.stops.get_or_insert(later(now, self.behaviour.stop_delay));
            }
            Action::CrashBackOff(index) => {
                let name = &self.spec.containers[index].name;
                incidents.push(Incident {
                    warning: true,
                    reason: "BackOff",
                    message: format!(
                        "Back-off restarting failed container {name} in pod {}",
                        self.state.label
                    ),
                    field: Some(self.spec.field_path(index)),
                });
            }
            Action::PullBackOff(index) => incidents.push(Incident {
                warning: false,
                reason: "BackOff",
                message: format!("Back-off pulling image \"{}\"", self.spec.containers[index].image),
                field: Some(self.spec.field_path(index)),
            }),
            Action::TearDown => self.state.sandbox = Sandbox::Closed,
        }
    }

    fn start(&mut self, index: usize, now: Timestamp, incidents: &mut Vec<Incident>) {
        let missing = self.behaviour.containers.get(index).is_some_and(|b| b.image_missing);
        let image = self.spec.containers[index].image.clone();
        let container = &mut self.state.containers[index];
        if missing {
            let message = format!("failed to pull image \"{image}\": not found (coracle.dev/fake-failure)");
            container.start_backoff.grow(now);
            container.run = Run::Waiting(Waiting {
                reason: Cow::Borrowed("ErrImagePull"),
                message: Some(message.clone()),
                until: Some(container.start_backoff.due(now)),
                settles: Some(later(now, PULL_ERROR_SHOWN)),
            });
            let field = Some(self.spec.field_path(index));
            let message = format!("Failed to pull image \"{image}\": {message}");
            incidents.push(Incident { warning: true, reason: "Failed", message, field });
            return;
        }
        let id = format!("{}-{index}-{}", self.uid, container.restarts).into();
        container.start_backoff.reset();
        container.started = true;
        container.ready = false;
        container.run = Run::Running(Running { id, started_at: now, stopping: None });
        if let Some(part) = self.meter.parts.get_mut(index) {
            part.0 = Some(now);
        }
    }

    fn write(&mut self, now: Timestamp) -> Option<Write> {
        if self.removed {
            return None;
        }
        let ended = self.spec.deletion.is_some() && self.is_over() && self.state.quiet();
        // Nobody would see the last status of an object that goes at once.
        if (!ended || self.has_finalizers)
            && let Some(write) = self.status(now)
        {
            return Some(write);
        }
        ended.then_some(Write::Remove)
    }

    fn status(&mut self, now: Timestamp) -> Option<Write> {
        if self.told == Some(0) && self.spec.deletion.is_none() {
            // It was over before this engine came.
            return None;
        }
        status::refresh_conditions(&self.spec, &mut self.state, &self.given, now);
        let status = status::compose(&self.spec, &self.state, &self.given, RUNTIME);
        let mut hasher = DefaultHasher::new();
        status.to_string().hash(&mut hasher);
        let hash = hasher.finish().max(1);
        (self.told != Some(hash)).then_some(Write::Status { status, hash })
    }

    /// Containers that run, with what they use.
    pub fn usage(&self, now: Timestamp) -> Vec<(&str, Timestamp, Usage)> {
        let parts = self.state.containers.iter().zip(&self.spec.containers).zip(&self.behaviour.containers);
        parts
            .enumerate()
            .filter_map(|(index, ((container, view), behaviour))| {
                let running = container.running()?;
                let (since, before) = self.meter.parts.get(index).copied().unwrap_or_default();
                let since = since.unwrap_or(running.started_at);
                let usage = Usage {
                    cpu_nanos: before + used(Some(since), behaviour.cpu_nanocores, now),
                    cpu_nanocores: behaviour.cpu_nanocores,
                    memory_bytes: behaviour.memory_bytes,
                };
                Some((&*view.name, running.started_at, usage))
            })
            .collect()
    }
}

/// Readiness is a matter of time here, so that every container has it decided.
fn virtual_spec(pod: &Pod) -> Spec {
    let mut spec = Spec::of(pod);
    for view in &mut spec.containers {
        view.startup_probe = false;
        view.readiness_probe = true;
    }
    spec
}

fn used(since: Option<Timestamp>, nanocores: u64, now: Timestamp) -> u64 {
    let Some(since) = since else { return 0 };
    let nanos = now.duration_since(since).as_nanos().max(0).unsigned_abs();
    u64::try_from(nanos * u128::from(nanocores) / 1_000_000_000).unwrap_or(u64::MAX)
}

impl Meter {
    /// Puts down what was used at the rates so far.
    fn settle(&mut self, state: &PodState, rates: &Behaviour, now: Timestamp) {
        let containers = state.containers.iter().zip(&rates.containers);
        for (part, (container, rate)) in self.parts.iter_mut().zip(containers) {
            let Some(running) = container.running() else { continue };
            let since = part.0.unwrap_or(running.started_at);
            *part = (Some(now), part.1 + used(Some(since), rate.cpu_nanocores, now));
        }
    }
}

#[cfg(test)]
mod tests;
