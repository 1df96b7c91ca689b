//! The JavaScript client (npm @kubernetes/client-node): typed, dynamic, informers, apply, custom resources.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::process::Command;

use harness::{Cluster, node_modules, repository};

#[test]
fn the_javascript_client_works_typed_and_dynamic() {
    let cluster = Cluster::start();
    let output = Command::new("node")
        .arg(repository("tests/fixtures/javascript_client.mjs"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("NODE_MODULES_OF", format!("{}/", node_modules().parent().unwrap().display()))
        .output()
        .expect("node is not there: run `make tools`");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.ends_with("all done\n"), "{stdout}");
}
