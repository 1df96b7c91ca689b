//! Server-side apply as people use it: kubectl of every version against the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, Kubectl};
use serde_json::Value;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAMESPACE, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.com/web:1
        env: [{name: A, value: '1'}]
";

const SETTINGS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: NAMESPACE}
data: {a: '1', b: '1'}
";

#[test]
fn every_kubectl_applies_on_the_server() {
    let cluster = Cluster::start();
    for minor in 31..=35 {
        let kubectl = cluster.kubectl_version(minor);
        let namespace = format!("v{minor}");
        kubectl.run(&format!("create namespace {namespace}"));
        session(&kubectl, &namespace);
    }
}

fn session(kubectl: &Kubectl, namespace: &str) {
    let input = |command: &str, manifest: &str| {
        let arguments: Vec<&str> = command.split(' ').chain(["-f", "-"]).collect();
        kubectl.with_input(&arguments, &manifest.replace("NAMESPACE", namespace))
    };
    let run = |command: &str| kubectl.run(&format!("{command} -n {namespace}"));
    let entries = |object: &str| -> Vec<Value> {
        let json = run(&format!("get {object} -o json --show-managed-fields"));
        serde_json::from_str::<Value>(&json).unwrap()["metadata"]["managedFields"].as_array().unwrap().clone()
    };
    let owners = |object: &str| -> Vec<String> {
        let mut owners: Vec<String> = entries(object)
            .iter()
            .map(|e| format!("{} {}", e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap()))
            .collect();
        owners.sort();
        owners
    };

    // From nothing, again, and a change.
    contains(&input("apply --server-side", WEB).success(), "deployment.apps/web serverside-applied");
    assert!(owners("deployment/web").contains(&"kubectl Apply".to_owned()));
    let shown = run("get deployment web -o yaml --show-managed-fields");
    contains(&shown, "k:{\"name\":\"web\"}:");
    assert!(!run("get deployment web -o yaml").contains("managedFields"));

    // A change by somebody else is a conflict, until it is forced.
    run("scale deployment web --replicas=1");
    run("set env deployment/web A=2 --field-manager=somebody");
    let changed = WEB.replace("replicas: 0", "replicas: 2").replace("value: '1'", "value: '3'");
    let conflict = input("apply --server-side", &changed).failure();
    contains(&conflict, "Apply failed with 2 conflicts");
    contains(&conflict, " with subresource \"scale\" using apps/v1:\n- .spec.replicas");
    contains(
        &conflict,
        "conflicts with \"somebody\" using apps/v1:\n- .spec.template.spec.containers[name=\"web\"].env[name=\"A\"].value",
    );
    let difference = input("diff --server-side --force-conflicts", &changed);
    assert_eq!(difference.code, Some(1), "{difference:?}");
    contains(&difference.stdout, "+  replicas: 2");
    input("apply --server-side --force-conflicts", &changed).success();
    assert_eq!(run("get deployment web -o jsonpath={.spec.replicas}"), "2");

    // A second manager, who gives up what he applied.
    let theirs = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: NAMESPACE, labels: {tier: front}}\n";
    input("apply --server-side --field-manager=second", theirs).success();
    assert_eq!(run("get deployment web -o jsonpath={.metadata.labels}"), r#"{"app":"web","tier":"front"}"#);
    let nothing = theirs.replace(", labels: {tier: front}", "");
    input("apply --server-side --field-manager=second", &nothing).success();
    assert_eq!(run("get deployment web -o jsonpath={.metadata.labels}"), r#"{"app":"web"}"#);
    run("label deployment web colour=red --field-manager=painter");
    assert!(owners("deployment/web").contains(&"painter Update".to_owned()));

    // From client-side apply to the server's and back.
    input("apply", SETTINGS).success();
    assert_eq!(owners("configmap/settings"), ["kubectl-client-side-apply Update"]);
    let changed = SETTINGS.replace("a: '1', b: '1'", "a: '2'");
    input("apply --server-side", &changed).success();
    assert_eq!(run("get configmap settings -o jsonpath={.data}"), r#"{"a":"2"}"#);
    assert_eq!(owners("configmap/settings"), ["kubectl Apply", "kubectl-last-applied Apply"]);
    let version = run("get configmap settings -o jsonpath={.metadata.resourceVersion}");
    input("apply --server-side", &changed).success();
    assert_eq!(
        run("get configmap settings -o jsonpath={.metadata.resourceVersion}"),
        version,
        "nothing changed"
    );
    assert_eq!(input("diff --server-side", &changed).code, Some(0));
    contains(&run("apply view-last-applied configmap settings"), "a: \"2\"");
    let again = SETTINGS.replace("a: '1', b: '1'", "c: '1'");
    contains(&input("apply", &again).success(), "configmap/settings configured");
    assert_eq!(run("get configmap settings -o jsonpath={.data}"), r#"{"c":"1"}"#);

    // What is wrong is said.
    let unknown = input("apply --server-side", &format!("{SETTINGS}dota: {{}}\n")).failure();
    contains(&unknown, ".dota: field not declared in schema");
    run("delete deployment web --wait=false");
}

#[track_caller]
fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in {text}");
}
