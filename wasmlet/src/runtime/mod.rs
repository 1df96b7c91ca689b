//! What a pod worker may ask of something that runs containers, and nothing about how it is done.

mod counts;
pub mod fake;
pub mod output;
pub mod stdio;
pub mod wasm;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

pub use counts::{Counted, LATENCY_BOUNDS, Requests};

use crate::images::LocalImage;
use crate::network::PodNetwork;
use stdio::{AttachError, Attached, Stdin, Stdio};

/// A way to run containers; its name is the RuntimeClass handler that selects it.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The RuntimeClass handler: `wasmtime`, `fake`.
    fn name(&self) -> &'static str;

    /// Makes the image startable without delay (compiles it, or maps what was compiled before). Idempotent; many
    /// callers for one image share the work, and none of it happens on the caller's threads.
    async fn prepare(&self, image: &LocalImage) -> Result<(), PrepareError>;

    /// Starts a container. Returns as soon as it runs; what happens after that is in its [`Exit`].
    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, StartError>;
}

/// A started container. Dropping the last handle does not stop it: `stop` or `kill` does.
#[async_trait]
pub trait Container: Send + Sync {
    /// Resolves when the container has ended; any number of tasks may wait, also after the end.
    async fn wait(&self) -> Exit;

    /// Asks the container to end (what SIGTERM is to a process) and returns when it has ended, after `grace` at the
    /// latest plus the few milliseconds that dropping it takes. A later call may shorten the grace, never lengthen it.
    async fn stop(&self, grace: Duration);

    /// Ends the container at once, exit code 137. Returns before it has ended; see `wait`.
    fn kill(&self);

    /// Runs a program in the container's sandbox: its mounts, environment, network and limits. It ends with the
    /// container at the latest.
    async fn exec(&self, command: Vec<String>, stdio: Stdio) -> Result<Arc<dyn Container>, ExecError>;

    /// Listens to the container's own output from now on, and writes to its stdin.
    fn attach(&self, stdin: bool) -> Result<Attached, AttachError>;

    /// New limits for the container as it runs.
    fn resize(&self, limits: Limits);

    /// What it used so far; valid also after the end.
    fn stats(&self) -> Stats;
}

/// What a container may use; None: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    pub cpu_millis: Option<u64>,
}

/// Everything a runtime needs to start one container.
#[derive(Clone)]
pub struct ContainerSpec {
    pub pod_namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    pub container_name: String,
    pub restart_count: u32,
    pub image: Arc<LocalImage>,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty.
    pub args: Vec<String>,
    /// On top of the image's environment; the last of a name wins.
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    /// What of the mounts is a ConfigMap or Secret as a whole.
    pub objects: Vec<MountedObject>,
    /// Where the namespace's key-value store of this node is; None: the container's buckets are in memory.
    pub keyvalue_directory: Option<PathBuf>,
    pub ports: Vec<Port>,
    pub limits: Limits,
    pub stdin: Stdin,
    /// The guest is told that its streams are a terminal.
    pub terminal: bool,
    pub network: Arc<PodNetwork>,
    pub log: Arc<dyn LogSink>,
    /// The pod's annotations; each runtime names those it reads as constants.
    pub annotations: BTreeMap<String, String>,
}

impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("pod", &format_args!("{}/{}", self.pod_namespace, self.pod_name))
            .field("container", &self.container_name)
            .field("image", &self.image.reference)
            .finish_non_exhaustive()
    }
}

/// A host directory (or file) made visible to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub read_only: bool,
}

/// A ConfigMap or Secret that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedObject {
    pub kind: ObjectKind,
    pub name: String,
    /// A file per key, kept current by the node.
    pub host_path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

/// A containerPort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub port: u16,
    pub protocol: Protocol,
    pub host_port: Option<u16>,
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name in CRI log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Where a container's output goes. Called on guest threads with whatever the guest wrote (no line boundaries), so it
/// must not block for long.
pub trait LogSink: Send + Sync {
    fn write(&self, stream: Stream, bytes: &[u8]);
}

/// A sink that forgets.
#[derive(Debug, Default, Clone, Copy)]
pub struct DiscardLogs;

impl LogSink for DiscardLogs {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
}

/// How a container ended; the fields are those of `ContainerStateTerminated`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub reason: ExitReason,
    /// For a trap: its name and the Wasm backtrace.
    pub message: Option<String>,
    /// The signal that a process would have died of, 0 for none.
    pub signal: i32,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// Upstream's values of `state.terminated.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitReason {
    Completed,
    Error,
    OomKilled,
    ContainerCannotRun,
}

impl ExitReason {
    pub fn as_str(self) -> &'static str {
        match self {
            ExitReason::Completed => "Completed",
            ExitReason::Error => "Error",
            ExitReason::OomKilled => "OOMKilled",
            ExitReason::ContainerCannotRun => "ContainerCannotRun",
        }
    }
}

/// Exit code of a container that was dropped (128 + SIGKILL).
pub const EXIT_KILLED: i32 = 137;
/// Exit code of a container that ended because it was asked to (128 + SIGTERM).
pub const EXIT_TERMINATED: i32 = 143;
/// Exit code of a guest that trapped (128 + SIGABRT, what abort() gives a process).
pub const EXIT_TRAPPED: i32 = 134;

/// Exit code of a container that never ran (what OCI runtimes give).
pub const EXIT_CANNOT_RUN: i32 = 128;

/// What a container has used since it started, and uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub started_at: Timestamp,
    pub cpu_nanos: u64,
    /// Linear memory and tables of all live instances: the working set's upper bound.
    pub memory_bytes: u64,
    /// The highest `memory_bytes` seen.
    pub memory_peak_bytes: u64,
    /// The limits in force; None: no limit.
    pub memory_limit_bytes: Option<u64>,
    pub cpu_limit_millis: Option<u64>,
    /// How often the CPU limit made it wait, and for how long in all.
    pub cpu_throttled: u64,
    pub cpu_throttled_nanos: u64,
    /// Instances that live now.
    pub instances: u64,
    /// Guests that ended in a trap.
    pub traps: u64,
    pub requests: Requests,
}

/// Why an image cannot be run by a runtime; the worker reports `CreateContainerError` with the text.
#[derive(Debug, thiserror::Error, Clone)]
pub enum PrepareError {
    /// The bytes are no Wasm, or are malformed.
    #[error("image {reference}: not a valid Wasm module or component: {reason}")]
    Invalid { reference: String, reason: String },
    /// It is Wasm, but of a kind that this runtime does not run.
    #[error("image {reference}: unsupported world: {reason}")]
    UnsupportedWorld { reference: String, reason: String },
    /// The guest asks for something that this host does not have.
    #[error("image {reference}: unmet import: {reason}")]
    UnmetImport { reference: String, reason: String },
    /// The stored file no longer has the digest it was stored under.
    #[error("image {reference}: stored content is damaged: {reason}")]
    Damaged { reference: String, reason: String },
    #[error("image {reference}: compile: {reason}")]
    Compile { reference: String, reason: String },
    #[error("image {reference}: {step}: {reason}")]
    Io { reference: String, step: &'static str, reason: String },
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The spec asks for what this runtime cannot give.
    #[error("invalid container configuration: {0}")]
    Config(String),
    #[error("mount {container_path}: {source}")]
    Mount { container_path: String, source: std::io::Error },
    #[error("listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    /// The node holds as many instances as it can (see the text for which bound).
    #[error("node is full: {0}")]
    NodeFull(String),
    #[error("runtime is shutting down")]
    ShuttingDown,
}

/// Why a program could not be run in a container; the texts are those of OCI runtimes, which users know.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("container not running")]
    NotRunning,
    /// A name without a slash that is in no directory of the path.
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: \"{0}\": stat {0}: no such file or directory")]
    NoSuchFile(String),
    #[error("exec: \"{program}\": {reason}")]
    NotExecutable { program: String, reason: String },
    #[error(transparent)]
    Start(#[from] StartError),
}

impl ExecError {
    /// The exit code that shells give to it.
    pub fn code(&self) -> i32 {
        match self {
            ExecError::NotInPath(_) | ExecError::NoSuchFile(_) => 127,
            ExecError::NotExecutable { .. } => 126,
            ExecError::NotRunning | ExecError::Start(_) => EXIT_CANNOT_RUN,
        }
    }
}

impl StartError {
    /// The waiting reason upstream's kubelet would show: configuration errors are distinguished from failures to run.
    pub fn reason(&self) -> &'static str {
        match self {
            StartError::Prepare(_) => "CreateContainerError",
            StartError::Config(_) => "CreateContainerConfigError",
            StartError::Mount { .. }
            | StartError::Listen { .. }
            | StartError::NodeFull(_)
            | StartError::ShuttingDown => "RunContainerError",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_upstreams() {
        let names: Vec<_> =
            [ExitReason::Completed, ExitReason::Error, ExitReason::OomKilled, ExitReason::ContainerCannotRun]
                .map(ExitReason::as_str)
                .to_vec();
        assert_eq!(names, ["Completed", "Error", "OOMKilled", "ContainerCannotRun"]);
        assert_eq!(StartError::Config("x".into()).reason(), "CreateContainerConfigError");
    }
}
