//! One server and two nodes, each with a network of its own: joining, spreading, traffic between nodes, losing one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{
    Kubectl, Machine, Network, PATIENCE, Process, coracle, eventually, http_get, need_root, repository,
    tcp_connect,
};
use tempfile::TempDir;

/// A node renews its lease each 10 s; one that misses a renewal by this much counts as lost (50 s by default).
const GRACE: &str = "15s";

/// The grace, the pods' toleration, and the time to start them elsewhere on a loaded machine.
const LOSS_PATIENCE: Duration = Duration::from_secs(90);

struct Fleet {
    // Nodes stop before the server does, and machines go last.
    nodes: BTreeMap<&'static str, Process>,
    server: Process,
    machines: BTreeMap<&'static str, Machine>,
    kubectl: Kubectl,
    directory: TempDir,
}

impl Fleet {
    fn start() -> Fleet {
        let mut network = Network::new();
        let directory = tempfile::Builder::new().prefix("coracle-test-fleet-").tempdir().unwrap();
        let path = directory.path();
        let server = serve(path);
        let kubectl = Kubectl::new(33, &path.join("kubeconfig"), path);
        let machines = ["east", "west"].map(|name| (name, network.machine())).into();
        let mut fleet = Fleet { nodes: BTreeMap::new(), server, machines, kubectl, directory };
        for name in ["east", "west"] {
            fleet.join(name);
        }
        for name in ["east", "west"] {
            fleet.kubectl.run(&format!("wait --for=condition=Ready node/{name} --timeout=60s"));
        }
        fleet
    }

    fn join(&mut self, name: &'static str) {
        let path = self.directory.path().to_owned();
        let node = self.machines[name].run(move || {
            let data = path.join(name);
            for version in ["v1", "v2"] {
                import(&data, version);
            }
            let mut command = coracle();
            command
                .args(["node", "--server", "https://10.99.0.1:6443", "--node-name", name, "--token"])
                .arg(path.join("server/node-token"))
                .arg("--data-dir")
                .arg(&data);
            let mut node = Process::start(command, &path.join(format!("{name}.log")));
            node.line("Node … ready", PATIENCE, |line| line == format!("Node {name} ready"));
            node
        });
        self.nodes.insert(name, node);
    }

    /// The nodes of the Deployment's ready pods.
    fn placed(&self) -> Vec<String> {
        let pods = self.kubectl.run("get pods -l app=hello-http -o json");
        let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
        let mut nodes: Vec<_> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pod| {
                let conditions = pod["status"]["conditions"].as_array();
                pod["metadata"].get("deletionTimestamp").is_none()
                    && conditions
                        .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
            })
            .map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned())
            .collect();
        nodes.sort();
        nodes
    }
}

fn serve(path: &Path) -> Process {
    let mut command = coracle();
    command.args(["server", "--listen", "10.99.0.1:6443", "--node-monitor-grace-period", GRACE]);
    command.arg("--data-dir").arg(path.join("server")).arg("--kubeconfig").arg(path.join("kubeconfig"));
    let mut server = Process::start(command, &path.join("server.log"));
    server.line("API server ready", PATIENCE, |line| {
        line.starts_with("API server ready: https://10.99.0.1:6443")
    });
    server
}

fn import(data: &Path, version: &str) {
    let file = if version == "v1" { "hello-http.wasm" } else { "hello-http-v2.wasm" };
    let output = coracle()
        .args(["image", "import", "--data-dir"])
        .arg(data)
        .arg(repository("samples/hello-http").join(file))
        .args(["--tag", &format!("coracle.dev/samples/hello-http:{version}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// hello-http that leaves a lost node soon instead of after five minutes.
fn manifest(replicas: usize) -> String {
    let sample = std::fs::read_to_string(repository("samples/hello-http/deployment.yaml")).unwrap();
    let tolerations = "    spec:
      tolerations:
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:";
    let changed = sample
        .replace("replicas: 2", &format!("replicas: {replicas}"))
        .replace("    spec:\n      containers:", tolerations);
    assert!(changed.contains("tolerationSeconds"));
    changed
}

#[test]
fn a_deployment_spreads_answers_across_nodes_and_outlives_one() {
    if !need_root("a_deployment_spreads_answers_across_nodes_and_outlives_one") {
        return;
    }
    let mut fleet = Fleet::start();
    let nodes = fleet.kubectl.run("get nodes -o wide");
    assert!(nodes.contains("10.99.0.11") && nodes.contains("10.99.0.12"), "{nodes}");
    let ranges = fleet.kubectl.run("get nodes -o jsonpath={.items[*].spec.podCIDR}");
    let mut ranges: Vec<_> = ranges.split_whitespace().collect();
    ranges.dedup();
    assert_eq!(ranges.len(), 2, "every node has a pod range of its own: {ranges:?}");

    fleet.kubectl.with_input(&["apply", "-f", "-"], &manifest(6)).success();
    fleet.kubectl.run(&format!("apply -f {}", repository("samples/hello-http/service.yaml").display()));
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    assert_eq!(fleet.placed(), ["east", "east", "east", "west", "west", "west"]);

    // From either machine the Service reaches pods on both.
    let service = fleet.kubectl.run("get service hello-http -o jsonpath={.spec.clusterIP}");
    for name in ["east", "west"] {
        let service = format!("{service}:80");
        fleet.machines[name].run(move || {
            let mut pods = BTreeMap::new();
            eventually("answers of all six pods", || {
                for _ in 0..30 {
                    let (status, body) = http_get(&service, "/")?;
                    *pods.entry(body).or_insert(0) += i32::from(status == 200);
                }
                if pods.len() == 6 { Ok(()) } else { Err(format!("{pods:?}")) }
            });
        });
    }
    // The server reaches the nodes: logs come from the node that has the pod.
    for pod in fleet.kubectl.run("get pods -l app=hello-http -o name").lines() {
        assert!(fleet.kubectl.run(&format!("logs {pod} --tail=1")).starts_with("v1 200 /"));
    }

    let lost = Instant::now();
    fleet.nodes.get_mut("east").unwrap().kill();
    fleet
        .kubectl
        .run(&format!("wait --for=condition=Ready=Unknown node/east --timeout={}s", LOSS_PATIENCE.as_secs()));
    println!("the lost node was noticed after {:?}", lost.elapsed());
    loop {
        let placed = fleet.placed();
        if placed.iter().filter(|node| *node == "west").count() == 6 {
            break;
        }
        assert!(lost.elapsed() < LOSS_PATIENCE, "the pods did not move: {placed:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("its pods had moved after {:?}", lost.elapsed());
    let taints = fleet.kubectl.run("get node east -o jsonpath={.spec.taints[*].key}");
    assert!(taints.contains("node.kubernetes.io/unreachable"), "{taints}");
    let address = format!("{service}:80");
    fleet.machines["west"].run(move || {
        for _ in 0..30 {
            assert_eq!(http_get(&address, "/").unwrap().0, 200);
        }
    });

    // The node comes back under its old name, with its old credentials.
    fleet.join("east");
    fleet.kubectl.run("wait --for=condition=Ready node/east --timeout=60s");
    fleet.kubectl.run("rollout restart deployment/hello-http");
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    eventually("pods on both nodes again", || {
        let placed = fleet.placed();
        if placed == ["east", "east", "east", "west", "west", "west"] {
            Ok(())
        } else {
            Err(format!("{placed:?}"))
        }
    });
    assert!(fleet.server.running());
}

#[test]
fn workloads_go_on_while_the_server_is_away_and_nodes_find_it_again() {
    if !need_root("workloads_go_on_while_the_server_is_away_and_nodes_find_it_again") {
        return;
    }
    let mut fleet = Fleet::start();
    fleet.kubectl.with_input(&["apply", "-f", "-"], &manifest(4)).success();
    fleet.kubectl.run(&format!("apply -f {}", repository("samples/hello-http/service.yaml").display()));
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    let service = format!("{}:80", fleet.kubectl.run("get service hello-http -o jsonpath={.spec.clusterIP}"));
    let uids = "get pods -l app=hello-http -o jsonpath={.items[*].metadata.uid}";
    let before = fleet.kubectl.run(uids);
    let address = service.clone();
    fleet.machines["east"].run(move || eventually("an answer", || http_get(&address, "/")));

    fleet.server.kill();
    for name in ["east", "west"] {
        let address = service.clone();
        fleet.machines[name].run(move || {
            for _ in 0..40 {
                assert_eq!(http_get(&address, "/").unwrap().0, 200, "without a server");
            }
        });
    }
    fleet.server = serve(fleet.directory.path());
    for name in ["east", "west"] {
        fleet.kubectl.run(&format!("wait --for=condition=Ready node/{name} --timeout=60s"));
    }
    // The nodes' watches are back: a change goes through, and the pods that ran are the pods that run.
    assert_eq!(fleet.kubectl.run(uids), before, "pods were made anew");
    fleet.kubectl.run("scale deployment/hello-http --replicas=6");
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    assert_eq!(fleet.placed().len(), 6);
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_doubles() {
    if !need_root("a_node_that_was_cut_off_comes_back_without_doubles") {
        return;
    }
    let fleet = Fleet::start();
    fleet.kubectl.with_input(&["apply", "-f", "-"], &manifest(4)).success();
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    fleet.machines["west"].unplug();
    fleet
        .kubectl
        .run(&format!("wait --for=condition=Ready=Unknown node/west --timeout={}s", LOSS_PATIENCE.as_secs()));
    eventually("all pods on the other node", || {
        let placed = fleet.placed();
        if placed == ["east"; 4] { Ok(()) } else { Err(format!("{placed:?}")) }
    });
    fleet.machines["west"].plug_in();
    fleet.machines["west"].run(|| eventually("the network", || tcp_connect("10.99.0.1:6443")));
    fleet.kubectl.run("wait --for=condition=Ready node/west --timeout=60s");
    eventually("the old pods' end", || {
        let pods = fleet.kubectl.run("get pods -l app=hello-http -o name");
        if pods.lines().count() == 4 { Ok(()) } else { Err(pods) }
    });
    let taints = "get node west -o jsonpath={.spec.taints}";
    eventually("the taint's end", || {
        let taints = fleet.kubectl.run(taints);
        if taints.is_empty() { Ok(()) } else { Err(taints) }
    });
}

#[test]
fn a_wrong_token_is_refused_in_one_line() {
    if !need_root("a_wrong_token_is_refused_in_one_line") {
        return;
    }
    let fleet = Fleet::start();
    let token = std::fs::read_to_string(fleet.directory.path().join("server/node-token")).unwrap();
    let path = fleet.directory.path().to_owned();
    // A token of the right form with another secret, and one that names another CA.
    let wrong_secret = format!("{}0000", &token.trim()[..token.trim().len() - 4]);
    for token in [wrong_secret, "nonsense".to_owned()] {
        let data = path.join("stranger");
        let output = fleet.machines["east"].run(move || {
            coracle()
                .args([
                    "node",
                    "--server",
                    "https://10.99.0.1:6443",
                    "--node-name",
                    "stranger",
                    "--log-level",
                    "error",
                ])
                .args(["--token", &token, "--data-dir"])
                .arg(data)
                .output()
                .unwrap()
        });
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert!(!fleet.kubectl.run("get nodes -o name").contains("stranger"));
}
