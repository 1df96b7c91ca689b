//! What of a request's and an answer's headers crosses the proxy.

use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};

use crate::subresources::connect::Connect;

/// Of one connection only.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What the API was asked with is not the backend's business.
const CREDENTIALS: &[&str] = &["authorization", "x-remote-user", "x-remote-group", "x-remote-uid"];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The names that a page may be known by.
#[derive(Debug)]
pub struct Site {
    /// The path up to and with `…/proxy`.
    pub prefix: String,
    /// `address:port` of the backend.
    pub backend: String,
    /// The host that the client asked.
    pub asked: String,
}

pub fn host(headers: &HeaderMap, uri: &Uri) -> String {
    let header = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    header.or_else(|| uri.authority().map(|a| a.as_str())).unwrap_or_default().to_owned()
}

/// The backend's request, without its body.
pub fn request(connect: &Connect<'_>, upgrade: bool, site: &Site) -> Result<Request<Body>, ApiError> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = connect.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = connect.headers.clone();
    let headers = request.headers_mut();
    let kept = headers.get(header::UPGRADE).cloned().filter(|_| upgrade);
    let trailers = headers.get("te").is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    drop_hop_by_hop(headers);
    for name in CREDENTIALS {
        headers.remove(*name);
    }
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = kept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if let Some(remote) = connect.remote {
        let mut chain: Vec<String> = headers
            .get_all(&X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        chain.push(remote.0.ip().to_string());
        headers.insert(X_FORWARDED_FOR, value(&chain.join(", "))?);
    }
    headers.insert(X_FORWARDED_URI, value(&connect.info.path)?);
    headers.insert(header::HOST, value(&site.asked)?);
    Ok(request)
}

fn value(text: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text).map_err(|error| ApiError::bad_request(error.to_string()))
}

pub fn response(mut answer: Response<Body>) -> Response {
    drop_hop_by_hop(answer.headers_mut());
    *answer.version_mut() = Version::HTTP_11;
    answer
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("content-type", "text/plain"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        drop_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }
}
