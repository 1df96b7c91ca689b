//! The state that every request works on: the kinds served, the watch cache, the store, admission.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::{ApiError, Resource};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admission::service_addresses::{self, ServiceAddresses};
use crate::admission::{self, Plugin};
use crate::authn::{Authenticators, openid};
use crate::authz::Authorizers;
use crate::component_health::ComponentHealth;
use crate::crd;
use crate::kinds::{self, ServiceAllocator};
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::runtime_config::RuntimeConfig;
pub use crate::served::{Served, Table};
use crate::storage::{self, Store};
use crate::subresources::resource_metrics::{self, Meter};
use crate::subresources::{NodeProxy, TokenIssuer};
use crate::upkeep::ServerIdentity;
use crate::watch_cache::{self, WatchCache};

/// What the integrator hands in beside the store.
#[derive(Default)]
pub struct Options {
    /// Reaches the wasmlets of nodes (logs). None: such requests get 503.
    pub node_proxy: Option<Arc<dyn NodeProxy>>,
    /// Signs service account tokens. None: such requests get 503.
    pub token_issuer: Option<Arc<dyn TokenIssuer>>,
    /// Answers access reviews. None: everything is allowed.
    pub authorizer: Option<Authorizers>,
    /// Answers token reviews. None: such requests get 503.
    pub authenticators: Option<Authenticators>,
    /// Says by which keys tokens are checked.
    pub openid: Option<openid::Documents>,
    /// Given the watch cache as soon as it is loaded.
    pub lookup: Option<Arc<Lookup>>,
    /// The range of cluster addresses; kubeadm's where nothing is said.
    pub service_cidr: Option<String>,
    /// The components that run in this process.
    pub component_health: Arc<ComponentHealth>,
    /// How old the figures of `metrics.k8s.io` may be; metrics-server's default where nothing is said.
    pub metric_resolution: Option<Duration>,
    /// What is served beside the kinds that always are.
    pub runtime_config: RuntimeConfig,
    /// Who this server is among those of its store. None: nobody is told that it lives.
    pub identity: Option<ServerIdentity>,
    /// It says in which versions it stores; by its identity, where StorageVersions are served.
    pub storage_versions: bool,
    /// Plug-ins that run after the built-in ones.
    pub admission: Vec<Arc<dyn Plugin>>,
}

/// Why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    ServiceCidr(#[from] kinds::RangeError),
    #[error("loading the store: {0}")]
    Load(#[source] storage::Error),
    #[error("reading the custom resource definitions: {0}")]
    Definitions(#[source] ApiError),
    #[error("the kind {0} is listed twice")]
    Duplicate(String),
    #[error("the kind {0} is a form of one that is not listed")]
    NotStored(String),
}

pub struct Api {
    pub store: Arc<dyn Store>,
    pub cache: Arc<WatchCache>,
    pub options: Options,
    pub metrics: Metrics,
    /// Measures what nodes and pods use.
    pub meter: Meter,
    pub(crate) shutdown: CancellationToken,
    pub(crate) admission: Vec<Arc<dyn Plugin>>,
    /// What is served now; a change puts another table in its place, and whoever has the old one goes on with it.
    table: RwLock<Arc<Table>>,
}

impl Api {
    /// Loads the store and follows it until `shutdown`.
    pub async fn start(
        store: Arc<dyn Store>,
        options: Options,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        let defs = options.runtime_config.kinds();
        let stored = defs.iter().filter(|def| def.alias.is_none());
        let cache = Arc::new(WatchCache::new(stored.map(|def| def.resource.clone())));
        let table = Table::of(defs, &cache)?;
        let cidr = options.service_cidr.as_deref().unwrap_or(service_addresses::DEFAULT_CIDR);
        let addresses = ServiceAddresses::new(ServiceAllocator::new(cidr)?);
        let mut admission = admission::all();
        admission.push(Arc::new(addresses));
        admission.extend(options.admission.iter().cloned());
        let revision = cache.load(&*store).await.map_err(Error::Load)?;
        let objects: usize = cache.resources().values().map(|r| r.len()).sum();
        info!(revision, objects, "store loaded");
        if let Some(lookup) = &options.lookup {
            lookup.provide(cache.clone(), store.clone());
        }
        tokio::spawn(watch_cache::run(cache.clone(), store.clone(), shutdown.clone()));
        let meter = Meter::new(options.metric_resolution.unwrap_or(resource_metrics::RESOLUTION));
        let api = Arc::new(Self {
            cache,
            store,
            admission,
            options,
            metrics: Metrics::default(),
            meter,
            shutdown,
            table: RwLock::new(Arc::new(table)),
        });
        crd::Manager::start(api.clone(), api.shutdown.clone()).await.map_err(Error::Definitions)?;
        Ok(api)
    }

    /// What is served at this moment.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Puts `kinds` in the place of all forms and versions of the resource, whose objects are in one cache.
    pub fn serve(&self, resource: &str, kinds: Vec<Arc<Served>>) -> Result<(), Error> {
        let mut table = self.table.write();
        let next = table.with(resource, kinds)?;
        *table = Arc::new(next);
        Ok(())
    }

    pub fn kind(&self, resource: &Resource) -> Result<Arc<Served>, ApiError> {
        self.table.read().kind(resource).cloned().ok_or_else(|| {
            ApiError::new(
                404,
                "NotFound",
                format!("the server could not find the requested resource ({resource})"),
            )
        })
    }

    /// By the words in a URL: `v1` or `apps/v1`, and the plural.
    pub fn kind_at(&self, api_version: &str, plural: &str) -> Option<Arc<Served>> {
        self.table.read().kind_at(api_version, plural).cloned()
    }

    pub fn serves_group(&self, group: &str) -> bool {
        self.table.read().serves_group(group)
    }
}
