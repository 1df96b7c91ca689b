//! Starts the apiserver in this process: store, certificates, API, listener, and what every cluster begins with.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use coracle_apiserver::api::{self, Api};
use coracle_apiserver::authn::{
    Authenticator, Authenticators, BootstrapTokens, Identity, MASTERS_GROUP, ServiceAccountTokens,
    StaticTokens, openid, token::TokenKey,
};
use coracle_apiserver::authz::Authorizers;
use coracle_apiserver::chain::Chain;
use coracle_apiserver::component_health::ComponentHealth;
use coracle_apiserver::deferred::Deferred;
use coracle_apiserver::direct::Direct;
use coracle_apiserver::lookup::Lookup;
use coracle_apiserver::node_connection::NodeConnection;
use coracle_apiserver::pki::{Pair, Pki, Subject};
use coracle_apiserver::storage::Store;
use coracle_apiserver::storage::embedded::{self, Embedded};
use coracle_apiserver::storage::etcd::{self, Etcd};
use coracle_apiserver::upkeep::ServerIdentity;
use coracle_apiserver::{routes, server, upkeep};
use coracle_client::Client;
use coracle_controllers::{ADDONS_FIELD_MANAGER, Addons};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::data_directory::DataDirectory;
use crate::networks::{self, Cidr, Networks};
use crate::options::ControlPlaneOptions;
use crate::server_leases::ServerLeases;
use crate::{bootstrap, kubeconfig, kubernetes_endpoints, process};

/// What servers say of how they store is of this version.
const STORAGE_VERSIONS: &str = "internal.apiserver.k8s.io/v1alpha1";

/// A running apiserver.
pub struct ControlPlane {
    api: Arc<Api>,
    pub pki: Arc<Pki>,
    /// Signs service account tokens.
    pub token_key: Arc<TokenKey>,
    store: Arc<dyn Store>,
    pub embedded: bool,
    /// Among several servers of one store.
    leases: Option<ServerLeases>,
    /// Where the API is reached from outside this process.
    pub address: SocketAddr,
    pub kubeconfig: PathBuf,
    manifests: PathBuf,
    pub pod_cidr: Networks,
    pub service_cidr: Networks,
    /// Where the components of this process say that they run.
    pub component_health: Arc<ComponentHealth>,
    serving: JoinHandle<()>,
    background: JoinHandle<()>,
    listening: CancellationToken,
    storing: CancellationToken,
}

impl ControlPlane {
    /// Ready when this returns: the listener serves, the first objects exist, the kubeconfig is written.
    pub async fn start(
        options: &ControlPlaneOptions,
        data: &DataDirectory,
        rootless: bool,
    ) -> anyhow::Result<Self> {
        let (pod_cidr, service_cidr) = networks_of(options, rootless);
        networks::check(&pod_cidr, &service_cidr, rootless)?;
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}", options.listen))?;
        let bound = listener.local_addr().context("the listener's address")?;
        let address = SocketAddr::new(reachable(bound.ip()), bound.port());
        let service_address = service_cidr.first.address(1);

        let pki = Arc::new(Pki::open_or_create(
            &options.pki_dir.clone().unwrap_or_else(|| data.path().join("pki")),
        )?);
        if options.feature_gates.storage_versions && !options.runtime_config.serves(STORAGE_VERSIONS) {
            bail!("--feature-gates StorageVersionAPI=true needs --runtime-config {STORAGE_VERSIONS}=true");
        }
        let (store, embedded) = open_store(options, data).await?;

        let listening = CancellationToken::new();
        let storing = CancellationToken::new();
        let deferred = Deferred::new();
        let own = Client::new(deferred.clone(), "kube-apiserver");
        let lookup = Lookup::new();
        let authorizers = Authorizers::built_in(own.clone(), lookup.clone());
        let key = Arc::new(TokenKey::from_pem(pki.service_account_key())?);
        let authenticators = authenticators(options, &lookup, &key, &own)?;
        let node_client = pki.client(
            "apiserver-kubelet-client",
            Subject { user: "kube-apiserver-kubelet-client", group: Some(MASTERS_GROUP) },
        )?;
        let component_health = Arc::<ComponentHealth>::default();
        let api = Api::start(
            store.clone(),
            api::Options {
                node_proxy: Some(Arc::new(NodeConnection::new(&node_client, pki.ca_certificate())?)),
                authenticators: Some(authenticators.clone()),
                openid: Some(openid::Documents::new(&key, &address.to_string())),
                token_issuer: Some(key.clone()),
                authorizer: Some(authorizers.clone()),
                lookup: Some(lookup.clone()),
                service_cidr: Some(service_cidr.to_string()),
                component_health: component_health.clone(),
                metric_resolution: Some(options.metric_resolution),
                runtime_config: options.runtime_config.clone(),
                identity: options
                    .feature_gates
                    .identity(!embedded)
                    .then(|| ServerIdentity::new(&process::hostname(), &address.to_string())),
                storage_versions: options.feature_gates.storage_versions,
                ..api::Options::default()
            },
            listening.clone(),
        )
        .await
        .with_context(|| format!("starting the API on the store in {}", data.path().display()))?;
        deferred.provide(Direct::new(api.clone(), Identity::new("system:apiserver", &[MASTERS_GROUP])));

        upkeep::ensure(&api, &own, &service_cidr.to_string()).await.context("the server's own objects")?;
        bootstrap::ensure(&own, service_address, service_cidr.first.address(10), address).await?;
        upkeep::introduce(&api, &own).await.context("saying who this server is")?;
        let leases = ServerLeases {
            store: store.clone(),
            client: own.clone(),
            own: address,
            leaving: listening.child_token(),
        };
        let leases = if embedded {
            // Its store has one owner: nobody else is there to be told apart.
            let only = BTreeSet::from([address]);
            kubernetes_endpoints::ensure(&own, &only)
                .await
                .context("the endpoints of the kubernetes Service")?;
            None
        } else {
            leases.renew().await?;
            tokio::spawn(leases.clone().run());
            Some(leases)
        };
        tokio::spawn(upkeep::run(api.clone(), own.clone(), listening.clone()));

        let app = Chain::new(authenticators, authorizers).around(routes::router(api.clone()));
        let certificates =
            Certificates { pki: pki.clone(), addresses: serving_addresses(address.ip(), service_address) };
        let (tls, tls_receiver) = watch::channel(certificates.current()?);
        let serving = tokio::spawn(server::serve(listener, tls_receiver, app, listening.clone()));
        let background = tokio::spawn(certificates.renew(tls, listening.clone()));

        let admin = pki.client("admin", Subject { user: "kubernetes-admin", group: Some(MASTERS_GROUP) })?;
        let kubeconfig = options.kubeconfig.clone().unwrap_or_else(|| data.path().join("kubeconfig"));
        let text = kubeconfig::render(
            &format!("https://{address}"),
            pki.ca_certificate(),
            "kubernetes-admin",
            &admin,
        )?;
        kubeconfig::write(&kubeconfig, &text)?;
        bootstrap::ensure_join_token(&own, &pki, data.path()).await?;
        bootstrap::ensure_cluster_info(&own, address, pki.ca_certificate()).await?;
        info!(%address, "serving");
        Ok(Self {
            api,
            pki,
            token_key: key,
            store,
            embedded,
            leases,
            address,
            kubeconfig,
            manifests: data.path().join("manifests"),
            pod_cidr,
            service_cidr,
            component_health,
            serving,
            background,
            listening,
            storing,
        })
    }

    /// One line for scripts and people; the kubeconfig is complete by now.
    pub fn announce(&self) {
        println!("API server ready: https://{} kubeconfig={}", self.address, self.kubeconfig.display());
    }

    /// A client in this process with a component's own identity.
    pub fn client(&self, user: &str, groups: &[&str], component: &str) -> Client {
        Client::new(Direct::new(self.api.clone(), Identity::new(user, groups)), component)
    }

    /// The directory of manifests that the cluster keeps applied, with an administrator's hand.
    pub fn addons(&self) -> Addons {
        let client = self.client("system:addon-manager", &[MASTERS_GROUP], ADDONS_FIELD_MANAGER);
        Addons { directory: self.manifests.clone(), client }
    }

    /// Ends serving, then the store. Components must have ended before.
    pub async fn stop(self) {
        if let Some(leases) = &self.leases
            && let Err(error) = leases.leave().await
        {
            warn!("taking this server out of the endpoints: {error:#}");
        }
        self.listening.cancel();
        self.serving.await.ok();
        self.background.await.ok();
        self.storing.cancel();
        if let Err(error) = self.store.close().await {
            warn!(%error, "closing the store failed");
        }
    }
}

/// Tokens for joining, of service accounts, and from a file.
fn authenticators(
    options: &ControlPlaneOptions,
    lookup: &Arc<Lookup>,
    key: &Arc<TokenKey>,
    own: &Client,
) -> anyhow::Result<Authenticators> {
    let mut list: Vec<Box<dyn Authenticator>> = vec![
        Box::new(ServiceAccountTokens::new(lookup.clone(), key.clone(), own.clone())),
        Box::new(BootstrapTokens { lookup: lookup.clone() }),
    ];
    if let Some(file) = &options.token_auth_file {
        list.push(Box::new(StaticTokens::read(file).context("--token-auth-file")?));
    }
    Ok(Authenticators::new(list, options.anonymous_auth))
}

fn networks_of(options: &ControlPlaneOptions, rootless: bool) -> (Networks, Networks) {
    let first = |rooted: Ipv4Addr, loopback: Ipv4Addr| Networks {
        first: Cidr { network: if rootless { loopback } else { rooted }, prefix: 16 },
        second: None,
    };
    (
        options.pod_cidr.unwrap_or(first([10, 244, 0, 0].into(), [127, 64, 0, 0].into())),
        options.service_cidr.unwrap_or(first([10, 96, 0, 0].into(), [127, 96, 0, 0].into())),
    )
}

async fn open_store(
    options: &ControlPlaneOptions,
    data: &DataDirectory,
) -> anyhow::Result<(Arc<dyn Store>, bool)> {
    if options.etcd_servers.is_empty() {
        let directory = data.path().join("store");
        let opened =
            tokio::task::spawn_blocking(move || Embedded::open(&directory, embedded::Options::default()));
        return Ok((Arc::new(opened.await.context("opening the store")??), true));
    }
    let etcd = Etcd::connect(&options.etcd_servers, etcd_tls(options)?, Some(etcd::COMPACTION_INTERVAL))
        .await
        .with_context(|| format!("--etcd-servers {}", options.etcd_servers.join(",")))?;
    Ok((Arc::new(etcd), false))
}

/// None where no file is given: etcd without TLS, or with a certificate that the system trusts.
fn etcd_tls(options: &ControlPlaneOptions) -> anyhow::Result<Option<etcd::Tls>> {
    let read = |flag: &str, path: &Option<PathBuf>| {
        path.as_ref()
            .map(|path| std::fs::read(path).with_context(|| format!("{flag} {}", path.display())))
            .transpose()
    };
    let ca = read("--etcd-cafile", &options.etcd_cafile)?;
    let certificate = read("--etcd-certfile", &options.etcd_certfile)?;
    let identity = certificate.zip(read("--etcd-keyfile", &options.etcd_keyfile)?);
    Ok((ca.is_some() || identity.is_some()).then_some(etcd::Tls { ca, identity }))
}

/// The address to tell others: the one listened on, or one of this machine's when that is all of them.
fn reachable(listened: IpAddr) -> IpAddr {
    if !listened.is_unspecified() {
        return listened;
    }
    machine_addresses().into_iter().find(|a| !a.is_loopback()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// IPv4 addresses of this machine's interfaces.
pub fn machine_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())))
        .collect()
}

fn serving_addresses(address: IpAddr, service_address: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), address, service_address];
    all.sort();
    all.dedup();
    all
}

struct Certificates {
    pki: Arc<Pki>,
    addresses: Vec<IpAddr>,
}

impl Certificates {
    /// The chain carries the CA, so that joining nodes can take it from there and check it against their token.
    fn current(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let names = [
            "localhost".to_owned(),
            process::hostname(),
            "kubernetes".into(),
            "kubernetes.default".into(),
            "kubernetes.default.svc".into(),
            "kubernetes.default.svc.cluster.local".into(),
        ];
        let Pair { certificate, key } = self.pki.serving(&names, &self.addresses)?;
        let pair = Pair { certificate: format!("{certificate}{}", self.pki.ca_certificate()), key };
        Ok(server::tls_config(&pair, self.pki.ca_certificate())?)
    }

    async fn renew(self, tls: watch::Sender<Arc<rustls::ServerConfig>>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(coracle_apiserver::pki::RENEWAL_CHECK) => {}
                () = shutdown.cancelled() => return,
            }
            match self.current() {
                Ok(config) => drop(tls.send_replace(config)),
                Err(error) => warn!(error = format!("{error:#}"), "renewing the serving certificate failed"),
            }
        }
    }
}
