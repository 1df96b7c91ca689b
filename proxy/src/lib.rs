//! Services on the node: their names are answered, and what clients send to their addresses reaches a ready endpoint.

mod announce;
mod balance;
pub mod dns;
mod follow;
mod health_check;
mod marks;
mod nftables;
mod routes;
mod services;
pub mod table;
mod userspace;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::events::EventRecorder;
use coracle_client::{Client, Informers};
use tokio_util::sync::CancellationToken;

pub use services::{Choice, Services};
pub use table::{Protocol, ServiceRules};

/// How traffic is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rules in the kernel; needs CAP_NET_ADMIN and the `nft` program.
    Nftables,
    /// Sockets in this process; needs nothing, reaches this machine's own clients.
    Userspace,
}

#[derive(Clone)]
pub struct Options {
    pub node_name: String,
    pub mode: Mode,
    /// The cluster's Service network: addresses in it that no Service has are refused.
    pub service_cidr: (Ipv4Addr, u8),
    /// The cluster's pod network: its traffic keeps its source address.
    pub pod_cidr: (Ipv4Addr, u8),
    /// What there is of IPv6; None: pods have IPv4 addresses only, and so have Services on this node.
    pub second: Option<Second>,
    /// The node's own address, the source of its connections to Services.
    pub node_address: IpAddr,
    /// The cluster's DNS address; None: this node does not serve it.
    pub dns_address: Option<Ipv4Addr>,
    /// What is known of Services, shared with others in this process.
    pub services: Services,
    /// Whether rules and routes stay in the kernel after an orderly end. They do where pods outlive this process.
    pub keep_rules: bool,
}

/// The cluster's IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Second {
    pub pod_cidr: (Ipv6Addr, u8),
    pub service_cidr: Option<(Ipv6Addr, u8)>,
    /// The node's own address.
    pub node_address: Option<Ipv6Addr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "Services need the `nft` program, which is missing: install it with `apt-get install nftables`, or run with --rootless"
    )]
    NftMissing,
    #[error("nft refused the rules: {0}")]
    Nft(String),
    #[error("running nft: {0}")]
    Run(#[source] std::io::Error),
    #[error("routes: {0}")]
    Routes(String),
}

/// Puts rules into effect. A backend keeps what it was told and changes only what differs.
#[async_trait]
trait Backend: Send {
    /// The rules of the named Services (`namespace/name`) are now these; none means that the Service is gone.
    async fn apply(&mut self, changed: Vec<(Arc<str>, ServiceRules)>) -> Result<(), Error>;
    /// Takes everything back at an orderly end, where leaving it would mislead.
    async fn stop(&mut self);
}

/// Serves until `shutdown`.
pub async fn run(options: Options, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    let ending = shutdown.child_token();
    let mut routes = None;
    let (announcer, announcing) = match options.mode {
        Mode::Nftables => announce::start(options.keep_rules, ending.clone())?,
        // Nothing can be made the node's own without privileges.
        Mode::Userspace => (announce::Announcer::default(), None),
    };
    let reach = if options.mode == Mode::Nftables { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let beside = follow::Beside { announcer, health: health_check::HealthChecks::new(reach) };
    let mut backend: Box<dyn Backend> = match options.mode {
        Mode::Nftables => {
            let keeper = routes::Keeper::start(&options, &informers).await?;
            routes = Some(tokio::spawn(keeper.run(ending.clone())));
            Box::new(nftables::Nftables::start(&options).await?)
        }
        Mode::Userspace => {
            let recorder = EventRecorder::new(client, "kube-proxy", Some(&options.node_name));
            Box::new(userspace::Userspace::new(recorder))
        }
    };
    let dns = options.dns_address.map(|address| {
        let names = options.services.names().clone();
        tokio::spawn(dns::serve(names, address, options.mode, options.keep_rules, ending.clone()))
    });
    let result = follow::run(&options, &informers, &mut *backend, &beside, shutdown).await;
    backend.stop().await;
    ending.cancel();
    for task in [routes, dns, announcing].into_iter().flatten() {
        task.await.ok();
    }
    result
}
