//! The same cluster with its state in a real etcd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::time::Instant;

use harness::{Cluster, ClusterOptions, Etcd, PATIENCE, coracle, eventually, free_address, http_get, run};

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
