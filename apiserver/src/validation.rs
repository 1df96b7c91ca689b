//! Formats that many kinds share: DNS names, label keys and values, ports, with upstream's messages.

/// What upstream says of a name that is no DNS-1123 subdomain.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const CONFIG_MAP_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

pub fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err(too_long(253));
    }
    if text.split('.').all(is_label) { Ok(()) } else { Err(SUBDOMAIN.into()) }
}

pub fn dns_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_long(63));
    }
    if is_label(text) { Ok(()) } else { Err(LABEL.into()) }
}

pub fn dns_1035_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err(too_long(63));
    }
    if is_label(text) && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        Ok(())
    } else {
        Err(LABEL_1035.into())
    }
}

pub fn config_map_key(key: &str) -> Result<(), String> {
    if key.len() > 253 {
        return Err(too_long(253));
    }
    if key == "." {
        return Err("must not be '.'".into());
    }
    if key == ".." {
        return Err("must not be '..'".into());
    }
    if key.starts_with("..") {
        return Err("must not start with '..'".into());
    }
    let fine =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fine { Ok(()) } else { Err(CONFIG_MAP_KEY.into()) }
}
