//! Admission: what may still change or refuse a write, one plug-in per file, in order.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::ApiError;

use crate::object::ApiObject;
use crate::verbs::Call;

/// Every built-in plug-in, in upstream's order.
pub fn all() -> Vec<Arc<dyn Plugin>> {
    vec![]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// What a plug-in sees of a write. The call says who asks and about what.
pub struct Attributes<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    /// The state before; none on create.
    pub old: Option<&'a dyn ApiObject>,
}

/// A plug-in does nothing unless it says otherwise.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// May change the object.
    async fn admit(
        &self,
        _attributes: &Attributes<'_>,
        _object: Option<&mut dyn ApiObject>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Runs when nothing changes the object any more.
    async fn validate(
        &self,
        _attributes: &Attributes<'_>,
        _object: Option<&dyn ApiObject>,
    ) -> Result<(), ApiError> {
        Ok(())
    }
}

pub async fn admit(
    call: &Call,
    operation: Operation,
    mut object: Option<&mut dyn ApiObject>,
    old: Option<&dyn ApiObject>,
) -> Result<(), ApiError> {
    let attributes = Attributes { call, operation, old };
    for plugin in &call.api.admission {
        let object: Option<&mut dyn ApiObject> = match &mut object {
            Some(object) => Some(&mut **object),
            None => None,
        };
        plugin.admit(&attributes, object).await?;
    }
    Ok(())
}

pub async fn validate(
    call: &Call,
    operation: Operation,
    object: Option<&dyn ApiObject>,
    old: Option<&dyn ApiObject>,
) -> Result<(), ApiError> {
    let attributes = Attributes { call, operation, old };
    for plugin in &call.api.admission {
        plugin.validate(&attributes, object).await?;
    }
    Ok(())
}
