//! Upstream's default roles and bindings and kubeadm's of cluster-info, as a table, and what is missing of them in the store.
//!
//! `clusterrole NAME ^A <B`: `^A` is aggregated to A, `<B` gathers what is aggregated to B. A rule's line has verbs,
//! groups (`core` for the core group), resources and `=names`, or verbs and paths. `binding NAMESPACE/NAME ROLE SUBJECT…`:
//! the role `=` has the binding's own name.

use std::collections::BTreeMap;

use coracle_client::client::Kind;
use coracle_client::resource::Scope;
use coracle_client::{ApiError, Client, DeleteOptions};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::rbac::missing;

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Writes under way at once.
const PARALLEL: usize = 64;
/// How often a write is made again when somebody else was first.
const TRIES_MAX: usize = 5;

/// The default policy.
#[derive(Debug, Default)]
pub struct Policy {
    pub cluster_roles: Vec<ClusterRole>,
    pub roles: Vec<Role>,
    pub cluster_bindings: Vec<ClusterRoleBinding>,
    pub bindings: Vec<RoleBinding>,
}

impl Policy {
    pub fn default_policy() -> Self {
        Self::parse(include_str!("policy.txt"))
    }

    fn parse(text: &str) -> Self {
        let mut policy = Self::default();
        let mut in_cluster_role = false;
        for line in text.lines() {
            if let Some(rule) = line.strip_prefix("  ") {
                let rules = if in_cluster_role {
                    policy.cluster_roles.last_mut().map(|role| &mut role.rules)
                } else {
                    policy.roles.last_mut().map(|role| &mut role.rules)
                };
                if let Some(rules) = rules {
                    rules.get_or_insert_default().push(parse_rule(rule));
                }
                continue;
            }
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let (what, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            in_cluster_role = what == "clusterrole";
            match what {
                "clusterrole" => policy.cluster_roles.push(cluster_role(name, words)),
                "role" => policy.roles.push(Role { metadata: metadata(name), rules: None }),
                "clusterbinding" => policy.cluster_bindings.push(ClusterRoleBinding {
                    metadata: metadata(name),
                    role_ref: role_ref("ClusterRole", name, words.next().unwrap_or("=")),
                    subjects: subjects(words),
                }),
                _ => policy.bindings.push(RoleBinding {
                    metadata: metadata(name),
                    role_ref: role_ref("Role", name, words.next().unwrap_or("=")),
                    subjects: subjects(words),
                }),
            }
        }
        policy
    }

    /// Creates what is not there and adds what is missing in what is, unless an object says that it is on its own.
    /// Roles come first, as upstream: a binding never names a role that is yet to come.
    pub async fn ensure(self, client: &Client) -> Result<(), ApiError> {
        let (a, b) = tokio::join!(ensure_all(client, self.cluster_roles), ensure_all(client, self.roles));
        a.and(b)?;
        let (a, b) =
            tokio::join!(ensure_all(client, self.cluster_bindings), ensure_all(client, self.bindings));
        a.and(b)
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(|word| if word == "core" { String::new() } else { word.to_owned() }).collect()
}

fn parse_rule(line: &str) -> PolicyRule {
    let mut parts = line.split(' ');
    let verbs = words(parts.next().unwrap_or_default());
    let first = words(parts.next().unwrap_or_default());
    match parts.next() {
        None => PolicyRule { verbs, non_resource_urls: Some(first), ..PolicyRule::default() },
        Some(resources) => PolicyRule {
            verbs,
            api_groups: Some(first),
            resources: Some(words(resources)),
            resource_names: parts.next().map(|names| words(names.trim_start_matches('='))),
            non_resource_urls: None,
        },
    }
}

fn metadata(name: &str) -> ObjectMeta {
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, name),
    };
    ObjectMeta {
        name: Some(name.into()),
        namespace,
        labels: Some([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())].into()),
        annotations: Some([(AUTOUPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn cluster_role<'a>(name: &str, marks: impl Iterator<Item = &'a str>) -> ClusterRole {
    let mut role = ClusterRole { metadata: metadata(name), ..ClusterRole::default() };
    let label = |to: &str| (format!("{GROUP}/aggregate-to-{to}"), "true".to_owned());
    for mark in marks {
        match (mark.strip_prefix('^'), mark.strip_prefix('<')) {
            (Some(to), _) => role.metadata.labels.get_or_insert_default().extend([label(to)]),
            (_, Some(to)) => {
                let selector =
                    LabelSelector { match_labels: Some([label(to)].into()), ..LabelSelector::default() };
                let rule = role.aggregation_rule.get_or_insert_with(AggregationRule::default);
                rule.cluster_role_selectors.get_or_insert_default().push(selector);
            }
            _ => {}
        }
    }
    role
}

fn role_ref(kind: &str, binding: &str, role: &str) -> RoleRef {
    let own = binding.split_once('/').map_or(binding, |(_, name)| name);
    RoleRef {
        api_group: Some(GROUP.into()),
        kind: kind.into(),
        name: if role == "=" { own.into() } else { role.into() },
    }
}

fn subjects<'a>(words: impl Iterator<Item = &'a str>) -> Option<Vec<Subject>> {
    let all: Vec<Subject> = words
        .filter_map(|word| {
            let (kind, name) = word.split_once(':')?;
            let account = name.split_once('/').filter(|_| kind == "account");
            Some(Subject {
                api_group: account.is_none().then(|| GROUP.to_owned()),
                kind: match kind {
                    "account" => "ServiceAccount".into(),
                    "group" => "Group".into(),
                    _ => "User".into(),
                },
                name: account.map_or(name, |(_, name)| name).into(),
                namespace: account.map(|(namespace, _)| namespace.to_owned()),
            })
        })
        .collect();
    Some(all).filter(|all| !all.is_empty())
}

/// What of an object is compared with the default.
trait Supplied: Kind + Clone + Send + Sync {
    /// Adds what is missing; true where something was.
    fn add_missing(&mut self, wanted: &Self) -> bool;

    /// It refers to another role, which cannot be changed: it must be made anew.
    fn is_other(&self, _wanted: &Self) -> bool {
        false
    }
}

fn add_to_map(map: &mut Option<BTreeMap<String, String>>, wanted: Option<&BTreeMap<String, String>>) -> bool {
    let mut added = false;
    for (key, value) in wanted.into_iter().flatten() {
        added |= map.get_or_insert_default().insert(key.clone(), value.clone()).as_ref() != Some(value);
    }
    added
}

fn add_to_metadata(metadata: &mut ObjectMeta, wanted: &ObjectMeta) -> bool {
    let labels = add_to_map(&mut metadata.labels, wanted.labels.as_ref());
    add_to_map(&mut metadata.annotations, wanted.annotations.as_ref()) | labels
}

fn add_rules(rules: &mut Option<Vec<PolicyRule>>, wanted: Option<&[PolicyRule]>) -> bool {
    let missing = missing(rules.as_deref().unwrap_or_default(), wanted.unwrap_or_default());
    let added = !missing.is_empty();
    if added {
        rules.get_or_insert_default().extend(missing);
    }
    added
}

fn add_subjects(subjects: &mut Option<Vec<Subject>>, wanted: Option<&[Subject]>) -> bool {
    let present = subjects.as_deref().unwrap_or_default();
    let missing: Vec<Subject> =
        wanted.unwrap_or_default().iter().filter(|s| !present.contains(s)).cloned().collect();
    let added = !missing.is_empty();
    if added {
        subjects.get_or_insert_default().extend(missing);
    }
    added
}

impl Supplied for ClusterRole {
    fn add_missing(&mut self, wanted: &Self) -> bool {
        let metadata = add_to_metadata(&mut self.metadata, &wanted.metadata);
        let rules = add_rules(&mut self.rules, wanted.rules.as_deref());
        let aggregation = match (&mut self.aggregation_rule, &wanted.aggregation_rule) {
            (Some(_), None) => self.aggregation_rule.take().is_some(),
            (_, None) => false,
            (own, Some(wanted)) => {
                let own = own
                    .get_or_insert_with(AggregationRule::default)
                    .cluster_role_selectors
                    .get_or_insert_default();
                let missing: Vec<LabelSelector> = wanted
                    .cluster_role_selectors
                    .iter()
                    .flatten()
                    .filter(|s| !own.contains(s))
                    .cloned()
                    .collect();
                own.extend(missing.iter().cloned());
                !missing.is_empty()
            }
        };
        metadata | rules | aggregation
    }
}

impl Supplied for Role {
    fn add_missing(&mut self, wanted: &Self) -> bool {
        add_to_metadata(&mut self.metadata, &wanted.metadata)
            | add_rules(&mut self.rules, wanted.rules.as_deref())
    }
}

impl Supplied for ClusterRoleBinding {
    fn is_other(&self, wanted: &Self) -> bool {
        self.role_ref != wanted.role_ref
    }

    fn add_missing(&mut self, wanted: &Self) -> bool {
        add_to_metadata(&mut self.metadata, &wanted.metadata)
            | add_subjects(&mut self.subjects, wanted.subjects.as_deref())
    }
}

impl Supplied for RoleBinding {
    fn is_other(&self, wanted: &Self) -> bool {
        self.role_ref != wanted.role_ref
    }

    fn add_missing(&mut self, wanted: &Self) -> bool {
        add_to_metadata(&mut self.metadata, &wanted.metadata)
            | add_subjects(&mut self.subjects, wanted.subjects.as_deref())
    }
}

async fn ensure_all<K: Supplied>(client: &Client, all: Vec<K>) -> Result<(), ApiError>
where
    K::Scope: Scope,
{
    stream::iter(all)
        .map(|wanted| ensure(client, wanted))
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await
}

async fn ensure<K: Supplied>(client: &Client, wanted: K) -> Result<(), ApiError>
where
    K::Scope: Scope,
{
    let meta = wanted.metadata();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    for _ in 0..TRIES_MAX {
        let written = match client.find::<K>(&namespace, &name).await? {
            None => client.create(&wanted).await.map(drop),
            Some(mut current) => {
                let on_its_own = current
                    .metadata()
                    .annotations
                    .as_ref()
                    .is_some_and(|all| all.get(AUTOUPDATE).is_some_and(|v| v == "false"));
                if on_its_own {
                    return Ok(());
                }
                if current.is_other(&wanted) {
                    client.delete::<K>(&namespace, &name, DeleteOptions::default()).await?;
                    continue;
                }
                if !current.add_missing(&wanted) {
                    return Ok(());
                }
                client.update(&current).await.map(drop)
            }
        };
        match written {
            // Another apiserver does the same right now.
            Err(error) if error.is_already_exists() || error.is_conflict() || error.is_not_found() => {}
            written => return written,
        }
    }
    Err(ApiError::internal(format!("the default policy's {name:?} does not stay as it is")))
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
