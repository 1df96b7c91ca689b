//! The rules in a real kernel: a network namespace for the test's thread, real sockets. They need root.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::dns::Family;
use crate::table::PortRules;
use crate::{Mode, Second};

/// Runs a test on a runtime whose only thread has an empty network of its own; false without the rights to do so.
#[allow(clippy::print_stderr)]
fn in_namespace(test: impl Future<Output = ()>) {
    if !nix::unistd::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWNET).is_err() {
        eprintln!("NOT RUN: this test needs root for a network namespace");
        return;
    }
    ip("link set lo up");
    // Addresses of pods, and a way for packets to Services to get as far as the rules.
    ip("route add local 10.244.0.0/24 dev lo");
    ip("route add 10.96.0.0/16 dev lo src 127.0.0.1 scope host");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn ip(arguments: &str) {
    let done = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

fn options() -> Options {
    Options {
        node_name: "a".into(),
        mode: Mode::Nftables,
        service_cidr: ([10, 96, 0, 0].into(), 16),
        pod_cidr: ([10, 244, 0, 0].into(), 16),
        second: None,
        node_address: [127, 0, 0, 1].into(),
        dns_address: Some([10, 96, 0, 53].into()),
        services: crate::Services::new("cluster.local", None, Vec::new()),
        keep_rules: false,
    }
}

fn port(protocol: Protocol, number: u16, node_port: Option<u16>, endpoints: &[&str]) -> PortRules {
    let endpoints: Vec<_> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
    PortRules {
        family: Family::V4,
        external_addresses: Vec::new(),
        balanced_addresses: Vec::new(),
        sources: Vec::new(),
        inside_endpoints: Vec::new(),
        name: String::new(),
        protocol,
        port: number,
        addresses: vec!["10.96.0.10".parse().unwrap()],
        node_port,
        affinity: None,
        node_port_endpoints: endpoints.clone(),
        endpoints,
    }
}

async fn set(backend: &mut Nftables, service: &str, ports: Vec<PortRules>) {
    backend.apply(vec![(service.into(), ServiceRules { ports, ..ServiceRules::default() })]).await.unwrap();
}

/// The table as nft shows it, without what differs from one writing to the next.
fn listing() -> String {
    let output =
        std::process::Command::new("nft").args(["-s", "list", "table", "ip", "coracle"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Chains and sets are listed in the order of their making, elements as they are hashed.
    let mut blocks: Vec<String> = text
        .split("\n\n")
        .map(|block| {
            let mut words: Vec<&str> =
                block.split([',', '\n']).map(str::trim).filter(|w| !w.is_empty() && *w != "}").collect();
            words[1..].sort_unstable();
            words
                .join("\n")
                .replace("elements = { ", "")
                .replace(" }", "")
                .replace("table ip coracle {\n", "")
        })
        .collect();
    blocks.iter_mut().for_each(|b| {
        let mut lines: Vec<&str> = b.lines().collect();
        lines.sort_unstable();
        *b = lines.join("\n");
    });
    blocks.sort_unstable();
    blocks.join("\n\n")
}

#[test]
fn step_by_step_comes_to_the_same_as_all_at_once() {
    in_namespace(async {
        let mut random = StdRng::seed_from_u64(7);
        let mut backend = Nftables::start(&options()).await.unwrap();
        let mut compared = 0;
        for round in 0..80 {
            let count = random.random_range(1..4);
            let changed: Vec<(Arc<str>, ServiceRules)> = (0..count)
                .map(|_| {
                    let name = format!("ns/s{}", random.random_range(0..4));
                    let ports =
                        (0..random.random_range(0..3u16)).map(|n| random_port(&mut random, n)).collect();
                    (name.into(), ServiceRules { ports, ..ServiceRules::default() })
                })
                .collect::<std::collections::BTreeMap<_, _>>()
                .into_iter()
                .collect();
            backend.apply(changed.clone()).await.unwrap();
            assert!(backend.in_effect, "round {round}: nft refused {changed:?}");
            // Who came first to an entrance is not to be seen afterwards.
            if backend.state.contested() {
                continue;
            }
            compared += 1;
            let stepwise = listing();
            let mut again = backend.state.clone();
            backend.nft.run(&format!("{}{}", backend.base, again.anew())).await.unwrap();
            assert_eq!(stepwise, listing(), "round {round}: {changed:?}");
        }
        assert!(compared > 20, "{compared}");
        backend.stop().await;
    });
}

/// Few addresses and ports, so that Services often want the same.
fn random_port(random: &mut StdRng, number: u16) -> PortRules {
    let endpoints: Vec<String> = (0..random.random_range(0..4))
        .map(|n| format!("10.244.0.{}:{}", 2 + n, random.random_range(80..82)))
        .collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let protocol = if random.random_bool(0.5) { Protocol::Tcp } else { Protocol::Udp };
    let node_port = random.random_bool(0.5).then(|| random.random_range(30_000..30_003));
    let mut port = port(protocol, 80 + number, node_port, &endpoints);
    port.addresses = vec![format!("10.96.0.{}", random.random_range(1..4)).parse().unwrap()];
    if random.random_bool(0.3) {
        port.affinity = Some(Duration::from_secs(random.random_range(10..12)));
    }
    if random.random_bool(0.3) {
        port.node_port_endpoints.truncate(1);
    }
    port
}

/// Serves its own address to whoever connects.
fn tcp_server(address: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.write_all(address.as_bytes());
        }
    });
}

fn ask_tcp(address: &str) -> Result<String, std::io::ErrorKind> {
    let address = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).map_err(|e| e.kind())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.kind())?;
    Ok(answer)
}

fn udp_server(address: &'static str) {
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(address.as_bytes(), client);
        }
    });
}

fn ask_udp(socket: &UdpSocket, to: &str) -> std::io::Result<String> {
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

const REFUSED: Result<String, std::io::ErrorKind> = Err(std::io::ErrorKind::ConnectionRefused);

#[test]
fn tcp_reaches_endpoints_or_is_refused_at_once() {
    in_namespace(async {
        const A: &str = "10.244.0.2:8080";
        const B: &str = "10.244.0.3:8080";
        // A pod may listen on a number that is a node port elsewhere.
        const OWN: &str = "10.244.0.2:30080";
        [A, B, OWN].into_iter().for_each(tcp_server);
        let mut backend = Nftables::start(&options()).await.unwrap();
        let web = |endpoints: &[&str]| vec![port(Protocol::Tcp, 80, Some(30_080), endpoints)];
        set(&mut backend, "ns/web", web(&[A])).await;
        for address in ["10.96.0.10:80", "127.0.0.1:30080"] {
            assert_eq!(ask_tcp(address).as_deref(), Ok(A), "{address}");
        }
        assert_eq!(ask_tcp(OWN).as_deref(), Ok(OWN));
        for nobody in ["10.96.0.10:81", "10.96.0.99:80", "127.0.0.1:30081"] {
            assert_eq!(ask_tcp(nobody), REFUSED, "{nobody}");
        }
        set(&mut backend, "ns/web", web(&[B])).await;
        assert_eq!(ask_tcp("10.96.0.10:80").as_deref(), Ok(B));
        set(&mut backend, "ns/web", web(&[])).await;
        for address in ["10.96.0.10:80", "127.0.0.1:30080"] {
            assert_eq!(ask_tcp(address), REFUSED, "{address}");
        }
        // A table that somebody has taken away comes back whole.
        set(&mut backend, "ns/web", web(&[A])).await;
        run_program("flush ruleset").await.unwrap();
        set(&mut backend, "ns/other", vec![]).await;
        let other = PortRules { addresses: vec!["10.96.0.11".parse().unwrap()], ..web(&[B]).remove(0) };
        set(&mut backend, "ns/other", vec![PortRules { node_port: None, ..other }]).await;
        assert_eq!(ask_tcp("10.96.0.10:80").as_deref(), Ok(A));
        assert_eq!(ask_tcp("10.96.0.11:80").as_deref(), Ok(B));
        // A new process takes over.
        let mut backend = Nftables::start(&options()).await.unwrap();
        assert_eq!(ask_tcp("10.96.0.10:80"), REFUSED);
        set(&mut backend, "ns/web", web(&[A])).await;
        assert_eq!(ask_tcp("10.96.0.10:80").as_deref(), Ok(A));
        backend.stop().await;
        let left = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
    });
}

#[test]
fn library_and_program_say_the_same() {
    in_namespace(async {
        let library = Nft::open();
        assert!(library.library.is_some(), "nft is installed, and so is its library");
        let program = Nft { library: None };
        for nft in [&library, &program, &library] {
            nft.run("add table ip x").await.unwrap();
            let error = nft.run("add table ip y\nadd rule ip x nochain accept").await.unwrap_err();
            assert!(error.to_string().contains("No such file or directory"), "{error}");
        }
        let left = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "table ip x\n", "all of a script, or nothing");
    });
}

#[test]
fn cluster_dns_answers_at_its_address() {
    in_namespace(async {
        let mut backend = Nftables::start(&options()).await.unwrap();
        let names = options().services.names().clone();
        let (end, ended) = (CancellationToken::new(), CancellationToken::new());
        let serving = {
            let (end, ended) = (end.clone(), ended.clone());
            tokio::spawn(async move {
                crate::dns::serve(names, [10, 96, 0, 53].into(), Mode::Nftables, false, end).await;
                ended.cancel();
            })
        };
        let ask = || {
            tokio::task::spawn_blocking(|| {
                let socket = UdpSocket::bind("10.244.0.2:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                // A query without a question: answered with FORMERR.
                ask_udp_bytes(&socket, &[0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "10.96.0.53:53").ok()
            })
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let answer = loop {
            if let Some(answer) = ask().await.unwrap() {
                break answer;
            }
            assert!(std::time::Instant::now() < deadline, "no answer");
        };
        assert_eq!((answer[1], answer[3] & 0xf), (7, 1));
        end.cancel();
        serving.await.unwrap();
        assert!(ended.is_cancelled());
        assert!(UdpSocket::bind("10.96.0.53:0").is_err(), "the address is not local any more");
        backend.stop().await;
    });
}

fn ask_udp_bytes(socket: &UdpSocket, question: &[u8], to: &str) -> std::io::Result<Vec<u8>> {
    socket.send_to(question, to)?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

#[test]
fn a_client_with_affinity_stays_when_others_leave() {
    in_namespace(async {
        const ALL: [&str; 3] = ["10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080"];
        ALL.into_iter().for_each(tcp_server);
        let mut backend = Nftables::start(&options()).await.unwrap();
        let sticky = |endpoints: &[&str]| {
            let affinity = Some(Duration::from_secs(600));
            vec![PortRules { affinity, ..port(Protocol::Tcp, 80, None, endpoints) }]
        };
        set(&mut backend, "ns/web", sticky(&ALL)).await;
        let first = ask_tcp("10.96.0.10:80").unwrap();
        for _ in 0..20 {
            assert_eq!(ask_tcp("10.96.0.10:80").as_ref(), Ok(&first));
        }
        let other = ALL.into_iter().find(|e| *e != first).unwrap();
        set(&mut backend, "ns/web", sticky(&[other, &first])).await;
        set(&mut backend, "ns/web", sticky(&ALL)).await;
        for _ in 0..20 {
            assert_eq!(ask_tcp("10.96.0.10:80").as_ref(), Ok(&first), "it had this one before");
        }
        set(&mut backend, "ns/web", sticky(&[other])).await;
        assert_eq!(ask_tcp("10.96.0.10:80").as_deref(), Ok(other), "its endpoint is gone");
    });
}

#[test]
fn datagrams_of_a_known_client_follow_the_endpoints() {
    in_namespace(async {
        const A: &str = "10.244.0.2:5353";
        const B: &str = "10.244.0.3:5353";
        [A, B].into_iter().for_each(udp_server);
        let mut backend = Nftables::start(&options()).await.unwrap();
        let dns = |endpoints: &[&str]| vec![port(Protocol::Udp, 53, Some(30_053), endpoints)];
        set(&mut backend, "ns/dns", dns(&[A])).await;
        // The same socket all along: to conntrack it is one flow.
        let clients = ["10.96.0.10:53", "127.0.0.1:30053"].map(|to| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            (socket, to)
        });
        for (client, to) in &clients {
            assert_eq!(ask_udp(client, to).unwrap(), A, "{to}");
        }
        set(&mut backend, "ns/dns", dns(&[B])).await;
        for (client, to) in &clients {
            assert_eq!(ask_udp(client, to).unwrap(), B, "{to}");
        }
        set(&mut backend, "ns/dns", dns(&[])).await;
        for (client, to) in &clients {
            assert!(ask_udp(client, to).is_err(), "{to} has no endpoint");
        }
        set(&mut backend, "ns/dns", dns(&[A, B])).await;
        for (client, to) in &clients {
            ask_udp(client, to).unwrap();
        }
    });
}

fn dual_options() -> Options {
    let second = Second {
        pod_cidr: ("fd00:244::".parse().unwrap(), 64),
        service_cidr: Some(("fd00:96::".parse().unwrap(), 112)),
        node_address: None,
    };
    Options { second: Some(second), ..options() }
}

fn port6(protocol: Protocol, number: u16, node_port: Option<u16>, endpoints: &[&str]) -> PortRules {
    let addresses = vec!["fd00:96::10".parse().unwrap()];
    PortRules { family: Family::V6, addresses, ..port(protocol, number, node_port, endpoints) }
}

#[test]
fn services_of_two_families() {
    in_namespace(async {
        const A: &str = "10.244.0.2:8080";
        const A6: &str = "[fd00:244::2]:8080";
        const B6: &str = "[fd00:244::3]:8080";
        const DNS6: &str = "[fd00:244::2]:5353";
        if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            return;
        }
        std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
        ip("-6 route add local fd00:244::/64 dev lo");
        ip("-6 route add local fd00:96::/112 dev lo");
        [A, A6, B6].into_iter().for_each(tcp_server);
        udp_server(DNS6);
        let mut backend = Nftables::start(&dual_options()).await.unwrap();
        let web = |six: &[&str]| {
            vec![port(Protocol::Tcp, 80, Some(30_080), &[A]), port6(Protocol::Tcp, 80, Some(30_080), six)]
        };
        set(&mut backend, "ns/web", web(&[A6])).await;
        for (address, endpoint) in
            [("10.96.0.10:80", A), ("[fd00:96::10]:80", A6), ("127.0.0.1:30080", A), ("[::1]:30080", A6)]
        {
            assert_eq!(ask_tcp(address).as_deref(), Ok(endpoint), "{address}");
        }
        for nobody in ["[fd00:96::10]:81", "[fd00:96::99]:80", "[fd00:96::10]:30080", "[::1]:30081"] {
            assert_eq!(ask_tcp(nobody), REFUSED, "{nobody}");
        }
        set(&mut backend, "ns/web", web(&[])).await;
        assert_eq!(ask_tcp("[fd00:96::10]:80"), REFUSED);
        assert_eq!(ask_tcp("10.96.0.10:80").as_deref(), Ok(A), "the other family goes on");
        let sticky = |endpoints: &[&str]| {
            let affinity = Some(Duration::from_secs(600));
            vec![PortRules { affinity, ..port6(Protocol::Tcp, 80, None, endpoints) }]
        };
        set(&mut backend, "ns/web", sticky(&[A6, B6])).await;
        let first = ask_tcp("[fd00:96::10]:80").unwrap();
        for _ in 0..20 {
            assert_eq!(ask_tcp("[fd00:96::10]:80").as_ref(), Ok(&first));
        }
        let other = if first == A6 { B6 } else { A6 };
        set(&mut backend, "ns/web", sticky(&[other])).await;
        assert_eq!(ask_tcp("[fd00:96::10]:80").as_deref(), Ok(other));
        // The same socket all along: to conntrack it is one flow.
        set(&mut backend, "ns/dns", vec![port6(Protocol::Udp, 53, None, &[DNS6])]).await;
        let client = UdpSocket::bind("[::]:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(ask_udp(&client, "[fd00:96::10]:53").unwrap(), DNS6);
        set(&mut backend, "ns/dns", vec![port6(Protocol::Udp, 53, None, &[])]).await;
        assert!(ask_udp(&client, "[fd00:96::10]:53").is_err(), "no endpoint");
        backend.stop().await;
        let left = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
        // A process of one family takes away what one of two left.
        let mut kept = Nftables::start(&Options { keep_rules: true, ..dual_options() }).await.unwrap();
        kept.stop().await;
        let mut single = Nftables::start(&options()).await.unwrap();
        let tables = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&tables.stdout), "table ip coracle\n");
        single.stop().await;
    });
}
