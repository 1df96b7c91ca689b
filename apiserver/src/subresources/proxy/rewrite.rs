//! Redirects and the links of pages, made to lead through the proxy.

use std::io::{Read, Write};

use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use http::header::{self, HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Limited};

use super::forward::Site;

/// A page is held in memory while its links are rewritten.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// Attributes that hold URLs, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

pub async fn response(mut response: Response, site: &Site) -> Result<Response, ApiError> {
    if let Some(location) = response.headers().get(header::LOCATION) {
        if let Some(new) = location.to_str().ok().and_then(|text| url(text, site))
            && let Ok(new) = HeaderValue::from_str(&new)
        {
            response.headers_mut().insert(header::LOCATION, new);
        }
        return Ok(response);
    }
    let Some(encoding) = encoding_of_page(response.headers()) else { return Ok(response) };
    let (mut parts, body) = response.into_parts();
    let whole = Limited::new(body, PAGE_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| ApiError::service_unavailable(format!("error trying to reach service: {error}")))?;
    let whole = whole.to_bytes();
    let broken = |error: std::io::Error| {
        ApiError::service_unavailable(format!("error trying to reach service: {error}"))
    };
    let plain = match encoding.as_str() {
        "gzip" => read(GzDecoder::new(&whole[..])).map_err(broken)?,
        "deflate" => read(DeflateDecoder::new(&whole[..])).map_err(broken)?,
        _ => whole.to_vec(),
    };
    let page = html(&plain, site);
    let page = match encoding.as_str() {
        "gzip" => {
            let mut out = GzEncoder::new(Vec::new(), Compression::default());
            out.write_all(&page).and_then(|()| out.finish()).map_err(broken)?
        }
        "deflate" => {
            let mut out = DeflateEncoder::new(Vec::new(), Compression::default());
            out.write_all(&page).and_then(|()| out.finish()).map_err(broken)?
        }
        _ => page,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(page)))
}

/// None: no page, or none that can be read.
fn encoding_of_page(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let encoding = text(header::CONTENT_ENCODING).unwrap_or_default();
    (kind.split(';').next().unwrap_or_default().trim() == "text/html"
        && matches!(encoding, "" | "gzip" | "deflate"))
    .then(|| encoding.to_owned())
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(PAGE_BYTES_MAX as u64).read_to_end(&mut out)?;
    Ok(out)
}

/// The same place by way of the proxy; None for what leads elsewhere, or is relative to the page.
fn url(text: &str, site: &Site) -> Option<String> {
    let (host, path) = match text.split_once("://") {
        Some(("http" | "https", rest)) => {
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(at);
            (Some(host), path)
        }
        _ => match text.strip_prefix("//") {
            Some(rest) => {
                let at = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(at);
                (Some(host), path)
            }
            None => (None, text),
        },
    };
    let ours = host.is_none_or(|host| host == site.backend || host == site.asked);
    if !ours || !path.starts_with('/') {
        return None;
    }
    // The host that was asked stays: the client knows the API by it.
    let host = host.filter(|host| *host == site.asked && *host != site.backend);
    let start = match host {
        Some(host) => {
            let scheme = text.split_once("//").map_or("", |(scheme, _)| scheme);
            format!("{scheme}//{host}")
        }
        None => String::new(),
    };
    if path.starts_with(&site.prefix) {
        return Some(format!("{start}{path}"));
    }
    Some(format!("{start}{}{path}", site.prefix))
}

/// Rewrites the attributes that hold URLs; every other byte stays as it is.
fn html(page: &[u8], site: &Site) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        let (text, tag) = rest.split_at(at);
        out.extend_from_slice(text);
        if tag.starts_with(b"<!--") {
            let end = find(tag, b"-->").map_or(tag.len(), |at| at + 3);
            out.extend_from_slice(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let end = tag_end(tag);
        let (tag, after) = tag.split_at(end);
        let name: String = tag[1..]
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric())
            .map(|b| b.to_ascii_lowercase() as char)
            .collect();
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) => rewrite_tag(tag, attributes, site, &mut out),
            None => out.extend_from_slice(tag),
        }
        rest = after;
        // What is in these is no markup.
        if matches!(name.as_str(), "script" | "style" | "textarea") {
            let close = format!("</{name}");
            let end = find_text(rest, close.as_bytes()).unwrap_or(rest.len());
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.extend_from_slice(rest);
    out
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn find_text(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window.eq_ignore_ascii_case(what))
}

/// Past the `>` that is in no quotes.
fn tag_end(tag: &[u8]) -> usize {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    tag.len()
}

fn rewrite_tag(tag: &[u8], attributes: &[&str], site: &Site, out: &mut Vec<u8>) {
    let mut at = 1 + tag[1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
    out.extend_from_slice(&tag[..at]);
    while at < tag.len() {
        let start = at;
        while at < tag.len() && !tag[at].is_ascii_alphabetic() {
            at += 1;
        }
        out.extend_from_slice(&tag[start..at]);
        let name_start = at;
        while at < tag.len() && (tag[at].is_ascii_alphanumeric() || matches!(tag[at], b'-' | b'_' | b':')) {
            at += 1;
        }
        let name = String::from_utf8_lossy(&tag[name_start..at]).to_ascii_lowercase();
        let mut value = at;
        while value < tag.len() && tag[value].is_ascii_whitespace() {
            value += 1;
        }
        if tag.get(value) != Some(&b'=') {
            out.extend_from_slice(&tag[name_start..at]);
            continue;
        }
        value += 1;
        while value < tag.len() && tag[value].is_ascii_whitespace() {
            value += 1;
        }
        let (from, to, next) = match tag.get(value) {
            Some(quote @ (b'"' | b'\'')) => {
                let from = value + 1;
                let length = tag[from..].iter().position(|b| b == quote).unwrap_or(tag.len() - from);
                (from, from + length, (from + length + 1).min(tag.len()))
            }
            _ => {
                let length = tag[value..]
                    .iter()
                    .position(|b| b.is_ascii_whitespace() || *b == b'>')
                    .unwrap_or(tag.len() - value);
                (value, value + length, value + length)
            }
        };
        let new = attributes
            .contains(&name.as_str())
            .then(|| std::str::from_utf8(&tag[from..to]).ok())
            .flatten()
            .and_then(|text| url(text, site));
        out.extend_from_slice(&tag[name_start..from]);
        match new {
            Some(new) => out.extend_from_slice(new.as_bytes()),
            None => out.extend_from_slice(&tag[from..to]),
        }
        out.extend_from_slice(&tag[to..next]);
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            prefix: "/api/v1/namespaces/ns/pods/p/proxy".into(),
            backend: "10.0.0.5:8080".into(),
            asked: "localhost:8001".into(),
        }
    }

    #[test]
    fn urls() {
        for (text, want) in [
            ("/a/b?c#d", Some("/api/v1/namespaces/ns/pods/p/proxy/a/b?c#d")),
            ("http://10.0.0.5:8080/x/", Some("/api/v1/namespaces/ns/pods/p/proxy/x/")),
            ("http://localhost:8001/x", Some("http://localhost:8001/api/v1/namespaces/ns/pods/p/proxy/x")),
            ("/api/v1/namespaces/ns/pods/p/proxy/y", Some("/api/v1/namespaces/ns/pods/p/proxy/y")),
            ("relative", None),
            ("http://elsewhere/x", None),
            ("mailto:a@b", None),
            ("#anchor", None),
        ] {
            assert_eq!(url(text, &site()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn pages() {
        for (page, want) in [
            (r#"<a href="/x">x</a>"#, r#"<a href="/api/v1/namespaces/ns/pods/p/proxy/x">x</a>"#),
            ("<IMG alt=1 SRC='/i.png' >", "<IMG alt=1 SRC='/api/v1/namespaces/ns/pods/p/proxy/i.png' >"),
            ("<a href=/x>", "<a href=/api/v1/namespaces/ns/pods/p/proxy/x>"),
            (r#"<a title="/x" href="y">"#, r#"<a title="/x" href="y">"#),
            ("<p src=\"/x\"> 1 < 2 & <", "<p src=\"/x\"> 1 < 2 & <"),
            ("<!-- <a href=\"/x\"> -->", "<!-- <a href=\"/x\"> -->"),
            ("<script>if (a<b) '<a href=\"/x\">'</script>", "<script>if (a<b) '<a href=\"/x\">'</script>"),
            ("<a href=\"/unfinished", "<a href=\"/api/v1/namespaces/ns/pods/p/proxy/unfinished"),
        ] {
            assert_eq!(String::from_utf8_lossy(&html(page.as_bytes(), &site())), want);
        }
    }
}
