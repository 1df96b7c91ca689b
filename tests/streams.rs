//! exec, cp, attach, run, port-forward, proxy, debug and resize with real clients against the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Cluster, KUBECTL_MINORS, Kubectl, PATIENCE, eventually, python, repository};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PODS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: work}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
    - {name: data, emptyDir: {}}
    - {name: words, configMap: {name: words}}
  containers:
    - name: main
      image: coracle.dev/samples/counter:v1
      env: [{name: WHO, value: world}]
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: words, mountPath: /etc/words}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: coracle.dev/samples/hello-http:v1
      ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
"#;

/// A cluster with a pod to work in and one that answers over HTTP.
fn cluster() -> Cluster {
    let cluster = Cluster::start_with_samples();
    cluster.import("toolbox/toolbox.wasm", "toolbox:v1");
    cluster.apply(PODS);
    cluster.kubectl("wait --for=condition=Ready pod/work pod/web --timeout=60s");
    cluster
}

/// Every kubectl there is: those that speak WebSocket first, and an old one that knows SPDY only.
fn kubectls(cluster: &Cluster) -> Vec<(String, Kubectl)> {
    KUBECTL_MINORS.iter().map(|minor| (format!("1.{minor}"), cluster.kubectl_version(*minor))).collect()
}

/// One that is older than WebSocket streams, where this machine has it.
fn old_kubectl(cluster: &Cluster) -> Option<Command> {
    let path = std::env::var_os("PATH")?;
    let dispatcher = std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|p| p.exists())?;
    let old = dispatcher.canonicalize().ok()?.parent()?.join("kubectl.1.27");
    old.exists().then(|| {
        let mut command = Command::new(old);
        command.env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.directory());
        command
    })
}

fn open_streams(cluster: &Cluster) -> String {
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let metrics = cluster.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/metrics"));
    let line = metrics.lines().find(|line| line.starts_with("coracle_node_open_streams "));
    line.unwrap_or_default().to_owned()
}

fn no_stream_is_left(cluster: &Cluster) {
    eventually("all streams ended", || match open_streams(cluster).as_str() {
        "coracle_node_open_streams 0" => Ok(()),
        other => Err(other.to_owned()),
    });
}

#[test]
fn commands_run_with_their_codes_streams_and_files() {
    let cluster = cluster();
    for (version, kubectl) in kubectls(&cluster) {
        for (arguments, input, code, stdout, stderr) in [
            (&["exec", "work", "--", "cat", "/etc/words/greeting"][..], None, 0, "hello", ""),
            (
                &["exec", "work", "--", "sh", "-c", "echo $WHO; echo no >&2; exit 3"],
                None,
                3,
                "world\n",
                "no\n",
            ),
            (&["exec", "-i", "work", "--", "wc", "-l"], Some("a\nb\nc\n"), 0, "3\n", ""),
            (&["exec", "work", "--", "ls", "/"], None, 0, "data\netc\nvar\n", ""),
            (
                &["exec", "work", "--", "sh", "-c", "for i in 1 2; do echo $i; done | tail -n1"],
                None,
                0,
                "2\n",
                "",
            ),
            (&["exec", "work", "--", "false"], None, 1, "", "exit code 1"),
            (&["exec", "work", "--", "nothing"], None, 127, "", "executable file not found in $PATH"),
            (&["exec", "web", "--", "hostname"], None, 0, "web\n", ""),
            (
                &["exec", "work", "-c", "other", "--", "ls"],
                None,
                1,
                "",
                "container other is not valid for pod work",
            ),
            (&["exec", "nobody", "--", "ls"], None, 1, "", "pods \"nobody\" not found"),
        ] {
            let output = match input {
                Some(input) => kubectl.with_input(arguments, input),
                None => kubectl.attempt(arguments),
            };
            assert_eq!(output.code, Some(code), "{version} {arguments:?}: {output:?}");
            assert_eq!(output.stdout, stdout, "{version} {arguments:?}: {output:?}");
            assert!(output.stderr.contains(stderr), "{version} {arguments:?}: {output:?}");
        }
    }
    if let Some(mut old) = old_kubectl(&cluster) {
        let output = old.args(["exec", "work", "--", "sh", "-c", "echo $WHO; exit 4"]).output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(4), &b"world\n"[..]), "SPDY");
    }
    no_stream_is_left(&cluster);
}

#[test]
fn ten_megabytes_arrive_as_they_were_sent() {
    let cluster = cluster();
    let mut state = 1u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(10 << 20)
    .collect();
    let mut commands = vec![cluster.kubectl_version(35).command(), cluster.kubectl_version(31).command()];
    commands.extend(old_kubectl(&cluster));
    for mut command in commands {
        let mut child = command
            .args(["exec", "-i", "work", "--", "sh", "-c", "cat > /data/big; cat /data/big"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
        let mut got = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert!(child.wait().unwrap().success());
        assert!(got == bytes, "{command:?}: {} bytes of {} came back", got.len(), bytes.len());
    }
    no_stream_is_left(&cluster);
}

#[test]
fn files_are_copied_in_and_out() {
    let cluster = cluster();
    let here = cluster.directory().join("tree");
    std::fs::create_dir_all(here.join("deep/er")).unwrap();
    std::fs::write(here.join("a.txt"), "one\n").unwrap();
    let long = "x".repeat(120);
    std::fs::write(here.join("deep/er").join(&long), vec![7u8; 70_000]).unwrap();
    for minor in [31, 35] {
        let kubectl = cluster.kubectl_version(minor);
        let back = cluster.directory().join(format!("back-{minor}"));
        kubectl.run(&format!("cp {} work:/data/tree-{minor}", here.display()));
        assert_eq!(kubectl.run(&format!("exec work -- cat /data/tree-{minor}/a.txt")), "one\n");
        kubectl.run(&format!("cp work:/data/tree-{minor} {}", back.display()));
        assert_eq!(std::fs::read(back.join("deep/er").join(&long)).unwrap(), vec![7u8; 70_000]);
        let retried = cluster.directory().join(format!("retried-{minor}"));
        let missing = kubectl.attempt(&["cp", "work:/data/nothing", &retried.display().to_string()]);
        assert_eq!(missing.code, Some(1), "{minor} {missing:?}");
        assert!(missing.stderr.contains("command terminated with exit code 1"), "{minor} {missing:?}");
        kubectl.run(&format!("cp --retries=2 work:/data/tree-{minor}/a.txt {}", retried.display()));
        assert_eq!(std::fs::read_to_string(retried).unwrap(), "one\n");
    }
}

#[test]
fn attached_clients_see_and_feed_the_container() {
    let cluster = cluster();
    for (version, kubectl) in kubectls(&cluster) {
        let mut attached = kubectl.start(&["attach", "work"]);
        attached.line("count …", PATIENCE, |line| line.starts_with("count "));
        drop(attached);
        let name = format!("cat-{}", version.replace('.', "-"));
        let output = kubectl.with_input(
            &[
                "run",
                &name,
                "-i",
                "--rm",
                "--restart=Never",
                "--quiet",
                "--image=coracle.dev/samples/toolbox:v1",
                "--image-pull-policy=IfNotPresent",
                "--",
                "cat",
            ],
            "fed through attach\n",
        );
        assert_eq!(output.code, Some(0), "{version}: {output:?}");
        assert_eq!(output.stdout, "fed through attach\n", "{version}");
    }
    let following = cluster.kubectl_version(35).start(&["logs", "-f", "work"]);
    drop(following);
    no_stream_is_left(&cluster);
}

fn get(port: u16) -> Result<String, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    Ok(answer)
}

#[test]
fn ports_are_forwarded_for_many_at_once() {
    let cluster = cluster();
    let mut commands: Vec<Command> =
        kubectls(&cluster).into_iter().map(|(_, kubectl)| kubectl.command()).collect();
    commands.extend(old_kubectl(&cluster));
    for mut command in commands {
        command.args(["port-forward", "pod/web", ":8080"]);
        let shown = format!("{command:?}");
        let mut forward = harness::Process::start(command, &cluster.directory().join("kubectl.log"));
        let line = forward.line("Forwarding", PATIENCE, |line| line.contains("127.0.0.1:"));
        let port = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let asking: Vec<_> = (0..20).map(|_| std::thread::spawn(move || get(port))).collect();
        for asked in asking {
            let answer = asked.join().unwrap().unwrap();
            assert!(answer.contains("Hello from Coracle!"), "{shown}: {answer}");
        }
        // One that leaves in the middle of its request does the others no harm.
        let mut rude = TcpStream::connect(("127.0.0.1", port)).unwrap();
        rude.write_all(b"GET / HT").unwrap();
        drop(rude);
        assert!(get(port).unwrap().contains("Hello"), "{shown}");
        drop(forward);
    }
    no_stream_is_left(&cluster);
}

#[test]
fn pods_services_and_nodes_are_reached_through_the_api() {
    let cluster = cluster();
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    for (path, want) in [
        ("pods/web/proxy/".to_owned(), "Hello from Coracle!"),
        ("pods/http:web:8080/proxy/".to_owned(), "Hello from Coracle!"),
        ("services/web/proxy/".to_owned(), ""),
        ("services/web:http/proxy/".to_owned(), "Hello from Coracle!"),
        ("services/web:80/proxy/".to_owned(), "Hello from Coracle!"),
    ] {
        let path = format!("/api/v1/namespaces/default/{path}");
        let output = cluster.try_kubectl(&format!("get --raw {path}"));
        if want.is_empty() {
            // The port has a name, and none was given: as upstream.
            assert!(output.failure().contains("no endpoints available for service \"web\""));
            continue;
        }
        assert!(output.success().contains(want), "{path}");
    }
    assert_eq!(cluster.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/healthz")), "ok");
    let logs = format!("get --raw /api/v1/nodes/{node}/proxy/containerLogs/default/work/main");
    assert!(cluster.kubectl(&logs).contains("count 1"));
    let refused = cluster.try_kubectl("get --raw /api/v1/namespaces/default/pods/web:9/proxy/");
    assert!(refused.failure().contains("error trying to reach service"));
    let none = cluster.try_kubectl("get --raw /api/v1/namespaces/default/services/web:81/proxy/");
    assert!(none.failure().contains("no service port 81 found for service \"web\""));
}

#[test]
fn a_pod_is_debugged_by_a_container_that_joins_it() {
    let cluster = cluster();
    let kubectl = cluster.kubectl_version(35);
    kubectl.run(
        "debug work --image=coracle.dev/samples/toolbox:v1 --image-pull-policy=IfNotPresent -c first -- echo from the outside",
    );
    eventually("the debugger has ended", || {
        let state =
            cluster.field("pod/work", ".status.ephemeralContainerStatuses[0].state.terminated.exitCode");
        if state == "0" { Ok(()) } else { Err(state) }
    });
    assert_eq!(cluster.kubectl("logs work -c first"), "from the outside\n");
    assert_eq!(cluster.field("pod/work", ".status.phase"), "Running");
    let output = kubectl.with_input(
        &[
            "debug",
            "work",
            "-i",
            "-q",
            "-c",
            "second",
            "--image=coracle.dev/samples/toolbox:v1",
            "--image-pull-policy=IfNotPresent",
            "--",
            "head",
            "-n1",
        ],
        "typed\n",
    );
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "typed\n"), "{output:?}");
    let removed = kubectl.attempt(&[
        "patch",
        "pod",
        "work",
        "--subresource=ephemeralcontainers",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/ephemeralContainers/0"}]"#,
    ]);
    assert!(removed.failure().contains("existing ephemeral containers \"first\" may not be removed"));
}

#[test]
fn a_running_pod_gets_other_limits() {
    let cluster = cluster();
    cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sized"}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "main",
            "image": "coracle.dev/samples/counter:v1", "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}}]}}"#,
    );
    cluster.kubectl("wait --for=condition=Ready pod/sized --timeout=60s");
    let resize = |resources: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"main","resources":{resources}}}]}}}}"#);
        cluster.kubectl_version(35).attempt(&["patch", "pod", "sized", "--subresource=resize", "-p", &patch])
    };
    let at = |path: &str| cluster.field("pod/sized", path);
    resize(r#"{"requests":{"cpu":"20m"},"limits":{"memory":"128Mi"}}"#).success();
    eventually("resized", || {
        let shown = at(".status.containerStatuses[0].resources.limits.memory");
        if shown == "128Mi" { Ok(()) } else { Err(shown) }
    });
    assert_eq!(at(".status.containerStatuses[0].allocatedResources.cpu"), "20m");
    assert_eq!(at(".status.containerStatuses[0].restartCount"), "0");
    resize(r#"{"requests":{"cpu":"100000"},"limits":{"cpu":"100000"}}"#).success();
    eventually("told that it cannot be", || {
        let reason = at(".status.conditions[?(@.type==\"PodResizePending\")].reason");
        if reason == "Infeasible" { Ok(()) } else { Err(reason) }
    });
    resize(r#"{"requests":{"cpu":"20m"},"limits":{"cpu":"100m"}}"#).success();
    eventually("the condition is gone", || {
        let kinds = at(".status.conditions[*].type");
        if kinds.contains("PodResizePending") { Err(kinds) } else { Ok(()) }
    });
    let class =
        resize(r#"{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"cpu":"100m","memory":"128Mi"}}"#);
    assert!(class.failure().contains("Pod QOS Class may not change as a result of resizing"));
}

#[test]
fn commands_probe_and_accompany_containers() {
    let cluster = cluster();
    cluster.apply(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probed"}, "spec": {
            "terminationGracePeriodSeconds": 1, "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "main", "image": "coracle.dev/samples/counter:v1",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /data/hook"]}}},
                "readinessProbe": {"periodSeconds": 1, "exec": {"command": ["cat", "/data/ready"]}}}]}}"#,
    );
    eventually("the hook ran", || {
        let output = cluster.try_kubectl("exec probed -- cat /data/hook");
        if output.stdout == "hooked\n" { Ok(()) } else { Err(format!("{output:?}")) }
    });
    assert_eq!(cluster.field("pod/probed", ".status.containerStatuses[0].ready"), "false");
    cluster.kubectl("exec probed -- touch /data/ready");
    cluster.kubectl("wait --for=condition=Ready pod/probed --timeout=60s");
}

async fn client(cluster: &Cluster) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn kube_rs_executes_and_forwards() {
    let cluster = cluster();
    let pods: Api<Pod> = Api::default_namespaced(client(&cluster).await);
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut running = pods.exec("work", ["wc", "-c"], &params).await.unwrap();
    let mut stdin = running.stdin().unwrap();
    stdin.write_all(b"12345").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut out = String::new();
    running.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "5\n");
    let status = running.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));

    // With a terminal both kinds of output come as one, and end when the program does.
    let params = AttachParams::interactive_tty();
    let mut running =
        pods.exec("work", ["sh", "-c", "echo out; echo err >&2; exit 3"], &params).await.unwrap();
    let mut out = String::new();
    let reading = running.stdout().unwrap();
    let mut reading = std::pin::pin!(reading);
    tokio::time::timeout(Duration::from_secs(30), reading.read_to_string(&mut out)).await.unwrap().unwrap();
    assert_eq!(out, "out\r\nerr\r\n");
    let status = running.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));

    let mut forward = pods.portforward("web", &[8080]).await.unwrap();
    let mut stream = forward.take_stream(8080).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let read =
        tokio::time::timeout(Duration::from_secs(30), stream.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 200"));
    drop((stream, forward));
    no_stream_is_left(&cluster);
}

#[test]
fn the_python_client_streams_and_forwards() {
    let cluster = cluster();
    let script: PathBuf = repository("tests/fixtures/python_streams.py");
    let output = Command::new(python()).arg(script).env("KUBECONFIG", cluster.kubeconfig()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("all done\n"));
}
