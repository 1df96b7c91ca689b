//! URLs, read as Go reads the URL of a request.

use std::sync::Arc;

use super::Opaque;
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::{Entries, Map, Value};

#[derive(Clone, Debug, PartialEq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub(super) fn declare(functions: &mut Functions) {
    functions.global("url", url, &[("string_to_url", "string -> url")]);
    functions.global("isURL", is_url, &[("is_url_string", "string -> bool")]);
    functions.member("getScheme", scheme, &[("url_get_scheme", "url -> string")]);
    functions.member("getHost", host, &[("url_get_host", "url -> string")]);
    functions.member("getHostname", hostname, &[("url_get_hostname", "url -> string")]);
    functions.member("getPort", port, &[("url_get_port", "url -> string")]);
    functions.member("getEscapedPath", path, &[("url_get_escaped_path", "url -> string")]);
    functions.member("getQuery", query, &[("url_get_query", "url -> map(string, list(string))")]);
}

/// Reads an absolute URL or an absolute path.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let wrong = |why: String| format!("parse {text:?}: {why}");
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(wrong("net/url: invalid control character in URL".into()));
    }
    if text.is_empty() {
        return Err(wrong("empty url".into()));
    }
    let (scheme, rest) = match text
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'))
    {
        Some(0) if text.starts_with(':') => return Err(wrong("missing protocol scheme".into())),
        Some(end) if text[end..].starts_with(':') && text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (&text[..end], &text[end + 1..])
        }
        Some(end) if text[end..].starts_with(':') => {
            return Err(wrong("first path segment in URL cannot contain colon".into()));
        }
        _ => ("", text),
    };
    // A fragment is no part of a request's URL, but what is read here may have one.
    let rest = rest.split('#').next().unwrap_or(rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let invalid = |why: &str| wrong(why.to_owned());
    if !rest.starts_with('/') {
        if scheme.is_empty() {
            return Err(invalid("invalid URI for request"));
        }
        // Opaque: `mailto:someone`.
        return Ok(Url {
            text: text.into(),
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
            query: query.into(),
        });
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(authority) if !scheme.is_empty() || !rest.starts_with("///") => {
            let end = authority.find('/').unwrap_or(authority.len());
            let (authority, path) = authority.split_at(end);
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            check_host(host).map_err(wrong)?;
            (host, path)
        }
        _ => ("", rest),
    };
    if let Some(bad) = wrong_escape(path) {
        return Err(wrong(format!("invalid URL escape {bad:?}")));
    }
    Ok(Url {
        text: text.into(),
        scheme: scheme.to_ascii_lowercase(),
        host: unescaped(host),
        path: escaped_path(path),
        query: query.into(),
    })
}

fn check_host(host: &str) -> Result<(), String> {
    let port = |port: &str| -> Result<(), String> {
        match port.strip_prefix(':') {
            None if port.is_empty() => Ok(()),
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => Ok(()),
            _ => Err(format!("invalid port {port:?} after host")),
        }
    };
    if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".into()) };
        return port(&host[end + 1..]);
    }
    if let Some(colon) = host.rfind(':') {
        port(&host[colon..])?;
    }
    if let Some(bad) = host.chars().find(|c| matches!(c, ' ' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    match wrong_escape(host) {
        Some(bad) => Err(format!("invalid URL escape {bad:?}")),
        None => Ok(()),
    }
}

fn wrong_escape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (place, _) in text.match_indices('%') {
        let digits = bytes.get(place + 1..place + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Some(text.get(place..).unwrap_or_default().chars().take(3).collect());
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    if !text.contains('%') {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |place: usize| bytes.get(place).and_then(|digit| (*digit as char).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The path as it came, if that is a valid encoding; what needs to be escaped is escaped.
fn escaped_path(path: &str) -> String {
    let stays = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'_'
                    | b'.'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
                    | b'/'
                    | b'['
                    | b']'
                    | b'%'
            )
    };
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if stays(byte) {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

type Result2<'a> = Result<Value<'a>, EvalError>;

fn url<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    match parse(text) {
        Ok(url) => Ok(Value::Opaque(Opaque::Url(Arc::new(url)))),
        Err(why) => Err(EvalError::new(format!("URL parse error during conversion from string: {why}"))),
    }
}

fn is_url<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    Ok(Value::Bool(parse(text).is_ok()))
}

fn receiver<'v>(arguments: &'v [Value<'_>]) -> Result<&'v Url, EvalError> {
    match arguments {
        [Value::Opaque(Opaque::Url(url))] => Ok(url),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn scheme<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::text(receiver(arguments)?.scheme.as_str()))
}

fn host<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::text(receiver(arguments)?.host.as_str()))
}

/// The host's name and its port.
fn parts(host: &str) -> (&str, &str) {
    let valid = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    let (name, port) = match host.rfind(':') {
        Some(colon) if valid(&host[colon + 1..]) => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    };
    (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
}

fn hostname<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::text(parts(&receiver(arguments)?.host).0))
}

fn port<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::text(parts(&receiver(arguments)?.host).1))
}

fn path<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::text(receiver(arguments)?.path.as_str()))
}

fn query<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let mut values: std::collections::BTreeMap<String, Vec<Value<'a>>> = Default::default();
    for pair in receiver(arguments)?.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if wrong_escape(key).is_some() || wrong_escape(value).is_some() {
            continue;
        }
        values
            .entry(unescaped(&key.replace('+', " ")))
            .or_default()
            .push(Value::text(unescaped(&value.replace('+', " "))));
    }
    let mut entries = Entries::new();
    for (key, values) in values {
        let key = Value::text(key);
        if let Some(place) = key.key() {
            entries.insert(place, (key, Value::list(values)));
        }
    }
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = parse("https://user@[::1]:8080/a b/%41?x=1&x=2#f").unwrap();
        assert_eq!(
            (url.scheme.as_str(), url.host.as_str(), url.path.as_str()),
            ("https", "[::1]:8080", "/a%20b/%41")
        );
        assert_eq!(parts(&url.host), ("::1", "8080"));
        for good in ["/path", "http://example.com", "mailto:a@b", "http://example.com:80/", "ftp://x/?q=%20"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "path", "../x", "http://a:b/", ":x", "http://a b/", "http://x/%zz", "http://[::1/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
