//! Virtual nodes: thousands of nodes in one process that run nothing, whose pods behave by annotation. They drive
//! scheduler and controllers at scale.
//!
//! They are no small wasmlets: one watch of pods and one of nodes feed all of them, three bounded queues write pods,
//! nodes and leases, and one server answers for their figures.

mod behaviour;
mod disks;
mod fleet;
mod leases;
mod nodes;
mod pod;
mod pods;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coracle_client::informer::{Informer, InformerScope, Informers};
use coracle_client::{Client, Resource, controller};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Identity;
use crate::node::Heartbeat;
use crate::server::{Gate, PORT, TlsError, listen, serve};
pub use behaviour::{PREFIX, check};
use fleet::{Fleet, Name};
use nodes::Template;

/// What virtual nodes are like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the apiserver reaches their server.
    pub address: IpAddr,
    /// Another one is taken when this is in use.
    pub port: u16,
    pub heartbeat: Heartbeat,
    pub labels: BTreeMap<String, String>,
    /// Given to the nodes in turn, as `topology.kubernetes.io/zone`.
    pub zones: Vec<String>,
    /// Only for nodes that are new.
    pub taints: Vec<Taint>,
    pub architecture: String,
    pub capacity: BTreeMap<String, Wire>,
    /// `coracle.dev/fake-…`, for what pods do not say.
    pub annotations: BTreeMap<String, String>,
}

impl Options {
    pub fn new(address: IpAddr) -> Self {
        let amount = |name: &str, value: &str| (name.to_owned(), Wire(value.to_owned()));
        Self {
            address,
            port: PORT,
            heartbeat: Heartbeat::default(),
            labels: BTreeMap::new(),
            zones: Vec::new(),
            taints: Vec::new(),
            architecture: "amd64".into(),
            capacity: [
                amount("cpu", "32"),
                amount("memory", "256Gi"),
                amount("ephemeral-storage", "1Ti"),
                amount("pods", "110"),
            ]
            .into(),
            annotations: BTreeMap::new(),
        }
    }
}

/// With whose rights the nodes write.
pub enum Access {
    /// One that may write all nodes and pods: a cluster's administrator, as upstream's simulators have it.
    Shared { client: Client, names: Vec<String> },
    /// Each node by its own certificate: what it may not do, it cannot.
    Own(Vec<(String, Client)>),
}

/// All nodes are Ready.
#[derive(Clone, Debug)]
pub struct Ready {
    pub nodes: usize,
    /// None without an identity to serve with.
    pub server: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}: {source}")]
    Listen { address: IpAddr, source: std::io::Error },
    #[error("the virtual nodes' server: {0}")]
    Tls(#[from] TlsError),
    #[error("a part of the virtual nodes crashed: {0}")]
    Crashed(#[from] tokio::task::JoinError),
}

/// Plays the nodes until the shutdown. `ready` is called once, when the API says that all of them are.
pub async fn run(
    options: Options,
    access: Access,
    identity: Option<Identity>,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready) + Send,
) -> Result<(), Error> {
    // Everything started here ends with it, also when it ends by an error.
    let life = shutdown.child_token();
    let _end = life.clone().drop_guard();
    let listener = match identity {
        None => None,
        Some(identity) => {
            let failed = |source| Error::Listen { address: options.address, source };
            let listener = listen(options.address, options.port).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Some((listener, bound, identity))
        }
    };
    let bound = listener.as_ref().map(|(_, bound, _)| *bound);
    let members: Vec<(Name, Client)> = match &access {
        Access::Shared { client, names } => {
            names.iter().map(|n| (n.as_str().into(), client.clone())).collect()
        }
        Access::Own(members) => {
            members.iter().map(|(n, client)| (n.as_str().into(), client.clone())).collect()
        }
    };
    let all = members.len();
    let fleet = Fleet::new(members, options.address);
    let known = follow(&fleet, &access, &life);

    let (counted, mut count) = watch::channel(0);
    let nodes = nodes::Nodes {
        fleet: fleet.clone(),
        template: Template {
            labels: options.labels,
            zones: options.zones,
            taints: options.taints,
            architecture: options.architecture,
            capacity: options.capacity,
            annotations: options.annotations,
        },
        heartbeat: options.heartbeat,
        port: bound.map_or(0, |bound| bound.port()),
        started: Instant::now(),
        ready: counted,
    };
    let mut names: Vec<_> = fleet.names().map(|(name, member)| (member.index, name.clone())).collect();
    names.sort();
    names.into_iter().for_each(|(_, name)| fleet.node_queue.add(name));
    let leases = leases::Leases { fleet: fleet.clone(), heartbeat: options.heartbeat };
    let pods = pods::Pods { fleet: fleet.clone() };
    let mut working = tokio::task::JoinSet::new();
    for (client, node) in access.each() {
        let informers = Informers::new(client.clone(), life.clone());
        working.spawn(disks::run(fleet.clone(), client.clone(), &informers, node, life.clone()));
    }
    let (queue, end) = (fleet.node_queue.clone(), life.clone());
    working.spawn(controller::run(Arc::new(nodes), queue, nodes::WRITERS, end));
    let (queue, end) = (fleet.lease_queue.clone(), life.clone());
    working.spawn(controller::run(Arc::new(leases), queue, leases::WRITERS, end));
    let (queue, end) = (fleet.pod_queue.clone(), life.clone());
    working.spawn(async move {
        // A new pod must not be given the address of one that is still to come in the first list.
        for informer in known {
            tokio::select! {
                () = informer.synced() => {}
                () = end.cancelled() => return,
            }
        }
        controller::run(Arc::new(pods), queue, pods::WRITERS, end).await;
    });

    tokio::select! {
        _ = count.wait_for(|count| *count >= all) => ready(Ready { nodes: all, server: bound }),
        () = shutdown.cancelled() => {}
    }
    if let Some((listener, _, identity)) = listener {
        let gate = Gate::new(access.any_client(), access.only_name());
        let router = server::router(fleet);
        serve(listener, identity.serving, identity.client_ca, router, gate, life.clone()).await?;
    }
    shutdown.cancelled().await;
    life.cancel();
    while let Some(ended) = working.join_next().await {
        ended?;
    }
    Ok(())
}

impl Access {
    fn any_client(&self) -> Option<Client> {
        match self {
            Access::Shared { client, .. } => Some(client.clone()),
            Access::Own(members) => members.first().map(|(_, client)| client.clone()),
        }
    }

    /// The clients there are, with the node whose one is, where it is one's.
    fn each(&self) -> Vec<(&Client, Option<&str>)> {
        match self {
            Access::Shared { client, .. } => vec![(client, None)],
            Access::Own(members) => {
                members.iter().map(|(name, client)| (client, Some(name.as_str()))).collect()
            }
        }
    }

    /// The node that is meant where a request names none.
    fn only_name(&self) -> String {
        match self {
            Access::Shared { names, .. } if names.len() == 1 => names.concat(),
            Access::Own(members) if members.len() == 1 => {
                members.iter().map(|(name, _)| name.as_str()).collect()
            }
            _ => String::new(),
        }
    }
}

/// Hands what watches bring to the fleet. The informers of pods.
fn follow(fleet: &Arc<Fleet>, access: &Access, life: &CancellationToken) -> Vec<Informer> {
    let start = |client: &Client, nodes: Option<String>, pods: String| {
        let informers = Informers::new(client.clone(), life.clone());
        let scope = |field_selector| InformerScope { field_selector, ..InformerScope::default() };
        let told = fleet.clone();
        informers.heads(Resource::of::<Node>(), scope(nodes), move |change| told.node_changed(change));
        let told = fleet.clone();
        informers.heads(Resource::of::<Pod>(), scope(Some(pods)), move |change| told.pod_changed(change))
    };
    match access {
        Access::Shared { client, .. } => vec![start(client, None, "spec.nodeName!=".into())],
        Access::Own(members) => members
            .iter()
            .map(|(name, client)| {
                start(client, Some(format!("metadata.name={name}")), format!("spec.nodeName={name}"))
            })
            .collect(),
    }
}
