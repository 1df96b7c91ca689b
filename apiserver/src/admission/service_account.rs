//! ServiceAccount: a pod runs as an account that exists.

use async_trait::async_trait;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount as Account};

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;
use crate::watch_cache::key_of;

const DEFAULT: &str = "default";
/// Mirrors of static pods run as nobody in particular.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = object.and_then(|o| o.as_any_mut().downcast_mut::<Pod>()) else { return Ok(()) };
        if pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
            return Ok(());
        }
        let spec = pod.spec.get_or_insert_default();
        let name = match spec.service_account_name.as_deref().unwrap_or_default() {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name.clone());
        let Ok(accounts) = call.api.kind(&Resource::of::<Account>()) else { return Ok(()) };
        let key = key_of(call.namespace.as_deref(), &name);
        let account = match accounts.cache.get(&key) {
            Some(account) => Some(account),
            None => {
                call.api.cache.catch_up(&*call.api.store).await?;
                accounts.cache.get(&key)
            }
        };
        let Some(account) = account else {
            return Err(ApiError::forbidden(
                call.kind.resource(),
                call.name(),
                format!(
                    "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                    call.namespace.as_deref().unwrap_or_default()
                ),
            ));
        };
        if spec.image_pull_secrets.as_ref().is_none_or(|s| s.is_empty()) {
            let account: Account = account.decode()?;
            spec.image_pull_secrets = account.image_pull_secrets.filter(|s| !s.is_empty());
        }
        Ok(())
    }
}
