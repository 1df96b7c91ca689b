//! What a component can ask of the API, and the transport that carries it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::discovery::Discovered;
use crate::object::Object;
use crate::resource::Resource;
use crate::status::ApiError;

/// Carries requests to the apiserver: over HTTPS (`http::Https`), or directly when it runs in this process.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Get, create, update, patch, delete, deletecollection, and every subresource: one document in, one out.
    async fn call(&self, request: Request) -> Result<Bytes, ApiError>;

    async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: ListOptions,
    ) -> Result<List, ApiError>;

    async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError>;

    /// What is served at this moment.
    async fn discover(&self) -> Result<Discovered, ApiError>;
}

/// One call on one object (or, for create and deletecollection, on a collection).
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: Verb,
    pub resource: Resource,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
    pub options: WriteOptions,
    /// For deletecollection: what is deleted.
    pub selection: ListOptions,
    /// The JSON body; for delete the encoded `DeleteOptions`, or empty.
    pub body: Bytes,
}

impl Request {
    pub fn new(verb: Verb, resource: Resource) -> Self {
        Self {
            verb,
            resource,
            namespace: None,
            name: None,
            subresource: None,
            options: WriteOptions::default(),
            selection: ListOptions::default(),
            body: Bytes::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Create,
    Update,
    Patch(PatchType),
    Delete,
    DeleteCollection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: Option<String>,
    pub field_validation: Option<String>,
    pub force: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// Of the metrics APIs: which series of a metric.
    pub metric_label_selector: Option<String>,
    pub limit: Option<u64>,
    pub continue_token: Option<String>,
    /// None: the newest state. Some("0"): whatever is at hand.
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub resource_version: Option<String>,
    pub allow_bookmarks: bool,
    pub send_initial_events: bool,
    pub timeout: Option<Duration>,
}

/// A list at one revision.
#[derive(Debug, Default)]
pub struct List {
    pub resource_version: u64,
    pub continue_token: Option<String>,
    pub items: Vec<Arc<Object>>,
}

pub type WatchStream = BoxStream<'static, Result<WatchEvent, ApiError>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub kind: WatchEventKind,
    /// For a bookmark only `head.resource_version` (and the initial-events annotation in the JSON) mean something.
    pub object: Arc<Object>,
    /// A bookmark that ends the initial events.
    pub initial_events_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `metav1.DeleteOptions`, the part components use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    pub fn grace(seconds: i64) -> Self {
        Self { grace_period_seconds: Some(seconds), ..Self::default() }
    }

    pub fn propagation(policy: Propagation) -> Self {
        Self { propagation_policy: Some(policy), ..Self::default() }
    }

    pub fn uid(mut self, uid: &str) -> Self {
        self.preconditions.get_or_insert_default().uid = Some(uid.into());
        self
    }
}

/// Appends a name or value of a query, percent-encoded.
pub fn escape_query(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                into.push(char::from(byte))
            }
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}
