//! Autoscaling by what pods use, from the node's figures through metrics.k8s.io to the Deployment's scale.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, ClusterOptions, ControlPlane, eventually};
use serde_json::json;

/// Seconds instead of minutes.
const FAST: &[&str] = &[
    "--metric-resolution=1s",
    "--horizontal-pod-autoscaler-sync-period=1s",
    "--horizontal-pod-autoscaler-downscale-stabilization=2s",
    "--horizontal-pod-autoscaler-cpu-initialization-period=1s",
    "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
];

/// Pods of one container that asks for 100m; how many, the autoscaler says.
fn deployment(name: &str, image: &str, arguments: &[&str], annotations: &serde_json::Value) -> String {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}, "annotations": annotations},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image, "args": arguments,
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}}]},
        },
    }})
    .to_string()
}

/// The condition ScalingActive of the autoscaler `web`, with its reason.
const ACTIVE: &str = ".status.conditions[?(@.type==\"ScalingActive\")].reason";

#[test]
fn a_deployment_of_busy_wasm_guests_grows_and_shrinks() {
    let cluster = Cluster::start_with(ClusterOptions {
        arguments: FAST.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    });
    cluster.import("hog/hog.wasm", "hog:v1");
    cluster.import("hello-http/hello-http.wasm", "hello-http:v1");
    let none = json!({});
    // It spins as fast as its limit lets it: twice what it asks for.
    cluster.apply(&deployment("web", "coracle.dev/samples/hog:v1", &["cpu"], &none));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("autoscale deployment web --min=1 --max=3 --cpu-percent=60");
    eventually("three replicas", || {
        let replicas = cluster.field("deployment/web", ".spec.replicas");
        let reason = cluster.field("hpa/web", ACTIVE);
        if replicas == "3" { Ok(()) } else { Err(format!("{replicas} {reason}")) }
    });
    assert_eq!(cluster.field("hpa/web", ACTIVE), "ValidMetricFound");
    let used = ".status.currentMetrics[0].resource.current.averageUtilization";
    let utilization: u32 = cluster.field("hpa/web", used).parse().unwrap();
    assert!((120..=240).contains(&utilization), "{utilization} %");

    // The same Deployment with nothing to do.
    cluster.apply(&deployment("web", "coracle.dev/samples/hello-http:v1", &[], &none));
    eventually("one replica", || {
        let replicas = cluster.field("deployment/web", ".spec.replicas");
        if replicas == "1" { Ok(()) } else { Err(format!("{replicas} {}", cluster.field("hpa/web", ACTIVE))) }
    });
    let events = cluster.kubectl("events --for hpa/web");
    for text in ["above target", "All metrics below target"] {
        assert!(events.contains(text), "{text} is not in {events}");
    }
}

#[test]
fn virtual_pods_are_scaled_by_what_their_annotations_say() {
    let mut cluster = ControlPlane::start_with(FAST);
    cluster.play("node", 2, &[]);
    let usage = |cpu: &str, memory: &str| json!({"coracle.dev/fake-cpu-usage": cpu, "coracle.dev/fake-memory-usage": memory});
    cluster.apply(&deployment("web", "any:v1", &[], &usage("200m", "10Mi")));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    // By the use of one container, which stands at twice what the target wants.
    let hpa = |name: &str| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 6,
            "metrics": [
                {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "target": {"type": "Utilization", "averageUtilization": 100}}},
                {"type": "Resource", "resource": {"name": "memory",
                    "target": {"type": "AverageValue", "averageValue": "20Mi"}}},
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        }})
        .to_string()
    };
    cluster.apply(&hpa("web"));
    let reaches = |wanted: &str| {
        eventually(&format!("{wanted} replicas"), || {
            let replicas = cluster.field("deployment/web", ".status.readyReplicas");
            if replicas == wanted {
                Ok(())
            } else {
                Err(format!("{replicas} {}", cluster.field("hpa/web", ACTIVE)))
            }
        });
    };
    // They use as much however many they are: up to the maximum.
    reaches("6");
    let current = ".status.currentMetrics[0].containerResource.current.averageUtilization";
    assert_eq!(cluster.field("hpa/web", current), "200");
    let memory = ".status.currentMetrics[1].resource.current.averageValue";
    assert_eq!(cluster.field("hpa/web", memory), "10485760");

    // Two that want to scale the same pods do nothing, and say so.
    cluster.apply(&hpa("rival"));
    eventually("both give up", || {
        let reasons: Vec<_> = ["web", "rival"].map(|n| cluster.field(&format!("hpa/{n}"), ACTIVE)).into();
        if reasons == ["AmbiguousSelector"; 2] { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
    cluster.kubectl("delete hpa rival");

    cluster.apply(&deployment("web", "any:v1", &[], &usage("20m", "10Mi")));
    // A fifth of the CPU that is wanted, and half of the memory: what wants more decides, until one is left.
    reaches("1");
}
