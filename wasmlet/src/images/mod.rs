//! Images on the node: references, the local store, pulls, imports, and the cache of compiled modules.

pub mod auth;
pub mod blobs;
pub mod collection;
pub mod compiled;
pub mod compose;
pub mod digest;
pub mod error;
mod import;
pub mod index;
pub mod inspect;
pub mod manifest;
mod push;
pub mod reference;
pub mod source;
pub mod store;
mod unpack;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use auth::RegistryAuth;
pub use error::{ImportError, PullError, PullFailure, StoreError};
pub use inspect::{Inspection, Kind};
pub use push::PushError;
pub use reference::{Reference, ReferenceError};
pub use store::{ImageStore, Listed, PullPolicy};

/// An image that is complete on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Normalised: `docker.io/library/name:latest`.
    pub reference: String,
    /// The manifest's (or index's) digest, `sha256:…`: what `imageID` shows.
    pub digest: String,
    /// The digest of the Wasm file itself: what compiled modules are keyed by.
    pub wasm_digest: String,
    pub wasm_path: PathBuf,
    /// Of the Wasm file.
    pub size_bytes: u64,
    pub config: ImageConfig,
}

/// What an OCI image configuration says about how to run it; empty for a bare Wasm artifact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
}
