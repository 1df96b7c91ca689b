//! wasi:sockets: the pod's address inside and outside, and how a listener is told to end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::Node;

#[tokio::test(flavor = "multi_thread")]
async fn echo_in_two_pods_on_one_port() {
    let node = Node::new().await;
    let image = node.sample("tcp-echo");
    let mut pods = Vec::new();
    for _ in 0..2 {
        let (spec, written) = node.spec(image.clone());
        let address = SocketAddr::new(spec.network.ip().into(), 7000);
        let pod = spec.network.clone();
        let container = node.start(spec).await;
        written.until_out("listening on port 7000").await;
        pods.push((address, pod, container));
    }
    for (address, pod, _) in &pods {
        assert_eq!(pod.bound().len(), 1);
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
    }
    for (address, pod, container) in &pods {
        let asked = Instant::now();
        container.stop(Duration::from_secs(10)).await;
        assert!(asked.elapsed() < Duration::from_secs(2), "a parked accept wakes: {:?}", asked.elapsed());
        container.wait().await;
        assert!(TcpStream::connect(address).await.is_err());
        assert!(pod.bound().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_listener_frees_its_port() {
    let node = Node::new().await;
    let image = node.sample("tcp-echo");
    let (spec, written) = node.spec(image);
    let address = SocketAddr::new(spec.network.ip().into(), 7000);
    let container = node.start(spec.clone()).await;
    written.until_out("listening on port 7000").await;
    container.kill();
    assert_eq!(container.wait().await.code, 137);
    let again = node.start(spec).await;
    super::eventually(|| written.out().matches("listening").count() == 2).await;
    // A client with an address of its own choice is let through: probes come from anywhere on the node.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let mut answer = [0; 1];
    client.read_exact(&mut answer).await.unwrap();
    again.kill();
    again.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_sees_its_own_network_only() {
    let node = Node::new().await;
    let probe = node.guest("netprobe");
    let (spec, written) = node.spec(node.sample("tcp-echo"));
    let echo_ip = spec.network.ip().to_string();
    let echo = node.start(spec).await;
    written.until_out("listening on port 7000").await;
    // A service of the node itself, which no pod may reach.
    let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host_port = host.local_addr().unwrap().port().to_string();

    let answer = node.run(&probe, &["connect", &echo_ip, "7000"]).await;
    let source = answer.split(':').next().unwrap();
    assert!(node.network.mode().cidr().contains(source.parse().unwrap()), "from a pod address: {answer}");
    assert_ne!(source, echo_ip);
    assert!(answer.ends_with(&format!("-> {echo_ip}:7000 hello")), "{answer}");

    for (args, expected) in [
        // 127.0.0.1 is the pod's own, where nobody listens.
        (vec!["connect", "127.0.0.1", &host_port], "error connection-refused"),
        (vec!["connect", "127.0.1.1", &host_port], "error access-denied"),
        (vec!["bind", &echo_ip, "7001"], "error address-not-bindable"),
        (vec!["bind", "8.8.8.8", "80"], "error address-not-bindable"),
        (vec!["bind", "127.0.0.1", "81"], "127.0.0.1:81"),
        (vec!["ipv6"], "error not-supported"),
        (vec!["loopback", "", "9000"], "accepted on 9000"),
        (vec!["resolve", "localhost"], "127.0.0.1"),
        (vec!["resolve", "10.1.2.3"], "10.1.2.3"),
        (vec!["resolve", "no such name"], "error invalid-argument"),
        (vec!["resolve", "db.test"], "10.9.8.7"),
        (vec!["resolve", "missing.test"], "error name-unresolvable"),
    ] {
        assert_eq!(node.run(&probe, &args).await, expected, "{args:?}");
    }
    echo.kill();
    echo.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_come_from_the_pods_address() {
    let node = Node::new().await;
    let probe = node.guest("netprobe");
    // Another pod's address, answered by the test.
    let peer = node.spec(probe.clone()).0.network;
    let socket = tokio::net::UdpSocket::bind((peer.ip(), 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let answer = tokio::spawn(async move {
        let mut buffer = [0; 16];
        let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"ping");
        socket.send_to(b"pong", from).await.unwrap();
        from
    });
    let printed = node.run(&probe, &["udp", &peer.ip().to_string(), &port.to_string()]).await;
    assert_eq!(printed, format!("{}:{port} pong", peer.ip()));
    let std::net::IpAddr::V4(from) = answer.await.unwrap().ip() else { panic!() };
    assert!(node.network.mode().cidr().contains(from) && from != peer.ip(), "{from}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outgoing_http_goes_from_the_pods_address_by_the_pods_names() {
    let node = Node::new().await;
    let probe = node.guest("netprobe");
    let (spec, _) = node.spec(node.sample("hello-http"));
    let ip = spec.network.ip();
    let server = node.start(spec).await;
    assert_eq!(
        node.run(&probe, &["http", &format!("{ip}:8080")]).await,
        "404 no such page: /hello\n".trim_end()
    );
    for (authority, expected) in [
        (format!("{ip}:9"), "ErrorCode::ConnectionRefused"),
        ("127.0.0.1:9".to_owned(), "ErrorCode::ConnectionRefused"),
        ("127.0.1.1:9".to_owned(), "ErrorCode::DestinationIpProhibited"),
        ("missing.test".to_owned(), "NXDOMAIN"),
    ] {
        let printed = node.run(&probe, &["http", &authority]).await;
        assert!(printed.contains(expected), "{authority}: {printed}");
    }
    server.kill();
    server.wait().await;
}
