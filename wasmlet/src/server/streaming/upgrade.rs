//! The HTTP side of a stream: which protocol a client asks for, and the connection that it becomes.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

pub type Refusal = (StatusCode, String);

pub const PROTOCOL_VERSION: &str = "x-stream-protocol-version";

/// What the `Upgrade` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    WebSocket,
    Spdy,
    /// Bytes of one connection to a port: the apiserver's own, for `pods/proxy` and `services/proxy`.
    Raw,
}

pub const RAW: &str = "coracle-tcp";

pub fn wish(headers: &HeaderMap) -> Result<Wish, Refusal> {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    if !asks {
        return Err((StatusCode::BAD_REQUEST, "Upgrade request required".into()));
    }
    match upgrade.to_ascii_lowercase().as_str() {
        "websocket" => Ok(Wish::WebSocket),
        "spdy/3.1" => Ok(Wish::Spdy),
        RAW => Ok(Wish::Raw),
        _ => Err((
            StatusCode::BAD_REQUEST,
            format!("unable to upgrade: missing upgrade headers in request: {upgrade:?}"),
        )),
    }
}

/// The newest version that both sides know.
pub fn negotiate(headers: &HeaderMap, known: &[&'static str]) -> Result<&'static str, Refusal> {
    let offered: Vec<&str> = headers
        .get_all(PROTOCOL_VERSION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if offered.is_empty() {
        // As upstream: a client without the header speaks the oldest.
        return known.last().copied().ok_or((StatusCode::FORBIDDEN, String::new()));
    }
    offered.iter().find_map(|name| known.iter().find(|k| *k == name)).copied().ok_or_else(|| {
        (
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                offered.join(" "),
                known.join(" ")
            ),
        )
    })
}

/// 101, and the connection behind it when the client has seen that.
pub fn switch<B>(
    request: &mut Request<B>,
    upgrade: &'static str,
    version: Option<&'static str>,
) -> Result<(Response, impl Future<Output = Option<TokioIo<Upgraded>>> + use<B>), Refusal> {
    let Some(on_upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err((StatusCode::BAD_REQUEST, "this connection cannot be upgraded".into()));
    };
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    if let Some(version) = version {
        headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(version));
    }
    Ok((response, async move { on_upgrade.await.ok().map(TokioIo::new) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn wishes() {
        for (pairs, want) in [
            (&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")][..], Some(Wish::Spdy)),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], Some(Wish::WebSocket)),
            (&[("connection", "Upgrade"), ("upgrade", "h2c")], None),
            (&[("upgrade", "websocket")], None),
            (&[], None),
        ] {
            assert_eq!(wish(&headers(pairs)).ok(), want, "{pairs:?}");
        }
    }

    #[test]
    fn versions_are_negotiated() {
        let known = &["v4", "v3", "v1"];
        for (offered, want) in [
            (&[("x-stream-protocol-version", "v3")][..], Ok("v3")),
            (&[("x-stream-protocol-version", "v9, v4")], Ok("v4")),
            (&[], Ok("v1")),
            (
                &[("x-stream-protocol-version", "v9")],
                Err(
                    "unable to upgrade: unable to negotiate protocol: client supports [v9], server accepts [v4 v3 v1]",
                ),
            ),
        ] {
            let mut all = HeaderMap::new();
            for (name, value) in offered {
                all.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(negotiate(&all, known).map_err(|(_, text)| text), want.map_err(str::to_owned));
        }
    }
}
