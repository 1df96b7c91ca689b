//! A runtime that runs nothing: containers of any behaviour by annotation, for tests with thousands of pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::stdio::{AttachError, Attached, Attachments, Stdin, Stdio};
use super::{
    Container, ContainerSpec, EXIT_KILLED, EXIT_TERMINATED, ExecError, Exit, ExitReason, Limits,
    PrepareError, Runtime, StartError, Stats, Stream,
};
use crate::images::LocalImage;

/// How long `start` takes, in milliseconds.
pub const ANNOTATION_START_MS: &str = "fake.coracle.dev/start-ms";
/// How long after its start the container counts as ready, in milliseconds (see [`ready_after`]).
pub const ANNOTATION_READY_MS: &str = "fake.coracle.dev/ready-ms";
/// How long it lives, in milliseconds; without it, until it is stopped.
pub const ANNOTATION_LIFETIME_MS: &str = "fake.coracle.dev/lifetime-ms";
/// Its exit code at the end of its lifetime.
pub const ANNOTATION_EXIT_CODE: &str = "fake.coracle.dev/exit-code";
/// How long it takes to end when asked to, in milliseconds.
pub const ANNOTATION_STOP_MS: &str = "fake.coracle.dev/stop-ms";
/// When present, `start` fails with this text.
pub const ANNOTATION_START_ERROR: &str = "fake.coracle.dev/start-error";
/// Written to stdout at start.
pub const ANNOTATION_LOG: &str = "fake.coracle.dev/log";

/// Holds no state: a container is one timer task, or none at all while it has no lifetime.
#[derive(Debug, Default)]
pub struct FakeRuntime;

/// When a container with these annotations is to be reported ready, counted from its start.
pub fn ready_after(annotations: &BTreeMap<String, String>) -> Duration {
    millis(annotations, ANNOTATION_READY_MS).unwrap_or_default()
}

fn millis(annotations: &BTreeMap<String, String>, key: &str) -> Option<Duration> {
    annotations.get(key)?.parse().ok().map(Duration::from_millis)
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn prepare(&self, _image: &LocalImage) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        let annotations = &spec.annotations;
        if let Some(text) = annotations.get(ANNOTATION_START_ERROR) {
            return Err(StartError::Config(text.clone()));
        }
        if let Some(delay) = millis(annotations, ANNOTATION_START_MS) {
            tokio::time::sleep(delay).await;
        }
        if let Some(text) = annotations.get(ANNOTATION_LOG) {
            spec.log.write(Stream::Stdout, format!("{text}\n").as_bytes());
        }
        let (end, _) = watch::channel(None);
        let container = Arc::new(FakeContainer {
            end,
            started_at: Timestamp::now(),
            stop_after: millis(annotations, ANNOTATION_STOP_MS).unwrap_or_default(),
            memory_bytes: 64 << 10,
            attachments: Arc::new(Attachments::new(spec.stdin, spec.terminal).0),
        });
        if let Some(lifetime) = millis(annotations, ANNOTATION_LIFETIME_MS) {
            let code = annotations.get(ANNOTATION_EXIT_CODE).and_then(|c| c.parse().ok()).unwrap_or(0);
            let container = container.clone();
            tokio::spawn(async move {
                let mut ended = container.end.subscribe();
                tokio::select! {
                    () = tokio::time::sleep(lifetime) => container.finish(code, 0),
                    _ = ended.wait_for(Option::is_some) => {}
                }
            });
        }
        Ok(container)
    }
}

struct FakeContainer {
    end: watch::Sender<Option<Exit>>,
    started_at: Timestamp,
    stop_after: Duration,
    memory_bytes: u64,
    attachments: Arc<Attachments>,
}

impl FakeContainer {
    /// The first end counts.
    fn finish(&self, code: i32, signal: i32) {
        self.end.send_if_modified(|end| {
            if end.is_some() {
                return false;
            }
            *end = Some(Exit {
                code,
                reason: if code == 0 { ExitReason::Completed } else { ExitReason::Error },
                message: None,
                signal,
                started_at: self.started_at,
                finished_at: Timestamp::now(),
            });
            true
        });
        self.attachments.close();
    }
}

#[async_trait]
impl Container for FakeContainer {
    async fn wait(&self) -> Exit {
        let mut end = self.end.subscribe();
        loop {
            let seen = end.borrow_and_update().clone();
            if let Some(exit) = seen {
                return exit;
            }
            // The sender lives in `self`, so this cannot fail while we are here.
            if end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let done = Instant::now() + self.stop_after;
        let mut ended = self.end.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(done.min(deadline)) => {}
            _ = ended.wait_for(Option::is_some) => return,
        }
        if done <= deadline { self.finish(EXIT_TERMINATED, 0) } else { self.finish(EXIT_KILLED, 0) }
    }

    fn kill(&self) {
        self.finish(EXIT_KILLED, 0);
    }

    /// `echo WORDS`, `cat`, `exit CODE`, `sleep` (for ever): enough to test those who ask.
    async fn exec(&self, command: Vec<String>, stdio: Stdio) -> Result<Arc<dyn Container>, ExecError> {
        if self.end.borrow().is_some() {
            return Err(ExecError::NotRunning);
        }
        let (end, _) = watch::channel(None);
        let child = Arc::new(FakeContainer {
            end,
            started_at: Timestamp::now(),
            stop_after: Duration::ZERO,
            memory_bytes: 0,
            attachments: Arc::new(Attachments::new(Stdin::None, false).0),
        });
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let Stdio { stdin, stdout, stderr, .. } = stdio;
        match words.as_slice() {
            ["echo", words @ ..] => {
                let text = format!("{}\n", words.join(" "));
                if let Some(stdout) = stdout {
                    let _ = stdout.send(text.into()).await;
                }
                child.finish(0, 0);
            }
            ["exit", code] => {
                if let Some(stderr) = stderr {
                    let _ = stderr.send("leaving\n".into()).await;
                }
                child.finish(code.parse().unwrap_or(1), 0);
            }
            ["cat"] => {
                let child = child.clone();
                tokio::spawn(async move {
                    if let (Some(mut stdin), Some(stdout)) = (stdin, stdout) {
                        while let Some(bytes) = stdin.recv().await {
                            if stdout.send(bytes).await.is_err() {
                                break;
                            }
                        }
                    }
                    child.finish(0, 0);
                });
            }
            ["sleep"] => {}
            _ => return Err(ExecError::NotInPath(command.into_iter().next().unwrap_or_default())),
        }
        Ok(child)
    }

    fn attach(&self, stdin: bool) -> Result<Attached, AttachError> {
        if self.end.borrow().is_some() {
            return Err(AttachError::Ended);
        }
        self.attachments.attach(stdin)
    }

    fn resize(&self, _limits: Limits) {}

    fn stats(&self) -> Stats {
        let live = self.end.borrow().is_none();
        Stats {
            started_at: self.started_at,
            memory_bytes: if live { self.memory_bytes } else { 0 },
            memory_peak_bytes: self.memory_bytes,
            ..Stats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::images::ImageConfig;
    use crate::network::{Mode, Network, Options, Request};
    use crate::runtime::{DiscardLogs, LogSink};

    async fn start(annotations: &[(&str, &str)]) -> Result<Arc<dyn Container>, StartError> {
        let network =
            Network::new(Options::new(Mode::Rootless("127.126.0.0/24".parse().unwrap()))).await.unwrap();
        let image = LocalImage {
            reference: "fake".into(),
            digest: String::new(),
            wasm_digest: String::new(),
            wasm_path: PathBuf::new(),
            size_bytes: 0,
            config: ImageConfig::default(),
        };
        let log: Arc<dyn LogSink> = Arc::new(DiscardLogs);
        let annotations: BTreeMap<String, String> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let spec = ContainerSpec {
            pod_namespace: "default".into(),
            pod_name: "pod".into(),
            pod_uid: "uid".into(),
            container_name: "c".into(),
            restart_count: 0,
            image: Arc::new(image),
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            objects: Vec::new(),
            keyvalue_directory: None,
            ports: Vec::new(),
            limits: Limits::default(),
            stdin: Stdin::None,
            terminal: false,
            network: network.create("uid", None, Request::default()).unwrap(),
            log,
            annotations,
        };
        FakeRuntime.start(spec).await
    }

    #[tokio::test]
    async fn lifetimes_and_exit_codes() {
        let container = start(&[(ANNOTATION_LIFETIME_MS, "5"), (ANNOTATION_EXIT_CODE, "3")]).await.unwrap();
        let exit = container.wait().await;
        assert_eq!((exit.code, exit.reason), (3, ExitReason::Error));
        assert_eq!(container.stats().memory_bytes, 0);
        container.kill();
        assert_eq!(container.wait().await, exit, "the first end counts");
    }

    #[tokio::test]
    async fn stops() {
        for (stop_ms, grace_ms, code) in [("0", 1000, 143), ("1000", 10, 137)] {
            let container = start(&[(ANNOTATION_STOP_MS, stop_ms)]).await.unwrap();
            container.stop(Duration::from_millis(grace_ms)).await;
            assert_eq!(container.wait().await.code, code);
        }
    }

    #[tokio::test]
    async fn start_errors() {
        let error = start(&[(ANNOTATION_START_ERROR, "no luck")]).await.err().unwrap();
        assert_eq!(error.to_string(), "invalid container configuration: no luck");
        let annotations = BTreeMap::from([(ANNOTATION_READY_MS.to_owned(), "7".to_owned())]);
        assert_eq!(ready_after(&annotations), Duration::from_millis(7));
    }
}
