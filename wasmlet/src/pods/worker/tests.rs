//! Whole lives of pods with the fake runtime and the fake API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::fake::Fake;
use coracle_client::informer::{InformerScope, Informers};
use coracle_client::{DeleteOptions, PatchType, Resource};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, PodStatus, Service};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::images::LocalImage;
use crate::logs::{Limits, Logs};
use crate::network::{HostResolver, Mode, Network, Options};
use crate::pods::Pods;
use crate::pods::admission::Amounts;
use crate::pods::context::{Context, Ledger, NodeFacts};
use crate::pods::images::{Held, ImageError, Images, PullSecret, Pulled};
use crate::pods::sources::Sources;
use crate::runtime::Runtime;
use crate::runtime::fake::FakeRuntime;
use crate::volumes::Volumes;

/// Every image but those called `missing` is there.
struct AnyImage;

#[async_trait]
impl Images for AnyImage {
    fn find(&self, reference: &str) -> Result<Option<Arc<LocalImage>>, ImageError> {
        Ok((!reference.contains("missing")).then(|| {
            Arc::new(LocalImage {
                reference: format!("docker.io/library/{reference}"),
                digest: "sha256:1".into(),
                wasm_digest: "sha256:2".into(),
                wasm_path: "/dev/null".into(),
                size_bytes: 1,
                config: Default::default(),
            })
        }))
    }

    async fn pull(&self, reference: &str, _secrets: &[PullSecret]) -> Result<Pulled, ImageError> {
        Err(ImageError { reason: "ErrImagePull".into(), message: format!("{reference}: not found") })
    }

    fn list(&self) -> Vec<Held> {
        Vec::new()
    }
}

struct Node {
    fake: Arc<Fake>,
    pods: Arc<Pods>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start() -> Self {
        Self::start_with(Fake::new()).await
    }

    async fn start_with(fake: Arc<Fake>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = fake.client("kubelet");
        let shutdown = CancellationToken::new();
        let informers = Informers::new(client.clone(), shutdown.clone());
        let network = Network::new(Options {
            mode: Mode::Rootless("127.77.0.0/16".parse().unwrap()),
            resolver: Arc::new(HostResolver),
            balancer: None,
            reachable_loopback: Vec::new(),
        })
        .await
        .unwrap();
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime);
        let context = Arc::new(Context {
            client: client.clone(),
            recorder: coracle_client::events::EventRecorder::new(client.clone(), "kubelet", Some("n1")),
            runtimes: vec![runtime],
            images: Arc::new(AnyImage),
            network: Arc::new(network),
            volumes: Volumes {
                sources: Arc::new(Sources::new(client.clone(), shutdown.clone())),
                disk: dir.path().join("volumes"),
                memory: None,
            },
            logs: Arc::new(Logs::new(dir.path().join("pods"), Limits::default())),
            services: informers.of::<Service>(),
            node: NodeFacts {
                name: "n1".into(),
                host_ip: [127, 0, 0, 1].into(),
                cluster_domain: "cluster.local".into(),
                allocatable: BTreeMap::new(),
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                messages: dir.path().join("messages"),
            },
            ledger: Ledger::new(Amounts {
                cpu_millis: 1000,
                memory_bytes: 1 << 30,
                ephemeral_bytes: 1 << 30,
                pods: 100,
            }),
            running: Default::default(),
            shutdown: shutdown.clone(),
        });
        let pods = Pods::new(context);
        let scope = InformerScope { field_selector: Some("spec.nodeName=n1".into()), ..InformerScope::default() };
        let informer = informers.scoped(Resource::of::<Pod>(), scope);
        pods.follow(&informer);
        Node { fake, pods, shutdown, _dir: dir }
    }

    fn apply(&self, mut pod: Value) {
        pod["metadata"]["name"] = pod["metadata"]["name"].as_str().unwrap_or("p").into();
        pod["metadata"]["namespace"] = "ns".into();
        pod["spec"]["nodeName"] = "n1".into();
        self.fake.put(&serde_json::from_value::<Pod>(pod).unwrap()).unwrap();
    }

    fn status(&self, name: &str) -> Option<PodStatus> {
        self.fake.get::<Pod>("ns", name)?.status
    }

    /// Waits until the status is as wanted: looks after every change.
    async fn until(&self, what: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let (sender, mut changed) = tokio::sync::mpsc::unbounded_channel();
        self.fake.observe(move |_, _| {
            let _ = sender.send(());
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.status("p").filter(|status| wanted(status)) {
                return status;
            }
            if tokio::time::timeout_at(deadline, changed.recv()).await.is_err() {
                panic!("{what}: {}", serde_json::to_string_pretty(&self.status("p")).unwrap());
            }
        }
    }

    async fn until_gone(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.fake.get::<Pod>("ns", "p").is_some() {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.status("p"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_event(&self, reason: &str) -> Event {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let events = self.fake.list::<Event>("");
            if let Some(event) = events.iter().find(|e| e.reason.as_deref() == Some(reason)) {
                return event.clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "{reason} is not among {events:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn pod(annotations: Value, spec: Value) -> Value {
    let mut all = json!({"containers": [{"name": "c", "image": "img:v1"}], "restartPolicy": "Always"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"annotations": annotations}, "spec": all})
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn waiting(status: &PodStatus) -> &str {
    status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_pod_runs_becomes_ready_and_is_deleted() {
    let node = Node::start().await;
    node.apply(pod(json!({"fake.coracle.dev/log": "hello"}), json!({})));
    let status = node.until("ready", is_ready).await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.as_deref().unwrap().starts_with("127.77."));
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.ready && container.container_id.as_deref().unwrap().starts_with("fake://"));
    assert_eq!(container.image_id, "docker.io/library/img@sha256:1");
    for reason in ["Pulled", "Created", "Started"] {
        let event = node.until_event(reason).await;
        assert_eq!(event.involved_object.field_path.as_deref(), Some("spec.containers{c}"));
    }
    node.fake.client("test").delete::<Pod>("ns", "p", DeleteOptions::default()).await.unwrap();
    node.until_gone().await;
    node.until_event("Killing").await;
    let finals = node.fake.requests();
    let last = finals.iter().rfind(|r| r.subresource.as_deref() == Some("status")).unwrap();
    let body: Value = serde_json::from_slice(&last.body).unwrap();
    assert_eq!(body["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    node.shutdown.cancel();
    node.pods.ended().await;
}

#[tokio::test]
async fn pods_that_end_succeed_or_fail() {
    for (code, phase, reason) in [(0, "Succeeded", "Completed"), (3, "Failed", "Error")] {
        let node = Node::start().await;
        let annotations =
            json!({"fake.coracle.dev/lifetime-ms": "5", "fake.coracle.dev/exit-code": code.to_string()});
        node.apply(pod(annotations, json!({"restartPolicy": "Never"})));
        let status = node.until(phase, |s| s.phase.as_deref() == Some(phase)).await;
        let ended =
            status.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (code, Some(reason)));
        node.shutdown.cancel();
        node.pods.ended().await;
    }
}

#[tokio::test]
async fn a_crashing_container_backs_off() {
    let node = Node::start().await;
    let annotations = json!({"fake.coracle.dev/lifetime-ms": "1", "fake.coracle.dev/exit-code": "1"});
    node.apply(pod(annotations, json!({})));
    let status = node.until("back-off", |s| waiting(s) == "CrashLoopBackOff").await;
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 1);
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    node.until_event("BackOff").await;
}

#[tokio::test]
async fn a_missing_image_is_named() {
    let node = Node::start().await;
    node.apply(pod(json!({}), json!({"containers": [{"name": "c", "image": "missing:v1"}]})));
    let status = node.until("ErrImagePull", |s| waiting(s) == "ErrImagePull").await;
    let message = status.container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap().message;
    assert_eq!(message.as_deref(), Some("missing:v1: not found"));
    node.until("ImagePullBackOff", |s| waiting(s) == "ImagePullBackOff").await;
    node.until_event("Failed").await;
    // Deleting it does not wait for the back-off.
    node.fake.client("test").delete::<Pod>("ns", "p", DeleteOptions::default()).await.unwrap();
    node.until_gone().await;
}

#[tokio::test]
async fn what_does_not_fit_is_rejected() {
    let node = Node::start().await;
    let container = json!({"name": "c", "image": "i:v1", "resources": {"requests": {"cpu": "2"}}});
    node.apply(pod(json!({}), json!({"containers": [container]})));
    let status = node.until("rejected", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 0, capacity: 1000")
    );
    node.fake.remove::<Pod>("ns", "p");
    node.apply(pod(json!({}), json!({"nodeSelector": {"zone": "b"}})));
    let status = node.until("rejected", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("NodeAffinity"));
}

#[tokio::test]
async fn a_config_map_is_waited_for_and_followed() {
    let node = Node::start().await;
    let spec = json!({
        "containers": [{"name": "c", "image": "i:v1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "cfg"}}]});
    node.apply(pod(json!({}), spec));
    let event = node.until_event("FailedMount").await;
    assert_eq!(
        event.message.as_deref(),
        Some("MountVolume.SetUp failed for volume \"v\" : configmap \"cfg\" not found")
    );
    let config = |value: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "cfg", "namespace": "ns"}, "data": {"k": value}})).unwrap()
    };
    node.fake.put(&config("one")).unwrap();
    node.until("ready", is_ready).await;
    let uid = node.fake.get::<Pod>("ns", "p").unwrap().metadata.uid.unwrap();
    let file = node.pods.context().volumes.disk.join(uid).join("v").join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    for value in ["two", "three"] {
        node.fake.put(&config(value)).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while std::fs::read_to_string(&file).unwrap() != value {
            assert!(tokio::time::Instant::now() < deadline, "{value}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    node.fake.client("test").delete::<Pod>("ns", "p", DeleteOptions::default()).await.unwrap();
    node.until_gone().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_missing_reference_is_a_configuration_error() {
    let node = Node::start().await;
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    node.apply(pod(json!({}), json!({"containers": [{"name": "c", "image": "i:v1", "env": env}]})));
    let status = node.until("error", |s| waiting(s) == "CreateContainerConfigError").await;
    let message = status.container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap().message;
    assert_eq!(message.as_deref(), Some("secret \"s\" not found"));
}

#[tokio::test]
async fn probes_decide_readiness_and_restarts() {
    let node = Node::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let probe = json!({"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 1});
    let container = json!({"name": "c", "image": "i:v1", "readinessProbe": probe, "livenessProbe": probe});
    node.apply(pod(json!({}), json!({"containers": [container], "terminationGracePeriodSeconds": 1})));
    node.until("ready", is_ready).await;
    accepting.abort();
    let _ = accepting.await;
    let status = node.until("restarted", |s| s.container_statuses.as_ref().unwrap()[0].restart_count == 1).await;
    assert!(!is_ready(&status));
    let event = node.until_event("Unhealthy").await;
    assert!(event.message.unwrap().contains("connect: connection refused"));
}

#[tokio::test]
async fn a_pod_gone_from_the_api_is_killed() {
    let node = Node::start().await;
    node.apply(pod(json!({"fake.coracle.dev/stop-ms": "60000"}), json!({})));
    node.until("ready", is_ready).await;
    assert_eq!(node.pods.context().running.len(), 1);
    node.fake.remove::<Pod>("ns", "p");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !node.pods.context().running.is_empty() || !node.pods.workers.lock().is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_restarted_node_runs_its_pods_again_and_a_stopping_one_says_nothing() {
    let node = Node::start().await;
    node.apply(pod(json!({}), json!({})));
    let before = node.until("ready", is_ready).await;
    let fake = node.fake.clone();
    fake.forget_requests();
    node.shutdown.cancel();
    node.pods.ended().await;
    assert!(fake.requests().iter().all(|r| r.subresource.as_deref() != Some("status")), "pods stay as they are");
    let node = Node::start_with(fake).await;
    let after =
        node.until("running again", |s| is_ready(s) && s.container_statuses.as_ref().unwrap()[0].restart_count == 1)
            .await;
    assert_eq!(after.pod_ip, before.pod_ip);
    assert_eq!(after.start_time, before.start_time);
    let last = after.container_statuses.unwrap().remove(0).last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (255, Some("Unknown")));
}

#[tokio::test]
async fn failed_status_writes_are_tried_again() {
    let fake = Fake::new();
    let failures = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = failures.clone();
    fake.react(move |request| {
        let status = request.subresource.as_deref() == Some("status")
            && matches!(request.verb, coracle_client::Verb::Patch(PatchType::Strategic));
        let fail = status && count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
        fail.then(|| coracle_client::ApiError::service_unavailable("injected"))
    });
    let node = Node::start_with(fake).await;
    node.apply(pod(json!({"fake.coracle.dev/lifetime-ms": "1"}), json!({"restartPolicy": "Never"})));
    node.until("succeeded", |s| s.phase.as_deref() == Some("Succeeded")).await;
}
