//! `coracle server` with virtual nodes: a cluster of any size that runs nothing, for what controllers and scheduler do.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::cluster::api_ready;
use super::process::{Process, coracle};
use super::{Https, Kubectl, Output, PATIENCE};

pub struct ControlPlane {
    // Nodes stop before the server does, and their directory goes last.
    nodes: Vec<Process>,
    server: Process,
    address: String,
    directory: TempDir,
}

impl ControlPlane {
    /// A server without nodes.
    pub fn start() -> ControlPlane {
        ControlPlane::start_with(&[])
    }

    /// With more flags of `coracle server`. For more than 250 nodes give `--pod-cidr 10.128.0.0/9`.
    pub fn start_with(arguments: &[&str]) -> ControlPlane {
        let directory = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        let mut command = coracle();
        command
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.path().join("server"))
            .arg("--kubeconfig")
            .arg(directory.path().join("kubeconfig"))
            .args(arguments);
        let mut server = Process::start(command, &directory.path().join("server.log"));
        let address = api_ready(&mut server);
        ControlPlane { nodes: Vec::new(), server, address, directory }
    }

    /// A server and ready virtual nodes `node-0`, `node-1`, …; one alone is called `node`.
    pub fn with_nodes(count: u32) -> ControlPlane {
        let mut cluster = ControlPlane::start();
        cluster.play("node", count, &[]);
        cluster
    }

    /// Starts virtual nodes of this name in a process of their own, and waits until they are ready. More flags as
    /// `coracle node --help` has them under "Virtual nodes".
    pub fn play(&mut self, name: &str, count: u32, arguments: &[&str]) -> &mut Process {
        let mut command = coracle();
        command
            .args(["node", "--runtime", "fake", "--count", &count.to_string(), "--node-name", name])
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments);
        let mut process = Process::start(command, &self.directory.path().join(format!("{name}.log")));
        let first = if count == 1 { format!("Node {name} ready") } else { format!("Nodes {name}-0 to ") };
        process.line("the virtual nodes are ready", PATIENCE, |line| line.starts_with(&first));
        self.nodes.push(process);
        self.nodes.last_mut().unwrap()
    }

    /// The process of virtual nodes that was started as the `index`th.
    pub fn players(&mut self) -> &mut Vec<Process> {
        &mut self.nodes
    }

    pub fn server(&mut self) -> &mut Process {
        &mut self.server
    }

    /// `https://127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// What nodes join with.
    pub fn token(&self) -> PathBuf {
        self.directory.path().join("server/node-token")
    }

    fn client(&self) -> Kubectl {
        Kubectl::new(33, &self.kubeconfig(), self.directory.path())
    }

    /// Runs one kubectl command that must succeed; its standard output. Words are split at spaces.
    pub fn kubectl(&self, command: &str) -> String {
        self.client().run(command)
    }

    /// Runs one kubectl command that may fail.
    pub fn try_kubectl(&self, command: &str) -> Output {
        self.client().attempt(&command.split(' ').collect::<Vec<_>>())
    }

    /// Applies a manifest by kubectl's standard input.
    pub fn apply(&self, manifest: &str) -> String {
        self.client().with_input(&["apply", "-f", "-"], manifest).success()
    }

    /// Requests over HTTPS as the administrator, exactly as given.
    pub fn https(&self) -> Https {
        Https::from_kubeconfig(&self.kubeconfig())
    }

    /// One field of one object, by JSONPath; empty when it is not there.
    pub fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&format!("get {object} -o jsonpath={{{path}}}"))
    }
}
