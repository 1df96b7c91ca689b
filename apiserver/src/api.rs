//! The state that every request works on: the kinds served, the watch cache, the store, admission.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use coracle_client::{ApiError, Object, Resource};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admission::service_addresses::{self, ServiceAddresses};
use crate::admission::{self, Plugin};
use crate::authz::Authorizers;
use crate::discovery::Discovery;
use crate::field_error::Errors;
use crate::kinds::{self, KindDef, ServiceAllocator};
use crate::metrics::Metrics;
use crate::object::ApiObject;
use crate::openapi::OpenApi;
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
    pub authorizer: Option<Authorizers>,
    /// The range of cluster addresses; kubeadm's where nothing is said.
    pub service_cidr: Option<String>,
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
    #[error("the kind {0} is listed twice")]
    Duplicate(String),
    #[error("the kind {0} is a form of one that is not listed")]
    NotStored(String),
}

/// A kind with the cache of what it is stored as.
pub struct Served {
    pub def: KindDef,
    pub cache: Arc<ResourceCache>,
    /// The kind that is stored, where this one is another form of it.
    pub stored: Option<Arc<Served>>,
}

impl Served {
    pub fn resource(&self) -> &Resource {
        &self.def.resource
    }

    /// An object as this kind shows it. Differs from the stored one only where two kinds share their storage.
    pub fn shown(&self, object: &Arc<Object>) -> Result<Arc<Object>, ApiError> {
        if self.stored.is_none() {
            return Ok(object.clone());
        }
        let json = self.shown_json(object.json.clone())?;
        Ok(Object::parse(json, self.resource().selectable_fields())?)
    }

    pub fn shown_json(&self, json: Bytes) -> Result<Bytes, ApiError> {
        let (Some(stored), Some(alias)) = (&self.stored, &self.def.alias) else { return Ok(json) };
        let object = stored.def.decode_stored(&json)?;
        (alias.from_stored)(&*object).ok_or_else(|| self.mixed_up())?.encode()
    }

    /// A client's object as the stored kind's, with what this form demands of it checked.
    pub fn inward(
        &self,
        mut object: Box<dyn ApiObject>,
        old: Option<&dyn ApiObject>,
    ) -> Result<Box<dyn ApiObject>, ApiError> {
        let Some(alias) = &self.def.alias else { return Ok(object) };
        (self.def.set_defaults)(&mut *object);
        let mut errors = Errors::default();
        (self.def.validate)(&*object, &mut errors);
        if let Some(old) = old.and_then(alias.from_stored) {
            (self.def.validate_update)(&*object, &*old, &mut errors);
        }
        if !errors.is_empty() {
            let name = object.meta().name.clone().unwrap_or_default();
            return Err(ApiError::invalid(self.resource(), &name, errors.into_causes()));
        }
        (alias.to_stored)(&*object).ok_or_else(|| self.mixed_up())
    }

    fn mixed_up(&self) -> ApiError {
        ApiError::internal(format!("an object of another kind where a {} was due", self.resource().kind()))
    }
}

pub struct Api {
    pub store: Arc<dyn Store>,
    pub cache: Arc<WatchCache>,
    pub options: Options,
    pub metrics: Metrics,
    pub discovery: Discovery,
    pub openapi: OpenApi,
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
        let openapi = OpenApi::new(&defs);
        let stored = defs.iter().filter(|def| def.alias.is_none());
        let cache = Arc::new(WatchCache::new(stored.map(|def| def.resource.clone())));
        let cidr = options.service_cidr.as_deref().unwrap_or(service_addresses::DEFAULT_CIDR);
        let addresses = ServiceAddresses::new(ServiceAllocator::new(cidr)?);
        let mut admission = admission::all();
        admission.push(Arc::new(addresses));
        admission.extend(options.admission.iter().cloned());
        let mut api = Self {
            cache: cache.clone(),
            store: store.clone(),
            admission,
            options,
            metrics: Metrics::default(),
            discovery,
            openapi,
            shutdown: shutdown.clone(),
            kinds: Vec::with_capacity(defs.len()),
            by_name: HashMap::new(),
            by_path: HashMap::new(),
        };
        // Forms of other kinds come last, when what they are forms of is there.
        let (forms, stored): (Vec<_>, Vec<_>) = defs.into_iter().partition(|def| def.alias.is_some());
        for def in stored.into_iter().chain(forms) {
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
        let stored = match &def.alias {
            None => None,
            Some(alias) => Some(self.by_name.get(&alias.stored).and_then(|at| self.kinds.get(*at)).cloned()),
        };
        let cache = match &stored {
            None => self.cache.resource(&resource).cloned(),
            Some(stored) => stored.as_ref().map(|s| s.cache.clone()),
        };
        let Some(cache) = cache else { return Err(Error::NotStored(resource.qualified())) };
        let versions = self.by_path.entry(resource.api_version()).or_default();
        if versions.insert(resource.plural().to_owned(), at).is_some() {
            return Err(Error::Duplicate(resource.qualified()));
        }
        self.by_name.insert(resource, at);
        self.kinds.push(Arc::new(Served { def, cache, stored: stored.flatten() }));
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

    pub fn serves_group(&self, group: &str) -> bool {
        self.kinds.iter().any(|kind| kind.resource().group() == group)
    }
}
