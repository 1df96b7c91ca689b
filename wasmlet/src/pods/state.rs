//! What the worker knows of its pod's containers: the state that planning reads and status is written from.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

use super::backoff::Backoff;
use super::spec::Spec;

#[derive(Debug, Clone)]
pub struct PodState {
    /// As in [`Spec::containers`].
    pub containers: Vec<ContainerState>,
    pub sandbox: Sandbox,
    /// When this node accepted the pod: `status.startTime`.
    pub start_time: Option<Timestamp>,
    /// A verdict on the whole pod: rejected at admission, past its deadline, evicted. It ends as Failed.
    pub failure: Option<Failure>,
    pub ip: Option<Ipv4Addr>,
    /// The second of `status.podIPs`.
    pub ip6: Option<Ipv6Addr>,
    /// Gone from the API (or about to be): end it without saying so to anyone.
    pub vanished: bool,
    pub conditions: Vec<Condition>,
    /// A resize that waits.
    pub resize: Option<Resize>,
    /// Whether the API was ever told of one.
    pub resize_told: bool,
    /// `name_namespace(uid)`, as back-off messages name the pod.
    pub label: Box<str>,
}

/// `PodResizePending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: Cow<'static, str>,
    pub message: String,
}

/// The pod's network and volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sandbox {
    #[default]
    Absent,
    SettingUp,
    Ready,
    /// Tried again at this time.
    Failed(Timestamp),
    TearingDown,
    Closed,
}

/// A condition the worker owns, with the time its status last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
    pub since: Timestamp,
}

#[derive(Debug, Clone, Default)]
pub struct ContainerState {
    pub run: Run,
    pub restarts: u32,
    /// `lastState.terminated`.
    pub last: Option<Box<Terminated>>,
    /// What was resolved when it last started.
    pub image: Option<Box<ImageFacts>>,
    /// Of starts that failed: the image's pull above all.
    pub start_backoff: Backoff,
    pub crash_backoff: Backoff,
    /// What it was given of what the pod asks for.
    pub resources: Option<Box<ResourceRequirements>>,
    /// The readiness probe's verdict; meaningless without one.
    pub ready: bool,
    /// The startup probe's verdict; meaningless without one.
    pub started: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    pub image: String,
    pub image_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    Waiting(Waiting),
    /// An operation is under way that ends in Running or Waiting; until then it shows as this.
    Starting(Waiting),
    Running(Running),
    Terminated(Box<Terminated>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: Cow<'static, str>,
    pub message: Option<String>,
    /// Not tried before this time.
    pub until: Option<Timestamp>,
    /// When `ErrImagePull` becomes `ImagePullBackOff`.
    pub settles: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: Box<str>,
    pub started_at: Timestamp,
    /// It was asked to end, and is killed at this time.
    pub stopping: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminated {
    pub exit_code: i32,
    pub signal: i32,
    pub reason: Cow<'static, str>,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub id: Box<str>,
}

impl Default for Run {
    fn default() -> Self {
        Run::Waiting(Waiting::of("ContainerCreating"))
    }
}

impl Waiting {
    pub fn of(reason: &'static str) -> Self {
        Waiting { reason: Cow::Borrowed(reason), message: None, until: None, settles: None }
    }
}

impl PodState {
    pub fn new(spec: &Spec, label: &str) -> Self {
        let waiting = if spec.init_count > 0 { "PodInitializing" } else { "ContainerCreating" };
        PodState {
            containers: (0..spec.containers.len())
                .map(|index| {
                    // Upstream shows the containers of a pod with init containers as initialising from the start.
                    let waiting = if spec.is_ephemeral(index) { "ContainerCreating" } else { waiting };
                    ContainerState {
                        run: Run::Waiting(Waiting::of(waiting)),
                        started: !spec.containers[index].startup_probe,
                        ..ContainerState::default()
                    }
                })
                .collect(),
            sandbox: Sandbox::Absent,
            start_time: None,
            failure: None,
            ip: None,
            ip6: None,
            vanished: false,
            conditions: Vec::new(),
            resize: None,
            resize_told: false,
            label: label.into(),
        }
    }

    /// No container runs or is about to.
    pub fn quiet(&self) -> bool {
        self.containers.iter().all(|c| matches!(c.run, Run::Waiting(_) | Run::Terminated(_)))
    }
}

impl ContainerState {
    pub fn running(&self) -> Option<&Running> {
        match &self.run {
            Run::Running(running) => Some(running),
            _ => None,
        }
    }

    pub fn terminated(&self) -> Option<&Terminated> {
        match &self.run {
            Run::Terminated(terminated) => Some(terminated),
            _ => None,
        }
    }

    /// Ended for good with exit code 0.
    pub fn succeeded(&self) -> bool {
        self.terminated().is_some_and(|t| t.exit_code == 0)
    }

    pub fn ended(&mut self, terminated: Terminated) {
        self.ready = false;
        self.started = false;
        self.run = Run::Terminated(Box::new(terminated));
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.run, Run::Starting(_))
    }
}

/// A grace in whole seconds as the runtime wants it; nobody waits longer than a week.
pub fn grace(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(7 * 86_400))
}
