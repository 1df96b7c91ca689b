//! The autoscaler against a fake API, with metrics out of a test's hands.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::fake::Fake;
use coracle_client::{ApiError, DeleteOptions};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::hpa::metrics::{Described, Metrics, PodMetrics, Sample};
use crate::testing::{Cluster, from};

/// What every pod uses, in thousandths. None: there are no metrics.
#[derive(Default)]
struct Load(Mutex<Option<i64>>, Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Metrics for Load {
    async fn resource(&self, _: &str, _: &str, _: &str, _: Option<&str>) -> Result<PodMetrics, ApiError> {
        let load = *self.0.lock();
        let milli = load.ok_or_else(|| ApiError::new(404, "NotFound", "no metrics API"))?;
        let sample = Sample { milli, at: Timestamp::now(), window: Duration::from_secs(1) };
        Ok(self.1.lock().iter().map(|name| (name.clone(), sample)).collect())
    }

    async fn pods(&self, _: &str, _: &str, _: &str, _: &str) -> Result<PodMetrics, ApiError> {
        self.resource("", "", "", None).await
    }

    async fn object(&self, _: &str, _: &Described, _: &str, _: &str) -> Result<i64, ApiError> {
        Err(ApiError::internal("none"))
    }

    async fn external(&self, _: &str, _: &str, _: &str) -> Result<Vec<i64>, ApiError> {
        Err(ApiError::internal("none"))
    }
}

fn status(fake: &Fake) -> HorizontalPodAutoscalerStatus {
    fake.get::<HorizontalPodAutoscaler>("ns", "web").and_then(|hpa| hpa.status).unwrap_or_default()
}

fn reason(fake: &Fake, kind: &str) -> String {
    let conditions = status(fake).conditions.unwrap_or_default();
    let found = conditions.into_iter().find(|c| c.type_ == kind);
    found.map(|c| format!("{} {}", c.status, c.reason.unwrap_or_default())).unwrap_or_default()
}

fn replicas(fake: &Fake) -> i32 {
    fake.get::<Deployment>("ns", "web").and_then(|d| d.spec.replicas).unwrap_or(-1)
}

/// A Deployment with running pods, and an autoscaler of it.
async fn start(replicas: i32, spec: Value, load: Option<i64>) -> (Cluster, Arc<Load>) {
    let cluster = Cluster::new();
    let deployment: Deployment = from(json!({"metadata": {"namespace": "ns", "name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {}},
        "status": {"replicas": replicas}}));
    cluster.fake.put(&deployment).unwrap();
    let metrics = Arc::new(Load(Mutex::new(load), Arc::default()));
    for n in 0..replicas {
        let long_ago = Timestamp::from_second(1_000_000).unwrap();
        let pod: Pod =
            from(json!({"metadata": {"namespace": "ns", "name": format!("p{n}"), "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": "Running", "startTime": long_ago, "conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": long_ago}]}}));
        cluster.fake.put(&pod).unwrap();
        metrics.1.lock().push(format!("p{n}"));
    }
    let mut whole = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "minReplicas": 1,
        "maxReplicas": 10, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    for (field, given) in spec.as_object().unwrap() {
        whole[field] = given.clone();
    }
    let hpa: HorizontalPodAutoscaler =
        from(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": whole}));
    tokio::spawn(super::run_with(cluster.context.fresh(), metrics.clone()));
    cluster.context.client.create(&hpa).await.unwrap();
    (cluster, metrics)
}

#[tokio::test(start_paused = true)]
async fn it_scales_up_with_the_load() {
    let (cluster, _) = start(2, json!({}), Some(900)).await;
    cluster.until("four", |f| replicas(f) == 4).await;
    cluster.settle().await;
    let status = status(&cluster.fake);
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 4));
    assert!(status.last_scale_time.is_some());
    let current = status.current_metrics.unwrap()[0].resource.clone().unwrap().current;
    assert_eq!((current.average_utilization, current.average_value.unwrap().0.as_str()), (Some(90), "900m"));
    let events = cluster.events();
    let message = "New size: 4; reason: cpu resource utilization (percentage of request) above target";
    assert!(events.contains(&("SuccessfulRescale".into(), message.into())), "{events:?}");
    assert_eq!(reason(&cluster.fake, "ScalingActive"), "True ValidMetricFound");
}

#[tokio::test(start_paused = true)]
async fn without_metrics_nothing_moves_and_the_conditions_say_why() {
    let (cluster, load) = start(3, json!({}), None).await;
    cluster.until("inactive", |f| reason(f, "ScalingActive") == "False FailedGetResourceMetric").await;
    assert_eq!(
        (replicas(&cluster.fake), reason(&cluster.fake, "AbleToScale")),
        (3, "True SucceededGetScale".into())
    );
    *load.0.lock() = Some(500);
    cluster.until("active", |f| reason(f, "ScalingActive") == "True ValidMetricFound").await;
    assert_eq!(reason(&cluster.fake, "ScalingLimited"), "False DesiredWithinRange");
}

#[tokio::test(start_paused = true)]
async fn scaling_down_waits_for_the_window_and_bounds_hold_at_once() {
    let quick = json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}});
    let (cluster, _) = start(4, quick, Some(100)).await;
    cluster.until("one less", |f| replicas(f) == 3).await;
    assert_eq!(reason(&cluster.fake, "ScalingLimited"), "True ScaleDownLimit");

    let (cluster, _) = start(4, json!({}), Some(100)).await;
    cluster.until("held", |f| reason(f, "AbleToScale") == "True ScaleDownStabilized").await;
    assert_eq!(replicas(&cluster.fake), 4);

    let (cluster, _) = start(4, json!({"maxReplicas": 3}), None).await;
    cluster.until("three", |f| replicas(f) == 3).await;
    let (cluster, _) = start(1, json!({"minReplicas": 2}), None).await;
    cluster.until("two", |f| replicas(f) == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_of_none_is_left_alone_and_a_missing_one_reported() {
    let (cluster, _) = start(0, json!({}), Some(900)).await;
    cluster.until("disabled", |f| reason(f, "ScalingActive") == "False ScalingDisabled").await;
    assert_eq!(replicas(&cluster.fake), 0);
    let gone = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gone"}});
    let (cluster, _) = start(1, gone, Some(900)).await;
    cluster.until("no scale", |f| reason(f, "AbleToScale") == "False FailedGetScale").await;
}

#[tokio::test(start_paused = true)]
async fn two_autoscalers_of_the_same_pods_do_nothing() {
    let (cluster, _) = start(2, json!({"maxReplicas": 2}), Some(500)).await;
    cluster.until("it works alone", |f| reason(f, "ScalingActive") == "True ValidMetricFound").await;
    let other: HorizontalPodAutoscaler =
        from(json!({"metadata": {"namespace": "ns", "name": "other"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 10,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 10}}}]}}));
    cluster.context.client.create(&other).await.unwrap();
    cluster
        .until("both are in each other's way", |f| reason(f, "ScalingActive") == "False AmbiguousSelector")
        .await;
    let message = "pods by selector app=web are controlled by multiple HPAs: [ns/other ns/web]".to_owned();
    assert!(cluster.events().contains(&("AmbiguousSelector".into(), message)), "{:?}", cluster.events());
    assert_eq!(replicas(&cluster.fake), 2);
    cluster
        .context
        .client
        .delete::<HorizontalPodAutoscaler>("ns", "other", DeleteOptions::default())
        .await
        .unwrap();
    cluster.until("it works alone again", |f| reason(f, "ScalingActive") == "True ValidMetricFound").await;
}
