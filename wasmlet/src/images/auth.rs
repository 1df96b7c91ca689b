//! Registry credentials, and which of a pull secret's apply to an image.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::reference::{DEFAULT_REGISTRY, Reference};

/// One way to log in to a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum RegistryAuth {
    Basic { username: String, password: String },
    Bearer(String),
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegistryAuth::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            RegistryAuth::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("not a docker configuration: {0}")]
    Json(#[source] serde_json::Error),
    #[error("entry {registry:?}: {reason}")]
    Entry { registry: String, reason: &'static str },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, rename = "registrytoken")]
    registry_token: Option<String>,
}

/// What of a `.dockerconfigjson` (or, when `legacy`, a `.dockercfg`) applies to the image, the longest match first.
/// Matching is upstream's: by host, each part of it possibly a glob, then by path prefix.
pub fn for_image(json: &[u8], legacy: bool, image: &Reference) -> Result<Vec<RegistryAuth>, AuthError> {
    let entries = if legacy {
        serde_json::from_slice(json).map_err(AuthError::Json)?
    } else {
        serde_json::from_slice::<DockerConfig>(json).map_err(AuthError::Json)?.auths
    };
    let mut found = Vec::new();
    for (registry, entry) in entries {
        if matches(&registry, image) {
            let auth =
                entry.auth().map_err(|reason| AuthError::Entry { registry: registry.clone(), reason })?;
            if let Some(auth) = auth {
                found.push((registry.len(), auth));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    Ok(found.into_iter().map(|(_, auth)| auth).collect())
}

impl Entry {
    fn auth(self) -> Result<Option<RegistryAuth>, &'static str> {
        if let Some(token) = self.registry_token.filter(|token| !token.is_empty()) {
            return Ok(Some(RegistryAuth::Bearer(token)));
        }
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let bytes = STANDARD.decode(auth.trim()).map_err(|_| "auth is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "auth is not UTF-8")?;
            let (username, password) = text.split_once(':').ok_or("auth is not username:password")?;
            return Ok(Some(RegistryAuth::Basic { username: username.into(), password: password.into() }));
        }
        match (self.username, self.password) {
            (Some(username), Some(password)) => Ok(Some(RegistryAuth::Basic { username, password })),
            _ => Ok(None),
        }
    }
}

fn matches(entry: &str, image: &Reference) -> bool {
    let entry = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://")).unwrap_or(entry);
    let entry = entry.trim_end_matches('/');
    let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
    let docker_hub = matches!(host, "index.docker.io" | "registry-1.docker.io" | "docker.io");
    let host_matches =
        if docker_hub { image.registry == DEFAULT_REGISTRY } else { host_matches(host, &image.registry) };
    // docker login writes https://index.docker.io/v1/ for its hub, and /v1 or /v2 mean no repository elsewhere either.
    let path = path.strip_prefix("v1").or_else(|| path.strip_prefix("v2")).unwrap_or(path);
    let path = path.trim_matches('/');
    let path_matches = path.is_empty()
        || image.repository == path
        || image.repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    host_matches && path_matches
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let split = |text: &str| match text.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), Some(port.to_owned())),
        None => (text.to_owned(), None),
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    if pattern_port != port {
        return false;
    }
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == parts.len()
        && patterns.iter().zip(&parts).all(|(p, h)| glob(p.as_bytes(), h.as_bytes()))
}

/// `*` and `?` within one part of a host name.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(_, shorter)| glob(pattern, shorter))
        }
        (Some((b'?', rest)), Some((_, shorter))) => glob(rest, shorter),
        (Some((p, rest)), Some((t, shorter))) => p == t && glob(rest, shorter),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_match_first() {
        let json = format!(
            r#"{{"auths":{{"ghcr.io":{{"auth":"{}"}},"ghcr.io/team":{{"username":"t","password":"p"}},
            "quay.io":{{"username":"q","password":"q"}}}}}}"#,
            STANDARD.encode("u:p:w")
        );
        let image = "ghcr.io/team/app:v1".parse().unwrap();
        let found = for_image(json.as_bytes(), false, &image).unwrap();
        let basic = |u: &str, p: &str| RegistryAuth::Basic { username: u.into(), password: p.into() };
        assert_eq!(found, [basic("t", "p"), basic("u", "p:w")]);
        assert_eq!(format!("{found:?}"), "[Basic(t, …), Basic(u, …)]", "passwords are not printed");
    }

    #[test]
    fn matching() {
        for (entry, image, is) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "team/app", true),
            ("*.example.com", "a.example.com/x", true),
            ("*.example.com", "a.b.example.com/x", false),
            ("reg*.example.com", "reg1.example.com/x", true),
            ("localhost:5000", "localhost:5000/x", true),
            ("localhost:5000", "localhost:5001/x", false),
            ("ghcr.io/team", "ghcr.io/teammate/x", false),
            ("http://ghcr.io/team/", "ghcr.io/team/x", true),
        ] {
            assert_eq!(matches(entry, &image.parse().unwrap()), is, "{entry} {image}");
        }
    }

    #[test]
    fn errors_name_the_entry() {
        let json = br#"{"auths":{"ghcr.io":{"auth":"%%"}}}"#;
        let error = for_image(json, false, &"ghcr.io/a".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "entry \"ghcr.io\": auth is not base64");
        assert!(for_image(b"1", false, &"a".parse().unwrap()).is_err());
        let legacy = br#"{"ghcr.io":{"username":"u","password":"p"}}"#;
        assert_eq!(for_image(legacy, true, &"ghcr.io/a".parse().unwrap()).unwrap().len(), 1);
    }
}
