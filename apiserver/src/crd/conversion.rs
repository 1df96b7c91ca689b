//! Objects of one version made into another: by name only, or by a webhook.

use std::sync::Arc;

use coracle_client::ApiError;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceConversion;
use serde_json::Value;

use super::document::CustomObject;
use super::kind::CustomKind;
use crate::api::Api;

#[derive(Clone)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
}

impl Conversion {
    pub fn of(_said: Option<&CustomResourceConversion>, _api: &Arc<Api>) -> Self {
        Self::None
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The objects in the version of `to`, in the same order.
    pub async fn convert(
        &self,
        mut objects: Vec<CustomObject>,
        to: &CustomKind,
    ) -> Result<Vec<CustomObject>, ApiError> {
        for object in &mut objects {
            object.body.insert("apiVersion".into(), Value::from(to.api_version.as_str()));
            to.settle(&mut object.body);
        }
        Ok(objects)
    }
}
