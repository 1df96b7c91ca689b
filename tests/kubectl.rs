//! Everyday kubectl, the same session with every version that people have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};

use harness::{Cluster, Kubectl, PATIENCE};

#[test]
fn kubectl_1_31() {
    session(31);
}

#[test]
fn kubectl_1_32() {
    session(32);
}

#[test]
fn kubectl_1_33() {
    session(33);
}

#[test]
fn kubectl_1_34() {
    session(34);
}

#[test]
fn kubectl_1_35() {
    session(35);
}

type Part = fn(&Cluster, &Kubectl);

/// Every part runs even when one before it failed: a report of all faults is worth more than the first of them.
fn session(minor: u32) {
    let cluster = Cluster::start_with_samples();
    let kubectl = cluster.kubectl_version(minor);
    let parts: [(&str, Part); 13] = [
        ("about the cluster", about_the_cluster),
        ("discovery and explain", discovery_and_explain),
        ("create", create),
        ("apply, diff, edit", apply_diff_edit),
        ("get in every form", get_in_every_form),
        ("watch", watch),
        ("label, annotate, patch", label_annotate_patch),
        ("rollouts", rollouts),
        ("logs", logs),
        ("describe", describe),
        ("selectors and chunks", selectors_and_chunks),
        ("cordon, taint, drain", cordon_taint_drain),
        ("delete", delete),
    ];
    let failed: Vec<_> = parts
        .iter()
        .filter(|(_, part)| catch_unwind(AssertUnwindSafe(|| part(&cluster, &kubectl))).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "kubectl 1.{minor}: {failed:?}");
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "«{part}» is not in\n{text}");
    }
}

fn header(table: &str, columns: &str) {
    let first: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(first.join(" "), columns, "{table}");
}

fn about_the_cluster(cluster: &Cluster, kubectl: &Kubectl) {
    contains(&kubectl.run("version"), &["Server Version: v1.37"]);
    contains(&kubectl.run("cluster-info"), &["Kubernetes control plane", "is running at", cluster.server()]);
    contains(&kubectl.run("auth whoami"), &["Username", "system:masters", "system:authenticated"]);
    let nodes = kubectl.run("get nodes");
    header(&nodes, "NAME STATUS ROLES AGE VERSION");
    contains(&nodes, &[" Ready ", "v1.37"]);
    header(&kubectl.run("get namespaces"), "NAME STATUS AGE");
    contains(
        &kubectl.run("get namespaces -o name"),
        &["namespace/default", "namespace/kube-system", "namespace/kube-public", "namespace/kube-node-lease"],
    );
    contains(&kubectl.run("get service kubernetes"), &["kubernetes", "ClusterIP", "443/TCP"]);
    contains(&kubectl.run("get leases -n kube-node-lease"), &["NAME", "HOLDER"]);
    contains(&kubectl.run("get serviceaccounts"), &["default"]);
    contains(&kubectl.run("get --raw /readyz"), &["ok"]);
}

fn discovery_and_explain(_: &Cluster, kubectl: &Kubectl) {
    let resources = kubectl.run("api-resources");
    header(&resources, "NAME SHORTNAMES APIVERSION NAMESPACED KIND");
    let squeezed: Vec<String> =
        resources.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "namespaces ns v1 false Namespace",
        "pods po v1 true Pod",
        "nodes no v1 false Node",
        "services svc v1 true Service",
        "endpoints ep v1 true Endpoints",
        "configmaps cm v1 true ConfigMap",
        "secrets v1 true Secret",
        "serviceaccounts sa v1 true ServiceAccount",
        "events ev v1 true Event",
        "events ev events.k8s.io/v1 true Event",
        "endpointslices discovery.k8s.io/v1 true EndpointSlice",
        "leases coordination.k8s.io/v1 true Lease",
        "deployments deploy apps/v1 true Deployment",
        "replicasets rs apps/v1 true ReplicaSet",
        "runtimeclasses node.k8s.io/v1 false RuntimeClass",
    ] {
        assert!(squeezed.iter().any(|found| found == line), "«{line}» is not in\n{resources}");
    }
    contains(&kubectl.run("api-versions"), &["v1", "apps/v1", "discovery.k8s.io/v1", "events.k8s.io/v1"]);
    contains(
        &kubectl.run("explain pod.spec.containers"),
        &["KIND:", "Pod", "FIELD: containers", "image\t<string>", "List of containers belonging to the pod"],
    );
    contains(&kubectl.run("explain deployment --recursive"), &["GROUP:", "apps", "maxUnavailable"]);
    let unknown = kubectl.attempt(&["get", "gizmos"]).failure();
    contains(&unknown, &["the server doesn't have a resource type \"gizmos\""]);
}

fn create(_: &Cluster, kubectl: &Kubectl) {
    contains(&kubectl.run("create ns made"), &["namespace/made created"]);
    contains(
        &kubectl.run("create configmap settings -n made --from-literal=colour=blue"),
        &["configmap/settings created"],
    );
    assert_eq!(kubectl.run("get cm settings -n made -o jsonpath={.data.colour}"), "blue");
    contains(&kubectl.run("create secret generic key -n made --from-literal=k=v"), &["secret/key created"]);
    assert_eq!(kubectl.run("get secret key -n made -o jsonpath={.data.k}"), "dg==");
    contains(&kubectl.run("create serviceaccount robot -n made"), &["serviceaccount/robot created"]);
    assert!(kubectl.run("create token robot -n made").split('.').count() == 3, "not a JWT");
    contains(
        &kubectl.run("create deployment web -n made --image=coracle.dev/samples/hello-http:v1 --port=8080"),
        &["deployment.apps/web created"],
    );
    contains(
        &kubectl.run("expose deployment web -n made --port=80 --target-port=8080"),
        &["service/web exposed"],
    );
    kubectl.run("wait --for=condition=Available deployment/web -n made --timeout=60s");
    contains(
        &kubectl.attempt(&["create", "configmap", "settings", "-n", "made"]).failure(),
        &["error: failed to create configmap: configmaps \"settings\" already exists"],
    );
    contains(
        &kubectl.run("create configmap trial -n made --dry-run=server -o yaml"),
        &["name: trial", "namespace: made", "uid:"],
    );
    contains(
        &kubectl.attempt(&["get", "configmap", "trial", "-n", "made"]).failure(),
        &["Error from server (NotFound): configmaps \"trial\" not found"],
    );
    contains(
        &kubectl.run("run once -n made --image=coracle.dev/samples/job-hello:v1 --restart=Never"),
        &["pod/once created"],
    );
    kubectl.run("wait --for=jsonpath={.status.phase}=Succeeded pod/once -n made --timeout=60s");
}

const SETTINGS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: applied, labels: {from: apply}}
data: {a: '1', b: '2'}
";

fn apply_diff_edit(cluster: &Cluster, kubectl: &Kubectl) {
    let apply = |manifest: &str| kubectl.with_input(&["apply", "-f", "-"], manifest).success();
    contains(&apply(SETTINGS), &["configmap/applied created"]);
    contains(&apply(SETTINGS), &["configmap/applied unchanged"]);
    let changed = SETTINGS.replace("b: '2'", "c: '3'");
    let difference = kubectl.with_input(&["diff", "-f", "-"], &changed);
    assert_eq!(difference.code, Some(1), "{difference:?}");
    contains(&difference.stdout, &["-  b: \"2\"", "+  c: \"3\""]);
    contains(&apply(&changed), &["configmap/applied configured"]);
    assert_eq!(kubectl.run("get cm applied -o jsonpath={.data}"), r#"{"a":"1","c":"3"}"#);
    assert_eq!(kubectl.with_input(&["diff", "-f", "-"], &changed).code, Some(0));
    let mut edit = kubectl.command();
    edit.args(["edit", "configmap", "applied"]).env("KUBE_EDITOR", "sed -i s/from:.apply/from:\\ editor/");
    contains(&kubectl.finish(&mut edit, None).success(), &["configmap/applied edited"]);
    assert_eq!(kubectl.run("get cm applied -o jsonpath={.metadata.labels.from}"), "editor");
    contains(
        &kubectl.with_input(&["replace", "-f", "-"], SETTINGS).success(),
        &["configmap/applied replaced"],
    );
    let unknown = kubectl.with_input(&["apply", "-f", "-"], &format!("{SETTINGS}dota: {{}}\n")).failure();
    contains(&unknown, &["unknown field \"dota\""]);
    cluster.apply_sample("hello-http");
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
}

fn get_in_every_form(_: &Cluster, kubectl: &Kubectl) {
    let all = kubectl.run("get nodes,pods,deploy,rs,svc,ep,endpointslices,events -A -o wide");
    contains(
        &all,
        &[
            "INTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME",
            "NOMINATED NODE",
            "READINESS GATES",
            "CONTAINERS",
            "IMAGES",
            "SELECTOR",
            "CLUSTER-IP",
            "ENDPOINTS",
            "ADDRESSTYPE",
            "REASON",
            "hello-http",
        ],
    );
    header(&kubectl.run("get pods"), "NAME READY STATUS RESTARTS AGE");
    header(&kubectl.run("get deploy"), "NAME READY UP-TO-DATE AVAILABLE AGE");
    header(&kubectl.run("get rs"), "NAME DESIRED CURRENT READY AGE");
    header(&kubectl.run("get svc"), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE");
    header(&kubectl.run("get events"), "LAST SEEN TYPE REASON OBJECT MESSAGE");
    header(&kubectl.run("get endpointslices"), "NAME ADDRESSTYPE PORTS ENDPOINTS AGE");
    header(&kubectl.run("get configmaps"), "NAME DATA AGE");
    header(&kubectl.run("get pods --show-labels"), "NAME READY STATUS RESTARTS AGE LABELS");
    contains(
        &kubectl.run("get all"),
        &["pod/hello-http-", "service/hello-http", "deployment.apps/hello-http"],
    );
    let yaml = kubectl.run("get deployment hello-http -o yaml");
    contains(
        &yaml,
        &[
            "apiVersion: apps/v1",
            "kind: Deployment",
            "progressDeadlineSeconds: 600",
            "revisionHistoryLimit: 10",
            "maxSurge: 25%",
            "terminationGracePeriodSeconds: 30",
            "dnsPolicy: ClusterFirst",
            "availableReplicas: 2",
            "type: Progressing",
            "reason: NewReplicaSetAvailable",
            "deployment.kubernetes.io/revision: \"1\"",
        ],
    );
    let list: serde_json::Value = serde_json::from_str(&kubectl.run("get pods -o json")).unwrap();
    assert_eq!(list["kind"], "List");
    contains(&kubectl.run("get pods -o name"), &["pod/hello-http-"]);
    contains(
        &kubectl.run("get pods -o custom-columns=N:.metadata.name,QOS:.status.qosClass"),
        &["Burstable"],
    );
    contains(&kubectl.run("get pods --sort-by=.metadata.creationTimestamp"), &["hello-http-"]);
    contains(
        &kubectl.run("events --for deployment/hello-http"),
        &["ScalingReplicaSet", "Scaled up replica set"],
    );
    contains(&kubectl.run("events --for deployment/hello-http"), &["ScalingReplicaSet"]);
}

fn watch(_: &Cluster, kubectl: &Kubectl) {
    let mut watcher = kubectl.start(&["get", "configmaps", "--watch", "--output-watch-events"]);
    watcher.line("an object that was there", PATIENCE, |line| {
        line.starts_with("ADDED") && line.contains("kube-root-ca.crt") || line.contains("applied")
    });
    kubectl.run("create configmap seen --from-literal=a=1");
    watcher.line("ADDED seen", PATIENCE, |line| line.starts_with("ADDED") && line.contains("seen"));
    kubectl.run("label configmap seen x=y");
    watcher.line("MODIFIED seen", PATIENCE, |line| line.starts_with("MODIFIED") && line.contains("seen"));
    kubectl.run("delete configmap seen");
    watcher.line("DELETED seen", PATIENCE, |line| line.starts_with("DELETED") && line.contains("seen"));
    watcher.kill();
}

fn label_annotate_patch(_: &Cluster, kubectl: &Kubectl) {
    contains(&kubectl.run("label deployment hello-http tier=front"), &["deployment.apps/hello-http labeled"]);
    contains(
        &kubectl.run("annotate deployment hello-http note=yes"),
        &["deployment.apps/hello-http annotated"],
    );
    contains(&kubectl.run("get deployments -l tier=front -o name"), &["deployment.apps/hello-http"]);
    kubectl.run("label deployment hello-http tier-");
    assert_eq!(kubectl.run("get deployments -l tier -o name"), "");
    let patch = |kind: &str, body: &str| {
        kubectl.attempt(&["patch", "cm", "applied", "--type", kind, "-p", body]).success();
        kubectl.run("get cm applied -o jsonpath={.data}")
    };
    assert_eq!(patch("merge", r#"{"data":{"a":null,"d":"4"}}"#), r#"{"b":"2","d":"4"}"#);
    assert_eq!(patch("strategic", r#"{"data":{"e":"5"}}"#), r#"{"b":"2","d":"4","e":"5"}"#);
    assert_eq!(patch("json", r#"[{"op":"remove","path":"/data/d"}]"#), r#"{"b":"2","e":"5"}"#);
    let container = r#"{"spec":{"template":{"spec":{"containers":[{"name":"hello-http","env":[{"name":"X","value":"1"}]}]}}}}"#;
    kubectl.attempt(&["patch", "deployment", "hello-http", "--dry-run=server", "-p", container]).success();
}

fn rollouts(_: &Cluster, kubectl: &Kubectl) {
    contains(
        &kubectl.run("set image deployment/hello-http hello-http=coracle.dev/samples/hello-http:v2"),
        &["image updated"],
    );
    contains(
        &kubectl.run("rollout status deployment/hello-http --timeout=60s"),
        &["deployment \"hello-http\" successfully rolled out"],
    );
    contains(&kubectl.run("rollout history deployment/hello-http"), &["REVISION", "1 ", "2 "]);
    contains(&kubectl.run("rollout undo deployment/hello-http"), &["rolled back"]);
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
    let image = "get deployment hello-http -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(kubectl.run(image), "coracle.dev/samples/hello-http:v1");
    contains(&kubectl.run("rollout restart deployment/hello-http"), &["restarted"]);
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
    kubectl.run("rollout pause deployment/hello-http");
    kubectl.run("rollout resume deployment/hello-http");
    contains(&kubectl.run("scale deployment/hello-http --replicas=3"), &["scaled"]);
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
    assert_eq!(kubectl.run("get deployment hello-http -o jsonpath={.status.readyReplicas}"), "3");
    contains(
        &kubectl
            .attempt(&["scale", "deployment/hello-http", "--current-replicas=9", "--replicas=1"])
            .failure(),
        &["Expected replicas to be 9, was 3"],
    );
    kubectl.run("set env deployment/hello-http GREETING=hi");
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
}

fn logs(cluster: &Cluster, kubectl: &Kubectl) {
    let manifest = std::fs::read_to_string(harness::repository("samples/counter/deployment.yaml")).unwrap();
    cluster.apply(&manifest.replace("\"1000\"", "\"100\""));
    kubectl.run("rollout status deployment/counter --timeout=60s");
    let mut follower = kubectl.start(&["logs", "-f", "deployment/counter"]);
    follower.line("count 3", PATIENCE, |line| line == "count 3");
    follower.line("count 6", PATIENCE, |line| line == "count 6");
    follower.kill();
    let tail = kubectl.run("logs deployment/counter --tail=2");
    assert_eq!(tail.lines().count(), 2, "{tail}");
    let stamped = kubectl.run("logs deployment/counter --timestamps --tail=1");
    let (stamp, line) = stamped.split_once(' ').unwrap();
    assert!(stamp.ends_with('Z') && stamp.contains('T') && line.starts_with("count "), "{stamped}");
    assert!(kubectl.run("logs deployment/counter --since=1s").lines().count() <= 30);
    contains(&kubectl.run("logs -l app=counter --prefix --tail=1"), &["[pod/counter-", "/counter] count "]);
}

fn describe(_: &Cluster, kubectl: &Kubectl) {
    contains(
        &kubectl.run("describe pod -l app=hello-http"),
        &[
            "Controlled By:  ReplicaSet/hello-http-",
            "State:          Running",
            "Ready:          True",
            "Readiness:",
            "http-get http://:http/healthz",
            "QoS Class:",
            "Burstable",
            "PodScheduled",
            "Events:",
            "Scheduled",
            "Started",
        ],
    );
    contains(
        &kubectl.run("describe deployment hello-http"),
        &["StrategyType:", "RollingUpdate", "NewReplicaSet:", "Available", "ScalingReplicaSet"],
    );
    contains(
        &kubectl.run("describe node"),
        &[
            "Conditions:",
            "MemoryPressure",
            "DiskPressure",
            "PIDPressure",
            "Ready",
            "Capacity:",
            "Allocatable:",
            "System Info:",
            "PodCIDR:",
            "Non-terminated Pods:",
            "Allocated resources:",
            "Lease:",
        ],
    );
    contains(&kubectl.run("describe service hello-http"), &["Selector:", "app=hello-http", "Endpoints:"]);
    contains(&kubectl.run("describe configmap applied"), &["Data", "===="]);
}

fn selectors_and_chunks(_: &Cluster, kubectl: &Kubectl) {
    for number in 0..7 {
        kubectl.run(&format!("create configmap chunk-{number} --from-literal=n={number}"));
    }
    let names = kubectl.run("get configmaps --chunk-size=3 -o name");
    assert_eq!(names.matches("chunk-").count(), 7, "{names}");
    kubectl.run("label configmap chunk-1 chunk-2 kind=odd");
    let chosen = kubectl.run("get cm -l kind=odd -o name");
    assert_eq!(chosen.lines().count(), 2, "{chosen}");
    contains(&kubectl.run("get cm --field-selector metadata.name=chunk-4 -o name"), &["configmap/chunk-4"]);
    contains(&kubectl.run("get pods --field-selector status.phase=Running"), &["hello-http"]);
    assert_eq!(kubectl.run("get pods --field-selector status.phase=Failed -o name"), "");
    contains(&kubectl.run("get cm -l kind!=odd,!x -o name"), &["configmap/chunk-3"]);
    contains(&kubectl.run("delete cm -l kind=odd"), &["\"chunk-1\" deleted", "\"chunk-2\" deleted"]);
}

fn cordon_taint_drain(_: &Cluster, kubectl: &Kubectl) {
    let node = kubectl.run("get nodes -o jsonpath={.items[0].metadata.name}");
    contains(&kubectl.run(&format!("cordon {node}")), &["cordoned"]);
    contains(&kubectl.run("get nodes"), &["Ready,SchedulingDisabled"]);
    contains(&kubectl.run(&format!("uncordon {node}")), &["uncordoned"]);
    contains(&kubectl.run(&format!("taint node {node} busy=yes:NoSchedule")), &["tainted"]);
    kubectl.run("run waits --image=coracle.dev/samples/job-hello:v1 --restart=Never");
    let condition = "{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
    kubectl.run(&format!("wait --for=jsonpath={condition}=Unschedulable pod/waits --timeout=60s"));
    contains(
        &kubectl.run("events --for pod/waits"),
        &["FailedScheduling", "0/1 nodes are available: 1 node(s) had untolerated taint"],
    );
    contains(&kubectl.run(&format!("taint node {node} busy-")), &["untainted"]);
    kubectl.run("wait --for=jsonpath={.status.phase}=Succeeded pod/waits --timeout=60s");
    let drained = kubectl
        .run(&format!("drain {node} --force --ignore-daemonsets --delete-emptydir-data --timeout=60s"));
    contains(&drained, &["evicting pod default/hello-http-", "drained"]);
    kubectl.run(&format!("uncordon {node}"));
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
}

fn delete(_: &Cluster, kubectl: &Kubectl) {
    contains(&kubectl.run("delete deployment counter"), &["deployment.apps \"counter\" deleted"]);
    kubectl.run("wait --for=delete pod -l app=counter --timeout=60s");
    assert_eq!(kubectl.run("get rs -l app=counter -o name"), "");
    let pod = kubectl.run("get pods -l app=hello-http -o jsonpath={.items[0].metadata.name}");
    contains(&kubectl.run(&format!("delete pod {pod} --grace-period=1")), &["deleted"]);
    contains(&kubectl.run("delete deployment hello-http --cascade=orphan"), &["deleted"]);
    contains(&kubectl.run("get rs -l app=hello-http -o name"), &["replicaset.apps/hello-http-"]);
    kubectl.run("delete rs -l app=hello-http --cascade=foreground --timeout=60s");
    assert_eq!(kubectl.run("get pods -l app=hello-http -o name"), "");
    kubectl.run("delete namespace made --timeout=60s");
    contains(
        &kubectl.attempt(&["get", "namespace", "made"]).failure(),
        &["Error from server (NotFound): namespaces \"made\" not found"],
    );
    assert_eq!(kubectl.run("delete pod nothing --ignore-not-found"), "");
}
