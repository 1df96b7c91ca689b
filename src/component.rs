//! Single components against an apiserver elsewhere, for layouts that keep them apart.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use coracle_apiserver::pki::Pair;
use coracle_client::Client;
use coracle_client::http::Https;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::CertificateDer;

use crate::agent::{self, Agent};
use crate::data_directory::DataDirectory;
use crate::join;
use crate::monitoring::{self, Listening};
use crate::networks::{self, NetworkOptions};
use crate::node::address_towards;
use crate::options::{DataOptions, NodeCloudOptions, NodeOptions};
use crate::process;
use crate::server::Components;
use crate::wasmlet_options::WasmletOptions;

/// As whom the cloud controllers write.
pub const CLOUD_FIELD_MANAGER: &str = "cloud-controller-manager";

#[derive(Args)]
pub struct Remote {
    /// The kubeconfig with the component's identity
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// error, warn, info, debug, trace, or a filter such as info,coracle_scheduler=debug
    #[arg(long, value_name = "L", default_value = "warn")]
    log_level: String,
}

impl Remote {
    async fn config(&self) -> anyhow::Result<kube::Config> {
        read_config(&self.kubeconfig).await
    }
}

pub async fn read_config(path: &std::path::Path) -> anyhow::Result<kube::Config> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("--kubeconfig {}", path.display()))
}

/// The CA that a kubeconfig names, PEM; empty where it names none.
pub fn ca_of(config: &kube::Config) -> String {
    let certificates = config.root_cert.iter().flatten();
    certificates.map(|der| join::to_pem(&CertificateDer::from(der.as_slice()))).collect()
}

#[derive(Args)]
pub struct Scheduler {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    listening: Listening,
    /// The port of /healthz and /metrics; 0 serves nothing
    #[arg(long, value_name = "PORT", default_value_t = 10259)]
    secure_port: u16,
    #[command(flatten)]
    options: coracle_scheduler::Options,
}

impl Scheduler {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.remote.log_level.clone();
        process::run(&level, |shutdown| async move {
            let config = self.remote.config().await?;
            let ca = ca_of(&config);
            let client = Client::new(Https::new(config)?, "kube-scheduler");
            monitoring::start(&self.listening, self.secure_port, client.clone(), &ca, shutdown.clone())
                .await?;
            coracle_scheduler::run(self.options, client, shutdown).await.context("the scheduler failed")
        })
    }
}

#[derive(Args)]
pub struct Controllers {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    listening: Listening,
    /// The port of /healthz and /metrics; 0 serves nothing
    #[arg(long, value_name = "PORT", default_value_t = 10257)]
    secure_port: u16,
    #[command(flatten)]
    options: coracle_controllers::Options,
}

impl Controllers {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.remote.log_level.clone();
        process::run(&level, |shutdown| async move {
            let config = self.remote.config().await?;
            let ca = ca_of(&config);
            let client = Client::new(Https::new(config)?, "kube-controller-manager");
            monitoring::start(&self.listening, self.secure_port, client.clone(), &ca, shutdown.clone())
                .await?;
            coracle_controllers::run(self.options, client, shutdown).await.context("the controllers failed")
        })
    }
}

#[derive(Args)]
pub struct CloudControllerManager {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    listening: Listening,
    /// The port of /healthz and /metrics; 0 serves nothing
    #[arg(long, value_name = "PORT", default_value_t = 10258)]
    secure_port: u16,
    #[command(flatten)]
    options: coracle_controllers::cloud::ManagerOptions,
}

impl CloudControllerManager {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.remote.log_level.clone();
        process::run(&level, |shutdown| async move {
            let config = self.remote.config().await?;
            let ca = ca_of(&config);
            let client = Client::new(Https::new(config)?, CLOUD_FIELD_MANAGER);
            monitoring::start(&self.listening, self.secure_port, client.clone(), &ca, shutdown.clone())
                .await?;
            coracle_controllers::cloud::run(self.options, client, shutdown)
                .await
                .context("the cloud controllers failed")
        })
    }
}

#[derive(Args)]
pub struct Wasmlet {
    /// The kubeconfig with the node's identity
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The node's serving certificate (PEM)
    #[arg(long, value_name = "FILE")]
    tls_cert_file: PathBuf,
    /// The serving certificate's key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_private_key_file: PathBuf,
    /// The CA whose client certificates may talk to this node (PEM)
    #[arg(long, value_name = "FILE")]
    client_ca_file: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    node: NodeOptions,
    #[command(flatten)]
    wasmlet: WasmletOptions,
    #[command(flatten)]
    cloud: NodeCloudOptions,
    #[command(flatten)]
    networks: NetworkOptions,
}

impl Wasmlet {
    pub fn run(self) -> anyhow::Result<()> {
        self.wasmlet.check()?;
        let level = self.data.log_level.clone();
        process::run(&level, |shutdown| async move {
            let read = |path: &PathBuf| {
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
            };
            let serving =
                Pair { certificate: read(&self.tls_cert_file)?, key: read(&self.tls_private_key_file)? };
            let client_ca = read(&self.client_ca_file)?;
            let config = read_config(&self.kubeconfig).await?;
            let address: IpAddr = address_towards(&config.cluster_url)?;
            let data = DataDirectory::open(&self.data.directory()?)?;
            let transport = Https::new(config)?;
            let rootless = self.node.rootless();
            networks::check(&self.networks.pod_cidr, &self.networks.service_cidr, rootless)?;
            let agent = Agent {
                name: self.node.name()?,
                address,
                data: data.path().to_owned(),
                rootless,
                wasmlet: self.wasmlet.clone(),
                waits_for_cloud: self.cloud.waits(),
                client_ca,
                serving: agent::fixed(serving),
                client: Client::new(transport.clone(), "kubelet"),
                proxy_client: Client::new(transport, "kube-proxy"),
                pod_cidr: self.networks.pod_cidr,
                service_cidr: self.networks.service_cidr,
            };
            let components = shutdown.child_token();
            let mut running = Components::default();
            agent.start_wasmlet(None, &mut running, &components);
            let result = running.until(&shutdown).await;
            components.cancel();
            running.ended().await;
            result
        })
    }
}

#[derive(Args)]
pub struct Proxy {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    node: NodeOptions,
    #[command(flatten)]
    networks: NetworkOptions,
}

impl Proxy {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.remote.log_level.clone();
        process::run(&level, |shutdown| async move {
            let config = self.remote.config().await?;
            let address = address_towards(&config.cluster_url)?;
            let client = Client::new(Https::new(config)?, "kube-proxy");
            let NetworkOptions { pod_cidr, service_cidr } = self.networks;
            let rootless = self.node.rootless();
            networks::check(&pod_cidr, &service_cidr, rootless)?;
            let mut options =
                agent::proxy_options(&self.node.name()?, rootless, address, pod_cidr, service_cidr);
            // Alone, it may be restarted beside a wasmlet and pods that go on.
            options.keep_rules = true;
            coracle_proxy::run(options, client, shutdown).await.context("the proxy failed")
        })
    }
}
