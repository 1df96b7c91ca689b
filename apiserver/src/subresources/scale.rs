//! `scale`: the replicas of a workload, whatever kind it is, as `autoscaling/v1` Scale.

use std::borrow::Cow;
use std::collections::BTreeMap;

use coracle_client::selector::Selector;
use coracle_client::{ApiError, Object, PatchType, Resource};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ManagedFieldsEntry, ObjectMeta};
use serde_json::{Value, json};

use super::document;
use crate::crd::pointer;
use crate::decode;
use crate::field_error::Errors;
use crate::object::ApiObject;
use crate::ownership::{
    Element, Managers, OneVersion, Operation, Schema, Set, Who, Write, from_scale, to_scale,
};
use crate::patch;
use crate::verbs::modify::{Current, Part, Versions, modify_owned};
use crate::verbs::owners::Owners;
use crate::verbs::update::check_name;
use crate::verbs::{Answer, Call, apply, metadata};

/// Where an object keeps what a Scale shows, as JSON pointers.
struct Paths {
    wanted: Cow<'static, str>,
    present: Cow<'static, str>,
    selector: Option<Cow<'static, str>>,
}

impl Paths {
    fn of(call: &Call) -> Self {
        match &call.kind.def.scale {
            // As all workloads have them.
            None => Self {
                wanted: "/spec/replicas".into(),
                present: "/status/replicas".into(),
                selector: Some("/spec/selector".into()),
            },
            Some(paths) => Self {
                wanted: pointer(&paths.wanted).into(),
                present: pointer(&paths.present).into(),
                selector: paths.selector.as_deref().map(|path| pointer(path).into()),
            },
        }
    }
}

/// Puts a value where the pointer says; what it is to be in comes into being. None: something else stands in the way.
fn put(whole: &mut Value, pointer: &str, value: Value) -> Option<()> {
    let (parent, name) = pointer.rsplit_once('/')?;
    let mut at = whole;
    for step in parent.split('/').filter(|step| !step.is_empty()) {
        at = at.as_object_mut()?.entry(step).or_insert_with(|| json!({}));
    }
    at.as_object_mut()?.insert(name.to_owned(), value);
    Some(())
}

pub async fn get(call: &Call) -> Result<Answer, ApiError> {
    call.api.cache.catch_up(&*call.api.store).await?;
    answer(call, &*call.current().await?)
}

pub async fn update(call: &Call) -> Result<Answer, ApiError> {
    let scale = document::<Scale>(call, "autoscaling/v1", "Scale")?;
    let name = scale.metadata.name.as_deref().unwrap_or_default();
    if name != call.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    let change = |current: &Current| updated(call, current, &scale);
    let changed = modify_owned(call, Part::Main, Versions::Require, Owners::Given, change).await?;
    shown(call, changed)
}

pub async fn patch(call: &Call, patch_type: PatchType) -> Result<Answer, ApiError> {
    if patch_type == PatchType::Apply {
        return apply(call).await;
    }
    // A Scale has no lists that a strategic patch would merge.
    let patch_type = if patch_type == PatchType::Strategic { PatchType::Merge } else { patch_type };
    let changed = modify_owned(call, Part::Main, Versions::Inherit, Owners::Given, |current| {
        let before = serde_json::to_value(of(call, &current.object)?).map_err(ApiError::internal)?;
        let after = patch::apply(&call.kind.def, patch_type, &before, &call.body)?;
        let text = after.to_string();
        let (scale, warnings) =
            decode::document::<Scale>("autoscaling/v1", "Scale", None, text.as_bytes(), call.validation())?;
        call.warn(warnings);
        updated(call, current, &scale)
    })
    .await?;
    shown(call, changed)
}

async fn apply(call: &Call) -> Result<Answer, ApiError> {
    let resource = Resource::new("autoscaling", "v1", "scales", "Scale", true);
    let (config, issues) = apply::read(call, &resource)?;
    let changed = modify_owned(call, Part::Main, Versions::Inherit, Owners::Given, |current| {
        let owners = Owned::of(call, current)?;
        let live = serde_json::to_value(of(call, &current.object)?).map_err(ApiError::internal)?;
        let empty = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}});
        let write = owners.write(call, Operation::Apply);
        let applied = write
            .apply(&live, &empty, &config, owners.of_scale.clone(), call.options.force)
            .map_err(|error| apply::refused(&resource, &config, error))?;
        apply::strictness(call, &issues)?;
        let object = applied.object.unwrap_or(live);
        let scale: Scale = serde_json::from_value(object).map_err(ApiError::internal)?;
        check_name(call, scale.metadata.name.as_deref(), scale.metadata.namespace.as_deref())?;
        let mut object = scaled(call, current, &scale)?;
        object.meta_mut().managed_fields = owners.after(call, applied.managers);
        Ok(object)
    })
    .await?;
    shown(call, changed)
}

/// The workload with the replicas of the scale, which are the client's then.
fn updated(call: &Call, current: &Current, scale: &Scale) -> Result<Box<dyn ApiObject>, ApiError> {
    let owners = Owned::of(call, current)?;
    let live = serde_json::to_value(of(call, &current.object)?).map_err(ApiError::internal)?;
    let new = serde_json::to_value(scale).map_err(ApiError::internal)?;
    let mut object = scaled(call, current, scale)?;
    let write = owners.write(call, Operation::Update);
    object.meta_mut().managed_fields = match write.update(&live, &new, owners.of_scale.clone(), true) {
        Ok(managers) => owners.after(call, managers),
        Err(fault) => return Err(ApiError::internal(fault)),
    };
    Ok(object)
}

/// Who owns what of a workload, and of its Scale.
struct Owned {
    of_parent: Managers,
    of_scale: Managers,
    schema: Schema,
    nothing: Set,
}

impl Owned {
    fn of(call: &Call, current: &Current) -> Result<Self, ApiError> {
        let known = current.typed.meta().managed_fields.as_deref().unwrap_or_default();
        let of_parent = Managers::read(known).unwrap_or_default();
        let of_scale = to_scale(&of_parent, &call.form.resource().api_version(), &replicas(call));
        let schema = Schema::built_in("autoscaling/v1", "Scale").unwrap_or_else(Schema::deduced);
        Ok(Self { of_parent, of_scale, schema, nothing: Set::default() })
    }

    fn write(&self, call: &Call, operation: Operation) -> Write<'_> {
        let who = Who {
            name: call.manager(),
            operation,
            api_version: "autoscaling/v1".to_owned(),
            subresource: "scale".to_owned(),
        };
        let now = metadata::now().0;
        Write { who, schema: &self.schema, reset: &self.nothing, versions: &OneVersion, now }
    }

    fn after(self, call: &Call, of_scale: Managers) -> Option<Vec<ManagedFieldsEntry>> {
        from_scale(self.of_parent, of_scale, &call.form.resource().api_version(), &replicas(call)).write()
    }
}

/// Where workloads keep what a Scale shows, as a field path.
fn replicas(call: &Call) -> Vec<Element> {
    Paths::of(call).wanted.split('/').skip(1).map(Element::field).collect()
}

/// The workload with the replicas of the scale.
fn scaled(call: &Call, current: &Current, scale: &Scale) -> Result<Box<dyn ApiObject>, ApiError> {
    let replicas = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    // Custom resources say themselves what is wrong with a number.
    if replicas < 0 && call.kind.def.built_in {
        let mut errors = Errors::default();
        errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        let resource = Resource::new("autoscaling", "v1", "scales", "Scale", true);
        return Err(ApiError::invalid(&resource, call.name(), errors.into_causes()));
    }
    if let Some(uid) =
        scale.metadata.uid.as_deref().filter(|u| !u.is_empty() && **u != *current.object.head.uid)
    {
        return Err(ApiError::conflict(
            call.kind.resource(),
            call.name(),
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current.object.head.uid
            ),
        ));
    }
    let mut value = current.typed.to_value()?;
    if put(&mut value, &Paths::of(call).wanted, json!(replicas)).is_none() {
        return Err(ApiError::internal("the object to scale has no spec"));
    }
    let mut object = call.kind.def.ops.decode_value(value).map_err(ApiError::internal)?;
    object.meta_mut().resource_version.clone_from(&scale.metadata.resource_version);
    Ok(object)
}

fn shown(call: &Call, changed: Answer) -> Result<Answer, ApiError> {
    let scale = answer(call, &*Object::parse(changed.json, &[])?)?;
    Ok(Answer { code: changed.code, ..scale })
}

fn answer(call: &Call, object: &Object) -> Result<Answer, ApiError> {
    Answer::document(200, &of(call, object)?)
}

/// As upstream writes it: what is asked for by an expression stays one.
fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten();
    let mut parts: Vec<(&str, String)> =
        labels.map(|(key, value)| (key.as_str(), format!("{key}={value}"))).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        parts.push((key, text));
    }
    parts.sort_by_key(|(key, _)| *key);
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

fn of(call: &Call, object: &Object) -> Result<Scale, ApiError> {
    let paths = Paths::of(call);
    let value: Value = serde_json::from_slice(&object.json)?;
    let meta: ObjectMeta = serde_json::from_value(value.get("metadata").cloned().unwrap_or_default())?;
    let count = |path: &str| value.pointer(path).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    let selector = match paths.selector.as_deref().and_then(|path| value.pointer(path)) {
        None => String::new(),
        // Custom resources have it as text.
        Some(Value::String(selector)) => selector.clone(),
        Some(selector) => match serde_json::from_value::<BTreeMap<String, String>>(selector.clone()) {
            Ok(labels) => Selector::from_map(&labels).to_string(),
            Err(_) => selector_text(&serde_json::from_value(selector.clone())?),
        },
    };
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            creation_timestamp: meta.creation_timestamp,
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: count(&paths.wanted) }),
        status: Some(ScaleStatus {
            replicas: count(&paths.present).unwrap_or(0),
            selector: Some(selector).filter(|s| !s.is_empty()),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_they_were_asked_for() {
        for (selector, want) in [
            (json!({}), ""),
            (json!({"matchLabels": {"b": "1", "a": "2"}}), "a=2,b=1"),
            (
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["front"]},
                    {"key": "a", "operator": "NotIn", "values": ["y", "x"]},
                    {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist"}]}),
                "a notin (x,y),app=web,c,!d,tier in (front)",
            ),
        ] {
            assert_eq!(selector_text(&serde_json::from_value(selector).unwrap()), want);
        }
    }
}
