//! Who sends a request: a list of authenticators, asked in order; none that knows the sender means anonymous.

mod bearer;
mod certificate;
pub mod token;

pub use bearer::{BootstrapTokens, ServiceAccountTokens};
pub use certificate::{PeerCertificate, identity_of_certificate};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::ApiError;
use http::request::Parts;

/// An authenticated sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
pub const MASTERS_GROUP: &str = "system:masters";
pub const NODES_GROUP: &str = "system:nodes";

impl Identity {
    /// A sender with a name and groups; every authenticated one is also in `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED_GROUP.into());
        Self { name: name.into(), groups, ..Self::default() }
    }

    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED_GROUP.into()], ..Self::default() }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, where the sender is a node.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.in_group(NODES_GROUP))
    }
}

/// Ok(None): this authenticator has no opinion. Err: credentials were given and are wrong.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    async fn authenticate(&self, request: &Parts) -> Result<Option<Identity>, ApiError>;
}

/// The authenticators in order.
#[derive(Clone, Default)]
pub struct Authenticators {
    list: Arc<Vec<Box<dyn Authenticator>>>,
}

impl Authenticators {
    pub fn new(list: Vec<Box<dyn Authenticator>>) -> Self {
        Self { list: Arc::new(list) }
    }

    /// The client certificate counts first; a bearer token that nobody accepts is 401, no credentials are anonymous.
    pub async fn authenticate(&self, request: &Parts) -> Result<Identity, ApiError> {
        if let Some(PeerCertificate(identity)) = request.extensions.get::<PeerCertificate>() {
            return Ok(identity.clone());
        }
        for authenticator in self.list.iter() {
            if let Some(identity) = authenticator.authenticate(request).await? {
                return Ok(identity);
            }
        }
        if request.headers.contains_key(http::header::AUTHORIZATION) {
            return Err(ApiError::unauthorized());
        }
        Ok(Identity::anonymous())
    }
}
