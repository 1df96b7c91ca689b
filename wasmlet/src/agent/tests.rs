//! A whole wasmlet against the fake API.

use std::time::Duration;

use coracle_client::PatchType;
use coracle_client::fake::Fake;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Taint;
use serde_json::json;

use super::*;

/// A CA, a serving certificate and what clients need, for tests.
fn identity() -> (Identity, watch::Sender<ServingIdentity>) {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let serving =
        ServingIdentity { certificate: certificate.cert.pem(), key: certificate.signing_key.serialize_pem() };
    let (sender, receiver) = watch::channel(serving);
    (Identity { serving: receiver, client_ca: certificate.cert.pem() }, sender)
}

fn options(name: &str, dir: &Path) -> Options {
    Options {
        rootless: true,
        runtime: RuntimeKind::Fake,
        port: 0,
        max_pods: Some(50),
        taints: vec![Taint { key: "k".into(), effect: "NoSchedule".into(), ..Taint::default() }],
        heartbeat: crate::Heartbeat { lease_every: Duration::from_millis(200), ..Default::default() },
        ..Options::new(name, dir)
    }
}

async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn two_nodes_register_become_ready_run_pods_and_stop() {
    let fake = Fake::new();
    let shutdown = CancellationToken::new();
    let (ready, mut readies) = tokio::sync::mpsc::unbounded_channel();
    let mut running = Vec::new();
    let mut kept = Vec::new();
    for name in ["n1", "n2"] {
        let dir = tempfile::tempdir().unwrap();
        let (identity, sender) = identity();
        let (client, shutdown, ready) = (fake.client("kubelet"), shutdown.clone(), ready.clone());
        let options = options(name, dir.path());
        kept.push((dir, sender));
        running.push(tokio::spawn(async move {
            run(options, client, identity, shutdown, move |r| ready.send(r).unwrap()).await
        }));
    }
    for (name, cidr) in [("n1", "127.80.1.0/24"), ("n2", "127.80.2.0/24")] {
        let node = eventually("registration", || fake.get::<Node>("", name)).await;
        assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], name);
        assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "k");
        let not_ready = |node: Node| {
            let conditions = node.status?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "Ready" && c.status == "False")
        };
        eventually("not ready", || fake.get::<Node>("", name).and_then(not_ready)).await;
        let patch = json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        fake.client("ipam").patch::<Node>("", name, None, PatchType::Merge, &patch).await.unwrap();
    }
    for _ in 0..2 {
        let ready = readies.recv().await.unwrap();
        assert_eq!(ready.pods_max, 50);
        let status = fake.get::<Node>("", &ready.name).unwrap().status.unwrap();
        let condition = |kind: &str| {
            let found = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
            (found.status.clone(), found.reason.clone().unwrap_or_default())
        };
        assert_eq!(condition("Ready"), ("True".into(), "KubeletReady".into()));
        assert_eq!(condition("MemoryPressure").0, "False");
        let port = status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port;
        assert_eq!(port, i32::from(ready.server.port()));
        assert_eq!(status.node_info.unwrap().kubelet_version, "v1.37.0");
        assert_eq!(status.capacity.unwrap()["pods"].0, "50");
    }
    let lease = eventually("lease", || fake.get::<Lease>("kube-node-lease", "n1")).await;
    let first = lease.spec.unwrap();
    assert_eq!((first.holder_identity.as_deref(), first.lease_duration_seconds), (Some("n1"), Some(40)));
    assert_eq!(lease.metadata.owner_references.unwrap()[0].kind, "Node");
    eventually("renewal", || {
        let spec = fake.get::<Lease>("kube-node-lease", "n1")?.spec?;
        (spec.renew_time > first.renew_time).then_some(())
    })
    .await;
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
        "spec": {"nodeName": "n2", "containers": [{"name": "c", "image": "i:v1"}]}}))
    .unwrap();
    fake.put(&pod).unwrap();
    let status = eventually("running", || {
        fake.get::<Pod>("ns", "p")?.status.filter(|s| s.phase.as_deref() == Some("Running"))
    })
    .await;
    assert_eq!(status.pod_ip.as_deref(), Some("127.80.2.2"));
    shutdown.cancel();
    for node in running {
        node.await.unwrap().unwrap();
    }
    assert_eq!(fake.get::<Pod>("ns", "p").unwrap().status.unwrap().phase.as_deref(), Some("Running"));
}

#[tokio::test]
async fn a_bad_range_is_an_error_and_a_stop_before_ready_is_none() {
    for (range, works) in [(Some("10.1.0.0/24"), false), (Some("nonsense"), false), (None, true)] {
        let fake = Fake::new();
        let shutdown = CancellationToken::new();
        let dir = tempfile::tempdir().unwrap();
        let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": range}});
        fake.put::<Node>(&serde_json::from_value(node).unwrap()).unwrap();
        let (identity, _sender) = identity();
        let options = options("n1", dir.path());
        let client = fake.client("kubelet");
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { run(options, client, identity, stop, |_| {}).await });
        if works {
            eventually("lease", || fake.get::<Lease>("kube-node-lease", "n1")).await;
            let labels = fake.get::<Node>("", "n1").unwrap().metadata.labels.unwrap();
            assert_eq!(labels["kubernetes.io/os"], "linux", "an existing node is brought up to date");
            shutdown.cancel();
        }
        assert_eq!(running.await.unwrap().is_ok(), works, "{range:?}");
    }
}

/// What the issue asks of a node: the samples, in the real runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_samples_run() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples");
    let fake = Fake::new();
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&images_directory(dir.path())).unwrap();
    for name in ["hello-http", "counter", "job-hello", "hog"] {
        let path = samples.join(name).join(format!("{name}.wasm"));
        store.import(&path, &format!("coracle.dev/samples/{name}:v1")).await.unwrap();
    }
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "127.81.1.0/24"}});
    fake.put::<Node>(&serde_json::from_value(node).unwrap()).unwrap();
    let (identity, _sender) = identity();
    let mut options = options("n1", dir.path());
    options.runtime = RuntimeKind::Wasm;
    let shutdown = CancellationToken::new();
    let (ready, became_ready) = tokio::sync::oneshot::channel();
    let (client, stop) = (fake.client("kubelet"), shutdown.clone());
    let running =
        tokio::spawn(async move { run(options, client, identity, stop, move |r| drop(ready.send(r))).await });
    became_ready.await.unwrap();

    let pod = |name: &str, container: serde_json::Value, policy: &str| {
        let mut container = container;
        let sample = name.split('.').next().unwrap();
        container["name"] = "c".into();
        container["image"] = format!("coracle.dev/samples/{sample}:v1").into();
        let pod = json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"nodeName": "n1", "restartPolicy": policy, "containers": [container]}});
        fake.put::<Pod>(&serde_json::from_value(pod).unwrap()).unwrap();
    };
    let status = |name: &str| fake.get::<Pod>("ns", name)?.status;
    let is_ready = |name: &str| {
        let conditions = status(name)?.conditions?;
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then(|| status(name))?
    };
    let hello = json!({"ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
    pod("hello-http", hello.clone(), "Always");
    eventually("hello-http ready", || is_ready("hello-http")).await;
    // Compiled now: from here on a start takes what it will always take.
    let mut taken = Vec::new();
    for number in 0..10 {
        let name = format!("hello-http.{number}");
        let begun = std::time::Instant::now();
        pod(&name, hello.clone(), "Always");
        let status = eventually("ready", || is_ready(&name)).await;
        let address = format!("{}:8080", status.pod_ip.unwrap());
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.contains(&format!("pod={name}")), "{answer}");
        taken.push(begun.elapsed());
    }
    taken.sort();
    println!("pod put -> Ready -> first 200: {taken:?}");

    pod("job-hello", json!({"args": ["Coracle"]}), "Never");
    let done = |name: &str, phase: &str| status(name).filter(|s| s.phase.as_deref() == Some(phase));
    eventually("job", || done("job-hello", "Succeeded")).await;
    pod("hog", json!({"args": ["memory"], "resources": {"limits": {"memory": "16Mi"}}}), "Never");
    let hog = eventually("hog", || done("hog", "Failed")).await;
    let ended = hog.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("OOMKilled"), 137));

    pod("counter", json!({"env": [{"name": "INTERVAL_MS", "value": "10"}]}), "Always");
    eventually("counter", || is_ready("counter")).await;
    let uid = fake.get::<Pod>("ns", "counter").unwrap().metadata.uid.unwrap();
    let log = dir.path().join("pods").join(crate::logs::pod_directory("ns", "counter", &uid)).join("c/0.log");
    eventually("log", || std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() > 3)).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[test]
fn the_engines_version_is_the_locked_one() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let wanted = format!("name = \"wasmtime\"\nversion = \"{}\"", wasm::VERSION);
    assert!(lock.contains(&wanted), "{wanted}");
}
