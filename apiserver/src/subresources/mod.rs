//! Subresources that are more than a part of their object, one file each, found by name; and the reviews, which are
//! answered and not stored.

mod access_review;
mod approval;
mod binding;
pub(crate) mod computed;
pub mod connect;
mod ephemeral_containers;
mod eviction;
mod finalize;
mod log;
mod node;
mod proxy;
pub mod resource_metrics;
mod rules_review;
mod resize;
mod scale;
mod self_review;
mod streams;
mod token;
mod token_review;

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use coracle_client::{ApiError, Verb, WriteOptions};
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use crate::api::Api;
use crate::authn::Identity;
use crate::decode::{self, FieldValidation};
use crate::request_info::RequestInfo;
use crate::verbs::modify::{Detail, Part};
use crate::verbs::options::Query;
use crate::verbs::{Answer, Call, patch, update};

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

    /// Any request, upgrades included; what the node answers, as it comes.
    async fn send(
        &self,
        node_address: &str,
        port: u16,
        path_and_query: &str,
        request: http::Request<Body>,
    ) -> Result<Response<Body>, ApiError>;
}

/// Signs service account tokens.
pub trait TokenIssuer: Send + Sync + 'static {
    fn issue(&self, claims: &crate::authn::token::Claims) -> Result<String, ApiError>;
}

impl TokenIssuer for crate::authn::token::TokenKey {
    fn issue(&self, claims: &crate::authn::token::Claims) -> Result<String, ApiError> {
        self.sign(claims).map_err(ApiError::internal)
    }
}

/// A request to a resource that is answered and not stored.
pub struct Review<'a> {
    pub api: &'a Arc<Api>,
    pub info: &'a RequestInfo,
    pub identity: Identity,
    pub options: WriteOptions,
    pub content_type: Option<&'a str>,
    pub body: Bytes,
}

/// A resource that is answered and not stored, as discovery lists it.
pub struct ReviewDef {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

pub const REVIEWS: &[ReviewDef] = &[
    self_review::DEF,
    token_review::DEF,
    access_review::LOCAL,
    access_review::SELF,
    rules_review::DEF,
    access_review::SUBJECT,
    binding::LEGACY,
];

pub fn is_review(group: &str, plural: &str) -> bool {
    REVIEWS.iter().any(|def| def.group == group && def.plural == plural)
}

/// None: no such resource.
pub async fn review(review: Review<'_>) -> Option<Result<Answer, ApiError>> {
    let info = review.info;
    let def = REVIEWS
        .iter()
        .find(|def| def.plural == info.resource && def.group == info.group && def.version == info.version)?;
    if def.namespaced == review.info.namespace.is_empty() {
        return Some(Err(ApiError::unknown_resource()));
    }
    if review.info.verb != "create" || !review.info.name.is_empty() {
        return Some(Err(ApiError::wrong_method()));
    }
    Some(match def.kind {
        "SelfSubjectReview" => self_review::answer(&review),
        "TokenReview" => token_review::answer(&review).await,
        "SelfSubjectRulesReview" => rules_review::answer(&review),
        "LocalSubjectAccessReview" => access_review::local(&review).await,
        "Binding" => binding::create_by_name(&review).await,
        "SelfSubjectAccessReview" => access_review::own(&review).await,
        _ => access_review::of_subject(&review).await,
    })
}

/// One document in, one out.
pub async fn perform(call: &Call, name: &str, verb: Verb) -> Result<Answer, ApiError> {
    match (name, verb) {
        ("scale", Verb::Get) => scale::get(call).await,
        ("scale", Verb::Update) => scale::update(call).await,
        ("scale", Verb::Patch(patch)) => scale::patch(call, patch).await,
        ("binding", Verb::Create) => binding::create(call).await,
        ("eviction", Verb::Create) => eviction::create(call).await,
        ("token", Verb::Create) => token::create(call).await,
        ("finalize", Verb::Update) => finalize::update(call).await,
        ("ephemeralcontainers", verb) => detail(call, &ephemeral_containers::PART, verb).await,
        ("resize", verb) => detail(call, &resize::PART, verb).await,
        ("approval", Verb::Get) => Ok(Answer::ok(call.current().await?.json.clone())),
        ("approval", Verb::Update) => approval::update(call).await,
        ("approval", Verb::Patch(patch)) => approval::patch(call, patch).await,
        _ => Err(ApiError::wrong_method()),
    }
}

/// The whole object, of which one part may change.
async fn detail(call: &Call, part: &'static Detail, verb: Verb) -> Result<Answer, ApiError> {
    match verb {
        Verb::Get => {
            call.api.cache.catch_up(&*call.api.store).await?;
            Ok(Answer::ok(call.current().await?.json.clone()))
        }
        Verb::Update => update::update(call, Part::Detail(part)).await,
        Verb::Patch(kind) => patch::patch(call, kind, Part::Detail(part)).await,
        _ => Err(ApiError::wrong_method()),
    }
}

/// Answers that are streams. None: the subresource is none of these.
pub async fn stream(call: &Call, verb: Verb, query: &Query) -> Option<Result<Response, ApiError>> {
    let name = call.subresource.as_deref().filter(|name| call.form.def.has_subresource(name))?;
    match (name, verb) {
        ("log", Verb::Get) => Some(log::open(call, query).await),
        ("log", _) => Some(Err(ApiError::wrong_method())),
        _ => None,
    }
}

/// The group, version and kind of what a subresource takes and answers.
pub type Document = (&'static str, &'static str, &'static str);

/// The verbs of a subresource, and its document where that is not its parent's, as discovery lists them.
pub fn describe(parent: &str, name: &str) -> (&'static [&'static str], Option<Document>) {
    const READ_AND_CHANGE: &[&str] = &["get", "patch", "update"];
    const CONNECT: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    match name {
        "scale" => (READ_AND_CHANGE, Some(("autoscaling", "v1", "Scale"))),
        "binding" => (&["create"], Some(("", "v1", "Binding"))),
        "eviction" => (&["create"], Some(("policy", "v1", "Eviction"))),
        "token" => (&["create"], Some(("authentication.k8s.io", "v1", "TokenRequest"))),
        "finalize" => (&["update"], None),
        "log" => (&["get"], None),
        "exec" => (CONNECT, Some(("", "v1", "PodExecOptions"))),
        "attach" => (CONNECT, Some(("", "v1", "PodAttachOptions"))),
        "portforward" => (CONNECT, Some(("", "v1", "PodPortForwardOptions"))),
        "proxy" => match parent {
            "Pod" => (PROXY, Some(("", "v1", "PodProxyOptions"))),
            "Service" => (PROXY, Some(("", "v1", "ServiceProxyOptions"))),
            _ => (PROXY, Some(("", "v1", "NodeProxyOptions"))),
        },
        _ => (READ_AND_CHANGE, None),
    }
}

/// A subresource's own body.
fn document<T: DeserializeOwned>(call: &Call, api_version: &str, kind: &str) -> Result<T, ApiError> {
    let content_type = call.content_type.as_deref();
    let (document, warnings) =
        decode::document(api_version, kind, content_type, &call.body, call.validation())?;
    call.warn(warnings);
    Ok(document)
}

impl Review<'_> {
    fn document<T: DeserializeOwned>(&self, api_version: &str, kind: &str) -> Result<T, ApiError> {
        let read =
            decode::document(api_version, kind, self.content_type, &self.body, FieldValidation::Ignore);
        read.map(|(document, _)| document)
    }
}
