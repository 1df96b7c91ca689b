//! A cluster of two address families: pods and Services have an address of each, and both lead there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use harness::{Cluster, ClusterOptions, Namespace, coracle, echo, eventually, http_get, need_root, run};

/// Of the machine, beside its IPv4 one.
const MACHINE_ADDRESS_6: &str = "2001:db8::10";

fn start() -> Cluster {
    run("ip", &["-6", "address", "add", &format!("{MACHINE_ADDRESS_6}/64"), "dev", "eth0", "nodad"]);
    let networks = "--pod-cidr 10.42.0.0/16,fd00:42::/56 --service-cidr 10.43.0.0/16,fd00:43::/112";
    let cluster = Cluster::start_with(ClusterOptions {
        rootful: true,
        arguments: networks.split(' ').map(str::to_owned).collect(),
        ..ClusterOptions::default()
    });
    cluster.import_samples();
    cluster.import("../wasmlet/src/runtime/wasm/tests/guests/netprobe.wasm", "netprobe:v1");
    cluster
}

const WORKLOADS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
    - name: main
      image: coracle.dev/samples/hello-http:v1
      ports: [{containerPort: 8080}]
      # It says this in its answers.
      env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
      readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  containers:
    - name: main
      image: coracle.dev/samples/tcp-echo:v1
      ports: [{containerPort: 7000, hostPort: 7100}]
      readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: echo}, ports: [{port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec: {ipFamilies: [IPv6], selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: echo}, ports: [{port: 7000}]}
";

/// A list in a field, by JSONPath; IPv4 is first, as the flags have it.
fn both(cluster: &Cluster, object: &str, path: &str) -> [String; 2] {
    let listed = cluster.field(object, path);
    let all: Vec<String> = listed.split_whitespace().map(str::to_owned).collect();
    let [four, six]: [String; 2] = all.try_into().unwrap_or_else(|_| panic!("{object} {path}: «{listed}»"));
    assert!(!four.contains(':') && six.contains(':'), "{object} {path}: «{listed}»");
    [four, six]
}

fn probes(cluster: &Cluster, all: &[(&[&str], &str)]) {
    let pod = |number: usize| format!("probe-{number}");
    for (number, (arguments, _)) in all.iter().enumerate() {
        let name = pod(number);
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: 'coracle.dev/samples/netprobe:v1', args: {arguments:?}}}]}}}}"
        ));
    }
    for (number, (arguments, want)) in all.iter().enumerate() {
        let name = pod(number);
        cluster.kubectl(&format!("wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"));
        let said = cluster.kubectl(&format!("logs {name}"));
        assert!(said.trim_end().contains(want), "{arguments:?}: «{said}», not «{want}»");
    }
}

/// The bytes of the last record that cluster DNS answers with.
fn ask(server: &str, name: &str, kind: u8) -> Vec<u8> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, kind, 0, 1]);
    eventually("an answer of cluster DNS", || {
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(|e| e.to_string())?;
        let mut answer = [0; 512];
        socket.send_to(&question, (server, 53)).map_err(|e| e.to_string())?;
        let length = socket.recv(&mut answer).map_err(|e| e.to_string())?;
        let (code, count) = (answer[3] & 0xf, answer[7]);
        if code == 0 && count > 0 { Ok(answer[..length].to_vec()) } else { Err(format!("code {code}")) }
    })
}

fn aaaa(server: &str, name: &str) -> String {
    let answer = ask(server, name, 28);
    let bytes: [u8; 16] = answer[answer.len() - 16..].try_into().unwrap();
    Ipv6Addr::from(bytes).to_string()
}

/// The name under ip6.arpa.
fn reversed(ip: &str) -> String {
    let bits = ip.parse::<Ipv6Addr>().unwrap().to_bits();
    (0..32).map(|n| format!("{:x}.", bits >> (4 * n) & 0xf)).collect::<String>() + "ip6.arpa"
}

#[test]
fn pods_and_services_answer_at_both_of_their_addresses() {
    if !need_root("pods_and_services_answer_at_both_of_their_addresses") {
        return;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("NOT RUN: this kernel has no IPv6");
        return;
    }
    let _namespace = Namespace::enter();
    let mut cluster = start();
    cluster.apply(WORKLOADS);
    for name in ["web", "echo"] {
        cluster.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=60s"));
    }
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let ranges = both(&cluster, &format!("node/{node}"), ".spec.podCIDRs[*]");
    assert!(ranges[0].ends_with("/18") && ranges[1].ends_with("/64"), "{ranges:?}");

    // Pods.
    let [web, echoing] =
        ["web", "echo"].map(|name| both(&cluster, &format!("pod/{name}"), ".status.podIPs[*].ip"));
    assert_eq!(cluster.field("pod/web", ".status.podIP"), web[0]);
    let at = |ip: &str, port: u16| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port).to_string();
    for ip in &web {
        let (status, body) = http_get(&at(ip, 8080), "/").unwrap();
        assert_eq!(
            (status, body.trim_end().ends_with(&format!("pod={}", web.join(",")))),
            (200, true),
            "{body}"
        );
    }
    for ip in &echoing {
        echo(&at(ip, 7000), b"hello").unwrap();
    }
    for address in ["127.0.0.1:7100".to_owned(), at("::1", 7100), at(MACHINE_ADDRESS_6, 7100)] {
        eventually("an echo by the hostPort", || echo(&address, b"hello"));
    }

    // Services: both addresses, slices of both families, the kernel's way.
    let [web_service, echo_service] =
        ["web", "echo"].map(|name| both(&cluster, &format!("service/{name}"), ".spec.clusterIPs[*]"));
    let kinds = eventually("slices of both families", || {
        let kinds = cluster.kubectl(
            "get endpointslices -l kubernetes.io/service-name=web -o jsonpath={.items[*].addressType}",
        );
        let mut kinds: Vec<String> = kinds.split_whitespace().map(str::to_owned).collect();
        kinds.sort();
        if kinds.len() == 2 { Ok(kinds) } else { Err(format!("{kinds:?}")) }
    });
    assert_eq!(kinds, ["IPv4", "IPv6"]);
    let six = cluster.field("service/six", ".spec.clusterIPs[*]");
    for ip in [&web_service[0], &web_service[1], &six] {
        let answer = eventually("an answer of the Service", || http_get(&at(ip, 8080), "/healthz"));
        assert_eq!(answer.0, 200, "{ip}");
    }
    for ip in &echo_service {
        eventually("an echo of the Service", || echo(&at(ip, 7000), b"hello"));
    }
    let node_port: u16 = cluster.field("service/web", ".spec.ports[0].nodePort").parse().unwrap();
    for ip in ["127.0.0.1", "::1", MACHINE_ADDRESS_6] {
        let answer = eventually("an answer by the node port", || http_get(&at(ip, node_port), "/healthz"));
        assert_eq!(answer.0, 200, "{ip}");
    }

    // Names, for others and for guests.
    let dns = cluster.kubectl("get service kube-dns -n kube-system -o jsonpath={.spec.clusterIP}");
    assert_eq!(aaaa(&dns, "web.default.svc.cluster.local"), web_service[1]);
    assert_eq!(aaaa(&dns, "headless.default.svc.cluster.local"), echoing[1]);
    let name = String::from_utf8_lossy(&ask(&dns, &reversed(&web_service[1]), 12)).into_owned();
    assert!(name.contains("web") && name.contains("cluster"), "{name:?}");
    let node_port = node_port.to_string();
    probes(
        &cluster,
        &[
            (&["resolve", "web"], &web_service.join(" ")),
            (&["resolve", "six"], &six),
            (&["resolve", "headless"], &echoing.join(" ")),
            // Its own name.
            (&["resolve", "probe-3"], "fd00:42:"),
            // From its own address, balanced in process; the peer that it sees is the Service.
            (&["connect", &echo_service[1], "7000"], &format!("-> [{}]:7000 hello", echo_service[1])),
            (&["connect", &echo_service[1], "7000"], "[fd00:42:"),
            (&["connect", &echoing[1], "7000"], "hello"),
            (&["http", "six:8080"], "404 no such page: /hello"),
            (&["http", &at(&web_service[1], 8080)], "404 no such page: /hello"),
            (&["loopback6", "", "9000"], "accepted on 9000"),
            // What no pod may reach in IPv4, it may not in IPv6.
            (&["connect", MACHINE_ADDRESS_6, "10250"], "error access-denied"),
            (&["http", &format!("[{MACHINE_ADDRESS_6}]:{node_port}")], "404 no such page: /hello"),
            (&["connect", "fd00:ec2::254", "80"], "error access-denied"),
            (&["http", "[::ffff:169.254.169.254]"], "DestinationIpProhibited"),
        ],
    );

    // Addresses stay with their pods over a restart, and nothing stays behind at the end.
    cluster.restart();
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");
    assert_eq!(both(&cluster, "pod/web", ".status.podIPs[*].ip"), web);
    assert!(cluster.process().stop().success());
    for words in [&["-6", "route", "show", "table", "local"][..], &["-6", "rule"]] {
        let left = run("ip", words);
        assert!(!left.contains("fd00:4") && !left.contains("fd7f:c0ac"), "{left}");
    }
    assert!(run("nft", &["list", "tables"]).is_empty());
}

#[test]
fn two_ranges_must_go_together() {
    for (arguments, why) in [
        ("--rootless --pod-cidr 127.20.0.0/16,fd00:42::/56", "rootless pods have no IPv6 addresses"),
        ("--pod-cidr 10.42.0.0/16,10.43.0.0/16", "the second range: give an IPv6 network"),
        ("--pod-cidr 10.43.0.0/16 --service-cidr 10.43.0.0/24", "overlap"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut command: Command = coracle();
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.path());
        let output = command.args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{arguments}: {said}");
    }
}
