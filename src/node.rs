//! `coracle node`: joins a server, then runs wasmlet and proxy with the node's own certificates.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use coracle_apiserver::pki::Pair;
use coracle_client::Client;
use coracle_client::http::Https;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Agent};
use crate::data_directory::DataDirectory;
use crate::join::{self, CLIENT_SIGNER, Credential, SERVING_SIGNER, Token, Wanted};
use crate::options::{DataOptions, NetworkOptions, NodeOptions};
use crate::rotation::Rotation;
use crate::process;
use crate::server::Components;

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

        let (ca, client_certificate) = self.credentials(&name, &directory).await?;
        let transport = Https::new(join::config(&self.server, &ca, Credential::Certificate(&client_certificate))?)?;
        let client = Client::new(transport.clone(), "kubelet");
        let address = address_towards(&self.server)?;
        let wanted = Wanted { signer: SERVING_SIGNER, node: &name, addresses: &[address] };
        let serving = tokio::select! {
            pair = join::request_certificate(&client, &wanted) => pair.context("getting a serving certificate")?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (serving_sender, serving) = watch::channel(agent::serving_identity(serving));

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
            client_certificate,
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

    /// The CA and client certificate: those on disk, or new ones for the token.
    async fn credentials(&self, name: &str, directory: &Path) -> anyhow::Result<(String, Pair)> {
        if let Some(known) = join::load(directory) {
            return Ok(known);
        }
        let Some(token) = &self.token else {
            bail!("--token is needed to join; it is what `coracle server` wrote to DATA-DIR/node-token");
        };
        let token = Token::from_flag(token)?;
        let ca = join::fetch_ca(&self.server, &token.ca_hash).await?;
        let transport = Https::new(join::config(&self.server, &ca, Credential::Bearer(token.bearer()))?)?;
        let client = Client::new(transport, "kubelet-bootstrap");
        let wanted = Wanted { signer: CLIENT_SIGNER, node: name, addresses: &[] };
        let pair = join::request_certificate(&client, &wanted).await.context("joining the cluster")?;
        join::store(directory, &ca, &pair)?;
        Ok((ca, pair))
    }
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
    local().map(|address| address.ip()).with_context(|| format!("finding this machine's address towards {server}"))
}
