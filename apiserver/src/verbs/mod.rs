//! The generic verbs, one file each. None of them names a kind.

pub(crate) mod apply;
mod commit;
pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod get;
pub mod list;
pub mod metadata;
pub mod modify;
pub mod options;
pub(crate) mod owners;
pub mod patch;
pub mod update;
mod warnings;
pub mod watch;

use std::sync::Arc;

use bytes::Bytes;
use coracle_client::{ApiError, Object, WriteOptions};

use crate::api::{Api, Served};
use crate::authn::Identity;
use crate::decode::FieldValidation;
use crate::watch_cache::key_of;

pub use warnings::Warnings;

/// A request on one object or collection, whichever transport brought it.
pub struct Call {
    pub api: Arc<Api>,
    /// The kind that is stored.
    pub kind: Arc<Served>,
    /// The kind that the client speaks: the same, or another form of it.
    pub form: Arc<Served>,
    pub identity: Identity,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    pub options: WriteOptions,
    /// The name of the client's program, for managers that do not name themselves.
    pub user_agent: Option<String>,
    pub content_type: Option<String>,
    pub body: Bytes,
    pub warnings: Warnings,
}

/// What a call answers: one JSON document.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub json: Bytes,
    /// It is an object of the kind that is stored, not some other document.
    pub of_kind: bool,
}

impl Answer {
    pub fn ok(json: Bytes) -> Self {
        Self { code: 200, json, of_kind: true }
    }

    pub fn created(json: Bytes) -> Self {
        Self { code: 201, ..Self::ok(json) }
    }

    /// A document of another kind than the call's.
    pub fn document(code: u16, document: &impl serde::Serialize) -> Result<Self, ApiError> {
        let json = serde_json::to_vec(document).map_err(ApiError::internal)?;
        Ok(Self { code, of_kind: false, ..Self::ok(json.into()) })
    }

    /// The Status of a success that has nothing else to show.
    pub fn success(code: u16) -> Result<Self, ApiError> {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code,
        });
        Self::document(code, &status)
    }
}

impl Call {
    /// `form`: the kind that the URL names.
    pub fn new(api: &Arc<Api>, form: &Arc<Served>, identity: Identity) -> Self {
        Self {
            api: api.clone(),
            kind: form.stored.as_ref().unwrap_or(form).clone(),
            form: form.clone(),
            identity,
            namespace: None,
            name: None,
            subresource: None,
            options: WriteOptions::default(),
            user_agent: None,
            content_type: None,
            body: Bytes::new(),
            warnings: Warnings::default(),
        }
    }

    /// Tells the client, whatever becomes of the call.
    pub fn warn(&self, warnings: Vec<String>) {
        self.warnings.add(warnings);
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The key of the object that the URL names.
    pub fn key(&self) -> String {
        key_of(self.namespace.as_deref(), self.name())
    }

    pub fn validation(&self) -> FieldValidation {
        match self.options.field_validation.as_deref() {
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            _ => FieldValidation::Warn,
        }
    }

    /// The object as it is now. Only when the cache has none is the store asked how far it is.
    pub async fn current(&self) -> Result<Arc<Object>, ApiError> {
        let key = self.key();
        if let Some(object) = self.kind.cache.get(&key) {
            return self.kind.presented_one(object).await;
        }
        self.api.cache.catch_up(&*self.api.store).await?;
        let object = self.kind.cache.get(&key);
        let object = object.ok_or_else(|| ApiError::not_found(self.form.resource(), self.name()))?;
        self.kind.presented_one(object).await
    }

    /// Whether the object is still what the store has. Every decision that does not end in a conditional write asks:
    /// another apiserver may have written what this one's cache does not show yet.
    pub async fn is_newest(&self, object: &Object) -> Result<bool, ApiError> {
        self.api.cache.catch_up(&*self.api.store).await?;
        let now = self.kind.cache.get(&self.key());
        Ok(now.is_some_and(|now| now.head.resource_version == object.head.resource_version))
    }

    /// The same identity and options on another object of the same kind.
    pub fn on(&self, namespace: Option<&str>, name: &str) -> Self {
        Self {
            api: self.api.clone(),
            kind: self.kind.clone(),
            form: self.form.clone(),
            identity: self.identity.clone(),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            subresource: self.subresource.clone(),
            options: self.options.clone(),
            user_agent: self.user_agent.clone(),
            content_type: self.content_type.clone(),
            body: self.body.clone(),
            warnings: self.warnings.clone(),
        }
    }
}
