//! Whole lives of pods with the fake runtime and the fake API.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::fake::Fake;
use coracle_client::{DeleteOptions, PatchType};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus};
use serde_json::{Value, json};

use crate::pods::testing::{Node, is_ready, pod};

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
        let ended = status.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
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
        Some(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 0, capacity: 1000"
        )
    );
    node.fake.remove::<Pod>("ns", "p");
    node.apply(pod(json!({}), json!({"nodeSelector": {"zone": "b"}})));
    let status = node.until("rejected", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("NodeAffinity"));

    // Somebody labels the node.
    node.fake.remove::<Pod>("ns", "p");
    let labelled: k8s_openapi::api::core::v1::Node =
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "b"}}})).unwrap();
    let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
    node.pods.context().node.own.on_change(move |_| {
        told.send(()).ok();
    });
    node.fake.put(&labelled).unwrap();
    news.recv().await.unwrap();
    node.apply(pod(
        json!({}),
        json!({"nodeSelector": {"zone": "b"}, "containers": [{"name": "c", "image": "i:v1"}]}),
    ));
    node.until("running", |s| s.phase.as_deref() == Some("Running")).await;
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
        serde_json::from_value(json!({"metadata": {"name": "cfg", "namespace": "ns"}, "data": {"k": value}}))
            .unwrap()
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
    let probe =
        json!({"tcpSocket": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1, "failureThreshold": 1});
    let container = json!({"name": "c", "image": "i:v1", "readinessProbe": probe, "livenessProbe": probe});
    node.apply(pod(json!({}), json!({"containers": [container], "terminationGracePeriodSeconds": 1})));
    node.until("ready", is_ready).await;
    accepting.abort();
    let _ = accepting.await;
    let status =
        node.until("restarted", |s| s.container_statuses.as_ref().unwrap()[0].restart_count == 1).await;
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
    assert!(
        fake.requests().iter().all(|r| r.subresource.as_deref() != Some("status")),
        "pods stay as they are"
    );
    let node = Node::start_with(fake).await;
    let after = node
        .until("running again", |s| {
            is_ready(s) && s.container_statuses.as_ref().unwrap()[0].restart_count == 1
        })
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

/// What a pod that runs and waits costs: 10,000 of them live on a node.
#[tokio::test]
async fn an_idle_pod_is_small() {
    let node = Node::start().await;
    let object = coracle_client::Object::parse(
        serde_json::to_vec(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]}}))
        .unwrap()
        .into(),
        &[],
    )
    .unwrap();
    let pod = object.decode().unwrap();
    let worker = super::Worker::new(node.pods.context().clone(), Arc::default(), object, &pod);
    let bytes = std::mem::size_of_val(&worker.run());
    assert!(bytes < 4096, "the task of a pod takes {bytes} bytes");
}

#[tokio::test]
async fn a_volume_over_its_limit_is_noticed_and_an_evicted_pod_ends() {
    let dir = tempfile::tempdir().unwrap();
    let limits = vec![("v".into(), dir.path().to_owned(), 64 << 10)];
    let measuring = tokio::spawn(super::operations::exceeded(limits, Duration::from_millis(5)));
    std::fs::write(dir.path().join("big"), vec![1; 200_000]).unwrap();
    let Ok(super::Done::Exceeded(message)) = measuring.await else { panic!("not noticed") };
    assert_eq!(message, "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ");

    let node = Node::start().await;
    node.apply(pod(json!({}), json!({})));
    node.until("ready", is_ready).await;
    let uid = node.fake.get::<Pod>("ns", "p").unwrap().metadata.uid.unwrap();
    node.pods.evict(&uid, "Evicted", message.clone());
    let status = node.until("evicted", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!((status.reason.as_deref(), status.message), (Some("Evicted"), Some(message)));
    node.until_event("Evicted").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !node.pods.context().running.is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Prints what a thousand pods take, the fake API's own copies included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_thousand_pods() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        crate::node::machine::meminfo(&text, "RssAnon").unwrap()
    };
    let node = Node::start().await;
    let (before, begun) = (resident(), std::time::Instant::now());
    const PODS: usize = 1000;
    for number in 0..PODS {
        let mut pod = pod(json!({}), json!({}));
        pod["metadata"]["name"] = format!("p{number}").into();
        node.apply(pod);
    }
    while node.fake.list::<Pod>("ns").iter().filter(|p| p.status.as_ref().is_some_and(is_ready)).count()
        < PODS
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "{PODS} pods Ready in {:?}, {} KiB each",
        begun.elapsed(),
        (resident() - before) / 1024 / PODS as u64
    );
}
