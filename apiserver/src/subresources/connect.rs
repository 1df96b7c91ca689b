//! Subresources that are connections: exec, attach, port-forward and the proxies, whatever method, body and upgrade.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tracing::debug;

use super::{proxy, streams};
use crate::api::{Api, Served};
use crate::authn::Identity;
use crate::request_info::RequestInfo;
use crate::server::RemoteAddress;
use crate::verbs::Call;

const NAMES: &[&str] = &["attach", "exec", "portforward", "proxy"];

/// A request to be passed on.
pub struct Connect<'a> {
    pub call: Call,
    pub info: &'a RequestInfo,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub remote: Option<RemoteAddress>,
    pub on_upgrade: Option<OnUpgrade>,
}

/// Whether a request is one of these: its body is not read, and its path is the backend's beyond the prefix.
pub fn concerns(kind: &Served, info: &RequestInfo) -> bool {
    !info.name.is_empty()
        && NAMES.contains(&info.subresource.as_str())
        && kind.def.has_subresource(&info.subresource)
}

pub async fn answer(
    api: &Arc<Api>,
    kind: &Arc<Served>,
    info: &RequestInfo,
    identity: Identity,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let call = Call {
        namespace: Some(info.namespace.clone()).filter(|n| kind.resource().namespaced() && !n.is_empty()),
        name: Some(info.name.clone()),
        subresource: Some(info.subresource.clone()),
        ..Call::new(api, kind, identity)
    };
    let connect = Connect {
        call,
        info,
        method: parts.method,
        uri: parts.uri,
        headers: parts.headers,
        remote: parts.extensions.get().copied(),
        on_upgrade: parts.extensions.remove(),
    };
    if info.subresource == "proxy" {
        return proxy::answer(connect, body).await;
    }
    if !info.rest.is_empty() {
        return Err(ApiError::unknown_resource());
    }
    if !matches!(connect.method, Method::GET | Method::POST) {
        return Err(ApiError::wrong_method());
    }
    streams::answer(connect).await
}

impl Connect<'_> {
    /// A WebSocket's GET does what a POST does, so the right to `get` is not enough, as upstream since 1.35.
    pub async fn may_create(&self) -> Result<(), ApiError> {
        let Some(authorizer) = &self.call.api.options.authorizer else { return Ok(()) };
        if self.info.verb == "create" {
            return Ok(());
        }
        let attributes = crate::authz::Attributes { verb: "create".into(), ..self.info.attributes() };
        authorizer.authorize(&self.call.identity, &attributes).await
    }

    /// The pod that the URL names, as new as it is.
    pub async fn pod(&self) -> Result<Pod, ApiError> {
        self.call.api.cache.catch_up(&*self.call.api.store).await?;
        Ok(self.call.current().await?.decode()?)
    }
}

/// Whether a client wants to leave HTTP.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Passes a backend's answer to an upgrade on: bytes in both directions until either side ends, or its error.
pub fn upgraded(
    api: &Api,
    on_upgrade: Option<OnUpgrade>,
    mut answer: Response<Body>,
) -> Result<Response, ApiError> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        if answer.status().as_u16() < 400 {
            let text = format!("invalid upgrade response: status code {}", answer.status().as_u16());
            return Err(ApiError::internal(text));
        }
        return Ok(answer);
    }
    let Some(client) = on_upgrade else {
        return Err(ApiError::bad_request("this connection cannot be upgraded"));
    };
    let backend = hyper::upgrade::on(&mut answer);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    let shutdown = api.shutdown.clone();
    tokio::spawn(async move {
        let pass = async {
            let (client, backend) = tokio::try_join!(client, backend)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            tokio::io::copy_bidirectional(&mut client, &mut backend).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        tokio::select! {
            result = pass => if let Err(error) = result {
                debug!(%error, "an upgraded connection");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Ok(response)
}
