//! What the server keeps up by itself: the objects that every cluster has, and the books of service addresses.

mod addresses;
mod api_services;
mod flow_control;
mod identity;
mod legacy_tokens;
mod policy_types;
mod priority_classes;
mod storage_versions;

pub use identity::ServerIdentity;

use std::sync::Arc;

use coracle_client::{ApiError, Client, Informers};
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// Creates what is missing and corrects what is wrong; before the first request is served.
pub async fn ensure(api: &Api, client: &Client, service_cidr: &str) -> Result<(), ApiError> {
    let (flow, groups, books, classes) = tokio::join!(
        flow_control::ensure(client),
        api_services::ensure(api, client),
        addresses::ensure(api, client, service_cidr),
        priority_classes::ensure(client),
    );
    flow.and(groups).and(books).and(classes)
}

/// Says who this server is and in which versions it stores; before it serves, and when the namespaces are there.
pub async fn introduce(api: &Api, client: &Client) -> Result<(), ApiError> {
    let Some(identity) = &api.options.identity else { return Ok(()) };
    identity::ensure(client, identity).await?;
    match api.options.storage_versions {
        true => storage_versions::ensure(api, client, &identity.id).await,
        false => Ok(()),
    }
}

/// Keeps it that way until `shutdown`.
pub async fn run(api: Arc<Api>, client: Client, shutdown: CancellationToken) {
    let informers = Informers::new(client.clone(), shutdown.clone());
    tokio::join!(
        flow_control::run(client.clone(), &informers, shutdown.clone()),
        api_services::run(api.clone(), client.clone(), &informers, shutdown.clone()),
        addresses::run(client.clone(), &informers, shutdown.clone()),
        legacy_tokens::run(client.clone(), &informers, shutdown.clone()),
        policy_types::run(api.clone(), client.clone(), &informers, shutdown.clone()),
        told(api, client, &informers, shutdown),
    );
}

/// Who this server is, and what it stores.
async fn told(api: Arc<Api>, client: Client, informers: &Informers, shutdown: CancellationToken) {
    let Some(identity) = api.options.identity.clone() else { return };
    let (server, tells) = (identity.id.clone(), api.options.storage_versions);
    let lives = identity::run(client.clone(), identity, informers, shutdown.clone());
    let stores = async {
        if tells {
            storage_versions::run(api, client, server, informers, shutdown).await;
        }
    };
    tokio::join!(lives, stores);
}

/// Somebody else was as fast, which is as good.
fn made(written: Result<(), ApiError>) -> Result<(), ApiError> {
    match written {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other,
    }
}
