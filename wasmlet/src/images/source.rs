//! Where an image comes from: a registry, or an OCI layout on disk. Both give manifests and blobs by digest.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::StreamExt;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::{Client, RegistryOperation, secrets};
use serde::Deserialize;

use super::auth::RegistryAuth;
use super::blobs::{BlobError, BlobWriter};
use super::manifest::{self, Descriptor, MANIFEST_BYTES_MAX};
use super::reference::Reference;
use super::{digest, manifest::ManifestError};

#[async_trait]
pub trait Source: Send + Sync {
    /// The manifest or index that the reference names, and its digest.
    async fn root(&self) -> Result<(Vec<u8>, String), SourceError>;
    /// A manifest of an index.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError>;
    /// Writes the blob; the writer checks its digest and size.
    async fn blob(&self, descriptor: &Descriptor, out: &mut BlobWriter) -> Result<(), SourceError>;
}

/// The texts are containerd's where it has one, because that is what users know and tools match on.
#[derive(Debug, thiserror::Error, Clone)]
pub enum SourceError {
    #[error("not found")]
    NotFound,
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    #[error("unexpected status from registry: {0}")]
    Registry(String),
    #[error("failed to do request: {0}")]
    Unreachable(String),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Layout(String),
}

pub struct Registry {
    client: Client,
    image: oci_client::Reference,
    auth: secrets::RegistryAuth,
}

const ACCEPTED: [&str; 4] =
    [manifest::MANIFEST, manifest::INDEX, manifest::DOCKER_MANIFEST, manifest::DOCKER_LIST];
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// Between two pieces of a blob; a registry that is silent for longer has gone away.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// A blob whose connection broke is gone on with after this, doubled while nothing comes…
const RESUME_AFTER: std::time::Duration = std::time::Duration::from_millis(200);
/// …as often in a row.
const RESUMES_IN_VAIN_MAX: u32 = 5;

pub(super) fn client(plain_http: bool) -> Client {
    // reqwest asks the process for a TLS provider; an error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(ClientConfig {
        protocol: if plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

/// What the reference names, for the client.
pub(super) fn target(reference: &Reference) -> oci_client::Reference {
    let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => oci_client::Reference::with_digest(registry, repository, digest.clone()),
        (None, tag) => {
            let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
            oci_client::Reference::with_tag(registry, repository, tag)
        }
    }
}

pub(super) fn credentials(auth: Option<&RegistryAuth>) -> secrets::RegistryAuth {
    match auth {
        None => secrets::RegistryAuth::Anonymous,
        Some(RegistryAuth::Basic { username, password }) => {
            secrets::RegistryAuth::Basic(username.clone(), password.clone())
        }
        Some(RegistryAuth::Bearer(token)) => secrets::RegistryAuth::Bearer(token.clone()),
    }
}

impl Registry {
    /// A client of its own for every pull: tokens of one pull secret are never used for another.
    pub fn new(reference: &Reference, auth: Option<&RegistryAuth>, plain_http: bool) -> Self {
        Registry { client: client(plain_http), image: target(reference), auth: credentials(auth) }
    }

    async fn fetch(&self, image: &oci_client::Reference) -> Result<(Vec<u8>, String), SourceError> {
        let (bytes, _) =
            self.client.pull_manifest_raw(image, &self.auth, &ACCEPTED).await.map_err(|e| of_registry(&e))?;
        let found = digest::of_bytes(&bytes);
        // The client compares with the registry's own header; this compares with what was asked for.
        if let Some(wanted) = image.digest()
            && wanted != found
        {
            return Err(BlobError::Digest { wanted: wanted.to_owned(), found }.into());
        }
        Ok((bytes.to_vec(), found))
    }
}

impl Registry {
    /// Fetches what the writer does not have yet.
    async fn go_on(&self, descriptor: &Descriptor, out: &mut BlobWriter) -> Result<(), SourceError> {
        let size = i64::try_from(descriptor.size).unwrap_or(i64::MAX);
        let wanted = OciDescriptor { digest: descriptor.digest.clone(), size, ..OciDescriptor::default() };
        let have = out.written();
        let (blob, mut known) = if have == 0 {
            (self.client.pull_blob_stream(&self.image, &wanted).await, 0)
        } else {
            match self.client.pull_blob_stream_partial(&self.image, &wanted, have, None).await {
                Ok(BlobResponse::Partial(rest)) => (Ok(rest), 0),
                // It does not know ranges: what is here already comes again.
                Ok(BlobResponse::Full(whole)) => (Ok(whole), have),
                Err(error) => (Err(error), 0),
            }
        };
        let mut blob = blob.map_err(|error| of_registry(&error))?.stream;
        while let Some(piece) = blob.next().await {
            let piece = piece.map_err(|error| of_stream(error, descriptor))?;
            let skipped = known.min(piece.len() as u64);
            known -= skipped;
            out.write(piece.get(skipped as usize..).unwrap_or_default()).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Source for Registry {
    async fn root(&self) -> Result<(Vec<u8>, String), SourceError> {
        self.client
            .auth(&self.image, &self.auth, RegistryOperation::Pull)
            .await
            .map_err(|error| of_registry(&error))?;
        self.fetch(&self.image).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let image = self.image.clone_with_digest(descriptor.digest.clone());
        self.fetch(&image).await.map(|(bytes, _)| bytes)
    }

    async fn blob(&self, descriptor: &Descriptor, out: &mut BlobWriter) -> Result<(), SourceError> {
        let mut in_vain = 0;
        loop {
            let before = out.written();
            let ended = self.go_on(descriptor, out).await;
            // A registry that cannot be reached at all is the pull's back-off; one whose link breaks is asked for the rest.
            let broken = match ended {
                Err(error @ SourceError::Unreachable(_)) if out.written() > 0 => error,
                other => return other,
            };
            in_vain = if out.written() > before { 0 } else { in_vain + 1 };
            if in_vain > RESUMES_IN_VAIN_MAX {
                return Err(broken);
            }
            tracing::info!(blob = descriptor.digest, have = out.written(), of = descriptor.size, %broken, "a pull broke off; going on");
            tokio::time::sleep(RESUME_AFTER * 2_u32.pow(in_vain)).await;
        }
    }
}

/// The client checks the digest too, and reports it as a failing read at the end.
fn of_stream(error: io::Error, descriptor: &Descriptor) -> SourceError {
    let text = chain(&error);
    if text.to_ascii_lowercase().contains("digest") {
        return BlobError::Digest { wanted: descriptor.digest.clone(), found: text }.into();
    }
    SourceError::Unreachable(text)
}

pub(super) fn of_registry(error: &OciDistributionError) -> SourceError {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => SourceError::NotFound,
        OciDistributionError::ServerError { code: 403, message, .. } => SourceError::Denied(message.clone()),
        OciDistributionError::RegistryError { envelope, .. } => {
            let Some(first) = envelope.errors.first() else {
                return SourceError::Registry(error.to_string());
            };
            match first.code {
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::BlobUnknown => SourceError::NotFound,
                OciErrorCode::Unauthorized | OciErrorCode::Denied => {
                    SourceError::Denied(format!("server message: {}", first.message))
                }
                OciErrorCode::Toomanyrequests => {
                    SourceError::Registry(format!("429 Too Many Requests: {}", first.message))
                }
                _ => SourceError::Registry(first.message.clone()),
            }
        }
        OciDistributionError::UnauthorizedError { .. } => {
            SourceError::Denied("authorization failed: no basic auth credentials".into())
        }
        OciDistributionError::AuthenticationFailure(message) => {
            SourceError::Denied(format!("authorization failed: {message}"))
        }
        OciDistributionError::ServerError { code, message, .. } => {
            SourceError::Registry(format!("{code} {message}").trim_end().to_owned())
        }
        OciDistributionError::DigestError(_) => {
            SourceError::Blob(BlobError::Digest { wanted: String::new(), found: error.to_string() })
        }
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
            SourceError::Unreachable(chain(error))
        }
        other => SourceError::Registry(other.to_string()),
    }
}

/// reqwest says what failed in its sources only ("error sending request" alone helps nobody).
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        next = source.source();
    }
    text
}

/// An OCI image layout directory.
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub fn new(dir: &Path) -> Self {
        Layout { dir: dir.to_owned() }
    }

    async fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, SourceError> {
        let path = self.dir.join(name);
        let failed = |error: io::Error| SourceError::Layout(format!("{}: {error}", path.display()));
        let length = tokio::fs::metadata(&path).await.map_err(failed)?.len();
        if length > max {
            return Err(SourceError::Layout(format!("{}: larger than {max} bytes", path.display())));
        }
        tokio::fs::read(&path).await.map_err(failed)
    }

    fn blob_name(descriptor: &Descriptor) -> Result<String, SourceError> {
        let hex = digest::sha256_hex(&descriptor.digest)
            .ok_or_else(|| ManifestError::Descriptor(descriptor.digest.clone()))?;
        Ok(format!("blobs/sha256/{hex}"))
    }
}

#[async_trait]
impl Source for Layout {
    async fn root(&self) -> Result<(Vec<u8>, String), SourceError> {
        #[derive(Deserialize)]
        struct Root {
            manifests: Vec<Descriptor>,
        }
        let index = self.read("index.json", MANIFEST_BYTES_MAX).await?;
        let root: Root = serde_json::from_slice(&index)
            .map_err(|error| SourceError::Manifest(ManifestError::Json(error.to_string())))?;
        match root.manifests.as_slice() {
            [only] => Ok((self.manifest(only).await?, only.digest.clone())),
            [] => Err(SourceError::Layout("the layout's index.json names no image".into())),
            many => Err(SourceError::Layout(format!(
                "the layout's index.json names {} images, one is wanted",
                many.len()
            ))),
        }
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let bytes = self.read(&Self::blob_name(descriptor)?, MANIFEST_BYTES_MAX).await?;
        let found = digest::of_bytes(&bytes);
        if found != descriptor.digest {
            return Err(BlobError::Digest { wanted: descriptor.digest.clone(), found }.into());
        }
        Ok(bytes)
    }

    async fn blob(&self, descriptor: &Descriptor, out: &mut BlobWriter) -> Result<(), SourceError> {
        use tokio::io::AsyncReadExt;
        let path = self.dir.join(Self::blob_name(descriptor)?);
        let failed = |error: io::Error| SourceError::Layout(format!("{}: {error}", path.display()));
        let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = file.read(&mut buffer).await.map_err(failed)?;
            if n == 0 {
                return Ok(());
            }
            out.write(&buffer[..n]).await?;
        }
    }
}
