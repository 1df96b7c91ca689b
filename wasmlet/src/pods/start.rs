//! Starts one container: its image, its environment, its mounts, then the runtime. IO.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Object;
use coracle_client::events::EventType;
use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerView, Pod, Service};
use tokio_util::sync::CancellationToken;

use super::components;
use super::context::Context;
use super::downward::Fields;
use super::env;
use super::events::PodEvents;
use super::expansion::expand;
use super::hooks;
use super::hostname;
use super::images::{PullSecret, image_id, pull_secret};
use super::keyvalue;
use super::service_env;
use super::spec::Spec;
use super::state::ImageFacts;
use crate::images::LocalImage;
use crate::logs::{LogWriter, pod_directory};
use crate::network::PodNetwork;
use crate::probes::{self, ProbeSpec};
use crate::runtime::stdio::Stdin;
use crate::runtime::{Container, ContainerSpec, Limits, Mount, Port, Protocol, Runtime};
use crate::volumes::{PodVolumes, mounts_of};

/// A postStart hook that never ends must not hold its pod for ever.
const POST_START_MAX: Duration = Duration::from_secs(600);

/// What a start needs to know.
pub struct Order {
    pub context: Arc<Context>,
    pub object: Arc<Object>,
    pub index: usize,
    pub restarts: u32,
    pub runtime: Arc<dyn Runtime>,
    pub network: Arc<PodNetwork>,
    pub volumes: Arc<PodVolumes>,
    /// Cancelled when the pod ends: waits for images and objects are given up, a runtime's start is not.
    pub cancel: CancellationToken,
}

/// A container that runs.
pub struct Started {
    pub container: Arc<dyn Container>,
    pub id: Box<str>,
    pub started_at: Timestamp,
    pub image: ImageFacts,
    pub log: Arc<LogWriter>,
    pub message: MessageSource,
    pub probes: Vec<ProbeSpec>,
    /// The postStart hook failed: the container must end.
    pub hook_failure: Option<String>,
}

/// Where the termination message comes from when the container has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageSource {
    /// What the container wrote for it, at a path of its own.
    pub file: Option<PathBuf>,
    /// `FallbackToLogsOnError`.
    pub fall_back_to_log: bool,
}

/// Why it does not run: the waiting reason and its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub reason: Cow<'static, str>,
    pub message: String,
    /// The image could not be had: backs off by image.
    pub image: bool,
}

impl Failed {
    fn new(reason: &'static str, message: impl ToString) -> Self {
        Failed { reason: Cow::Borrowed(reason), message: message.to_string(), image: false }
    }
}

pub async fn start(order: Order) -> Result<Started, Failed> {
    let cancelled = order.cancel.clone();
    let preparation = async {
        let pod: Pod = order.object.decode().map_err(|e| Failed::new("CreateContainerConfigError", e))?;
        let spec = Spec::of(&pod);
        let view = spec
            .container_of(&pod, order.index)
            .ok_or_else(|| Failed::new("CreateContainerConfigError", "no such container"))?;
        let field = spec.field_path(order.index);
        let view = &*view;
        let image = image(&order, &pod, view, &field).await?;
        let image = with_components(&order, &pod, view, &field, image).await?;
        let spec = container_spec(&order, &pod, view, image.clone()).await?;
        order.runtime.prepare(&image).await.map_err(|e| Failed::new("CreateContainerError", e))?;
        let probes = probes::of(view, order.network.ip());
        let post_start =
            view.lifecycle.as_ref().and_then(|l| l.post_start.clone()).map(|h| (h, view.clone()));
        let shown = view.image.clone().unwrap_or_default();
        let path = view.termination_message_path.as_deref();
        let message = MessageSource {
            file: message_file(&order.context, &order.object.head.uid, &view.name, path),
            fall_back_to_log: view.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        };
        Ok((spec, image, probes, post_start, shown, field, message))
    };
    let (mut spec, image, probes, post_start, shown, field, message) = tokio::select! {
        prepared = preparation => prepared?,
        () = cancelled.cancelled() => return Err(Failed::new("ContainerCreating", "the pod is ending")),
    };
    let context = &order.context;
    let events = PodEvents::new(&context.recorder, &order.object);
    let head = &order.object.head;
    let directory = pod_directory(&head.namespace, &head.name, &head.uid);
    let name = spec.container_name.clone();
    if order.restarts > 1 {
        context.logs.forget_old_runs(&directory, &name, order.restarts);
    }
    let log = context.logs.open(&directory, &head.uid, &name, order.restarts);
    spec.log = log.clone();
    events.container(&field, EventType::Normal, "Created", format!("Created container: {name}"));
    let container = match order.runtime.start(spec).await {
        Ok(container) => container,
        Err(error) => {
            log.close();
            return Err(Failed::new(error.reason(), error));
        }
    };
    let started_at = Timestamp::now();
    events.container(&field, EventType::Normal, "Started", format!("Started container {name}"));
    let mut hook_failure = None;
    if let Some((hook, view)) = post_start
        && let Err(error) = hooks::run(&hook, &view, &container, order.network.ip(), POST_START_MAX).await
    {
        events.container(
            &field,
            EventType::Warning,
            "FailedPostStartHook",
            format!("PostStartHook failed: {error}"),
        );
        hook_failure = Some(error);
    }
    Ok(Started {
        container,
        id: container_id(),
        started_at,
        image: ImageFacts { image: shown, image_id: image_id(&image.reference, &image.digest) },
        log,
        message,
        probes,
        hook_failure,
    })
}

/// 64 hexadecimal digits, as other runtimes' ids.
fn container_id() -> Box<str> {
    use std::fmt::Write;
    let mut id = String::with_capacity(64);
    for _ in 0..4 {
        let _ = write!(id, "{:016x}", rand::random::<u64>());
    }
    id.into()
}

async fn image(
    order: &Order,
    pod: &Pod,
    view: &ContainerView,
    field: &str,
) -> Result<Arc<LocalImage>, Failed> {
    let context = &order.context;
    let events = PodEvents::new(&context.recorder, &order.object);
    let reference = view.image.as_deref().unwrap_or_default();
    let warn = |message: String| events.container(field, EventType::Warning, "Failed", message);
    let failed = |reason: Cow<'static, str>, message: String| {
        warn(format!("Error: {reason}"));
        Failed { reason, message, image: true }
    };
    let policy = view.image_pull_policy.as_deref().unwrap_or(default_policy(reference));
    if policy != "Always" {
        let found = context.images.find(reference).map_err(|error| {
            if error.reason == "InvalidImageName" {
                events.container(
                    field,
                    EventType::Warning,
                    "InspectFailed",
                    format!("Failed to apply default image tag \"{reference}\": {error}"),
                );
            }
            failed(error.reason, error.message)
        })?;
        if let Some(image) = found {
            events.container(
                field,
                EventType::Normal,
                "Pulled",
                format!("Container image \"{reference}\" already present on machine"),
            );
            return Ok(image);
        }
        if policy == "Never" {
            let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
            events.container(field, EventType::Warning, "ErrImageNeverPull", message.clone());
            return Err(failed(Cow::Borrowed("ErrImageNeverPull"), message));
        }
    }
    events.container(field, EventType::Normal, "Pulling", format!("Pulling image \"{reference}\""));
    let secrets = pull_secrets(context, pod).await?;
    match context.images.pull(reference, &secrets).await {
        Ok(pulled) => {
            let took = format!("{:?}", round_millis(pulled.took));
            events.container(field, EventType::Normal, "Pulled", format!(
                "Successfully pulled image \"{reference}\" in {took} ({took} including waiting). Image size: {} bytes.",
                pulled.image.size_bytes));
            Ok(pulled.image)
        }
        Err(error) => {
            warn(format!("Failed to pull image \"{reference}\": {error}"));
            Err(failed(error.reason, error.message))
        }
    }
}

/// The image with the components that the pod's annotation names linked into it; pulled as the image itself is.
async fn with_components(
    order: &Order,
    pod: &Pod,
    view: &ContainerView,
    field: &str,
    main: Arc<LocalImage>,
) -> Result<Arc<LocalImage>, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed::new("CreateContainerError", error);
    let references = components::references(pod, &view.name).map_err(|error| failed(&error))?;
    if references.is_empty() {
        return Ok(main);
    }
    let mut dependencies = Vec::new();
    for reference in references {
        // Its own tag says when it is pulled.
        let view = ContainerView {
            name: view.name.clone(),
            image: Some(reference),
            image_pull_policy: view.image_pull_policy.clone().filter(|policy| policy != "Always"),
            ..ContainerView::default()
        };
        dependencies.push(image(order, pod, &view, field).await?);
    }
    let (directory, name) = (order.context.node.composed.clone(), view.name.clone());
    let work = tokio::task::spawn_blocking(move || {
        components::composed(&directory, &name, &main, &dependencies).map(Arc::new)
    });
    work.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

fn round_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What the API defaults to: `latest` is always pulled.
fn default_policy(reference: &str) -> &'static str {
    let last = reference.rsplit('/').next().unwrap_or_default();
    let pinned = reference.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if pinned { "IfNotPresent" } else { "Always" }
}

async fn pull_secrets(context: &Context, pod: &Pod) -> Result<Vec<PullSecret>, Failed> {
    let names: Vec<_> = pod
        .spec
        .iter()
        .flat_map(|s| s.image_pull_secrets.iter().flatten())
        .map(|r| env::Reference::Secret(r.name.clone()))
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let fetched = context
        .volumes
        .sources
        .fetch(namespace, names)
        .await
        .map_err(|error| Failed { image: true, ..Failed::new("ErrImagePull", error.message()) })?;
    Ok(fetched.into_values().flatten().filter_map(pull_secret).collect())
}

async fn container_spec(
    order: &Order,
    pod: &Pod,
    view: &ContainerView,
    image: Arc<LocalImage>,
) -> Result<ContainerSpec, Failed> {
    let config = |error: &dyn std::fmt::Display| Failed::new("CreateContainerConfigError", error);
    let context = &order.context;
    let head = &order.object.head;
    let fetched = context
        .volumes
        .sources
        .fetch(&head.namespace, env::references(view))
        .await
        .map_err(|error| config(&error.message()))?;
    let fields = Fields {
        pod,
        pod_ips: order.network.ips(),
        host_ips: &context.node.host_ips,
        allocatable: &context.node.allocatable,
    };
    let services = service_variables(context, pod).await;
    let mut env = env::resolve(view, &fetched, &fields, services).map_err(|error| config(&error))?;
    if !env.iter().any(|(name, _)| name == "HOSTNAME") {
        let hostname = hostname::of(pod, &context.node.cluster_domain, &context.node.name);
        env.push(("HOSTNAME".into(), hostname.map_err(|error| config(&error))?.told));
    }
    if view.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(config(&"volumeDevices are not supported for Wasm containers"));
    }
    let mut mounts = mounts_of(&order.volumes, view, &env).map_err(|error| config(&error))?;
    let objects = keyvalue::mounted_objects(pod, view, &mounts);
    let keyvalue_directory = keyvalue::directory(&context.client, &context.node.keyvalue, pod)
        .await
        .map_err(|error| config(&error))?;
    mounts.extend(message_mount(context, head, view).map_err(|error| config(&error))?);
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    let (command, args) = (expanded(&view.command), expanded(&view.args));
    Ok(ContainerSpec {
        pod_namespace: head.namespace.to_string(),
        pod_name: head.name.to_string(),
        pod_uid: head.uid.to_string(),
        container_name: view.name.clone(),
        restart_count: order.restarts,
        image,
        command,
        args,
        working_dir: view.working_dir.clone().filter(|d| !d.is_empty()),
        mounts,
        objects,
        keyvalue_directory,
        ports: ports_of(view).collect(),
        limits: limits_of(view),
        stdin: match (view.stdin.unwrap_or(false), view.stdin_once.unwrap_or(false)) {
            (false, _) => Stdin::None,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
        terminal: view.tty.unwrap_or(false),
        network: order.network.clone(),
        log: Arc::new(crate::runtime::DiscardLogs),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        env,
    })
}

pub fn limits_of(view: &ContainerView) -> Limits {
    let limits = view.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = |name: &str| limits.and_then(|l| l.get(name)).and_then(|wire| Quantity::of(wire).ok());
    Limits {
        memory_bytes: limit("memory").map(|q| q.value().unsigned_abs()),
        cpu_millis: limit("cpu").map(|q| q.milli_value().unsigned_abs()),
    }
}

/// Services of the pod's namespace (unless it declines), and the API's own wherever the pod is.
async fn service_variables(context: &Context, pod: &Pod) -> Vec<(String, String)> {
    context.services.synced().await;
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut services = Vec::new();
    if links {
        services = context.services.list_namespace(namespace);
    }
    if !services.iter().any(|s| &*s.head.name == "kubernetes") {
        services.extend(context.services.get("default", "kubernetes"));
    }
    services
        .iter()
        .filter_map(|object| object.decode::<Service>().ok())
        .flat_map(|service| service_env::variables(&service))
        .collect()
}

pub fn ports_of(view: &ContainerView) -> impl Iterator<Item = Port> {
    view.ports.iter().flatten().filter_map(port)
}

fn port(port: &k8s_openapi::api::core::v1::ContainerPort) -> Option<Port> {
    let number = |value: i32| u16::try_from(value).ok().filter(|n| *n > 0);
    Some(Port {
        port: number(port.container_port)?,
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        host_port: port.host_port.and_then(number),
        host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
    })
}

/// The default path: a guest gets no directory for it, as idle pods would pay for what hardly any uses.
const MESSAGE_PATH_DEFAULT: &str = "/dev/termination-log";

/// Where a container's termination message is found afterwards, when the pod names a path of its own.
fn message_file(context: &Context, uid: &str, container: &str, path: Option<&str>) -> Option<PathBuf> {
    let path = std::path::Path::new(path.filter(|p| *p != MESSAGE_PATH_DEFAULT && p.starts_with('/'))?);
    Some(context.node.messages.join(uid).join(container).join(path.file_name()?))
}

fn message_mount(
    context: &Context,
    head: &coracle_client::Head,
    view: &ContainerView,
) -> std::io::Result<Option<Mount>> {
    let path = view.termination_message_path.as_deref();
    let Some(file) = message_file(context, &head.uid, &view.name, path) else { return Ok(None) };
    let (Some(directory), Some(inside)) =
        (file.parent(), path.map(std::path::Path::new).and_then(|p| p.parent()))
    else {
        return Ok(None);
    };
    // A mount of the pod's own at that directory holds the file already; ours would hide it.
    let inside = inside.to_string_lossy().into_owned();
    if inside == "/" || view.volume_mounts.iter().flatten().any(|m| m.mount_path == inside) {
        return Ok(None);
    }
    std::fs::create_dir_all(directory)?;
    std::fs::write(&file, b"")?;
    Ok(Some(Mount { host_path: directory.to_owned(), container_path: inside, read_only: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies_default_by_tag() {
        for (reference, want) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:v1", "IfNotPresent"),
            ("reg:5000/a", "Always"),
            ("reg:5000/a:v1", "IfNotPresent"),
            ("a@sha256:1", "IfNotPresent"),
        ] {
            assert_eq!(default_policy(reference), want, "{reference}");
        }
    }

    #[test]
    fn ids_are_long_and_differ() {
        let (a, b) = (container_id(), container_id());
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
    }
}
