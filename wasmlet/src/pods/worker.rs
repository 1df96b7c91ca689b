//! The one task of a pod: takes in what happened, plans, acts, and keeps the API's status true.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Object;
use coracle_client::events::EventType;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::admission;
use super::adopt::adopt;
use super::backoff::later;
use super::context::Context;
use super::events::PodEvents;
use super::operations::{self, Done, Watched};
use super::plan::{self, Action, step};
use super::spec::Spec;
use super::start::{self, Order};
use super::state::{Failure, PodState, Run, Running, Sandbox, grace};
use super::status::Given;
use crate::network::PodNetwork;
use crate::runtime::{Container, Runtime};
use crate::volumes::PodVolumes;

/// How long running guests have when the node itself stops.
const NODE_STOP_GRACE: Duration = Duration::from_secs(2);
/// Mounted volumes that could not be brought up to date are tried again after this.
const VOLUMES_RETRY: Duration = Duration::from_secs(10);
/// How often what an emptyDir with a sizeLimit holds is added up: the kubelet's interval.
const USAGE_EVERY: Duration = Duration::from_secs(10);
/// What a container's configuration refers to may appear at any time.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(5);
/// Failed set-ups are tried again after this, doubling, or when a mounted object changes.
const SET_UP_RETRY_MIN: Duration = Duration::from_millis(500);
const SET_UP_RETRY_MAX: Duration = Duration::from_secs(122);

/// What the dispatcher leaves for the worker: the newest object, not every one there was.
#[derive(Default)]
pub struct Inbox {
    slot: Mutex<Slot>,
    notify: Notify,
}

#[derive(Default)]
struct Slot {
    object: Option<Arc<Object>>,
    gone: bool,
    failure: Option<Failure>,
}

impl Inbox {
    pub fn put(&self, object: Arc<Object>) {
        self.slot.lock().object = Some(object);
        self.notify.notify_one();
    }

    /// The pod is no longer in the API.
    pub fn gone(&self) {
        self.slot.lock().gone = true;
        self.notify.notify_one();
    }

    /// The node ends the pod, which is then Failed: eviction.
    pub fn fail(&self, failure: Failure) {
        self.slot.lock().failure = Some(failure);
        self.notify.notify_one();
    }
}

/// One run of a container: what is needed while it lives.
struct Live {
    run: u64,
    container: Arc<dyn Container>,
    probes: Vec<probing::Probing>,
    started: tokio::time::Instant,
    /// It was asked to end.
    stopping: bool,
}

pub struct Worker {
    context: Arc<Context>,
    inbox: Arc<Inbox>,
    object: Arc<Object>,
    spec: Spec,
    state: PodState,
    given: Given,
    operations: FuturesUnordered<BoxFuture<'static, Done>>,
    live: HashMap<usize, Live>,
    runs: u64,
    runtime: Option<Arc<dyn Runtime>>,
    network: Option<Arc<PodNetwork>>,
    volumes: Option<Arc<PodVolumes>>,
    /// A waiting set-up's volumes, for their sources.
    pending_volumes: Option<Box<PodVolumes>>,
    volumes_busy: bool,
    volumes_watched: bool,
    volumes_dirty: bool,
    /// Cancelled when nothing may start any more.
    starting: CancellationToken,
    set_up_failures: u32,
    status_sent: Option<u64>,
    status_in_flight: bool,
    status_dirty: bool,
    write_failures: u32,
    write_retry: Option<tokio::time::Instant>,
    removing: bool,
    removed: bool,
    gone: bool,
}

impl Worker {
    pub fn new(context: Arc<Context>, inbox: Arc<Inbox>, object: Arc<Object>, pod: &Pod) -> Self {
        let head = &object.head;
        let label = format!("{}_{}({})", head.name, head.namespace, head.uid);
        let spec = Spec::of(pod);
        let now = Timestamp::now();
        let mut state = adopt(&spec, pod, &label, now);
        Self::allocate(&mut state, &spec, pod);
        let mut worker = Worker {
            given: Given::of(pod, &context.node.host_ips),
            context,
            inbox,
            object,
            spec,
            state,
            operations: FuturesUnordered::new(),
            live: HashMap::new(),
            runs: 0,
            runtime: None,
            network: None,
            volumes: None,
            pending_volumes: None,
            volumes_busy: false,
            volumes_watched: false,
            volumes_dirty: false,
            starting: CancellationToken::new(),
            set_up_failures: 0,
            status_sent: None,
            status_in_flight: false,
            status_dirty: true,
            write_failures: 0,
            write_retry: None,
            removing: false,
            removed: false,
            gone: false,
        };
        worker.accept(pod, now);
        worker
    }

    /// Admission on the node.
    fn accept(&mut self, pod: &Pod, now: Timestamp) {
        if self.state.sandbox == Sandbox::Closed {
            // Its end was written before; nothing is to be said again.
            self.status_dirty = false;
            return;
        }
        let known = self.state.start_time.is_some();
        self.state.start_time.get_or_insert(now);
        let uid = self.object.head.uid.clone();
        let admitted = if known || self.context.node.suits(pod) {
            self.context.ledger.admit(&uid, admission::requests(pod), known)
        } else {
            Err(admission::Rejection {
                reason: "NodeAffinity",
                message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                    .into(),
            })
        };
        if let Err(rejection) = admitted {
            self.events().warning(rejection.reason, rejection.message.clone());
            self.state.failure = Some(Failure {
                reason: rejection.reason.into(),
                message: format!("Pod was rejected: {}", rejection.message),
            });
        }
    }

    fn events(&self) -> PodEvents<'_> {
        PodEvents::new(&self.context.recorder, &self.object)
    }

    /// Runs until the pod is gone from the API and the node, or the node stops.
    pub async fn run(mut self) {
        let shutdown = self.context.shutdown.clone();
        loop {
            self.take_inbox();
            let wake = self.act();
            if self.gone && self.state.sandbox == Sandbox::Closed && self.operations_settled() {
                operations::remove_logs(&self.context, &self.object);
                break;
            }
            let inbox = self.inbox.clone();
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.leave().await;
                    break;
                }
                () = inbox.notify.notified() => {}
                Some(done) = self.operations.next(), if !self.operations.is_empty() => self.absorb(done),
                () = wait_until(wake) => {}
            }
        }
        self.context.ledger.release(&self.object.head.uid);
        self.context.running.forget(&self.object.head.uid);
    }

    /// The node stops: guests end, and the API keeps saying what the pods are; they run again when the node does.
    async fn leave(&mut self) {
        let containers: Vec<_> = self.live.values().map(|live| live.container.clone()).collect();
        join_all(containers.iter().map(|container| container.stop(NODE_STOP_GRACE))).await;
        // A start under way must not be lost sight of: its container would run on.
        self.starting.cancel();
        while self.state.containers.iter().any(|c| c.is_starting()) {
            match self.operations.next().await {
                Some(Done::Started { index, result }) => {
                    self.state.containers[index].run = Run::default();
                    if let Ok(started) = result {
                        started.container.stop(NODE_STOP_GRACE).await;
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    fn operations_settled(&self) -> bool {
        self.live.is_empty() && !self.state.containers.iter().any(|c| c.is_starting())
    }

    fn take_inbox(&mut self) {
        let slot = std::mem::take(&mut *self.inbox.slot.lock());
        if let Some(failure) = slot.failure
            && self.state.failure.is_none()
            && !plan::is_ending(&self.spec, &self.state)
        {
            self.events().warning(&failure.reason, failure.message.clone());
            self.state.failure = Some(failure);
            self.status_dirty = true;
        }
        if slot.gone {
            self.gone = true;
            self.state.vanished = true;
        }
        let Some(object) = slot.object else { return };
        let generation = self.spec.generation;
        match object.decode::<Pod>() {
            Ok(pod) => {
                let fresh = Spec::of(&pod);
                // Containers never come and go in a pod; ephemeral ones come.
                let same = (fresh.init_count, fresh.main_end) == (self.spec.init_count, self.spec.main_end);
                if same && fresh.containers.len() >= self.spec.containers.len() {
                    self.spec = fresh;
                    self.state.containers.resize_with(self.spec.containers.len(), Default::default);
                    self.resize(&pod);
                }
                self.given = Given::of(&pod, &self.context.node.host_ips);
                let metadata_changed = !same_metadata(&self.object, &object);
                self.object = object;
                self.volumes_dirty |= metadata_changed;
                self.status_dirty |=
                    self.spec.generation != generation || !self.spec.readiness_gates.is_empty();
            }
            Err(error) => tracing::warn!(pod = %object.key(), %error, "an undecodable pod"),
        }
    }

    /// Plans until nothing is left to do now; returns when to look again.
    fn act(&mut self) -> Option<tokio::time::Instant> {
        let mut wake;
        loop {
            let now = Timestamp::now();
            let plan = step(&self.spec, &mut self.state, now);
            wake = plan.wake;
            if plan::is_ending(&self.spec, &self.state) {
                self.starting.cancel();
            }
            if plan.actions.is_empty() {
                break;
            }
            self.status_dirty = true;
            for action in plan.actions {
                self.perform(action);
            }
        }
        self.sync_volumes();
        self.write_status();
        self.remove();
        let wake = wake.map(|at| tokio::time::Instant::now() + until(at));
        [wake, self.write_retry].into_iter().flatten().min()
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::SetUp => {
                let volumes = self.pending_volumes.take().unwrap_or_default();
                let work =
                    operations::set_up(self.context.clone(), self.object.clone(), self.state.ip, volumes);
                self.operations.push(work.map(Done::SetUp).boxed());
            }
            Action::Start(index) => self.start(index),
            Action::Stop { index, grace_seconds } => {
                self.kill_event(index, "");
                self.stop(index, grace_seconds);
            }
            Action::CrashBackOff(index) => {
                let view = &self.spec.containers[index];
                let field = self.spec.field_path(index);
                let message =
                    format!("Back-off restarting failed container {} in pod {}", view.name, self.state.label);
                self.events().container(&field, EventType::Warning, "BackOff", message);
            }
            Action::PullBackOff(index) => {
                let view = &self.spec.containers[index];
                let field = self.spec.field_path(index);
                let message = format!("Back-off pulling image \"{}\"", view.image);
                self.events().container(&field, EventType::Normal, "BackOff", message);
                self.events().container(&field, EventType::Warning, "Failed", "Error: ImagePullBackOff");
            }
            Action::Failed => {
                if let Some(failure) = &self.state.failure {
                    self.events().normal(&failure.reason, failure.message.clone());
                }
            }
            Action::TearDown => {
                let work = operations::tear_down(self.context.clone(), self.object.clone());
                self.operations.push(work.boxed());
            }
        }
    }

    fn start(&mut self, index: usize) {
        let (Some(runtime), Some(network), Some(volumes)) =
            (self.runtime.clone(), self.network.clone(), self.volumes.clone())
        else {
            // Without a sandbox there is nothing to start in; the plan begins with one.
            self.state.sandbox = Sandbox::Absent;
            self.state.containers[index].run = Run::default();
            return;
        };
        let order = Order {
            context: self.context.clone(),
            object: self.object.clone(),
            index,
            restarts: self.state.containers[index].restarts,
            runtime,
            network,
            volumes,
            cancel: self.starting.clone(),
        };
        let work =
            start::start(order).map(move |result| Done::Started { index, result: result.map(Box::new) });
        self.operations.push(work.boxed());
    }

    fn kill_event(&self, index: usize, why: &str) {
        let view = &self.spec.containers[index];
        let field = self.spec.field_path(index);
        let message =
            if why.is_empty() { format!("Stopping container {}", view.name) } else { why.to_owned() };
        self.events().container(&field, EventType::Normal, "Killing", message);
    }

    fn stop(&mut self, index: usize, grace_seconds: i64) {
        let Some(live) = self.live.get(&index) else { return };
        if grace_seconds <= 0 {
            live.container.kill();
            return;
        }
        let container = live.container.clone();
        let first = self.first_stop(index);
        let work = operations::stop(
            self.context.clone(),
            self.object.clone(),
            self.network.clone(),
            index,
            container,
            grace(grace_seconds),
            first,
        );
        self.operations.push(work.boxed());
    }

    /// True the first time for a run: a repeated stop only shortens the grace, the hook has run.
    fn first_stop(&mut self, index: usize) -> bool {
        self.live.get_mut(&index).is_some_and(|live| !std::mem::replace(&mut live.stopping, true))
    }

    fn absorb(&mut self, done: Done) {
        match done {
            Done::SetUp(Ok(prepared)) => {
                self.set_up_failures = 0;
                self.state.ip = Some(prepared.network.ip());
                self.state.ip6 = prepared.network.ip6();
                self.state.sandbox = Sandbox::Ready;
                self.runtime = Some(prepared.runtime);
                self.network = Some(prepared.network);
                let limits = prepared.volumes.size_limits();
                if !limits.is_empty() {
                    self.operations.push(operations::exceeded(limits, USAGE_EVERY).boxed());
                }
                self.follow_volumes(prepared.volumes);
                self.status_dirty = true;
            }
            Done::SetUp(Err(failure)) => self.set_up_failed(failure),
            Done::Started { index, result: Ok(started) } => self.started(index, *started),
            Done::Started { index, result: Err(failed) } => self.start_failed(index, failed),
            Done::Ended { index, run, terminated } => self.ended(index, run, terminated),
            Done::Stopped => {}
            Done::Freed => {
                if let Ok(pod) = self.object.decode::<Pod>() {
                    // It may wait again.
                    self.state.resize = None;
                    self.resize(&pod);
                }
            }
            Done::Probed { index, run, kind, outcome } => self.probed(index, run, kind, outcome),
            Done::VolumesChanged => {
                self.volumes_watched = false;
                self.volumes_dirty = true;
                // A set-up that waits for an object is tried again at once.
                if matches!(self.state.sandbox, Sandbox::Failed(_)) {
                    self.state.sandbox = Sandbox::Absent;
                }
            }
            Done::VolumesSynced(volumes, error) => {
                self.volumes_busy = false;
                if let Some(error) = error {
                    self.events().warning("FailedMount", error);
                    // A token that cannot be renewed is due all the time: not at once again.
                    self.volumes_watched = true;
                    let pause = tokio::time::sleep(VOLUMES_RETRY);
                    self.operations.push(pause.map(|()| Done::VolumesChanged).boxed());
                }
                self.follow_volumes(volumes);
            }
            Done::Exceeded(message) => {
                self.inbox.fail(Failure { reason: "Evicted".into(), message });
            }
            Done::TornDown => {
                self.state.sandbox = Sandbox::Closed;
                self.network = None;
                self.volumes = None;
                self.context.ledger.release(&self.object.head.uid);
                self.status_dirty = true;
            }
            Done::StatusWritten { hash, result } => self.status_written(hash, result),
            Done::Removed(Ok(())) => self.removed = true,
            Done::Removed(Err(error)) if error.is_not_found() || error.is_conflict() => self.removed = true,
            Done::Removed(Err(error)) => {
                self.removing = false;
                self.retry_write("deleting", &error);
            }
        }
    }

    fn set_up_failed(&mut self, failure: operations::SetUpFailure) {
        self.events().warning(failure.reason, failure.message);
        let delay = SET_UP_RETRY_MIN.saturating_mul(1 << self.set_up_failures.min(10)).min(SET_UP_RETRY_MAX);
        self.set_up_failures += 1;
        let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::ZERO);
        self.state.sandbox = Sandbox::Failed(later(Timestamp::now(), delay));
        for container in &mut self.state.containers {
            if let (Run::Waiting(waiting), Some(text)) = (&mut container.run, &failure.waiting) {
                waiting.reason = "CreatePodSandboxError".into();
                waiting.message = Some(text.clone());
            }
        }
        self.watch_volumes(&failure.volumes);
        self.pending_volumes = Some(failure.volumes);
        self.status_dirty = true;
    }

    fn follow_volumes(&mut self, volumes: Box<PodVolumes>) {
        self.watch_volumes(&volumes);
        self.volumes = Some(Arc::from(volumes));
    }

    fn watch_volumes(&mut self, volumes: &PodVolumes) {
        if !self.volumes_watched && !volumes.is_static() {
            self.volumes_watched = true;
            self.operations.push(volumes.changed().map(|()| Done::VolumesChanged).boxed());
        }
    }

    /// Brings mounted volumes up to date; at most one such operation runs.
    fn sync_volumes(&mut self) {
        if !self.volumes_dirty || self.volumes_busy || self.state.sandbox != Sandbox::Ready {
            return;
        }
        let (Some(network), Some(volumes)) = (self.network.clone(), self.volumes.clone()) else { return };
        self.volumes_dirty = false;
        self.volumes_busy = true;
        let fresh = Box::new((*volumes).clone());
        let work = operations::sync_volumes(self.context.clone(), self.object.clone(), network, fresh);
        self.operations.push(work.boxed());
    }

    fn started(&mut self, index: usize, started: start::Started) {
        self.runs += 1;
        let run = self.runs;
        let name = &self.spec.containers[index].name;
        let container = &mut self.state.containers[index];
        container.image = Some(Box::new(started.image));
        container.start_backoff.reset();
        container.ready = false;
        container.started = !self.spec.containers[index].startup_probe;
        container.run =
            Run::Running(Running { id: started.id.clone(), started_at: started.started_at, stopping: None });
        self.context.running.insert(&self.object.head.uid, name, started.container.clone());
        let watched = Watched {
            index,
            run,
            container: started.container.clone(),
            id: started.id,
            log: started.log,
            message: started.message,
        };
        self.operations.push(operations::wait(watched).boxed());
        let probes = started.probes.into_iter().map(probing::Probing::new).collect();
        let now = tokio::time::Instant::now();
        self.live
            .insert(index, Live { run, container: started.container, probes, started: now, stopping: false });
        self.begin_probes(index);
        self.status_dirty = true;
        if started.hook_failure.is_some() {
            self.kill_event(index, "FailedPostStartHook");
            self.stop(index, self.spec.grace_seconds);
        }
    }

    fn start_failed(&mut self, index: usize, failed: start::Failed) {
        let now = Timestamp::now();
        self.status_dirty = true;
        let mut waiting = super::state::Waiting {
            reason: failed.reason.clone(),
            message: Some(failed.message.clone()).filter(|m| !m.is_empty()),
            until: None,
            settles: None,
        };
        if plan::is_ending(&self.spec, &self.state) {
            self.state.containers[index].run = Run::Waiting(super::state::Waiting::of("ContainerCreating"));
            return;
        }
        let container = &mut self.state.containers[index];
        container.start_backoff.grow(now);
        waiting.until = Some(if failed.reason == "CreateContainerConfigError" {
            later(now, CONFIG_RETRY)
        } else {
            container.start_backoff.due(now)
        });
        if failed.reason == "ErrImagePull" {
            waiting.settles = Some(later(now, plan::PULL_ERROR_SHOWN));
        }
        container.run = Run::Waiting(waiting);
        if failed.image {
            return;
        }
        let field = self.spec.field_path(index);
        self.events().container(&field, EventType::Warning, "Failed", format!("Error: {}", failed.message));
    }

    fn ended(&mut self, index: usize, run: u64, terminated: super::state::Terminated) {
        if self.live.get(&index).is_none_or(|live| live.run != run) {
            return;
        }
        self.live.remove(&index);
        let uid = &self.object.head.uid;
        let name = &self.spec.containers[index].name;
        self.context.running.remove(uid, name);
        self.state.containers[index].ended(terminated);
        self.status_dirty = true;
    }
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

/// Whether the parts that downwardAPI volumes show are the same.
fn same_metadata(before: &Object, after: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(serde::Deserialize, PartialEq)]
    struct Metadata<'a> {
        #[serde(borrow, default)]
        annotations: Option<std::collections::BTreeMap<String, std::borrow::Cow<'a, str>>>,
    }
    let annotations = |object: &Object| -> Option<std::collections::BTreeMap<String, String>> {
        let document: Document<'_> = serde_json::from_slice(&object.json).ok()?;
        Some(document.metadata.annotations?.into_iter().map(|(k, v)| (k, v.into_owned())).collect())
    };
    before.head.labels == after.head.labels && annotations(before) == annotations(after)
}

mod probing;
mod resizing;
mod writing;

#[cfg(test)]
mod tests;
