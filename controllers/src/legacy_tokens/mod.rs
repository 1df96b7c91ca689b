//! Legacy token cleaner: tokens in Secrets that versions before 1.24 made, and that nobody used for a year, go.

mod plan;

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::request::Preconditions;
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, PatchType, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use crate::context::Context;
use crate::service_account_tokens::{ACCOUNT_NAME, ACCOUNT_UID, token_secrets};
use plan::{Action, INVALID_SINCE, LAST_USED, Token};

/// Days are what is counted in: an answer holds for one.
const DAY: Duration = Duration::from_secs(24 * 3600);
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        secrets: token_secrets(&context),
        accounts: context.of::<ServiceAccount>(),
        pods: context.of::<Pod>(),
        period: context.options.legacy_service_account_token_clean_up_period,
    };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.secrets.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    secrets: Informer,
    accounts: Informer,
    pods: Informer,
    period: Duration,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-cleaner-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.secrets.get_key(key) else { return Ok(Outcome::Done) };
        let secret: Secret = object.decode()?;
        let Some(account) = self.account(&secret)? else { return Ok(Outcome::After(DAY)) };
        let generated = account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(&*key.name));
        if !generated {
            return Ok(Outcome::After(DAY));
        }
        let now = Timestamp::now();
        let tracking = self.client.find::<ConfigMap>("kube-system", TRACKING).await?;
        let since = tracking.and_then(|t| t.data?.get("since").cloned()).unwrap_or_default();
        if !plan::tracked_long_enough(&since, self.period, now) {
            return Ok(Outcome::After(DAY));
        }
        let token = Token {
            created: secret.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0),
            deleting: object.head.deleting,
            last_used: object.head.label(LAST_USED),
            invalid_since: object.head.label(INVALID_SINCE),
            generated,
            used_by_pods: self.mounted(key),
        };
        match plan::plan(&token, self.period, now) {
            Action::Keep => {}
            Action::Invalidate(day) => {
                info!(secret = %key, "an unused service account token is marked invalid");
                let patch = json!({"metadata": {"uid": object.head.uid, "labels": {INVALID_SINCE: day}}});
                let (namespace, name) = (&key.namespace, &key.name);
                self.client.patch::<Secret>(namespace, name, None, PatchType::Merge, &patch).await?;
            }
            Action::Delete => {
                info!(secret = %key, "an unused service account token is deleted");
                // Someone who takes it into use now keeps it.
                let version = secret.metadata.resource_version;
                let preconditions = Preconditions { uid: None, resource_version: version };
                let options =
                    DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
                match self.client.delete::<Secret>(&key.namespace, &key.name, options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(Outcome::After(DAY))
    }
}

impl Controller {
    fn account(&self, secret: &Secret) -> Result<Option<ServiceAccount>, ApiError> {
        let annotations = secret.metadata.annotations.clone().unwrap_or_default();
        let Some(name) = annotations.get(ACCOUNT_NAME) else { return Ok(None) };
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        let Some(account) = self.accounts.get(namespace, name) else { return Ok(None) };
        let same =
            annotations.get(ACCOUNT_UID).is_none_or(|uid| uid.is_empty() || **uid == *account.head.uid);
        if same { Ok(Some(account.decode()?)) } else { Ok(None) }
    }

    /// Whether a pod of the namespace names the Secret anywhere.
    fn mounted(&self, secret: &Key) -> bool {
        self.pods
            .list_namespace(&secret.namespace)
            .iter()
            .any(|pod| pod.decode::<Uses>().is_ok_and(|uses| uses.names(&secret.name)))
    }
}

/// A pod's spec as it comes: Secrets are named in a dozen places, under two names.
#[derive(Deserialize)]
struct Uses {
    #[serde(default)]
    spec: serde_json::Value,
}

impl Uses {
    fn names(&self, secret: &str) -> bool {
        fn within(value: &serde_json::Value, about_secrets: bool, secret: &str) -> bool {
            match value {
                serde_json::Value::Object(fields) => fields.iter().any(|(name, value)| {
                    let field = name.as_str();
                    let named = field == "secretName" || (about_secrets && field == "name");
                    if named && value.as_str() == Some(secret) {
                        return true;
                    }
                    let inner = matches!(
                        field,
                        "secret" | "secretRef" | "secretKeyRef" | "imagePullSecrets" | "secretFile"
                    ) || field.ends_with("SecretRef");
                    within(value, inner, secret)
                }),
                serde_json::Value::Array(items) => {
                    items.iter().any(|item| within(item, about_secrets, secret))
                }
                _ => false,
            }
        }
        within(&self.spec, false, secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::testing::{Cluster, from};

    #[test]
    fn pods_name_secrets_in_many_places() {
        for (spec, want) in [
            (json!({"volumes": [{"name": "s", "secret": {"secretName": "s"}}]}), true),
            (json!({"volumes": [{"name": "s", "emptyDir": {}}]}), false),
            (json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}]}}]}), true),
            (json!({"volumes": [{"csi": {"nodePublishSecretRef": {"name": "s"}}}]}), true),
            (json!({"imagePullSecrets": [{"name": "s"}]}), true),
            (json!({"containers": [{"name": "s", "envFrom": [{"configMapRef": {"name": "s"}}]}]}), false),
            (json!({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}), true),
            (
                json!({"initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
                true,
            ),
        ] {
            assert_eq!(Uses { spec: spec.clone() }.names("s"), want, "{spec}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_token_is_marked_and_then_deleted() {
        let period = Duration::from_secs(10 * 24 * 3600);
        let options = Options { legacy_service_account_token_clean_up_period: period, ..Options::default() };
        let cluster = Cluster::with(options);
        let put = |value: serde_json::Value| cluster.fake.put(&from::<Secret>(value)).unwrap();
        let secret = |name: &str, labels: serde_json::Value| {
            json!({"metadata": {"namespace": "ns", "name": name, "creationTimestamp": "2020-01-01T00:00:00Z",
                "labels": labels, "annotations": {ACCOUNT_NAME: "robot"}}, "type": crate::service_account_tokens::TYPE})
        };
        cluster
            .fake
            .put(&from::<ServiceAccount>(json!({"metadata": {"namespace": "ns", "name": "robot"},
                "secrets": [{"name": "unused"}, {"name": "old"}]})))
            .unwrap();
        cluster
            .fake
            .put(&from::<ConfigMap>(json!({"metadata": {"namespace": "kube-system", "name": TRACKING},
                "data": {"since": "2020-01-01"}})))
            .unwrap();
        put(secret("unused", json!({})));
        put(secret("old", json!({INVALID_SINCE: "2020-02-01"})));
        put(secret("made-by-hand", json!({})));
        cluster.start(|c| Box::pin(super::run(c)));
        cluster
            .until("marked", |f| {
                f.get::<Secret>("ns", "unused")
                    .and_then(|s| s.metadata.labels)
                    .is_some_and(|l| l.contains_key(INVALID_SINCE))
            })
            .await;
        cluster.until("deleted", |f| f.get::<Secret>("ns", "old").is_none()).await;
        let by_hand = cluster.fake.get::<Secret>("ns", "made-by-hand").unwrap();
        assert_eq!(by_hand.metadata.labels.unwrap_or_default().len(), 0);
    }
}
