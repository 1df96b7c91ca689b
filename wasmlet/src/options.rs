//! What a wasmlet is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use crate::logs::Limits;
use crate::network::{Cidr, ConnectBalancer, HostResolver, Resolver};
use crate::node::Heartbeat;
use crate::server::PORT;

/// Several wasmlets may run in one process: each has a name and a data directory of its own.
#[derive(Clone)]
pub struct Options {
    pub node_name: String,
    pub data_dir: PathBuf,
    /// Where the apiserver reaches this node: `InternalIP`, and what the server listens on.
    pub address: IpAddr,
    /// Another one is taken when this is in use.
    pub port: u16,
    /// Pod addresses lie in 127.0.0.0/8 instead of a range made local by a route.
    pub rootless: bool,
    /// Rootless: ranges in 127.0.0.0/8 that pods may reach (Services, other nodes' pods).
    pub reachable_loopback: Vec<Cidr>,
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
    /// Answers guests' name lookups.
    pub resolver: Arc<dyn Resolver>,
    /// Balances guests' connects to Services; None: they take the way every other connection takes.
    pub balancer: Option<Arc<dyn ConnectBalancer>>,
    /// Registries (`host` or `host:port`) spoken to without TLS, beside those on loopback.
    pub plain_http_registries: Vec<String>,
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
            port: PORT,
            rootless: false,
            reachable_loopback: Vec::new(),
            cluster_domain: "cluster.local".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: None,
            runtime: RuntimeKind::default(),
            guest_threads: None,
            heartbeat: Heartbeat::default(),
            log_limits: Limits::default(),
            resolver: Arc::new(HostResolver),
            balancer: None,
            plain_http_registries: Vec::new(),
        }
    }
}
