//! Patches of an object's JSON: JSON patch, merge patch and strategic merge patch.

mod json;
mod merge;
mod order;
mod strategic;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;

use coracle_client::{ApiError, PatchType};
use serde_json::Value;

use crate::kinds::KindDef;
use crate::schema;

pub use strategic::go_text;

/// The object with the patch in it; nothing is checked beyond the patch itself, see `decode::patched`.
pub fn apply(
    kind: &KindDef,
    patch_type: PatchType,
    current: &Value,
    patch: &[u8],
) -> Result<Value, ApiError> {
    match patch_type {
        PatchType::Json => json::apply(current, patch),
        PatchType::Merge => merge::apply(current, patch),
        PatchType::Strategic if !kind.built_in => Err(unsupported(kind)),
        PatchType::Strategic => {
            let types = schema::types();
            let mut merged = strategic::apply(types, types.of(kind), current, patch)?;
            // What it is does not go by the patch, as upstream.
            for name in ["apiVersion", "kind"] {
                if merged.get(name).is_some_and(Value::is_string)
                    && let (Some(fields), Some(is)) = (merged.as_object_mut(), current.get(name))
                {
                    fields.insert(name.to_owned(), is.clone());
                }
            }
            Ok(merged)
        }
        PatchType::Apply => Err(unsupported(kind)),
    }
}

fn unsupported(kind: &KindDef) -> ApiError {
    let strategic = if kind.built_in { "application/strategic-merge-patch+json, " } else { "" };
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, {strategic}application/apply-patch+yaml"
    );
    ApiError::new(415, "UnsupportedMediaType", message)
}

/// The patch as JSON; upstream's words when it is not.
fn parse(patch: &[u8]) -> Result<Value, ApiError> {
    if let Some(fault) = crate::decode::json_fault(patch) {
        return Err(ApiError::bad_request(format!("error decoding patch: {fault}")));
    }
    serde_json::from_slice(patch).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
}

/// As Go names it when it is of the wrong type.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A patch that is well formed but cannot be carried out; upstream tells no more than this.
fn rejected() -> ApiError {
    let mut error =
        ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    error.details_mut();
    error
}
