//! The committed modules do what their samples' READMEs say, as pods of a real cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::io::{Read, Write};

use harness::{Cluster, PATIENCE, echo, eventually, http_get, tcp_connect};

#[test]
fn hello_http() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    let service = format!("{}:8080", cluster.field("service/hello-http", ".spec.clusterIP"));
    let (status, body) = eventually("an answer", || http_get(&service, "/"));
    let pods = cluster.kubectl("get pods -l app=hello-http -o jsonpath={.items[*].metadata.name}");
    assert_eq!(status, 200);
    let name = body
        .trim_end()
        .strip_prefix("Hello from Coracle! version=v1 pod=")
        .unwrap_or_else(|| panic!("{body}"));
    assert!(pods.split(' ').any(|pod| pod == name), "{name} is not one of {pods}");
    assert_eq!(http_get(&service, "/healthz").unwrap(), (200, "ok\n".into()));
    let (status, variables) = http_get(&service, "/env").unwrap();
    assert_eq!(status, 200);
    assert!(variables.contains("POD_NAME=hello-http-"), "{variables}");
    assert!(variables.lines().is_sorted(), "{variables}");
    assert_eq!(http_get(&service, "/other").unwrap().0, 404);
    let mut stream = tcp_connect(&service).unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let logs = cluster.kubectl("logs -l app=hello-http --tail=-1");
    for line in ["v1 200 /", "v1 404 /other"] {
        assert!(logs.lines().any(|found| found == line), "«{line}» is not in\n{logs}");
    }
    assert!(!logs.contains("/healthz"), "{logs}");

    cluster.kubectl("set image deployment/hello-http hello-http=coracle.dev/samples/hello-http:v2");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    eventually("the second version", || {
        let (_, body) = http_get(&service, "/")?;
        if body.contains("version=v2") { Ok(()) } else { Err(body) }
    });
}

#[test]
fn counter() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("counter");
    cluster.kubectl("rollout status deployment/counter --timeout=60s");
    let mut follower = cluster.kubectl_version(33).start(&["logs", "-f", "deployment/counter"]);
    for number in 1..=3 {
        let line = format!("count {number}");
        follower.line(&line, PATIENCE, |found| found == line);
    }
    follower.kill();
    let once = |name: &str, environment: &str| {
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: coracle.dev/samples/counter:v1
      env: [{{name: INTERVAL_MS, value: '1'}}, {environment}]
"
        ));
    };
    once("three", "{name: COUNT, value: '3'}");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/three --timeout=60s");
    assert_eq!(cluster.kubectl("logs three"), "count 1\ncount 2\ncount 3\ncounter: exiting with code 0\n");
    once("five", "{name: COUNT, value: '1'}, {name: EXIT_CODE, value: '5'}");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/five --timeout=60s");
    assert_eq!(cluster.field("pod/five", ".status.containerStatuses[0].state.terminated.exitCode"), "5");
    once("crash", "{name: COUNT, value: '1'}, {name: CRASH, value: '1'}");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/crash --timeout=60s");
    assert!(cluster.kubectl("logs crash").starts_with("count 1\ncounter: crashing as asked\n"));
}

#[test]
fn job_hello() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("job-hello");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/job-hello --timeout=60s");
    assert_eq!(cluster.kubectl("logs job-hello"), "Hello, Coracle, from job-hello! pod=job-hello\n");
    let terminated = ".status.containerStatuses[0].state.terminated";
    assert_eq!(cluster.field("pod/job-hello", &format!("{terminated}.reason")), "Completed");
    assert_eq!(cluster.field("pod/job-hello", &format!("{terminated}.exitCode")), "0");
    assert!(cluster.kubectl("get pod job-hello").contains("Completed"));
}

#[test]
fn tcp_echo() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("tcp-echo");
    cluster.kubectl("rollout status deployment/tcp-echo --timeout=60s");
    let pod =
        format!("{}:7000", cluster.kubectl("get pods -l app=tcp-echo -o jsonpath={.items[0].status.podIP}"));
    eventually("an echo from the pod", || echo(&pod, b"hello\n"));
    let service = format!("{}:7000", cluster.field("service/tcp-echo", ".spec.clusterIP"));
    eventually("an echo from the service", || echo(&service, b"hello again\n"));
    // Many at a time, none waits for another, and a large message comes back whole.
    let mut streams: Vec<_> = (0..20).map(|_| tcp_connect(&service).unwrap()).collect();
    for (number, stream) in streams.iter_mut().enumerate().rev() {
        let line = format!("line {number}\n");
        stream.write_all(line.as_bytes()).unwrap();
        let mut back = vec![0; line.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(String::from_utf8(back).unwrap(), line);
    }
    let large: Vec<u8> = (0..500_000_u32).map(|number| (number % 251) as u8).collect();
    let mut stream = streams.pop().unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sent = large.clone();
    let sending = std::thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; large.len()];
    stream.read_exact(&mut back).unwrap();
    sending.join().unwrap().unwrap();
    assert!(back == large, "the large message came back changed");
    assert_eq!(cluster.kubectl("logs deployment/tcp-echo"), "tcp-echo: listening on port 7000\n");
}

#[test]
fn hog() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("hog");
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/hog --timeout=60s");
    assert_eq!(cluster.field("pod/hog", ".status.containerStatuses[0].state.terminated.reason"), "OOMKilled");
    assert_eq!(cluster.kubectl("logs hog").lines().next(), Some("hog: taking memory, 1 MiB at a time"));
}
