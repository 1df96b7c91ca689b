//! PATCH of one object, or of its status.

use coracle_client::{ApiError, PatchType};
use serde_json::Value;

use super::modify::{Part, Versions, modify_as};
use super::update::check_name;
use super::{Answer, Call, apply};
use crate::{decode, patch};

pub async fn patch(call: &Call, patch_type: PatchType, part: Part) -> Result<Answer, ApiError> {
    if patch_type == PatchType::Apply {
        return apply::apply(call, part).await;
    }
    let def = &call.form.def;
    modify_as(call, part, Versions::Inherit, |current| {
        let document: Value = serde_json::from_slice(&call.form.shown(&current.object)?.json)?;
        let patched = patch::apply(def, patch_type, &document, &call.body)?;
        let meta = |field: &str| patched.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str);
        // What is no object has no name either, and the decoder says so.
        if patched.get("metadata").is_none_or(Value::is_object) {
            check_name(call, meta("name"), meta("namespace"))?;
        }
        let decoded = match patch_type {
            PatchType::Strategic => decode::patched_as_tree(def, &patched, call.validation(), &call.body)?,
            _ => decode::patched(def, &patched, call.validation())?,
        };
        call.warn(decoded.warnings);
        call.form.inward(decoded.object, Some(&*current.typed))
    })
    .await
}
