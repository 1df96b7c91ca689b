//! `certificatesigningrequests/approval`: only the Approved and Denied conditions change.

use coracle_client::{ApiError, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::Value;

use crate::field_error::Errors;
use crate::kinds::prepare_approval;
use crate::object::ApiObject;
use crate::ownership::Set;
use crate::verbs::modify::{Current, Part, modify};
use crate::verbs::{Answer, Call};
use crate::{admission, decode, patch as patches};

pub async fn update(call: &Call) -> Result<Answer, ApiError> {
    admission::certificates::approval(call).await?;
    let def = &call.kind.def;
    let decoded = decode::body(def, call.content_type.as_deref(), &call.body, call.validation())?;
    call.warn(decoded.warnings);
    modify(call, Part::Whole, |current| decided(call, current, decoded.object.clone_box())).await
}

pub async fn patch(call: &Call, patch_type: PatchType) -> Result<Answer, ApiError> {
    admission::certificates::approval(call).await?;
    let def = &call.kind.def;
    modify(call, Part::Whole, |current| {
        let document: Value = serde_json::from_slice(&current.object.json)?;
        let patched = patches::apply(def, patch_type, &document, &call.body)?;
        let decoded = decode::patched(def, &patched, call.validation())?;
        call.warn(decoded.warnings);
        decided(call, current, decoded.object)
    })
    .await
}

fn decided(
    call: &Call,
    current: &Current,
    mut new: Box<dyn ApiObject>,
) -> Result<Box<dyn ApiObject>, ApiError> {
    let version = new.meta().resource_version.clone();
    let old = current.typed.as_any().downcast_ref::<CertificateSigningRequest>();
    let request = new.as_any_mut().downcast_mut::<CertificateSigningRequest>();
    let (Some(old), Some(request)) = (old, request) else {
        return Err(ApiError::internal("only certificate signing requests are approved"));
    };
    prepare_approval(request, old, Timestamp::now());
    request.metadata = old.metadata.clone();
    request.metadata.resource_version = version;
    let mut errors = Errors::default();
    call.kind.def.ops.validate_status_update(request, old, &mut errors);
    if errors.is_empty() {
        let reset = Set::of_fields(&[&["spec"], &["status", "certificate"]]);
        call.track_except(&reset, Some(&*current.typed), &mut new)?;
        return Ok(new);
    }
    Err(ApiError::invalid(call.kind.resource(), call.name(), errors.into_causes()))
}
