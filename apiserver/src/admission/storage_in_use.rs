//! StorageObjectInUseProtection: claims, volumes and classes that are in use are not gone before they are not.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;

/// The volume protection controllers take these away again.
const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        if attributes.operation != Operation::Create || attributes.call.subresource.is_some() {
            return Ok(());
        }
        let finalizer = if object.as_any().is::<PersistentVolumeClaim>() {
            CLAIM
        } else if object.as_any().is::<PersistentVolume>() {
            VOLUME
        } else if object.as_any().is::<VolumeAttributesClass>() {
            ATTRIBUTES_CLASS
        } else {
            return Ok(());
        };
        let finalizers = object.meta_mut().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}
