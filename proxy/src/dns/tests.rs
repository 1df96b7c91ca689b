//! Questions over the wire, and names that are other servers'.

use std::io::{Read, Write};

use hickory_resolver::proto::op::{Message, Query};

use super::*;
use crate::dns::names::{Endpoint, Kind, ServiceNames};

fn names(resolv_conf: &Path) -> Names {
    let names = Names::with_upstream(
        "cluster.local",
        Some([10, 96, 0, 10].into()),
        vec![([10, 96, 0, 0].into(), 16)],
        resolv_conf,
    );
    let addresses = Box::new(["10.96.0.20".parse().unwrap()]);
    let kind = Kind::ClusterIp { addresses, ports: Box::default() };
    names.set(&"shop/web".into(), Some(ServiceNames { kind, endpoints: Box::default() }));
    let endpoints = (1..=200u8).map(|n| Endpoint {
        address: [10, 244, 0, n].into(),
        hostname: None,
        ports: Box::default(),
    });
    names.set(
        &"shop/many".into(),
        Some(ServiceNames { kind: Kind::Headless, endpoints: endpoints.collect() }),
    );
    let alias =
        |target: &str| ServiceNames { kind: Kind::ExternalName(target.into()), endpoints: Box::default() };
    names.set(&"shop/other".into(), Some(alias("web.shop.svc.cluster.local")));
    names.set(&"shop/loop".into(), Some(alias("loop.shop.svc.cluster.local")));
    names.set(&"shop/far".into(), Some(alias("far.example")));
    names.set_synced();
    names
}

async fn served(names: Names) -> SocketAddr {
    let (udp, tcp) = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(server::udp(udp, names.clone()));
    tokio::spawn(server::tcp(tcp, names));
    address
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn by_udp(server: SocketAddr, bytes: Vec<u8>) -> Message {
    let ask = move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(&bytes, server).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

async fn by_tcp(server: SocketAddr, bytes: Vec<u8>) -> Message {
    let ask = move || {
        let mut stream = std::net::TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[tokio::test]
async fn questions_over_the_wire() {
    let server = served(names(Path::new("/nonexistent"))).await;
    let answer = by_udp(server, question("web.shop.svc.cluster.local.", RecordType::A)).await;
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(address_of(&answer.answers[0]), Some("10.96.0.20".parse().unwrap()));
    let none = by_udp(server, question("nope.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
    // Too long for a datagram: cut, and whole by TCP.
    let many = question("many.shop.svc.cluster.local.", RecordType::A);
    let cut = by_udp(server, many.clone()).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 200);
    assert_eq!(by_tcp(server, many).await.answers.len(), 200);
    // Aliases.
    let other = by_udp(server, question("other.shop.svc.cluster.local.", RecordType::A)).await;
    let kinds: Vec<_> = other.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    let looping = by_udp(server, question("loop.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(looping.metadata.response_code, ResponseCode::ServFail);
    // No resolver to forward to.
    let foreign = by_udp(server, question("example.com.", RecordType::A)).await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::ServFail);
    let transfer = by_tcp(server, question("cluster.local.", RecordType::AXFR)).await;
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn addresses_in_process() {
    let names = names(Path::new("/nonexistent"));
    let ask = |name: &'static str| names.addresses(name, Family::V4);
    assert_eq!(ask("web.shop.svc.cluster.local").await, Ok(vec!["10.96.0.20".parse().unwrap()]));
    assert_eq!(names.addresses("web.shop.svc.cluster.local", Family::V6).await, Ok(vec![]));
    assert_eq!(ask("other.shop.svc.cluster.local").await, Ok(vec!["10.96.0.20".parse().unwrap()]));
    assert_eq!(ask("many.shop.svc.cluster.local.").await.unwrap().len(), 200);
    assert_eq!(ask("nope.shop.svc.cluster.local").await, Err(NameError::NotFound));
    assert!(matches!(ask("loop.shop.svc.cluster.local").await, Err(NameError::Failed(_))));
    assert!(matches!(ask("example.com").await, Err(NameError::Failed(_))));
}

/// The upstream is another of our servers, at an address of its own on port 53: needs root.
#[tokio::test]
#[allow(clippy::print_stderr)]
async fn foreign_names_are_asked_upstream() {
    let Ok((udp, tcp)) = server::bind("127.53.7.1:53".parse().unwrap()) else {
        eprintln!("NOT RUN: this test needs port 53");
        return;
    };
    let far = Names::with_upstream("far.example", None, Vec::new(), Path::new("/nonexistent"));
    far.set(&"ns/host".into(), {
        let addresses = Box::new(["192.0.2.7".parse().unwrap()]);
        let kind = Kind::ClusterIp { addresses, ports: Box::default() };
        Some(ServiceNames { kind, endpoints: Box::default() })
    });
    far.set_synced();
    tokio::spawn(server::udp(udp, far.clone()));
    tokio::spawn(server::tcp(tcp, far));
    let directory = tempfile::tempdir().unwrap();
    let resolv_conf = directory.path().join("resolv.conf");
    // Our own address among them is not asked.
    std::fs::write(&resolv_conf, "nameserver 10.96.0.10\nnameserver 127.53.7.1\n").unwrap();
    let names = names(&resolv_conf);
    let got = names.addresses("host.ns.svc.far.example", Family::V4).await;
    assert_eq!(got, Ok(vec!["192.0.2.7".parse().unwrap()]));
    assert_eq!(names.addresses("nope.ns.svc.far.example", Family::V4).await, Err(NameError::NotFound));
    let server = served(names).await;
    let answer = by_udp(server, question("host.ns.svc.far.example.", RecordType::A)).await;
    assert_eq!(address_of(&answer.answers[0]), Some("192.0.2.7".parse().unwrap()));
    assert!(!answer.metadata.authoritative);
    let gone = by_udp(server, question("far.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(gone.answers[0].record_type(), RecordType::CNAME);
}
