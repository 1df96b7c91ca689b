//! The namespaces every cluster has.

use std::time::Duration;

use coracle_client::{ApiError, Client};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub const NAMES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Creates those that are missing.
pub async fn ensure(client: &Client) -> Result<(), ApiError> {
    for name in NAMES {
        create(client, name).await?;
    }
    Ok(())
}

/// Tries until that has worked, or until `shutdown`.
pub async fn insist(client: &Client, shutdown: &CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    while let Err(error) = ensure(client).await {
        warn!(%error, "creating the default namespaces failed, again in {backoff:?}");
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = shutdown.cancelled() => return,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

pub async fn create(client: &Client, name: &str) -> Result<(), ApiError> {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match client.create(&namespace).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}
