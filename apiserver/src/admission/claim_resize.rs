//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class says that volumes can grow.

use async_trait::async_trait;
use coracle_client::quantity::Quantity;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;

pub struct PersistentVolumeClaimResize;

fn size(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Quantity::of(requests.get("storage")?).ok()
}

/// Why the claim may not grow. `expands`: its class allows it.
fn refusal(
    old: &PersistentVolumeClaim,
    new: &PersistentVolumeClaim,
    expands: impl FnOnce(&str) -> bool,
) -> Option<&'static str> {
    let (before, after) = (size(old)?, size(new)?);
    if after <= before {
        return None;
    }
    if old.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Some("Only bound persistent volume claims can be expanded");
    }
    let class = new.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
    (class.is_empty() || !expands(class)).then_some(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        if attributes.operation != Operation::Update || call.subresource.is_some() {
            return Ok(());
        }
        let claim = |object: &dyn ApiObject| object.as_any().downcast_ref::<PersistentVolumeClaim>().cloned();
        let (Some(new), Some(old)) = (object.and_then(claim), attributes.old.and_then(claim)) else {
            return Ok(());
        };
        let expands = |name: &str| {
            let kind = call.api.kind(&Resource::of::<StorageClass>()).ok();
            let class = kind.and_then(|k| k.cache.get(name)).and_then(|o| o.decode::<StorageClass>().ok());
            class.is_some_and(|class| class.allow_volume_expansion == Some(true))
        };
        match refusal(&old, &new, expands) {
            None => Ok(()),
            Some(why) => Err(ApiError::forbidden(call.kind.resource(), call.name(), why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_grow_when_they_can() {
        let claim = |size: &str, phase: &str, class: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"spec": {"storageClassName": class,
                "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}}))
            .unwrap()
        };
        let grows = |name: &str| name == "grows";
        for (old, new, want) in [
            (claim("1Gi", "Bound", "grows"), claim("2Gi", "Bound", "grows"), None),
            (claim("1Gi", "Bound", "fixed"), claim("1Gi", "Bound", "fixed"), None),
            (claim("1Gi", "Bound", "fixed"), claim("2Gi", "Bound", "fixed"), Some("only dynamically")),
            (claim("1Gi", "Bound", ""), claim("2Gi", "Bound", ""), Some("only dynamically")),
            (claim("1Gi", "Pending", "grows"), claim("2Gi", "Pending", "grows"), Some("Only bound")),
        ] {
            let got = refusal(&old, &new, grows);
            match want {
                None => assert_eq!(got, None),
                Some(want) => assert!(got.unwrap().starts_with(want)),
            }
        }
    }
}
