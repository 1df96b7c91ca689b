//! GET of one object.

use std::sync::Arc;

use coracle_client::{ApiError, Object};

use super::Call;
use crate::subresources::computed;

/// `version`: what the query asked for. Unset: the newest state; "0": what is at hand; N: not older than N.
pub async fn get(call: &Call, version: Option<&str>) -> Result<Arc<Object>, ApiError> {
    let api = &call.api;
    if call.kind.def.computed {
        return computed::object(call).await;
    }
    match super::list::version_of_one(version)? {
        None => api.cache.catch_up(&*api.store).await?,
        Some(0) => {}
        Some(revision) => api.cache.wait_for(revision).await?,
    }
    let object = call
        .kind
        .cache
        .get(&call.key())
        .ok_or_else(|| ApiError::not_found(call.form.resource(), call.name()))?;
    call.kind.presented_one(object).await
}
