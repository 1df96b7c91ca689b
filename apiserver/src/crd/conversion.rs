//! Objects of one version made into another: by name only, or by a webhook.

use std::sync::Arc;

use coracle_client::ApiError;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceConversion;
use serde_json::Value;

use super::document::CustomObject;
use super::kind::CustomKind;
use super::webhook::Webhook;
use crate::api::Api;

#[derive(Clone)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    Webhook(Arc<Webhook>),
}

impl Conversion {
    pub fn of(said: Option<&CustomResourceConversion>, api: &Arc<Api>) -> Self {
        match said.and_then(|said| said.webhook.as_ref().filter(|_| said.strategy == "Webhook")) {
            Some(webhook) => Self::Webhook(Arc::new(Webhook::new(webhook, api))),
            None => Self::None,
        }
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The objects in the version of `to`, in the same order. A webhook is asked once for each version they have.
    pub async fn convert(
        &self,
        mut objects: Vec<CustomObject>,
        to: &CustomKind,
    ) -> Result<Vec<CustomObject>, ApiError> {
        match self {
            Self::None => {
                for object in &mut objects {
                    object.body.insert("apiVersion".into(), Value::from(to.api_version.as_str()));
                }
            }
            Self::Webhook(webhook) => {
                let mut versions: Vec<String> = objects.iter().map(|o| o.api_version().to_owned()).collect();
                versions.sort_unstable();
                versions.dedup();
                for version in versions.into_iter().filter(|version| *version != to.api_version) {
                    let places: Vec<usize> = (0..objects.len())
                        .filter(|at| objects.get(*at).is_some_and(|o| o.api_version() == version))
                        .collect();
                    let asked = places.iter().filter_map(|at| objects.get(*at).cloned()).collect();
                    let converted = webhook.convert(asked, &to.api_version).await?;
                    for (at, object) in places.into_iter().zip(converted) {
                        if let Some(slot) = objects.get_mut(at) {
                            *slot = object;
                        }
                    }
                }
            }
        }
        for object in &mut objects {
            to.settle(&mut object.body);
        }
        Ok(objects)
    }
}
