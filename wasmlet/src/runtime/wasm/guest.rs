//! What a guest is given: arguments, environment, directories, streams and network; and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_tls::WasiTlsCtx;

use super::keyvalue::KeyValue;
use super::keyvalue_node::NodeStore;
use super::logs::LogStream;
use super::memory::{MemoryAccount, StoreMemory};
use super::mounts::Mounts;
use super::outgoing::PodHttp;
use super::p1_sockets::{LISTEN_FDS, Listener, Sockets};
use super::pipes::{PipeInput, PipeOutput};
use super::sockets::{ContainerNetwork, Peers};
use super::sockets_p3::Held;
use crate::runtime::stdio::{Attachments, Stdio};
use crate::runtime::{ContainerSpec, LogSink, StartError, Stream};

/// A container's configuration, ready to make any number of stores from.
pub(super) struct GuestSetup {
    args: Vec<String>,
    env: Arc<[(String, String)]>,
    pub working_dir: Option<String>,
    pub mounts: Arc<Mounts>,
    streams: Streams,
    pub memory: Arc<MemoryAccount>,
    pub net: Arc<ContainerNetwork>,
    pub keyvalue: Arc<KeyValue>,
}

/// What a container's guests are given beside what its spec says.
pub(super) struct Given {
    pub memory: Arc<MemoryAccount>,
    pub attachments: Arc<Attachments>,
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub node_store: Option<Arc<NodeStore>>,
}

/// Where a guest's standard streams lead.
enum Streams {
    /// A container's: the log, and who is attached.
    Log { log: Arc<dyn LogSink>, attached: Arc<Attachments>, stdin: PipeInput },
    /// Those of a program that was exec'd: its client.
    Client { stdin: PipeInput, stdout: Option<PipeOutput>, stderr: Option<PipeOutput> },
}

/// State of a core module's store.
pub(super) struct ModuleState {
    pub wasi: WasiP1Ctx,
    pub sockets: Sockets,
    /// Every handle on it is at the same place; what there is to poll.
    pub stdin: PipeInput,
    pub net: Arc<ContainerNetwork>,
    memory: StoreMemory,
}

/// What a module finds open at its start beside its streams and directories.
pub(super) struct FoundOpen {
    pub listeners: Vec<Arc<Listener>>,
    pub void_dir: PathBuf,
}

/// State of a component's store.
pub(super) struct ComponentState {
    pub wasi: WasiCtx,
    pub table: ResourceTable,
    http: WasiHttpCtx,
    hooks: PodHttp,
    memory: StoreMemory,
    pub net: Arc<ContainerNetwork>,
    pub sockets_open: u32,
    /// Sockets of WASI 0.3, once there is one.
    pub held: Option<Held>,
    pub peers: Peers,
    pub keyvalue: Arc<KeyValue>,
    /// Filled when the guest first asks, as what follows.
    pub config: Option<WasiConfigVariables>,
    pub tls: Option<WasiTlsCtx>,
}

/// Handles of the host (streams, files, sockets, pollables) that one instance may hold.
const RESOURCES_MAX: usize = 8_192;

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl GuestSetup {
    pub fn new(spec: &ContainerSpec, given: Given, scratch: &Path) -> Result<Self, StartError> {
        let Given { memory, attachments: attached, stdin, node_store } = given;
        let stdin = PipeInput::new(stdin, attached.terminal);
        let env: Arc<[(String, String)]> = environment(spec).into();
        let keyvalue = KeyValue::new(spec.objects.clone(), env.clone(), node_store, memory.clone());
        let setup = GuestSetup {
            args: arguments(spec),
            env,
            working_dir: spec.working_dir.clone().or_else(|| spec.image.config.working_dir.clone()),
            mounts: Arc::new(Mounts::prepare(spec, scratch)?),
            streams: Streams::Log { log: spec.log.clone(), attached, stdin },
            memory,
            net: Arc::new(ContainerNetwork::new(spec.network.clone())),
            keyvalue: Arc::new(keyvalue),
        };
        setup.check()?;
        Ok(setup)
    }

    /// Another program in the same sandbox.
    pub fn beside(&self, args: Vec<String>, stdio: Stdio) -> Result<Self, StartError> {
        let output = |sender: Option<mpsc::Sender<Bytes>>| {
            sender.map(|sender| PipeOutput::new(sender, stdio.terminal))
        };
        let mut env: Vec<_> = self.env.to_vec();
        if let Some(dir) = self.working_dir.as_ref().filter(|_| !env.iter().any(|(name, _)| name == "PWD")) {
            env.push(("PWD".to_owned(), dir.clone()));
        }
        let setup = GuestSetup {
            args,
            env: env.into(),
            working_dir: self.working_dir.clone(),
            mounts: self.mounts.clone(),
            streams: Streams::Client {
                stdin: PipeInput::new(stdio.stdin, stdio.terminal),
                stdout: output(stdio.stdout),
                stderr: output(stdio.stderr),
            },
            memory: Arc::new(MemoryAccount::within(self.memory.clone())),
            net: Arc::new(ContainerNetwork::new(self.net.pod.clone())),
            keyvalue: self.keyvalue.clone(),
        };
        setup.check()?;
        Ok(setup)
    }

    /// A line of the host about the guest, where its stderr goes.
    pub fn complain(&self, line: &str) {
        if let Streams::Log { log, attached, .. } = &self.streams {
            log.write(Stream::Stderr, line.as_bytes());
            attached.write(Stream::Stderr, line.as_bytes());
        }
    }

    /// What the program of the container is called.
    pub fn program(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    pub fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn check(&self) -> Result<(), StartError> {
        let setup = self;
        for text in setup.args.iter().chain(setup.env.iter().flat_map(|(name, value)| [name, value])) {
            if text.contains('\0') {
                return Err(StartError::Config(format!("NUL in an argument or variable: {text:?}")));
            }
        }
        // Found out here, once, and not by every instance; a mount that is wrong is a start error, not an exit.
        setup.context(None)?;
        Ok(())
    }

    fn context(&self, found_open: Option<&FoundOpen>) -> Result<WasiCtxBuilder, StartError> {
        let mut builder = WasiCtx::builder();
        builder
            .args(&self.args)
            .envs(&self.env[..])
            .allow_tcp(true)
            .allow_udp(true)
            .allow_ip_name_lookup(true);
        match &self.streams {
            Streams::Log { log, attached, stdin } => {
                let stream = |which| LogStream::new(log.clone(), attached.clone(), which);
                builder.stdin(stdin.clone()).stdout(stream(Stream::Stdout)).stderr(stream(Stream::Stderr));
            }
            Streams::Client { stdin, stdout, stderr } => {
                builder.stdin(stdin.clone());
                if let Some(stdout) = stdout {
                    builder.stdout(stdout.clone());
                }
                if let Some(stderr) = stderr {
                    builder.stderr(stderr.clone());
                }
            }
        }
        if let Some(dir) = &self.working_dir {
            builder.initial_cwd(dir);
        }
        let mut preopen = |host_path: &Path, container_path: &str, perms| {
            builder.preopened_dir(host_path, container_path, perms).map(|_| ()).map_err(|error| {
                let source = match error.downcast_ref::<std::io::Error>() {
                    Some(io) => std::io::Error::new(io.kind(), io.to_string()),
                    None => std::io::Error::other(format!("{error:#}")),
                };
                StartError::Mount { container_path: container_path.to_owned(), source }
            })
        };
        if let Some(FoundOpen { listeners, void_dir }) = found_open {
            // Takes the listeners' numbers in wasmtime's own table, so that the directories come after them.
            listeners.iter().try_for_each(|_| preopen(void_dir, "", FsPerms::ReadOnly))?;
        }
        for mount in self.mounts.directories() {
            let perms = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            preopen(&mount.host_path, &mount.container_path, perms)?;
        }
        if let Some(found_open) = found_open.filter(|found_open| !found_open.listeners.is_empty()) {
            builder.env(LISTEN_FDS, found_open.listeners.len().to_string());
        }
        let net = self.net.clone();
        builder.socket_addr_check(move |address, usage| {
            let allowed = net.allows(address, usage);
            Box::pin(async move { allowed })
        });
        Ok(builder)
    }

    pub fn module_store(
        &self,
        engine: &Engine,
        found_open: FoundOpen,
    ) -> Result<Store<ModuleState>, StartError> {
        let (Streams::Log { stdin, .. } | Streams::Client { stdin, .. }) = &self.streams;
        let state = ModuleState {
            wasi: self.context(Some(&found_open))?.build_p1(),
            sockets: Sockets::new(found_open.listeners),
            stdin: stdin.clone(),
            net: self.net.clone(),
            memory: StoreMemory::new(self.memory.clone()),
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.memory);
        yield_on_epoch(&mut store);
        Ok(store)
    }

    pub fn component_store(&self, engine: &Engine) -> Result<Store<ComponentState>, StartError> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let state = ComponentState {
            wasi: self.context(None)?.build(),
            table,
            http: WasiHttpCtx::new(),
            hooks: PodHttp::new(self.net.pod.clone()),
            memory: StoreMemory::new(self.memory.clone()),
            net: self.net.clone(),
            sockets_open: 0,
            held: None,
            peers: Peers::new(),
            keyvalue: self.keyvalue.clone(),
            config: None,
            tls: None,
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.memory);
        yield_on_epoch(&mut store);
        Ok(store)
    }
}

/// Every tick the guest yields to tokio, which is where it waits for its turn, its quota, or is dropped.
fn yield_on_epoch<T>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
}

/// argv as OCI makes it: `command` replaces the image's entrypoint, and with it its cmd; `args` replaces cmd.
/// A bare Wasm artifact has no entrypoint: its name stands for it.
fn arguments(spec: &ContainerSpec) -> Vec<String> {
    let config = &spec.image.config;
    let mut argv = if !spec.command.is_empty() {
        spec.command.clone()
    } else if !config.entrypoint.is_empty() {
        config.entrypoint.clone()
    } else {
        vec![module_name(&spec.image.reference)]
    };
    if !spec.args.is_empty() {
        argv.extend(spec.args.iter().cloned());
    } else if spec.command.is_empty() {
        argv.extend(config.cmd.iter().cloned());
    }
    argv
}

/// `registry:5000/team/counter:1.2@sha256:…` is `counter`.
fn module_name(reference: &str) -> String {
    let path = reference.split('@').next().unwrap_or(reference);
    let last = path.rsplit('/').next().unwrap_or(path);
    last.split(':').next().unwrap_or(last).to_owned()
}

/// The image's variables under the spec's; of two with one name the later stands.
fn environment(spec: &ContainerSpec) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, value) in spec.image.config.env.iter().chain(&spec.env) {
        match env.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names() {
        for (reference, name) in [
            ("docker.io/library/counter:latest", "counter"),
            ("localhost:5000/a/b:1", "b"),
            ("registry/x@sha256:00", "x"),
            ("x", "x"),
        ] {
            assert_eq!(module_name(reference), name);
        }
    }
}
