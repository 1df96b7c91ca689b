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
