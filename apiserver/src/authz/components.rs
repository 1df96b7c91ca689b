//! What upstream's default roles do not say: one user is all controllers here, and tokens for joining let nodes ask
//! for certificates (upstream: an account per controller, and kubeadm's bindings).

use async_trait::async_trait;

use super::{Attributes, Authorizer, Decision};
use crate::authn::Identity;

pub struct Components;

/// One line of a role: verbs (`*` all), group (`*` all), resources with subresources (`*` all), namespace ("" any).
struct Rule {
    verbs: &'static [&'static str],
    group: &'static str,
    resources: &'static [&'static str],
    namespace: &'static str,
}

const fn rule(
    verbs: &'static [&'static str],
    group: &'static str,
    resources: &'static [&'static str],
) -> Rule {
    Rule { verbs, group, resources, namespace: "" }
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];
const ALL: &[&str] = &["*"];

/// The election lease and events, which every control plane component writes.
const LEASES: Rule =
    Rule { verbs: ALL, group: "coordination.k8s.io", resources: &["leases"], namespace: "kube-system" };
const EVENTS: Rule = rule(&["create", "update", "patch"], "", &["events"]);

const CONTROLLER_MANAGER: &[Rule] = &[
    LEASES,
    EVENTS,
    rule(READ, "*", &["*"]),
    rule(WRITE, "*", &["*"]),
    rule(&["approve", "attest", "sign"], "certificates.k8s.io", &["signers"]),
    // To gather rules into aggregated roles.
    rule(&["escalate"], "rbac.authorization.k8s.io", &["clusterroles"]),
];

/// What upstream's documentation grants the cloud controller manager, and what the provider of load balancers on the
/// nodes themselves reads.
const CLOUD_CONTROLLER_MANAGER: &[Rule] = &[
    LEASES,
    EVENTS,
    rule(&["get", "list", "watch", "patch", "update", "delete"], "", &["nodes"]),
    rule(&["patch", "update"], "", &["nodes/status", "services", "services/status"]),
    rule(READ, "", &["services"]),
    rule(READ, "discovery.k8s.io", &["endpointslices"]),
    rule(&["get", "list", "watch", "patch", "update"], "", &["persistentvolumes"]),
    // Who may read its metrics.
    rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
    rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
];

const BOOTSTRAPPERS: &[Rule] =
    &[rule(&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"])];

fn role(identity: &Identity) -> &'static [Rule] {
    match identity.name.as_str() {
        "system:kube-controller-manager" => CONTROLLER_MANAGER,
        "system:cloud-controller-manager" => CLOUD_CONTROLLER_MANAGER,
        _ if identity.in_group("system:bootstrappers") => BOOTSTRAPPERS,
        _ => &[],
    }
}

impl Rule {
    fn allows(&self, attributes: &Attributes) -> bool {
        let has = |list: &[&str], wanted: &str| list.iter().any(|l| *l == "*" || *l == wanted);
        has(self.verbs, &attributes.verb)
            && (self.group == "*" || self.group == attributes.group)
            && has(self.resources, &attributes.resource_and_subresource())
            && (self.namespace.is_empty() || self.namespace == attributes.namespace)
    }
}

#[async_trait]
impl Authorizer for Components {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        Decision::allow_if(
            attributes.is_resource() && role(identity).iter().any(|rule| rule.allows(attributes)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn components_do_their_work_and_no_more() {
        let manager = Identity::new("system:kube-controller-manager", &[]);
        let cloud = Identity::new("system:cloud-controller-manager", &[]);
        let joining = Identity::new("system:bootstrap:abcdef", &["system:bootstrappers"]);
        for (identity, verb, group, resource, subresource, want) in [
            (&manager, "update", "apps", "deployments", "status", true),
            (&cloud, "patch", "", "services", "status", true),
            (&cloud, "delete", "", "nodes", "", true),
            (&cloud, "update", "coordination.k8s.io", "leases", "", false),
            (&cloud, "list", "", "secrets", "", false),
            (&joining, "create", "certificates.k8s.io", "certificatesigningrequests", "", true),
            (&joining, "update", "certificates.k8s.io", "certificatesigningrequests", "approval", false),
            (&joining, "list", "", "secrets", "", false),
        ] {
            let attributes = Attributes {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                ..Attributes::default()
            };
            let got = Components.decide(identity, &attributes).await.is_allowed();
            assert_eq!(got, want, "{} {attributes:?}", identity.name);
        }
    }
}
