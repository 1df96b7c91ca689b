//! Roles by name and bindings by whom they bind, so that a decision looks at nobody else's. Pure.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use coracle_client::Object;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role, RoleRef, Subject};

use crate::authn::Identity;

/// A role; its rules are decoded when they are first asked for.
pub struct Rules {
    object: Arc<Object>,
    decoded: OnceLock<Vec<PolicyRule>>,
}

impl Rules {
    fn get(&self, cluster: bool) -> &[PolicyRule] {
        self.decoded.get_or_init(|| {
            let rules = if cluster {
                self.object.decode::<ClusterRole>().ok().and_then(|role| role.rules)
            } else {
                self.object.decode::<Role>().ok().and_then(|role| role.rules)
            };
            rules.unwrap_or_default()
        })
    }
}

/// A binding of either kind.
pub struct Binding {
    name: Box<str>,
    /// Empty: everywhere.
    namespace: Box<str>,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// By which binding, to whom, something is allowed. Text only where somebody wants to read it.
#[derive(Clone)]
pub struct Grant {
    binding: Arc<Binding>,
    subject: usize,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { name, namespace, role, subjects } = &*self.binding;
        if namespace.is_empty() {
            write!(f, "RBAC: allowed by ClusterRoleBinding {name:?} of {} {:?} to ", role.kind, role.name)?;
        } else {
            let name = format!("{name}/{namespace}");
            write!(f, "RBAC: allowed by RoleBinding {name:?} of {} {:?} to ", role.kind, role.name)?;
        }
        let Some(subject) = subjects.get(self.subject) else { return Ok(()) };
        if subject.kind != "ServiceAccount" {
            return write!(f, "{} {:?}", subject.kind, subject.name);
        }
        let home = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
        write!(f, "ServiceAccount {:?}", format!("{}/{home}", subject.name))
    }
}

/// The bindings of one user or group.
#[derive(Default)]
struct Held {
    everywhere: Vec<Grant>,
    within: HashMap<Box<str>, Vec<Grant>>,
}

impl Held {
    fn list(&mut self, namespace: &str) -> &mut Vec<Grant> {
        if namespace.is_empty() {
            return &mut self.everywhere;
        }
        self.within.entry(namespace.into()).or_default()
    }

    fn is_empty(&self) -> bool {
        self.everywhere.is_empty() && self.within.is_empty()
    }
}

/// The user's name (service accounts have one too), or a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(Box<str>),
    Group(Box<str>),
}

impl Who {
    fn of(subject: &Subject, namespace: &str) -> Option<Self> {
        match subject.kind.as_str() {
            "User" => Some(Self::User(subject.name.as_str().into())),
            "Group" => Some(Self::Group(subject.name.as_str().into())),
            "ServiceAccount" => {
                let home = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
                let name = format!("system:serviceaccount:{home}:{}", subject.name);
                (!home.is_empty()).then(|| Self::User(name.into()))
            }
            _ => None,
        }
    }
}

/// All roles and bindings, by the keys of the watch cache.
#[derive(Default)]
pub struct Index {
    roles: HashMap<Arc<str>, Rules>,
    cluster_roles: HashMap<Arc<str>, Rules>,
    bindings: HashMap<Arc<str>, Arc<Binding>>,
    cluster_bindings: HashMap<Arc<str>, Arc<Binding>>,
    held: HashMap<Who, Held>,
}

/// Which of the four kinds a change is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Roles,
    ClusterRoles,
    Bindings,
    ClusterBindings,
}

impl Index {
    /// What a key holds now.
    pub fn set(&mut self, part: Part, key: &Arc<str>, object: Option<Arc<Object>>) {
        match part {
            Part::Roles => set_role(&mut self.roles, key, object),
            Part::ClusterRoles => set_role(&mut self.cluster_roles, key, object),
            Part::Bindings | Part::ClusterBindings => self.set_binding(part, key, object.as_deref()),
        }
    }

    pub fn clear(&mut self, part: Part) {
        let keys: Vec<Arc<str>> = match part {
            Part::Roles => return self.roles.clear(),
            Part::ClusterRoles => return self.cluster_roles.clear(),
            Part::Bindings => self.bindings.keys().cloned().collect(),
            Part::ClusterBindings => self.cluster_bindings.keys().cloned().collect(),
        };
        for key in keys {
            self.set_binding(part, &key, None);
        }
    }

    fn set_binding(&mut self, part: Part, key: &Arc<str>, object: Option<&Object>) {
        let bindings = if part == Part::Bindings { &mut self.bindings } else { &mut self.cluster_bindings };
        if let Some(old) = bindings.remove(key) {
            for who in old.subjects.iter().filter_map(|s| Who::of(s, &old.namespace)) {
                let Some(held) = self.held.get_mut(&who) else { continue };
                let list = held.list(&old.namespace);
                list.retain(|grant| !Arc::ptr_eq(&grant.binding, &old));
                if list.is_empty() {
                    held.within.remove(&old.namespace);
                }
                if held.is_empty() {
                    self.held.remove(&who);
                }
            }
        }
        // Both kinds of bindings have the same fields.
        let Some((object, decoded)) = object.and_then(|o| Some((o, o.decode::<BindingFields>().ok()?)))
        else {
            return;
        };
        let binding = Arc::new(Binding {
            name: (&*object.head.name).into(),
            namespace: (&*object.head.namespace).into(),
            role: decoded.role_ref,
            subjects: decoded.subjects,
        });
        for (subject, who) in binding.subjects.iter().enumerate() {
            let Some(who) = Who::of(who, &binding.namespace) else { continue };
            let grant = Grant { binding: binding.clone(), subject };
            self.held.entry(who).or_default().list(&binding.namespace).push(grant);
        }
        bindings.insert(key.clone(), binding);
    }

    /// The rules of a role as a binding in `namespace` names it; Err: what is missing, as upstream says it.
    pub fn rules(&self, role: &RoleRef, namespace: &str) -> Result<&[PolicyRule], String> {
        if role.kind == "ClusterRole" {
            let missing = || format!("clusterrole.rbac.authorization.k8s.io {:?} not found", role.name);
            return self.cluster_roles.get(role.name.as_str()).map(|r| r.get(true)).ok_or_else(missing);
        }
        let missing = || format!("role.rbac.authorization.k8s.io {:?} not found", role.name);
        let key = format!("{namespace}/{}", role.name);
        self.roles.get(key.as_str()).map(|r| r.get(false)).ok_or_else(missing)
    }

    /// Calls `visit` with the rules of every binding that counts for the sender in the namespace, those everywhere
    /// first, until it returns true.
    pub fn visit<'a>(
        &'a self,
        identity: &Identity,
        namespace: &str,
        mut visit: impl FnMut(&Grant, Result<&'a [PolicyRule], String>) -> bool,
    ) {
        let user = Who::User(identity.name.as_str().into());
        let groups = identity.groups.iter().map(|group| Who::Group(group.as_str().into()));
        let held: Vec<&Held> =
            std::iter::once(user).chain(groups).filter_map(|w| self.held.get(&w)).collect();
        let everywhere = held.iter().flat_map(|held| &held.everywhere);
        let within = held.iter().filter_map(|held| held.within.get(namespace)).flatten();
        for grant in everywhere.chain(within) {
            let binding = &grant.binding;
            if visit(grant, self.rules(&binding.role, &binding.namespace)) {
                return;
            }
        }
    }
}

fn set_role(roles: &mut HashMap<Arc<str>, Rules>, key: &Arc<str>, object: Option<Arc<Object>>) {
    match object {
        Some(object) => drop(roles.insert(key.clone(), Rules { object, decoded: OnceLock::new() })),
        None => drop(roles.remove(key)),
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingFields {
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Vec<Subject>,
}
