//! Guests in pods of two families: IPv6 does what IPv4 does. Each test has a network namespace, which needs root.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Node, get};
use crate::network::Mode;
use crate::runtime::{ContainerSpec, Port, Protocol};

/// Runs a test on a runtime whose threads have an empty network of their own.
#[allow(clippy::print_stderr)]
fn in_namespace(test: impl Future<Output = ()>) {
    if !nix::unistd::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWNET).is_err() {
        eprintln!("NOT RUN: this test needs root for a network namespace");
        return;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("NOT RUN: this kernel has no IPv6");
        return;
    }
    let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

impl Node {
    async fn dual() -> Self {
        let cidr = Mode::AnyIp("10.42.0.0/24".parse().unwrap());
        Self::with(32, cidr, Some("fd00:42::/64".parse().unwrap())).await
    }
}

fn ip6(spec: &ContainerSpec) -> IpAddr {
    spec.network.ip6().unwrap().into()
}

fn tcp(port: u16) -> Port {
    Port { port, protocol: Protocol::Tcp, host_port: None, host_ip: None }
}

async fn echoes(address: SocketAddr) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello", "{address}");
}

#[test]
fn sockets_of_both_previews() {
    in_namespace(async {
        let node = Node::dual().await;
        let (spec, written) = node.spec(node.sample("tcp-echo"));
        let (echo_ip, pod) = (ip6(&spec), spec.network.clone());
        let echo = node.start(spec).await;
        written.until_out("listening on port 7000").await;
        for ip in pod.ips() {
            echoes(SocketAddr::new(ip, 7000)).await;
        }
        assert_eq!(pod.bound().len(), 2);
        // A service of the node itself, which no pod may reach.
        let host = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let host_port = host.local_addr().unwrap().port().to_string();
        // What listens on another pod's loopback.
        let (mut spec, written) = node.spec(node.guest("p3probe"));
        spec.args = ["listen", "::1", "7001"].map(str::to_owned).to_vec();
        let neighbour = spec.network.clone();
        let alone = node.start(spec).await;
        written.until_out("listening on [::1]:7001").await;
        let its_loopback = neighbour.bound()[0].1.ip().to_string();
        assert!(its_loopback.starts_with("fd7f:c0ac:1e::"), "{its_loopback}");

        let echo_text = echo_ip.to_string();
        for guest in ["netprobe", "p3probe"] {
            let probe = node.guest(guest);
            let answer = node.run(&probe, &["connect", &echo_text, "7000"]).await;
            let source: SocketAddr = answer.split(' ').next().unwrap().parse().unwrap();
            assert!(source.ip() != echo_ip && source.ip().to_string().starts_with("fd00:42::"), "{answer}");
            assert!(answer.ends_with(&format!("-> [{echo_ip}]:7000 hello")), "{answer}");
            let p2 = guest == "netprobe";
            let error =
                |p2_name: &str, p3_name: &str| format!("error {}", if p2 { p2_name } else { p3_name });
            let denied = error("access-denied", "ErrorCode::AccessDenied");
            let refused = error("connection-refused", "ErrorCode::ConnectionRefused");
            let foreign = error("address-not-bindable", "ErrorCode::AddressNotBindable");
            for (args, expected) in [
                (vec!["connect", "::1", &host_port], refused.as_str()),
                (vec!["connect", &its_loopback, "7001"], &denied),
                (vec!["connect", "fd00:ec2::254", "80"], &denied),
                (vec!["connect", "fe80::1", "80"], &denied),
                (vec!["bind", &echo_text, "7001"], &foreign),
                (vec!["bind", "::1", "81"], "[::1]:81"),
                (vec!["ipv6"], "created"),
                (vec!["loopback6", "", "9000"], "accepted on 9000"),
                (vec!["loopback", "", "9000"], "accepted on 9000"),
                (vec!["resolve", "localhost"], "127.0.0.1 ::1"),
                (vec!["resolve", "db.test"], "10.9.8.7 fd00::1"),
            ] {
                assert_eq!(node.run(&probe, &args).await, expected, "{guest} {args:?}");
            }
            // Addresses of IPv4 in disguise are none of IPv6's.
            let said = node.run(&probe, &["connect", "::ffff:169.254.169.254", "80"]).await;
            assert!(said.starts_with("error "), "{said}");
        }
        let asked = std::time::Instant::now();
        echo.stop(Duration::from_secs(10)).await;
        echo.wait().await;
        assert!(asked.elapsed() < Duration::from_secs(2), "a parked accept wakes: {:?}", asked.elapsed());
        alone.kill();
        alone.wait().await;
        assert!(pod.bound().is_empty());
    });
}

#[test]
fn datagrams() {
    in_namespace(async {
        let node = Node::dual().await;
        for guest in ["netprobe", "p3probe"] {
            let probe = node.guest(guest);
            // Another pod's address, answered by the test.
            let peer = ip6(&node.spec(probe.clone()).0);
            let socket = tokio::net::UdpSocket::bind((peer, 0)).await.unwrap();
            let port = socket.local_addr().unwrap().port();
            let answer = tokio::spawn(async move {
                let mut buffer = [0; 16];
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                assert_eq!(&buffer[..n], b"ping");
                socket.send_to(b"pong", from).await.unwrap();
                from
            });
            let printed = node.run(&probe, &["udp", &peer.to_string(), &port.to_string()]).await;
            assert!(printed.starts_with(&format!("[{peer}]:{port} pong")), "{printed}");
            let from = answer.await.unwrap().ip();
            assert!(from != peer && from.to_string().starts_with("fd00:42::"), "{from}");
        }
    });
}

#[test]
fn servers_answer_at_both_addresses() {
    in_namespace(async {
        let node = Node::dual().await;
        let (mut spec, _) = node.spec(node.sample("hello-http"));
        spec.ports = vec![Port { host_port: Some(7200), ..tcp(8080) }];
        let pod = spec.network.clone();
        let web = node.start(spec).await;
        let (mut spec, _) = node.spec(node.wat(&super::p1_server::server(super::p1_server::POLLING)));
        spec.ports = vec![Port { host_port: Some(7300), ..tcp(8080) }];
        let listening = spec.network.clone();
        let p1 = node.start(spec).await;
        for (pod, path) in [(&pod, "/healthz"), (&listening, "/")] {
            for ip in pod.ips() {
                assert_eq!(get(SocketAddr::new(ip, 8080), path).await.0, 200, "{ip}");
            }
        }
        for address in ["127.0.0.1:7200", "[::1]:7200", "127.0.0.1:7300", "[::1]:7300"] {
            assert_eq!(get(address.parse().unwrap(), "/healthz").await.0, 200, "{address}");
        }
        let authority = format!("[{}]:8080", pod.ip6().unwrap());
        let probe = node.guest("netprobe");
        assert!(node.run(&probe, &["http", &authority]).await.starts_with("404 no such page: /hello"));
        for (authority, expected) in [
            ("[fd00:ec2::254]:80", "DestinationIpProhibited"),
            ("[::ffff:169.254.169.254]:80", "DestinationIpProhibited"),
            ("[::1]:9", "ConnectionRefused"),
        ] {
            let printed = node.run(&probe, &["http", authority]).await;
            assert!(printed.contains(expected), "{authority}: {printed}");
        }
        let asked = std::time::Instant::now();
        for (container, pod) in [(p1, listening), (web, pod)] {
            container.stop(Duration::from_secs(10)).await;
            container.wait().await;
            for ip in pod.ips() {
                assert!(TcpStream::connect(SocketAddr::new(ip, 8080)).await.is_err(), "{ip}");
            }
            assert!(pod.bound().is_empty());
        }
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        node.network.close().await;
        assert!(TcpStream::connect("[fd00:42::2]:8080").await.is_err());
        let left = std::process::Command::new("ip").args(["-6", "rule"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&left.stdout).contains("fd7f:c0ac:1e"), "the rule is gone");
    });
}
