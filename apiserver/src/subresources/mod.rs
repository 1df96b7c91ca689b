//! Subresources that are more than a part of their object, one file each, found by name; and the reviews, which are
//! answered and not stored.

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use bytes::Bytes;
use coracle_client::{ApiError, Verb};
use futures::stream::BoxStream;
use http::Method;

use crate::api::Api;
use crate::authn::Identity;
use crate::request_info::RequestInfo;
use crate::verbs::options::Query;
use crate::verbs::{Answer, Call};

/// A response body that is passed on as it comes.
pub type BodyStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// Reaches the servers of nodes.
#[async_trait]
pub trait NodeProxy: Send + Sync + 'static {
    /// A GET of `path_and_query` from the node's server, over HTTPS with the apiserver's own identity.
    async fn open(
        &self,
        node_address: &str,
        port: u16,
        path_and_query: &str,
    ) -> Result<(http::response::Parts, BodyStream), ApiError>;
}

/// Signs service account tokens.
pub trait TokenIssuer: Send + Sync + 'static {
    fn issue(&self, claims: &crate::authn::token::Claims) -> Result<String, ApiError>;
}

/// A request to a resource that is answered and not stored.
pub struct Review<'a> {
    pub api: &'a Arc<Api>,
    pub info: &'a RequestInfo,
    pub identity: Identity,
    pub content_type: Option<&'a str>,
    pub body: Bytes,
}

/// None: no such resource.
pub async fn review(_api_version: &str, _review: Review<'_>) -> Option<Result<Answer, ApiError>> {
    None
}

/// One document in, one out.
pub async fn perform(_call: &Call, _name: &str, _verb: Verb) -> Result<Answer, ApiError> {
    Err(ApiError::new(404, "NotFound", "the server could not find the requested resource"))
}

/// Answers that are streams (logs). None: the subresource is none of these.
pub async fn stream(
    _call: &Call,
    _verb: Verb,
    _info: &RequestInfo,
    _query: &Query,
    _method: &Method,
) -> Option<Result<Response, ApiError>> {
    None
}
