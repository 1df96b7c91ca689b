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
        Fleet::start_with(&[])
    }

    /// With more flags for the server.
    fn start_with(arguments: &[&str]) -> Fleet {
        let mut network = Network::new();
        let directory = tempfile::Builder::new().prefix("coracle-test-fleet-").tempdir().unwrap();
        let path = directory.path();
        let server = serve(path, arguments);
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

fn serve(path: &Path, arguments: &[&str]) -> Process {
    let mut command = coracle();
    command.args(["server", "--listen", "10.99.0.1:6443", "--node-monitor-grace-period", GRACE]);
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(path.join("server"))
        .arg("--kubeconfig")
        .arg(path.join("kubeconfig"));
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
        let service = format!("{service}:8080");
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
    let address = format!("{service}:8080");
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
    let service =
        format!("{}:8080", fleet.kubectl.run("get service hello-http -o jsonpath={.spec.clusterIP}"));
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
    fleet.server = serve(fleet.directory.path(), &[]);
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

/// What `coracle node` says when it does not start, and that it says it in one line.
fn refusal(fleet: &Fleet, machine: &str, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    let output = fleet.machines[machine].run(move || coracle().arg("node").args(arguments).output().unwrap());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn what_a_node_has_joined_is_not_mixed_up() {
    if !need_root("what_a_node_has_joined_is_not_mixed_up") {
        return;
    }
    let mut fleet = Fleet::start();
    assert!(fleet.nodes.get_mut("east").unwrap().stop().success());
    let path = fleet.directory.path().to_owned();
    let data = path.join("east");
    let data = data.to_str().unwrap();
    let server = "https://10.99.0.1:6443";

    let as_other = refusal(&fleet, "east", &["--server", server, "--node-name", "other", "--data-dir", data]);
    assert!(as_other.contains("is of the node east, not of other"), "{as_other}");

    // Another cluster behind another port: its token is refused, and so is its certificate.
    let mut command = coracle();
    command.args(["server", "--listen", "10.99.0.1:7443", "--data-dir"]).arg(path.join("stranger"));
    let mut stranger = Process::start(command, &path.join("stranger.log"));
    stranger.line("API server ready", PATIENCE, |line| line.starts_with("API server ready"));
    let its_token = path.join("stranger/node-token");
    let its_token = its_token.to_str().unwrap();
    let here = ["--node-name", "east", "--data-dir", data];
    let with_token =
        refusal(&fleet, "east", &[&["--server", server, "--token", its_token][..], &here].concat());
    assert!(with_token.contains("another cluster than the one of the token"), "{with_token}");
    let fresh = path.join("fresh");
    let pinned = refusal(
        &fleet,
        "east",
        &[
            "--server",
            server,
            "--token",
            its_token,
            "--node-name",
            "fresh",
            "--data-dir",
            fresh.to_str().unwrap(),
        ],
    );
    assert!(pinned.contains("the server's CA is not the one that the token names"), "{pinned}");
    std::fs::remove_file(path.join("east/node/serving.crt")).unwrap();
    let by_certificate =
        refusal(&fleet, "east", &[&["--server", "https://10.99.0.1:7443"][..], &here].concat());
    assert!(
        by_certificate.contains("not signed by the CA of the cluster that this node has joined"),
        "{by_certificate}"
    );

    // Without a token, and before its server is there, the node that has joined comes back.
    assert!(fleet.server.stop().success());
    let returning = fleet.machines["east"].run({
        let path = path.clone();
        move || {
            let mut command = coracle();
            command.args([
                "node",
                "--server",
                server,
                "--node-name",
                "east",
                "--log-level",
                "info",
                "--data-dir",
            ]);
            Process::start(command_in(command, &path.join("east")), &path.join("returning.log"))
        }
    });
    eventually("its first attempt", || {
        if returning.log().contains("getting a serving certificate") { Ok(()) } else { Err(returning.log()) }
    });
    fleet.server = serve(&path, &[]);
    let mut returning = returning;
    returning.line("Node east ready", PATIENCE, |line| line == "Node east ready");
    fleet.kubectl.run("wait --for=condition=Ready node/east --timeout=60s");
    fleet.nodes.insert("east", returning);
}

fn command_in(mut command: std::process::Command, data: &Path) -> std::process::Command {
    command.arg(data);
    command
}

#[test]
fn certificates_are_renewed_while_the_nodes_stay_ready() {
    if !need_root("certificates_are_renewed_while_the_nodes_stay_ready") {
        return;
    }
    let fleet = Fleet::start_with(&["--cluster-signing-duration", "20s"]);
    fleet.kubectl.with_input(&["apply", "-f", "-"], &manifest(2)).success();
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    let mut watched = fleet.kubectl.start(&["get", "nodes", "--watch", "--no-headers"]);
    let path = fleet.directory.path().to_owned();
    let certificate = |file: &str| std::fs::read_to_string(path.join(file)).unwrap();
    let files =
        ["east/node/client.crt", "east/node/serving.crt", "west/node/client.crt", "west/node/serving.crt"];
    // Three generations: the second is asked for with a renewed one, and the first has expired by the third.
    for _ in 0..3 {
        let before = files.map(certificate);
        eventually("new certificates", || {
            let renewed = files.iter().zip(&before).all(|(file, old)| {
                std::fs::read_to_string(path.join(file)).is_ok_and(|new| !new.is_empty() && new != *old)
            });
            if renewed { Ok(()) } else { Err("not all are renewed".into()) }
        });
    }
    // The server reaches the nodes by their new serving certificates, the nodes the server by their client ones.
    for pod in fleet.kubectl.run("get pods -l app=hello-http -o name").lines() {
        fleet.kubectl.run(&format!("logs {pod}"));
    }
    fleet.kubectl.run("scale deployment/hello-http --replicas=4");
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    watched.signal(libc::SIGTERM);
    watched.wait(PATIENCE);
    let seen = watched.seen();
    assert!(seen.contains("Ready") && !seen.contains("NotReady"), "{seen}");
}

#[test]
fn a_node_writes_only_what_is_its_own() {
    if !need_root("a_node_writes_only_what_is_its_own") {
        return;
    }
    let fleet = Fleet::start();
    let kubectl = &fleet.kubectl;
    kubectl.run("create secret generic needed --from-literal=a=b");
    kubectl.run("create secret generic other --from-literal=a=b");
    let with_secret = manifest(2).replace(
        "    spec:\n",
        "    spec:\n      volumes:\n        - {name: needed, secret: {secretName: needed}}\n",
    );
    kubectl.with_input(&["apply", "-f", "-"], &with_secret).success();
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
    let pod_on = |node: &str| {
        kubectl.run(&format!("get pods -l app=hello-http --field-selector=spec.nodeName={node} -o jsonpath={{.items[0].metadata.name}}"))
    };
    let (own, foreign) = (pod_on("east"), pod_on("west"));
    let directory = fleet.directory.path().join("east/node");
    let credentials =
        ["certificate-authority=ca.crt", "client-certificate=client.crt", "client-key=client.key"];
    let credentials = credentials.map(|flag| {
        let (flag, file) = flag.split_once('=').unwrap();
        format!("--{flag}={}", directory.join(file).display())
    });
    // Nothing of the administrator's kubeconfig.
    let mut base = vec!["--kubeconfig=/dev/null", "--server=https://10.99.0.1:6443"];
    base.extend(credentials.iter().map(String::as_str));
    let as_node = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        kubectl.attempt(&[&base[..], &words].concat())
    };
    assert!(as_node("auth whoami").success().contains("system:node:east"));
    for allowed in [
        "get secret needed",
        "get node west",
        "get pods --field-selector=spec.nodeName=east",
        &format!("get pod {own}"),
        "label node east team=x",
        "get lease -n kube-node-lease east",
    ] {
        as_node(allowed).success();
    }
    for (refused, why) in [
        ("get secret other", "no relationship found between node 'east' and this object"),
        ("get secrets", "cannot list resource \"secrets\""),
        ("get pods", "can only list/watch pods with spec.nodeName field selector"),
        ("get pods --field-selector=spec.nodeName=west", "can only list/watch pods"),
        (&format!("get pod {foreign}"), "no relationship found"),
        (&format!("delete pod {foreign}"), "no relationship found"),
        ("label node west team=x", "cannot patch resource \"nodes\""),
        ("label node east node-role.kubernetes.io/master=", "is not allowed to modify labels"),
        ("taint node east a=b:NoSchedule", "is not allowed to modify taints"),
        ("delete node west", "cannot delete resource \"nodes\""),
        ("get lease -n kube-node-lease west", "cannot get resource \"leases\""),
        ("create token default", "node requested token not bound to a pod"),
        ("run x --image=y", "node \"east\" can only create mirror pods"),
    ] {
        let said = as_node(refused).failure();
        assert!(said.contains("forbidden") && said.contains(why), "{refused}: {said}");
    }
    let south = "apiVersion: v1\nkind: Node\nmetadata: {name: south}\n";
    let said = kubectl.with_input(&[&base[..], &["create", "-f", "-"]].concat(), south).failure();
    assert!(said.contains("node \"east\" is not allowed to modify node \"south\""), "{said}");
}

#[test]
fn node_ports_reach_pods_of_other_nodes() {
    if !need_root("node_ports_reach_pods_of_other_nodes") {
        return;
    }
    let fleet = Fleet::start();
    fleet.kubectl.with_input(&["apply", "-f", "-"], &manifest(2)).success();
    fleet.kubectl.run(&format!("apply -f {}", repository("samples/hello-http/service.yaml").display()));
    fleet.kubectl.run("patch service hello-http -p {\"spec\":{\"type\":\"NodePort\"}}");
    fleet.kubectl.run("rollout status deployment/hello-http --timeout=60s");
    let port = fleet.kubectl.run("get service hello-http -o jsonpath={.spec.ports[0].nodePort}");
    // From the machine itself, also by its loopback address, and from outside.
    let both = |address: String| {
        let mut pods = std::collections::BTreeSet::new();
        eventually(&address, || {
            for _ in 0..20 {
                let (status, body) = http_get(&address, "/")?;
                assert_eq!(status, 200);
                pods.insert(body);
            }
            if pods.len() == 2 { Ok(()) } else { Err(format!("{pods:?}")) }
        });
    };
    for address in ["127.0.0.1", "10.99.0.11"] {
        let address = format!("{address}:{port}");
        fleet.machines["east"].run(move || both(address));
    }
    both(format!("10.99.0.12:{port}"));
}

#[test]
fn data_stays_on_its_node_and_goes_when_the_node_is_back() {
    if !need_root("data_stays_on_its_node_and_goes_when_the_node_is_back") {
        return;
    }
    let mut fleet = Fleet::start();
    let storage = |selector: &str| {
        format!(
            "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: holder}}
spec:
  terminationGracePeriodSeconds: 1
  {selector}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
  containers:
    - name: main
      image: coracle.dev/samples/hello-http:v1
      volumeMounts: [{{name: data, mountPath: /data}}]
"
        )
    };
    let apply = |fleet: &Fleet, manifest: &str| {
        fleet.kubectl.with_input(&["apply", "-f", "-"], manifest).success();
    };
    apply(&fleet, &storage("nodeSelector: {kubernetes.io/hostname: east}"));
    fleet.kubectl.run("wait --for=condition=Ready pod/holder --timeout=60s");
    let disk = fleet.directory.path().join("east/local-path");
    let found = |disk: &Path| std::fs::read_dir(disk).unwrap().count();
    assert_eq!((found(&disk), found(&fleet.directory.path().join("west/local-path"))), (1, 0));
    let volume = fleet.kubectl.run("get pvc data -o jsonpath={.spec.volumeName}");
    // What a node may of a volume is to let it go when it is over.
    let directory = fleet.directory.path().join("west/node");
    let credentials =
        ["certificate-authority=ca.crt", "client-certificate=client.crt", "client-key=client.key"]
            .map(|flag| flag.split_once('=').unwrap())
            .map(|(flag, file)| format!("--{flag}={}", directory.join(file).display()));
    let mut as_west = vec!["--kubeconfig=/dev/null", "--server=https://10.99.0.1:6443"];
    as_west.extend(credentials.iter().map(String::as_str));
    let pv = format!("pv/{volume}");
    for words in [vec!["get", &pv], vec!["get", "pvc/data"], vec!["get", "pv"], vec!["label", &pv, "a=b"]] {
        let said = fleet.kubectl.attempt(&[&as_west[..], &words[..]].concat()).failure();
        assert!(said.contains("forbidden"), "{words:?}: {said}");
    }

    // The pod may go anywhere, its data is in the east.
    fleet.kubectl.run("delete pod holder --timeout=60s");
    apply(&fleet, &storage(""));
    fleet.kubectl.run("wait --for=condition=Ready pod/holder --timeout=60s");
    assert_eq!(fleet.kubectl.run("get pod holder -o jsonpath={.spec.nodeName}"), "east");

    // Deleted while its node is away, it waits for it; then its data goes.
    assert!(fleet.nodes.get_mut("east").unwrap().stop().success());
    fleet.kubectl.run("delete pod holder --force --grace-period=0");
    fleet.kubectl.run("delete pvc data --timeout=60s");
    fleet
        .kubectl
        .run(&format!("wait --for=jsonpath={{.metadata.deletionTimestamp}} pv/{volume} --timeout=60s"));
    assert_eq!(found(&disk), 1);
    fleet.join("east");
    fleet.kubectl.run(&format!("wait --for=delete pv/{volume} --timeout=60s"));
    assert_eq!(found(&disk), 0);
}
