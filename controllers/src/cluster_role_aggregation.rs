//! ClusterRole aggregation: a role with an aggregation rule has the rules of all roles that its selectors select.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Change, Client, Informer, Key, Object, WorkQueue};
use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use serde::Deserialize;

use crate::context::Context;

/// The one key there is.
const ALL: &str = "aggregation";

pub async fn run(context: Context) {
    let controller = Controller { client: context.client.clone(), roles: context.of::<ClusterRole>() };
    let queue = WorkQueue::new();
    let changed = queue.clone();
    // Any role may be selected by any selector: whatever changes, all are looked at once.
    controller.roles.on_change(move |_: &Change| changed.add(Key::new("", ALL)));
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    roles: Informer,
}

/// Cheap: most roles have no such rule.
fn gathers(role: &Object) -> bool {
    const MEMBER: &[u8] = b"\"aggregationRule\"";
    role.contains(MEMBER)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Gathered {
    aggregation_rule: Option<AggregationRule>,
    #[serde(default)]
    rules: Option<Vec<PolicyRule>>,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    async fn reconcile(&self, _all: &Key) -> Result<Outcome, ApiError> {
        let mut roles = self.roles.list();
        roles.sort_by(|a, b| a.head.name.cmp(&b.head.name));
        for object in roles.iter().filter(|role| gathers(role)) {
            let role: Gathered = object.decode()?;
            let Some(rule) = role.aggregation_rule else { continue };
            let wanted = plan(&object.head.name, &rule, &roles)?;
            if role.rules.as_deref().unwrap_or_default() == wanted {
                continue;
            }
            let mut role: ClusterRole = object.decode()?;
            role.rules = Some(wanted);
            match self.client.update(&role).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }
}

/// The rules of the selected roles, selector by selector, each once. `roles` are in order of their names.
fn plan(
    own: &str,
    rule: &AggregationRule,
    roles: &[std::sync::Arc<Object>],
) -> Result<Vec<PolicyRule>, ApiError> {
    let mut wanted: Vec<PolicyRule> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        let selector = Selector::from_label_selector(Some(selector)).map_err(ApiError::internal)?;
        for role in roles.iter().filter(|r| &*r.head.name != own && selector.matches(&r.head)) {
            let rules = role.decode::<Gathered>()?.rules.unwrap_or_default();
            for rule in rules {
                if !wanted.contains(&rule) {
                    wanted.push(rule);
                }
            }
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

    use super::*;
    use crate::testing::Cluster;

    fn role(name: &str, label: Option<&str>, gathers: Option<&str>, verb: Option<&str>) -> ClusterRole {
        let labels = |label: &str| [(label.to_owned(), "true".to_owned())].into();
        ClusterRole {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: label.map(labels),
                ..ObjectMeta::default()
            },
            aggregation_rule: gathers.map(|label| AggregationRule {
                cluster_role_selectors: Some(vec![LabelSelector {
                    match_labels: Some(labels(label)),
                    ..LabelSelector::default()
                }]),
            }),
            rules: verb.map(|verb| vec![PolicyRule { verbs: vec![verb.into()], ..PolicyRule::default() }]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_gathered_through_roles_that_gather_themselves() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        for role in [
            role("admin", None, Some("to-admin"), None),
            role("edit", Some("to-admin"), Some("to-edit"), None),
            role("own-admin", Some("to-admin"), None, Some("approve")),
            role("own-edit", Some("to-edit"), None, Some("write")),
            role("same-edit", Some("to-edit"), None, Some("write")),
        ] {
            client.create(&role).await.unwrap();
        }
        let verbs = |f: &coracle_client::fake::Fake, name: &str| -> Vec<String> {
            let rules = f.get::<ClusterRole>("", name).and_then(|r| r.rules).unwrap_or_default();
            rules.into_iter().flat_map(|r| r.verbs).collect()
        };
        cluster.until("gathered", |f| verbs(f, "admin") == ["write", "approve"]).await;
        assert_eq!(verbs(&cluster.fake, "edit"), ["write"]);
        let mut own = cluster.fake.get::<ClusterRole>("", "own-admin").unwrap();
        own.metadata.labels = None;
        client.update(&own).await.unwrap();
        cluster.until("gone again", |f| verbs(f, "admin") == ["write"]).await;
    }
}
