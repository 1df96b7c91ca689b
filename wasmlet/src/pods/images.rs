//! What the pod worker needs of the node's images: find them, pull them, and say why not in upstream's words.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::images::LocalImage;

/// The node's images. Pulls of one image by many pods share the work.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image, if it is complete on this node.
    async fn find(&self, reference: &str) -> Result<Option<Arc<LocalImage>>, ImageError>;

    /// Fetches what the registry has under the reference now. Dropping the future abandons the wait.
    async fn pull(&self, reference: &str, credentials: &[Credential]) -> Result<Pulled, ImageError>;

    /// What is on the node, for `status.images` and the disk's accounting.
    fn list(&self) -> Vec<Arc<LocalImage>>;
}

pub struct Pulled {
    pub image: Arc<LocalImage>,
    pub took: Duration,
}

/// From an image pull secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub registry: String,
    pub username: String,
    pub password: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// `ErrImagePull`, `InvalidImageName`, `RegistryUnavailable`, …
    pub reason: Cow<'static, str>,
    pub message: String,
}

/// The credentials in a pull secret's data; what cannot be read gives none, as upstream.
pub fn credentials(data: &std::collections::BTreeMap<String, Vec<u8>>) -> Vec<Credential> {
    #[derive(serde::Deserialize)]
    struct Config {
        auths: std::collections::BTreeMap<String, Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        username: Option<String>,
        password: Option<String>,
        auth: Option<String>,
    }
    let auths = if let Some(json) = data.get(".dockerconfigjson") {
        serde_json::from_slice::<Config>(json).map(|config| config.auths).unwrap_or_default()
    } else if let Some(json) = data.get(".dockercfg") {
        serde_json::from_slice(json).unwrap_or_default()
    } else {
        Default::default()
    };
    auths
        .into_iter()
        .filter_map(|(registry, entry)| {
            let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
            let registry = registry.split('/').next().unwrap_or_default().to_owned();
            let (username, password) = match (entry.username, entry.password, entry.auth) {
                (Some(username), Some(password), _) => (username, password),
                (_, _, Some(auth)) => {
                    use base64::Engine;
                    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
                    let text = String::from_utf8(decoded).ok()?;
                    let (username, password) = text.split_once(':')?;
                    (username.to_owned(), password.to_owned())
                }
                _ => return None,
            };
            Some(Credential { registry, username, password })
        })
        .collect()
}

/// `repository@sha256:…`: how `imageID` names what runs.
pub fn image_id(image: &LocalImage) -> String {
    let name = image.reference.split('@').next().unwrap_or_default();
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    format!("{repository}@{}", image.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_hold_credentials() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnc="},
            "reg.local:5000":{"username":"a","password":"b"},"broken":{"auth":"!"}}}"#;
        let data = [(".dockerconfigjson".to_owned(), json.to_vec())].into();
        let credential = |registry: &str, username: &str, password: &str| Credential {
            registry: registry.into(),
            username: username.into(),
            password: password.into(),
        };
        assert_eq!(
            credentials(&data),
            [credential("index.docker.io", "u", "p:w"), credential("reg.local:5000", "a", "b")]
        );
        assert!(credentials(&[(".dockerconfigjson".to_owned(), b"x".to_vec())].into()).is_empty());
        assert!(credentials(&Default::default()).is_empty());
    }

    #[test]
    fn ids_name_the_repository() {
        for (reference, want) in [
            ("docker.io/library/a:latest", "docker.io/library/a@sha256:1"),
            ("reg:5000/a", "reg:5000/a@sha256:1"),
            ("reg:5000/a:v1@sha256:1", "reg:5000/a@sha256:1"),
        ] {
            let image = LocalImage {
                reference: reference.into(),
                digest: "sha256:1".into(),
                wasm_digest: String::new(),
                wasm_path: Default::default(),
                size_bytes: 0,
                config: Default::default(),
            };
            assert_eq!(image_id(&image), want);
        }
    }
}
