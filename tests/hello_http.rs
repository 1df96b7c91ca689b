//! hello-http as its users meet it: through its Service, scaled, updated under load. Each test has a machine's network
//! of its own, so that nftables and AnyIP are really there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Cluster, MACHINE_ADDRESS, Namespace, eventually, http_get, need_root, tcp_connect};

fn deployed(namespace: &Namespace) -> (Cluster, String) {
    let cluster = Cluster::start_in(namespace);
    cluster.import_samples();
    cluster.apply_sample("hello-http");
    cluster.kubectl("wait --for=condition=Available deployment/hello-http --timeout=60s");
    let service = format!("{}:8080", cluster.field("service/hello-http", ".spec.clusterIP"));
    answers(&service);
    (cluster, service)
}

/// Waits until an address answers 200 once; rules follow endpoints by a moment.
fn answers(address: &str) -> String {
    eventually(address, || match http_get(address, "/") {
        Ok((200, body)) => Ok(body),
        Ok((status, body)) => Err(format!("{status}: {body}")),
        Err(error) => Err(error),
    })
}

#[test]
fn it_answers_on_its_cluster_ip_and_its_node_port() {
    if !need_root("it_answers_on_its_cluster_ip_and_its_node_port") {
        return;
    }
    let namespace = Namespace::enter();
    let (cluster, service) = deployed(&namespace);
    let answer = answers(&service);
    assert!(answer.starts_with("Hello from Coracle! version=v1 pod=hello-http-"), "{answer}");

    cluster.kubectl("patch service hello-http -p {\"spec\":{\"type\":\"NodePort\"}}");
    let port = cluster.field("service/hello-http", ".spec.ports[0].nodePort");
    assert!((30000..=32767).contains(&port.parse::<u32>().unwrap()), "{port}");
    answers(&format!("{MACHINE_ADDRESS}:{port}"));

    // Pods have addresses of their own, from the node's range, and answer on them.
    let addresses = cluster.kubectl("get pods -l app=hello-http -o jsonpath={.items[*].status.podIP}");
    let mut addresses: Vec<_> = addresses.split(' ').collect();
    for address in &addresses {
        answers(&format!("{address}:8080"));
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 2, "{addresses:?}");

    // With nobody to answer, a connection is refused at once, not left to time out.
    cluster.kubectl("scale deployment/hello-http --replicas=0");
    eventually("refusal", || {
        let started = Instant::now();
        match tcp_connect(&service) {
            Err(error) if error.to_lowercase().contains("refused") => {
                assert!(started.elapsed() < Duration::from_secs(1));
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => Err("it still accepts".into()),
        }
    });
    cluster.kubectl("scale deployment/hello-http --replicas=1");
    answers(&service);
}

#[test]
fn twenty_replicas_share_the_requests() {
    if !need_root("twenty_replicas_share_the_requests") {
        return;
    }
    let namespace = Namespace::enter();
    let (cluster, service) = deployed(&namespace);
    cluster.kubectl("scale deployment/hello-http --replicas=20");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    assert_eq!(cluster.field("deployment/hello-http", ".status.readyReplicas"), "20");
    eventually("20 endpoints", || {
        let ready = cluster.kubectl(
            "get endpointslices -l kubernetes.io/service-name=hello-http -o jsonpath={.items[*].endpoints[*].addresses[0]}",
        );
        if ready.split_whitespace().count() == 20 { Ok(()) } else { Err(ready) }
    });
    let mut answered: BTreeMap<String, usize> = BTreeMap::new();
    eventually("an answer from each of 20", || {
        for _ in 0..200 {
            let (status, body) = http_get(&service, "/")?;
            assert_eq!(status, 200, "{body}");
            let pod = body.trim().rsplit_once("pod=").unwrap().1.to_owned();
            *answered.entry(pod).or_default() += 1;
        }
        if answered.len() == 20 { Ok(()) } else { Err(format!("{} pods answered", answered.len())) }
    });
    let total: usize = answered.values().sum();
    let most = answered.values().max().copied().unwrap();
    assert!(most * 20 <= total * 4, "one pod got {most} of {total}: {answered:?}");
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    if !need_root("a_rolling_update_under_load_loses_no_request") {
        return;
    }
    let namespace = Namespace::enter();
    let (cluster, service) = deployed(&namespace);
    cluster.kubectl("scale deployment/hello-http --replicas=4");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");

    let stop = Arc::new(AtomicBool::new(false));
    let second = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (stop, second, service) = (stop.clone(), second.clone(), service.clone());
            std::thread::spawn(move || {
                let (mut sent, mut lost) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    sent += 1;
                    match http_get(&service, "/") {
                        Ok((200, body)) if body.contains("version=v2") => {
                            second.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok((200, _)) => {}
                        Ok((status, body)) => lost.push(format!("{status}: {body}")),
                        Err(error) => lost.push(error),
                    }
                }
                (sent, lost)
            })
        })
        .collect();

    cluster.kubectl("set image deployment/hello-http hello-http=coracle.dev/samples/hello-http:v2");
    cluster.kubectl("rollout status deployment/hello-http --timeout=120s");
    eventually("old pods gone", || {
        let pods = cluster.kubectl("get pods -l app=hello-http -o name");
        if pods.lines().count() == 4 { Ok(()) } else { Err(pods) }
    });
    let before = second.load(Ordering::Relaxed);
    eventually("answers of the second version", || {
        let after = second.load(Ordering::Relaxed);
        if after > before + 100 { Ok(()) } else { Err(format!("{before} -> {after}")) }
    });
    stop.store(true, Ordering::Relaxed);
    let (mut sent, mut lost) = (0, Vec::new());
    for thread in load {
        let (thread_sent, thread_lost) = thread.join().unwrap();
        sent += thread_sent;
        lost.extend(thread_lost);
    }
    println!("{sent} requests during the update");
    assert!(sent > 200, "only {sent} requests were made");
    assert!(lost.is_empty(), "{} of {sent} requests were lost, for instance: {}", lost.len(), lost[0]);
    let (_, last) = http_get(&service, "/").unwrap();
    assert!(last.contains("version=v2"), "{last}");
}

#[test]
fn client_ip_affinity_keeps_a_client_with_one_pod() {
    if !need_root("client_ip_affinity_keeps_a_client_with_one_pod") {
        return;
    }
    let namespace = Namespace::enter();
    let (cluster, service) = deployed(&namespace);
    cluster.kubectl("scale deployment/hello-http --replicas=5");
    cluster.kubectl("rollout status deployment/hello-http --timeout=60s");
    cluster.kubectl("patch service hello-http -p {\"spec\":{\"sessionAffinity\":\"ClientIP\"}}");
    assert_eq!(
        cluster.field("service/hello-http", ".spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
        "10800"
    );
    eventually("thirty answers from one pod", || {
        let mut pods: Vec<String> = Vec::new();
        for _ in 0..30 {
            pods.push(http_get(&service, "/")?.1);
        }
        pods.sort();
        pods.dedup();
        if pods.len() == 1 { Ok(()) } else { Err(format!("{} pods answered", pods.len())) }
    });
}

#[test]
fn a_pod_may_call_itself_and_others_through_a_service() {
    if !need_root("a_pod_may_call_itself_and_others_through_a_service") {
        return;
    }
    let namespace = Namespace::enter();
    let (cluster, _) = deployed(&namespace);
    cluster.apply_sample("tcp-echo");
    cluster.kubectl("rollout status deployment/tcp-echo --timeout=60s");
    let address = format!("{}:7000", cluster.field("service/tcp-echo", ".spec.clusterIP"));
    eventually("an echo", || harness::echo(&address, b"round and round\n"));
}

#[test]
fn nothing_is_left_in_the_network_after_a_stop() {
    if !need_root("nothing_is_left_in_the_network_after_a_stop") {
        return;
    }
    let namespace = Namespace::enter();
    let routes = |table: &str| harness::run("ip", &["route", "show", "table", table]);
    let before = (harness::run("nft", &["list", "ruleset"]), routes("main"), routes("local"));
    let (mut cluster, _) = deployed(&namespace);
    assert!(!harness::run("nft", &["list", "ruleset"]).is_empty(), "no rules while it runs");
    assert!(cluster.process().stop().success());
    assert_eq!(before, (harness::run("nft", &["list", "ruleset"]), routes("main"), routes("local")));
}
