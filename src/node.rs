//! `coracle node`: joins a server, then runs wasmlet and proxy with the node's own certificates.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use coracle_apiserver::pki::certificate_hash;
use coracle_client::http::Https;
use coracle_client::{ApiError, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::{self, Agent};
use crate::data_directory::DataDirectory;
use crate::join::{self, CLIENT_SIGNER, Credential, Held, Joined, SERVING_SIGNER, Token, Wanted};
use crate::options::{DataOptions, NetworkOptions, NodeOptions};
use crate::process;
use crate::rotation::Rotation;
use crate::server::Components;

/// A server that does not answer is asked again after this, then after twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Node {
    /// The server to join
    #[arg(long, value_name = "https://HOST:PORT")]
    server: http::Uri,
    /// The join token, or a file that holds it; only needed until the node has its certificate
    #[arg(long, value_name = "TOKEN|FILE")]
    token: Option<String>,
    #[command(flatten)]
    networks: NetworkOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    node: NodeOptions,
}

impl Node {
    pub fn run(self) -> anyhow::Result<()> {
        let level = self.data.log_level.clone();
        process::run(&level, |shutdown| self.work(shutdown))
    }

    async fn work(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        if self.server.scheme_str() != Some("https") || self.server.host().is_none() {
            bail!("--server {}: give https://HOST:PORT", self.server);
        }
        let name = self.node.name()?;
        let rootless = self.node.rootless();
        let data = DataDirectory::open(&self.data.directory()?)?;
        let directory = data.path().join("node");

        let joined = tokio::select! {
            joined = self.join(&name, &directory) => joined?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let ca = joined.ca;
        let certificate = Credential::Certificate(&joined.client.pair);
        let transport = Https::new(join::config(&self.server, &ca, certificate)?)?;
        let client = Client::new(transport.clone(), "kubelet");
        let address = address_towards(&self.server)?;
        let known = joined.serving.filter(|held| {
            join::subject(&held.pair.certificate).is_some_and(|(_, addresses)| addresses == [address])
        });
        let serving_certificate = match known {
            Some(held) => held,
            None => tokio::select! {
                held = self.serving_certificate(&client, &name, address, &directory) => held?,
                () = shutdown.cancelled() => return Ok(()),
            },
        };
        let (serving_sender, serving) =
            watch::channel(agent::serving_identity(serving_certificate.pair.clone()));

        let components = CancellationToken::new();
        let mut running = Components::default();
        let rotation = Rotation {
            server: self.server.clone(),
            ca: ca.clone(),
            node: name.clone(),
            addresses: vec![address],
            directory,
            transport: transport.clone(),
            client: client.clone(),
            client_certificate: joined.client,
            serving_certificate,
            serving: serving_sender,
        };
        running.spawn_quiet(rotation.run(components.clone()));
        let agent = Agent {
            name,
            address,
            data: data.path().to_owned(),
            rootless,
            client_ca: ca,
            serving,
            client,
            proxy_client: Client::new(transport, "kube-proxy"),
            pod_cidr: self.networks.pod_cidr,
            service_cidr: self.networks.service_cidr,
        };
        agent.start(&mut running, &components);
        let result = running.until(&shutdown).await;
        components.cancel();
        running.ended().await;
        result
    }

    /// The CA and certificates: those on disk, or new ones for the token.
    async fn join(&self, name: &str, directory: &Path) -> anyhow::Result<Joined> {
        let token = self.token.as_deref().map(Token::from_flag).transpose();
        if let Some(joined) = join::load(directory) {
            // The file of the token may be gone by now; one that is there must be of this cluster.
            self.check(&joined, token.ok().flatten().as_ref(), name, directory)?;
            return Ok(joined);
        }
        let Some(token) = token? else {
            bail!("--token is needed to join; it is what `coracle server` wrote to DATA-DIR/node-token");
        };
        let ca = join::fetch_ca(&self.server, &token.ca_hash).await?;
        let transport = Https::new(join::config(&self.server, &ca, Credential::Bearer(token.bearer()))?)?;
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

    /// A node that has joined before starts while its server is away: it waits for it.
    async fn serving_certificate(
        &self,
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
                    self.server,
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
