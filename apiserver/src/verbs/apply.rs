//! PATCH with a configuration to apply: the server merges it, and knows who owns which fields.

use coracle_client::status::Cause;
use coracle_client::{ApiError, Resource};
use serde_json::{Map, Value};

use super::modify::{Current, Part, Versions, modify_owned};
use super::owners::{Forms, Owners};
use super::update::check_name;
use super::{Answer, Call, create, options};
use crate::authz::Attributes;
use crate::decode::{self, FieldValidation};
use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::ownership::{ApplyError, Conflict, Managers, Operation, Schema, Set, compare, drop_empty, owned};

/// How often an apply starts anew when the object comes and goes meanwhile.
const TRIES_MAX: usize = 5;
/// Where kubectl's client-side apply keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that takes over from client-side apply.
const KUBECTL: &str = "kubectl";
/// As upstream's `TotalAnnotationSizeLimitB`.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

pub async fn apply(call: &Call, part: Part) -> Result<Answer, ApiError> {
    let (config, issues) = read(call, call.form.resource())?;
    for _ in 0..TRIES_MAX {
        let changed = modify_owned(call, part, Versions::Inherit, Owners::Given, |current| {
            change(call, part, current, &config, &issues)
        });
        let changed = match changed.await {
            Err(error) if error.is_not_found() && part == Part::Main => make(call, &config, &issues).await,
            changed => changed,
        };
        match changed {
            Err(error) if error.reason() == "AlreadyExists" => {}
            Err(error) => return Err(error),
            Ok(answer) => return Ok(answer),
        }
    }
    Err(ApiError::conflict(call.form.resource(), call.name(), coracle_client::status::MODIFIED))
}

/// The configuration of an object of the resource, and what is wrong with its text.
pub(crate) fn read(call: &Call, resource: &Resource) -> Result<(Value, Vec<String>), ApiError> {
    if call.options.field_manager.as_deref().unwrap_or_default().is_empty() {
        let mut errors = Errors::default();
        errors.required("fieldManager", "is required for apply patch");
        return Err(options::invalid("PatchOptions", errors.into_causes()));
    }
    let undecodable = |why: String| ApiError::bad_request(format!("error decoding patch: {why}"));
    let (config, issues) = decode::yaml_to_json(&call.body).map_err(|why| {
        // What looks like JSON is read as it is; the rest is made JSON first.
        match why.strip_prefix("error converting YAML to JSON: ") {
            Some(fault) if !call.body.trim_ascii_start().starts_with(b"{") => {
                ApiError::bad_request(format!("error encoding patch: {fault}"))
            }
            _ => undecodable(why),
        }
    })?;
    let config = match config {
        Value::Object(_) => config,
        Value::Null => Value::Object(Map::new()),
        other => {
            let what = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Number(_) => "number",
                _ => "bool",
            };
            return Err(undecodable(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let given = group_version_kind(text("apiVersion"), text("kind"));
    if text("apiVersion") != resource.api_version() || text("kind") != resource.kind() {
        return Err(ApiError::bad_request(format!("invalid object type: {given}")));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok((config, issues))
}

/// As Go prints it: `apps/v1, Kind=Deployment`.
fn group_version_kind(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}

/// Keys that stand in the text twice: warnings, or the error of a client that asked for strictness. Nothing is written
/// before, and conflicts are told of first, as upstream.
pub(crate) fn strictness(call: &Call, issues: &[String]) -> Result<(), ApiError> {
    match call.validation() {
        FieldValidation::Ignore => {}
        FieldValidation::Strict if !issues.is_empty() => return Err(too_strict(issues)),
        _ => call.warn(issues.to_vec()),
    }
    Ok(())
}

fn too_strict(issues: &[String]) -> ApiError {
    let issues = decode::yaml_strict(issues);
    ApiError::bad_request(format!("error strict decoding patch: error converting YAML to JSON: {issues}"))
}

/// The current object with the configuration applied.
fn change(
    call: &Call,
    part: Part,
    current: &Current,
    config: &Value,
    issues: &[String],
) -> Result<Box<dyn ApiObject>, ApiError> {
    let rules = call.ownership();
    let reset = if part == Part::Status { &rules.status } else { &rules.main };
    let mut live: Value = serde_json::from_slice(&call.form.shown(&current.object)?.json)?;
    if let Some(meta) = live.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    let known = current.typed.meta().managed_fields.as_deref().unwrap_or_default();
    let managers = Managers::read(known)
        .map_err(|error| ApiError::new(500, "", format!("failed to decode managed fields: {error}")))?;
    let object = merged(call, reset, &live, config, managers)?;
    strictness(call, issues)?;
    call.form.inward(object, Some(&*current.typed))
}

/// Applies the configuration to an object that is there, or to the kind's empty one; checked, with its managers.
fn merged(
    call: &Call,
    reset: &Set,
    live: &Value,
    config: &Value,
    managers: Managers,
) -> Result<Box<dyn ApiObject>, ApiError> {
    let rules = call.ownership();
    let forms = Forms { call, schema: &rules.schema };
    let write = call.ownership_write(Operation::Apply, reset, &forms);
    let attempt = |force: bool| write.apply(live, &rules.empty, config, managers.clone(), force);
    let mut applied = attempt(call.options.force);
    if let Err(ApplyError::Conflicts(conflicts)) = &applied
        && write.who.name == KUBECTL
        && let Some(allowed) = client_side(&rules.schema, live, &call.form.resource().api_version())
    {
        let rest: Vec<Conflict> = conflicts.iter().filter(|c| !allowed.has(&c.path)).cloned().collect();
        applied = if rest.is_empty() { attempt(true) } else { Err(ApplyError::Conflicts(rest)) };
    }
    let applied = applied.map_err(|error| refused(call.form.resource(), config, error))?;
    let mut object = applied.object.unwrap_or_else(|| live.clone());
    drop_empty(rules.schema.root(), &mut object);
    if write.who.name == KUBECTL {
        keep_last_applied(&mut object, config);
    }
    let meta = |field: &str| object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str);
    let namespace = meta("namespace").filter(|namespace| call.namespace.as_deref() != Some(namespace));
    check_name(call, meta("name").or(namespace.map(|_| call.name())), namespace)?;
    let named = format!(
        "({}/{}; {})",
        meta("namespace").unwrap_or_default(),
        meta("name").unwrap_or_default(),
        group_version_kind(&call.form.resource().api_version(), call.form.resource().kind())
    );
    let decoded = decode::applied(&call.form.def, &object, &named)?;
    let mut object = decoded;
    object.meta_mut().managed_fields = applied.managers.write();
    Ok(object)
}

pub(crate) fn refused(resource: &Resource, config: &Value, error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(conflicts) => conflicting(&conflicts),
        ApplyError::Config(fault) => {
            let meta = |field: &str| {
                config.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
            };
            let kind = group_version_kind(&resource.api_version(), resource.kind());
            let (namespace, name) = (meta("namespace"), meta("name"));
            ApiError::new(
                500,
                "",
                format!("failed to create typed patch object ({namespace}/{name}; {kind}): {fault}"),
            )
        }
        ApplyError::Fault(fault) => ApiError::new(500, "", fault.to_string()),
    }
}

/// 409, with a cause for each field and manager.
fn conflicting(conflicts: &[Conflict]) -> ApiError {
    let mut sorted: Vec<&Conflict> = conflicts.iter().collect();
    sorted.sort_by_key(|conflict| conflict.who.to_string());
    let message = match sorted.as_slice() {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.who, one.field()),
        all => {
            let mut lines: Vec<String> = Vec::new();
            for (i, conflict) in all.iter().enumerate() {
                if i == 0 || !all.get(i - 1).is_some_and(|before| before.who.is(&conflict.who)) {
                    lines.push(format!("conflicts with {}:", conflict.who));
                }
                lines.push(format!("- {}", conflict.field()));
            }
            format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details_mut().causes = sorted
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.who),
            field: conflict.field(),
        })
        .collect();
    error
}

/// The fields that kubectl's client-side apply set and nobody changed since: kubectl may take them over.
fn client_side(schema: &Schema, live: &Value, api_version: &str) -> Option<Set> {
    let text = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last.get("apiVersion")?.as_str()? != api_version {
        return None;
    }
    crate::ownership::check(schema.root(), &last).ok()?;
    let changes = compare(schema.root(), &last, live).ok()?;
    let fields = owned(schema.root(), &last);
    Some(fields.difference(&changes.modified).difference(&changes.added).difference(&changes.removed))
}

/// Where client-side apply left its annotation, it goes on to say what was applied.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(given) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        given.remove(LAST_APPLIED);
        if given.is_empty()
            && let Some(meta) = config.get_mut("metadata").and_then(Value::as_object_mut)
        {
            meta.remove("annotations");
        }
    }
    annotations.insert(LAST_APPLIED.to_owned(), Value::String(format!("{config}\n")));
    let size: usize =
        annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > ANNOTATIONS_BYTES_MAX {
        annotations.remove(LAST_APPLIED);
    }
}

/// Creates the object that the configuration describes.
async fn make(call: &Call, config: &Value, issues: &[String]) -> Result<Answer, ApiError> {
    let rules = call.ownership();
    let mut object = merged(call, &rules.main, &rules.empty, config, Managers::default())?;
    strictness(call, issues)?;
    let resource: &Resource = call.kind.resource();
    if let Some(uid) = object.meta().uid.as_deref().filter(|uid| !uid.is_empty()) {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(ApiError::conflict(resource, call.name(), &why));
    }
    object.meta_mut().resource_version = None;
    if let Some(authorizer) = &call.api.options.authorizer {
        let resource = call.form.resource();
        let attributes = Attributes {
            verb: "create".to_owned(),
            group: resource.group().to_owned(),
            version: resource.version().to_owned(),
            resource: resource.plural().to_owned(),
            namespace: call.namespace.clone().unwrap_or_default(),
            name: call.name().to_owned(),
            ..Attributes::default()
        };
        authorizer.authorize(&call.identity, &attributes).await?;
    }
    create::store(call, call.form.inward(object, None)?, Owners::Given).await
}
