//! TaintNodesByCondition: a new node takes no pods until it is known to be ready.

use async_trait::async_trait;
use coracle_client::ApiError;
use k8s_openapi::api::core::v1::{Node, Taint};

use super::{Attributes, Operation, Plugin};
use crate::object::ApiObject;

/// The node lifecycle controller takes it away when the node says that it is ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NO_SCHEDULE: &str = "NoSchedule";

pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create || attributes.call.subresource.is_some() {
            return Ok(());
        }
        let Some(node) = object.and_then(|o| o.as_any_mut().downcast_mut::<Node>()) else { return Ok(()) };
        let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
        if !taints.iter().any(|t| t.key == NOT_READY && t.effect == NO_SCHEDULE) {
            taints.push(Taint { key: NOT_READY.into(), effect: NO_SCHEDULE.into(), ..Taint::default() });
        }
        Ok(())
    }
}
