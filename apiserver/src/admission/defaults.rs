//! DefaultStorageClass and DefaultIngressClass: who names no class gets the one that is marked as default.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Attributes, Operation, Plugin, listed};
use crate::kinds;
use crate::object::ApiObject;

/// Where a claim named its class before there was a field.
const CLAIM_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub struct DefaultStorageClass;
pub struct DefaultIngressClass;

/// Of several defaults the newest counts; of equally old ones, the first by name.
fn chosen<K>(classes: Vec<K>, meta: fn(&K) -> &ObjectMeta) -> Option<String> {
    let rank = |class: &K| {
        let meta = meta(class);
        (std::cmp::Reverse(meta.creation_timestamp.as_ref().map(|t| t.0)), meta.name.clone())
    };
    classes.into_iter().min_by_key(rank).and_then(|class| meta(&class).name.clone())
}

fn annotated(meta: &ObjectMeta, name: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|a| a.contains_key(name))
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create || attributes.call.subresource.is_some() {
            return Ok(());
        }
        let Some(claim) = object.and_then(|o| o.as_any_mut().downcast_mut::<PersistentVolumeClaim>()) else {
            return Ok(());
        };
        let named = claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some());
        if named || annotated(&claim.metadata, CLAIM_ANNOTATION) {
            return Ok(());
        }
        let mut classes: Vec<StorageClass> = listed(attributes.call);
        classes.retain(kinds::is_default_storage_class);
        if let Some(name) = chosen(classes, |class| &class.metadata) {
            claim.spec.get_or_insert_default().storage_class_name = Some(name);
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create || attributes.call.subresource.is_some() {
            return Ok(());
        }
        let Some(ingress) = object.and_then(|o| o.as_any_mut().downcast_mut::<Ingress>()) else {
            return Ok(());
        };
        let named = ingress.spec.as_ref().is_some_and(|s| s.ingress_class_name.is_some());
        if named || annotated(&ingress.metadata, INGRESS_ANNOTATION) {
            return Ok(());
        }
        let mut classes: Vec<IngressClass> = listed(attributes.call);
        classes.retain(kinds::is_default_ingress_class);
        if let Some(name) = chosen(classes, |class| &class.metadata) {
            ingress.spec.get_or_insert_default().ingress_class_name = Some(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, created: &str| -> StorageClass {
            serde_json::from_value(
                json!({"metadata": {"name": name, "creationTimestamp": created}, "provisioner": "p"}),
            )
            .unwrap()
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        for (classes, want) in [
            (vec![], None),
            (vec![class("a", old), class("b", new)], Some("b")),
            (vec![class("b", new), class("a", new)], Some("a")),
        ] {
            assert_eq!(chosen(classes, |c| &c.metadata).as_deref(), want);
        }
    }
}
