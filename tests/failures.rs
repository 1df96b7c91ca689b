//! What a user sees when a workload is at fault: images that are not there, crashes, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Cluster, eventually, http_get};

fn pod(name: &str, image: &str, restart: &str, container: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  restartPolicy: {restart}
  terminationGracePeriodSeconds: 2
  containers:
    - name: main
      image: {image}
      imagePullPolicy: IfNotPresent
{container}"
    )
}

const COUNTER: &str = "coracle.dev/samples/counter:v1";
const HOG: &str = "coracle.dev/samples/hog:v1";
const STATE: &str = ".status.containerStatuses[0].state";
const LAST: &str = ".status.containerStatuses[0].lastState.terminated";

#[test]
fn an_image_that_is_not_there_backs_off_and_says_why() {
    let cluster = Cluster::start();
    // Nothing listens on port 1, so the answer comes at once.
    cluster.apply(&pod("absent", "127.0.0.1:1/none:v1", "Always", ""));
    let mut reasons = Vec::new();
    eventually("ErrImagePull, then ImagePullBackOff", || {
        let reason = cluster.field("pod/absent", &format!("{STATE}.waiting.reason"));
        if !reason.is_empty() && reasons.last() != Some(&reason) {
            reasons.push(reason);
        }
        let back_off = reasons.iter().any(|reason| reason == "ImagePullBackOff");
        if back_off { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
    let message = cluster.field("pod/absent", &format!("{STATE}.waiting.message"));
    assert!(message.contains("127.0.0.1:1/none:v1"), "{message}");
    assert_eq!(cluster.field("pod/absent", ".status.phase"), "Pending");
    let events = cluster.kubectl("events --for pod/absent");
    for part in [
        "Pulling",
        "Failed to pull image \"127.0.0.1:1/none:v1\"",
        "Error: ErrImagePull",
        "Back-off pulling image",
    ] {
        assert!(events.contains(part), "«{part}» is not in\n{events}");
    }
    cluster.kubectl("delete pod absent --timeout=30s");
}

#[test]
fn an_image_that_must_not_be_pulled_and_is_not_there_says_so() {
    let cluster = Cluster::start();
    let manifest = pod("never", "coracle.dev/none:v1", "Always", "").replace("IfNotPresent", "Never");
    cluster.apply(&manifest);
    cluster.kubectl(&format!(
        "wait --for=jsonpath={{{STATE}.waiting.reason}}=ErrImageNeverPull pod/never --timeout=60s"
    ));
    cluster.apply(&pod("misnamed", "Not/A:Valid@Name", "Always", ""));
    cluster.kubectl(&format!(
        "wait --for=jsonpath={{{STATE}.waiting.reason}}=InvalidImageName pod/misnamed --timeout=60s"
    ));
}

#[test]
fn a_crashing_container_backs_off_with_its_code_and_its_previous_log() {
    let cluster = Cluster::start_with_samples();
    let environment = "      env: [{name: COUNT, value: '2'}, {name: INTERVAL_MS, value: '1'}, {name: EXIT_CODE, value: '7'}]\n";
    cluster.apply(&pod("crashing", COUNTER, "Always", environment));
    cluster.kubectl(&format!(
        "wait --for=jsonpath={{{STATE}.waiting.reason}}=CrashLoopBackOff pod/crashing --timeout=60s"
    ));
    assert_eq!(cluster.field("pod/crashing", &format!("{LAST}.exitCode")), "7");
    assert_eq!(cluster.field("pod/crashing", &format!("{LAST}.reason")), "Error");
    let message = cluster.field("pod/crashing", &format!("{STATE}.waiting.message"));
    assert!(
        message.starts_with("back-off 10s restarting failed container=main pod=crashing_default("),
        "{message}"
    );
    let table = cluster.kubectl("get pod crashing");
    assert!(table.contains("CrashLoopBackOff"), "{table}");
    cluster.kubectl(
        "wait --for=jsonpath={.status.containerStatuses[0].restartCount}=1 pod/crashing --timeout=60s",
    );
    let previous = cluster.kubectl("logs crashing --previous");
    assert_eq!(previous, "count 1\ncount 2\ncounter: exiting with code 7\n");
    let events = cluster.kubectl("events --for pod/crashing");
    assert!(events.contains("Back-off restarting failed container main in pod crashing_default"), "{events}");
    let described = cluster.kubectl("describe pod crashing");
    assert!(described.contains("Exit Code:    7"), "{described}");
}

#[test]
fn a_trap_is_an_error_with_an_exit_code() {
    let cluster = Cluster::start_with_samples();
    cluster.apply(&pod("trapping", HOG, "Never", "      args: [trap]\n"));
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/trapping --timeout=60s");
    assert_eq!(cluster.field("pod/trapping", &format!("{STATE}.terminated.reason")), "Error");
    let code = cluster.field("pod/trapping", &format!("{STATE}.terminated.exitCode"));
    assert!(code.parse::<i32>().unwrap() > 0, "{code}");
    // A failed pod that must not restart stays failed.
    assert_eq!(cluster.field("pod/trapping", ".status.containerStatuses[0].restartCount"), "0");
    assert!(cluster.kubectl("get pod trapping").contains("Error"));
}

#[test]
fn a_container_past_its_memory_limit_is_oom_killed() {
    let cluster = Cluster::start_with_samples();
    let limits = "      args: [memory]\n      resources: {limits: {memory: 16Mi}}\n";
    cluster.apply(&pod("greedy", HOG, "Never", limits));
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/greedy --timeout=60s");
    assert_eq!(cluster.field("pod/greedy", &format!("{STATE}.terminated.reason")), "OOMKilled");
    assert_eq!(cluster.field("pod/greedy", &format!("{STATE}.terminated.exitCode")), "137");
    assert!(cluster.kubectl("get pod greedy").contains("OOMKilled"));
}

#[test]
fn a_spinning_guest_starves_nobody_and_can_be_killed() {
    let cluster = Cluster::start_with_samples();
    for number in 0..3 {
        cluster.apply(&pod(&format!("spinning-{number}"), HOG, "Never", "      args: [cpu]\n"));
        cluster.kubectl(&format!("wait --for=condition=Ready pod/spinning-{number} --timeout=60s"));
    }
    cluster.apply_sample("hello-http");
    cluster.kubectl("wait --for=condition=Available deployment/hello-http --timeout=60s");
    let service = format!("{}:8080", cluster.field("service/hello-http", ".spec.clusterIP"));
    eventually("an answer beside the spinners", || http_get(&service, "/"));
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let started = Instant::now();
        assert_eq!(http_get(&service, "/").unwrap().0, 200);
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "a request took {slowest:?}");
    let started = Instant::now();
    cluster.kubectl("delete pod spinning-0 spinning-1 spinning-2 --timeout=60s");
    assert!(started.elapsed() < Duration::from_secs(20), "deleting took {:?}", started.elapsed());
}

#[test]
fn a_failing_liveness_probe_restarts_the_container() {
    let cluster = Cluster::start_with_samples();
    let probe = "      ports: [{containerPort: 8080}]
      livenessProbe: {httpGet: {path: /no-such-page, port: 8080}, periodSeconds: 1, failureThreshold: 2}
";
    cluster.apply(&pod("unwell", "coracle.dev/samples/hello-http:v1", "Always", probe));
    cluster.kubectl(
        "wait --for=jsonpath={.status.containerStatuses[0].restartCount}=1 pod/unwell --timeout=60s",
    );
    let events = cluster.kubectl("events --for pod/unwell");
    for part in ["Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 404", "Killing"] {
        assert!(events.contains(part), "«{part}» is not in\n{events}");
    }
}

#[test]
fn a_pod_that_is_not_ready_gets_no_traffic() {
    let cluster = Cluster::start_with_samples();
    let probe = "      ports: [{containerPort: 8080}]
      readinessProbe: {httpGet: {path: /no-such-page, port: 8080}, periodSeconds: 1}
";
    cluster.apply(&pod("unready", "coracle.dev/samples/hello-http:v1", "Always", probe));
    cluster.kubectl("expose pod unready --port=8080 --target-port=8080");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Running pod/unready --timeout=60s");
    eventually("the failed probe's event", || {
        let events = cluster.kubectl("events --for pod/unready");
        if events.contains("Readiness probe failed") { Ok(()) } else { Err(events) }
    });
    assert!(cluster.kubectl("get pod unready").contains("0/1"));
    let service = format!("{}:8080", cluster.field("service/unready", ".spec.clusterIP"));
    let refused = http_get(&service, "/").unwrap_err();
    assert!(refused.to_lowercase().contains("refused"), "{refused}");
}

#[test]
fn configuration_reaches_the_guest_and_its_absence_is_reported() {
    let cluster = Cluster::start_with_samples();
    cluster.kubectl("create secret generic key --from-literal=token=s3cret");
    let environment = "      ports: [{containerPort: 8080}]
      env:
        - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
        - {name: TOKEN, valueFrom: {secretKeyRef: {name: key, key: token}}}
        - {name: WHERE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: JOINED, value: $(WHERE)/$(COLOUR)}
      envFrom: [{prefix: ALL_, configMapRef: {name: settings}}]
";
    cluster.apply(&pod("configured", "coracle.dev/samples/hello-http:v1", "Always", environment));
    cluster.kubectl(&format!(
        "wait --for=jsonpath={{{STATE}.waiting.reason}}=CreateContainerConfigError pod/configured --timeout=60s"
    ));
    let message = cluster.field("pod/configured", &format!("{STATE}.waiting.message"));
    assert_eq!(message, "configmap \"settings\" not found");
    cluster.kubectl("create configmap settings --from-literal=colour=blue");
    cluster.kubectl("wait --for=condition=Ready pod/configured --timeout=60s");
    let address = cluster.field("pod/configured", ".status.podIP");
    let seen = eventually("/env", || http_get(&format!("{address}:8080"), "/env")).1;
    for line in ["COLOUR=blue", "TOKEN=s3cret", "WHERE=default", "JOINED=default/blue", "ALL_colour=blue"] {
        assert!(seen.lines().any(|found| found == line), "«{line}» is not in\n{seen}");
    }
    assert!(seen.contains(&format!("ADDRESS={address}\n")), "{seen}");
    assert!(seen.contains("KUBERNETES_SERVICE_HOST="), "{seen}");
}
