//! Image references, normalised as docker does it.

use std::fmt;
use std::str::FromStr;

use super::digest;

pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Of registry and repository together, as docker's grammar has it.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// `registry/repository:tag@digest`, of which the last two are one or both there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    #[error("invalid checksum digest format")]
    Digest,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        // A colon after the last slash sets off a tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(parse_tag(tag)?)),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') && !path.is_empty() {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        if !is_host(registry) {
            return Err(ReferenceError::Format);
        }
        if !is_repository(&repository) {
            let lower = repository.to_ascii_lowercase();
            if lower != repository && is_repository(&lower) {
                return Err(ReferenceError::Uppercase(repository));
            }
            return Err(ReferenceError::Format);
        }
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        let tag = match (&tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            _ => tag,
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Reference {
    /// True for registries on this machine, which are spoken to without TLS.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or(""),
            None => self.registry.split(':').next().unwrap_or(""),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn parse_digest(text: &str) -> Result<String, ReferenceError> {
    digest::sha256_hex(text).map(|_| text.to_owned()).ok_or(ReferenceError::Digest)
}

fn parse_tag(text: &str) -> Result<String, ReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(word);
    if first && text.len() <= TAG_MAX && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
        Ok(text.to_owned())
    } else {
        Err(ReferenceError::Format)
    }
}

/// docker's rule for telling a registry from the first part of a repository.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || (first.bytes().any(|b| b.is_ascii_uppercase()) && is_host(first))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            if v6.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (None, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let port_is_fine = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_is_fine && host.is_none_or(|host| host.split('.').all(label))
}

/// Lowercase words joined by one of `.`, `_`, `__` or any number of `-`; joined again by slashes.
fn is_repository(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, normal) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.25", "docker.io/library/nginx:1.25".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("index.docker.io/app", "docker.io/library/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            ("ghcr.io/a/b/c_d__e-f--g.h:V1.0-x", "ghcr.io/a/b/c_d__e-f--g.h:V1.0-x".to_owned()),
            (&format!("app@sha256:{hex}"), format!("docker.io/library/app@sha256:{hex}")),
            (&format!("app:v1@sha256:{hex}"), format!("docker.io/library/app:v1@sha256:{hex}")),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
        ] {
            let parsed: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.to_string(), normal, "{text}");
            assert_eq!(normal.parse::<Reference>().unwrap(), parsed, "{text}: normal form is a fixed point");
        }
    }

    #[test]
    fn bad_names() {
        for (text, error) in [
            ("", ReferenceError::Format),
            ("UPPER", ReferenceError::Uppercase("library/UPPER".into())),
            ("a b", ReferenceError::Format),
            ("a:", ReferenceError::Format),
            ("a:-x", ReferenceError::Format),
            ("a///b", ReferenceError::Format),
            ("-a", ReferenceError::Format),
            ("a_._b", ReferenceError::Format),
            ("host:99999/a", ReferenceError::Format),
            ("https://ghcr.io/a", ReferenceError::Format),
            ("a@sha256:00", ReferenceError::Digest),
            ("a@md5:00", ReferenceError::Digest),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(error), "{text}");
        }
        assert_eq!("a".repeat(300).parse::<Reference>(), Err(ReferenceError::TooLong));
    }

    #[test]
    fn loopback_registries() {
        for (text, is) in [
            ("localhost:5000/a", true),
            ("127.0.0.1:1/a", true),
            ("127.8.8.8/a", true),
            ("[::1]:5000/a", true),
            ("ghcr.io/a", false),
            ("localhost.example.com/a", false),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().is_loopback(), is, "{text}");
        }
    }
}
