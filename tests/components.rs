//! The components as single processes against an apiserver of their own, each with a kubeconfig.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::path::Path;

use harness::{
    Kubectl, Namespace, PATIENCE, Process, coracle, eventually, http_get, need_root, repository, run,
};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};

#[test]
fn components_work_alone() {
    if !need_root("components_work_alone") {
        return;
    }
    let _namespace = Namespace::enter();
    let directory = tempfile::Builder::new().prefix("coracle-test-components-").tempdir().unwrap();
    let path = directory.path();
    let (data, node) = (path.join("api"), path.join("node"));
    let start = |name: &str, arguments: &[&str]| {
        let mut command = coracle();
        command.arg(name).args(arguments);
        Process::start(command, &path.join(format!("{name}.log")))
    };
    let mut apiserver = start("apiserver", &["--data-dir", text(&data)]);
    apiserver.line("API server ready", PATIENCE, |line| line.starts_with("API server ready"));
    let kubeconfig = data.join("kubeconfig");
    let kubeconfig = ["--kubeconfig", text(&kubeconfig)];
    let (ca, ca_key) = (data.join("pki/ca.crt"), data.join("pki/ca.key"));
    let signing = ["--cluster-signing-cert-file", text(&ca), "--cluster-signing-key-file", text(&ca_key)];
    serving_certificate(&ca, &ca_key, path);
    let (certificate, key) = (path.join("node.crt"), path.join("node.key"));

    let mut scheduler = start("scheduler", &kubeconfig);
    let mut controllers =
        start("controllers", &[&kubeconfig[..], &["--cluster-cidr", "10.244.0.0/16"], &signing].concat());
    let pool = ["--load-balancer-pool", "192.0.2.200"];
    let mut cloud = start("cloud-controller-manager", &[&kubeconfig[..], &pool].concat());
    let imported = coracle()
        .args(["image", "import", "--tag", "coracle.dev/samples/hello-http:v1", "--data-dir", text(&node)])
        .arg(repository("samples/hello-http/hello-http.wasm"))
        .output()
        .unwrap();
    assert!(imported.status.success());
    let own = ["--node-name", "solo", "--data-dir", text(&node)];
    let tls = [
        "--tls-cert-file",
        text(&certificate),
        "--tls-private-key-file",
        text(&key),
        "--client-ca-file",
        text(&ca),
    ];
    let mut wasmlet = start("wasmlet", &[&kubeconfig[..], &own, &tls].concat());
    let mut proxy = start("proxy", &[&kubeconfig[..], &["--node-name", "solo"]].concat());
    wasmlet.line("Node solo ready", PATIENCE, |line| line == "Node solo ready");

    let kubectl = Kubectl::new(33, &data.join("kubeconfig"), path);
    kubectl.run(&format!("apply -f {}", repository("samples/hello-http").display()));
    kubectl.run("rollout status deployment/hello-http --timeout=60s");
    let service = format!("{}:8080", kubectl.run("get service hello-http -o jsonpath={.spec.clusterIP}"));
    assert_eq!(eventually("an answer", || http_get(&service, "/")).0, 200);
    kubectl.run("logs deployment/hello-http --tail=1");
    let leases = kubectl.run("get leases -n kube-system -o name");
    assert!(leases.contains("kube-scheduler") && leases.contains("kube-controller-manager"), "{leases}");
    kubectl.run("patch service hello-http -p {\"spec\":{\"type\":\"LoadBalancer\"}}");
    assert_eq!(eventually("an answer by the load balancer", || http_get("192.0.2.200:8080", "/")).0, 200);
    assert!(kubectl.run("get leases -n kube-system -o name").contains("cloud-controller-manager"));

    // What each alone counts is served to those who may read it.
    let client = [("--cert", data.join("pki/admin.crt")), ("--key", data.join("pki/admin.key"))];
    let client: Vec<&str> = client.iter().flat_map(|(flag, path)| [*flag, text(path)]).collect();
    for (port, metrics) in [
        (10259, &["scheduler_schedule_attempts_total{", "scheduler_pending_pods{queue=\"active\"} 0"][..]),
        (
            10257,
            &[
                "workqueue_adds_total{name=\"deployment\"}",
                "node_collector_zone_size{",
                "rest_client_requests_total{",
            ][..],
        ),
    ] {
        let address = format!("https://127.0.0.1:{port}");
        let metrics_path = format!("{address}/metrics");
        let told = run("curl", &[&["-sk", metrics_path.as_str()], &client[..]].concat());
        for wanted in metrics.iter().chain(&["leader_election_master_status{"]) {
            assert!(told.contains(wanted), "{wanted} in {told}");
        }
        let refused = run("curl", &["-sk", "-o", "/dev/null", "-w", "%{http_code}", metrics_path.as_str()]);
        assert_eq!(refused, "401");
        assert_eq!(run("curl", &["-sk", &format!("{address}/healthz")]), "ok");
    }

    // The proxy may be away: its rules serve on, and a new one takes them over.
    assert!(proxy.stop().success());
    assert_eq!(http_get(&service, "/").unwrap().0, 200);
    let mut proxy = start("proxy", &[&kubeconfig[..], &["--node-name", "solo"]].concat());
    kubectl.run("expose deployment hello-http --name=second --port=81 --target-port=8080");
    let second = format!("{}:81", kubectl.run("get service second -o jsonpath={.spec.clusterIP}"));
    assert_eq!(eventually("an answer by the new one", || http_get(&second, "/")).0, 200);
    assert_eq!(http_get(&service, "/").unwrap().0, 200);
    for process in [&mut proxy, &mut wasmlet, &mut cloud, &mut controllers, &mut scheduler, &mut apiserver] {
        assert!(process.stop().success());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What an administrator would make by hand: a certificate for the wasmlet, signed by the cluster's CA.
fn serving_certificate(ca: &Path, ca_key: &Path, directory: &Path) {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let authority = Issuer::from_ca_cert_pem(&read(ca), KeyPair::from_pem(&read(ca_key)).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:solo");
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::write(directory.join("node.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("node.key"), key.serialize_pem()).unwrap();
}
