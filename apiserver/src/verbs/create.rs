//! POST on a collection.

use coracle_client::ApiError;

use super::commit::{Committed, encode};
use super::metadata::{self, generate_name};
use super::modify::Part;
use super::owners::Owners;
use super::{Answer, Call};
use crate::admission::{self, Operation};
use crate::decode;
use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::storage::Expected;
use crate::watch_cache::key_of;

/// How often a generated name that is taken is made up anew, as upstream.
const NAME_TRIES_MAX: usize = 8;

pub async fn create(call: &Call) -> Result<Answer, ApiError> {
    let decoded = decode::body(&call.form.def, call.content_type.as_deref(), &call.body, call.validation())?;
    call.warn(decoded.warnings);
    store(call, call.form.inward(decoded.object, None)?, Owners::Track).await
}

/// Creates a decoded object; also what a PUT does where the kind allows it, and an apply.
pub(super) async fn store(
    call: &Call,
    mut object: Box<dyn ApiObject>,
    owners: Owners,
) -> Result<Answer, ApiError> {
    let def = &call.kind.def;
    if call.kind.custom.as_ref().is_some_and(|version| version.terminating) {
        const TERMINATING: &str = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::new(405, "MethodNotAllowed", TERMINATING));
    }
    metadata::place(def, object.meta_mut(), call.namespace.as_deref())?;
    if !matches!(object.meta().resource_version.as_deref().unwrap_or_default(), "" | "0") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let base = object.meta().generate_name.clone().unwrap_or_default();
    def.ops.set_defaults(&mut *object);
    if owners == Owners::Track {
        call.track(Part::Main, None, &mut object)?;
    }
    if !object.meta().name.as_deref().unwrap_or_default().is_empty() || base.is_empty() {
        let name = object.meta().name.clone().unwrap_or_default();
        return match create_once(call, object).await? {
            Some(answer) => Ok(answer),
            None => Err(taken(call, &name)),
        };
    }
    for _ in 0..NAME_TRIES_MAX {
        let mut attempt = object.clone_box();
        attempt.meta_mut().name = Some(generate_name(&base));
        if let Some(answer) = create_once(call, attempt).await? {
            return Ok(answer);
        }
    }
    let mut error = ApiError::already_exists(call.form.resource(), &base);
    error.details_mut().retry_after_seconds = Some(1);
    Err(error)
}

fn taken(call: &Call, name: &str) -> ApiError {
    let error = ApiError::already_exists(call.form.resource(), name);
    let key = key_of(call.namespace.as_deref(), name);
    if !call.kind.cache.get(&key).is_some_and(|o| o.head.deleting) {
        return error;
    }
    let mut status = error.status().clone();
    status.message = format!("object is being deleted: {}", status.message);
    ApiError::from_status(status)
}

/// None: the name is taken.
async fn create_once(call: &Call, mut object: Box<dyn ApiObject>) -> Result<Option<Answer>, ApiError> {
    let def = &call.kind.def;
    let name = object.meta().name.clone().unwrap_or_default();
    let call = &call.on(call.namespace.as_deref(), &name);
    admission::admit(call, Operation::Create, Some(&mut *object), None).await?;
    let meta = object.meta_mut();
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(metadata::now());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.generation = def.has_generation.then_some(1);
    def.ops.prepare_create(&mut *object);
    let mut errors = Errors::default();
    metadata::validate(def, object.meta(), &mut errors);
    def.ops.validate(&*object, &mut errors);
    def.ops.validate_create(&*object, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(call.kind.resource(), &name, errors.into_causes()));
    }
    call.warn(def.ops.warnings(&*object, None));
    let invalid = |errors: Errors| ApiError::invalid(call.kind.resource(), &name, errors.into_causes());
    let reservations =
        admission::reserve(call, Operation::Create, &mut *object, None).await.map_err(invalid)?;
    admission::validate(call, Operation::Create, Some(&*object), None).await?;
    let key = key_of(call.namespace.as_deref(), &name);
    let encoded = encode(&mut *object)?;
    if call.options.dry_run {
        let free = call.kind.cache.get(&key).is_none();
        return Ok(free.then(|| Answer::created(encoded)));
    }
    match call.put(&key, Expected::Absent, encoded).await? {
        Committed::Written(json) => {
            reservations.confirm();
            Ok(Some(Answer::created(json)))
        }
        Committed::Conflict => Ok(None),
    }
}
