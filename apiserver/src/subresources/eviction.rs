//! `pods/eviction`: a delete that will respect disruption budgets once there are any.

use coracle_client::{ApiError, Propagation};
use k8s_openapi::api::policy::v1::Eviction;

use super::document;
use crate::verbs::delete::{self, Options};
use crate::verbs::{Answer, Call};

pub async fn create(call: &Call) -> Result<Answer, ApiError> {
    let (eviction, warnings) = document::<Eviction>(call, "policy/v1", "Eviction")?;
    let name = eviction.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.name() {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let asked = eviction.delete_options.unwrap_or_default();
    let preconditions = asked.preconditions.unwrap_or_default();
    let options = Options {
        grace_seconds: asked.grace_period_seconds,
        propagation: match asked.propagation_policy.as_deref() {
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Background") => Some(Propagation::Background),
            _ => None,
        },
        orphan_dependents: asked.orphan_dependents,
        uid: preconditions.uid,
        resource_version: preconditions.resource_version,
        dry_run: call.options.dry_run || asked.dry_run.is_some_and(|d| d.iter().any(|v| v == "All")),
    };
    delete::delete(call, &options).await?;
    Answer::success(201).map(|answer| answer.warning(warnings))
}
