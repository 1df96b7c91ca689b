//! Token cleaner: bootstrap tokens go when they are over.

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::context::Context;

pub async fn run(context: Context) {
    let controller = Controller { client: context.client.clone(), tokens: super::tokens(&context) };
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.tokens.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    context.work_with(controller, queue, 1).await;
}

struct Controller {
    client: Client,
    tokens: Informer,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.tokens.get_key(key) else { return Ok(Outcome::Done) };
        let now = Timestamp::now();
        match super::expires(&object.decode::<Secret>()?) {
            None => Ok(Outcome::Done),
            Some(at) if at > now => {
                Ok(Outcome::After(Duration::try_from(at.duration_since(now)).unwrap_or_default()))
            }
            Some(_) => {
                let options = DeleteOptions::default().uid(&object.head.uid);
                match self.client.delete::<Secret>(&key.namespace, &key.name, options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(Outcome::Done),
                }
            }
        }
    }
}
