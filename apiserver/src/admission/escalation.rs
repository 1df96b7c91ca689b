//! Nobody grants what they do not hold, unless they may `escalate` roles or `bind` them, as upstream's RBAC storage.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::{Attributes, Operation, Plugin};
use crate::authn::MASTERS_GROUP;
use crate::authz::rbac::{describe, missing, quoted};
use crate::authz::{self, Authorizer, Authorizers};
use crate::object::ApiObject;
use crate::verbs::Call;

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct Escalation;

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        if call.kind.resource().group() != GROUP
            || attributes.operation == Operation::Delete
            || call.identity.in_group(MASTERS_GROUP)
        {
            return Ok(());
        }
        let (Some(authorizers), Some(object)) = (&call.api.options.authorizer, object) else {
            return Ok(());
        };
        let judge = Judge { call, authorizers, create: attributes.operation == Operation::Create };
        let (new, old) = (object.as_any(), attributes.old.map(ApiObject::as_any));
        if let Some(role) = new.downcast_ref::<ClusterRole>() {
            let old = old.and_then(|old| old.downcast_ref::<ClusterRole>());
            if old.is_some_and(|old| only_collected(role, old)) {
                return Ok(());
            }
            let gathers = |role: &ClusterRole| {
                let selectors =
                    role.aggregation_rule.as_ref().and_then(|a| a.cluster_role_selectors.as_ref());
                selectors.is_some_and(|selectors| !selectors.is_empty())
            };
            return judge.role(role.rules.as_deref(), gathers(role) || old.is_some_and(gathers)).await;
        }
        if let Some(role) = new.downcast_ref::<Role>() {
            if old.and_then(|old| old.downcast_ref()).is_some_and(|old| only_collected(role, old)) {
                return Ok(());
            }
            return judge.role(role.rules.as_deref(), false).await;
        }
        if let Some(binding) = new.downcast_ref::<ClusterRoleBinding>() {
            if old.and_then(|old| old.downcast_ref()).is_some_and(|old| only_collected(binding, old)) {
                return Ok(());
            }
            return judge.binding(&binding.role_ref).await;
        }
        if let Some(binding) = new.downcast_ref::<RoleBinding>() {
            if old.and_then(|old| old.downcast_ref()).is_some_and(|old| only_collected(binding, old)) {
                return Ok(());
            }
            return judge.binding(&binding.role_ref).await;
        }
        Ok(())
    }
}

/// Whether only owners and finalizers change, which the garbage collector must be able to do.
fn only_collected<K: Serialize + Clone + k8s_openapi::Metadata<Ty = ObjectMeta>>(new: &K, old: &K) -> bool {
    let (mut new, old) = (new.clone(), old.clone());
    let (meta, before) = (new.metadata_mut(), old.metadata());
    meta.owner_references.clone_from(&before.owner_references);
    meta.finalizers.clone_from(&before.finalizers);
    meta.managed_fields.clone_from(&before.managed_fields);
    meta.resource_version.clone_from(&before.resource_version);
    meta.self_link.clone_from(&before.self_link);
    serde_json::to_value(&new).ok() == serde_json::to_value(&old).ok()
}

struct Judge<'a> {
    call: &'a Call,
    authorizers: &'a Authorizers,
    create: bool,
}

impl Judge<'_> {
    fn namespace(&self) -> &str {
        self.call.namespace.as_deref().unwrap_or_default()
    }

    async fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let wanted = authz::Attributes {
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: resource.into(),
            namespace: self.namespace().into(),
            name: name.into(),
            ..authz::Attributes::default()
        };
        self.authorizers.decide(&self.call.identity, &wanted).await.is_allowed()
    }

    async fn role(&self, rules: Option<&[PolicyRule]>, gathers: bool) -> Result<(), ApiError> {
        // On create upstream knows only the name in the URL, which is none.
        let name = if self.create { "" } else { self.call.name() };
        if self.may("escalate", self.call.kind.resource().plural(), name).await {
            return Ok(());
        }
        self.holds(rules.unwrap_or_default())?;
        if gathers && self.lacks(&everything()).is_some() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(ApiError::forbidden(self.call.kind.resource(), self.call.name(), why));
        }
        Ok(())
    }

    async fn binding(&self, role: &RoleRef) -> Result<(), ApiError> {
        let plural = match role.kind.as_str() {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            kind => {
                return Err(ApiError::internal(format!("unsupported role reference kind: {kind:?}")));
            }
        };
        if self.may("bind", plural, &role.name).await {
            return Ok(());
        }
        let rules = self.authorizers.rbac().rules_in(role, self.namespace());
        let rules = rules.ok_or_else(|| ApiError::not_found(self.call.kind.resource(), &role.name))?;
        self.holds(&rules)
    }

    fn holds(&self, rules: &[PolicyRule]) -> Result<(), ApiError> {
        match self.lacks(rules) {
            None => Ok(()),
            Some(why) => Err(ApiError::forbidden(self.call.kind.resource(), self.call.name(), why)),
        }
    }

    /// What the sender would hand out without holding it.
    fn lacks(&self, rules: &[PolicyRule]) -> Option<String> {
        let identity = &self.call.identity;
        let (owned, errors) = self.authorizers.rbac().rules_of(identity, self.namespace());
        let missing = missing(&owned, rules);
        if missing.is_empty() {
            return None;
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            identity.name,
            quoted(&identity.groups),
            describe(&missing)
        );
        if !errors.is_empty() {
            let list = if errors.len() == 1 { errors.join("") } else { format!("[{}]", errors.join(", ")) };
            why.push_str(&format!("; resolution errors: [{list}]"));
        }
        Some(why)
    }
}

fn everything() -> [PolicyRule; 2] {
    let all = || Some(vec!["*".to_owned()]);
    let verbs = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: verbs(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: verbs(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letting_the_collector_work_grants_nothing() {
        let old = RoleBinding::default();
        let mut new = old.clone();
        new.metadata.owner_references = Some(Vec::new());
        new.metadata.finalizers = Some(vec!["foregroundDeletion".into()]);
        assert!(only_collected(&new, &old));
        new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(!only_collected(&new, &old));
    }
}
