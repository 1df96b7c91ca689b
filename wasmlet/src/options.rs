//! What a wasmlet is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use crate::images::collection::Policy;
use crate::logs::Limits;
use crate::network::{ConnectBalancer, Ranges, Resolver};
use crate::node::Heartbeat;
use crate::server::PORT;

/// Several wasmlets may run in one process: each has a name and a data directory of its own.
#[derive(Clone)]
pub struct Options {
    pub node_name: String,
    pub data_dir: PathBuf,
    /// Where the apiserver reaches this node: `InternalIP`, and what the server listens on.
    pub address: IpAddr,
    /// The node's other address, of IPv6, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// Another one is taken when this is in use.
    pub port: u16,
    /// Pod addresses lie in 127.0.0.0/8 instead of a range made local by a route.
    pub rootless: bool,
    /// Of the cluster's Services and pods.
    pub cluster_networks: Ranges,
    /// The cluster's DNS server.
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub labels: BTreeMap<String, String>,
    /// Only when the node is new.
    pub taints: Vec<Taint>,
    /// None: as many as the machine and the pod range hold.
    pub max_pods: Option<u32>,
    pub runtime: RuntimeKind,
    /// Threads for guests; None: one per CPU.
    pub guest_threads: Option<usize>,
    pub heartbeat: Heartbeat,
    pub log_limits: Limits,
    /// Answers guests' lookups for the cluster's DNS server in this process; None: it is asked over the network.
    pub resolver: Option<Arc<dyn Resolver>>,
    /// Balances guests' connects to Services; None: they take the way every other connection takes.
    pub balancer: Option<Arc<dyn ConnectBalancer>>,
    /// Registries (`host` or `host:port`) spoken to without TLS, beside those on loopback.
    pub plain_http_registries: Vec<String>,
    /// When images that no pod uses are removed.
    pub image_collection: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeKind {
    #[default]
    Wasm,
    /// Runs nothing: for tests of scale. Every image is there.
    Fake,
}

impl Options {
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Options {
            node_name: node_name.into(),
            data_dir: data_dir.into(),
            address: Ipv4Addr::LOCALHOST.into(),
            address6: None,
            port: PORT,
            rootless: false,
            cluster_networks: Ranges::default(),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10).into(),
            cluster_domain: "cluster.local".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: None,
            runtime: RuntimeKind::default(),
            guest_threads: None,
            heartbeat: Heartbeat::default(),
            log_limits: Limits::default(),
            resolver: None,
            balancer: None,
            plain_http_registries: Vec::new(),
            image_collection: Policy::default(),
        }
    }
}
