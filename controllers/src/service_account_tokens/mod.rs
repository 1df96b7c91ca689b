//! Service account tokens in Secrets: whoever makes a Secret of that type gets a token in it, as long as the account is.

mod plan;

use std::fmt;
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::token_key::{LegacyClaims, TokenKey};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde::Deserialize;

use crate::context::Context;

pub use plan::{ACCOUNT_NAME, ACCOUNT_UID, TYPE};

const BY_ACCOUNT: &str = "secret.account";

/// The Secrets with tokens, and those alone: other Secrets are nobody's business here.
pub fn token_secrets(context: &Context) -> Informer {
    let scope = InformerScope { field_selector: Some(format!("type={TYPE}")), ..InformerScope::default() };
    context.scoped(Resource::of::<Secret>(), scope)
}

pub async fn run(context: Context) {
    let Some(key) = context.options.account_token_key.clone() else { return };
    let controller = Controller {
        client: context.client.clone(),
        accounts: context.of::<ServiceAccount>(),
        secrets: token_secrets(&context),
        key,
        ca: context.options.signer.as_ref().map(|s| s.certificate().to_owned()).unwrap_or_default(),
    };
    controller.secrets.add_index(BY_ACCOUNT, |secret| {
        let index = |name: String| Box::from(format!("{}/{name}", secret.head.namespace));
        account_name(secret).map(index).into_iter().collect()
    });
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.secrets.on_change(move |change: &Change| {
        added.add(Work::Secret(change.key()));
        if let (Some(old), None) = (&change.old, &change.new)
            && let Some(name) = account_name(old)
        {
            let account = Key::new(&old.head.namespace, &name);
            added.add(Work::Reference { account, secret: old.head.name.clone() });
        }
    });
    let (added, secrets) = (queue.clone(), controller.secrets.clone());
    controller.accounts.on_change(move |change: &Change| {
        let uid = |object: &Option<Arc<Object>>| object.as_ref().map(|o| o.head.uid.clone());
        if uid(&change.old) != uid(&change.new) {
            for secret in secrets.by_index(BY_ACCOUNT, &change.key().to_string()) {
                added.add(Work::Secret(secret.key()));
            }
        }
    });
    context.work(controller, queue).await;
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Work {
    Secret(Key),
    /// The Secret is gone, and the account must not name it any more.
    Reference {
        account: Key,
        secret: Arc<str>,
    },
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(key) => write!(f, "{key}"),
            Self::Reference { account, secret } => write!(f, "{secret} in {account}"),
        }
    }
}

#[derive(Deserialize)]
struct View {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/service-account.name")]
    name: Option<String>,
}

fn account_name(secret: &Object) -> Option<String> {
    secret.decode::<View>().ok()?.metadata.annotations?.name
}

struct Controller {
    client: Client,
    accounts: Informer,
    secrets: Informer,
    key: Arc<TokenKey>,
    ca: String,
}

impl Reconciler for Controller {
    type Key = Work;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    async fn reconcile(&self, work: &Work) -> Result<Outcome, ApiError> {
        match work {
            Work::Secret(key) => self.secret(key).await?,
            Work::Reference { account, secret } => self.forget(account, secret).await?,
        }
        Ok(Outcome::Done)
    }
}

impl Controller {
    async fn secret(&self, key: &Key) -> Result<(), ApiError> {
        let Some(object) = self.secrets.get_key(key).filter(|o| !o.head.deleting) else { return Ok(()) };
        let secret: Secret = object.decode()?;
        let (name, _) = plan::account(&secret);
        let Some(uid) = self.account(&key.namespace, name, &secret).await? else {
            let options = DeleteOptions::default().uid(&object.head.uid);
            return match self.client.delete::<Secret>(&key.namespace, &key.name, options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(()),
            };
        };
        if !plan::needs(&secret, &self.ca).any() {
            return Ok(());
        }
        // What is signed must go into the newest state: a token that another has already handed out stays.
        let Some(mut fresh) = self.client.find::<Secret>(&key.namespace, &key.name).await? else {
            return Ok(());
        };
        let other = fresh.metadata.uid.as_deref() != Some(&*object.head.uid) || !plan::is_for(&fresh, &uid);
        if other || !plan::needs(&fresh, &self.ca).any() {
            return Ok(());
        }
        let claims = LegacyClaims::new(&key.namespace, name, &uid, &key.name);
        plan::fill(&mut fresh, (name, &uid), &self.ca, || self.key.sign(&claims))
            .map_err(ApiError::internal)?;
        match self.client.update(&fresh).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The uid of the Secret's account; asked of the API before it is said that there is none.
    async fn account(
        &self,
        namespace: &str,
        name: &str,
        secret: &Secret,
    ) -> Result<Option<String>, ApiError> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.accounts.get(namespace, name)
            && plan::is_for(secret, &known.head.uid)
        {
            return Ok(Some(known.head.uid.to_string()));
        }
        let account = self.client.find::<ServiceAccount>(namespace, name).await?;
        Ok(account.and_then(|a| a.metadata.uid).filter(|uid| plan::is_for(secret, uid)))
    }

    async fn forget(&self, account: &Key, secret: &str) -> Result<(), ApiError> {
        let names = |account: &ServiceAccount| {
            account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret))
        };
        let known = self.accounts.get_key(account);
        if known.is_none_or(|known| !known.decode::<ServiceAccount>().is_ok_and(|a| names(&a))) {
            return Ok(());
        }
        if self.client.find::<Secret>(&account.namespace, secret).await?.is_some() {
            return Ok(());
        }
        let found = self.client.find::<ServiceAccount>(&account.namespace, &account.name).await?;
        let Some(mut fresh) = found.filter(|a| names(a)) else { return Ok(()) };
        fresh.secrets.get_or_insert_default().retain(|s| s.name.as_deref() != Some(secret));
        match self.client.update(&fresh).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;
    use serde_json::json;

    use super::*;
    use crate::Options;
    use crate::testing::{Cluster, from};

    #[tokio::test(start_paused = true)]
    async fn a_secret_has_its_token_and_goes_with_the_account() {
        let key = Arc::new(TokenKey::from_pem(&KeyPair::generate().unwrap().serialize_pem()).unwrap());
        let cluster = Cluster::with(Options { account_token_key: Some(key.clone()), ..Options::default() });
        let client = &cluster.context.client;
        cluster.start(|c| Box::pin(super::run(c)));
        let account: ServiceAccount =
            from(json!({"metadata": {"namespace": "ns", "name": "robot"}, "secrets": [{"name": "one"}]}));
        let account: ServiceAccount = client.create(&account).await.unwrap().decode().unwrap();
        let secret = |name: &str, account: &str| {
            from::<Secret>(
                json!({"metadata": {"namespace": "ns", "name": name, "annotations": {ACCOUNT_NAME: account}},
                "type": TYPE}),
            )
        };
        for (name, account) in [("one", "robot"), ("two", "robot"), ("stray", "nobody")] {
            client.create(&secret(name, account)).await.unwrap();
        }
        let token = |f: &coracle_client::fake::Fake, name: &str| {
            f.get::<Secret>("ns", name).and_then(|s| s.data).and_then(|d| d.get("token").cloned())
        };
        cluster.until("tokens", |f| token(f, "one").is_some() && token(f, "two").is_some()).await;
        cluster.until("without an account it goes", |f| f.get::<Secret>("ns", "stray").is_none()).await;
        let text = String::from_utf8(token(&cluster.fake, "one").unwrap().0).unwrap();
        let claims: LegacyClaims = key.verify(&text).unwrap();
        let uid = account.metadata.uid.unwrap();
        assert_eq!(claims, LegacyClaims::new("ns", "robot", &uid, "one"));

        client.delete::<Secret>("ns", "one", DeleteOptions::default()).await.unwrap();
        cluster
            .until("no longer named", |f| {
                f.get::<ServiceAccount>("ns", "robot")
                    .is_some_and(|a| a.secrets.unwrap_or_default().is_empty())
            })
            .await;
        client.delete::<ServiceAccount>("ns", "robot", DeleteOptions::default()).await.unwrap();
        cluster.until("gone with the account", |f| f.list::<Secret>("ns").is_empty()).await;
    }
}
