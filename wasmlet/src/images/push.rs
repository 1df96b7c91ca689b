//! Brings an image of this node to a registry, as it came.

use std::io;

use oci_client::errors::OciDistributionError;
use oci_client::{Client, RegistryOperation};

use super::auth::RegistryAuth;
use super::manifest::{self, Content, Manifest};
use super::reference::{Reference, ReferenceError};
use super::source::{client, credentials, of_registry, target};
use super::store::ImageStore;

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("couldn't parse image name {image:?}: {source}")]
    Name { image: String, source: ReferenceError },
    #[error("push {reference}: a push is to a tag, and this names a digest")]
    Digest { reference: String },
    #[error("image {image:?} is not on this node")]
    NotFound { image: String },
    #[error(
        "image {image:?} was taken out of the layers of a container image, and these were not kept; import its module from a file and push that"
    )]
    NotWhole { image: String },
    #[error("image store: {0}")]
    Store(#[from] io::Error),
    #[error("image {image:?}: {source}")]
    Manifest { image: String, source: manifest::ManifestError },
    #[error("push {reference}: {reason}")]
    Registry { reference: String, reason: String },
}

/// What there is to send.
struct Whole {
    manifest: Vec<u8>,
    media_type: String,
    /// Digests, in the order in which they are sent.
    blobs: Vec<String>,
}

impl ImageStore {
    /// Sends the image that is here under one name to a registry, under the same or another. Credentials are tried in
    /// order; none: without. The digest of the manifest.
    pub async fn push(
        &self,
        image: &str,
        to: &str,
        auth: &[RegistryAuth],
        plain_http: bool,
    ) -> Result<String, PushError> {
        let parse = |name: &str| -> Result<Reference, PushError> {
            name.parse().map_err(|source| PushError::Name { image: name.to_owned(), source })
        };
        let to = parse(to)?;
        if to.digest.is_some() {
            return Err(PushError::Digest { reference: to.to_string() });
        }
        let whole = self.whole(image, &parse(image)?)?;
        let client = client(plain_http || to.is_loopback());
        let attempts: Vec<_> = if auth.is_empty() { vec![None] } else { auth.iter().map(Some).collect() };
        let mut last = String::new();
        for auth in attempts {
            match self.send(&client, &to, auth, &whole).await {
                Ok(digest) => return Ok(digest),
                Err(Failure::Store(error)) => return Err(error.into()),
                Err(Failure::Registry(error)) => last = refusal(&error),
            }
        }
        Err(PushError::Registry { reference: to.to_string(), reason: last })
    }

    fn whole(&self, image: &str, reference: &Reference) -> Result<Whole, PushError> {
        let local = self.lookup(reference)?.ok_or_else(|| PushError::NotFound { image: image.to_owned() })?;
        let mut digest = local.digest.clone();
        loop {
            let manifest = self.blob(&digest)?;
            let parsed = manifest::parse(&manifest)
                .map_err(|source| PushError::Manifest { image: image.to_owned(), source })?;
            let (config, content) = match parsed {
                // Of an index this node keeps its own platform's image.
                Manifest::Index(chosen) => {
                    digest = chosen.digest;
                    continue;
                }
                Manifest::Image { config, content } => (config, content),
            };
            let layers = match content {
                Content::Wasm(layer) => vec![layer.digest],
                Content::Layers(layers) => layers.into_iter().map(|layer| layer.descriptor.digest).collect(),
            };
            let blobs: Vec<String> = config.map(|config| config.digest).into_iter().chain(layers).collect();
            if !blobs.iter().all(|digest| self.has_blob(digest)) {
                return Err(PushError::NotWhole { image: image.to_owned() });
            }
            let media_type = manifest::media_type(&manifest);
            return Ok(Whole { manifest, media_type, blobs });
        }
    }

    async fn send(
        &self,
        client: &Client,
        to: &Reference,
        auth: Option<&RegistryAuth>,
        whole: &Whole,
    ) -> Result<String, Failure> {
        let target = target(to);
        client.auth(&target, &credentials(auth), RegistryOperation::Push).await?;
        for digest in &whole.blobs {
            if !client.blob_exists(&target, digest).await? {
                let bytes = self.blob(digest).map_err(Failure::Store)?;
                client.push_blob(&target, bytes, digest).await?;
            }
        }
        let kind = http::HeaderValue::from_str(&whole.media_type)
            .unwrap_or(http::HeaderValue::from_static(manifest::MANIFEST));
        client.push_manifest_raw(&target, whole.manifest.clone(), kind).await?;
        Ok(super::digest::of_bytes(&whole.manifest))
    }
}

enum Failure {
    Registry(OciDistributionError),
    Store(io::Error),
}

impl From<OciDistributionError> for Failure {
    fn from(error: OciDistributionError) -> Self {
        Failure::Registry(error)
    }
}

fn refusal(error: &OciDistributionError) -> String {
    match of_registry(error) {
        super::source::SourceError::Denied(text) => format!("push access denied: {text}"),
        other => other.to_string(),
    }
}
