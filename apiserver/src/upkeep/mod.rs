//! What the server keeps up by itself: the objects that every cluster has, and the books of service addresses.

mod addresses;
mod api_services;
mod flow_control;
mod legacy_tokens;
mod policy_types;
mod priority_classes;

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

/// Keeps it that way until `shutdown`.
pub async fn run(api: Arc<Api>, client: Client, shutdown: CancellationToken) {
    let informers = Informers::new(client.clone(), shutdown.clone());
    tokio::join!(
        flow_control::run(client.clone(), &informers, shutdown.clone()),
        api_services::run(api.clone(), client.clone(), &informers, shutdown.clone()),
        addresses::run(client.clone(), &informers, shutdown.clone()),
        legacy_tokens::run(client.clone(), &informers, shutdown.clone()),
        policy_types::run(api, client, &informers, shutdown),
    );
}

/// Somebody else was as fast, which is as good.
fn made(written: Result<(), ApiError>) -> Result<(), ApiError> {
    match written {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other,
    }
}
