//! Every kind of guest as a pod: what it serves and keeps, and what its status says when it cannot run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::Path;

use harness::{Cluster, eventually, http_get, repository};

const STATE: &str = ".status.containerStatuses[0].state";

/// A guest that the runtime's own tests use.
fn import_guest(cluster: &Cluster, name: &str) {
    let path = repository("wasmlet/src/runtime/wasm/tests/guests").join(format!("{name}.wasm"));
    cluster.import(path.to_str().unwrap(), &format!("{name}:v1"));
}

fn import_wat(cluster: &Cluster, name: &str, text: &str) {
    let path = cluster.directory().join(format!("{name}.wasm"));
    std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
    import(cluster, &path, name);
}

fn import(cluster: &Cluster, path: &Path, name: &str) {
    cluster.import(path.to_str().unwrap(), &format!("{name}:v1"));
}

/// A pod of one container that is not restarted.
fn pod(name: &str, image: &str, annotations: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{{annotations}}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  {spec}
  containers:
    - {{name: main, image: \"coracle.dev/samples/{image}:v1\", imagePullPolicy: IfNotPresent, {container}}}
"
    )
}

fn said(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&format!("wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"));
    cluster.kubectl(&format!("logs {name}")).trim_end().to_owned()
}

/// Accepts, reads, answers, closes, and ends with the errno of accept; its port is descriptor 3.
const P1_SERVER: &str = r#"(module
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $flags (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n")
  ;; an iovec of the answer at 0, one to read to at 8
  (data (i32.const 0) "\00\04\00\00\29\00\00\00\00\10\00\00\00\04\00\00")
  (func (export "_start") (local $errno i32)
    (drop (call $flags (i32.const 3) (i32.const 0)))
    (loop $next
      (local.set $errno (call $accept (i32.const 3) (i32.const 0) (i32.const 256)))
      (if (local.get $errno) (then (call $exit (local.get $errno))))
      (drop (call $read (i32.load (i32.const 256)) (i32.const 8) (i32.const 1) (i32.const 260)))
      (drop (call $write (i32.load (i32.const 256)) (i32.const 0) (i32.const 1) (i32.const 260)))
      (drop (call $close (i32.load (i32.const 256))))
      (br $next))))"#;

#[test]
fn a_preview_1_server_is_probed_served_and_drained() {
    let cluster = Cluster::start();
    import_wat(&cluster, "p1server", P1_SERVER);
    let serving =
        "ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}";
    cluster.apply(&pod("p1", "p1server", "", serving, ""));
    cluster.kubectl("expose pod p1 --port=80 --target-port=8080");
    cluster.kubectl("wait --for=condition=Ready pod/p1 --timeout=60s");
    let service = format!("{}:80", cluster.field("service/p1", ".spec.clusterIP"));
    eventually("an answer through the Service", || match http_get(&service, "/")? {
        (200, text) if text == "ok\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let address = format!("{}:8080", cluster.field("pod/p1", ".status.podIP"));
    let began = std::time::Instant::now();
    cluster.kubectl("delete pod p1 --timeout=60s");
    assert!(
        began.elapsed().as_secs() < 5,
        "its accept was told, so it did not take its grace: {:?}",
        began.elapsed()
    );
    assert!(http_get(&address, "/").is_err(), "nobody listens any more");
}

#[test]
fn wasi_0_3_guests_run_and_serve() {
    let cluster = Cluster::start();
    import_guest(&cluster, "p3probe");
    import_guest(&cluster, "p3server");
    let serving =
        "ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}";
    cluster.apply(&pod("server", "p3server", "", serving, ""));
    cluster.apply(&pod("greeter", "p3probe", "", "args: [hello, world]", ""));
    assert_eq!(said(&cluster, "greeter"), "hello world");
    cluster.kubectl("expose pod server --port=80 --target-port=8080");
    cluster.kubectl("wait --for=condition=Ready pod/server --timeout=60s");
    // By the Service's name, through the pod's resolver and the node's table.
    let asks = |name: &str, authority: &str, annotations: &str| {
        cluster.apply(&pod(name, "p3probe", annotations, &format!("args: [http, \"{authority}\"]"), ""));
        said(&cluster, name)
    };
    assert_eq!(asks("asks", "server", ""), "200 hello from p3");
    let narrow = "coracle.dev/allowed-outbound-hosts: 'http://elsewhere:80'";
    assert_eq!(asks("narrowed", "server", narrow), "error ErrorCode::HttpRequestDenied");
    let ip = cluster.field("pod/server", ".status.podIP");
    let narrow = "coracle.dev/allowed-outbound-hosts: 'tcp://192.0.2.1:80'";
    cluster.apply(&pod("connects", "p3probe", narrow, &format!("args: [connect, \"{ip}\", \"8080\"]"), ""));
    assert_eq!(said(&cluster, "connects"), "error ErrorCode::AccessDenied");
}

#[test]
fn configuration_and_buckets_are_the_pods_and_its_namespaces() {
    let mut cluster = Cluster::start();
    import_guest(&cluster, "storeprobe");
    cluster.kubectl("create configmap settings --from-literal=color=blue");
    cluster.kubectl("create secret generic login --from-literal=password=hunter2");
    let volumes = "volumes: [{name: c, configMap: {name: settings}}, {name: s, secret: {secretName: login}}]";
    let mounts = "volumeMounts: [{name: c, mountPath: /c}, {name: s, mountPath: /s}], env: [{name: LEVEL, value: debug}]";
    let args = |text: &str| format!("args: {:?}, {mounts}", text.split(' ').collect::<Vec<_>>());
    let words = "config color ; config LEVEL ; configmap/settings get color ; secret/login get password ; configmap/other get x";
    cluster.apply(&pod("reads", "storeprobe", "", &args(words), volumes));
    assert_eq!(said(&cluster, "reads"), "blue\ndebug\nblue\nhunter2\nerror no-such-store");

    let kept = "coracle.dev/keyvalue: namespace";
    for (name, count) in [("first", "1"), ("second", "2")] {
        cluster.apply(&pod(name, "storeprobe", kept, "args: [visits, add, total, '1']", ""));
        assert_eq!(said(&cluster, name), count);
    }
    cluster.process().kill();
    cluster.restart();
    cluster.apply(&pod("third", "storeprobe", kept, "args: [visits, add, total, '1']", ""));
    assert_eq!(said(&cluster, "third"), "3", "it outlives a kill -9 of the node");
    cluster.apply(&pod("alone", "storeprobe", "", "args: [visits, get, total]", ""));
    assert_eq!(said(&cluster, "alone"), "none", "without the annotation a container's buckets are its own");

    cluster.apply(&pod("wrong", "storeprobe", "coracle.dev/keyvalue: disk", "args: [x]", ""));
    let message = eventually("the annotation is named", || {
        let message = cluster.field("pod/wrong", &format!("{STATE}.waiting.message"));
        if message.is_empty() { Err("no message".to_owned()) } else { Ok(message) }
    });
    assert_eq!(message, "annotation coracle.dev/keyvalue: \"disk\" is neither \"memory\" nor \"namespace\"");
    assert_eq!(cluster.field("pod/wrong", &format!("{STATE}.waiting.reason")), "CreateContainerConfigError");
}

#[test]
fn an_unmet_import_is_named_in_the_pods_status() {
    let cluster = Cluster::start();
    import_wat(&cluster, "core", r#"(module (import "env" "mystery" (func)) (func (export "_start")))"#);
    import_wat(
        &cluster,
        "component",
        r#"(component
          (import "acme:widgets/press@1.2.0" (instance (export "press" (func))))
          (core module $m (func (export "run") (result i32) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $e (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $e)))"#,
    );
    for (name, import) in [("core", "env::mystery"), ("component", "acme:widgets/press@1.2.0")] {
        cluster.apply(&pod(name, name, "", "args: []", ""));
        cluster.kubectl(&format!(
            "wait --for=jsonpath={{{STATE}.waiting.reason}}=CreateContainerError pod/{name} --timeout=60s"
        ));
        let message = cluster.field(&format!("pod/{name}"), &format!("{STATE}.waiting.message"));
        assert!(message.contains("unmet import") && message.contains(import), "{message}");
    }
}

/// Exports `name`, whose `f` adds to its parameter.
fn adder(name: &str, adds: u32) -> String {
    format!(
        r#"(component
          (core module $m (func (export "f") (param i32) (result i32) (i32.add (local.get 0) (i32.const {adds}))))
          (core instance $i (instantiate $m))
          (func $f (param "n" u32) (result u32) (canon lift (core func $i "f")))
          (instance $e (export "f" (func $f)))
          (export "{name}" (instance $e)))"#
    )
}

#[test]
fn a_container_is_composed_of_the_components_its_annotation_names() {
    let cluster = Cluster::start();
    // Succeeds when the other's `f(1)` is 11.
    import_wat(
        &cluster,
        "main",
        r#"(component
          (import "acme:math/one@1.0.0" (instance $d (export "f" (func (param "n" u32) (result u32)))))
          (alias export $d "f" (func $df)) (core func $lowered (canon lower (func $df)))
          (core module $m
            (import "d" "f" (func $f (param i32) (result i32)))
            (func (export "run") (result i32) (i32.ne (call $f (i32.const 1)) (i32.const 11))))
          (core instance $i (instantiate $m (with "d" (instance (export "f" (func $lowered))))))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $e (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $e)))"#,
    );
    import_wat(&cluster, "one", &adder("acme:math/one@1.0.7", 10));
    import_wat(&cluster, "other", &adder("acme:math/other@1.0.0", 10));
    let with = |name: &str| format!("components.coracle.dev/main: coracle.dev/samples/{name}:v1");
    cluster.apply(&pod("composed", "main", &with("one"), "args: []", ""));
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/composed --timeout=60s");
    for (name, annotation, words) in [
        ("alone", String::new(), "acme:math/one@1.0.0"),
        ("unneeded", with("other"), "coracle.dev/samples/other:v1: exports nothing that"),
        ("missing", with("none").replace("coracle.dev/samples", "127.0.0.1:1"), "127.0.0.1:1/none:v1"),
    ] {
        cluster.apply(&pod(name, "main", &annotation, "args: []", ""));
        eventually(words, || {
            let message = cluster.field(&format!("pod/{name}"), &format!("{STATE}.waiting.message"));
            if message.contains(words) { Ok(()) } else { Err(message) }
        });
    }
}

/// Requests one after the other; how long the slowest but one in a hundred took.
fn p99(service: &str) -> std::time::Duration {
    let mut took: Vec<_> = (0..200)
        .map(|_| {
            let began = std::time::Instant::now();
            assert_eq!(http_get(service, "/healthz").unwrap().0, 200);
            began.elapsed()
        })
        .collect();
    took.sort();
    took[198]
}

#[test]
fn attackers_are_named_and_their_neighbour_goes_on() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("wait --for=condition=Available deployment/hello-http --timeout=60s");
    let service = format!("{}:8080", cluster.field("service/hello-http", ".spec.clusterIP"));
    eventually("an answer", || http_get(&service, "/healthz"));
    let quiet = p99(&service);

    let module = |imports: &str, body: &str| {
        format!(r#"(module {imports} (memory (export "memory") 1) (func (export "_start") {body}))"#)
    };
    let write =
        r#"(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;
    let flood = "(i32.store (i32.const 4) (i32.const 4096))
        (loop $l (i32.store8 (i32.const 4095) (i32.const 10))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))";
    let table = "(loop $l (if (i32.ne (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)) (then (br $l))))";
    let start = r#"(module (func $s (loop $l (br $l))) (start $s) (func (export "_start")))"#.to_owned();
    let guests = [
        ("loops", module("", "(loop $l (br $l))"), "Running", ""),
        ("starts", start, "Running", ""),
        ("floods", module(write, flood), "Running", ""),
        ("grows", module("", "(loop $l (drop (memory.grow (i32.const 16))) (br $l))"), "Failed", "OOMKilled"),
        // A table ends at its own bound, and the guest is told.
        ("tables", module("(table $t 1 funcref)", table), "Succeeded", "Completed"),
        (
            "recurses",
            r#"(module (func $f (call $f) (call $f)) (func (export "_start") (call $f)))"#.to_owned(),
            "Failed",
            "Error",
        ),
    ];
    let limits = "resources: {limits: {memory: 16Mi}}";
    for (name, text, ..) in &guests {
        import_wat(&cluster, name, text);
        cluster.apply(&pod(name, name, "", limits, ""));
    }
    for (name, _, phase, reason) in &guests {
        cluster.kubectl(&format!("wait --for=jsonpath={{.status.phase}}={phase} pod/{name} --timeout=60s"));
        assert_eq!(
            &cluster.field(&format!("pod/{name}"), &format!("{STATE}.terminated.reason")),
            reason,
            "{name}"
        );
    }
    let message = cluster.field("pod/recurses", &format!("{STATE}.terminated.message"));
    assert!(message.contains("call stack exhausted"), "{message}");
    let attacked = p99(&service);
    println!(
        "a neighbour's p99 through its Service: {quiet:?} alone, {attacked:?} beside a loop, an endless start and a flood of output"
    );
    assert!(attacked < std::time::Duration::from_secs(2), "{attacked:?}");

    let logs: u64 = walk(&cluster.data())
        .iter()
        .filter(|(path, _)| path.contains("_floods_"))
        .map(|(_, size)| size)
        .sum();
    println!("the flood's logs take {} MiB of disk", logs >> 20);
    assert!(logs < 100 << 20, "{logs}");
    cluster.kubectl("delete pod loops starts floods --timeout=30s");
}

/// Files under a directory, and their sizes.
fn walk(directory: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files.extend(walk(&entry.path())),
            Ok(metadata) => files.push((entry.path().to_string_lossy().into_owned(), metadata.len())),
            Err(_) => {}
        }
    }
    files
}
