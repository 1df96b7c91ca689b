//! The same cluster with its state in a real etcd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::PathBuf;
use std::time::Instant;

use harness::{
    Cluster, ClusterOptions, Etcd, Https, PATIENCE, Process, coracle, eventually, free_address, http_get, run,
};
use serde_json::{Value, json};

#[test]
fn a_cluster_on_etcd_works_and_keeps_its_state_there() {
    let etcd = Etcd::start();
    let arguments = vec!["--etcd-servers".to_owned(), etcd.endpoint.clone()];
    let mut cluster = Cluster::start_with(ClusterOptions { arguments, ..ClusterOptions::default() });
    cluster.import_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    let service = format!("{}:8080", cluster.field("service/hello-http", ".spec.clusterIP"));
    eventually("an answer", || http_get(&service, "/"));
    if run("sh", &["-c", "command -v etcdctl || true"]).is_empty() {
        eprintln!("etcdctl is not installed: the keys are not looked at");
    } else {
        let keys = etcd.keys();
        assert!(keys.contains(&"/registry/deployments.apps/default/hello-http".to_owned()), "{keys:?}");
    }
    let pods = cluster.kubectl("get pods -o jsonpath={.items[*].metadata.uid}");
    cluster.process().kill();
    cluster.restart();
    assert_eq!(cluster.kubectl("get pods -o jsonpath={.items[*].metadata.uid}"), pods);
    eventually("an answer after the restart", || match http_get(&service, "/")? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Node ports and cluster addresses are one service's each, whichever server was asked.
#[test]
fn two_apiservers_never_hand_out_a_port_twice() {
    let etcd = Etcd::start();
    let directory = tempfile::Builder::new().prefix("coracle-test-two-").tempdir().unwrap();
    let servers: Vec<(Process, PathBuf)> = ["a", "b"]
        .map(|name| {
            let data = directory.path().join(name);
            let mut command = coracle();
            command.args([
                "apiserver",
                "--listen",
                "127.0.0.1:0",
                "--etcd-servers",
                &etcd.endpoint,
                "--data-dir",
            ]);
            command.arg(&data);
            let mut process = Process::start(command, &directory.path().join(format!("{name}.log")));
            process.line("API server ready", PATIENCE, |line| line.starts_with("API server ready"));
            (process, data.join("kubeconfig"))
        })
        .into();
    let service = |name: &str, port: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}})
        .to_string()
    };
    // Each server is asked for the same port, over and over, at the same time as the other.
    let asked: Vec<Vec<(u16, Value)>> = std::thread::scope(|scope| {
        let workers: Vec<_> = servers
            .iter()
            .enumerate()
            .map(|(which, (_, kubeconfig))| {
                let service = &service;
                scope.spawn(move || {
                    let https = Https::from_kubeconfig(kubeconfig);
                    let wishes = (0..15).map(|n| (format!("wish-{which}-{n}"), json!(31_000 + n)));
                    let free = (0..25).map(|n| (format!("free-{which}-{n}"), Value::Null));
                    let answer = |(name, port): (String, Value)| {
                        let answer = https.post("/api/v1/namespaces/default/services", service(&name, port));
                        (answer.status, answer.json())
                    };
                    wishes.chain(free).map(answer).collect()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for n in 0..15 {
        let mut codes: Vec<u16> = asked.iter().map(|answers| answers[n].0).collect();
        codes.sort_unstable();
        assert_eq!(codes, [201, 422], "{:?} {:?}", asked[0][n].1, asked[1][n].1);
    }
    let mut ports: Vec<i64> = Vec::new();
    for (code, answer) in asked.iter().flat_map(|answers| &answers[15..]) {
        assert_eq!(*code, 201, "{answer}");
        ports.push(answer["spec"]["ports"][0]["nodePort"].as_i64().unwrap());
    }
    let count = ports.len();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), count, "{ports:?}");

    // What one server frees, the other can give.
    let [a, b] = [0, 1].map(|which: usize| Https::from_kubeconfig(&servers[which].1));
    let holder = if asked[0][0].0 == 201 { "wish-0-0" } else { "wish-1-0" };
    assert_eq!(
        a.request("DELETE", &format!("/api/v1/namespaces/default/services/{holder}"), &[], b"").status,
        200
    );
    eventually("the other server to give the port", || {
        let answer = b.post("/api/v1/namespaces/default/services", service("again", json!(31_000)));
        if answer.status == 201 { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn an_etcd_that_is_not_there_is_named_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let started = Instant::now();
    let output = coracle()
        .args(["up", "--rootless", "--log-level", "error", "--listen", "127.0.0.1:0", "--etcd-servers"])
        .arg(format!("http://{address}"))
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
}
