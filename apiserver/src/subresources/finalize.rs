//! `namespaces/finalize`: the namespace controller says that it has emptied the namespace.

use coracle_client::ApiError;
use serde_json::Value;

use crate::decode;
use crate::ownership::Set;
use crate::verbs::modify::{Part, modify};
use crate::verbs::{Answer, Call};

/// Only `spec.finalizers` and the metadata's finalizers are taken from the body.
pub async fn update(call: &Call) -> Result<Answer, ApiError> {
    let def = &call.kind.def;
    let decoded = decode::body(def, call.content_type.as_deref(), &call.body, call.validation())?;
    call.warn(decoded.warnings);
    let meta = decoded.object.meta().clone();
    let body = decoded.object.to_value()?;
    let finalizers = body.pointer("/spec/finalizers").cloned().unwrap_or(Value::Array(Vec::new()));
    modify(call, Part::Whole, |current| {
        let mut value = current.typed.to_value()?;
        if let Some(members) = value.as_object_mut() {
            let spec = members.entry("spec").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(spec) = spec.as_object_mut() {
                spec.insert("finalizers".into(), finalizers.clone());
            }
        }
        let mut object = def.ops.decode_value(value).map_err(ApiError::internal)?;
        object.meta_mut().finalizers.clone_from(&meta.finalizers);
        object.meta_mut().resource_version.clone_from(&meta.resource_version);
        call.track_except(&Set::of_fields(&[&["status"]]), Some(&*current.typed), &mut object)?;
        Ok(object)
    })
    .await
}
