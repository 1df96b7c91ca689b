//! The state that every request works on: the kinds served, the watch cache, the store, admission.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_client::{ApiError, Object, Resource};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admission::{self, Plugin};
use crate::authz::Authorizer;
use crate::discovery::Discovery;
use crate::kinds::{self, KindDef};
use crate::metrics::Metrics;
use crate::storage::{self, Store};
use crate::subresources::{NodeProxy, TokenIssuer};
use crate::watch_cache::{self, ResourceCache, WatchCache};

/// What the integrator hands in beside the store.
#[derive(Default)]
pub struct Options {
    /// Reaches the wasmlets of nodes (logs). None: such requests get 503.
    pub node_proxy: Option<Arc<dyn NodeProxy>>,
    /// Signs service account tokens. None: such requests get 503.
    pub token_issuer: Option<Arc<dyn TokenIssuer>>,
    /// Answers access reviews. None: everything is allowed.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Plug-ins that run after the built-in ones.
    pub admission: Vec<Arc<dyn Plugin>>,
}

/// Why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("loading the store: {0}")]
    Load(#[source] storage::Error),
    #[error("the kind {0} is listed twice")]
    Duplicate(String),
}

/// A kind with the cache of what it is stored as.
pub struct Served {
    pub def: KindDef,
    pub cache: Arc<ResourceCache>,
}

impl Served {
    pub fn resource(&self) -> &Resource {
        &self.def.resource
    }

    /// An object as this kind shows it. Differs from the stored one only where two kinds share their storage.
    pub fn shown(&self, stored: &Arc<Object>) -> Result<Arc<Object>, ApiError> {
        Ok(stored.clone())
    }
}

pub struct Api {
    pub store: Arc<dyn Store>,
    pub cache: Arc<WatchCache>,
    pub options: Options,
    pub metrics: Metrics,
    pub discovery: Discovery,
    pub(crate) shutdown: CancellationToken,
    pub(crate) admission: Vec<Arc<dyn Plugin>>,
    kinds: Vec<Arc<Served>>,
    by_name: HashMap<Resource, usize>,
    by_path: HashMap<String, HashMap<String, usize>>,
}

impl Api {
    /// Loads the store and follows it until `shutdown`.
    pub async fn start(
        store: Arc<dyn Store>,
        options: Options,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        let defs = kinds::all();
        let discovery = Discovery::new(&defs);
        let cache = Arc::new(WatchCache::new(defs.iter().map(|def| def.resource.clone())));
        let mut api = Self {
            cache: cache.clone(),
            store: store.clone(),
            admission: admission::all().into_iter().chain(options.admission.iter().cloned()).collect(),
            options,
            metrics: Metrics::default(),
            discovery,
            shutdown: shutdown.clone(),
            kinds: Vec::with_capacity(defs.len()),
            by_name: HashMap::new(),
            by_path: HashMap::new(),
        };
        for def in defs {
            api.add(def)?;
        }
        let revision = cache.load(&*store).await.map_err(Error::Load)?;
        let objects: usize = cache.resources().map(|r| r.len()).sum();
        info!(revision, objects, "store loaded");
        tokio::spawn(watch_cache::run(cache, store, shutdown));
        Ok(Arc::new(api))
    }

    fn add(&mut self, def: KindDef) -> Result<(), Error> {
        let at = self.kinds.len();
        let resource = def.resource.clone();
        let Some(cache) = self.cache.resource(&resource).cloned() else {
            return Err(Error::Duplicate(resource.qualified()));
        };
        let versions = self.by_path.entry(resource.api_version()).or_default();
        if versions.insert(resource.plural().to_owned(), at).is_some() {
            return Err(Error::Duplicate(resource.qualified()));
        }
        self.by_name.insert(resource, at);
        self.kinds.push(Arc::new(Served { def, cache }));
        Ok(())
    }

    pub fn kinds(&self) -> &[Arc<Served>] {
        &self.kinds
    }

    pub fn kind(&self, resource: &Resource) -> Result<&Arc<Served>, ApiError> {
        let served = self.by_name.get(resource).and_then(|at| self.kinds.get(*at));
        served.ok_or_else(|| {
            ApiError::new(
                404,
                "NotFound",
                format!("the server could not find the requested resource ({resource})"),
            )
        })
    }

    /// By the words in a URL: `v1` or `apps/v1`, and the plural.
    pub fn kind_at(&self, api_version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_path.get(api_version)?.get(plural).and_then(|at| self.kinds.get(*at))
    }

    pub fn serves_group_version(&self, api_version: &str) -> bool {
        self.by_path.contains_key(api_version)
    }
}
