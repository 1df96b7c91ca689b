//! NamespaceLifecycle: nothing is created where there is no namespace or it is going away, and some namespaces stay.

use async_trait::async_trait;
use coracle_client::status::Cause;
use coracle_client::{ApiError, Resource};
use k8s_openapi::api::core::v1::Namespace;

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        _object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let namespaces = Resource::of::<Namespace>();
        if attributes.operation == Operation::Delete
            && *call.kind.resource() == namespaces
            && IMMORTAL.contains(&call.name())
        {
            return Err(ApiError::forbidden(&namespaces, call.name(), "this namespace may not be deleted"));
        }
        let Some(name) = call.namespace.as_deref().filter(|_| attributes.operation == Operation::Create)
        else {
            return Ok(());
        };
        let Ok(kind) = call.api.kind(&namespaces) else { return Ok(()) };
        let namespace = match kind.cache.get(name) {
            Some(namespace) => namespace,
            None => {
                // Another apiserver may have made it just now.
                call.api.cache.catch_up(&*call.api.store).await?;
                kind.cache.get(name).ok_or_else(|| ApiError::not_found(&namespaces, name))?
            }
        };
        if !namespace.head.deleting {
            return Ok(());
        }
        let mut error = ApiError::forbidden(
            call.kind.resource(),
            call.name(),
            format!("unable to create new content in namespace {name} because it is being terminated"),
        );
        error.details_mut().causes = vec![Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        }];
        Err(error)
    }
}
