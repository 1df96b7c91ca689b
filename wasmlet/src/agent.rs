//! One wasmlet from start to end: machine, runtime, node, network, pods, server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::events::{EventRecorder, EventType};
use coracle_client::informer::{Informer, InformerScope, Informers};
use coracle_client::persistent_volumes::LOCAL_PATH_DIRECTORY;
use coracle_client::{Client, Resource};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::images::{self, ImageStore, StoreError};
use crate::logs::Logs;
use crate::network::{self, Cidr, Cidr6, Cidr6Error, CidrError, Mode, Network, NetworkError};
use crate::node::Reporter;
use crate::node::machine::Machine;
use crate::node::status::Facts;
use crate::options::{Options, RuntimeKind};
use crate::pods::Pods;
use crate::pods::context::{Context, Ledger, NodeFacts};
use crate::pods::image_collection::Collector;
use crate::pods::images::{AnyImage, Images};
use crate::pods::sources::Sources;
use crate::pods::{keyvalue, orphans};
use crate::runtime::Runtime;
use crate::runtime::fake::FakeRuntime;
use crate::runtime::wasm::{self, Demand, EngineError, WasmRuntime};
use crate::server::{self, Gate, ServingIdentity, Site, TlsError};
use crate::volumes::{Volumes, local_path};

/// Who the node is to those that call it.
pub struct Identity {
    /// A new one counts for new connections.
    pub serving: watch::Receiver<ServingIdentity>,
    /// Who signed the certificates of those that may call, PEM.
    pub client_ca: String,
}

/// The node is ready for pods.
#[derive(Debug, Clone)]
pub struct Ready {
    pub name: String,
    /// Where the node's server listens.
    pub server: SocketAddr,
    pub pod_cidr: String,
    pub pods_max: u64,
    /// What keeps the node from holding more pods, if the machine does.
    pub limited_by: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("node directory {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("images: {0}")]
    Images(#[from] StoreError),
    #[error("Wasm runtime: {0}")]
    Engine(#[from] EngineError),
    #[error("listen on {address}: {source}")]
    Listen { address: std::net::IpAddr, source: std::io::Error },
    #[error("the node's pod range: {0}")]
    Cidr(#[from] CidrError),
    #[error("the node's second pod range: {0}")]
    Cidr6(#[from] Cidr6Error),
    #[error("pod network: {0}")]
    Network(#[from] NetworkError),
    #[error("node server: {0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a node that is not told otherwise would like to hold.
const DEMAND: Demand = Demand { instances_max: 10_000, requests_max: 1_000 };
/// How long the end may take beyond the guests' own two seconds.
const END_MAX: Duration = Duration::from_secs(5);

/// Where a node with this data directory keeps its images; `coracle image` opens the same store.
pub fn images_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("images")
}

/// Runs the node until the shutdown. `ready` is called once, when the API says that the node is Ready.
pub async fn run(
    options: Options,
    client: Client,
    identity: Identity,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready) + Send,
) -> Result<(), Error> {
    // Everything this node starts ends with it, also when it ends by an error.
    let life = shutdown.child_token();
    let _end = life.clone().drop_guard();
    let directories = Directories::make(&options.data_dir)?;
    let listener = server::listen(options.address, options.port)
        .await
        .map_err(|source| Error::Listen { address: options.address, source })?;
    let server_address =
        listener.local_addr().map_err(|source| Error::Listen { address: options.address, source })?;
    let engine = build_runtime(&options, &directories).await?;
    let machine = {
        let data = options.data_dir.clone();
        tokio::task::spawn_blocking(move || Machine::probe(&data)).await?
    };
    let facts = Facts {
        name: options.node_name.clone(),
        address: options.address.to_string(),
        address6: options.address6.map(|address| address.to_string()),
        port: server_address.port(),
        machine,
        pods_max: options.max_pods.map_or(engine.pods_max, |max| engine.pods_max.min(u64::from(max))),
        runtimes: vec![engine.runtime.name().to_owned()],
        runtime_version: engine.version.clone(),
        labels: options.labels.clone(),
        annotations: directories.annotations(),
        taints: options.taints.clone(),
    };
    let reporter = Reporter::new(
        client.clone(),
        options.heartbeat,
        options.data_dir.clone(),
        engine.images.clone(),
        facts,
    );
    let informers = Informers::new(client.clone(), life.clone());
    let node = tokio::select! {
        node = reporter.register() => node,
        () = shutdown.cancelled() => return Ok(()),
    };
    let own = informers.scoped(Resource::of::<Node>(), scope(format!("metadata.name={}", options.node_name)));
    let recorder = EventRecorder::new(client.clone(), "kubelet", Some(&options.node_name));
    recorder.event_for(
        node_reference(&options.node_name),
        EventType::Normal,
        "Starting",
        "Starting kubelet.",
    );
    reporter.set_not_ready(Some("the node has no podCIDR yet".into()));
    let beating = tokio::spawn(reporter.clone().run(node, own.clone(), life.clone()));

    let (cidr, second) = tokio::select! {
        ranges = pod_ranges(&own, &options.node_name) => ranges?,
        () = shutdown.cancelled() => return Ok(()),
    };
    // In a cluster of two families, a rootless node's pods have an address of one.
    let second = second.filter(|_| !options.rootless);
    let network = Network::new(network::Options {
        mode: if options.rootless { Mode::Rootless(cidr) } else { Mode::AnyIp(cidr) },
        second,
        address: options.address,
        address6: options.address6,
        cluster_dns: options.cluster_dns,
        cluster_domain: options.cluster_domain.clone(),
        resolver: options.resolver.clone(),
        balancer: options.balancer.clone(),
        cluster_networks: options.cluster_networks.clone(),
    })
    .await
    .inspect_err(|error| reporter.set_not_ready(Some(error.to_string())))?;
    let network = Arc::new(network);
    reporter.limit_pods(network.pods_max());
    let facts = reporter.facts();

    let sources = Arc::new(Sources::new(client.clone(), life.clone()));
    let context = Arc::new(Context {
        client: client.clone(),
        recorder: recorder.clone(),
        runtimes: vec![engine.runtime],
        images: engine.images,
        network: network.clone(),
        volumes: Volumes {
            sources,
            disk: directories.volumes.clone(),
            memory: directories.memory.clone(),
            node: options.node_name.clone(),
            labels: facts.all_labels(),
            recorder: recorder.clone(),
            in_use: Default::default(),
        },
        logs: Arc::new(Logs::new(directories.pods.clone(), options.log_limits)),
        services: informers.of::<Service>(),
        node: NodeFacts {
            name: options.node_name.clone(),
            host_ips: std::iter::once(options.address).chain(options.address6.map(Into::into)).collect(),
            cluster_domain: options.cluster_domain.clone(),
            allocatable: facts.capacity(),
            labels: facts.all_labels(),
            own,
            messages: directories.messages.clone(),
            composed: directories.composed.clone(),
            keyvalue: directories.keyvalue.clone(),
        },
        ledger: Ledger::new(facts.amounts()),
        running: Default::default(),
        shutdown: life.clone(),
    });
    let informer =
        informers.scoped(Resource::of::<Pod>(), scope(format!("spec.nodeName={}", options.node_name)));
    let pods = Pods::new(context.clone());
    tokio::select! {
        () = informer.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    // Before any pod starts: what is left of pods that are gone must not be taken for theirs.
    orphans::remove(&informer, &directories.all()).await;
    keyvalue::forget_gone(&client, &directories.keyvalue).await;
    pods.follow(&informer);
    let removing = local_path::run(
        client.clone(),
        &informers,
        &options.node_name,
        directories.local_path.clone(),
        life.clone(),
    );
    tokio::spawn(removing);
    if let Some(store) = engine.store {
        let collector = Collector {
            store,
            pods: informer.clone(),
            data: options.data_dir.clone(),
            policy: options.image_collection,
            recorder: recorder.clone(),
            node: node_reference(&options.node_name),
            memory: Default::default(),
        };
        tokio::spawn(collector.run(reporter.short_of_disk(), life.clone()));
    }
    reporter.set_not_ready(None);
    tokio::select! {
        () = reporter.known_ready() => {}
        () = shutdown.cancelled() => {}
    }
    recorder.event_for(
        node_reference(&options.node_name),
        EventType::Normal,
        "NodeReady",
        format!("Node {} status is now: NodeReady", options.node_name),
    );
    ready(Ready {
        name: options.node_name.clone(),
        server: server_address,
        pod_cidr: second.map_or_else(|| cidr.to_string(), |second| format!("{cidr},{second}")),
        pods_max: facts.pods_max,
        limited_by: engine.limited_by,
    });

    let gate = Gate::new(Some(client), options.node_name.clone());
    let site =
        Arc::new(Site { context, pods: informer, rates: Default::default(), streams: Default::default() });
    let router = server::router(site);
    let served =
        server::serve(listener, identity.serving, identity.client_ca, router, gate, life.clone()).await;
    life.cancel();
    if tokio::time::timeout(END_MAX, pods.ended()).await.is_err() {
        tracing::warn!("some pods did not end in time");
    }
    network.close().await;
    beating.await?;
    Ok(served?)
}

fn scope(field_selector: String) -> InformerScope {
    InformerScope { field_selector: Some(field_selector), ..InformerScope::default() }
}

/// Upstream's events about nodes carry the name as the uid.
fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..ObjectReference::default()
    }
}

/// The ranges that node IPAM gave us, IPv4's and maybe one of IPv6: there already, or with a change of the node.
async fn pod_ranges(own: &Informer, name: &str) -> Result<(Cidr, Option<Cidr6>), Error> {
    #[derive(serde::Deserialize)]
    struct View {
        #[serde(default)]
        spec: SpecView,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct SpecView {
        #[serde(rename = "podCIDR")]
        first: Option<String>,
        #[serde(rename = "podCIDRs")]
        all: Option<Vec<String>>,
    }
    let (changed, mut changes) = watch::channel(());
    own.on_change(move |_| {
        changed.send_replace(());
    });
    loop {
        changes.borrow_and_update();
        let view = own.get("", name).and_then(|object| object.decode::<View>().ok());
        let listed = view.map(|view| view.spec.all.into_iter().flatten().chain(view.spec.first).collect());
        let mut all: Vec<String> = listed.unwrap_or_default();
        if let Some(range) = take_family(&mut all, |range| !range.contains(':')) {
            let second = take_family(&mut all, |range| range.contains(':'));
            return Ok((range.parse()?, second.map(|range| range.parse()).transpose()?));
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn take_family(all: &mut Vec<String>, is_of: impl Fn(&String) -> bool) -> Option<String> {
    all.iter().position(is_of).map(|at| all.swap_remove(at))
}

struct Engine {
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    /// Of a runtime that keeps images on disk.
    store: Option<Arc<ImageStore>>,
    version: String,
    pods_max: u64,
    limited_by: Option<String>,
}

async fn build_runtime(options: &Options, directories: &Directories) -> Result<Engine, Error> {
    if options.runtime == RuntimeKind::Fake {
        return Ok(Engine {
            runtime: Arc::new(FakeRuntime),
            images: Arc::new(AnyImage),
            store: None,
            version: "fake://1".into(),
            pods_max: u64::from(DEMAND.instances_max),
            limited_by: None,
        });
    }
    let images = directories.images.clone();
    let threads = options.guest_threads;
    let demand = Demand { instances_max: options.max_pods.unwrap_or(DEMAND.instances_max), ..DEMAND };
    let store_options =
        images::store::Options { plain_http_registries: options.plain_http_registries.clone() };
    tokio::task::spawn_blocking(move || {
        let store = ImageStore::open_with(&images, store_options)?;
        let runtime = WasmRuntime::new(wasm::Options {
            demand,
            worker_threads: threads,
            cache: store.compiled().clone(),
        })?;
        let capacity = runtime.capacity().clone();
        Ok(Engine {
            version: format!("{}://{}", runtime.name(), wasm::VERSION),
            pods_max: u64::from(capacity.instances_max),
            limited_by: capacity.limited_by,
            runtime: Arc::new(runtime),
            images: Arc::new(store.clone()),
            store: Some(store),
        })
    })
    .await?
}

/// On nodes whose volumes the attach/detach controller attaches.
const ATTACHED_FOR_IT: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Where the node keeps what.
struct Directories {
    images: PathBuf,
    /// One directory per pod: its containers' logs.
    pods: PathBuf,
    volumes: PathBuf,
    /// The data of volumes of the class `local-path`.
    local_path: PathBuf,
    messages: PathBuf,
    /// Emptied at every start.
    composed: PathBuf,
    keyvalue: PathBuf,
    memory: Option<PathBuf>,
}

impl Directories {
    fn make(data: &Path) -> Result<Self, Error> {
        let directories = Directories {
            images: images_directory(data),
            pods: data.join("pods"),
            volumes: data.join("volumes"),
            local_path: data.join("local-path"),
            messages: data.join("messages"),
            composed: data.join("composed"),
            keyvalue: data.join("keyvalue"),
            memory: memory_directory(data),
        };
        let _ = std::fs::remove_dir_all(&directories.composed);
        let Self { images, pods, volumes, local_path, messages, composed, keyvalue, .. } = &directories;
        for path in [images, pods, volumes, local_path, messages, composed, keyvalue] {
            std::fs::create_dir_all(path)
                .and_then(|()| {
                    // Secrets and users' data: for this node only.
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
                })
                .map_err(|source| Error::Directory { path: path.clone(), source })?;
        }
        Ok(directories)
    }

    /// What the storage controllers go by: where volumes of the class `local-path` may be made, and who attaches.
    fn annotations(&self) -> BTreeMap<String, String> {
        let real = self.local_path.canonicalize().unwrap_or_else(|_| self.local_path.clone());
        let named = real.to_str().map(|path| (LOCAL_PATH_DIRECTORY.to_owned(), path.to_owned()));
        // As the kubelet's default: volumes of drivers are attached for the node.
        named.into_iter().chain([(ATTACHED_FOR_IT.to_owned(), "true".to_owned())]).collect()
    }

    fn all(&self) -> orphans::Places {
        orphans::Places {
            logs: self.pods.clone(),
            by_uid: [Some(&self.volumes), Some(&self.messages), self.memory.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        }
    }
}

impl Drop for Directories {
    /// A memory directory that holds nothing is not left on the machine; one with pods' volumes waits for the restart.
    fn drop(&mut self) {
        if let Some(memory) = &self.memory
            && let Err(error) = std::fs::remove_dir(memory)
        {
            tracing::debug!(%error, path = %memory.display(), "the memory directory stays");
        }
    }
}

/// A directory of this data directory's own on the machine's memory file system; None where there is none.
fn memory_directory(data: &Path) -> Option<PathBuf> {
    use nix::sys::statfs::TMPFS_MAGIC;
    use sha2::Digest;
    let root = Path::new("/dev/shm");
    let is_memory = nix::sys::statfs::statfs(root).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    let real = data.canonicalize().ok()?;
    let digest = sha2::Sha256::digest(real.as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = root.join(format!("coracle-{short}"));
    let made = is_memory
        && std::fs::create_dir_all(&path).is_ok()
        && std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).is_ok();
    made.then_some(path)
}

#[cfg(test)]
mod tests;
