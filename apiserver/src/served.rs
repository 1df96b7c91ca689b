//! The kinds that are served, each with its cache, and the table of them that requests look them up in.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use coracle_client::{ApiError, Object, Resource};

use crate::api::Error;
use crate::crd::Version;
use crate::discovery::Discovery;
use crate::field_error::Errors;
use crate::kinds::KindDef;
use crate::object::ApiObject;
use crate::openapi::OpenApi;
use crate::protobuf::{self, Message};
use crate::watch_cache::{ResourceCache, WatchCache};

/// A kind with the cache of what it is stored as.
pub struct Served {
    pub def: Arc<KindDef>,
    pub cache: Arc<ResourceCache>,
    /// The kind that is stored, where this one is another form of it.
    pub stored: Option<Arc<Served>>,
    /// Of a custom resource: how this version relates to the one that is stored.
    pub custom: Option<Arc<Version>>,
}

impl Served {
    pub fn resource(&self) -> &Resource {
        &self.def.resource
    }

    /// Its form in protobuf; custom resources have none.
    pub fn message(&self) -> Option<&'static Message> {
        protobuf::table().kind(&self.resource().api_version(), self.resource().kind())
    }

    /// An object as this kind shows it. Differs from the stored one only where two kinds share their storage.
    pub fn shown(&self, object: &Arc<Object>) -> Result<Arc<Object>, ApiError> {
        if self.stored.is_none() {
            return Ok(object.clone());
        }
        let json = self.shown_json(object.json.clone())?;
        Ok(Object::parse(json, self.def.selectable_fields)?)
    }

    /// Every object of the cache is shown byte for byte.
    pub fn shows_stored(&self) -> bool {
        self.stored.is_none() && self.custom.as_ref().is_none_or(|version| version.shows_stored())
    }

    /// Objects of the cache in the version of a custom resource that this is; others as they are.
    pub async fn presented(&self, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, ApiError> {
        match &self.custom {
            Some(version) => version.present(objects).await,
            None => Ok(objects),
        }
    }

    /// As [`Self::presented`], for one.
    pub async fn presented_one(&self, object: Arc<Object>) -> Result<Arc<Object>, ApiError> {
        match &self.custom {
            Some(version) => version.present_one(object).await,
            None => Ok(object),
        }
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
        self.def.ops.set_defaults(&mut *object);
        let mut errors = Errors::default();
        self.def.ops.validate(&*object, &mut errors);
        if let Some(old) = old.and_then(alias.from_stored) {
            self.def.ops.validate_update(&*object, &*old, &mut errors);
        }
        if !errors.is_empty() {
            let name = object.meta().name.clone().unwrap_or_default();
            // Upstream calls it by the kind that is stored.
            let stored = self.stored.as_ref().map_or(self, |stored| stored);
            return Err(ApiError::invalid(stored.resource(), &name, errors.into_causes()));
        }
        (alias.to_stored)(&*object).ok_or_else(|| self.mixed_up())
    }

    fn mixed_up(&self) -> ApiError {
        ApiError::internal(format!("an object of another kind where a {} was due", self.resource().kind()))
    }
}

/// One state of what is served: immutable, and shared by the requests that began under it. The documents that describe
/// it are made when they are first asked for.
#[derive(Default)]
pub struct Table {
    kinds: Vec<Arc<Served>>,
    by_name: HashMap<Resource, usize>,
    by_path: HashMap<String, HashMap<String, usize>>,
    discovery: OnceLock<Discovery>,
    openapi: OnceLock<Arc<OpenApi>>,
    /// The documents of the newest state before this one whose documents were asked for.
    before: Option<Arc<OpenApi>>,
}

impl Table {
    /// The kinds with their caches.
    pub fn of(defs: Vec<KindDef>, caches: &WatchCache) -> Result<Self, Error> {
        let mut table = Self::default();
        // Forms of other kinds come last, when what they are forms of is there.
        let (forms, stored): (Vec<_>, Vec<_>) = defs.into_iter().partition(|def| def.alias.is_some());
        for def in stored.into_iter().chain(forms) {
            let not_stored = || Error::NotStored(def.resource.qualified());
            let (stored, cache) = match &def.alias {
                None => (None, caches.resource(&def.resource).ok_or_else(not_stored)?),
                Some(alias) => {
                    let stored = table.kind(&alias.stored).cloned().ok_or_else(not_stored)?;
                    let cache = stored.cache.clone();
                    (Some(stored), cache)
                }
            };
            table.add(Arc::new(Served { def: Arc::new(def), cache, stored, custom: None }))?;
        }
        Ok(table)
    }

    /// This table with `kinds` in the place of what it has of a resource (`foos.example.com`).
    pub fn with(&self, resource: &str, kinds: Vec<Arc<Served>>) -> Result<Self, Error> {
        let mut table =
            Self { before: self.openapi.get().or(self.before.as_ref()).cloned(), ..Self::default() };
        let others = self.kinds.iter().filter(|kind| kind.resource().qualified() != resource).cloned();
        for kind in others.chain(kinds) {
            table.add(kind)?;
        }
        Ok(table)
    }

    fn add(&mut self, kind: Arc<Served>) -> Result<(), Error> {
        let at = self.kinds.len();
        let resource = kind.resource().clone();
        let versions = self.by_path.entry(resource.api_version()).or_default();
        if versions.insert(resource.plural().to_owned(), at).is_some() {
            return Err(Error::Duplicate(resource.qualified()));
        }
        self.by_name.insert(resource, at);
        self.kinds.push(kind);
        Ok(())
    }

    pub fn kinds(&self) -> &[Arc<Served>] {
        &self.kinds
    }

    pub fn kind(&self, resource: &Resource) -> Option<&Arc<Served>> {
        self.by_name.get(resource).and_then(|at| self.kinds.get(*at))
    }

    /// By the words in a URL: `v1` or `apps/v1`, and the plural.
    pub fn kind_at(&self, api_version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_path.get(api_version)?.get(plural).and_then(|at| self.kinds.get(*at))
    }

    pub fn serves_group(&self, group: &str) -> bool {
        self.kinds.iter().any(|kind| kind.resource().group() == group)
    }

    fn defs(&self) -> Vec<Arc<KindDef>> {
        self.kinds.iter().map(|kind| kind.def.clone()).collect()
    }

    pub fn discovery(&self) -> &Discovery {
        self.discovery.get_or_init(|| Discovery::new(&self.defs()))
    }

    pub fn openapi(&self) -> &OpenApi {
        self.openapi.get_or_init(|| Arc::new(OpenApi::after(self.before.as_deref(), &self.defs())))
    }
}
