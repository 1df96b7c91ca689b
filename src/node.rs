//! `coracle node`: joins a server, then runs wasmlet and proxy with the node's own certificates.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use coracle_apiserver::pki::certificate_hash;
use coracle_client::http::Https;
use coracle_client::{ApiError, Client};
use coracle_wasmlet::{Identity, ServingIdentity};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::{self, Agent};
use crate::data_directory::DataDirectory;
use crate::join::{self, CLIENT_SIGNER, Credential, Held, Joined, SERVING_SIGNER, Token, Wanted};
use crate::networks::{self, NetworkOptions};
use crate::options::{DataOptions, NodeCloudOptions, NodeOptions};
use crate::process;
use crate::rotation::Rotation;
use crate::server::Components;
use crate::virtual_nodes::{Runtime, VirtualOptions};
use crate::wasmlet_options::WasmletOptions;

/// A server that does not answer is asked again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Node {
    /// The server to join
    #[arg(long, value_name = "https://HOST:PORT", required_unless_present = "kubeconfig")]
    server: Option<http::Uri>,
    /// The join token, or a file that holds it; only needed until the node has its certificate
    #[arg(long, value_name = "TOKEN|FILE")]
    token: Option<String>,
    #[command(flatten)]
    networks: NetworkOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    node: NodeOptions,
    #[command(flatten)]
    wasmlet: WasmletOptions,
    #[command(flatten)]
    cloud: NodeCloudOptions,
    /// What runs the pods
    #[arg(long, value_name = "RUNTIME", value_enum, default_value_t = Runtime::Wasm)]
    runtime: Runtime,
    #[command(flatten)]
    virtual_nodes: VirtualOptions,
}

/// A node that has joined.
struct Entered {
    ca: String,
    transport: Arc<Https>,
    client: Client,
    serving: watch::Receiver<ServingIdentity>,
}

impl Node {
    pub fn run(self) -> anyhow::Result<()> {
        self.wasmlet.check()?;
        let level = self.data.log_level.clone();
        process::run(&level, |shutdown| self.work(shutdown))
    }

    async fn work(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let name = self.node.name()?;
        if let Some(kubeconfig) = &self.virtual_nodes.kubeconfig {
            if self.runtime != Runtime::Fake {
                bail!(
                    "--kubeconfig is for virtual nodes (--runtime fake); a node that runs pods joins with --token"
                );
            }
            return self.virtual_nodes.run_shared(kubeconfig, &name, shutdown).await;
        }
        let Some(server) = self.server.clone() else { bail!("--server is needed to join") };
        if server.scheme_str() != Some("https") || server.host().is_none() {
            bail!("--server {server}: give https://HOST:PORT");
        }
        let data = DataDirectory::open(&self.data.directory()?)?;
        let address = address_towards(&server)?;
        let components = CancellationToken::new();
        let mut running = Components::default();
        let began = tokio::select! {
            began = self.begin(&server, &name, address, data.path(), &mut running, &components) => began,
            () = shutdown.cancelled() => Ok(()),
        };
        let result = match began {
            Ok(()) => running.until(&shutdown).await,
            Err(error) => Err(error),
        };
        components.cancel();
        running.ended().await;
        result
    }

    /// Joins with the node's name, or with those of all the virtual ones, and starts what is to run.
    async fn begin(
        &self,
        server: &http::Uri,
        name: &str,
        address: IpAddr,
        data: &Path,
        running: &mut Components,
        components: &CancellationToken,
    ) -> anyhow::Result<()> {
        if self.runtime == Runtime::Fake {
            self.virtual_nodes.check_joined()?;
            let mut members = Vec::new();
            let mut identity = None;
            for name in self.virtual_nodes.names(name) {
                let directory = data.join("virtual-nodes").join(&name);
                let entered = self.enter(server, &name, address, directory, running, components).await?;
                // One server answers for all of them, by the first one's certificate.
                identity.get_or_insert(Identity { serving: entered.serving, client_ca: entered.ca });
                members.push((name, entered.client));
            }
            let access = coracle_wasmlet::virtual_nodes::Access::Own(members);
            self.virtual_nodes.start(address, access, identity, running, components);
            return Ok(());
        }
        let rootless = self.node.rootless();
        networks::check(&self.networks.pod_cidr, &self.networks.service_cidr, rootless)?;
        let entered = self.enter(server, name, address, data.join("node"), running, components).await?;
        let agent = Agent {
            name: name.to_owned(),
            address,
            data: data.to_owned(),
            rootless,
            wasmlet: self.wasmlet.clone(),
            waits_for_cloud: self.cloud.waits(),
            client_ca: entered.ca,
            serving: entered.serving,
            client: entered.client,
            proxy_client: Client::new(entered.transport, "kube-proxy"),
            pod_cidr: self.networks.pod_cidr,
            service_cidr: self.networks.service_cidr,
        };
        agent.start(running, components);
        Ok(())
    }

    /// The node's certificates, which are renewed from now on.
    async fn enter(
        &self,
        server: &http::Uri,
        name: &str,
        address: IpAddr,
        directory: PathBuf,
        running: &mut Components,
        components: &CancellationToken,
    ) -> anyhow::Result<Entered> {
        let joined = self.join(server, name, &directory).await?;
        let ca = joined.ca;
        let certificate = Credential::Certificate(&joined.client.pair);
        let transport = Https::new(join::config(server, &ca, certificate)?)?;
        let client = Client::new(transport.clone(), "kubelet");
        let known = joined.serving.filter(|held| {
            join::subject(&held.pair.certificate).is_some_and(|(_, addresses)| addresses == [address])
        });
        let serving_certificate = match known {
            Some(held) => held,
            None => serving_certificate(server, &client, name, address, &directory).await?,
        };
        let (serving_sender, serving) =
            watch::channel(agent::serving_identity(serving_certificate.pair.clone()));
        let rotation = Rotation {
            server: server.clone(),
            ca: ca.clone(),
            node: name.to_owned(),
            addresses: vec![address],
            directory,
            transport: transport.clone(),
            client: client.clone(),
            client_certificate: joined.client,
            serving_certificate,
            serving: serving_sender,
        };
        running.spawn_quiet(rotation.run(components.clone()));
        Ok(Entered { ca, transport, client, serving })
    }

    /// The CA and certificates: those on disk, or new ones for the token.
    async fn join(&self, server: &http::Uri, name: &str, directory: &Path) -> anyhow::Result<Joined> {
        let token = self.token.as_deref().map(Token::from_flag).transpose();
        if let Some(joined) = join::load(directory) {
            // The file of the token may be gone by now; one that is there must be of this cluster.
            self.check(&joined, token.ok().flatten().as_ref(), name, directory)?;
            return Ok(joined);
        }
        let Some(token) = token? else {
            bail!("--token is needed to join; it is what `coracle server` wrote to DATA-DIR/node-token");
        };
        let ca = join::fetch_ca(server, &token.ca_hash).await?;
        let transport = Https::new(join::config(server, &ca, Credential::Bearer(token.bearer()))?)?;
        let client = Client::new(transport, "kubelet-bootstrap");
        let wanted = Wanted { signer: CLIENT_SIGNER, node: name, addresses: &[] };
        let pair = join::request_certificate(&client, &wanted).await.context("joining the cluster")?;
        join::store_client(directory, &ca, &pair)?;
        Ok(Joined { ca, client: Held::new(pair), serving: None })
    }

    /// Whether what is on disk is this node's, in the cluster that is meant.
    fn check(
        &self,
        joined: &Joined,
        token: Option<&Token>,
        name: &str,
        directory: &Path,
    ) -> anyhow::Result<()> {
        let anew = format!("to join anew, remove {} and give the new cluster's --token", directory.display());
        if let Some(token) = token
            && certificate_hash(&joined.ca).as_deref() != Some(&token.ca_hash)
        {
            bail!("this node has joined another cluster than the one of the token; {anew}");
        }
        let known =
            join::subject(&joined.client.pair.certificate).map(|(subject, _)| subject).unwrap_or_default();
        if known != format!("system:node:{name}") {
            let known = known.trim_start_matches("system:node:");
            bail!(
                "this data directory is of the node {known}, not of {name}: give --node-name {known}; or, {anew}"
            );
        }
        Ok(())
    }
}

/// A node that has joined before starts while its server is away: it waits for it.
async fn serving_certificate(
    server: &http::Uri,
    client: &Client,
    name: &str,
    address: IpAddr,
    directory: &Path,
) -> anyhow::Result<Held> {
    let wanted = Wanted { signer: SERVING_SIGNER, node: name, addresses: &[address] };
    let mut retry = RETRY_FIRST;
    loop {
        let error = match join::request_certificate(client, &wanted).await {
            Ok(pair) => {
                join::store_serving(directory, &pair)?;
                return Ok(Held::new(pair));
            }
            Err(error) => error.context("getting a serving certificate"),
        };
        let text = format!("{error:#}");
        if text.contains("invalid peer certificate") {
            bail!(
                "{}: its certificate is not signed by the CA of the cluster that this node has joined ({text}); to join another cluster, remove {} and give that cluster's --token",
                server,
                directory.display()
            );
        }
        if !is_transient(&error) {
            return Err(error);
        }
        warn!("{text}; again in {retry:?}");
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Whether the server may answer another time.
fn is_transient(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<tokio::time::error::Elapsed>()
            || cause.downcast_ref::<ApiError>().is_some_and(|e| matches!(e.code(), 0 | 429 | 500..))
    })
}

/// This machine's address on the way to the server; nothing is sent.
pub fn address_towards(server: &http::Uri) -> anyhow::Result<IpAddr> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(443);
    let local = || {
        let any = if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect((host, port))?;
        socket.local_addr()
    };
    local()
        .map(|address| address.ip())
        .with_context(|| format!("finding this machine's address towards {server}"))
}
