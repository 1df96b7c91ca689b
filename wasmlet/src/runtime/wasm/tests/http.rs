//! wasi:http: answers, failures, bounds, drains.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Node, eventually, get, http_guest, split_answer};
use crate::runtime::wasm::{
    ANNOTATION_HTTP_CONCURRENCY, ANNOTATION_HTTP_PORT, ANNOTATION_HTTP_QUEUE, ANNOTATION_HTTP_REUSE,
    ANNOTATION_HTTP_TIMEOUT,
};
use crate::runtime::{ContainerSpec, ExitReason, Port, Protocol, Runtime, StartError};

const SPIN: &str = "(loop $l (br $l))";

fn at(spec: &ContainerSpec, port: u16) -> SocketAddr {
    SocketAddr::new(spec.network.ip().into(), port)
}

fn annotate(spec: &mut ContainerSpec, key: &str, value: &str) {
    spec.annotations.insert(key.into(), value.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_answer_on_the_same_port() {
    let node = Node::new().await;
    let image = node.sample("hello-http");
    let mut pods = Vec::new();
    for name in ["one", "two"] {
        let (mut spec, _) = node.spec(image.clone());
        spec.env.push(("POD_NAME".into(), name.into()));
        spec.ports = vec![Port { port: 8080, protocol: Protocol::Tcp, host_port: None, host_ip: None }];
        let address = at(&spec, 8080);
        pods.push((name, address, node.start(spec).await));
    }
    for (name, address, container) in &pods {
        let (status, body) = get(*address, "/").await;
        assert_eq!(status, 200);
        assert_eq!(body, format!("Hello from Coracle! version=v1 pod={name}\n"));
        assert_eq!(get(*address, "/nope").await.0, 404);
        assert!(container.stats().cpu_nanos > 0);
        eventually(|| container.stats().memory_bytes == 0).await;
    }
    let taken = node.spec(image).0;
    let taken = ContainerSpec { network: pod_of(&node, pods[0].1), ..taken };
    let error = node.runtime.start(taken).await.err().unwrap();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    for (_, address, container) in pods {
        container.stop(Duration::from_secs(5)).await;
        let exit = container.wait().await;
        assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed));
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}

/// The network of the pod at an address (a second container of the same pod).
fn pod_of(node: &Node, address: SocketAddr) -> std::sync::Arc<crate::network::PodNetwork> {
    let std::net::IpAddr::V4(ip) = address.ip() else { panic!("IPv4") };
    node.network.find(ip).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_is_8080_or_the_annotations() {
    let node = Node::new().await;
    let (mut spec, _) = node.spec(node.sample("hello-http"));
    annotate(&mut spec, ANNOTATION_HTTP_PORT, "9191");
    let address = at(&spec, 9191);
    let container = node.start(spec).await;
    assert_eq!(get(address, "/healthz").await, (200, "ok\n".into()));
    container.kill();
    assert_eq!(container.wait().await.code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_fails_its_request_and_nothing_else() {
    let node = Node::new().await;
    let (spec, written) = node.spec(node.wat(&http_guest("unreachable")));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    for _ in 0..3 {
        assert_eq!(get(address, "/some/path?q=1").await.0, 500);
    }
    assert!(written.err().contains("GET /some/path: wasm trap: wasm `unreachable`"), "{}", written.err());
    container.kill();
    container.wait().await;

    let (spec, _) = node.spec(node.wat(&http_guest("")));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    assert_eq!(get(address, "/").await.0, 500, "returned without an answer");
    container.kill();
    container.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_memory_limit_the_container_ends() {
    let node = Node::new().await;
    let (mut spec, _) = node.spec(node.sample("hello-http"));
    spec.limits.memory_bytes = Some(100_000);
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    assert_eq!(get(address, "/").await.0, 500);
    let exit = container.wait().await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_waits_for_memory_instead_of_being_killed() {
    let node = Node::new().await;
    let (mut spec, _) = node.spec(node.sample("hello-http"));
    // Two instances or so.
    spec.limits.memory_bytes = Some(3 << 20);
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let burst = (0..40).map(|_| tokio::spawn(get(address, "/healthz")));
    for answer in futures::future::join_all(burst).await {
        assert_eq!(answer.unwrap().0, 200);
    }
    let stats = container.stats();
    assert!(stats.memory_peak_bytes > 1 << 20 && stats.memory_peak_bytes <= 3 << 20, "{stats:?}");
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_and_queue_are_bounded() {
    let node = Node::new().await;
    let (mut spec, _) = node.spec(node.wat(&http_guest(SPIN)));
    annotate(&mut spec, ANNOTATION_HTTP_CONCURRENCY, "1");
    annotate(&mut spec, ANNOTATION_HTTP_QUEUE, "1");
    annotate(&mut spec, ANNOTATION_HTTP_TIMEOUT, "1");
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let first = tokio::spawn(get(address, "/"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = tokio::spawn(get(address, "/"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (status, body) = get(address, "/").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(first.await.unwrap().0, 504, "its second is over");
    assert_eq!(second.await.unwrap().0, 504, "had its turn after the first");
    container.kill();
    container.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_instance_with_it() {
    let node = Node::new().await;
    let (spec, _) = node.spec(node.wat(&http_guest(SPIN)));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    eventually(|| container.stats().cpu_nanos > 20_000_000).await;
    drop(client);
    let settled = Instant::now();
    let mut used = container.stats().cpu_nanos;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = container.stats().cpu_nanos;
        if now == used {
            break;
        }
        used = now;
        assert!(settled.elapsed() < Duration::from_secs(5), "still spinning");
    }
    container.kill();
    container.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_drains_what_is_in_progress() {
    let node = Node::new().await;
    let (mut spec, _) = node.spec(node.sample("hello-http"));
    // So little CPU that one answer takes a good while.
    spec.limits.cpu_millis = Some(1);
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let request = tokio::spawn(get(address, "/"));
    eventually(|| container.stats().cpu_nanos > 0 || request.is_finished()).await;
    container.stop(Duration::from_secs(60)).await;
    assert_eq!(container.wait().await.code, 0);
    let (status, body) = request.await.unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("Hello"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_grace_is_dropped() {
    let node = Node::new().await;
    let (spec, _) = node.spec(node.wat(&http_guest(SPIN)));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let request = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    });
    eventually(|| container.stats().cpu_nanos > 20_000_000).await;
    let asked = Instant::now();
    container.stop(Duration::from_millis(500)).await;
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
    assert_eq!(container.wait().await.code, 137);
    let (status, _) = split_answer(&request.await.unwrap());
    assert!(status == 0 || status == 500, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_keep_alive_connection_does_not_hold_up_a_stop() {
    let node = Node::new().await;
    let (spec, _) = node.spec(node.sample("hello-http"));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1024];
    let n = client.read(&mut answer).await.unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    let asked = Instant::now();
    container.stop(Duration::from_secs(30)).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_during_a_stop_are_not_lost() {
    let node = Node::new().await;
    let (spec, _) = node.spec(node.sample("hello-http"));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    assert_eq!(get(address, "/").await.0, 200);
    let stopping = tokio::spawn({
        let container = container.clone();
        async move { container.stop(Duration::from_secs(10)).await }
    });
    // Clients that have not heard yet: they come for a while after the stop began.
    let begun = Instant::now();
    let mut served = 0;
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(get(address, "/").await.0, 200);
        served += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(served > 10, "{served}");
    stopping.await.unwrap();
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let node = Node::new().await;
    let (spec, _) = node.spec(node.sample("hello-http"));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::get(format!("http://{address}/healthz"))
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok\n");
    }
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0);
    connection.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_one_module_compile_it_once() {
    let node = std::sync::Arc::new(Node::new().await);
    let image = node.sample("hello-http");
    let all = (0..8).map(|_| {
        let (node, image) = (node.clone(), image.clone());
        tokio::spawn(async move { node.runtime.prepare(&image).await })
    });
    for prepared in futures::future::join_all(all).await {
        prepared.unwrap().unwrap();
    }
    // One file of code, one of its checksum.
    assert_eq!(std::fs::read_dir(node.dir.path().join("compiled")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_instance_of_a_p2_handler_answers_one_after_the_other() {
    let node = Node::new().await;
    let (mut spec, written) = node.spec(node.sample("hello-http"));
    annotate(&mut spec, ANNOTATION_HTTP_REUSE, "50");
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let peak = || container.stats().memory_peak_bytes;
    assert_eq!(get(address, "/healthz").await, (200, "ok\n".into()));
    let one = peak();
    for _ in 0..120 {
        assert_eq!(get(address, "/healthz").await, (200, "ok\n".into()));
    }
    assert!(peak() <= one * 2, "one instance, or one and its successor: {one} {}", peak());
    let burst = (0..40).map(|_| tokio::spawn(get(address, "/")));
    for answer in futures::future::join_all(burst).await {
        assert_eq!(answer.unwrap().0, 200);
    }
    eventually(|| container.stats().memory_bytes == 0).await;
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0, "{}", written.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_refused_and_say_why() {
    let node = Node::new().await;
    let (spec, _) = node.spec(node.sample("hello-http"));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    for (request, want) in [
        ("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n", 501),
        ("CONNECT x:80 HTTP/1.1\r\nhost: x\r\n", 501),
        // What curl --http2 says: it goes on in HTTP/1.1.
        (
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            200,
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let n =
            tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await.unwrap().unwrap();
        let (status, body) = split_answer(&String::from_utf8_lossy(&answer[..n]));
        assert_eq!(status, want, "{request}");
        assert!(status == 200 || body.contains("cannot take a connection over"), "{body}");
    }
    container.kill();
    container.wait().await;
}
