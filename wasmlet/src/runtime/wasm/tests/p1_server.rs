//! Preview 1 servers: they find their listeners open, accept, answer, and learn of their end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Node, get};
use crate::runtime::{ContainerSpec, Mount, Port, Protocol};

/// Functions and memory of a server. Answers are 41 bytes at 1024; a request is read to 4096.
pub(super) fn server(start: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "sock_recv"
            (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $flags (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 1024) "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n")
          (data (i32.const 512) "file")
          ;; an iovec of the answer at 0, one to read to at 8
          (data (i32.const 0) "\00\04\00\00\29\00\00\00\00\10\00\00\00\04\00\00")
          (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
          (func $fd (result i32) (i32.load (i32.const 256)))
          (func $_start (export "_start") {start}))"#
    )
}

/// Blocking calls, one client after the other; ends with the error of accept.
const BLOCKING: &str = "
    (call $check (call $flags (i32.const 3) (i32.const 0)))
    (loop $next
      (call $check (call $accept (i32.const 3) (i32.const 0) (i32.const 256)))
      (call $check (call $recv (call $fd) (i32.const 8) (i32.const 1) (i32.const 0) (i32.const 260) (i32.const 264)))
      (call $check (call $send (call $fd) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 260)))
      (call $check (call $shutdown (call $fd) (i32.const 2)))
      (call $check (call $close (call $fd)))
      (br $next))";

/// Polls the listener (subscription at 300, with a clock of ten minutes at 348), then the connection.
pub(super) const POLLING: &str = r#"
    (local $errno i32)
    (i32.store8 (i32.const 308) (i32.const 1))
    (i64.store (i32.const 372) (i64.const 600000000000))
    (i32.store (i32.const 364) (i32.const 1))
    (loop $next
      (i32.store (i32.const 316) (i32.const 3))
      (local.set $errno (call $accept (i32.const 3) (i32.const 4) (i32.const 256)))
      ;; nobody is there: wait for somebody
      (if (i32.eq (local.get $errno) (i32.const 6)) (then
        (call $check (call $poll (i32.const 300) (i32.const 600) (i32.const 2) (i32.const 260)))
        (if (i32.ne (i32.load (i32.const 260)) (i32.const 1)) (then (call $exit (i32.const 91))))
        (br $next)))
      (call $check (local.get $errno))
      (i32.store (i32.const 316) (call $fd))
      (call $check (call $poll (i32.const 300) (i32.const 600) (i32.const 2) (i32.const 260)))
      (if (call $read (call $fd) (i32.const 8) (i32.const 1) (i32.const 260)) (then (call $exit (i32.const 92))))
      (call $check (call $write (call $fd) (i32.const 0) (i32.const 1) (i32.const 260)))
      (call $check (call $close (call $fd)))
      (br $next))"#;

fn port(port: u16) -> Port {
    Port { port, protocol: Protocol::Tcp, host_port: None, host_ip: None }
}

fn at(spec: &ContainerSpec, port: u16) -> SocketAddr {
    SocketAddr::new(spec.network.ip().into(), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_serve_and_end_when_asked() {
    let node = Node::new().await;
    for body in [BLOCKING, POLLING] {
        let image = node.wat(&server(body));
        let mut pods = Vec::new();
        for _ in 0..2 {
            let (mut spec, _) = node.spec(image.clone());
            spec.ports = vec![port(8080)];
            pods.push((at(&spec, 8080), spec.network.clone(), node.start(spec).await));
        }
        for (address, _, container) in &pods {
            for _ in 0..3 {
                let got = tokio::spawn(get(*address, "/")).await;
                let exit = tokio::time::timeout(Duration::from_millis(1), container.wait()).await;
                assert_eq!(got.ok(), Some((200, "ok\n".into())), "{exit:?}");
            }
            assert!(tokio::time::timeout(Duration::ZERO, container.wait()).await.is_err(), "still there");
        }
        for (address, pod, container) in pods {
            let asked = Instant::now();
            container.stop(Duration::from_secs(30)).await;
            assert!(asked.elapsed() < Duration::from_secs(5), "a parked accept wakes: {:?}", asked.elapsed());
            assert_eq!(container.wait().await.code, 28, "accept says that the listener is no more");
            assert!(TcpStream::connect(address).await.is_err());
            assert!(pod.bound().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_first_and_are_counted() {
    let node = Node::new().await;
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "x").unwrap();
    // Descriptors 3 and 4 are listeners, 5 is the mounted directory, and the variable says 2.
    let start = r#"
        (call $check (call $prestat (i32.const 3) (i32.const 700)))
        (if (i32.ne (i32.load8_u (i32.const 700)) (i32.const 1)) (then (call $exit (i32.const 80))))
        (call $check (call $prestat (i32.const 4) (i32.const 700)))
        (call $check (call $prestat (i32.const 5) (i32.const 700)))
        (if (i32.load8_u (i32.const 700)) (then (call $exit (i32.const 81))))
        (if (i32.ne (call $prestat (i32.const 6) (i32.const 700)) (i32.const 8)) (then (call $exit (i32.const 82))))
        ;; a listener is no directory that holds anything
        (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 0)
            (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 700))) (then (call $exit (i32.const 83))))
        (call $check (call $open (i32.const 5) (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 700)))
        (call $check (call $environ (i32.const 800) (i32.const 900)))
        ;; "LISTEN_FDS=2"
        (if (i32.ne (i32.load8_u (i32.const 911)) (i32.const 50)) (then (call $exit (i32.const 84))))
        (call $check (call $close (i32.const 3)))
        (if (i32.ne (call $accept (i32.const 3) (i32.const 0) (i32.const 256)) (i32.const 57))
          (then (call $exit (i32.const 85))))
        (call $check (call $flags (i32.const 4) (i32.const 0)))
        (drop (call $accept (i32.const 4) (i32.const 0) (i32.const 256)))"#;
    let (mut spec, _) = node.spec(node.wat(&server(start)));
    spec.ports = vec![port(8080), port(9090), port(8080)];
    spec.mounts =
        vec![Mount { host_path: host.path().into(), container_path: "/data".into(), read_only: true }];
    let (closed, open) = (at(&spec, 8080), at(&spec, 9090));
    let pod = spec.network.clone();
    let container = node.start(spec).await;
    super::eventually(|| container.stats().cpu_nanos > 0 && pod.bound().len() == 1).await;
    assert!(TcpStream::connect(closed).await.is_err(), "the guest closed it");
    TcpStream::connect(open).await.unwrap();
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_port_there_is_no_listener_and_without_accept_no_port_is_taken() {
    let node = Node::new().await;
    let accept = "(call $exit (call $accept (i32.const 3) (i32.const 0) (i32.const 256)))";
    let (spec, _) = node.spec(node.wat(&server(accept)));
    assert_eq!(node.start(spec).await.wait().await.code, 57, "not a socket");

    let (mut spec, _) = node.spec(node.wat(&super::p1("(call $spin)")));
    spec.ports = vec![port(8080)];
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    assert!(TcpStream::connect(address).await.is_err());
    container.kill();
    container.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_all_of_a_large_answer() {
    let node = Node::new().await;
    // 4 MiB in one blocking write of 64 buffers of a page each.
    let start = "(local $i i32)
        (drop (memory.grow (i32.const 1)))
        (loop $more
          (i32.store (i32.add (i32.const 2048) (i32.mul (local.get $i) (i32.const 8))) (i32.const 65536))
          (i32.store (i32.add (i32.const 2052) (i32.mul (local.get $i) (i32.const 8))) (i32.const 65536))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 64))))
        (call $check (call $flags (i32.const 3) (i32.const 0)))
        (call $check (call $accept (i32.const 3) (i32.const 0) (i32.const 256)))
        (call $check (call $write (call $fd) (i32.const 2048) (i32.const 64) (i32.const 260)))
        (if (i32.ne (i32.load (i32.const 260)) (i32.const 4194304)) (then (call $exit (i32.const 86))))";
    let (mut spec, _) = node.spec(node.wat(&server(start)));
    spec.ports = vec![port(8080)];
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut answer = vec![1; 4 << 20];
    client.read_exact(&mut answer).await.unwrap();
    assert!(answer.iter().all(|byte| *byte == 0));
    assert_eq!(container.wait().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go, and half a minute to build and compile"]
async fn a_go_program_serves() {
    let node = Node::new().await;
    let source =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtime/wasm/tests/guests/goserver");
    let built = node.dir.path().join("go.wasm");
    let done = std::process::Command::new("go")
        .args(["build", "-ldflags=-s -w", "-o"])
        .arg(&built)
        .arg(".")
        .envs([("GOOS", "wasip1"), ("GOARCH", "wasm")])
        .current_dir(source)
        .status();
    assert!(done.unwrap().success());
    let image = node.image(&std::fs::read(built).unwrap());
    let (mut spec, written) = node.spec(image);
    spec.ports = vec![port(8080)];
    spec.env.push(("POD_NAME".into(), "p1".into()));
    let address = at(&spec, 8080);
    let container = node.start(spec).await;
    written.until_out("listening").await;
    let many = (0..100).map(|_| tokio::spawn(get(address, "/")));
    for answer in futures::future::join_all(many).await {
        let (status, body) = answer.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains("hello p1"), "{body}");
    }
    container.stop(Duration::from_secs(30)).await;
    assert_eq!(container.wait().await.code, 0);
    assert!(written.out().contains("ended: accept"), "{}", written.out());
}
