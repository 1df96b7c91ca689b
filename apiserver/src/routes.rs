//! From a request line to a verb: the table of kinds decides, no kind is named here.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use coracle_client::{ApiError, ListOptions, PatchType, Verb};
use http::request::Parts;
use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;

use crate::api::{Api, Served};
use crate::authn::Identity;
use crate::negotiation::{Encoding, Form, Offer, Shape, negotiate};
use crate::request_info::RequestInfo;
use crate::shape::View;
use crate::verbs::modify::Part;
use crate::verbs::options::Query;
use crate::verbs::{self, Answer, Call, delete};
use crate::{health, response, subresources};

/// As upstream's request limit.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Upstream has no route for a HEAD of a resource.
const METHODS: &[Method] = &[Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// The API over HTTP. The filters in front of it leave the sender's [`Identity`] in the request's extensions.
pub fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).with_state(api)
}

async fn handle(State(api): State<Arc<Api>>, mut request: Request) -> Response {
    let started = Instant::now();
    let info = request
        .extensions_mut()
        .remove::<RequestInfo>()
        .unwrap_or_else(|| RequestInfo::parse(request.method(), request.uri().path(), request.uri().query()));
    let _in_flight = api.metrics.in_flight(&info);
    let dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun=All"));
    let counted = api.metrics.counted(&info, request.method(), dry_run);
    let form = Form::of(request.headers(), request.uri().query().unwrap_or_default());
    let response = match serve(&api, &info, request, form).await {
        Ok(response) => response,
        Err(error) => response::error(&error, form),
    };
    let bytes = http_body::Body::size_hint(response.body()).exact();
    let served = api.kind_at(&info.api_version(), &info.resource).is_some()
        || subresources::is_review(&info.group, &info.resource);
    api.metrics.answered(counted, response.status().as_u16(), started.elapsed(), bytes, served);
    response
}

async fn serve(
    api: &Arc<Api>,
    info: &RequestInfo,
    request: Request,
    form: Form,
) -> Result<Response, ApiError> {
    // Upstream does not clean paths up, and neither does what decides who may go where.
    if info.own_path().contains("//") {
        return Ok(response::page_not_found());
    }
    if !info.is_resource() {
        return other(api, info, &request.into_parts().0, form).await;
    }
    let api_version = info.api_version();
    if let Some(kind) = api.kind_at(&api_version, &info.resource)
        && placed(&kind, info)
        && subresources::connect::concerns(&kind, info)
    {
        let mut request = request;
        let identity = request.extensions_mut().remove::<Identity>().unwrap_or_else(Identity::anonymous);
        return subresources::connect::answer(api, &kind, info, identity, request).await;
    }
    let (mut parts, body) = request.into_parts();
    if !METHODS.contains(&parts.method) {
        return Err(ApiError::wrong_method());
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let identity = parts.extensions.remove::<Identity>().unwrap_or_else(Identity::anonymous);
    let Some(kind) = api.kind_at(&api_version, &info.resource) else {
        let body = read(body).await?;
        let options = query.write_options(options_kind(&parts.method))?;
        let content_type = content_type(&parts.headers);
        if !takes_an_object(&parts.headers) {
            return Err(ApiError::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
        let review = subresources::Review { api, info, identity, options, content_type, body };
        return match subresources::review(review).await {
            Some(answer) => {
                let answer = answer?;
                response::document(answer.code, answer.json, form).await
            }
            None if api.serves_group(&info.group) => Err(ApiError::unknown_resource()),
            None => Ok(response::page_not_found()),
        };
    };
    if !placed(&kind, info) {
        return Err(ApiError::unknown_resource());
    }
    let call = Call {
        namespace: Some(info.namespace.clone()).filter(|n| kind.resource().namespaced() && !n.is_empty()),
        name: Some(info.name.clone()).filter(|n| !n.is_empty()),
        subresource: Some(info.subresource.clone()).filter(|s| !s.is_empty()),
        options: query.write_options(options_kind(&parts.method))?,
        user_agent: parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).map(str::to_owned),
        content_type: content_type(&parts.headers).map(str::to_owned),
        body: if parts.method == Method::GET { Bytes::new() } else { read(body).await? },
        ..Call::new(api, &kind, identity)
    };
    let accept = parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let offer = Offer {
        // Not looked up where it makes no difference.
        protobuf: accept.is_some_and(|a| a.contains("protobuf") || !a.contains("json"))
            && kind.message().is_some(),
        list: info.verb == "list",
        watch: info.verb == "watch",
    };
    let view = View::new(negotiate(accept, offer)?, form, &query, Timestamp::now())?;
    call.warn(kind.def.deprecation.iter().cloned().collect());
    let warnings = call.warnings.clone();
    let result = resource(call, info, &query, &view).await;
    let mut response = result.unwrap_or_else(|error| response::error(&error, form));
    warnings.shown().iter().for_each(|warning| response::warn(&mut response, warning));
    Ok(response)
}

/// Whether an Accept header has a form in it that is not a Table or metadata, for what has neither.
fn takes_an_object(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|form| !form.contains(";as="))
}

/// Whether the path has the resource where it lives: in a namespace or not.
fn placed(kind: &Served, info: &RequestInfo) -> bool {
    if kind.resource().namespaced() {
        info.name.is_empty() || !info.namespace.is_empty()
    } else {
        // Nothing but a namespace is addressed within one: who may do something in a namespace may not reach beyond it.
        info.namespace.is_empty() || info.is_namespace()
    }
}

async fn resource(call: Call, info: &RequestInfo, query: &Query, view: &View) -> Result<Response, ApiError> {
    let kind = call.form.clone();
    let verb = match info.verb {
        "watch" if call.subresource.is_none() => {
            let mut options = verbs::watch::options(query)?;
            if let Some(name) = &call.name {
                // The old form `/watch/…/name`. The selector was authorized: it stays in force.
                let named = format!("metadata.name={name}");
                options.field_selector = Some(match options.field_selector {
                    Some(asked) => format!("{asked},{named}"),
                    None => named,
                });
            }
            let opened = verbs::watch::watch(&call.api, &kind, call.namespace.as_deref(), options).await;
            let signals = match opened {
                // As upstream: what is wrong with the version of a watch is an event of it.
                Err(error) if matches!(error.code(), 410 | 504) => {
                    return Ok(response::failed_watch(&error, view.form.encoding));
                }
                opened => opened?,
            };
            let watching = call.api.metrics.watching(kind.resource(), info);
            return Ok(response::watch(signals, kind, *view, watching));
        }
        "list" if call.subresource.is_none() => {
            if query.contains("sendInitialEvents") {
                let mut errors = crate::field_error::Errors::default();
                errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
                return Err(verbs::options::invalid("ListOptions", errors.into_causes()));
            }
            let (namespace, options) = (call.namespace.as_deref(), query.list_options()?);
            if view.accepted.shape == Shape::Object
                && let Some(whole) =
                    verbs::list::whole(&call.api, &kind, namespace, &options, view.form).await?
            {
                return response::list(whole, view.form).await;
            }
            let listed = verbs::list::list(&call.api, &kind, namespace, options).await?;
            return match (view.form.encoding, view.accepted.shape) {
                (Encoding::Protobuf, Shape::Object) => {
                    response::list(verbs::list::protobuf(&kind, &listed)?, view.form).await
                }
                _ => response::document(200, view.list(&kind, &listed)?, view.form).await,
            };
        }
        "get" | "list" => Verb::Get,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => {
            let patch = patch_type(call.content_type.as_deref())?;
            if patch != PatchType::Apply && query.contains("force") {
                let mut errors = crate::field_error::Errors::default();
                errors.forbidden("force", "may not be specified for non-apply patch");
                return Err(verbs::options::invalid("PatchOptions", errors.into_causes()));
            }
            Verb::Patch(patch)
        }
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return Err(ApiError::wrong_method()),
    };
    if let Some(stream) = subresources::stream(&call, verb, query).await {
        return stream;
    }
    let selection = query.list_options()?;
    response::answer(perform(&call, verb, query, selection).await?, &kind, view).await
}

/// Any verb that takes one document and answers one, on an object, a collection or a subresource.
pub async fn perform(
    call: &Call,
    verb: Verb,
    query: &Query,
    selection: ListOptions,
) -> Result<Answer, ApiError> {
    let answer = dispatch(call, verb, query, selection).await?;
    if call.form.stored.is_none() || !answer.of_kind {
        return Ok(answer);
    }
    Ok(Answer { json: call.form.shown_json(answer.json)?, ..answer })
}

async fn dispatch(
    call: &Call,
    verb: Verb,
    query: &Query,
    selection: ListOptions,
) -> Result<Answer, ApiError> {
    let def = &call.form.def;
    match (call.subresource.as_deref(), verb) {
        (None, verb) => main(call, verb, query, selection).await,
        (Some("status"), verb) if def.has_status => match verb {
            Verb::Get => get(call, query).await,
            Verb::Update => verbs::update::update(call, Part::Status).await,
            Verb::Patch(patch) => verbs::patch::patch(call, patch, Part::Status).await,
            _ => Err(ApiError::wrong_method()),
        },
        (Some(name), verb) if def.has_subresource(name) => subresources::perform(call, name, verb).await,
        (Some(_), _) => Err(ApiError::unknown_resource()),
    }
}

async fn main(call: &Call, verb: Verb, query: &Query, selection: ListOptions) -> Result<Answer, ApiError> {
    let namespace_missing = call.kind.resource().namespaced() && call.namespace.is_none();
    match (verb, call.name.is_some()) {
        (Verb::Get, true) => get(call, query).await,
        _ if call.kind.def.computed => Err(ApiError::wrong_method()),
        (Verb::Create, false) if !namespace_missing => verbs::create::create(call).await,
        (Verb::Update, true) => verbs::update::update(call, Part::Main).await,
        (Verb::Patch(patch), true) => verbs::patch::patch(call, patch, Part::Main).await,
        (Verb::Delete, true) => delete::delete(call, &delete::Options::read(call, query)?).await,
        (Verb::DeleteCollection, false) if !namespace_missing && call.form.def.deletes_collection => {
            let options = delete::Options::read(call, query)?;
            verbs::delete_collection::delete_collection(call, &options, selection).await
        }
        _ => Err(ApiError::wrong_method()),
    }
}

async fn get(call: &Call, query: &Query) -> Result<Answer, ApiError> {
    let object = verbs::get::get(call, query.get("resourceVersion")).await?;
    Ok(Answer::ok(object.json.clone()))
}

fn options_kind(method: &Method) -> &'static str {
    match *method {
        Method::POST => "CreateOptions",
        Method::PATCH => "PatchOptions",
        Method::DELETE => "DeleteOptions",
        _ => "UpdateOptions",
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok())
}

fn patch_type(content_type: Option<&str>) -> Result<PatchType, ApiError> {
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let known = [PatchType::Json, PatchType::Merge, PatchType::Strategic, PatchType::Apply];
    known.into_iter().find(|t| t.media_type() == media_type).ok_or_else(|| {
        // In the words of upstream's router, which knows what each path takes.
        let mut error = ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
        error.details_mut();
        error
    })
}

async fn read(body: axum::body::Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(ApiError::bad_request(format!("reading the body: {error}"))),
    }
}

/// Paths that are no resources.
async fn other(
    api: &Arc<Api>,
    info: &RequestInfo,
    request: &Parts,
    form: Form,
) -> Result<Response, ApiError> {
    let path = match info.path.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Ok(response::page_not_found());
    }
    if let Some(answer) = health::answer(api, path, request.uri.query().unwrap_or_default()).await {
        return Ok(answer);
    }
    if let Some(answer) = api.options.openid.as_ref().and_then(|documents| documents.answer(path)) {
        return Ok(answer);
    }
    if path == "/metrics" {
        return Ok(response::metrics(api.metrics.encode(api)?));
    }
    let query = request.uri.query().unwrap_or_default();
    let table = api.table();
    if let Some(answer) = table.openapi().answer(path, query, &request.headers) {
        return answer;
    }
    // `/apis/apps/v9`: the group is there, the version is not.
    let group = match path.strip_prefix("/apis/").and_then(|rest| rest.split_once('/')) {
        Some((group, _)) => Some(group),
        None => path.starts_with("/api/").then_some(""),
    };
    if group.is_some_and(|group| table.serves_group(group)) && !table.discovery().knows(path) {
        return Err(ApiError::unknown_resource());
    }
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| request.headers.get(header::HOST).and_then(|v| v.to_str().ok()));
    table.discovery().answer(path, host.unwrap_or_default(), &request.headers, form).await
}
