//! The worker's operations: futures that do one thing for the pod and report how it went. IO.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, DeleteOptions, Object, PatchType};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};

use super::admission;
use super::context::Context;
use super::downward::Fields;
use super::events::PodEvents;
use super::hooks;
use super::network;
use super::spec::Spec;
use super::start::{Failed, MessageSource, Started};
use super::state::Terminated;
use crate::logs::{LogWriter, pod_directory, reader};
use crate::network::PodNetwork;
use crate::probes::{Kind, Outcome};
use crate::runtime::{Container, Exit, Runtime};
use crate::volumes::{PodVolumes, empty_dir};

/// How an operation ended. `run` tells one run of a container from the next.
pub enum Done {
    SetUp(Result<Prepared, SetUpFailure>),
    Started {
        index: usize,
        result: Result<Box<Started>, Failed>,
    },
    Ended {
        index: usize,
        run: u64,
        terminated: Terminated,
    },
    Stopped,
    /// Another pod has left room.
    Freed,
    Probed {
        index: usize,
        run: u64,
        kind: Kind,
        outcome: Outcome,
    },
    VolumesChanged,
    VolumesSynced(Box<PodVolumes>, Option<String>),
    /// A volume is over its limit: what to say.
    Exceeded(String),
    TornDown,
    StatusWritten {
        hash: u64,
        result: Result<(), ApiError>,
    },
    Removed(Result<(), ApiError>),
}

/// The pod's network, runtime and volumes.
pub struct Prepared {
    pub runtime: Arc<dyn Runtime>,
    pub network: Arc<PodNetwork>,
    pub volumes: Box<PodVolumes>,
}

pub struct SetUpFailure {
    /// The event's reason and text.
    pub reason: &'static str,
    pub message: String,
    /// Shown as the containers' waiting state where the cause is the pod's own spec.
    pub waiting: Option<String>,
    /// Followed until it works.
    pub volumes: Box<PodVolumes>,
}

pub async fn set_up(
    context: Arc<Context>,
    object: Arc<Object>,
    wanted_ip: Option<std::net::Ipv4Addr>,
    mut volumes: Box<PodVolumes>,
) -> Result<Prepared, SetUpFailure> {
    let sandbox = |message: String, shown: bool, volumes| SetUpFailure {
        reason: "FailedCreatePodSandBox",
        waiting: shown.then(|| message.clone()),
        message: format!("Failed to create pod sandbox: {message}"),
        volumes,
    };
    let pod: Pod = match object.decode() {
        Ok(pod) => pod,
        Err(error) => return Err(sandbox(error.to_string(), true, volumes)),
    };
    if let Some(reason) = admission::unsupported(&pod) {
        return Err(sandbox(reason, true, volumes));
    }
    let runtime = match runtime_of(&context, &pod).await {
        Ok(runtime) => runtime,
        Err(reason) => return Err(sandbox(reason, true, volumes)),
    };
    let request = match network::request(&context, &object, &pod) {
        Ok(request) => request,
        Err(reason) => return Err(sandbox(reason, true, volumes)),
    };
    let network = match context.network.create(&object.head.uid, wanted_ip, request) {
        Ok(network) => network,
        Err(error) => return Err(sandbox(error.to_string(), false, volumes)),
    };
    let fields = Fields {
        pod: &pod,
        pod_ips: network.ips(),
        host_ips: &context.node.host_ips,
        allocatable: &context.node.allocatable,
    };
    match context.volumes.sync(&mut volumes, &pod, &fields).await {
        Ok(()) => Ok(Prepared { runtime, network, volumes }),
        Err(error) => {
            Err(SetUpFailure { reason: "FailedMount", message: error.to_string(), waiting: None, volumes })
        }
    }
}

async fn runtime_of(context: &Context, pod: &Pod) -> Result<Arc<dyn Runtime>, String> {
    let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).unwrap_or_default();
    if class.is_empty() {
        return context.runtimes.first().cloned().ok_or_else(|| "this node has no runtime".to_owned());
    }
    let found = context.client.get::<RuntimeClass>("", class).await;
    let class =
        found.map_err(|error| format!("failed to get RuntimeClass {class:?}: {}", error.message()))?;
    context
        .runtimes
        .iter()
        .find(|runtime| runtime.name() == class.handler)
        .cloned()
        .ok_or_else(|| format!("no runtime for {:?} is configured", class.handler))
}

/// Writes the volumes again after a source, a token or the pod's metadata has changed.
pub async fn sync_volumes(
    context: Arc<Context>,
    object: Arc<Object>,
    network: Arc<PodNetwork>,
    mut volumes: Box<PodVolumes>,
) -> Done {
    let error = match object.decode::<Pod>() {
        Ok(pod) => {
            let fields = Fields {
                pod: &pod,
                pod_ips: network.ips(),
                host_ips: &context.node.host_ips,
                allocatable: &context.node.allocatable,
            };
            context.volumes.sync(&mut volumes, &pod, &fields).await.err().map(|e| e.to_string())
        }
        Err(error) => Some(error.to_string()),
    };
    Done::VolumesSynced(volumes, error)
}

pub async fn tear_down(context: Arc<Context>, object: Arc<Object>) -> Done {
    let uid = &object.head.uid;
    context.network.release(uid);
    if let Err(error) = context.volumes.remove(uid).await {
        tracing::warn!(pod = %object.key(), %error, "removing volumes");
    }
    let messages = context.node.messages.join(&**uid);
    let removal = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(messages)).await;
    if let Ok(Err(error)) = removal
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pod = %object.key(), %error, "removing termination messages");
    }
    Done::TornDown
}

/// What `wait` needs to tell how a container ended. Held as long as the container lives, so it is small.
pub struct Watched {
    pub index: usize,
    pub run: u64,
    pub container: Arc<dyn Container>,
    pub id: Box<str>,
    pub log: Arc<LogWriter>,
    pub message: MessageSource,
}

pub async fn wait(watched: Watched) -> Done {
    let exit = watched.container.wait().await;
    let Watched { index, run, id, log, message, .. } = watched;
    log.close();
    let terminated = Terminated {
        exit_code: exit.code,
        signal: exit.signal,
        reason: exit.reason.as_str().into(),
        message: termination_message(&message, &exit, &log),
        started_at: Some(exit.started_at),
        finished_at: Some(exit.finished_at),
        id,
    };
    Done::Ended { index, run, terminated }
}

/// Upstream's bounds on a termination message.
const MESSAGE_BYTES_MAX: usize = 4096;
const MESSAGE_LOG_LINES: u64 = 80;
const MESSAGE_LOG_BYTES_MAX: usize = 2048;

/// What the container wrote for it, else what the runtime says, else (if so wanted) the end of the log.
fn termination_message(source: &MessageSource, exit: &Exit, log: &LogWriter) -> Option<String> {
    let written = source.file.as_ref().and_then(|path| std::fs::read(path).ok());
    if let Some(bytes) = written.filter(|bytes| !bytes.is_empty()) {
        return Some(String::from_utf8_lossy(bytes.get(..MESSAGE_BYTES_MAX).unwrap_or(&bytes)).into_owned());
    }
    if exit.message.is_some() {
        return exit.message.clone();
    }
    if !source.fall_back_to_log || exit.code == 0 {
        return None;
    }
    let tail = reader::tail_text(log.path(), MESSAGE_LOG_LINES, MESSAGE_LOG_BYTES_MAX).ok()?;
    Some(tail).filter(|text| !text.is_empty())
}

/// Resolves when a volume holds more than its limit, with upstream's message.
pub async fn exceeded(limits: Vec<(Box<str>, PathBuf, u64)>, every: Duration) -> Done {
    loop {
        tokio::time::sleep(every).await;
        let measured = limits.clone();
        let over = tokio::task::spawn_blocking(move || {
            measured
                .into_iter()
                .find(|(_, path, limit)| empty_dir::usage(path).is_ok_and(|used| used > *limit))
        });
        if let Ok(Some((name, _, limit))) = over.await {
            let limit = Quantity::from_bytes(i64::try_from(limit).unwrap_or(i64::MAX));
            return Done::Exceeded(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "
            ));
        }
    }
}

/// preStop, then the request to end; both within the grace.
pub async fn stop(
    context: Arc<Context>,
    object: Arc<Object>,
    network: Option<Arc<PodNetwork>>,
    index: usize,
    container: Arc<dyn Container>,
    grace: Duration,
    with_hook: bool,
) -> Done {
    let begun = tokio::time::Instant::now();
    if with_hook && !grace.is_zero() {
        let hook = async {
            let pod: Pod = object.decode().ok()?;
            let spec = Spec::of(&pod);
            let view = spec.container_of(&pod, index)?;
            let hook = view.lifecycle.as_ref()?.pre_stop.as_ref()?;
            let ip = network.as_ref()?.ip();
            let error = hooks::run(hook, &view, &container, ip, grace).await.err()?;
            PodEvents::new(&context.recorder, &object).container(
                &spec.field_path(index),
                coracle_client::events::EventType::Warning,
                "FailedPreStopHook",
                format!("PreStopHook failed: {error}"),
            );
            Some(())
        };
        // A container that ends by itself needs no hook any more.
        tokio::select! {
            _ = hook => {}
            _ = container.wait() => return Done::Stopped,
        }
    }
    // Upstream leaves a container two seconds however long its hook took.
    let least = Duration::from_secs(2).min(grace);
    container.stop(grace.saturating_sub(begun.elapsed()).max(least)).await;
    Done::Stopped
}

pub async fn write_status(context: Arc<Context>, object: Arc<Object>, status: Value, hash: u64) -> Done {
    let head = &object.head;
    // The uid makes it fail on a pod that took this one's name.
    let patch = json!({"metadata": {"uid": head.uid}, "status": status});
    let result = context
        .client
        .patch::<Pod>(&head.namespace, &head.name, Some("status"), PatchType::Strategic, &patch)
        .await
        .map(drop);
    Done::StatusWritten { hash, result }
}

/// The node's last word on a deleted pod: the object may go.
pub async fn remove(context: Arc<Context>, object: Arc<Object>) -> Done {
    let head = &object.head;
    let options = DeleteOptions::grace(0).uid(&head.uid);
    Done::Removed(context.client.delete::<Pod>(&head.namespace, &head.name, options).await)
}

pub fn remove_logs(context: &Context, object: &Object) {
    let head = &object.head;
    let directory = pod_directory(&head.namespace, &head.name, &head.uid);
    if let Err(error) = context.logs.remove_pod(&directory, &head.uid) {
        tracing::warn!(pod = %object.key(), %error, "removing logs");
    }
}
