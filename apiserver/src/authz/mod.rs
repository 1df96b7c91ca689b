//! Who may do what: a list of authorizers, asked in order; what none allows is forbidden.

mod components;
mod masters;
mod node;
mod node_graph;
pub mod policy;
pub mod rbac;

pub use node::NodeAuthorizer;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::{ApiError, Client, Resource};
use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::authn::Identity;
use crate::lookup::Lookup;
use rbac::Rbac;

/// What a request wants, as upstream's authorizer attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; lower-case HTTP methods for
    /// paths that are no resources.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// Plural; empty for paths that are no resources.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
    /// The field selector of lists and watches, where the request brought one.
    pub field_selector: String,
    pub label_selector: String,
}

impl Attributes {
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    pub fn is_read(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// `pods` or `pods/status`, as rules name it.
    pub fn resource_and_subresource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Why something is allowed; text only where somebody asks.
#[derive(Clone)]
pub enum Reason {
    Silent,
    Granted(rbac::Grant),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => Ok(()),
            Self::Granted(grant) => grant.fmt(f),
        }
    }
}

#[derive(Clone)]
pub enum Decision {
    Allow(Reason),
    /// Why not, where there is something to say.
    NoOpinion(String),
}

impl Decision {
    pub fn no_opinion() -> Self {
        Self::NoOpinion(String::new())
    }

    pub fn allow_if(condition: bool) -> Self {
        if condition { Self::allow() } else { Self::no_opinion() }
    }

    pub fn allow() -> Self {
        Self::Allow(Reason::Silent)
    }

    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision;

    /// What it allows, where that can be listed, and what cannot.
    fn rules_of(&self, _identity: &Identity, _namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        (Vec::new(), Vec::new())
    }
}

#[async_trait]
impl<A: Authorizer> Authorizer for Arc<A> {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        (**self).decide(identity, attributes).await
    }

    fn rules_of(&self, identity: &Identity, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        (**self).rules_of(identity, namespace)
    }
}

/// The authorizers in order.
#[derive(Clone)]
pub struct Authorizers {
    list: Arc<Vec<Box<dyn Authorizer>>>,
    rbac: Arc<Rbac>,
}

impl Authorizers {
    /// The built-in list. `client` has the apiserver's own identity: the node authorizer looks up pods with it.
    pub fn built_in(client: Client, lookup: Arc<Lookup>) -> Self {
        let rbac = Arc::new(Rbac::new(lookup));
        Self {
            list: Arc::new(vec![
                Box::new(masters::Masters),
                Box::new(NodeAuthorizer::new(client)),
                Box::new(components::Components),
                Box::new(rbac.clone()),
            ]),
            rbac,
        }
    }

    /// Who holds which rules.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    /// The rules that count for a sender in a namespace, and why these may not be all.
    pub fn rules_of(&self, identity: &Identity, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for authorizer in self.list.iter() {
            let (more, wrong) = authorizer.rules_of(identity, namespace);
            rules.extend(more);
            errors.extend(wrong);
        }
        (rules, errors)
    }

    pub async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in self.list.iter() {
            match authorizer.decide(identity, attributes).await {
                Decision::Allow(reason) => return Decision::Allow(reason),
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    /// Ok, or upstream's 403.
    pub async fn authorize(&self, identity: &Identity, attributes: &Attributes) -> Result<(), ApiError> {
        match self.decide(identity, attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(identity, attributes, &reason)),
        }
    }
}

/// Upstream's 403.
pub fn forbidden(identity: &Identity, attributes: &Attributes, reason: &str) -> ApiError {
    let user = &identity.name;
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !attributes.is_resource() {
        let message =
            format!("forbidden: User {user:?} cannot {} path {:?}{tail}", attributes.verb, attributes.path);
        return ApiError::new(403, "Forbidden", message);
    }
    let scope = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", attributes.namespace)
    };
    let why = format!(
        "User {user:?} cannot {} resource {:?} in API group {:?} {scope}{tail}",
        attributes.verb,
        attributes.resource_and_subresource(),
        attributes.group
    );
    let resource = Resource::new(&attributes.group, &attributes.version, &attributes.resource, "", true);
    ApiError::forbidden(&resource, &attributes.name, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_said_as_upstream() {
        let identity = Identity::new("jane", &[]);
        let mut attributes = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&identity, &attributes, "").message(),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        attributes.namespace.clear();
        attributes.group = "apps".into();
        attributes.name = "web".into();
        attributes.subresource = "scale".into();
        assert_eq!(
            forbidden(&identity, &attributes, "").message(),
            r#"pods.apps "web" is forbidden: User "jane" cannot list resource "pods/scale" in API group "apps" at the cluster scope"#
        );
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(
            forbidden(&identity, &path, "").message(),
            r#"forbidden: User "jane" cannot get path "/metrics""#
        );
    }
}
