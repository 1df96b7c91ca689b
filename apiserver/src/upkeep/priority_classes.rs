//! The priority classes of the system's own pods are there.

use coracle_client::{ApiError, Client};
use futures::future::try_join_all;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::made;
use crate::kinds::priority_class;

/// Creates what is missing; nobody can delete them or give them another number.
pub(super) async fn ensure(client: &Client) -> Result<(), ApiError> {
    let classes = priority_class::system();
    try_join_all(classes.iter().map(async |class| {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        match client.find::<PriorityClass>("", name).await? {
            Some(_) => Ok(()),
            None => made(client.create(class).await.map(drop)),
        }
    }))
    .await?;
    Ok(())
}
