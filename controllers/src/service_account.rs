//! ServiceAccount: every active namespace has the account `default`.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;

const DEFAULT: &str = "default";

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        namespaces: context.of::<Namespace>(),
        accounts: context.of::<ServiceAccount>(),
    };
    let queue = WorkQueue::new();
    let namespaces = queue.clone();
    controller.namespaces.on_change(move |change: &Change| {
        if change.new.is_some() {
            namespaces.add(change.key());
        }
    });
    let accounts = queue.clone();
    controller.accounts.on_change(move |change: &Change| {
        if change.new.is_none() && &*change.object().head.name == DEFAULT {
            accounts.add(Key::new("", &change.object().head.namespace));
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    namespaces: Informer,
    accounts: Informer,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let wanted = self
            .namespaces
            .get_key(key)
            .is_some_and(|n| !n.head.deleting && n.head.field("status.phase") != Some("Terminating"));
        if !wanted || self.accounts.get(&key.name, DEFAULT).is_some() {
            return Ok(Outcome::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                namespace: Some(key.name.to_string()),
                name: Some(DEFAULT.into()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match self.client.create(&account).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::DeleteOptions;

    use super::*;
    use crate::namespace::defaults;
    use crate::testing::Cluster;

    #[tokio::test(start_paused = true)]
    async fn every_active_namespace_has_its_account_and_keeps_it() {
        let cluster = Cluster::new();
        let client = &cluster.context.client;
        defaults::ensure(client).await.unwrap();
        cluster.start(|c| Box::pin(super::run(c)));
        defaults::create(client, "ns").await.unwrap();
        let five = |f: &coracle_client::fake::Fake| f.list::<ServiceAccount>("").len() == 5;
        cluster.until("five accounts", five).await;
        client.delete::<ServiceAccount>("ns", "default", DeleteOptions::default()).await.unwrap();
        cluster.until("five again", five).await;
        client.delete::<Namespace>("", "ns", DeleteOptions::default()).await.unwrap();
        client.delete::<ServiceAccount>("ns", "default", DeleteOptions::default()).await.unwrap();
        cluster.settle().await;
        assert!(cluster.fake.get::<ServiceAccount>("ns", "default").is_none());
    }
}
