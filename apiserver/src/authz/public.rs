//! What anybody may read (health, version, discovery), and what every authenticated client may do besides.

use async_trait::async_trait;

use super::{Attributes, Authorizer, Decision};
use crate::authn::{AUTHENTICATED_GROUP, Identity};

pub struct Public;

/// Paths that are open to all, by exact match or as a prefix that ends in `/`.
const OPEN: &[&str] = &[
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/api",
    "/apis",
    "/healthz/",
    "/livez/",
    "/readyz/",
    "/api/",
    "/apis/",
];
const AUTHENTICATED: &[&str] = &["/openapi", "/openapi/"];

fn listed(path: &str, list: &[&str]) -> bool {
    list.iter().any(|p| *p == path || (p.ends_with('/') && path.starts_with(p)))
}

/// The reviews about oneself, as upstream's `system:basic-user`.
const SELF_REVIEWS: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

#[async_trait]
impl Authorizer for Public {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let authenticated = identity.in_group(AUTHENTICATED_GROUP);
        if attributes.is_resource() {
            let own = SELF_REVIEWS
                .iter()
                .any(|(group, resource)| *group == attributes.group && *resource == attributes.resource);
            return Decision::allow_if(authenticated && own && attributes.verb == "create");
        }
        let read = matches!(attributes.verb.as_str(), "get" | "head");
        let open =
            listed(&attributes.path, OPEN) || (authenticated && listed(&attributes.path, AUTHENTICATED));
        Decision::allow_if(read && open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn anonymous_reads_health_version_and_discovery_only() {
        let path = |verb: &str, path: &str| Attributes {
            verb: verb.into(),
            path: path.into(),
            ..Attributes::default()
        };
        let anonymous = Identity::anonymous();
        let jane = Identity::new("jane", &[]);
        for (attributes, anyone, authenticated) in [
            (path("get", "/healthz"), true, true),
            (path("get", "/readyz/ping"), true, true),
            (path("get", "/version"), true, true),
            (path("get", "/apis/apps/v1"), true, true),
            (path("post", "/version"), false, false),
            (path("get", "/openapi/v3"), false, true),
            (path("get", "/metrics"), false, false),
            (path("get", "/apisx"), false, false),
        ] {
            assert_eq!(
                Public.decide(&anonymous, &attributes).await == Decision::Allow,
                anyone,
                "{attributes:?}"
            );
            assert_eq!(
                Public.decide(&jane, &attributes).await == Decision::Allow,
                authenticated,
                "{attributes:?}"
            );
        }
    }
}
