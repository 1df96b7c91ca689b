//! An operator (PyPI kopf) keeps its custom resources: creates, follows changes, holds deletion back by its finalizer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::process::Command;

use harness::{Cluster, Process, eventually, python, repository};

const GREETING: &str = "
apiVersion: demo.coracle.dev/v1
kind: Greeting
metadata: {name: first}
spec: {word: Ahoy}
";

#[test]
fn a_kopf_operator_keeps_its_custom_resources() {
    let cluster = Cluster::start();
    cluster.kubectl(&format!("apply -f {}", repository("tests/fixtures/greetings.yaml").display()));
    cluster.kubectl("wait --for=condition=Established crd/greetings.demo.coracle.dev --timeout=30s");
    let mut command = Command::new(python());
    command
        .args(["-m", "kopf", "run", "--standalone", "--namespace", "default"])
        .arg(repository("tests/fixtures/greeter.py"))
        .env("KUBECONFIG", cluster.kubeconfig());
    let mut operator = Process::start(command, &cluster.directory().join("operator.log"));

    cluster.apply(GREETING);
    cluster.kubectl("wait --for=jsonpath={.status.configMap}=first-text greeting/first --timeout=60s");
    assert_eq!(cluster.field("configmap/first-text", ".data.text"), "Ahoy, world");
    assert_eq!(cluster.field("greeting/first", ".metadata.finalizers[*]"), "coracle.dev/kopf-finalizer");
    assert_eq!(cluster.field("configmap/first-text", ".metadata.ownerReferences[0].kind"), "Greeting");
    eventually("the operator's events", || {
        let events = cluster.kubectl("events --for greeting/first");
        if events.contains("succeeded") { Ok(()) } else { Err(events) }
    });

    cluster.kubectl("patch greeting first --type=merge -p {\"spec\":{\"whom\":\"Coracle\"}}");
    eventually("the operator's answer to the change", || {
        match cluster.field("configmap/first-text", ".data.text") {
            text if text == "Ahoy, Coracle" => Ok(()),
            text => Err(text),
        }
    });

    // Deletion waits for the operator, which leaves a note; what it owned goes with it.
    cluster.kubectl("delete greeting first --timeout=60s");
    cluster.kubectl("get configmap first-was-here");
    cluster.kubectl("wait --for=delete configmap/first-text --timeout=60s");
    assert!(operator.running());
    operator.stop();
}
