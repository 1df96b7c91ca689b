//! Who sends a request: a client certificate, or a bearer token that one of a list of authenticators knows; neither
//! means anonymous.

mod bearer;
mod bootstrap_token;
mod certificate;
pub mod openid;
mod service_account;
mod static_tokens;
pub mod token;

pub use bootstrap_token::BootstrapTokens;
pub use certificate::{PeerCertificate, peer_certificate};
pub use service_account::ServiceAccountTokens;
pub use static_tokens::{FileError, StaticTokens};

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::ApiError;
use http::request::Parts;
use jiff::Timestamp;

use token::ISSUER;

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
/// By which credential a sender was known.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

impl Identity {
    /// A sender with a name and groups; every authenticated one is also in `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED_GROUP) {
            groups.push(AUTHENTICATED_GROUP.into());
        }
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

    /// Namespace and name, where the sender is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        service_account_of(&self.name)
    }
}

/// The namespace and name in `system:serviceaccount:NAMESPACE:NAME`.
pub fn service_account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let fine =
        crate::validation::dns_label(namespace).is_ok() && crate::validation::dns_subdomain(name).is_ok();
    fine.then_some((namespace, name))
}

/// A token's owner, and for which of the audiences asked for it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    pub identity: Identity,
    pub audiences: Vec<String>,
}

/// Ok(None): the token is none of this authenticator's. Err: it is, and is no good; why is told to TokenReviews only.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, String>;
}

/// The authenticators in order.
#[derive(Clone)]
pub struct Authenticators {
    list: Arc<Vec<Box<dyn Authenticator>>>,
    anonymous: bool,
}

impl Authenticators {
    /// `anonymous`: requests without credentials are `system:anonymous`'s, who may what it is bound to; else 401.
    pub fn new(list: Vec<Box<dyn Authenticator>>, anonymous: bool) -> Self {
        Self { list: Arc::new(list), anonymous }
    }

    /// The client certificate counts first; one that has expired since the connection began is worth nothing.
    pub async fn authenticate(&self, request: &Parts) -> Result<Identity, ApiError> {
        if let Some(peer) = request.extensions.get::<PeerCertificate>() {
            return peer.at(Timestamp::now()).ok_or_else(ApiError::unauthorized);
        }
        if let Some(token) = bearer::token(request) {
            return match self.token(&token, &[]).await {
                Ok(known) => Ok(known.identity),
                Err(_) => Err(ApiError::unauthorized()),
            };
        }
        if self.anonymous { Ok(Identity::anonymous()) } else { Err(ApiError::unauthorized()) }
    }

    /// `audiences`: none means the API itself.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Result<Authenticated, String> {
        let own = [ISSUER.to_owned()];
        let audiences = if audiences.is_empty() { &own } else { audiences };
        let mut errors = Vec::new();
        for authenticator in self.list.iter() {
            match authenticator.authenticate(token, audiences).await {
                Ok(Some(known)) => return Ok(known),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Err("invalid bearer token".into());
        }
        errors.insert(0, "invalid bearer token".into());
        Err(format!("[{}]", errors.join(", ")))
    }
}

/// What a token that says nothing of audiences is good for: the API itself. None: it was not asked for.
fn for_the_api(identity: Identity, audiences: &[String]) -> Option<Authenticated> {
    let good = audiences.iter().any(|a| a == ISSUER);
    good.then(|| Authenticated { identity, audiences: vec![ISSUER.to_owned()] })
}
