//! WASI 0.3: commands, sockets under the pod's policy, http handlers that answer several requests at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Node, eventually, get};
use crate::runtime::wasm::{
    ANNOTATION_HTTP_INSTANCE_CONCURRENCY, ANNOTATION_HTTP_REUSE, ANNOTATION_HTTP_TIMEOUT,
};
use crate::runtime::{ContainerSpec, ExitReason, Runtime, StartError};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_its_result_is_its_exit_code() {
    let node = Node::new().await;
    let probe = node.guest("p3probe");
    assert_eq!(node.run(&probe, &["hello", "world"]).await, "hello world");
    let (mut spec, _) = node.spec(probe);
    spec.args = vec!["fail".into()];
    let exit = node.start(spec).await.wait().await;
    assert_eq!((exit.code, exit.reason), (1, ExitReason::Error));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_sockets_are_under_the_pods_policy() {
    let node = Node::new().await;
    let probe = node.guest("p3probe");
    let (spec, written) = node.spec(node.sample("tcp-echo"));
    let echo_ip = spec.network.ip().to_string();
    let echo = node.start(spec).await;
    written.until_out("listening on port 7000").await;
    // A service of the node itself, which no pod may reach.
    let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host_port = host.local_addr().unwrap().port().to_string();
    let host_udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let host_udp_port = host_udp.local_addr().unwrap().port().to_string();

    let answer = node.run(&probe, &["connect", &echo_ip, "7000"]).await;
    let source = answer.split(':').next().unwrap();
    assert!(node.network.mode().cidr().contains(source.parse().unwrap()), "from a pod address: {answer}");
    assert_ne!(source, echo_ip);
    assert!(answer.ends_with(&format!("-> {echo_ip}:7000 hello")), "{answer}");

    for (args, expected) in [
        (vec!["connect", "127.0.0.1", &host_port], "error ErrorCode::ConnectionRefused"),
        (vec!["connect", "127.0.1.1", &host_port], "error ErrorCode::AccessDenied"),
        (vec!["connect", "169.254.169.254", "80"], "error ErrorCode::AccessDenied"),
        (vec!["udp", "127.0.1.1", &host_udp_port], "error ErrorCode::AccessDenied"),
        (vec!["bind", &echo_ip, "7001"], "error ErrorCode::AddressNotBindable"),
        (vec!["bind", "8.8.8.8", "80"], "error ErrorCode::AddressNotBindable"),
        (vec!["bind", "127.0.0.1", "81"], "127.0.0.1:81"),
        (vec!["ipv6"], "error ErrorCode::NotSupported"),
        (vec!["loopback", "", "9000"], "accepted on 9000"),
        (vec!["flood"], "1024 sockets, then ErrorCode::OutOfMemory"),
        (vec!["resolve", "localhost"], "127.0.0.1"),
        (vec!["resolve", "no such name"], "error ErrorCode::InvalidArgument"),
        (vec!["resolve", "db.test"], "10.9.8.7"),
        (vec!["resolve", "missing.test"], "error ErrorCode::NameUnresolvable"),
    ] {
        assert_eq!(node.run(&probe, &args).await, expected, "{args:?}");
    }
    echo.kill();
    echo.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_datagrams_come_from_the_pods_address() {
    let node = Node::new().await;
    let probe = node.guest("p3probe");
    let peer = node.spec(probe.clone()).0.network;
    let socket = tokio::net::UdpSocket::bind((peer.ip(), 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let answering = tokio::spawn(async move {
        let mut buffer = [0; 16];
        let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"ping");
        socket.send_to(b"pong", from).await.unwrap();
        let (n, _) = socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"bye");
        from
    });
    let ip = peer.ip().to_string();
    let printed = node.run(&probe, &["udp", &ip, &port.to_string()]).await;
    assert_eq!(printed, format!("{ip}:{port} pong {ip}:{port}"));
    let std::net::IpAddr::V4(from) = answering.await.unwrap().ip() else { panic!() };
    assert!(node.network.mode().cidr().contains(from) && from != peer.ip(), "{from}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_listens_at_its_pods_address_and_hears_of_its_end() {
    let node = Node::new().await;
    let image = node.guest("p3probe");
    let mut pods = Vec::new();
    for _ in 0..2 {
        let (mut spec, written) = node.spec(image.clone());
        spec.args = ["listen", "0.0.0.0", "7000"].map(str::to_owned).to_vec();
        let (address, pod) = (SocketAddr::new(spec.network.ip().into(), 7000), spec.network.clone());
        let container = node.start(spec).await;
        written.until_out(&format!("listening on {address}")).await;
        pods.push((address, pod, container, written));
    }
    for (address, pod, container, written) in &pods {
        for _ in 0..3 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"hello").await.unwrap();
            let mut answer = [0; 5];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"hello");
        }
        let asked = Instant::now();
        container.stop(Duration::from_secs(20)).await;
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(container.wait().await.code, 0, "its stream of connections ended, and it with it");
        assert!(written.out().contains("no more connections after 3"), "{}", written.out());
        assert!(TcpStream::connect(address).await.is_err());
        assert!(pod.bound().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outgoing_http_is_under_the_pods_policy() {
    let node = Node::new().await;
    let probe = node.guest("p3probe");
    let (spec, _) = node.spec(node.sample("hello-http"));
    let ip = spec.network.ip();
    let server = node.start(spec).await;
    assert_eq!(node.run(&probe, &["http", &format!("{ip}:8080")]).await, "404 no such page: /hello");
    for (authority, expected) in [
        (format!("{ip}:9"), "ErrorCode::ConnectionRefused"),
        ("127.0.1.1:9".to_owned(), "ErrorCode::DestinationIpProhibited"),
        ("missing.test".to_owned(), "NXDOMAIN"),
    ] {
        let printed = node.run(&probe, &["http", &authority]).await;
        assert!(printed.contains(expected), "{authority}: {printed}");
    }
    server.kill();
    server.wait().await;
}

fn annotated(node: &Node, guest: &str, annotations: &[(&str, &str)]) -> (ContainerSpec, SocketAddr) {
    let (mut spec, _) = node.spec(node.guest(guest));
    for (key, value) in annotations {
        spec.annotations.insert((*key).into(), (*value).into());
    }
    let address = SocketAddr::new(spec.network.ip().into(), 8080);
    (spec, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_answers_many_and_several_at_once() {
    let node = Node::new().await;
    let (spec, address) = annotated(&node, "p3server", &[(ANNOTATION_HTTP_REUSE, "3")]);
    let container = node.start(spec).await;
    assert_eq!(get(address, "/").await, (200, "hello from p3\n".into()));
    let counts =
        [get(address, "/count").await.1, get(address, "/count").await.1, get(address, "/count").await.1];
    assert_eq!(counts, ["2", "3", "1"], "after three requests the next instance");
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0);

    let (spec, address) = annotated(&node, "p3server", &[]);
    let container = node.start(spec).await;
    get(address, "/").await;
    let began = Instant::now();
    let together = join_all((0..8_u64).map(|n| async move {
        // One that has just begun may compute: who comes at that moment gets another instance.
        tokio::time::sleep(Duration::from_millis(n * 60)).await;
        get(address, "/wait?1500").await
    }));
    let together = together.await;
    assert!(together.iter().all(|(status, _)| *status == 200), "{together:?}");
    let most = together.iter().filter_map(|(_, text)| text.split(' ').next()?.parse::<u32>().ok()).max();
    assert!(most.is_some_and(|most| most >= 4), "{together:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // Nobody comes: the instance goes, and its memory with it.
    eventually(|| container.stats().memory_bytes == 0).await;
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_in_an_instance_is_bounded_by_the_annotation() {
    let node = Node::new().await;
    let (spec, address) = annotated(&node, "p3server", &[(ANNOTATION_HTTP_INSTANCE_CONCURRENCY, "2")]);
    let container = node.start(spec).await;
    let answers = join_all((0..6).map(|_| get(address, "/wait?300"))).await;
    for (status, text) in &answers {
        let together: u32 = text.split(' ').next().unwrap().parse().unwrap();
        assert!(*status == 200 && together <= 2, "{answers:?}");
    }
    container.stop(Duration::ZERO).await;

    let (mut spec, _) = node.spec(node.sample("hello-http"));
    spec.annotations.insert(ANNOTATION_HTTP_INSTANCE_CONCURRENCY.into(), "2".into());
    let error = node.runtime.start(spec).await.err().unwrap();
    assert!(matches!(&error, StartError::Config(text) if text.contains("one request at a time")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_shared_instance_cost_its_requests_only() {
    let node = Node::new().await;
    let (mut spec, address) = annotated(&node, "p3server", &[(ANNOTATION_HTTP_TIMEOUT, "1")]);
    let (fresh, written) = node.spec(spec.image.clone());
    spec.log = fresh.log;
    let container = node.start(spec).await;
    assert_eq!(get(address, "/trap").await.0, 500);
    eventually(|| written.err().contains("wasm trap")).await;
    assert_eq!(get(address, "/error").await.0, 502);
    let began = Instant::now();
    assert_eq!(get(address, "/spin").await.0, 504);
    assert_eq!(get(address, "/wait?30000").await.0, 504);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(get(address, "/count").await, (200, "1".into()), "an instance that timed out takes no more");
    // A spinner whose client left is dropped.
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /spin HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let before = container.stats().cpu_nanos;
    eventually(|| container.stats().cpu_nanos > before + 20_000_000).await;
    drop(client);
    eventually(|| container.stats().memory_bytes == 0).await;
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_computes_holds_up_nobody_but_itself() {
    let node = Node::new().await;
    let (mut spec, address) = annotated(&node, "p3server", &[]);
    spec.limits.cpu_millis = Some(500);
    let container = node.start(spec).await;
    // It offers room after its answer, and spins a moment later.
    assert_eq!(get(address, "/linger").await, (200, "answered".into()));
    let before = container.stats().cpu_nanos;
    eventually(|| container.stats().cpu_nanos > before + 50_000_000).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), get(address, "/count")).await;
    assert_eq!(answer.expect("held up"), (200, "1".into()), "in another instance");
    container.kill();
    assert_eq!(container.wait().await.code, 137);
}

/// Two frames and trailers, over HTTP/2; the answer's body and trailers.
async fn echo(address: SocketAddr) -> (Bytes, http::HeaderMap) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (frames, body) = futures::channel::mpsc::unbounded();
    let request = http::Request::post(format!("http://{address}/echo")).body(StreamBody::new(body)).unwrap();
    let send = |frame| frames.unbounded_send(Ok::<_, std::convert::Infallible>(frame)).unwrap();
    send(http_body::Frame::data(Bytes::from_static(b"one ")));
    let mut response = sender.send_request(request).await.unwrap();
    // The first piece comes back while the request is still being sent.
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "one ");
    send(http_body::Frame::data(Bytes::from_static(b"two")));
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    send(http_body::Frame::trailers(trailers));
    frames.close_channel();
    let rest = response.into_body().collect().await.unwrap();
    let trailers = rest.trailers().cloned().unwrap_or_default();
    connection.abort();
    ([first, rest.to_bytes()].concat().into(), trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_and_trailers_go_both_ways() {
    let node = Node::new().await;
    let (spec, address) = annotated(&node, "p3server", &[]);
    let container = node.start(spec).await;
    let (body, trailers) = echo(address).await;
    assert_eq!(body, "one two");
    assert_eq!(trailers.get("x-length").unwrap(), "7");
    assert_eq!(trailers.get("x-sum").unwrap(), "7", "the request's came back");
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(container.wait().await.code, 0);
}
