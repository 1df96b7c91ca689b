//! What can go wrong with images, in the words upstream's users know.

use std::io;
use std::path::PathBuf;

use super::blobs::BlobError;
use super::inspect::InspectError;
use super::manifest::ManifestError;
use super::reference::ReferenceError;
use super::source::SourceError;

/// Why a container's image is not here. [`PullError::reason`] is the container's waiting reason.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    #[error("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {source}")]
    InvalidName { image: String, source: ReferenceError },
    #[error("Container image {image:?} is not present with pull policy of Never")]
    NeverPull { image: String },
    #[error("failed to pull and unpack image {reference:?}: {}", failure.at(reference))]
    Failed { reference: String, failure: PullFailure },
}

impl PullError {
    pub fn reason(&self) -> &'static str {
        match self {
            PullError::InvalidName { .. } => "InvalidImageName",
            PullError::NeverPull { .. } => "ErrImageNeverPull",
            PullError::Failed { .. } => "ErrImagePull",
        }
    }
}

/// The step of a pull (or import) that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullFailure {
    #[error("failed to resolve reference: {0}")]
    Resolve(#[source] SourceError),
    #[error("failed to copy: {0}")]
    Copy(#[source] SourceError),
    #[error("failed to copy: {0}")]
    Blob(#[source] BlobError),
    #[error("{0}")]
    Manifest(#[source] ManifestError),
    #[error("{0}")]
    Unpack(String),
    /// This node's disk, not the registry.
    #[error("image store: {0}")]
    Store(String),
}

impl PullFailure {
    pub(super) fn store(error: io::Error) -> Self {
        PullFailure::Store(error.to_string())
    }

    /// containerd names the reference again where it could not be resolved.
    fn at(&self, reference: &str) -> String {
        match self {
            PullFailure::Resolve(SourceError::NotFound) => {
                format!("failed to resolve reference {reference:?}: {reference}: not found")
            }
            PullFailure::Resolve(error) => format!("failed to resolve reference {reference:?}: {error}"),
            other => other.to_string(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("couldn't parse image name {tag:?}: {source}")]
    Name { tag: String, source: ReferenceError },
    #[error("open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    /// The text says what it looks like and what is taken.
    #[error("{path}: {reason}")]
    Unknown { path: PathBuf, reason: String },
    #[error("import {path}: {failure}")]
    Failed { path: PathBuf, failure: PullFailure },
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{step}: {source}")]
    Io { step: &'static str, source: io::Error },
    #[error("couldn't parse image name {image:?}: {source}")]
    Name { image: String, source: ReferenceError },
    #[error("image {image:?} is not on this node")]
    NotFound { image: String },
    #[error("image {image}: {source}")]
    Inspect { image: String, source: InspectError },
}
