//! Where a node's server listens, from the node's status; and what it answers, passed on.

use axum::body::Body;
use axum::response::Response;
use coracle_client::{ApiError, Resource};
use futures::TryStreamExt;
use http::header;
use k8s_openapi::api::core::v1::Node;

use crate::api::Api;
use crate::verbs::Call;

/// Longest error text that is taken over from a node.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// Addresses in the order upstream prefers them, beginning with what works inside the cluster.
const PREFERRED: &[&str] = &["InternalIP", "InternalDNS", "Hostname", "ExternalIP", "ExternalDNS"];

pub struct Endpoint {
    pub address: String,
    pub port: u16,
}

pub fn endpoint(api: &Api, name: &str) -> Result<Endpoint, ApiError> {
    let resource = Resource::of::<Node>();
    let node = api.kind(&resource)?.cache.get(name).ok_or_else(|| ApiError::not_found(&resource, name))?;
    endpoint_of(name, node.decode()?)
}

pub fn endpoint_of(name: &str, node: Node) -> Result<Endpoint, ApiError> {
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let address = PREFERRED
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a.type_ == *kind))
        .map(|a| a.address.clone())
        .ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
        })?;
    let port = status
        .daemon_endpoints
        .and_then(|d| d.kubelet_endpoint)
        .and_then(|e| u16::try_from(e.port).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| {
            ApiError::service_unavailable(format!("node {name:?} does not say where its server listens"))
        })?;
    Ok(Endpoint { address, port })
}

/// What the node's server answers, as it comes; its refusals as Status.
pub async fn through(call: &Call, node: &str, path_and_query: &str) -> Result<Response, ApiError> {
    let endpoint = endpoint(&call.api, node)?;
    let Some(proxy) = &call.api.options.node_proxy else {
        return Err(ApiError::service_unavailable("this apiserver does not connect to nodes"));
    };
    let (parts, body) = proxy.open(&endpoint.address, endpoint.port, path_and_query).await?;
    if !parts.status.is_success() {
        let text = body
            .try_fold(Vec::new(), |mut whole, piece| async move {
                let room = ERROR_BYTES_MAX.saturating_sub(whole.len());
                whole.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
                Ok(whole)
            })
            .await
            .unwrap_or_default();
        let reason = match parts.status.as_u16() {
            400 => "BadRequest",
            403 => "Forbidden",
            404 => "NotFound",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        return Err(ApiError::new(
            parts.status.as_u16(),
            reason,
            String::from_utf8_lossy(&text).trim().to_owned(),
        ));
    }
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = parts.status;
    if let Some(content_type) = parts.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    Ok(response)
}
