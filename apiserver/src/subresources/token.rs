//! `serviceaccounts/token`: signs a token for a service account, bound to a pod, secret or node where asked.

use std::sync::Arc;

use coracle_client::resource::Scope;
use coracle_client::{ApiError, Object, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::document;
use crate::authn::token::{Bound, Claims, ISSUER, NameAndUid};
use crate::authz::Attributes;
use crate::field_error::Errors;
use crate::validation::given;
use crate::verbs::{Answer, Call, metadata};
use crate::watch_cache::key_of;

/// As upstream: ten minutes at least, an hour where nothing is said.
const SECONDS_MIN: i64 = 600;
const SECONDS_DEFAULT: i64 = 3600;
/// What upstream takes at all.
const SECONDS_VALID_MAX: i64 = 1 << 32;
/// What pods ask for that do not say how long: such a token is good for a year, so that clients that read their token
/// only once go on working; the server notes when they use it after the hour.
const SECONDS_EXTENDED_FOR: i64 = 3607;
const SECONDS_EXTENDED: i64 = 365 * 24 * 3600;

pub async fn create(call: &Call) -> Result<Answer, ApiError> {
    let mut request = document::<TokenRequest>(call, "authentication.k8s.io/v1", "TokenRequest")?;
    let Some(issuer) = &call.api.options.token_issuer else {
        return Err(ApiError::service_unavailable("this apiserver does not issue tokens"));
    };
    call.api.cache.catch_up(&*call.api.store).await?;
    let namespace = call.namespace.clone().unwrap_or_default();
    placed(call, &request, &namespace)?;
    let account = call.current().await?;
    let uid = account.head.uid.to_string();
    if let Some(said) = given(&request.metadata.uid).filter(|said| *said != uid) {
        let kind = Resource::new("authentication.k8s.io", "v1", "TokenRequest", "TokenRequest", true);
        let why = format!(
            "the UID in the token request ({said}) does not match the UID of the service account ({uid})"
        );
        return Err(ApiError::conflict(&kind, call.name(), &why));
    }
    let spec = request.spec.get_or_insert_default();
    let seconds = spec.expiration_seconds.unwrap_or(SECONDS_DEFAULT);
    if let Some(node) = call.identity.node_name() {
        let audiences = spec.audiences.as_deref().unwrap_or_default();
        restrict_to_node(call, node, spec.bound_object_ref.as_ref(), audiences).await?;
    }
    let audiences = spec.audiences.get_or_insert_default();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    validate(seconds)?;
    let mut bound = match &spec.bound_object_ref {
        Some(reference) => bind(call, reference)?,
        None => BoundTo::default(),
    };
    let (mut lasts, mut warn_after) = (seconds, None);
    if bound.pod.is_some() && seconds == SECONDS_EXTENDED_FOR && audiences.iter().all(|a| a == ISSUER) {
        (lasts, warn_after) = (SECONDS_EXTENDED, Some(seconds));
    }
    let now = Timestamp::now();
    let after = |seconds| now.checked_add(SignedDuration::from_secs(seconds)).map_err(ApiError::internal);
    let claims = Claims {
        aud: audiences.clone(),
        exp: after(lasts)?.as_second(),
        iat: now.as_second(),
        nbf: now.as_second(),
        iss: ISSUER.into(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{namespace}:{}", call.name()),
        kubernetes: Bound {
            namespace: namespace.clone(),
            serviceaccount: NameAndUid { name: call.name().into(), uid: uid.clone() },
            pod: bound.pod.take(),
            secret: bound.secret.take(),
            node: bound.node.take(),
            warnafter: warn_after.map(|seconds| now.as_second() + seconds),
        },
    };
    spec.expiration_seconds = Some(seconds);
    request.metadata.name = Some(call.name().into());
    request.metadata.namespace = Some(namespace);
    request.metadata.uid = Some(uid);
    request.metadata.creation_timestamp = Some(metadata::now());
    request.status = Some(TokenRequestStatus {
        expiration_timestamp: Timestamp::from_second(after(seconds)?.as_second()).ok().map(Time),
        token: Some(issuer.issue(&claims)?),
    });
    Answer::document(201, &request)
}

/// What the body calls itself must be what the URL names.
fn placed(call: &Call, request: &TokenRequest, namespace: &str) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    let other = |said: &Option<String>, is: &str| given(said).filter(|said| *said != is).map(str::to_owned);
    if let Some(said) = other(&request.metadata.name, call.name()) {
        errors.invalid("metadata.name", said, "must match the service account name if specified");
    } else if let Some(said) = other(&request.metadata.namespace, namespace) {
        errors.invalid("metadata.namespace", said, "must match the service account namespace if specified");
    }
    refuse(errors, call.name())
}

fn validate(seconds: i64) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    let field = "spec.expirationSeconds";
    if seconds < SECONDS_MIN {
        errors.invalid(field, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > SECONDS_VALID_MAX {
        errors.invalid(field, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    refuse(errors, "")
}

fn refuse(errors: Errors, name: &str) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let resource = Resource::new("authentication.k8s.io", "v1", "tokenrequests", "TokenRequest", true);
    Err(ApiError::invalid(&resource, name, errors.into_causes()))
}

/// As NodeRestriction: a node gets tokens for its own pods, which end with them, for audiences that the pod names.
async fn restrict_to_node(
    call: &Call,
    node: &str,
    reference: Option<&BoundObjectReference>,
    audiences: &[String],
) -> Result<(), ApiError> {
    let forbidden = |why: String| Err(ApiError::forbidden(call.kind.resource(), call.name(), why));
    let to_pod = |r: &&BoundObjectReference| {
        r.api_version.as_deref() == Some("v1") && r.kind.as_deref() == Some("Pod") && given(&r.name).is_some()
    };
    let Some(reference) = reference.filter(to_pod) else {
        return forbidden("node requested token not bound to a pod".into());
    };
    let Some(uid) = given(&reference.uid) else {
        return forbidden("node requested token with a pod binding without a uid".into());
    };
    let (object, pod) = there::<Pod>(call, reference)?;
    if pod.uid != uid {
        return forbidden(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    if object.head.field("spec.nodeName") != Some(node) {
        return forbidden("node requested token bound to a pod scheduled on a different node".into());
    }
    let audience = match audiences {
        [] => "",
        [one] => one.as_str(),
        _ => return forbidden("node may only request 0 or 1 audiences".into()),
    };
    let pod: Pod = object.decode()?;
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut tokens = volumes
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
        .filter_map(|source| source.service_account_token.as_ref());
    if tokens.any(|token| token.audience.as_deref().unwrap_or_default() == audience) {
        return Ok(());
    }
    let asked = Attributes {
        verb: "request-serviceaccounts-token-audience".into(),
        version: "v1".into(),
        resource: audience.into(),
        namespace: call.namespace.clone().unwrap_or_default(),
        name: call.name().into(),
        ..Attributes::default()
    };
    if let Some(authorizers) = &call.api.options.authorizer
        && authorizers.decide(&call.identity, &asked).await.is_allowed()
    {
        return Ok(());
    }
    forbidden(format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        call.identity.name
    ))
}

/// Without which the token is worth nothing; a pod's token says on which node the pod is.
#[derive(Default)]
struct BoundTo {
    pod: Option<NameAndUid>,
    secret: Option<NameAndUid>,
    node: Option<NameAndUid>,
}

fn object<K>(call: &Call, namespace: Option<&str>, name: &str) -> Result<Option<Arc<Object>>, ApiError>
where
    K: k8s_openapi::Resource,
    K::Scope: Scope,
{
    let resource = Resource::of::<K>();
    let namespace = namespace.filter(|_| resource.namespaced());
    Ok(call.api.kind(&resource)?.cache.get(&key_of(namespace, name)))
}

fn there<K>(call: &Call, reference: &BoundObjectReference) -> Result<(Arc<Object>, NameAndUid), ApiError>
where
    K: k8s_openapi::Resource,
    K::Scope: Scope,
{
    let name = reference.name.as_deref().unwrap_or_default();
    let object = object::<K>(call, call.namespace.as_deref(), name)?
        .ok_or_else(|| ApiError::not_found(&Resource::of::<K>(), name))?;
    let uid = object.head.uid.to_string();
    Ok((object, NameAndUid { name: name.into(), uid }))
}

fn bind(call: &Call, reference: &BoundObjectReference) -> Result<BoundTo, ApiError> {
    let kind = reference.kind.as_deref().unwrap_or_default();
    let (group, version) = match reference.api_version.as_deref().unwrap_or_default().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", reference.api_version.as_deref().unwrap_or_default()),
    };
    let mut bound = BoundTo::default();
    let to = match (group, kind) {
        ("", "Pod") => {
            let (object, to) = there::<Pod>(call, reference)?;
            let pod: Pod = object.decode()?;
            if pod.spec.and_then(|s| s.service_account_name).unwrap_or_default() != call.name() {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.name()
                )));
            }
            if let Some(node) = object.head.field("spec.nodeName").filter(|name| !name.is_empty()) {
                let uid = self::object::<Node>(call, None, node)?.map(|node| node.head.uid.to_string());
                bound.node = Some(NameAndUid { name: node.into(), uid: uid.unwrap_or_default() });
            }
            bound.pod.insert(to)
        }
        ("", "Secret") => bound.secret.insert(there::<Secret>(call, reference)?.1),
        ("", "Node") => bound.node.insert(there::<Node>(call, reference)?.1),
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    if let Some(asked) = given(&reference.uid).filter(|asked| *asked != to.uid) {
        let resource = Resource::new("", "v1", kind, kind, true);
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&resource, &to.name, &why));
    }
    Ok(bound)
}
