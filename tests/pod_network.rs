//! A pod's network as its guest sees it: names, Services, ports of the node, and what is not to be reached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use harness::{Cluster, MACHINE_ADDRESS, Namespace, echo, eventually, http_get, need_root};

const PROBE: &str = "../wasmlet/src/runtime/wasm/tests/guests/netprobe.wasm";

fn start(cluster: &Cluster) {
    cluster.import_samples();
    cluster.import(PROBE, "netprobe:v1");
    cluster.apply_sample("hello-http");
    cluster.apply_sample("tcp-echo");
    for name in ["hello-http", "tcp-echo"] {
        cluster.kubectl(&format!("rollout status deployment/{name} --timeout=60s"));
    }
}

/// A pod that tries one thing on the network; what it said of it.
fn probe(cluster: &Cluster, name: &str, annotations: &str, spec: &str, arguments: &[&str]) -> String {
    pod(cluster, name, annotations, spec, arguments);
    cluster.kubectl(&format!("wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"));
    cluster.kubectl(&format!("logs {name}")).trim_end().to_owned()
}

fn pod(cluster: &Cluster, name: &str, annotations: &str, spec: &str, arguments: &[&str]) {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec:
  restartPolicy: Never
  {spec}
  containers:
    - {{name: main, image: coracle.dev/samples/netprobe:v1, args: {arguments:?}}}
"
    ));
}

/// Asks many things in pods of their own, side by side.
fn probes(cluster: &Cluster, prefix: &str, annotations: &str, all: &[(&[&str], &str)]) {
    for (number, (arguments, _)) in all.iter().enumerate() {
        pod(cluster, &format!("{prefix}-{number}"), annotations, "", arguments);
    }
    for (number, (arguments, want)) in all.iter().enumerate() {
        let name = format!("{prefix}-{number}");
        cluster.kubectl(&format!("wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"));
        let said = cluster.kubectl(&format!("logs {name}"));
        assert!(said.trim_end().contains(want), "{arguments:?}: «{said}», not «{want}»");
    }
}

/// The first address in the answer of a DNS server, asked as a container would; None: there is no such name.
fn ask(server: &str, name: &str) -> Option<String> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    eventually("an answer of cluster DNS", || {
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(|e| e.to_string())?;
        // A process that may not have port 53 serves at 1053.
        for port in [53, 1053] {
            let mut answer = [0; 512];
            socket.send_to(&question, (server, port)).map_err(|e| e.to_string())?;
            let Ok(length) = socket.recv(&mut answer) else { continue };
            let answer = &answer[..length];
            return match answer[3] & 0xf {
                0 => {
                    let address: [u8; 4] = answer[length - 4..].try_into().unwrap();
                    Ok(Some(IpAddr::from(address).to_string()))
                }
                3 => Ok(None),
                code => Err(format!("code {code}")),
            };
        }
        Err("no answer".to_owned())
    })
}

#[test]
fn names_and_services_of_guests() {
    let cluster = Cluster::start();
    start(&cluster);
    names_and_services(&cluster);
}

fn names_and_services(cluster: &Cluster) {
    let address = |service: &str| cluster.field(&format!("service/{service}"), ".spec.clusterIP");
    let (hello, echo, api) = (address("hello-http"), address("tcp-echo"), address("kubernetes"));
    cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: all}, spec: {clusterIP: None, selector: {app: tcp-echo}, ports: [{port: 7000}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {type: ExternalName, externalName: hello-http.default.svc.cluster.local}}
",
    );
    let empty = address("empty");
    let echo_pod = cluster.kubectl("get pods -l app=tcp-echo -o jsonpath={.items[0].status.podIP}");
    let dns = cluster.kubectl("get service kube-dns -n kube-system -o jsonpath={.spec.clusterIP}");
    assert_eq!(ask(&dns, "hello-http.default.svc.cluster.local").as_deref(), Some(hello.as_str()));
    assert_eq!(ask(&dns, "hello-http.other.svc.cluster.local"), None);
    eventually("the headless Service's name", || match ask(&dns, "all.default.svc.cluster.local") {
        Some(found) if found == echo_pod => Ok(()),
        other => Err(format!("{other:?}")),
    });
    probes(
        cluster,
        "free",
        "",
        &[
            (&["resolve", "hello-http"], &hello),
            (&["resolve", "hello-http.default"], &hello),
            (&["resolve", "other.default.svc.cluster.local."], &hello),
            (&["resolve", "kubernetes.default.svc"], &api),
            (&["resolve", "all"], &echo_pod),
            // Its own name.
            (&["resolve", "free-5"], "."),
            (&["resolve", "nope.default.svc.cluster.local."], "error name-unresolvable"),
            (&["http", "hello-http:8080"], "404 no such page: /hello"),
            // The peer that a guest sees is the Service; the answer comes from its endpoint.
            (&["connect", &echo, "7000"], &format!("-> {echo}:7000 hello")),
            (&["connect", &echo_pod, "7000"], &format!("-> {echo_pod}:7000 hello")),
            (&["connect", &empty, "80"], "error connection-refused"),
            (&["connect", &api, "443"], &format!("-> {api}:443")),
            (&["http", &format!("{empty}:80")], "ConnectionRefused"),
            // Nobody listens on the pod's own loopback, whoever does on the node's.
            (&["connect", "127.0.0.1", port_of(cluster.server())], "error connection-refused"),
            (&["connect", "169.254.169.254", "80"], "error access-denied"),
        ],
    );
    // An allow-list holds for names, addresses and requests alike.
    let list = "coracle.dev/allowed-outbound-hosts: 'http://hello-http:8080, tcp://tcp-echo:7000'";
    probes(
        cluster,
        "bound",
        list,
        &[
            (&["http", "hello-http:8080"], "404 no such page: /hello"),
            (&["http", "hello-http:8081"], "HttpRequestDenied"),
            (&["http", &format!("{hello}:8080")], "HttpRequestDenied"),
            (&["resolve", "tcp-echo"], &echo),
            (&["resolve", "kubernetes.default"], "error access-denied"),
            (&["connect", &echo, "7000"], "error access-denied"),
            (&["connect", "127.0.0.1", "9"], "error connection-refused"),
        ],
    );
    let networks = format!("coracle.dev/allowed-outbound-hosts: 'tcp://{echo}/32:7000'");
    assert!(probe(cluster, "network", &networks, "", &["connect", &echo, "7000"]).ends_with("hello"));
    pod(cluster, "bad", "coracle.dev/allowed-outbound-hosts: 'gopher://x:70'", "", &["resolve", "x"]);
    eventually("the bad annotation's name in the status", || {
        let message = cluster.field("pod/bad", ".status.containerStatuses[0].state.waiting.message");
        if message.contains("coracle.dev/allowed-outbound-hosts") { Ok(()) } else { Err(message) }
    });
    let hosts = "hostAliases: [{ip: 192.0.2.77, hostnames: [far.example]}]";
    assert_eq!(probe(cluster, "aliases", "", hosts, &["resolve", "far.example"]), "192.0.2.77");
    let none = "dnsPolicy: None\n  dnsConfig: {nameservers: [127.255.255.1], options: [{name: timeout, value: '1'}, {name: attempts, value: '1'}]}";
    let said = probe(cluster, "nameless", "", none, &["resolve", "hello-http.default.svc.cluster.local"]);
    assert_eq!(said, "error temporary-resolver-failure");
}

fn port_of(server: &str) -> &str {
    server.rsplit(':').next().unwrap()
}

#[test]
fn ports_of_the_node() {
    if !need_root("ports_of_the_node") {
        return;
    }
    let namespace = Namespace::enter();
    let cluster = Cluster::start_in(&namespace);
    start(&cluster);
    names_and_services(&cluster);
    let echo_pod = |name: &str, more: &str, port: u16| {
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {more}
  containers:
    - name: main
      image: coracle.dev/samples/tcp-echo:v1
      env: [{{name: PORT, value: '{port}'}}]
      ports: [{{containerPort: {port}, hostPort: 7100}}]
"
        ));
    };
    echo_pod("by-port", "", 7000);
    cluster.kubectl("wait --for=condition=Ready pod/by-port --timeout=60s");
    for address in [MACHINE_ADDRESS, "127.0.0.1"] {
        eventually("an echo", || echo(&format!("{address}:7100"), b"hello"));
    }
    // A second pod that wants the port finds no node, and is told why.
    echo_pod("late", "", 7000);
    eventually("the conflict's name", || {
        let message = cluster.field("pod/late", ".status.conditions[?(@.type=='PodScheduled')].message");
        if message.contains("didn't have free ports for the requested pod ports") {
            Ok(())
        } else {
            Err(message)
        }
    });
    cluster.kubectl("delete pod by-port late --wait=true");
    // On the node's network.
    echo_pod("on-node", "hostNetwork: true", 7100);
    cluster.kubectl("wait --for=condition=Ready pod/on-node --timeout=60s");
    assert_eq!(cluster.field("pod/on-node", ".status.podIP"), cluster.field("pod/on-node", ".status.hostIP"));
    let address = cluster.field("pod/on-node", ".status.podIP");
    eventually("an echo", || echo(&format!("{address}:7100"), b"hello"));
    // The node's own ports, and a Service's.
    cluster.kubectl("expose deployment hello-http --name outside --type NodePort --port 8080");
    let node_port = cluster.field("service/outside", ".spec.ports[0].nodePort");
    probes(
        &cluster,
        "node",
        "",
        &[
            (&["connect", MACHINE_ADDRESS, "10250"], "error access-denied"),
            (&["http", &format!("{MACHINE_ADDRESS}:{node_port}")], "404 no such page: /hello"),
            (&["connect", "10.244.0.1", "10250"], "error "),
        ],
    );
    // An http component at a port of the node.
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: main
      image: coracle.dev/samples/hello-http:v1
      ports: [{containerPort: 8080, hostPort: 7200}]
",
    );
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");
    let (status, _) = eventually("an answer", || http_get(&format!("{MACHINE_ADDRESS}:7200"), "/"));
    assert_eq!(status, 200);
}
