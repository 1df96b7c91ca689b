//! What the convergence tests share: a fake API with controllers running on it, and a fake kubelet.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::fake::Fake;
use coracle_client::{DeleteOptions, Informers, Object};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Options;
use crate::context::Context;

pub struct Cluster {
    pub fake: Arc<Fake>,
    pub context: Context,
    _end: DropGuard,
}

impl Cluster {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        Self::over(Fake::new(), options)
    }

    /// Controllers anew over an API that is there already.
    pub fn over(fake: Arc<Fake>, options: Options) -> Self {
        let shutdown = CancellationToken::new();
        let client = fake.client("test");
        let informers = Informers::new(client.clone(), shutdown.clone());
        let context = Context::new(client, informers, Arc::new(options), shutdown.clone());
        Self { fake, context, _end: shutdown.drop_guard() }
    }

    pub fn start(&self, run: fn(Context) -> BoxFuture<'static, ()>) {
        tokio::spawn(run(self.context.fresh()));
    }

    /// Binds every pod to `node`, makes it run, takes it away when it is deleted. `ready`: by name.
    pub fn kubelet(&self, node: &'static str, ready: fn(&Pod) -> bool) {
        self.kubelets(move |_| node.to_owned(), ready);
    }

    /// The same with a node for each pod.
    pub fn kubelets(&self, node: impl Fn(&Arc<Object>) -> String + Send + 'static, ready: fn(&Pod) -> bool) {
        let pods = self.context.of::<Pod>();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        pods.on_change(move |change| {
            if let Some(pod) = &change.new {
                let _ = sender.send(pod.clone());
            }
        });
        let (fake, client) = (self.fake.clone(), self.context.client.clone());
        tokio::spawn(async move {
            while let Some(object) = receiver.recv().await {
                let Some(mut pod) = fake.get::<Pod>(&object.head.namespace, &object.head.name) else {
                    continue;
                };
                if pod.metadata.deletion_timestamp.is_some() {
                    let _ = client
                        .delete::<Pod>(&object.head.namespace, &object.head.name, DeleteOptions::grace(0))
                        .await;
                    continue;
                }
                let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
                if matches!(phase, Some("Running" | "Succeeded" | "Failed")) {
                    continue;
                }
                let (conditions, ip) = (vec![condition("Ready", ready(&pod))], next_ip());
                pod.spec.get_or_insert_default().node_name = Some(node(&object));
                let status = pod.status.get_or_insert_default();
                status.phase = Some("Running".into());
                status.pod_ip = Some(ip.clone());
                status.pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP { ip }]);
                status.conditions = Some(conditions);
                let _ = fake.put(&pod);
            }
        });
    }

    /// Waits until `check` holds; the clock of tests is paused, so this costs no time.
    pub async fn until(&self, what: &str, check: impl Fn(&Fake) -> bool) {
        for _ in 0..6000 {
            if check(&self.fake) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never: {what}");
    }

    /// Lets everything that can happen within this long happen.
    pub async fn settle(&self) {
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn events(&self) -> Vec<(String, String)> {
        self.fake
            .list::<k8s_openapi::api::core::v1::Event>("")
            .into_iter()
            .map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect()
    }
}

fn next_ip() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::net::Ipv4Addr::from(0x0af4_0000 + n).to_string()
}

fn condition(kind: &str, on: bool) -> k8s_openapi::api::core::v1::PodCondition {
    k8s_openapi::api::core::v1::PodCondition {
        type_: kind.into(),
        status: if on { "True".into() } else { "False".into() },
        last_transition_time: Some(Time(Timestamp::now())),
        ..Default::default()
    }
}

/// An object of a type from JSON.
pub fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
}

pub fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
    })
}
