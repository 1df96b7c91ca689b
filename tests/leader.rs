//! Two servers on one etcd: one leads, the other takes over when it dies or stops, and nothing is done twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::{Etcd, Kubectl, PATIENCE, Process, coracle, eventually};
use serde_json::{Value, json};

const TIMING: [&str; 6] = [
    "--leader-elect-lease-duration=6s",
    "--leader-elect-renew-deadline=4s",
    "--leader-elect-retry-period=1s",
    "--log-level=info",
    "--node-monitor-grace-period=50s",
    "--cluster-signing-duration=8760h",
];
/// The lease, the retries' jitter, and the time that a loaded machine takes for the rest.
const HANDOVER: Duration = Duration::from_secs(6 + 3 + 15);
const LEASES: [&str; 2] = ["kube-scheduler", "kube-controller-manager"];

struct Server {
    process: Process,
    kubectl: Kubectl,
}

/// A server of the cluster whose CA and keys are in `<directory>/pki`.
fn serve(directory: &Path, name: &str, etcd: &Etcd) -> Server {
    serve_with(directory, name, etcd, &[])
}

fn serve_with(directory: &Path, name: &str, etcd: &Etcd, arguments: &[&str]) -> Server {
    let mut command = coracle();
    command
        .args(["server", "--listen", "127.0.0.1:0", "--etcd-servers", &etcd.endpoint])
        .args(TIMING)
        .args(arguments)
        .arg("--pki-dir")
        .arg(directory.join("pki"))
        .arg("--data-dir")
        .arg(directory.join(name))
        .arg("--kubeconfig")
        .arg(directory.join(format!("{name}.kubeconfig")));
    let mut process = Process::start(command, &directory.join(format!("{name}.log")));
    process.line("API server ready", PATIENCE, |line| line.starts_with("API server ready"));
    let kubectl = Kubectl::new(33, &directory.join(format!("{name}.kubeconfig")), directory);
    Server { process, kubectl }
}

impl Server {
    /// Holder and transitions of a lease.
    fn lease(&self, name: &str) -> (String, i64) {
        let output = self.kubectl.attempt(&["get", "lease", "-n", "kube-system", name, "-o", "json"]);
        let lease: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        (holder, lease["spec"]["leaseTransitions"].as_i64().unwrap_or(-1))
    }

    fn held(&self, name: &str) -> (String, i64) {
        eventually("a leader", || match self.lease(name) {
            (holder, _) if holder.is_empty() => Err("nobody".to_owned()),
            lease => Ok(lease),
        })
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.kubectl.run(&format!("get {what} -o json"))).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// The ports of the servers behind the `kubernetes` Service, as slices and as Endpoints.
    fn endpoints(&self) -> BTreeSet<i64> {
        let ports = |ports: &Value| ports[0]["port"].as_i64().unwrap();
        let slices = self.list("endpointslices -l kubernetes.io/service-name=kubernetes");
        let of_slices: BTreeSet<i64> = slices.iter().map(|slice| ports(&slice["ports"])).collect();
        let all: Value = serde_json::from_str(&self.kubectl.run("get endpoints kubernetes -o json")).unwrap();
        let of_subsets: BTreeSet<i64> =
            all["subsets"].as_array().unwrap().iter().map(|s| ports(&s["ports"])).collect();
        // Both follow one after the other.
        of_slices.union(&of_subsets).copied().collect()
    }

    /// Whether this process leads, by its own metrics.
    fn leads(&self, lease: &str) -> bool {
        let metrics = self.kubectl.run("get --raw /metrics");
        metrics.contains(&format!("leader_election_master_status{{name=\"{lease}\"}} 1"))
    }
}

/// A file of the server's own manifests.
fn manifest(directory: &Path, server: &str, name: &str) -> PathBuf {
    let manifests = directory.join(server).join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let file = manifests.join(format!("{name}.yaml"));
    std::fs::write(&file, format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n")).unwrap();
    file
}

fn deployment(name: &str, replicas: u32) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "any:v1"}]}}},
    })
    .to_string()
}

/// One ReplicaSet for each Deployment, as many pods as asked for and never more, each bound once.
fn nothing_was_done_twice(server: &Server, wanted: &BTreeMap<String, usize>) {
    let mut sets: BTreeMap<String, usize> = BTreeMap::new();
    for set in server.list("replicasets") {
        let owner = set["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default().to_owned();
        *sets.entry(owner).or_default() += 1;
    }
    assert_eq!(sets, wanted.keys().map(|name| (name.clone(), 1)).collect(), "ReplicaSets by Deployment");
    let mut pods: BTreeMap<String, usize> = BTreeMap::new();
    for pod in server.list("pods") {
        *pods.entry(pod["metadata"]["labels"]["app"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(&pods, wanted, "pods by Deployment");
    // No pod came and went: each that was made is there, and each was bound by one scheduler only.
    let events = server.list("events");
    let of = |reason: &'static str| events.iter().filter(move |event| event["reason"] == reason);
    let made: u64 = of("SuccessfulCreate").map(|event| event["count"].as_u64().unwrap_or(1)).sum();
    let total: usize = wanted.values().sum();
    assert!(made <= total as u64, "{made} pods were made, {total} were asked for");
    assert_eq!(of("SuccessfulDelete").count(), 0);
    let bound: Vec<_> = of("Scheduled").map(|event| event["involvedObject"]["uid"].to_string()).collect();
    let distinct: BTreeSet<_> = bound.iter().collect();
    assert_eq!(bound.len(), distinct.len(), "a pod was bound twice");
}

fn complete(server: &Server, wanted: &BTreeMap<String, usize>) {
    eventually("every Deployment is available", || {
        for (name, count) in wanted {
            let path = "jsonpath={.status.availableReplicas}";
            let output = server.kubectl.attempt(&["get", "deployment", name, "-o", path]);
            if output.stdout != count.to_string() {
                return Err(format!("{name}: {} of {count} {}", output.stdout, output.stderr));
            }
        }
        Ok(())
    });
}

#[test]
fn a_killed_leader_is_followed_by_the_other_and_nothing_is_done_twice() {
    let etcd = Etcd::start();
    let directory = tempfile::Builder::new().prefix("coracle-test-leader-").tempdir().unwrap();
    let path = directory.path();
    let mut first = serve(path, "first", &etcd);
    let before = LEASES.map(|lease| first.held(lease));
    let second = serve(path, "second", &etcd);
    assert_eq!(second.endpoints().len(), 2, "both servers are behind the kubernetes Service");
    assert!(LEASES.iter().all(|lease| first.leads(lease) && !second.leads(lease)));

    // Who leads applies its manifests, and nobody else.
    let maps = |server: &Server| -> BTreeSet<String> {
        let maps = server.list("configmaps").into_iter();
        let names = maps.map(|map| map["metadata"]["name"].as_str().unwrap().to_owned());
        names.filter(|name| name != "kube-root-ca.crt").collect()
    };
    let until = |server: &Server, wanted: &[&str]| {
        eventually("the manifests' ConfigMaps", || match maps(server) {
            found if found.iter().eq(wanted) => Ok(()),
            found => Err(format!("{found:?}, not {wanted:?}")),
        });
    };
    let second_file = manifest(path, "second", "of-second");
    manifest(path, "first", "of-first");
    until(&second, &["of-first"]);

    let mut player = coracle();
    player.args(["node", "--runtime", "fake", "--count", "4", "--node-capacity=pods=100", "--kubeconfig"]);
    player.arg(path.join("second.kubeconfig")).args(["--node-name", "node"]);
    let mut player = Process::start(player, &path.join("node.log"));
    player.line("nodes are ready", PATIENCE, |line| line.starts_with("Nodes node-0"));

    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    let mut manifest = String::new();
    for index in 0..6 {
        wanted.insert(format!("web-{index}"), 30);
        manifest.push_str(&format!("---\n{}\n", deployment(&format!("web-{index}"), 30)));
    }
    second.kubectl.with_input(&["apply", "-f", "-"], &manifest).success();
    // In the midst of it.
    eventually("some pods are bound", || {
        let bound = second.list("pods").iter().filter(|pod| !pod["spec"]["nodeName"].is_null()).count();
        if bound > 0 { Ok(()) } else { Err("none".to_owned()) }
    });
    first.process.kill();
    let killed = Instant::now();
    for (lease, (holder, transitions)) in LEASES.iter().zip(&before) {
        let taken = eventually("another leader", || match second.lease(lease) {
            (now, count) if now != *holder && !now.is_empty() => Ok(count),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(taken, transitions + 1, "{lease}");
    }
    assert!(killed.elapsed() < HANDOVER, "handed over after {:?}", killed.elapsed());
    complete(&second, &wanted);
    eventually("the dead server is no endpoint any more", || match second.endpoints() {
        ports if ports.len() == 1 => Ok(()),
        ports => Err(format!("{ports:?}")),
    });
    assert!(LEASES.iter().all(|lease| second.leads(lease)));
    nothing_was_done_twice(&second, &wanted);
    // The other's file may be in its directory still: what it applied stays.
    until(&second, &["of-first", "of-second"]);
    std::fs::remove_file(second_file).unwrap();
    until(&second, &["of-first"]);

    // A clean stop hands over at once: the lease is given up.
    let mut first = serve(path, "first", &etcd);
    let mut second = second;
    let before = LEASES.map(|lease| first.held(lease));
    assert!(second.process.stop().success());
    let stopped = Instant::now();
    for (lease, (holder, _)) in LEASES.iter().zip(&before) {
        eventually("another leader", || match first.lease(lease) {
            (now, _) if now != *holder && !now.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    eprintln!("handed over {:?} after a clean stop", stopped.elapsed());
    assert!(first.process.running());
    assert_eq!(first.endpoints().len(), 1, "who stops takes itself out");
}

#[test]
fn servers_say_how_they_store_until_their_lease_is_gone() {
    let etcd = Etcd::start();
    let directory = tempfile::Builder::new().prefix("coracle-test-versions-").tempdir().unwrap();
    let gates = "--feature-gates=StorageVersionAPI=true";
    let flags = [gates, "--runtime-config=internal.apiserver.k8s.io/v1alpha1=true"];
    let first = serve_with(directory.path(), "first", &etcd, &flags);
    let names = |list: Vec<Value>| -> BTreeSet<String> {
        list.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let leases =
        || names(first.list("lease -n kube-system -l apiserver.kubernetes.io/identity=kube-apiserver"));
    let only = leases();
    assert_eq!(only.len(), 1);
    let mut second = serve_with(directory.path(), "second", &etcd, &flags);
    let both = leases();
    assert_eq!(both.len(), 2);
    let servers = |version: &Value| -> BTreeSet<String> {
        let entries = version["status"]["storageVersions"].as_array().unwrap().iter();
        entries.map(|entry| entry["apiServerID"].as_str().unwrap().to_owned()).collect()
    };
    let versions = first.list("storageversions");
    for version in &versions {
        assert_eq!(servers(version), both, "{version}");
        assert_eq!(version["status"]["conditions"][0]["status"], "True", "{version}");
    }
    let autoscalers = versions
        .iter()
        .find(|version| version["metadata"]["name"] == "autoscaling.horizontalpodautoscalers")
        .unwrap();
    assert_eq!(autoscalers["status"]["commonEncodingVersion"], "autoscaling/v2");
    assert!(names(versions).contains("core.pods"));
    // The Lease of a server that lives comes back, and so do its entries.
    let mine = only.first().unwrap();
    first.kubectl.run(&format!("delete lease -n kube-system {mine}"));
    eventually("the first server's Lease", || {
        if leases() == both { Ok(()) } else { Err(format!("{:?}", leases())) }
    });
    second.process.kill();
    let gone = both.difference(&only).next().unwrap();
    first.kubectl.run(&format!("delete lease -n kube-system {gone}"));
    eventually("the dead server is in no StorageVersion", || {
        let versions = first.list("storageversions");
        match versions.iter().find(|version| servers(version) != only) {
            Some(version) => Err(version.to_string()),
            None => Ok(()),
        }
    });

    let output = coracle()
        .args(["server", "--listen", "127.0.0.1:0", gates, "--data-dir"])
        .arg(directory.path().join("refused"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("--runtime-config"), "{stderr}");
}

#[test]
fn timing_that_would_let_two_lead_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let output = coracle()
        .args(["server", "--listen", "127.0.0.1:0", "--leader-elect-lease-duration=5s", "--data-dir"])
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("--leader-elect-renew-deadline"), "{stderr}");
}
