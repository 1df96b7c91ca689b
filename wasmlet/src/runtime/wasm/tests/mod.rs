//! Real guests in the real runtime: each test is a node of its own with its own pod range in 127.0.0.0/8.

mod commands;
mod density;
mod dual_stack;
mod http;
mod limits;
mod malicious;
mod p1_server;
mod p3;
mod sockets;
mod stores;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Demand, Options, WasmRuntime};
use crate::images::compiled::CompiledCache;
use crate::images::{ImageConfig, LocalImage, digest};
use crate::network::{self, Mode, Network, Request, ResolveError, Resolver};
use crate::runtime::stdio::Stdin;
use crate::runtime::{Container, ContainerSpec, DiscardLogs, Limits, LogSink, Runtime, Stream};

pub(super) struct Node {
    pub runtime: WasmRuntime,
    pub network: Network,
    pub dir: tempfile::TempDir,
}

/// Knows one name.
struct TestNames;

#[async_trait::async_trait]
impl Resolver for TestNames {
    async fn resolve(&self, name: &str, _: network::Families) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        // The IPv6 address must not reach a guest whose pod has none.
        match name {
            "db.test" => Ok(vec!["fd00::1".parse().unwrap(), "10.9.8.7".parse().unwrap()]),
            _ => Err(ResolveError::NotFound(name.to_owned())),
        }
    }
}

/// What a guest wrote.
#[derive(Default)]
pub(super) struct Written {
    out: Mutex<Vec<u8>>,
    err: Mutex<Vec<u8>>,
}

impl LogSink for Written {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Stdout => self.out.lock().extend_from_slice(bytes),
            Stream::Stderr => self.err.lock().extend_from_slice(bytes),
        }
    }
}

impl Written {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.lock()).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.lock()).into_owned()
    }

    pub async fn until_out(&self, text: &str) {
        eventually(|| self.out().contains(text)).await;
    }
}

pub(super) async fn eventually(mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s");
}

impl Node {
    pub async fn new() -> Self {
        Self::sized(32).await
    }

    pub async fn sized(instances_max: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let (second, third) = (1 + (std::process::id() + n / 32) % 126, n % 32 * 8);
        let cidr = format!("127.{second}.{third}.0/21");
        Self::with(instances_max, Mode::Rootless(cidr.parse().unwrap()), None).await
    }

    async fn with(instances_max: u32, mode: Mode, second_range: Option<network::Cidr6>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = WasmRuntime::new(Options {
            demand: Demand { instances_max, requests_max: 32 },
            worker_threads: None,
            cache: CompiledCache::open(&dir.path().join("compiled")).unwrap(),
        })
        .unwrap();
        let network = Network::new(network::Options {
            resolver: Some(Arc::new(TestNames)),
            second: second_range,
            ..network::Options::new(mode)
        })
        .await
        .unwrap();
        Node { runtime, network, dir }
    }

    pub fn image(&self, bytes: &[u8]) -> Arc<LocalImage> {
        let wasm_digest = digest::of_bytes(bytes);
        let wasm_path = self.dir.path().join(digest::sha256_hex(&wasm_digest).unwrap());
        std::fs::write(&wasm_path, bytes).unwrap();
        Arc::new(LocalImage {
            reference: "test.local/guest:latest".into(),
            digest: wasm_digest.clone(),
            wasm_digest,
            wasm_path,
            size_bytes: bytes.len() as u64,
            config: ImageConfig::default(),
        })
    }

    pub fn wat(&self, text: &str) -> Arc<LocalImage> {
        self.image(&wat::parse_str(text).unwrap())
    }

    pub fn sample(&self, name: &str) -> Arc<LocalImage> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../samples/{name}/{name}.wasm"));
        self.image(&std::fs::read(path).unwrap())
    }

    /// A guest under tests/guests.
    pub fn guest(&self, name: &str) -> Arc<LocalImage> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/runtime/wasm/tests/guests");
        self.image(&std::fs::read(dir.join(format!("{name}.wasm"))).unwrap())
    }

    /// A container whose output nobody keeps.
    pub fn quiet_spec(&self, image: &Arc<LocalImage>) -> ContainerSpec {
        ContainerSpec { log: Arc::new(DiscardLogs), ..self.spec(image.clone()).0 }
    }

    /// Runs a guest to its end and returns what it printed.
    pub async fn run(&self, image: &Arc<LocalImage>, args: &[&str]) -> String {
        let (mut spec, written) = self.spec(image.clone());
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let exit = self.start(spec).await.wait().await;
        assert_eq!(exit.code, 0, "{args:?}: {exit:?} {}", written.err());
        written.out().trim_end().to_owned()
    }

    /// A container in a pod of its own.
    pub fn spec(&self, image: Arc<LocalImage>) -> (ContainerSpec, Arc<Written>) {
        let written = Arc::new(Written::default());
        let pod_uid = format!("{:032x}", rand::random::<u128>());
        let spec = ContainerSpec {
            pod_namespace: "default".into(),
            pod_name: "pod".into(),
            container_name: "guest".into(),
            restart_count: 0,
            image,
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            objects: Vec::new(),
            keyvalue_directory: None,
            ports: Vec::new(),
            limits: Limits::default(),
            stdin: Stdin::None,
            terminal: false,
            network: self.network.create(&pod_uid, None, Request::default()).unwrap(),
            log: written.clone(),
            annotations: BTreeMap::new(),
            pod_uid,
        };
        (spec, written)
    }

    pub async fn start(&self, spec: ContainerSpec) -> Arc<dyn Container> {
        self.runtime.start(spec).await.unwrap()
    }
}

/// One request on a connection of its own: status and body.
pub(super) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    split_answer(&answer)
}

pub(super) fn split_answer(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, unchunked(body));
    }
    (status, body.to_owned())
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        let Some(piece) = after.get(..length).filter(|piece| !piece.is_empty()) else { break };
        body.push_str(piece);
        rest = after[length..].trim_start_matches("\r\n");
    }
    body
}

/// A preview 1 module around a body of `_start`.
pub(super) fn p1(body: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 1024) "file")
          (func $spin (loop $l (br $l)))
          (func $_start (export "_start") {body}))"#
    )
}

/// A wasi:http component around a body of `handle`.
pub(super) fn http_guest(body: &str) -> String {
    format!(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $response))
          (core module $m (func (export "handle") (param i32 i32) {body}))
          (core instance $i (instantiate $m))
          (func $handle (param "request" (own $request)) (param "response-out" (own $response))
            (canon lift (core func $i "handle")))
          (component $shim
            (import "request" (type $request (sub resource)))
            (import "response" (type $response (sub resource)))
            (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $response))))
            (export "incoming-request" (type $request))
            (export "response-outparam" (type $response))
            (export "handle" (func $handle)))
          (instance $handler (instantiate $shim
            (with "request" (type $request)) (with "response" (type $response)) (with "handle" (func $handle))))
          (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    )
}
