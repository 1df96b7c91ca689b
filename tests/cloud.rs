//! The cloud controllers: load balancers on the nodes themselves, from a pool and without one, and a cloud elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use harness::{Cluster, ClusterOptions, FakeCloud, Machine, Network, eventually, http_get, need_root, run};

fn arguments(words: &[&str]) -> ClusterOptions {
    ClusterOptions { arguments: words.iter().map(|w| (*w).to_owned()).collect(), ..ClusterOptions::default() }
}

fn answers(address: &str) -> String {
    eventually(address, || match http_get(address, "/") {
        Ok((200, body)) => Ok(body),
        Ok((status, body)) => Err(format!("{status}: {body}")),
        Err(error) => Err(error),
    })
}

fn address(cluster: &Cluster, service: &str) -> String {
    eventually(&format!("an address of {service}"), || {
        let found = cluster.field(&format!("service/{service}"), ".status.loadBalancer.ingress[0].ip");
        if found.is_empty() { Err("pending".to_owned()) } else { Ok(found) }
    })
}

fn event(cluster: &Cluster, service: &str, reason: &str, words: &str) {
    eventually(&format!("an Event {reason} with {words:?}"), || {
        let said = cluster.kubectl(&format!(
            "get events --field-selector involvedObject.name={service},reason={reason} -o jsonpath={{.items[*].message}}"
        ));
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
}

fn gone(cluster: &Cluster, object: &str) {
    eventually(&format!("no {object}"), || {
        let found = cluster.kubectl(&format!("get {object} --ignore-not-found -o name"));
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

/// A cluster on a machine of its own, as seen from a neighbour.
struct Site {
    cluster: Arc<Mutex<Cluster>>,
    machine: Machine,
}

impl Site {
    /// Runs something on the cluster's machine.
    fn inside<T: Send + 'static>(&self, job: impl FnOnce(&Cluster) -> T + Send + 'static) -> T {
        let cluster = self.cluster.clone();
        self.machine.run(move || job(&cluster.lock().unwrap()))
    }
}

/// A neighbour on the network reaches Services by addresses of the pool, which the node answers for.
#[test]
fn a_pools_addresses_are_announced_given_out_and_taken_back() {
    if !need_root("a_pools_addresses_are_announced_given_out_and_taken_back") {
        return;
    }
    let mut network = Network::new();
    let machine = network.machine();
    let cluster = machine.run(|| {
        let pool = ["--load-balancer-pool", "10.99.0.100-10.99.0.101"];
        let cluster = Cluster::start_with(ClusterOptions { rootful: true, ..arguments(&pool) });
        cluster.import_samples();
        cluster.apply_sample("hello-http");
        cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
        Arc::new(Mutex::new(cluster))
    });
    let site = Site { cluster, machine };
    let first = site.inside(|cluster| {
        cluster.kubectl("patch service hello-http -p {\"spec\":{\"type\":\"LoadBalancer\"}}");
        address(cluster, "hello-http")
    });
    assert_eq!(first, "10.99.0.100");
    // From the neighbour, and from the node itself.
    let outside = answers("10.99.0.100:8080");
    assert!(outside.contains("version=v1"), "{outside}");
    site.inside(|_| answers("10.99.0.100:8080"));

    site.inside(|cluster| {
        event(cluster, "hello-http", "EnsuredLoadBalancer", "Ensured load balancer");
        assert_eq!(cluster.field("service/hello-http", ".status.loadBalancer.ingress[0].ipMode"), "VIP");
        let expose = |name: &str| {
            cluster.kubectl(&format!(
                "expose deployment hello-http --name={name} --type=LoadBalancer --port=80 --target-port=8080"
            ))
        };
        expose("second");
        assert_eq!(address(cluster, "second"), "10.99.0.101");
        expose("third");
        let words = "no free address in the load balancer pool 10.99.0.100-10.99.0.101";
        event(cluster, "third", "SyncLoadBalancerFailed", words);
        cluster.kubectl("delete service hello-http");
        assert_eq!(address(cluster, "third"), "10.99.0.100");
    });
    answers("10.99.0.100:80");
    answers("10.99.0.101:80");
    eventually("the first Service is gone", || match harness::tcp_connect("10.99.0.100:8080") {
        Err(_) => Ok(()),
        Ok(_) => Err("it still accepts".to_owned()),
    });

    // Only clients of the ranges are let in.
    let ranges = |range: &'static str| {
        site.inside(move |cluster| {
            cluster.kubectl(&format!(
                "patch service third -p {{\"spec\":{{\"loadBalancerSourceRanges\":[\"{range}\"]}}}}"
            ))
        })
    };
    ranges("192.0.2.0/24");
    eventually("the neighbour is kept out", || match harness::tcp_connect("10.99.0.100:80") {
        Err(_) => Ok(()),
        Ok(_) => Err("it is let in".to_owned()),
    });
    ranges("10.99.0.0/24");
    answers("10.99.0.100:80");

    // With the policy Local, health is told on a port of its own.
    let health = site.inside(|cluster| {
        cluster.kubectl("patch service third -p {\"spec\":{\"externalTrafficPolicy\":\"Local\"}}");
        cluster.field("service/third", ".spec.healthCheckNodePort")
    });
    answers("10.99.0.100:80");
    let health = format!("{}:{health}", site.machine.address);
    let body = answers(&health);
    assert!(body.contains("\"localEndpoints\":2"), "{body}");
    site.inside(|cluster| cluster.kubectl("scale deployment/hello-http --replicas=0"));
    eventually("an unhealthy node", || match http_get(&health, "/") {
        Ok((503, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Nothing is announced any more once nobody wants it.
    site.inside(|cluster| {
        cluster.kubectl("delete service second third");
        eventually("no address left behind", || {
            let routes = run("ip", &["route", "show", "table", "local", "proto", "70"]);
            if routes.trim().is_empty() { Ok(()) } else { Err(routes) }
        });
        // Cluster DNS is not theirs to take.
        assert!(!run("ip", &["route", "show", "table", "local", "proto", "68"]).is_empty());
    });
}

#[test]
fn without_a_pool_and_privileges_services_are_on_the_nodes_address() {
    let cluster = Cluster::start_with_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let expose = |name: &str| {
        cluster.kubectl(&format!(
            "expose deployment hello-http --name={name} --type=LoadBalancer --port={port} --target-port=8080"
        ))
    };
    expose("one");
    assert_eq!(address(&cluster, "one"), "127.0.0.1");
    answers(&format!("127.0.0.1:{port}"));
    expose("two");
    let words = format!("port {port}/TCP of the nodes is in use by Service default/one");
    event(&cluster, "two", "SyncLoadBalancerFailed", &words);
    cluster.kubectl("delete service one");
    assert_eq!(address(&cluster, "two"), "127.0.0.1");
    answers(&format!("127.0.0.1:{port}"));
    // Somebody else's class is somebody else's business.
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {type: LoadBalancer, loadBalancerClass: example.com/x, ports: [{port: 80}]}\n",
    );
    cluster.kubectl("patch service two -p {\"spec\":{\"type\":\"ClusterIP\"}}");
    eventually("two gave it up", || {
        let left = cluster.field("service/two", ".status.loadBalancer.ingress");
        let finalizers = cluster.field("service/two", ".metadata.finalizers");
        if left.is_empty() && finalizers.is_empty() { Ok(()) } else { Err(format!("{left} {finalizers}")) }
    });
    assert_eq!(cluster.field("service/other", ".metadata.finalizers"), "");
}

#[test]
fn a_cloud_elsewhere_is_asked_for_machines_balancers_routes_and_volumes() {
    let cloud = FakeCloud::start("secret");
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret\n").unwrap();
    let cluster = Cluster::start_with(arguments(&[
        "--cloud-provider",
        "external",
        "--cloud-provider-url",
        &cloud.url,
        "--cloud-provider-token-file",
        token.path().to_str().unwrap(),
    ]));
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let taints = |node: &str| cluster.field(&format!("node/{node}"), ".spec.taints[*].key");
    assert!(taints(&node).contains("node.cloudprovider.kubernetes.io/uninitialized"));

    // The node is let in when its machine is there.
    cloud.machine(&node, 1);
    eventually("the node is let in", || {
        let left = taints(&node);
        if left.contains("uninitialized") { Err(left) } else { Ok(()) }
    });
    for (path, want) in [
        (".spec.providerID", "fake://machine-1"),
        (".metadata.labels.topology\\.kubernetes\\.io/zone", "zone-1"),
        (".metadata.labels.node\\.kubernetes\\.io/instance-type", "small"),
    ] {
        assert_eq!(cluster.field(&format!("node/{node}"), path), want, "{path}");
    }

    // Its pods are behind a route, and the node says so.
    eventually("a route", || {
        let routes: Vec<String> = cloud.state().routes.values().map(|r| r["node"].to_string()).collect();
        if routes.contains(&format!("\"{node}\"")) { Ok(()) } else { Err(format!("{routes:?}")) }
    });
    eventually("NetworkUnavailable is False", || {
        let found = cluster
            .field(&format!("node/{node}"), ".status.conditions[?(@.type=='NetworkUnavailable')].reason");
        if found == "RouteCreated" { Ok(()) } else { Err(found) }
    });

    // A load balancer: refused, made, changed, and gone before its Service goes.
    cloud.state().refused.insert("PUT", "no quota".into());
    cluster.kubectl("create service loadbalancer web --tcp=80:8080");
    event(&cluster, "web", "SyncLoadBalancerFailed", "failed to ensure load balancer: no quota");
    cloud.state().refused.clear();
    assert_eq!(address(&cluster, "web"), "203.0.113.50");
    assert_eq!(
        cluster.field("service/web", ".metadata.finalizers[0]"),
        "service.kubernetes.io/load-balancer-cleanup"
    );
    let ports = |cloud: &FakeCloud| {
        let state = cloud.state();
        state
            .balancers
            .values()
            .map(|b| b["service"]["spec"]["ports"][0]["port"].to_string())
            .collect::<String>()
    };
    cluster.kubectl("patch service web --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/ports/0/port\",\"value\":81}]");
    eventually("the new port", || if ports(&cloud) == "81" { Ok(()) } else { Err(ports(&cloud)) });
    cluster.kubectl(&format!("label node {node} node.kubernetes.io/exclude-from-external-load-balancers="));
    eventually("no node behind it", || {
        let nodes = cloud.state().balancers.values().map(|b| b["nodes"].to_string()).collect::<String>();
        if nodes == "[]" { Ok(()) } else { Err(nodes) }
    });
    cloud.state().refused.insert("DELETE", "come back later".into());
    cluster.kubectl("delete service web --wait=false");
    event(&cluster, "web", "SyncLoadBalancerFailed", "failed to delete load balancer: come back later");
    assert_eq!(cloud.state().balancers.len(), 1);
    cloud.state().refused.clear();
    gone(&cluster, "service/web");
    assert!(cloud.state().balancers.is_empty());

    // A machine that vanishes takes its node with it.
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: ghost}\nspec: {taints: [{key: node.cloudprovider.kubernetes.io/uninitialized, effect: NoSchedule}]}\n");
    cloud.machine("ghost", 9);
    eventually("the ghost has a machine", || {
        let id = cluster.field("node/ghost", ".spec.providerID");
        if id == "fake://machine-9" { Ok(()) } else { Err(id) }
    });
    cloud.state().machines.remove("ghost");
    gone(&cluster, "node/ghost");
    assert_eq!(cluster.kubectl("get nodes -o name").lines().count(), 1, "the other one is ready, and stays");

    // A volume says where it is.
    cluster.apply("apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: disk}\nspec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], csi: {driver: fake, volumeHandle: d1}}\n");
    eventually("the volume's zone", || {
        let zone = cluster.field(
            "pv/disk",
            ".spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]",
        );
        if zone == "zone-1" { Ok(()) } else { Err(zone) }
    });
}
