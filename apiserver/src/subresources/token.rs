//! `serviceaccounts/token`: signs a token for a service account, bound to a pod or secret where asked.

use coracle_client::{ApiError, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::document;
use crate::authn::token::{Bound, Claims, ISSUER, NameAndUid};
use crate::field_error::Errors;
use crate::verbs::{Answer, Call, metadata};
use crate::watch_cache::key_of;

/// As upstream: ten minutes at least, an hour where nothing is said, a year at most.
const SECONDS_MIN: i64 = 600;
const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MAX: i64 = 365 * 24 * 3600;
/// What upstream takes at all.
const SECONDS_VALID_MAX: i64 = 1 << 32;

pub async fn create(call: &Call) -> Result<Answer, ApiError> {
    let (mut request, warnings) = document::<TokenRequest>(call, "authentication.k8s.io/v1", "TokenRequest")?;
    let Some(issuer) = &call.api.options.token_issuer else {
        return Err(ApiError::service_unavailable("this apiserver does not issue tokens"));
    };
    call.api.cache.catch_up(&*call.api.store).await?;
    let account = call.current().await?;
    let spec = request.spec.get_or_insert_default();
    let seconds = spec.expiration_seconds.unwrap_or(SECONDS_DEFAULT);
    validate(call, seconds)?;
    let (pod, secret) = bound(call, spec).await?;
    if let Some(node) = call.identity.node_name() {
        restrict_to_node(call, node, pod.as_ref()).await?;
    }
    let audiences = spec.audiences.get_or_insert_default();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let now = Timestamp::now();
    let expires =
        now.checked_add(SignedDuration::from_secs(seconds.min(SECONDS_MAX))).map_err(ApiError::internal)?;
    let namespace = call.namespace.clone().unwrap_or_default();
    let claims = Claims {
        aud: audiences.clone(),
        exp: expires.as_second(),
        iat: now.as_second(),
        nbf: now.as_second(),
        iss: ISSUER.into(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{namespace}:{}", call.name()),
        kubernetes: Bound {
            namespace: namespace.clone(),
            serviceaccount: NameAndUid { name: call.name().into(), uid: account.head.uid.to_string() },
            pod,
            secret,
        },
    };
    spec.expiration_seconds = Some(seconds);
    request.metadata.name = Some(call.name().into());
    request.metadata.namespace = Some(namespace);
    request.metadata.creation_timestamp = Some(metadata::now());
    request.status = Some(TokenRequestStatus {
        expiration_timestamp: Timestamp::from_second(expires.as_second()).ok().map(Time),
        token: Some(issuer.issue(&claims)?),
    });
    Answer::document(201, &request).map(|answer| answer.warning(warnings))
}

/// As NodeRestriction: a node gets tokens for its own pods, which end with them.
async fn restrict_to_node(call: &Call, node: &str, pod: Option<&NameAndUid>) -> Result<(), ApiError> {
    let forbidden = |why: String| Err(ApiError::forbidden(call.kind.resource(), call.name(), why));
    let Some(pod) = pod else { return forbidden("node requested token not bound to a pod".into()) };
    let pods = call.api.kind(&Resource::of::<Pod>())?;
    let key = key_of(call.namespace.as_deref(), &pod.name);
    let bound = pods.cache.get(&key).is_some_and(|pod| pod.head.field("spec.nodeName") == Some(node));
    if bound {
        return Ok(());
    }
    forbidden("node requested token bound to a pod scheduled on a different node".into())
}

fn validate(call: &Call, seconds: i64) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    if seconds < SECONDS_MIN {
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > SECONDS_VALID_MAX {
        errors.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if errors.is_empty() {
        return Ok(());
    }
    let resource = Resource::new("authentication.k8s.io", "v1", "tokenrequests", "TokenRequest", true);
    Err(ApiError::invalid(&resource, call.name(), errors.into_causes()))
}

/// The pod or secret without which the token is worth nothing.
async fn bound(
    call: &Call,
    spec: &TokenRequestSpec,
) -> Result<(Option<NameAndUid>, Option<NameAndUid>), ApiError> {
    let Some(reference) = &spec.bound_object_ref else { return Ok((None, None)) };
    let kind = reference.kind.as_deref().unwrap_or_default();
    let resource = match (kind, reference.api_version.as_deref().unwrap_or_default()) {
        ("Pod", "v1") => Resource::of::<Pod>(),
        ("Secret", "v1") => Resource::of::<Secret>(),
        (kind, version) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to object: {group}/{version}, Kind={kind}",
                call.name()
            )));
        }
    };
    let name = reference.name.as_deref().unwrap_or_default();
    let object = call.api.kind(&resource)?.cache.get(&key_of(call.namespace.as_deref(), name));
    let object = object.ok_or_else(|| ApiError::not_found(&resource, name))?;
    let uid = object.head.uid.to_string();
    if let Some(asked) = reference.uid.as_deref().filter(|asked| !asked.is_empty() && *asked != uid) {
        return Err(ApiError::conflict(
            &resource,
            name,
            &format!(
                "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    if kind == "Pod" {
        let pod: Pod = object.decode()?;
        let account = pod.spec.and_then(|s| s.service_account_name).unwrap_or_default();
        if account != call.name() {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.name()
            )));
        }
        return Ok((Some(NameAndUid { name: name.into(), uid }), None));
    }
    Ok((None, Some(NameAndUid { name: name.into(), uid })))
}
