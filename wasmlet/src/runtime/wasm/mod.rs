//! The Wasm runtime: one wasmtime engine for the node, every container a store (or a server of stores) in this process.

mod command;
mod config;
mod container;
mod activity;
mod cpu;
mod engine;
mod exec;
mod guest;
mod http;
mod http_admission;
mod http_body;
mod http_limits;
mod http_workers;
mod keyvalue;
mod keyvalue_node;
mod logs;
mod memory;
mod modules;
mod mounted_objects;
mod mounts;
mod outgoing;
mod p1_functions;
mod p1_poll;
mod p1_sockets;
mod p1_transfer;
mod pipes;
mod programs;
mod sockets;
mod sockets_p3;
mod sockets_p3_streams;
mod ticker;
mod tls;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::Either;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use engine::{Allocation, Capacity, Demand, EngineError, Machine};
pub use http_limits::{
    ANNOTATION_HTTP_CONCURRENCY, ANNOTATION_HTTP_INSTANCE_CONCURRENCY, ANNOTATION_HTTP_PORT,
    ANNOTATION_HTTP_QUEUE, ANNOTATION_HTTP_REUSE, ANNOTATION_HTTP_TIMEOUT, HTTP_PORT_DEFAULT,
};

use super::stdio::Attachments;
use super::{Container, ContainerSpec, PrepareError, Protocol, Runtime, StartError};
use crate::images::LocalImage;
use crate::images::compiled::CompiledCache;
use crate::network::host_ports;
use container::{Control, Sandbox, WasmContainer};
use cpu::{CpuAccount, Metered};
use guest::{FoundOpen, Given, GuestSetup};
use http::{HttpServer, Instances, ServerState};
use http_admission::Admission;
use http_limits::HttpLimits;
use keyvalue_node::NodeStores;
use memory::MemoryAccount;
use modules::{Modules, Prepared};
use p1_sockets::Listener;
use sockets::ContainerNetwork;
use ticker::Ticker;

/// The engine's version, as `containerRuntimeVersion` shows it.
pub const VERSION: &str = "48.0.8";

/// What the node gives its guests.
pub struct Options {
    pub demand: Demand,
    /// Threads for guests; None: one per CPU, and one more.
    pub worker_threads: Option<usize>,
    pub cache: CompiledCache,
}

/// RuntimeClass handler `wasmtime`. Must not be dropped on one of its own guests' threads (nobody else has them).
pub struct WasmRuntime {
    inner: Arc<Inner>,
    _threads: GuestThreads,
}

/// What containers hold on to, to run programs beside them.
struct Inner {
    engine: wasmtime::Engine,
    capacity: Capacity,
    ticker: Arc<Ticker>,
    modules: Arc<Modules>,
    /// One permit per command container.
    instances: Arc<Semaphore>,
    /// One permit per http request in progress.
    requests: Arc<Semaphore>,
    guests: Handle,
    scratch_dir: PathBuf,
    /// Nothing is ever in it.
    void_dir: PathBuf,
    node_stores: NodeStores,
}

/// What is opened on a command's behalf before it starts.
#[derive(Default)]
struct Open {
    listeners: Vec<Arc<Listener>>,
    forwarding: Option<DropGuard>,
}

/// Blocking file operations of all guests together.
const BLOCKING_THREADS_MAX: usize = 64;
/// Tasks a thread polls before it looks at sockets and timers again: a spinner's poll takes a whole tick.
const EVENT_INTERVAL: u32 = 11;

impl WasmRuntime {
    /// Sizes the engine by what the machine allows (see [`Self::capacity`]) and starts the guests' threads.
    pub fn new(options: Options) -> Result<Self, EngineError> {
        Machine::raise_open_files();
        // Beside the compiled modules: on the disk of the volumes, so that their files can be linked into it.
        let scratch_dir = options.cache.sibling("mounts");
        let void_dir = options.cache.sibling("void");
        for dir in [&scratch_dir, &void_dir] {
            empty_dir(dir).map_err(EngineError::Scratch)?;
        }
        let (engine, capacity) = engine::build(Machine::probe().capacity(options.demand))?;
        let ticker = Ticker::start(&engine).map_err(EngineError::Ticker)?;
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        threads
            .thread_name("wasm-guest")
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .event_interval(EVENT_INTERVAL)
            .enable_all();
        threads.worker_threads(options.worker_threads.unwrap_or_else(default_workers).max(1));
        let threads = GuestThreads(Some(threads.build().map_err(EngineError::Threads)?));
        let modules = Modules::new(&engine, options.cache)?;
        if let Some(bound) = &capacity.limited_by {
            tracing::warn!(instances = capacity.instances_max, requests = capacity.requests_max, %bound,
                "this machine holds fewer Wasm instances than asked for");
        }
        let inner = Inner {
            ticker,
            modules: Arc::new(modules),
            instances: permits(capacity.instances_max),
            requests: permits(capacity.requests_max),
            engine,
            capacity,
            guests: threads.handle().clone(),
            scratch_dir,
            void_dir,
            node_stores: NodeStores::default(),
        };
        Ok(WasmRuntime { inner: Arc::new(inner), _threads: threads })
    }

    /// How much this node can hold, from what was probed: the node's pod capacity must not exceed `instances_max`.
    pub fn capacity(&self) -> &Capacity {
        &self.inner.capacity
    }

    /// Forgets an image that was removed from the store. Containers that run it keep it.
    pub fn forget(&self, wasm_digest: &str) {
        self.inner.modules.forget(wasm_digest);
    }
}

impl Inner {
    /// `bytes`: see [`Modules::prepare`].
    async fn prepared(
        &self,
        image: &LocalImage,
        bytes: Option<Bytes>,
    ) -> Result<Arc<Prepared>, PrepareError> {
        if let Some(prepared) = self.modules.get(&image.wasm_digest) {
            return Ok(prepared);
        }
        let (modules, image) = (self.modules.clone(), image.clone());
        let reference = image.reference.clone();
        // In a task of its own: a caller that goes away must not undo the work for those who come after it.
        let work = self.guests.spawn(async move { modules.prepare(&image, bytes).await });
        work.await.unwrap_or_else(|error| {
            Err(PrepareError::Compile { reference, reason: format!("the compiler failed: {error}") })
        })
    }

    /// Mounts are opened (and files staged) here: disk work, so not on the caller's threads.
    async fn setup(
        &self,
        spec: &ContainerSpec,
        memory: Arc<MemoryAccount>,
        attachments: Arc<Attachments>,
        stdin: Option<mpsc::Receiver<Bytes>>,
    ) -> Result<Arc<GuestSetup>, StartError> {
        let node_store = spec.keyvalue_directory.as_deref().map(|directory| self.node_stores.open(directory));
        let given = Given { memory, attachments, stdin, node_store };
        if spec.mounts.is_empty() {
            return GuestSetup::new(spec, given, &self.scratch_dir).map(Arc::new);
        }
        let (spec, scratch) = (spec.clone(), self.scratch_dir.clone());
        let work = self.guests.spawn_blocking(move || GuestSetup::new(&spec, given, &scratch));
        work.await.unwrap_or(Err(StartError::ShuttingDown)).map(Arc::new)
    }

    fn start_command(
        &self,
        prepared: &Prepared,
        setup: Arc<GuestSetup>,
        Open { listeners, forwarding }: Open,
        container: &WasmContainer,
    ) -> Result<(), StartError> {
        let permit = self.instances.clone().try_acquire_owned().map_err(|_| {
            StartError::NodeFull(format!("{} instances are running", self.capacity.instances_max))
        })?;
        let (control, net) = (container.control.clone(), container.net.clone());
        // An exec'd program shares them with its container.
        let keyvalue = container.sandbox.is_some().then(|| setup.keyvalue.clone());
        let (cpu, ticker, engine) = (container.cpu.clone(), self.ticker.clone(), self.engine.clone());
        let run = match prepared {
            Prepared::Module { pre, .. } => {
                let (pre, void_dir) = (pre.clone(), self.void_dir.clone());
                let found_open = FoundOpen { listeners, void_dir };
                Either::Left(async move { command::run_module(engine, pre, &setup, found_open).await })
            }
            Prepared::Command(pre) => {
                let pre = pre.clone();
                Either::Right(Either::Left(async move { command::run_component(engine, pre, &setup).await }))
            }
            Prepared::CommandP3(pre) => {
                let pre = pre.clone();
                Either::Right(Either::Right(async move { command::run_p3(engine, pre, &setup).await }))
            }
            Prepared::Http(_) => return Err(StartError::Config("an http component is not a command".into())),
        };
        let run = Metered::new(run, cpu, ticker);
        self.guests.spawn(async move {
            let cleanup = async {
                drop(forwarding);
                net.forget_sockets();
                if let Some(keyvalue) = keyvalue {
                    keyvalue.clear();
                }
                drop(permit);
            };
            control.supervise(run, cleanup).await;
        });
        Ok(())
    }

    /// The listeners of a module that can accept and cannot listen: its TCP containerPorts at the pod's address.
    fn open_listeners(
        &self,
        prepared: &Prepared,
        spec: &ContainerSpec,
        net: &ContainerNetwork,
    ) -> Result<Vec<Arc<Listener>>, StartError> {
        let mut listeners = Vec::new();
        if !matches!(prepared, Prepared::Module { accepts: true, .. }) {
            return Ok(listeners);
        }
        let _guests = self.guests.enter();
        for port in p1_sockets::ports(spec) {
            let open = |ip| {
                let address = SocketAddr::new(ip, port);
                let failed = |source| StartError::Listen { address, source };
                let listener = http::listen(address).and_then(TcpListener::from_std).map_err(failed)?;
                Ok((listener, address))
            };
            let inner = spec.network.ips().into_iter().map(open).collect::<Result<_, StartError>>()?;
            listeners.push(Arc::new(Listener::new(inner)));
        }
        for address in listeners.iter().flat_map(|listener| listener.addresses()) {
            net.note_listener(address);
        }
        Ok(listeners)
    }

    /// A guest that listens for itself does so at its pod's address; what comes to its hostPorts is brought there until
    /// the guard is dropped.
    fn forward_host_ports(&self, spec: &ContainerSpec) -> Result<DropGuard, StartError> {
        let end = CancellationToken::new();
        let _guests = self.guests.enter();
        for port in &spec.ports {
            let Some(host_port) = port.host_port else { continue };
            for address in spec.network.host_addresses(port.host_ip) {
                let from = SocketAddr::new(address, host_port);
                let to = SocketAddr::new(spec.network.ip_behind(address), port.port);
                // On the node's network the guest itself listens there.
                if address != to.ip() {
                    let forwarded = host_ports::forward(from, to, port.protocol, end.clone());
                    forwarded.map_err(|source| StartError::Listen { address: from, source })?;
                }
            }
        }
        Ok(end.drop_guard())
    }

    fn start_http(
        &self,
        pre: &modules::HttpPre,
        setup: Arc<GuestSetup>,
        spec: &ContainerSpec,
        container: &WasmContainer,
    ) -> Result<(), StartError> {
        let limits = HttpLimits::from_annotations(&spec.annotations)?;
        let instances = Instances::of(pre, &limits, &spec.annotations)?;
        let mut bound = Vec::new();
        for address in http_limits::addresses(spec)? {
            let failed = |source| StartError::Listen { address, source };
            let listener = http::listen(address).map_err(failed)?;
            let _guests = self.guests.enter();
            bound.push((address, TcpListener::from_std(listener).map_err(failed)?));
        }
        let (addresses, listeners): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
        let pod = spec.network.clone();
        for address in &addresses {
            pod.note_bound(Protocol::Tcp, *address, true);
        }
        let control = container.control.clone();
        let server = Arc::new(HttpServer {
            engine: self.engine.clone(),
            instances,
            setup,
            control: control.clone(),
            cpu: container.cpu.clone(),
            ticker: self.ticker.clone(),
            limits,
            admission: Admission::new(limits, self.requests.clone(), container.memory.clone()),
            state: ServerState::new(),
        });
        self.guests.spawn(async move {
            let serving = server.clone().serve(listeners);
            let cleanup = async {
                for address in addresses {
                    pod.note_unbound(Protocol::Tcp, address);
                }
                server.state.clear().await;
                server.setup.keyvalue.clear();
            };
            control.supervise(serving, cleanup).await;
        });
        Ok(())
    }
}

#[async_trait]
impl Runtime for WasmRuntime {
    fn name(&self) -> &'static str {
        "wasmtime"
    }

    async fn prepare(&self, image: &LocalImage) -> Result<(), PrepareError> {
        self.inner.prepared(image, None).await.map(|_| ())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        let inner = &self.inner;
        let prepared = inner.prepared(&spec.image, None).await?;
        let memory = Arc::new(MemoryAccount::new(spec.limits.memory_bytes.filter(|limit| *limit > 0)));
        let (attachments, stdin) = Attachments::new(spec.stdin, spec.terminal);
        let attachments = Arc::new(attachments);
        let setup = inner.setup(&spec, memory.clone(), attachments.clone(), stdin).await?;
        let container = Arc::new(WasmContainer {
            control: Arc::new(Control::new(spec.log.clone(), Some(attachments.clone()))),
            cpu: Arc::new(CpuAccount::new(spec.limits.cpu_millis.filter(|limit| *limit > 0))),
            memory,
            net: setup.net.clone(),
            serves_http: matches!(*prepared, Prepared::Http(_)),
            sandbox: Some(Sandbox {
                runtime: inner.clone(),
                setup: setup.clone(),
                prepared: prepared.clone(),
                attachments,
            }),
        });
        match &*prepared {
            Prepared::Http(pre) => inner.start_http(pre, setup, &spec, &container)?,
            command => {
                let open = Open {
                    listeners: inner.open_listeners(command, &spec, &container.net)?,
                    forwarding: Some(inner.forward_host_ports(&spec)?),
                };
                inner.start_command(command, setup, open, &container)?;
            }
        }
        Ok(container)
    }
}

/// One more than CPUs: while spinners hold as many threads as there are CPUs, timers and sockets still find one that the
/// kernel wakes at once.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + 1
}

/// What a killed predecessor staged.
fn empty_dir(dir: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(dir)
}

fn permits(count: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((count as usize).min(Semaphore::MAX_PERMITS)))
}

/// The guests' own tokio runtime. It is dropped without waiting: a guest in a blocking file operation must not hold
/// up the node's end.
struct GuestThreads(Option<tokio::runtime::Runtime>);

impl GuestThreads {
    fn handle(&self) -> &tokio::runtime::Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("taken by drop only"),
        }
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
