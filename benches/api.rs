//! The API under load over HTTPS: creates, reads, changes, lists, and how late watchers hear of a write.
//!
//! With PEER_KUBECONFIG set to another API server's kubeconfig, the same load runs on that one too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "api/lists.rs"]
mod lists;
mod measure;
#[path = "api/verbs.rs"]
mod verbs;
#[path = "api/watches.rs"]
mod watches;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Cluster, Https};
use measure::header;
use serde_json::json;

fn main() {
    header("API");
    let mut cluster = Cluster::start();
    measure_server(&cluster.https(), "");
    lists::memory(&mut cluster);
    drop(cluster);
    if let Some(peer) = std::env::var_os("PEER_KUBECONFIG") {
        measure_server(&Https::from_kubeconfig(Path::new(&peer)), ", peer");
    }
}

fn measure_server(https: &Https, who: &str) {
    let namespaces = ["bench-creates", "bench-lists", "bench-watches"];
    for namespace in namespaces {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let made = https.post("/api/v1/namespaces", body.to_string());
        assert_eq!(made.status, 201, "{}", made.text());
    }
    for watchers in [50, 1_000] {
        watches::late(https, watchers, who);
    }
    lists::lists(https, who);
    for clients in [1, 16, 64] {
        verbs::creates(https, clients, who);
    }
    verbs::changes(https, who);
    for namespace in namespaces {
        https.request("DELETE", &format!("/api/v1/namespaces/{namespace}"), &[], b"");
    }
}

/// A ConfigMap of about a kilobyte.
fn config_map(name: &str, stamp: u128) -> Vec<u8> {
    let data = json!({"stamp": stamp.to_string(), "settings": "x".repeat(700)});
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
        "labels": {"app": "bench", "tier": "load"}}, "data": data});
    body.to_string().into_bytes()
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}
