//! Both node controllers over a fake API, with a cloud whose machines come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::plan::{SHUTDOWN, UNINITIALIZED, has_taint};
use crate::cloud::provider::{CloudError, Instance, Instances, Provider};
use crate::testing::{Cluster, from};

#[derive(Default)]
struct Machines(Mutex<BTreeMap<String, Instance>>);

#[async_trait]
impl Instances for Machines {
    async fn instance(&self, node: &Node) -> Result<Option<Instance>, CloudError> {
        Ok(self.0.lock().get(node.metadata.name.as_deref().unwrap_or_default()).cloned())
    }
}

impl Provider for Machines {
    fn name(&self) -> &str {
        "test"
    }

    fn instances(&self) -> Option<&dyn Instances> {
        Some(self)
    }
}

static CLOUD: std::sync::LazyLock<Mutex<Option<Arc<Machines>>>> = std::sync::LazyLock::new(Mutex::default);

fn node(name: &str, taint: Option<&str>, ready: &str) -> Node {
    let taints: Vec<Value> =
        taint.into_iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
    from(json!({"metadata": {"name": name}, "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
}

#[tokio::test(start_paused = true)]
async fn nodes_wait_for_their_cloud_and_go_with_their_machines() -> Result<(), ApiError> {
    let cluster = Cluster::new();
    let cloud = Arc::new(Machines::default());
    *CLOUD.lock() = Some(cloud.clone());
    fn of_test() -> Arc<dyn Provider> {
        CLOUD.lock().clone().unwrap()
    }
    cluster.start(|c| Box::pin(super::run(c, of_test())));
    cluster.start(|c| Box::pin(super::lifecycle::run(c, of_test())));
    let get = |name: &str| cluster.fake.get::<Node>("", name);
    cluster.fake.put(&node("a", Some(UNINITIALIZED), "True"))?;
    cluster.fake.put(&node("own", None, "False"))?;
    cluster.settle().await;
    assert!(has_taint(&get("a").unwrap(), UNINITIALIZED), "its machine is not known yet");
    let machine = Instance {
        provider_id: "test://1".into(),
        instance_type: "small".into(),
        zone: "z".into(),
        addresses: from(json!([{"type": "InternalIP", "address": "10.0.0.1"}])),
        ..Instance::default()
    };
    cloud.0.lock().insert("a".into(), machine.clone());
    cluster.until("a is let in", |_| get("a").is_some_and(|a| !has_taint(&a, UNINITIALIZED))).await;
    let a = get("a").unwrap();
    assert_eq!(a.spec.unwrap().provider_id.as_deref(), Some("test://1"));
    assert_eq!(a.status.unwrap().addresses.unwrap()[0].address, "10.0.0.1");
    assert_eq!(a.metadata.labels.unwrap()["topology.kubernetes.io/zone"], "z");
    cluster
        .until("said", |_| cluster.events().contains(&("Synced".into(), "Node synced successfully".into())))
        .await;
    let ready = |status: &str| {
        let mut a = get("a").unwrap();
        a.status.as_mut().unwrap().conditions = from(json!([{"type": "Ready", "status": status}]));
        cluster.fake.put(&a)
    };
    cloud.0.lock().insert("a".into(), Instance { shutdown: true, ..machine.clone() });
    ready("Unknown")?;
    cluster.until("tainted", |_| get("a").is_some_and(|a| has_taint(&a, SHUTDOWN))).await;
    cloud.0.lock().insert("a".into(), machine);
    ready("True")?;
    cluster.until("untainted", |_| get("a").is_some_and(|a| !has_taint(&a, SHUTDOWN))).await;
    cloud.0.lock().clear();
    cluster.settle().await;
    assert!(get("a").is_some(), "a node that is ready is there");
    ready("Unknown")?;
    cluster.until("gone", |_| get("a").is_none()).await;
    assert!(get("own").is_some(), "one that is not of this cloud stays");
    Ok(())
}
