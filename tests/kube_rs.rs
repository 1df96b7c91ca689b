//! kube-rs, the Rust client, against the real binary: typed and dynamic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use futures::{StreamExt, TryStreamExt};
use harness::{Cluster, PATIENCE};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, PropagationPolicy,
    WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Discovery};
use serde_json::json;

async fn client(cluster: &Cluster) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "kube-rs"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "coracle.dev/samples/counter:v1",
                "env": [{"name": "INTERVAL_MS", "value": "50"}]}]
        }
    }))
    .unwrap()
}

#[tokio::test]
async fn pods_are_created_watched_listed_patched_and_deleted() {
    let cluster = Cluster::start_with_samples();
    let client = client(&cluster).await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let start = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();

    let made = pods.create(&PostParams::default(), &pod("watched")).await.unwrap();
    assert!(made.metadata.uid.is_some());
    let twice = pods.create(&PostParams::default(), &pod("watched")).await.unwrap_err();
    let kube::Error::Api(status) = twice else { panic!("{twice}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));

    let mut events = pods.watch(&WatchParams::default().labels("app=kube-rs"), &start).await.unwrap().boxed();
    let running = async {
        while let Some(event) = events.try_next().await.unwrap() {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
                && pod.status.and_then(|status| status.phase).as_deref() == Some("Running")
            {
                return;
            }
        }
        panic!("the watch ended before the pod ran");
    };
    tokio::time::timeout(PATIENCE, running).await.unwrap();

    let patch = json!({"metadata": {"annotations": {"by": "kube-rs"}}});
    let patched = pods.patch("watched", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(patched.metadata.annotations.unwrap()["by"], "kube-rs");
    let logs =
        pods.logs("watched", &kube::api::LogParams { tail_lines: Some(1), ..Default::default() }).await;
    assert!(logs.unwrap().starts_with("count "));

    pods.delete("watched", &DeleteParams::default()).await.unwrap();
    let gone = async {
        while let Some(event) = events.try_next().await.unwrap() {
            if let WatchEvent::Deleted(_) = event {
                return;
            }
        }
        panic!("the watch ended before the pod was gone");
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(pods.get_opt("watched").await.unwrap().is_none());
}

#[tokio::test]
async fn versions_conflict_and_old_ones_expire() {
    let cluster = Cluster::start();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&cluster).await);
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"n": "0"}})).unwrap();
    let first = maps.create(&PostParams::default(), &map).await.unwrap();
    let mut second = first.clone();
    second.data = Some([("n".to_owned(), "1".to_owned())].into());
    let second = maps.replace("m", &PostParams::default(), &second).await.unwrap();
    assert_ne!(first.metadata.resource_version, second.metadata.resource_version);
    let conflict = maps.replace("m", &PostParams::default(), &first).await.unwrap_err();
    let kube::Error::Api(status) = conflict else { panic!("{conflict}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    // A write that changes nothing is no new version.
    let same = maps.replace("m", &PostParams::default(), &second).await.unwrap();
    assert_eq!(same.metadata.resource_version, second.metadata.resource_version);
}

/// The list that opens a watch (`sendInitialEvents`) ends with a bookmark that says so.
#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() {
    let cluster = Cluster::start();
    let client = client(&cluster).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for number in 0..5 {
        let map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": format!("m-{number}"), "labels": {"x": "y"}}}),
        )
        .unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let parameters = WatchParams::default().labels("x=y").initial_events();
    let mut events = maps.watch(&parameters, "0").await.unwrap().boxed();
    let mut added = 0;
    let bookmark = async {
        loop {
            match events.try_next().await.unwrap().expect("the watch goes on") {
                WatchEvent::Added(_) => added += 1,
                WatchEvent::Bookmark(bookmark) => return bookmark,
                other => panic!("{other:?}"),
            }
        }
    };
    let bookmark = tokio::time::timeout(PATIENCE, bookmark).await.unwrap();
    assert_eq!(added, 5);
    assert_eq!(bookmark.metadata.annotations["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn discovery_finds_every_kind_and_dynamic_objects_work() {
    let cluster = Cluster::start_with_samples();
    let client = client(&cluster).await;
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            assert!(capabilities.supports_operation("list") || !capabilities.operations.is_empty());
            kinds.push(resource.kind.clone());
        }
    }
    for kind in
        ["Pod", "Node", "Service", "Deployment", "ReplicaSet", "EndpointSlice", "Lease", "RuntimeClass"]
    {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not in {kinds:?}");
    }
    let (resource, _) = discovery.get("apps").unwrap().recommended_kind("Deployment").unwrap();
    let deployments: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "dynamic"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "coracle.dev/samples/counter:v1"}]}}}
    }))
    .unwrap();
    deployments.create(&PostParams::default(), &object).await.unwrap();
    cluster.kubectl("rollout status deployment/dynamic --timeout=60s");

    let typed: Api<Deployment> = Api::default_namespaced(client.clone());
    let three = Patch::Merge(json!({"spec": {"replicas": 3}}));
    let scale = typed.patch_scale("dynamic", &PatchParams::default(), &three).await;
    assert_eq!(scale.unwrap().spec.unwrap().replicas, Some(3));
    cluster.kubectl("rollout status deployment/dynamic --timeout=60s");
    let ready = typed.get_status("dynamic").await.unwrap().status.unwrap().ready_replicas;
    assert_eq!(ready, Some(3));
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    typed.delete("dynamic", &foreground).await.unwrap();
    cluster.kubectl("wait --for=delete deployment/dynamic --timeout=60s");
    assert_eq!(cluster.kubectl("get pods -l a=b -o name"), "");

    let nodes: Api<Node> = Api::all(client);
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0);
    let status = node.status.unwrap();
    assert!(status.allocatable.unwrap().contains_key("memory"));
    assert!(status.node_info.unwrap().kubelet_version.starts_with("v1.37"));
}
