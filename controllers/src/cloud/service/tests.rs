//! Tables of what Services want of a cloud, and the controller over a fake API with the local provider.

use coracle_client::DeleteOptions;
use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};

use super::plan::{self, EXCLUDED, FINALIZER, Step};
use crate::Options;
use crate::cloud::CloudOptions;
use crate::testing::{Cluster, from};

fn service(value: Value) -> Service {
    from(value)
}

fn with(spec: Value) -> Service {
    service(json!({"metadata": {"name": "s"}, "spec": spec}))
}

#[test]
fn steps_follow_type_class_and_deletion() {
    let balanced = json!({"type": "LoadBalancer"});
    for (metadata, spec, want) in [
        (json!({}), json!({"type": "ClusterIP"}), Step::Ignore),
        (json!({}), json!({}), Step::Ignore),
        (json!({}), balanced.clone(), Step::Ensure),
        (json!({"finalizers": [FINALIZER]}), balanced.clone(), Step::Ensure),
        (json!({}), json!({"type": "LoadBalancer", "loadBalancerClass": "x.io/y"}), Step::Ignore),
        (json!({"finalizers": [FINALIZER]}), json!({"type": "NodePort"}), Step::Delete),
        (
            json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
            balanced.clone(),
            Step::Delete,
        ),
        (
            json!({"finalizers": ["other/x"], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
            balanced,
            Step::Ignore,
        ),
    ] {
        let service = service(json!({"metadata": metadata, "spec": spec}));
        assert_eq!(plan::step(&service), want, "{service:?}");
    }
}

#[test]
fn finalizers_of_others_stay() {
    let service = service(json!({"metadata": {"finalizers": ["a/b", FINALIZER]}}));
    assert_eq!(plan::without_finalizer(&service), ["a/b"]);
    let service = self::service(json!({"metadata": {"finalizers": ["a/b"]}}));
    assert_eq!(plan::with_finalizer(&service), ["a/b", FINALIZER]);
}

#[test]
fn only_changes_that_matter_count_and_are_said() {
    let base = json!({"type": "LoadBalancer", "ports": [{"port": 80}], "externalTrafficPolicy": "Cluster"});
    let changed = |field: &str, value: Value| {
        let mut spec = base.clone();
        spec[field] = value;
        spec
    };
    for (after, want) in [
        (base.clone(), None),
        (changed("ports", json!([{"port": 81}])), Some(vec![])),
        (changed("sessionAffinity", json!("ClientIP")), Some(vec![])),
        (
            changed("loadBalancerSourceRanges", json!(["10.0.0.0/8", "192.0.2.0/24"])),
            Some(vec![("LoadBalancerSourceRanges", "[] -> [10.0.0.0/8 192.0.2.0/24]")]),
        ),
        (
            changed("externalTrafficPolicy", json!("Local")),
            Some(vec![("ExternalTrafficPolicy", "Cluster -> Local")]),
        ),
        (changed("externalIPs", json!(["192.0.2.1"])), Some(vec![("ExternalIP", "Count: 0 -> 1")])),
        (changed("loadBalancerIP", json!("192.0.2.1")), Some(vec![("LoadbalancerIP", " -> 192.0.2.1")])),
        (changed("healthCheckNodePort", json!(30001)), Some(vec![("HealthCheckNodePort", "0 -> 30001")])),
        (changed("selector", json!({"a": "b"})), None),
        (changed("type", json!("NodePort")), Some(vec![("Type", "LoadBalancer -> NodePort")])),
    ] {
        let got = plan::changes(&with(base.clone()), &with(after.clone()));
        let want: Option<Vec<_>> = want
            .map(|all| all.into_iter().map(|(reason, text): (_, &str)| (reason, text.to_owned())).collect());
        assert_eq!(got, want, "{after}");
    }
    let ports = |port: i32| with(json!({"type": "ClusterIP", "ports": [{"port": port}]}));
    assert_eq!(plan::changes(&ports(80), &ports(81)), None, "none of the cloud's business");
    let annotated = service(json!({"metadata": {"name": "s", "annotations": {"a": "b"}}, "spec": base}));
    assert_eq!(plan::changes(&with(annotated_spec(&annotated)), &annotated), Some(vec![]));
    let status = service(
        json!({"metadata": {"name": "s"}, "spec": base, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
    );
    assert_eq!(plan::changes(&with(base), &status), None, "its own status");
}

fn annotated_spec(service: &Service) -> Value {
    serde_json::to_value(&service.spec).unwrap()
}

fn node(name: &str, address: &str, extra: Value) -> Node {
    let mut value = json!({
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    for (path, part) in extra.as_object().into_iter().flatten() {
        value[path] = part.clone();
    }
    from(value)
}

#[test]
fn nodes_behind_load_balancers_are_those_that_stay_and_may() {
    let nodes = vec![
        node("d", "10.0.0.4", json!({"metadata": {"name": "d"}})),
        node("a", "10.0.0.1", json!({"metadata": {"name": "a", "labels": {EXCLUDED: ""}}})),
        node(
            "b",
            "10.0.0.2",
            json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
        ),
        node("c", "10.0.0.3", json!({"spec": {"unschedulable": true}})),
        node("e", "10.0.0.5", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
        node(
            "f",
            "10.0.0.6",
            json!({"metadata": {"name": "f", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        ),
    ];
    let names: Vec<_> = plan::backends(nodes).into_iter().filter_map(|node| node.metadata.name).collect();
    assert_eq!(names, ["c", "d", "e"]);
}

#[test]
fn heartbeats_are_no_change_of_a_node() {
    let plain = node("a", "10.0.0.1", json!({}));
    let mut beat = plain.clone();
    beat.metadata.resource_version = Some("7".into());
    assert!(plan::essence(&plain) == plan::essence(&beat));
    for other in [
        node("a", "10.0.0.2", json!({})),
        node("a", "10.0.0.1", json!({"metadata": {"name": "a", "labels": {EXCLUDED: "true"}}})),
        node("a", "10.0.0.1", json!({"spec": {"providerID": "x://1"}})),
    ] {
        assert!(plan::essence(&plain) != plan::essence(&other));
    }
}

struct Site {
    cluster: Cluster,
}

impl Site {
    fn new(pool: Option<&str>) -> Self {
        let cloud = CloudOptions {
            load_balancer_pool: pool.map(|text| text.parse().unwrap()),
            reserved_ports: vec![6443],
            ..CloudOptions::default()
        };
        let cluster = Cluster::with(Options { cloud, ..Options::default() });
        cluster.fake.put(&node("a", "10.0.0.1", json!({}))).unwrap();
        cluster.start(|context| {
            Box::pin(async move {
                let cloud = context.options.cloud.clone();
                let local =
                    crate::cloud::local::Local::new(&context, cloud.load_balancer_pool, cloud.reserved_ports);
                super::run(context, std::sync::Arc::new(local)).await;
            })
        });
        Self { cluster }
    }

    async fn create(&self, name: &str, mut spec: Value) {
        spec["type"] = json!("LoadBalancer");
        spec["clusterIP"] = json!("10.96.0.9");
        if spec["ports"].is_null() {
            spec["ports"] = json!([{"port": 80, "protocol": "TCP"}]);
        }
        let service: Service = from(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}));
        self.cluster.context.client.create(&service).await.unwrap();
    }

    fn service(&self, name: &str) -> Service {
        self.cluster.fake.get("ns", name).unwrap()
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let ingress = plan::status(&self.service(name)).ingress.unwrap_or_default();
        ingress.into_iter().filter_map(|i| i.ip).collect()
    }

    async fn until_addresses(&self, name: &str, want: &[&str]) {
        self.cluster.until(&format!("{name} {want:?}"), |_| self.addresses(name) == want).await;
    }

    async fn until_event(&self, reason: &str, text: &str) {
        let wanted = (reason.to_owned(), text.to_owned());
        self.cluster.until(text, |_| self.cluster.events().contains(&wanted)).await;
    }

    async fn delete(&self, name: &str) {
        self.cluster.context.client.delete::<Service>("ns", name, DeleteOptions::default()).await.unwrap();
        self.cluster.until("it is gone", |fake| fake.get::<Service>("ns", name).is_none()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_given_out_runs_dry_and_recovers() {
    let site = Site::new(Some("192.0.2.0/31"));
    site.create("one", json!({})).await;
    site.until_addresses("one", &["192.0.2.0"]).await;
    let one = site.service("one");
    assert!(plan::has_finalizer(&one));
    assert_eq!(one.metadata.annotations.unwrap()["coracle.dev/announced-by"], "a");
    site.create("two", json!({})).await;
    site.until_addresses("two", &["192.0.2.1"]).await;
    site.create("three", json!({})).await;
    site.until_event(
        "SyncLoadBalancerFailed",
        "Error syncing load balancer: failed to ensure load balancer: no free address in the load balancer pool 192.0.2.0/31",
    )
    .await;
    site.delete("one").await;
    site.until_addresses("three", &["192.0.2.0"]).await;
    for reason in
        ["EnsuringLoadBalancer", "EnsuredLoadBalancer", "DeletingLoadBalancer", "DeletedLoadBalancer"]
    {
        assert!(site.cluster.events().iter().any(|(found, _)| found == reason), "{reason}");
    }
    // Back to another type: everything of the load balancer goes.
    let mut two = site.service("two");
    two.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
    site.cluster.context.client.update(&two).await.unwrap();
    site.until_addresses("two", &[]).await;
    site.cluster.until("no finalizer", |_| !plan::has_finalizer(&site.service("two"))).await;
    assert_eq!(site.service("two").metadata.annotations.unwrap_or_default().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_announcer_moves_when_its_node_fails() {
    let site = Site::new(Some("192.0.2.9"));
    site.create("one", json!({})).await;
    site.until_addresses("one", &["192.0.2.9"]).await;
    site.cluster.fake.put(&node("b", "10.0.0.2", json!({}))).unwrap();
    site.cluster.settle().await;
    let by = |site: &Site| {
        site.service("one").metadata.annotations.and_then(|a| a.get("coracle.dev/announced-by").cloned())
    };
    assert_eq!(by(&site).as_deref(), Some("a"), "it stays while it can");
    let lost = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    site.cluster.fake.put(&node("a", "10.0.0.1", lost)).unwrap();
    site.cluster.until("b has it", |_| by(&site).as_deref() == Some("b")).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_pool_the_nodes_addresses_serve_each_port_once() {
    let site = Site::new(None);
    site.create("web", json!({})).await;
    site.until_addresses("web", &["10.0.0.1"]).await;
    site.create("other", json!({})).await;
    site.until_event(
        "SyncLoadBalancerFailed",
        "Error syncing load balancer: failed to ensure load balancer: port 80/TCP of the nodes is in use by Service ns/web",
    )
    .await;
    site.create("api", json!({"ports": [{"port": 6443}]})).await;
    site.until_event(
        "SyncLoadBalancerFailed",
        "Error syncing load balancer: failed to ensure load balancer: port 6443/TCP of the nodes is the API server's",
    )
    .await;
    site.cluster.fake.put(&node("b", "10.0.0.2", json!({}))).unwrap();
    site.until_addresses("web", &["10.0.0.1", "10.0.0.2"]).await;
    site.until_event("UpdatedLoadBalancer", "Updated load balancer with new hosts").await;
    site.cluster
        .fake
        .put(&node("a", "10.0.0.1", json!({"metadata": {"name": "a", "labels": {EXCLUDED: ""}}})))
        .unwrap();
    site.until_addresses("web", &["10.0.0.2"]).await;
    site.delete("web").await;
    site.until_addresses("other", &["10.0.0.2"]).await;
}
