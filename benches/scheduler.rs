//! Cycles of the scheduler over a picture of many nodes: how many pods a second it places, without the API around it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use std::time::Instant;

use coracle_client::Object;
use coracle_scheduler::cache::Cache;
use coracle_scheduler::cycle::{Position, schedule};
use coracle_scheduler::plugins;
use coracle_scheduler::pod::PodInfo;
use measure::{header, row};
use serde_json::{Value, json};

const PODS: usize = 20_000;
/// Pods of one controller.
const PODS_PER_SET: usize = 100;

fn main() {
    header("Scheduler cycles");
    for nodes in [100, 1_000, 5_000] {
        for (zones, what) in [(0, "no zones"), (3, "3 zones")] {
            let rate = placed_per_second(nodes, zones, &json!([]));
            let promise = if nodes == 5_000 { "≥ 10,000/s" } else { "" };
            row(&format!("{PODS} pods on {nodes} nodes, {what}"), &format!("{rate:.0} pods/s"), promise);
        }
        let rate = placed_per_second(nodes, 3, &spread());
        row(
            &format!("{PODS} pods on {nodes} nodes, spread over zones and hosts"),
            &format!("{rate:.0} pods/s"),
            "",
        );
    }
}

/// Constraints as charts have them: zones must, hosts should.
fn spread() -> Value {
    json!([
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"},
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"},
    ])
}

/// `constraints`: without their selectors, which are of the pod's own set.
fn placed_per_second(nodes: usize, zones: usize, constraints: &Value) -> f64 {
    let mut cache = Cache::default();
    for index in 0..nodes {
        let mut labels =
            json!({"kubernetes.io/hostname": format!("node-{index}"), "kubernetes.io/os": "linux"});
        if zones > 0 {
            labels["topology.kubernetes.io/zone"] = json!(format!("zone-{}", index % zones));
        }
        let node = json!({
            "metadata": {"name": format!("node-{index}"), "uid": format!("node-{index}"), "labels": labels},
            "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "500"}},
        });
        cache.set_node(&Object::parse(node.to_string().into(), &[]).unwrap()).unwrap();
    }
    let pods: Vec<PodInfo> = (0..PODS).map(|index| pod(index, constraints)).collect();
    let plugins = plugins::all();
    let mut position = Position::default();
    let mut turn = 0;
    let started = Instant::now();
    for pod in &pods {
        let mut any = |winners| {
            turn += 1;
            turn % winners
        };
        let node = schedule(pod, &cache, &plugins, &mut position, &mut any).unwrap();
        cache.assume(pod, &node);
    }
    PODS as f64 / started.elapsed().as_secs_f64()
}

fn pod(index: usize, constraints: &Value) -> PodInfo {
    let set = index / PODS_PER_SET;
    let mut constraints = constraints.clone();
    for constraint in constraints.as_array_mut().unwrap() {
        constraint["labelSelector"] = json!({"matchLabels": {"app": format!("app-{set}")}});
    }
    let pod = json!({
        "metadata": {"name": format!("pod-{index}"), "namespace": "bench", "uid": format!("pod-{index}"),
            "labels": {"app": format!("app-{set}")},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("set-{set}"),
                "uid": format!("set-{set}"), "controller": true}]},
        "spec": {"schedulerName": "default-scheduler", "topologySpreadConstraints": constraints, "containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
    });
    PodInfo::decode(&Object::parse(pod.to_string().into(), &[]).unwrap()).unwrap()
}
