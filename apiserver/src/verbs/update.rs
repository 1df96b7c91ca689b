//! PUT of one object, or of its status.

use coracle_client::ApiError;

use super::modify::{Current, Part, modify};
use super::owners::Owners;
use super::{Answer, Call, create};
use crate::decode;

pub async fn update(call: &Call, part: Part) -> Result<Answer, ApiError> {
    let def = &call.kind.def;
    let decoded = decode::body(&call.form.def, call.content_type.as_deref(), &call.body, call.validation())?;
    call.warn(decoded.warnings);
    let mut object = decoded.object;
    check_name(call, object.meta().name.as_deref(), object.meta().namespace.as_deref())?;
    if def.resource.namespaced() {
        object.meta_mut().namespace.clone_from(&call.namespace);
    }
    let uid = object.meta().uid.clone().unwrap_or_default();
    let change = |current: &Current| {
        check_uid(call, &uid, &current.object.head.uid)?;
        call.form.inward(object.clone_box(), Some(&*current.typed))
    };
    match modify(call, part, change).await {
        Err(error) if error.is_not_found() && def.create_on_update && part == Part::Main => {
            let object = call.form.inward(object, None)?;
            create::store(call, object, Owners::Track).await
        }
        answer => answer,
    }
}

/// An object of the same name that is another one.
fn check_uid(call: &Call, given: &str, current: &str) -> Result<(), ApiError> {
    if given.is_empty() || given == current {
        return Ok(());
    }
    Err(ApiError::conflict(
        call.form.resource(),
        call.name(),
        &format!("Precondition failed: UID in precondition: {given}, UID in object meta: {current}"),
    ))
}

/// What the body calls itself must be what the URL names.
pub(crate) fn check_name(call: &Call, name: Option<&str>, namespace: Option<&str>) -> Result<(), ApiError> {
    let wanted = call.name();
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != wanted {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let namespace = namespace.unwrap_or_default();
    let wanted = call.namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() && namespace != wanted {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
