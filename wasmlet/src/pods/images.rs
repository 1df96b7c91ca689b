//! What the pod worker needs of the node's images: find them, pull them, and say why not in upstream's words.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::images::{ImageStore, LocalImage, PullPolicy, Reference, ReferenceError, auth};

/// The node's images. Pulls of one image by many pods share the work.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image, if it is complete on this node.
    fn find(&self, reference: &str) -> Result<Option<Arc<LocalImage>>, ImageError>;

    /// Fetches what the registry has under the reference now. Dropping the future abandons the wait.
    async fn pull(&self, reference: &str, secrets: &[PullSecret]) -> Result<Pulled, ImageError>;

    /// What is on the node, for its status.
    fn list(&self) -> Vec<Held>;
}

pub struct Pulled {
    pub image: Arc<LocalImage>,
    pub took: Duration,
}

/// An image pull secret: the bytes of `.dockerconfigjson`, or of the older `.dockercfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSecret {
    pub json: Vec<u8>,
    pub legacy: bool,
}

/// One line of the node's `status.images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub reference: String,
    pub digest: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// `ErrImagePull`, `InvalidImageName`, …
    pub reason: Cow<'static, str>,
    pub message: String,
}

fn invalid(image: &str, error: &ReferenceError) -> ImageError {
    ImageError {
        reason: Cow::Borrowed("InvalidImageName"),
        message: format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {error}"
        ),
    }
}

#[async_trait]
impl Images for Arc<ImageStore> {
    fn find(&self, reference: &str) -> Result<Option<Arc<LocalImage>>, ImageError> {
        let parsed: Reference = reference.parse().map_err(|error| invalid(reference, &error))?;
        self.lookup(&parsed).map_err(|error| ImageError {
            reason: Cow::Borrowed("ImageInspectError"),
            message: format!("Failed to inspect image \"{reference}\": {error}"),
        })
    }

    async fn pull(&self, reference: &str, secrets: &[PullSecret]) -> Result<Pulled, ImageError> {
        let parsed: Reference = reference.parse().map_err(|error| invalid(reference, &error))?;
        let mut logins = Vec::new();
        for secret in secrets {
            match auth::for_image(&secret.json, secret.legacy, &parsed) {
                Ok(found) => logins.extend(found),
                Err(error) => {
                    tracing::warn!(image = reference, %error, "an image pull secret is passed over")
                }
            }
        }
        let begun = Instant::now();
        match self.ensure(reference, PullPolicy::Always, logins).await {
            Ok(image) => Ok(Pulled { image, took: begun.elapsed() }),
            Err(error) => {
                Err(ImageError { reason: Cow::Borrowed(error.reason()), message: error.to_string() })
            }
        }
    }

    fn list(&self) -> Vec<Held> {
        match ImageStore::list(self) {
            Ok(listed) => listed
                .into_iter()
                .map(|l| Held { reference: l.reference, digest: l.digest, size_bytes: l.size_bytes })
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "listing images");
                Vec::new()
            }
        }
    }
}

/// For the fake runtime, which runs nothing: every image is there.
#[derive(Debug, Default, Clone, Copy)]
pub struct AnyImage;

#[async_trait]
impl Images for AnyImage {
    fn find(&self, reference: &str) -> Result<Option<Arc<LocalImage>>, ImageError> {
        Ok(Some(Arc::new(LocalImage {
            reference: reference.to_owned(),
            digest: "sha256:0".into(),
            wasm_digest: "sha256:0".into(),
            wasm_path: Default::default(),
            size_bytes: 0,
            config: Default::default(),
        })))
    }

    async fn pull(&self, reference: &str, _secrets: &[PullSecret]) -> Result<Pulled, ImageError> {
        let found = self.find(reference)?.ok_or_else(|| ImageError {
            reason: Cow::Borrowed("ErrImagePull"),
            message: format!("{reference}: not found"),
        })?;
        Ok(Pulled { image: found, took: Duration::ZERO })
    }

    fn list(&self) -> Vec<Held> {
        Vec::new()
    }
}

/// The secret's data as a pull secret; what has neither key is none.
pub fn pull_secret(mut data: std::collections::BTreeMap<String, Vec<u8>>) -> Option<PullSecret> {
    if let Some(json) = data.remove(".dockerconfigjson") {
        return Some(PullSecret { json, legacy: false });
    }
    data.remove(".dockercfg").map(|json| PullSecret { json, legacy: true })
}

/// `repository@sha256:…`: how `imageID` names what runs.
pub fn image_id(reference: &str, digest: &str) -> String {
    let name = reference.split('@').next().unwrap_or_default();
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    format!("{repository}@{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_the_repository() {
        for (reference, want) in [
            ("docker.io/library/a:latest", "docker.io/library/a@sha256:1"),
            ("reg:5000/a", "reg:5000/a@sha256:1"),
            ("reg:5000/a:v1@sha256:1", "reg:5000/a@sha256:1"),
        ] {
            assert_eq!(image_id(reference, "sha256:1"), want);
        }
    }

    #[test]
    fn secrets_are_of_two_kinds() {
        let data = |key: &str| [(key.to_owned(), b"{}".to_vec())].into();
        assert_eq!(pull_secret(data(".dockerconfigjson")).map(|s| s.legacy), Some(false));
        assert_eq!(pull_secret(data(".dockercfg")).map(|s| s.legacy), Some(true));
        assert_eq!(pull_secret(data("password")), None);
    }
}
