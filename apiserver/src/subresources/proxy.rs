//! `nodes/proxy`: a GET that the node's own server answers; and the passing on of such answers.

use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use futures::TryStreamExt;
use http::header;

use super::node;
use crate::request_info::RequestInfo;
use crate::verbs::Call;
use crate::verbs::options::Query;

/// Longest error text that is taken over from a node.
const ERROR_BYTES_MAX: usize = 16 * 1024;

pub async fn open(call: &Call, info: &RequestInfo, query: &Query) -> Result<Response, ApiError> {
    let path = format!("/{}{}", info.rest, query.encode(|_| true));
    through(call, call.name(), &path).await
}

/// What the node's server answers, as it comes; its refusals as Status.
pub async fn through(call: &Call, node: &str, path_and_query: &str) -> Result<Response, ApiError> {
    let endpoint = node::endpoint(&call.api, node)?;
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
