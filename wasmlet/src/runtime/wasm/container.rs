//! A running container's handle: how it is told to end, and how its end is told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wasmtime::PoolConcurrencyLimitError;

use super::Inner;
use super::cpu::CpuAccount;
use super::guest::GuestSetup;
use super::memory::{MemoryAccount, OomKilled};
use super::modules::Prepared;
use super::sockets::ContainerNetwork;
use crate::runtime::stdio::{AttachError, Attached, Attachments, Stdio};
use crate::runtime::{
    Container, EXIT_CANNOT_RUN, EXIT_KILLED, EXIT_TERMINATED, EXIT_TRAPPED, ExecError, Exit, ExitReason,
    Limits, LogSink, StartError, Stats, Stream,
};

/// How the work of a container came to its end.
#[derive(Debug)]
pub(super) enum Outcome {
    Exited(i32),
    /// A trap, or an error of the host on the guest's behalf.
    Failed(wasmtime::Error),
    OutOfMemory(OomKilled),
    /// Ended by the default action of a termination signal, which the guest has no way to handle.
    Terminated,
    Killed,
    /// A bug of ours: contained here, so that it costs one container and not the node.
    Panicked,
}

/// What the handle and the task that runs the guest share.
pub(super) struct Control {
    exit: watch::Sender<Option<Exit>>,
    /// Drop the guest now.
    pub kill: CancellationToken,
    /// Please end.
    pub terminate: CancellationToken,
    /// What `stop` was given, in milliseconds.
    grace_millis: AtomicU64,
    /// The kill is a termination's default action, not a SIGKILL.
    by_default_action: AtomicBool,
    started_at: Timestamp,
    log: Arc<dyn LogSink>,
    attachments: Option<Arc<Attachments>>,
}

pub(super) struct WasmContainer {
    pub control: Arc<Control>,
    pub cpu: Arc<CpuAccount>,
    pub memory: Arc<MemoryAccount>,
    pub net: Arc<ContainerNetwork>,
    /// An http container is told through its server; a command only through its listeners.
    pub serves_http: bool,
    /// For programs to be run beside it; such a program has none of its own.
    pub sandbox: Option<Sandbox>,
}

/// What it takes to run another program in the container's place.
pub(super) struct Sandbox {
    pub runtime: Arc<Inner>,
    pub setup: Arc<GuestSetup>,
    pub prepared: Arc<Prepared>,
    pub attachments: Arc<Attachments>,
}

impl Control {
    pub fn new(log: Arc<dyn LogSink>, attachments: Option<Arc<Attachments>>) -> Self {
        Control {
            exit: watch::channel(None).0,
            kill: CancellationToken::new(),
            terminate: CancellationToken::new(),
            grace_millis: AtomicU64::new(0),
            by_default_action: AtomicBool::new(false),
            started_at: Timestamp::now(),
            log,
            attachments,
        }
    }

    pub async fn ended(&self) {
        let mut exit = self.exit.subscribe();
        // The sender is ours: this cannot fail while we are here.
        let _ = exit.wait_for(Option::is_some).await;
    }

    pub fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// How long the container has from when it was asked to end.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_millis.load(Ordering::Relaxed))
    }

    /// Runs the work to its end, or to a kill. Whatever it holds is dropped, and the cleanup done, before the end is
    /// told.
    pub async fn supervise(&self, work: impl Future<Output = Outcome>, cleanup: impl Future<Output = ()>) {
        // The runtime's end drops this task; who waits for the container must not wait for ever.
        let _last_word = LastWord(self);
        let outcome = {
            let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
            tokio::select! {
                biased;
                () = self.kill.cancelled() => {
                    if self.by_default_action.load(Ordering::Relaxed) {
                        Outcome::Terminated
                    } else {
                        Outcome::Killed
                    }
                }
                outcome = &mut work => outcome.unwrap_or(Outcome::Panicked),
            }
        };
        cleanup.await;
        self.finish(outcome);
    }

    fn finish(&self, outcome: Outcome) {
        if self.exit.borrow().is_some() {
            return;
        }
        let exit = exit_of(&outcome, self.started_at, Timestamp::now());
        if let Outcome::Failed(_) | Outcome::OutOfMemory(_) | Outcome::Panicked = outcome
            && let Some(message) = &exit.message
        {
            let line = format!("{}\n", message.trim_end());
            self.log.write(Stream::Stderr, line.as_bytes());
            if let Some(attachments) = &self.attachments {
                attachments.write(Stream::Stderr, line.as_bytes());
            }
        }
        if let Some(attachments) = &self.attachments {
            attachments.close();
        }
        self.exit.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(exit);
            }
            first
        });
    }

    fn kill_by_default_action(&self) {
        self.by_default_action.store(true, Ordering::Relaxed);
        self.kill.cancel();
    }
}

struct LastWord<'a>(&'a Control);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        self.0.finish(Outcome::Killed);
    }
}

/// Pure: the container status of an outcome.
fn exit_of(outcome: &Outcome, started_at: Timestamp, finished_at: Timestamp) -> Exit {
    let exit = |code, reason, message| Exit { code, reason, message, signal: 0, started_at, finished_at };
    match outcome {
        Outcome::Exited(0) => exit(0, ExitReason::Completed, None),
        // A process's status is 8 bits wide.
        Outcome::Exited(code) if code & 0xff == 0 => exit(0, ExitReason::Completed, None),
        Outcome::Exited(code) => exit(code & 0xff, ExitReason::Error, None),
        Outcome::Failed(error) if !is_the_guests(error) => {
            exit(EXIT_CANNOT_RUN, ExitReason::ContainerCannotRun, Some(describe(error)))
        }
        Outcome::Failed(error) => exit(EXIT_TRAPPED, ExitReason::Error, Some(describe(error))),
        Outcome::OutOfMemory(oom) => exit(EXIT_KILLED, ExitReason::OomKilled, Some(oom.to_string())),
        Outcome::Terminated => exit(EXIT_TERMINATED, ExitReason::Error, None),
        Outcome::Killed => exit(EXIT_KILLED, ExitReason::Error, None),
        Outcome::Panicked => {
            exit(EXIT_TRAPPED, ExitReason::Error, Some("the Wasm host failed running this guest".into()))
        }
    }
}

/// False for what kept the guest from running at all.
fn is_the_guests(error: &wasmtime::Error) -> bool {
    !error.is::<PoolConcurrencyLimitError>() && !error.is::<StartError>()
}

/// Upstream's bound on a termination message.
const MESSAGE_MAX: usize = 4096;

/// A trap's name first, then the chain (which holds the Wasm backtrace), cut to upstream's bound.
pub(super) fn describe(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => format!("{trap}"),
        None => error.root_cause().to_string(),
    };
    if let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() {
        text.push('\n');
        text.push_str(&backtrace.to_string());
    }
    let mut end = text.len().min(MESSAGE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.trim_end().to_owned()
}

#[async_trait]
impl Container for WasmContainer {
    async fn wait(&self) -> Exit {
        let mut exit = self.control.exit.subscribe();
        loop {
            let seen = exit.borrow_and_update().clone();
            if let Some(exit) = seen {
                return exit;
            }
            // The sender lives in `self`, so this cannot fail while we are here.
            if exit.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn stop(&self, grace: Duration) {
        let deadline = tokio::time::Instant::now() + grace;
        if grace.is_zero() {
            self.kill();
        }
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.control.grace_millis.store(millis, Ordering::Relaxed);
        self.control.terminate.cancel();
        if !self.serves_http && !self.control.kill.is_cancelled() {
            if self.net.has_listeners() {
                self.net.terminate().await;
            } else {
                // Nothing can tell this guest. A process without a handler dies of SIGTERM at once; so does it.
                self.control.kill_by_default_action();
            }
        }
        if tokio::time::timeout_at(deadline, self.wait()).await.is_err() {
            self.kill();
            self.wait().await;
        }
    }

    fn kill(&self) {
        self.control.kill.cancel();
    }

    async fn exec(&self, command: Vec<String>, stdio: Stdio) -> Result<Arc<dyn Container>, ExecError> {
        super::exec::exec(self, command, stdio).await
    }

    fn attach(&self, stdin: bool) -> Result<Attached, AttachError> {
        match &self.sandbox {
            Some(sandbox) if !self.control.has_ended() => sandbox.attachments.attach(stdin),
            _ => Err(AttachError::Ended),
        }
    }

    fn resize(&self, limits: Limits) {
        self.memory.set_limit(limits.memory_bytes.filter(|limit| *limit > 0));
        self.cpu.set_limit(limits.cpu_millis.filter(|limit| *limit > 0));
    }

    fn stats(&self) -> Stats {
        Stats {
            started_at: self.control.started_at,
            cpu_nanos: self.cpu.used_nanos(),
            memory_bytes: self.memory.used(),
            memory_peak_bytes: self.memory.peak(),
            memory_limit_bytes: self.memory.limit(),
            cpu_limit_millis: self.cpu.limit_millis(),
            cpu_throttled: self.cpu.throttled(),
            cpu_throttled_nanos: self.cpu.throttled_nanos(),
            instances: self.memory.activity().instances(),
            traps: self.memory.activity().traps(),
            requests: self.memory.activity().requests(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits() {
        let now = Timestamp::now();
        let oom = OomKilled { limit: 10, wanted: 11 };
        for (outcome, code, reason) in [
            (Outcome::Exited(0), 0, "Completed"),
            (Outcome::Exited(7), 7, "Error"),
            (Outcome::Exited(-1), 255, "Error"),
            (Outcome::Exited(256), 0, "Completed"),
            (Outcome::Failed(wasmtime::Trap::UnreachableCodeReached.into()), 134, "Error"),
            (Outcome::OutOfMemory(oom), 137, "OOMKilled"),
            (Outcome::Terminated, 143, "Error"),
            (Outcome::Killed, 137, "Error"),
        ] {
            let exit = exit_of(&outcome, now, now);
            assert_eq!((exit.code, exit.reason.as_str()), (code, reason), "{outcome:?}");
        }
    }

    #[test]
    fn descriptions_are_bounded() {
        let text = describe(&wasmtime::Error::msg("ä".repeat(MESSAGE_MAX)));
        assert!(text.len() <= MESSAGE_MAX && text.starts_with('ä'));
        let trap = describe(&wasmtime::Trap::IntegerDivisionByZero.into());
        assert!(trap.contains("integer divide by zero"), "{trap}");
    }
}
