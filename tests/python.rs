//! The Python client (PyPI kubernetes) at everyday work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::process::Command;

use harness::{Cluster, python, repository};

#[test]
fn the_python_client_lists_creates_watches_and_deletes() {
    let cluster = Cluster::start_with_samples();
    let output = Command::new(python())
        .arg(repository("tests/fixtures/python_client.py"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("all done\n"));
}
