//! Resources whose objects nobody stores: they are made when they are asked for.

use std::sync::Arc;

use coracle_client::selector::{FieldSelector, FieldTerm, Selector};
use coracle_client::{ApiError, Object, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ComponentCondition, ComponentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::resource_metrics;
use crate::api::{Api, Served};
use crate::component_health::{self, Component};
use crate::verbs::Call;
use crate::watch_cache::Filter;

/// The one store, as upstream calls the first of several.
const STORE: &str = "etcd-0";

/// The objects of the resource that the filter lets through, as they are now.
pub async fn objects(api: &Api, kind: &Served, filter: &Filter) -> Result<Vec<Arc<Object>>, ApiError> {
    match kind.resource().kind() {
        "ComponentStatus" => {
            let mut all = component_statuses(api).await?;
            all.retain(|object| filter.matches(&object.head));
            Ok(all)
        }
        "NodeMetrics" => resource_metrics::of_nodes(api, filter).await?.iter().map(encoded).collect(),
        "PodMetrics" => resource_metrics::of_pods(api, filter).await?.iter().map(encoded).collect(),
        other => Err(ApiError::internal(format!("nothing makes objects of the kind {other}"))),
    }
}

/// One object of the resource as it is now.
pub async fn object(call: &Call) -> Result<Arc<Object>, ApiError> {
    let named = FieldTerm { path: "metadata.name".into(), value: call.name().to_owned(), negated: false };
    let filter = Filter {
        namespace: call.namespace.clone(),
        labels: Selector::default(),
        fields: FieldSelector { terms: vec![named] },
    };
    objects(&call.api, &call.kind, &filter).await?.pop().ok_or_else(|| not_found(call))
}

/// In the words of who serves it upstream.
fn not_found(call: &Call) -> ApiError {
    let resource = call.kind.resource();
    match (&*call.kind.def.singular, &call.namespace) {
        ("", Some(namespace)) => ApiError::not_found(resource, &format!("{namespace}/{}", call.name())),
        ("", None) => ApiError::not_found(resource, call.name()),
        (singular, _) => {
            let (group, version) = (resource.group(), resource.version());
            let named = Resource::new(group, version, singular, resource.kind(), false);
            ApiError::not_found(&named, call.name())
        }
    }
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
