//! RBAC: roles and bindings out of the watch cache, taken in when a decision needs them.

mod index;
mod rule;

pub use index::Grant;
pub use rule::{describe, missing, quoted};

use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::Resource;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};
use parking_lot::{RwLock, RwLockReadGuard};

use super::{Attributes, Authorizer, Decision, Reason};
use crate::authn::Identity;
use crate::lookup::Lookup;
use crate::watch_cache::ResourceCache;
use index::{Index, Part};

/// Nothing runs and nothing is kept until somebody asks who is not let through before.
pub struct Rbac {
    lookup: Arc<Lookup>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    index: Index,
    followed: Vec<Followed>,
}

struct Followed {
    part: Part,
    cache: Arc<ResourceCache>,
    /// None: nothing was taken in yet.
    seen: Option<u64>,
}

impl Rbac {
    pub fn new(lookup: Arc<Lookup>) -> Self {
        Self { lookup, state: RwLock::default() }
    }

    /// The index as of now: what was acknowledged before the call is in it.
    fn index(&self) -> RwLockReadGuard<'_, State> {
        let current = |state: &State| {
            !state.followed.is_empty() && state.followed.iter().all(|f| f.seen == Some(f.cache.changed()))
        };
        let state = self.state.read();
        if current(&state) {
            return state;
        }
        drop(state);
        let mut state = self.state.write();
        if state.followed.is_empty() {
            state.followed = self.follow();
        }
        state.take_in();
        drop(state);
        self.state.read()
    }

    fn follow(&self) -> Vec<Followed> {
        let parts = [
            (Part::Roles, Resource::of::<Role>()),
            (Part::ClusterRoles, Resource::of::<ClusterRole>()),
            (Part::Bindings, Resource::of::<RoleBinding>()),
            (Part::ClusterBindings, Resource::of::<ClusterRoleBinding>()),
        ];
        parts
            .into_iter()
            .filter_map(|(part, resource)| {
                Some(Followed { part, cache: self.lookup.cache(&resource)?, seen: None })
            })
            .collect()
    }

    /// None: there is no such role.
    pub fn rules_in(&self, role: &RoleRef, namespace: &str) -> Option<Vec<PolicyRule>> {
        self.index().index.rules(role, namespace).ok().map(<[_]>::to_vec)
    }
}

impl State {
    fn take_in(&mut self) {
        for followed in &mut self.followed {
            let (changes, revision, all) = match followed.seen {
                Some(seen) => followed.cache.changes(seen),
                None => followed.cache.everything(),
            };
            if all {
                self.index.clear(followed.part);
            }
            for (key, object) in changes {
                self.index.set(followed.part, &key, object);
            }
            followed.seen = Some(revision);
        }
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn decide(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        match decide(&self.index().index, identity, attributes) {
            Ok(grant) => Decision::Allow(Reason::Granted(grant)),
            Err(missing) => match missing.as_slice() {
                [] => Decision::no_opinion(),
                [one] => Decision::NoOpinion(format!("RBAC: {one}")),
                all => Decision::NoOpinion(format!("RBAC: [{}]", all.join(", "))),
            },
        }
    }

    /// The rules that count for a sender in a namespace, and what could not be found of them.
    fn rules_of(&self, identity: &Identity, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.index().index.visit(identity, namespace, |_, found| {
            match found {
                Ok(found) => rules.extend_from_slice(found),
                Err(error) => errors.push(error),
            }
            false
        });
        (rules, errors)
    }
}

/// Err: roles that are bound but are not there.
fn decide(index: &Index, identity: &Identity, attributes: &Attributes) -> Result<Grant, Vec<String>> {
    let mut missing = Vec::new();
    let mut allowed = None;
    index.visit(identity, &attributes.namespace, |grant, rules| {
        match rules {
            Ok(rules) if rules.iter().any(|rule| rule::allows(rule, attributes)) => {
                allowed = Some(grant.clone());
            }
            Ok(_) => {}
            Err(error) => missing.push(error),
        }
        allowed.is_some()
    });
    allowed.ok_or(missing)
}

#[cfg(test)]
mod tests;
