//! A whole cluster in one process, and what a test wants to know about it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{Process, coracle};
use super::{Https, Kubectl, Output, PATIENCE, repository};

/// Room for this many rootless clusters on one machine at once.
const SLOTS: u8 = 100;

/// What differs from a plain rootless cluster.
#[derive(Default)]
pub struct ClusterOptions {
    /// Rootful: AnyIP, nftables. Only inside a namespace of the test's own.
    pub rootful: bool,
    /// More arguments of `coracle up`.
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

pub struct Cluster {
    process: Process,
    options: ClusterOptions,
    slot: Slot,
    directory: TempDir,
    server: String,
    /// From the start of the process to the line that says that the API is ready, and that the node is.
    pub api_ready_after: Duration,
    pub node_ready_after: Duration,
}

impl Cluster {
    /// A rootless cluster whose node is ready.
    pub fn start() -> Cluster {
        Cluster::start_with(ClusterOptions::default())
    }

    /// A rootless cluster whose node has every sample's image.
    pub fn start_with_samples() -> Cluster {
        let cluster = Cluster::start();
        cluster.import_samples();
        cluster
    }

    /// A rootful cluster. The proof of a namespace keeps it away from the machine's own network.
    pub fn start_in(_namespace: &super::Namespace) -> Cluster {
        Cluster::start_with(ClusterOptions { rootful: true, ..ClusterOptions::default() })
    }

    pub fn start_with(options: ClusterOptions) -> Cluster {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        let slot = Slot::take();
        let started = Instant::now();
        let mut process = up(&options, &slot, directory.path(), "127.0.0.1:0");
        let server = api_ready(&mut process);
        let api_ready_after = started.elapsed();
        process
            .line("Node … ready", PATIENCE, |line| line.starts_with("Node ") && line.ends_with(" ready"));
        let node_ready_after = started.elapsed();
        Cluster { process, options, slot, directory, server, api_ready_after, node_ready_after }
    }

    /// Starts the process anew on the same data, the same port and the same addresses.
    pub fn restart(&mut self) {
        if self.process.running() {
            assert!(self.process.stop().success());
        }
        let listen = self.server.trim_start_matches("https://").to_owned();
        self.process = up(&self.options, &self.slot, self.directory.path(), &listen);
        self.server = api_ready(&mut self.process);
        self.process
            .line("Node … ready", PATIENCE, |line| line.starts_with("Node ") && line.ends_with(" ready"));
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `https://127.0.0.1:PORT`
    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// kubectl of the version 1.`minor`, as the administrator.
    pub fn kubectl_version(&self, minor: u32) -> Kubectl {
        Kubectl::new(minor, &self.kubeconfig(), self.directory.path())
    }

    /// Runs one kubectl command that must succeed; its standard output. Words are split at spaces.
    pub fn kubectl(&self, command: &str) -> String {
        self.kubectl_version(33).run(command)
    }

    /// Runs one kubectl command that may fail.
    pub fn try_kubectl(&self, command: &str) -> Output {
        self.kubectl_version(33).attempt(&command.split(' ').collect::<Vec<_>>())
    }

    /// Applies a manifest by kubectl's standard input.
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_version(33).with_input(&["apply", "-f", "-"], manifest).success()
    }

    /// Requests over HTTPS as the administrator, exactly as given.
    pub fn https(&self) -> Https {
        Https::from_kubeconfig(&self.kubeconfig())
    }

    /// `coracle` with this cluster's kubeconfig.
    pub fn coracle(&self) -> Command {
        let mut command = coracle();
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Puts a sample's module into the node's image store, as `coracle.dev/samples/TAG`.
    pub fn import(&self, module: &str, tag: &str) {
        let output = coracle()
            .args(["image", "import", "--data-dir"])
            .arg(self.data())
            .arg(repository("samples").join(module))
            .args(["--tag", &format!("coracle.dev/samples/{tag}")])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "image import {module}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Imports every sample.
    pub fn import_samples(&self) {
        self.import("hello-http/hello-http.wasm", "hello-http:v1");
        self.import("hello-http/hello-http-v2.wasm", "hello-http:v2");
        for name in ["counter", "job-hello", "tcp-echo", "hog", "toolbox"] {
            self.import(&format!("{name}/{name}.wasm"), &format!("{name}:v1"));
        }
    }

    pub fn apply_sample(&self, name: &str) {
        self.kubectl(&format!("apply -f {}", repository("samples").join(name).display()));
    }

    /// One field of one object, by JSONPath; empty when it is not there.
    pub fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&format!("get {object} -o jsonpath={{{path}}}"))
    }
}

fn up(options: &ClusterOptions, slot: &Slot, directory: &Path, listen: &str) -> Process {
    let mut command = coracle();
    command
        .args(["up", "--listen", listen, "--data-dir"])
        .arg(directory.join("data"))
        .arg("--kubeconfig")
        .arg(directory.join("kubeconfig"))
        .args(&options.arguments)
        .envs(options.environment.iter().map(|(name, value)| (name, value)));
    if !options.rootful {
        command.args(["--rootless", "--pod-cidr", &slot.pod_cidr(), "--service-cidr", &slot.service_cidr()]);
    }
    Process::start(command, &directory.join("log"))
}

pub(super) fn api_ready(process: &mut Process) -> String {
    let line = process.line("API server ready", PATIENCE, |line| line.starts_with("API server ready: "));
    let words: Vec<_> = line.split_whitespace().collect();
    words
        .iter()
        .find(|word| word.starts_with("https://"))
        .unwrap_or_else(|| panic!("no address in «{line}»"))
        .to_string()
}

/// A share of 127.0.0.0/8 that no other test on this machine uses; an abstract socket, which dies with us, holds it.
struct Slot {
    number: u8,
    _claim: UnixListener,
}

impl Slot {
    fn take() -> Slot {
        for number in 0..SLOTS {
            let name = SocketAddr::from_abstract_name(format!("coracle-test-slot-{number}")).unwrap();
            if let Ok(claim) = UnixListener::bind_addr(&name) {
                return Slot { number, _claim: claim };
            }
        }
        panic!("{SLOTS} clusters run already");
    }

    fn pod_cidr(&self) -> String {
        format!("127.{}.0.0/16", 20 + self.number)
    }

    fn service_cidr(&self) -> String {
        format!("127.{}.0.0/16", 130 + self.number)
    }
}
