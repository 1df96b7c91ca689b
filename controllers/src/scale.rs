//! The scale of whatever has one: Deployments, ReplicaSets, custom resources, …

use coracle_client::client::Kind;
use coracle_client::request::{Request, Verb};
use coracle_client::{ApiError, Client, Resource};
use k8s_openapi::api::autoscaling::v1::Scale;

use crate::served::{Followed, Served};

/// The resource that an owner reference or a scale target means, if the API has it.
pub fn resource_of(served: &Served, api_version: &str, kind: &str) -> Option<Resource> {
    let snapshot = served.borrow().clone()?;
    // Of a custom resource any served version will do, and the preferred one may be another.
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let is = |followed: &&std::sync::Arc<Followed>| {
        let resource = followed.resource();
        resource.kind() == kind
            && (resource.api_version() == api_version || followed.custom && resource.group() == group)
    };
    snapshot.all.iter().find(is).map(|followed| followed.resource().clone())
}

pub async fn get(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Scale, ApiError> {
    let request = request(Verb::Get, resource, namespace, name);
    Ok(serde_json::from_slice(&client.raw(request).await?)?)
}

fn request(verb: Verb, resource: &Resource, namespace: &str, name: &str) -> Request {
    let mut request = Request::new(verb, resource.clone());
    request.namespace = Some(namespace.to_owned()).filter(|n| !n.is_empty());
    request.name = Some(name.to_owned());
    request.subresource = Some("scale".into());
    request
}

/// Whether an owner reference means this type.
pub fn is<K: Kind>(api_version: &str, kind: &str) -> bool {
    kind == K::KIND && api_version == K::API_VERSION
}

/// Refused where the scale is not the one that was read.
pub async fn update(client: &Client, resource: &Resource, scale: &Scale) -> Result<(), ApiError> {
    let meta = &scale.metadata;
    let (namespace, name) =
        (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let mut request = request(Verb::Update, resource, namespace, name);
    request.options.field_manager = Some(client.field_manager().to_owned());
    request.body = serde_json::to_vec(scale)?.into();
    client.raw(request).await.map(drop)
}
