//! The workloads of `apps`, and ReplicationControllers, driven by kubectl on one node: what upstream's tests of them ask.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::HashMap;

use harness::{Cluster, Kubectl, PATIENCE, Process, eventually};
use serde_json::{Value, json};

const V1: &str = "coracle.dev/samples/hello-http:v1";
const V2: &str = "coracle.dev/samples/hello-http:v2";

/// A pod that ends at once when it is told to.
fn template(app: &str, more: Value) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "web", "image": V1, "imagePullPolicy": "IfNotPresent"}]});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"labels": {"app": app}}, "spec": spec})
}

fn workload(kind: &str, name: &str, template: Value, more: Value) -> String {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
}

/// Asks for a field until it is this.
fn becomes(cluster: &Cluster, object: &str, path: &str, want: &str) {
    eventually(&format!("{object} {path}"), || {
        match cluster.try_kubectl(&format!("get {object} -o jsonpath={{{path}}}")) {
            output if output.code == Some(0) && output.stdout == want => Ok(()),
            output => Err(format!("«{}», not «{want}» {}", output.stdout, output.stderr)),
        }
    });
}

/// `web-0=…:v1 web-1=…:v2`: the pods of an app with their images.
fn images(cluster: &Cluster, app: &str) -> String {
    let path = "jsonpath={range .items[*]}{.metadata.name}={.spec.containers[0].image};{end}";
    let selector = format!("app={app}");
    let arguments = ["get", "pods", "-l", &selector, "--sort-by=.metadata.name", "-o", path];
    let pods = cluster.kubectl_version(33).attempt(&arguments).success();
    pods.replace("coracle.dev/samples/hello-http:", "").trim_end_matches(';').replace(';', " ")
}

fn runs(cluster: &Cluster, app: &str, want: &str) {
    eventually(want, || {
        let images = images(cluster, app);
        if images == want { Ok(()) } else { Err(images) }
    });
}

fn has_event(cluster: &Cluster, reason: &str, message: &str) {
    eventually(message, || {
        let path = r#"jsonpath={range .items[*]}{.message}{"\n"}{end}"#;
        let selector = format!("reason={reason}");
        let arguments = ["get", "events", "--field-selector", &selector, "-o", path];
        let all = cluster.kubectl_version(33).attempt(&arguments).success();
        if all.lines().any(|line| line.contains(message)) { Ok(()) } else { Err(all) }
    });
}

/// Columns of `kubectl get`, without the age.
fn row(kubectl: &Kubectl, object: &str) -> String {
    let table = kubectl.run(&format!("get {object} --no-headers"));
    let words: Vec<&str> = table.split_whitespace().collect();
    words.split_last().map(|(_, rest)| rest.join(" ")).unwrap_or_default()
}

/// Every state of an app's pods, as a watch brings them.
struct Watched(Process);

impl Watched {
    fn start(cluster: &Cluster, app: &str) -> Watched {
        let line = concat!(
            "{.type} {.object.metadata.name} ready={.object.status.conditions[?(@.type==\"Ready\")].status} ",
            "going={.object.metadata.deletionTimestamp} mark={.object.metadata.labels.mark}{\"\\n\"}"
        );
        let selector = format!("app={app}");
        let output = format!("jsonpath={line}");
        let arguments = ["get", "pods", "-l", &selector, "--watch", "--output-watch-events", "-o", &output];
        let mut process = cluster.kubectl_version(33).start(&arguments);
        // It has begun before anything is done.
        process.line("the first pod", PATIENCE, |line| line.starts_with("ADDED"));
        Watched(process)
    }

    /// The fewest pods that were ready and the most that were there at once, from when `size` were ready until the mark.
    fn bounds(mut self, cluster: &Cluster, app: &str, size: usize) -> (usize, usize) {
        // Some may be on their way out.
        eventually("a pod takes the mark", || {
            let pods = cluster.kubectl(&format!("get pods -l app={app} -o name"));
            let marked = |pod: &str| cluster.try_kubectl(&format!("label {pod} mark=end")).code == Some(0);
            if pods.lines().any(marked) { Ok(()) } else { Err(pods) }
        });
        self.0.line("the mark", PATIENCE, |line| line.ends_with("mark=end"));
        let mut pods: HashMap<String, (bool, bool)> = HashMap::new();
        let (mut least, mut most, mut started) = (usize::MAX, 0, false);
        for line in self.0.seen().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, name, ready, going, _] = words[..] else { panic!("{line}") };
            let going = going != "going=";
            if kind == "DELETED" {
                pods.remove(name);
            } else {
                pods.insert(name.to_owned(), (ready == "ready=True" && !going, !going));
            }
            let up = pods.values().filter(|(up, _)| *up).count();
            started |= up == size;
            if started {
                least = least.min(up);
                most = most.max(pods.values().filter(|(_, there)| *there).count());
            }
        }
        (least, most)
    }
}

#[test]
fn a_deployment_holds_its_bounds_at_every_instant_there_and_back() {
    let cluster = Cluster::start_with_samples();
    let strategy = json!({"replicas": 5, "strategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}});
    cluster.apply(&workload("Deployment", "web", template("web", json!({})), strategy));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let watched = Watched::start(&cluster, "web");
    cluster.kubectl(&format!("set image deployment/web web={V2}"));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("rollout undo deployment/web");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.kubectl("rollout restart deployment/web");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let (least, most) = watched.bounds(&cluster, "web", 5);
    assert!(least >= 4, "maxUnavailable 1 of 5, but {least} were ready");
    assert!(most <= 7, "maxSurge 2 of 5, but {most} were there");
    assert_eq!(cluster.field("deployment/web", ".spec.template.spec.containers[0].image"), V1);
}

fn history(cluster: &Cluster, object: &str) -> Vec<String> {
    let text = cluster.kubectl(&format!("rollout history {object}"));
    let revisions = text.lines().skip(2).filter_map(|line| line.split_whitespace().next());
    revisions.map(str::to_owned).collect()
}

#[test]
fn a_stateful_set_keeps_names_and_order() {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(33);
    let more = json!({"replicas": 3, "serviceName": "web"});
    cluster.apply(&workload("StatefulSet", "web", template("web", json!({})), more));
    cluster.kubectl("rollout status statefulset/web --timeout=60s");
    runs(&cluster, "web", "web-0=v1 web-1=v1 web-2=v1");
    assert_eq!(row(&kubectl, "statefulset/web"), "web 3/3");
    has_event(&cluster, "SuccessfulCreate", "create Pod web-0 in StatefulSet web successful");
    let first = cluster.field("statefulset/web", ".status.currentRevision");
    for (path, want) in [
        (".spec.hostname", "web-1"),
        (".spec.subdomain", "web"),
        (".metadata.labels.statefulset\\.kubernetes\\.io/pod-name", "web-1"),
        (".metadata.labels.apps\\.kubernetes\\.io/pod-index", "1"),
        (".metadata.labels.controller-revision-hash", &first),
        (".metadata.ownerReferences[0].kind", "StatefulSet"),
    ] {
        assert_eq!(cluster.field("pod/web-1", path), want, "{path}");
    }

    // A canary, then the rest, then back.
    let partition = |n: u8| {
        let patch = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": n}}}}).to_string();
        kubectl.attempt(&["patch", "statefulset", "web", "-p", &patch]).success();
    };
    partition(2);
    cluster.kubectl(&format!("set image statefulset/web web={V2}"));
    let said = cluster.kubectl("rollout status statefulset/web --timeout=60s");
    assert!(said.contains("partitioned roll out complete: 1 new pods have been updated"), "{said}");
    runs(&cluster, "web", "web-0=v1 web-1=v1 web-2=v2");
    assert_eq!(cluster.field("statefulset/web", ".status.currentRevision"), first);
    // What is deleted below the partition comes back as it was.
    cluster.kubectl("delete pod web-0");
    runs(&cluster, "web", "web-0=v1 web-1=v1 web-2=v2");
    becomes(&cluster, "statefulset/web", ".status.readyReplicas", "3");
    let watched = Watched::start(&cluster, "web");
    partition(0);
    cluster.kubectl("rollout status statefulset/web --timeout=60s");
    runs(&cluster, "web", "web-0=v2 web-1=v2 web-2=v2");
    assert_eq!(watched.bounds(&cluster, "web", 3).0, 2, "one at a time");
    assert_eq!(history(&cluster, "statefulset/web"), ["1", "2"]);
    cluster.kubectl("rollout undo statefulset/web");
    cluster.kubectl("rollout status statefulset/web --timeout=60s");
    runs(&cluster, "web", "web-0=v1 web-1=v1 web-2=v1");
    assert_eq!(history(&cluster, "statefulset/web"), ["2", "3"]);
    becomes(&cluster, "statefulset/web", ".status.currentRevision", &first);
    cluster.kubectl("rollout restart statefulset/web");
    cluster.kubectl("rollout status statefulset/web --timeout=60s");
    assert_eq!(history(&cluster, "statefulset/web").len(), 3);

    // Through scale, from the last.
    cluster.kubectl("scale statefulset/web --replicas=1");
    becomes(&cluster, "statefulset/web", ".status.replicas", "1");
    runs(&cluster, "web", "web-0=v1");
    has_event(&cluster, "SuccessfulDelete", "delete Pod web-2 in StatefulSet web successful");
    cluster.kubectl("delete statefulset web");
    kubectl.run("wait --for=delete pod/web-0 --timeout=60s");
    becomes(&cluster, "controllerrevisions", ".items[*].metadata.name", "");
}

#[test]
fn a_stateful_set_waits_in_order_and_bursts_in_parallel() {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(33);
    // Not ready until somebody says so.
    let gated = |app: &str| template(app, json!({"readinessGates": [{"conditionType": "example.com/go"}]}));
    let go = |pod: &str| {
        let patch =
            json!({"status": {"conditions": [{"type": "example.com/go", "status": "True"}]}}).to_string();
        kubectl.attempt(&["patch", "pod", pod, "--subresource=status", "-p", &patch]).success();
    };
    let more = json!({"replicas": 3, "ordinals": {"start": 5}});
    cluster.apply(&workload("StatefulSet", "order", gated("order"), more));
    becomes(&cluster, "pods", ".items[?(@.status.phase==\"Running\")].metadata.name", "order-5");
    // It would have come by now: the parallel set behind it has all of its pods.
    let burst = json!({"replicas": 3, "podManagementPolicy": "Parallel"});
    cluster.apply(&workload("StatefulSet", "burst", gated("burst"), burst));
    becomes(&cluster, "statefulset/burst", ".status.replicas", "3");
    assert_eq!(images(&cluster, "order"), "order-5=v1");
    go("order-5");
    becomes(&cluster, "statefulset/order", ".status.replicas", "2");
    go("order-6");
    becomes(&cluster, "statefulset/order", ".status.replicas", "3");
    runs(&cluster, "order", "order-5=v1 order-6=v1 order-7=v1");
    assert_eq!(row(&kubectl, "statefulset/order"), "order 2/3");
    // Scaling down goes through the broken last one; in parallel all go.
    cluster.kubectl("scale statefulset/order --replicas=1");
    becomes(&cluster, "statefulset/order", ".status.replicas", "1");
    cluster.kubectl("scale statefulset/burst --replicas=0");
    becomes(&cluster, "statefulset/burst", ".status.replicas", "0");
    // Two at a time, and what an old template broke does not hold the new one up.
    let strategy =
        json!({"spec": {"replicas": 4, "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}});
    kubectl.attempt(&["patch", "statefulset", "burst", "-p", &strategy.to_string()]).success();
    becomes(&cluster, "statefulset/burst", ".status.replicas", "4");
    cluster.kubectl(&format!("set image statefulset/burst web={V2}"));
    becomes(&cluster, "statefulset/burst", ".status.updatedReplicas", "2");
    go("burst-2");
    go("burst-3");
    becomes(&cluster, "statefulset/burst", ".status.updatedReplicas", "4");
    runs(&cluster, "burst", "burst-0=v2 burst-1=v2 burst-2=v2 burst-3=v2");
    // A collection, listed and deleted.
    let labelled = cluster.kubectl("get statefulsets -o name");
    assert_eq!(labelled.lines().count(), 2);
    cluster.kubectl("delete statefulsets --all");
    becomes(&cluster, "pods", ".items[*].metadata.name", "");
}

#[test]
fn claims_are_made_for_every_pod_and_go_as_told() {
    let cluster = Cluster::start();
    let more = json!({"replicas": 1, "serviceName": "db",
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
        "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"tier": "db"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}]});
    cluster.apply(&workload("StatefulSet", "db", template("db", json!({})), more));
    becomes(&cluster, "pod/db-0", ".spec.volumes[0].persistentVolumeClaim.claimName", "data-db-0");
    for (path, want) in [
        (".metadata.labels", r#"{"app":"db","tier":"db"}"#),
        (".metadata.ownerReferences[0].kind", "StatefulSet"),
        (".spec.resources.requests.storage", "1Mi"),
    ] {
        assert_eq!(cluster.field("pvc/data-db-0", path), want, "{path}");
    }
    has_event(&cluster, "SuccessfulCreate", "create Claim data-db-0 Pod db-0 in StatefulSet db success");
    cluster.kubectl("delete pvc data-db-0 --wait=false");
    cluster.kubectl("delete statefulset db");
    becomes(&cluster, "pods,pvc", ".items[*].metadata.name", "");
}

#[test]
fn a_daemon_set_is_on_the_nodes_that_suit() {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(33);
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    // A node without a kubelet: it shows where daemons go, and they stay there.
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "shelf", "labels": {"color": "blue"}}})
            .to_string(),
    );
    cluster.apply(&workload(
        "DaemonSet",
        "agent",
        template("agent", json!({"nodeSelector": {"color": "green"}})),
        json!({}),
    ));
    becomes(&cluster, "daemonset/agent", ".status.observedGeneration", "1");
    assert_eq!(row(&kubectl, "daemonset/agent"), "agent 0 0 0 0 0 color=green");
    cluster.kubectl(&format!("label node {node} color=green"));
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert_eq!(row(&kubectl, "daemonset/agent"), "agent 1 1 1 1 1 color=green");
    let pod = cluster.kubectl("get pods -l app=agent -o jsonpath={.items[0].metadata.name}");
    let pinned =
        ".spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    assert_eq!(
        cluster.field(&format!("pod/{pod}"), pinned),
        format!(r#"[{{"matchFields":[{{"key":"metadata.name","operator":"In","values":["{node}"]}}]}}]"#)
    );
    has_event(&cluster, "SuccessfulCreate", &format!("Created pod: {pod}"));
    cluster.kubectl(&format!("label node {node} color=red --overwrite"));
    becomes(&cluster, "pods", ".items[*].metadata.name", "");
    becomes(&cluster, "daemonset/agent", ".status.desiredNumberScheduled", "0");

    // Affinity, on the node without a kubelet: wanted there, and not available.
    let affinity = json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "color", "operator": "In", "values": ["blue"]}]}]}}}});
    cluster.apply(&workload("DaemonSet", "far", template("far", affinity), json!({})));
    becomes(&cluster, "daemonset/far", ".status.currentNumberScheduled", "1");
    becomes(&cluster, "daemonset/far", ".status.numberUnavailable", "1");
    cluster.kubectl("taint node shelf mine=x:NoExecute");
    becomes(&cluster, "daemonset/far", ".status.desiredNumberScheduled", "0");
    cluster.kubectl("delete daemonsets --all");
    becomes(&cluster, "pods", ".items[*].metadata.name", "");
}

#[test]
fn a_daemon_set_rolls_back_and_replaces_what_failed() {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(33);
    cluster.apply(&workload("DaemonSet", "agent", template("agent", json!({})), json!({})));
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    cluster.kubectl(&format!("set image daemonset/agent web={V2}"));
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert!(images(&cluster, "agent").ends_with("=v2"));
    assert_eq!(history(&cluster, "daemonset/agent"), ["1", "2"]);
    cluster.kubectl("rollout undo daemonset/agent --to-revision=1");
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert!(images(&cluster, "agent").ends_with("=v1"));
    assert_eq!(history(&cluster, "daemonset/agent"), ["2", "3"]);

    // The new one comes before the old one goes.
    let surge = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    kubectl.attempt(&["patch", "daemonset", "agent", "-p", &surge.to_string()]).success();
    let watched = Watched::start(&cluster, "agent");
    cluster.kubectl("rollout restart daemonset/agent");
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert_eq!(watched.bounds(&cluster, "agent", 1), (1, 2));

    let pod = cluster.kubectl("get pods -l app=agent -o jsonpath={.items[0].metadata.name}");
    let failed = json!({"status": {"phase": "Failed"}}).to_string();
    kubectl.attempt(&["patch", "pod", &pod, "--subresource=status", "-p", &failed]).success();
    has_event(&cluster, "FailedDaemonPod", &format!("Found failed daemon pod default/{pod} on node"));
    kubectl.run(&format!("wait --for=delete pod/{pod} --timeout=60s"));
    becomes(&cluster, "daemonset/agent", ".status.numberAvailable", "1");

    // By hand only.
    let on_delete = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    kubectl.attempt(&["patch", "daemonset", "agent", "-p", &on_delete.to_string()]).success();
    cluster.kubectl(&format!("set image daemonset/agent web={V2}"));
    let generation = cluster.field("daemonset/agent", ".metadata.generation");
    becomes(&cluster, "daemonset/agent", ".status.observedGeneration", &generation);
    assert!(images(&cluster, "agent").ends_with("=v1"));
    cluster.kubectl("delete pods -l app=agent");
    becomes(&cluster, "daemonset/agent", ".status.updatedNumberScheduled", "1");
    assert!(images(&cluster, "agent").ends_with("=v2"));
}

#[test]
fn a_replication_controller_adopts_releases_scales_and_says_what_fails() {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(33);
    let pod = |name: &str| {
        let template = template("rc", json!({}));
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "rc"}}, "spec": template["spec"]})
    };
    cluster.apply(&pod("orphan").to_string());
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
            "spec": {"replicas": 2, "selector": {"app": "rc"}, "template": template("rc", json!({}))}})
        .to_string(),
    );
    becomes(&cluster, "rc/rc", ".status.availableReplicas", "2");
    assert_eq!(row(&kubectl, "rc/rc"), "rc 2 2 2");
    assert_eq!(cluster.field("pod/orphan", ".metadata.ownerReferences[0].kind"), "ReplicationController");
    kubectl.run("label pod orphan app=free --overwrite");
    becomes(&cluster, "pod/orphan", ".metadata.ownerReferences", "");
    eventually("two again", || {
        let names = images(&cluster, "rc");
        if names.split(' ').count() == 2 && !names.contains("orphan") { Ok(()) } else { Err(names) }
    });
    kubectl.run("create quota few --hard=pods=3");
    becomes(&cluster, "quota/few", ".status.used.pods", "3");
    cluster.kubectl("scale rc/rc --replicas=4");
    becomes(&cluster, "rc/rc", ".status.conditions[?(@.type==\"ReplicaFailure\")].reason", "FailedCreate");
    has_event(&cluster, "FailedCreate", "exceeded quota: few");
    cluster.kubectl("scale rc/rc --replicas=1");
    becomes(&cluster, "rc/rc", ".status.conditions", "");
    becomes(&cluster, "rc/rc", ".status.replicas", "1");
    cluster.kubectl("delete rc rc");
    becomes(&cluster, "pods", ".items[*].metadata.name", "orphan");
}
