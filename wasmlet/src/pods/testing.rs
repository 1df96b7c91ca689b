//! A node of fakes for tests: runtime, images and API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::Resource;
use coracle_client::fake::Fake;
use coracle_client::informer::{Informer, InformerScope, Informers};
use k8s_openapi::api::core::v1::{Event, Pod, PodStatus, Service};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Pods;
use super::admission::Amounts;
use super::context::{Context, Ledger, NodeFacts};
use super::images::{Held, ImageError, Images, PullSecret, Pulled};
use super::sources::Sources;
use crate::images::LocalImage;
use crate::logs::{Limits, Logs};
use crate::network::{Mode, Network, Options};
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

pub struct Node {
    pub fake: Arc<Fake>,
    pub pods: Arc<Pods>,
    pub informer: Informer,
    pub shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Node {
    pub async fn start() -> Self {
        Self::start_with(Fake::new()).await
    }

    pub async fn start_with(fake: Arc<Fake>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = fake.client("kubelet");
        let shutdown = CancellationToken::new();
        let informers = Informers::new(client.clone(), shutdown.clone());
        let network =
            Network::new(Options::new(Mode::Rootless("127.77.0.0/16".parse().unwrap()))).await.unwrap();
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
                node: "n1".into(),
                labels: BTreeMap::new(),
                recorder: coracle_client::events::EventRecorder::new(client.clone(), "kubelet", Some("n1")),
                in_use: Default::default(),
            },
            logs: Arc::new(Logs::new(dir.path().join("pods"), Limits::default())),
            services: informers.of::<Service>(),
            node: NodeFacts {
                name: "n1".into(),
                host_ips: vec![[127, 0, 0, 1].into()],
                cluster_domain: "cluster.local".into(),
                allocatable: BTreeMap::new(),
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                own: informers.of::<k8s_openapi::api::core::v1::Node>(),
                messages: dir.path().join("messages"),
                composed: dir.path().join("composed"),
                keyvalue: dir.path().join("keyvalue"),
            },
            ledger: Ledger::new(Amounts {
                cpu_millis: 1000,
                memory_bytes: 1 << 30,
                ephemeral_bytes: 1 << 30,
                pods: 10_000,
            }),
            running: Default::default(),
            shutdown: shutdown.clone(),
        });
        let pods = Pods::new(context);
        let scope =
            InformerScope { field_selector: Some("spec.nodeName=n1".into()), ..InformerScope::default() };
        let informer = informers.scoped(Resource::of::<Pod>(), scope);
        pods.follow(&informer);
        Node { fake, pods, informer, shutdown, _dir: dir }
    }

    pub fn apply(&self, mut pod: Value) {
        pod["metadata"]["name"] = pod["metadata"]["name"].as_str().unwrap_or("p").into();
        pod["metadata"]["namespace"] = "ns".into();
        pod["spec"]["nodeName"] = "n1".into();
        self.fake.put(&serde_json::from_value::<Pod>(pod).unwrap()).unwrap();
    }

    pub fn status(&self, name: &str) -> Option<PodStatus> {
        self.fake.get::<Pod>("ns", name)?.status
    }

    /// Waits until the status is as wanted: looks after every change.
    pub async fn until(&self, what: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        self.until_within(Duration::from_secs(10), what, wanted).await
    }

    pub async fn until_within(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&PodStatus) -> bool,
    ) -> PodStatus {
        let (sender, mut changed) = tokio::sync::mpsc::unbounded_channel();
        self.fake.observe(move |_, _| {
            let _ = sender.send(());
        });
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.status("p").filter(|status| wanted(status)) {
                return status;
            }
            if tokio::time::timeout_at(deadline, changed.recv()).await.is_err() {
                panic!("{what}: {}", serde_json::to_string_pretty(&self.status("p")).unwrap());
            }
        }
    }

    pub async fn until_gone(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.fake.get::<Pod>("ns", "p").is_some() {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.status("p"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn until_event(&self, reason: &str) -> Event {
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

pub fn pod(annotations: Value, spec: Value) -> Value {
    let mut all = json!({"containers": [{"name": "c", "image": "img:v1"}], "restartPolicy": "Always"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"annotations": annotations}, "spec": all})
}

pub fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
