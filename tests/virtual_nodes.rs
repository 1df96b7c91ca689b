//! Virtual nodes: what scheduler, controllers and kubectl see of nodes that run nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::collections::BTreeSet;

use harness::{ControlPlane, PATIENCE, Process, coracle, eventually};

/// A Deployment of `name` with annotations on its pods.
fn deployment(name: &str, replicas: u32, annotations: &[(&str, &str)]) -> String {
    let annotations: serde_json::Map<_, _> = annotations
        .iter()
        .map(|(key, value)| (format!("coracle.dev/fake-{key}"), serde_json::Value::from(*value)))
        .collect();
    serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}, "annotations": annotations},
            "spec": {"containers": [{"name": "c", "image": "any:v1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
        }},
    })
    .to_string()
}

/// Asks until a field reads as wanted.
fn until(cluster: &ControlPlane, object: &str, path: &str, wanted: &str) {
    eventually(&format!("{object} {path} = {wanted}"), || {
        let output = cluster.try_kubectl(&format!("get {object} -o jsonpath={{{path}}}"));
        if output.stdout == wanted { Ok(()) } else { Err(format!("«{}» {}", output.stdout, output.stderr)) }
    });
}

#[test]
fn pods_of_deployments_and_jobs_live_and_go_on_many_nodes() {
    let mut cluster = ControlPlane::start();
    cluster.play(
        "fleet",
        12,
        &[
            "--zones=a,b,c",
            "--node-labels=team=blue,tier=web",
            "--node-capacity=cpu=4,pods=20,example.com/gpu=2",
            "--register-with-taints=reserved=yes:PreferNoSchedule",
            "--node-arch=arm64",
        ],
    );
    assert_eq!(
        cluster.kubectl("get nodes -l team=blue,kubernetes.io/arch=arm64 -o name").lines().count(),
        12
    );
    assert_eq!(cluster.kubectl("get nodes -l topology.kubernetes.io/zone=b -o name").lines().count(), 4);
    assert_eq!(cluster.field("node/fleet-3", ".status.allocatable.example\\.com/gpu"), "2");
    assert_eq!(cluster.field("node/fleet-3", ".spec.taints[0].key"), "reserved");
    let requests = cluster.kubectl("get csr --field-selector spec.signerName=kubernetes.io/kubelet-serving");
    assert!(requests.contains("Approved,Issued"), "{requests}");
    assert_eq!(cluster.field("lease/fleet-3 -n kube-node-lease", ".spec.holderIdentity"), "fleet-3");

    cluster.apply(&deployment("web", 60, &[]));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let pods = cluster.kubectl(
        "get pods -l app=web -o jsonpath={range.items[*]}{.spec.nodeName}{\"\\u0020\"}{.status.podIP}{\"\\n\"}{end}",
    );
    let lines: Vec<_> = pods.lines().filter(|line| !line.is_empty()).collect();
    let nodes: std::collections::BTreeSet<_> = lines.iter().filter_map(|l| l.split(' ').next()).collect();
    let addresses: std::collections::BTreeSet<_> = lines.iter().filter_map(|l| l.split(' ').nth(1)).collect();
    assert_eq!((lines.len(), nodes.len(), addresses.len()), (60, 12, 60), "{pods}");

    cluster.kubectl("set image deployment/web c=any:v2");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("delete deployment web --wait=true --timeout=60s");
    until(&cluster, "pods -l app=web", ".items[*].metadata.name", "");

    cluster.kubectl("run once --image=any --restart=Never --annotations=coracle.dev/fake-run-duration=100ms");
    until(&cluster, "pod/once", ".status.phase", "Succeeded");
    cluster.kubectl("delete pod once");

    // Claims are bound to volumes of the nodes, and go with their pods and their set where that is asked for.
    let set = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 3, "serviceName": "db", "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "db"}},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "any"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]},
    });
    cluster.apply(&set.to_string());
    cluster.kubectl("rollout status statefulset/db --timeout=60s");
    until(&cluster, "pvc", ".items[*].status.phase", "Bound Bound Bound");
    assert_eq!(
        cluster.field("pvc/data-db-1", ".metadata.annotations.volume\\.kubernetes\\.io/selected-node"),
        cluster.field("pod/db-1", ".spec.nodeName")
    );
    cluster.kubectl("scale statefulset/db --replicas=1");
    until(&cluster, "pvc", ".items[*].metadata.name", "data-db-0");
    cluster.kubectl("delete statefulset db");
    until(&cluster, "pvc", ".items[*].metadata.name", "");
    until(&cluster, "pv", ".items[*].metadata.name", "");
}

#[test]
fn pods_behave_as_their_annotations_say() {
    let cluster = ControlPlane::with_nodes(2);
    cluster.apply(&deployment("slow", 1, &[("ready-delay", "never")]));
    cluster.apply(&deployment("crash", 1, &[("failure", "CrashLoopBackOff"), ("exit-code", "7")]));
    cluster.apply(&deployment("image", 1, &[("failure", "ImagePullBackOff")]));
    cluster.apply(&deployment("wrong", 1, &[("start-delay", "soon")]));
    let state = ".items[0].status.containerStatuses[0]";
    until(&cluster, "pods -l app=slow", ".items[0].status.phase", "Running");
    assert_eq!(cluster.field("pods -l app=slow", &format!("{state}.ready")), "false");
    until(&cluster, "pods -l app=crash", &format!("{state}.state.waiting.reason"), "CrashLoopBackOff");
    assert_eq!(cluster.field("pods -l app=crash", &format!("{state}.lastState.terminated.exitCode")), "7");
    until(&cluster, "pods -l app=image", &format!("{state}.state.waiting.reason"), "ImagePullBackOff");
    assert_eq!(cluster.field("pods -l app=image", ".items[0].status.phase"), "Pending");
    until(&cluster, "pods -l app=wrong", ".items[0].status.phase", "Running");
    let reasons = ".items[*].reason";
    eventually("events", || {
        let events = cluster.field("events", reasons);
        let all = ["BackOff", "InvalidFakeAnnotation", "Failed"].iter().all(|reason| events.contains(reason));
        if all { Ok(()) } else { Err(events) }
    });
    // The cure is another annotation.
    let pod = cluster.field("pods -l app=slow", ".items[0].metadata.name");
    cluster.kubectl(&format!("annotate pod {pod} --overwrite coracle.dev/fake-ready-delay=0s"));
    cluster.kubectl("rollout status deployment/slow --timeout=60s");
}

#[test]
fn a_silent_node_is_lost_and_comes_back() {
    let mut cluster = ControlPlane::start_with(&["--node-monitor-grace-period", "4s"]);
    cluster.play("node", 2, &["--node-lease-duration=4s"]);
    let tolerations = serde_json::json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]);
    let mut manifest: serde_json::Value = serde_json::from_str(&deployment("web", 4, &[])).unwrap();
    manifest["spec"]["template"]["spec"]["tolerations"] = tolerations;
    cluster.apply(&manifest.to_string());
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("annotate node node-0 coracle.dev/fake-silent=true");
    let ready = ".status.conditions[?(@.type==\"Ready\")].status";
    until(&cluster, "node/node-0", ready, "Unknown");
    // Pods there are asked to go, and cannot answer.
    eventually("all pods elsewhere", || {
        let ready = cluster.field("deployment/web", ".status.readyReplicas");
        let there = cluster.kubectl("get pods -l app=web --field-selector spec.nodeName=node-1 -o name");
        if ready == "4" && there.lines().count() == 4 { Ok(()) } else { Err(format!("{ready} {there}")) }
    });
    cluster.kubectl("annotate node node-0 coracle.dev/fake-silent-");
    until(&cluster, "node/node-0", ready, "True");
    eventually("the old pods are gone", || {
        let pods = cluster.kubectl("get pods -l app=web -o name");
        if pods.lines().count() == 4 { Ok(()) } else { Err(pods) }
    });
}

#[test]
fn figures_are_served_by_node_and_pods_outlive_the_process() {
    let mut cluster = ControlPlane::with_nodes(2);
    cluster.apply(&deployment("web", 4, &[("cpu-usage", "250m"), ("memory-usage", "10Mi")]));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let path = cluster.field("node/node-1", ".metadata.annotations.metrics\\.k8s\\.io/resource-metrics-path");
    assert_eq!(path, "/nodes/node-1/metrics/resource");
    let metrics = cluster.kubectl(&format!("get --raw /api/v1/nodes/node-1/proxy{path}"));
    assert_eq!(metrics.matches("container_memory_working_set_bytes{container=\"c\"").count(), 2, "{metrics}");
    assert!(metrics.contains("10485760"), "{metrics}");
    let summary = cluster.kubectl("get --raw /api/v1/nodes/node-0/proxy/nodes/node-0/stats/summary");
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["pods"][0]["cpu"]["usageNanoCores"], 250_000_000);
    assert_eq!(summary["node"]["nodeName"], "node-0");

    let words = "get pods -l app=web -o jsonpath={range.items[*]}{.metadata.uid}{\"\\u0020\"}{.status.podIP}{\"\\u0020\"}{.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let seen = |cluster: &ControlPlane| -> BTreeSet<String> {
        cluster.kubectl(words).lines().map(str::to_owned).collect()
    };
    let before = seen(&cluster);
    assert_eq!(before.len(), 4, "{before:?}");
    cluster.players().clear();
    cluster.play("node", 2, &[]);
    cluster.kubectl("scale deployment web --replicas=8");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let after = seen(&cluster);
    assert!(after.is_superset(&before), "{before:?} {after:?}");
    let addresses: BTreeSet<_> = after.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(addresses.len(), 8, "{after:?}");
}

#[test]
fn virtual_nodes_may_join_with_a_certificate_each() {
    let cluster = ControlPlane::start();
    let mut command = coracle();
    command
        .args([
            "node",
            "--runtime",
            "fake",
            "--count",
            "2",
            "--node-name",
            "joined",
            "--server",
            cluster.address(),
        ])
        .arg("--token")
        .arg(cluster.token())
        .arg("--data-dir")
        .arg(cluster.directory().join("joined"));
    let mut process = Process::start(command, &cluster.directory().join("joined.log"));
    process.line("ready", PATIENCE, |line| line == "Nodes joined-0 to joined-1 ready");
    cluster.apply(&deployment("web", 4, &[]));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("delete deployment web --timeout=60s");
    until(&cluster, "pods", ".items[*].metadata.name", "");
    let output = coracle()
        .args(["node", "--runtime", "fake", "--count", "1000", "--server", cluster.address(), "--token", "x"])
        .arg("--data-dir")
        .arg(cluster.directory().join("many"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("--kubeconfig"), "{stderr}");
}
