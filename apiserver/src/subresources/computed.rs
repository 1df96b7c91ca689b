//! Resources whose objects nobody stores: they are made when they are asked for.

use std::sync::Arc;

use coracle_client::{ApiError, Object, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ComponentCondition, ComponentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{Api, Served};
use crate::component_health::{self, Component};

/// The one store, as upstream calls the first of several.
const STORE: &str = "etcd-0";

/// Every object of the resource as it is now.
pub async fn objects(api: &Api, kind: &Served) -> Result<Vec<Arc<Object>>, ApiError> {
    match kind.resource().kind() {
        "ComponentStatus" => component_statuses(api).await,
        other => Err(ApiError::internal(format!("nothing makes objects of the kind {other}"))),
    }
}

/// By the kind's name, as upstream says it of these.
pub fn not_found(kind: &Served, name: &str) -> ApiError {
    let resource = kind.resource();
    let named =
        Resource::new(resource.group(), resource.version(), &kind.def.singular, resource.kind(), false);
    ApiError::not_found(&named, name)
}

async fn component_statuses(api: &Api) -> Result<Vec<Arc<Object>>, ApiError> {
    let now = Timestamp::now();
    let mut all: Vec<(&str, Result<(), String>)> = Component::ALL
        .map(|component| (component.name(), component_health::check(api, component, now)))
        .into();
    all.push((STORE, api.store.healthy().await.map_err(|error| error.to_string())));
    all.sort_by_key(|(name, _)| *name);
    all.into_iter().map(|(name, health)| encoded(&component_status(name, health))).collect()
}

fn component_status(name: &str, health: Result<(), String>) -> ComponentStatus {
    let (status, message) = match health {
        Ok(()) => ("True", "ok".to_owned()),
        Err(why) => ("False", why),
    };
    ComponentStatus {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        conditions: Some(vec![ComponentCondition {
            type_: "Healthy".to_owned(),
            status: status.to_owned(),
            message: Some(message),
            error: None,
        }]),
    }
}

fn encoded(object: &impl serde::Serialize) -> Result<Arc<Object>, ApiError> {
    let json = serde_json::to_vec(object).map_err(ApiError::internal)?;
    Ok(Object::parse(json.into(), &[])?)
}
