//! Where a request carries its bearer token: the Authorization header, or a WebSocket subprotocol for browsers.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;

const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Credentials of another form are no credentials, as upstream.
pub fn token(request: &Parts) -> Option<String> {
    let header = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = header.and_then(|value| value.trim().split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
        && let Some(token) = token.split_whitespace().next()
    {
        return Some(token.to_owned());
    }
    request
        .headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL))
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_where_clients_put_it() {
        for (name, value, want) in [
            ("authorization", "Bearer abc", Some("abc")),
            ("authorization", "bearer   abc", Some("abc")),
            ("authorization", "Bearer ", None),
            ("authorization", "Basic abc", None),
            ("authorization", "abc", None),
            (
                "sec-websocket-protocol",
                "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj",
                Some("abc"),
            ),
            ("sec-websocket-protocol", "v5.channel.k8s.io", None),
        ] {
            let (parts, ()) = http::Request::builder().header(name, value).body(()).unwrap().into_parts();
            assert_eq!(token(&parts).as_deref(), want, "{name}: {value}");
        }
    }
}
