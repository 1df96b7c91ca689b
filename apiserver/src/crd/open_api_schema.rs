//! What the schema of a version may say: of types, lists, maps, defaults and rules.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::schema::Schema;
use super::structure::{self, Unknown};
use super::{rules, structural, values};
use crate::field_error::Errors;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";

#[derive(Clone, Copy)]
pub struct Options {
    /// The status is a subresource.
    pub status: bool,
    /// The schema is as it was: what its rules may cost is not asked again.
    pub unchanged: bool,
}

#[derive(Clone, Copy, Default)]
struct Place {
    root: bool,
    in_meta: bool,
    /// Why no default may be set here.
    no_defaults: Option<&'static str>,
}

pub fn check(props: &JSONSchemaProps, path: &str, options: Options, errors: &mut Errors) {
    let mut own = Errors::default();
    if options.status {
        at_root(props, path, &mut own);
    }
    if props.nullable == Some(true) {
        own.forbidden(format!("{path}.nullable"), "nullable cannot be true at the root");
    }
    let schema = Schema::of(props);
    let unstructured = structural::check(path, &schema);
    let sound = unstructured.is_empty();
    own.extend(unstructured.into_causes());
    let mut faults = Errors::default();
    if sound {
        defaults(&schema, path, true, &mut faults);
    }
    let sound = sound && faults.is_empty();
    own.extend(faults.into_causes());
    let mut said = Errors::default();
    walk(props, path, Place { root: true, ..Place::default() }, &mut said);
    let clean = said.is_empty();
    own.extend(said.into_causes());
    if sound && clean {
        let open_api = serde_json::to_value(props).unwrap_or_default();
        rules::check_schema(&schema, &open_api, path, options.unchanged, &mut own);
    }
    errors.extend(own.into_causes());
}

/// With a status subresource, nothing at the root may judge spec and status at once.
fn at_root(props: &JSONSchemaProps, path: &str, errors: &mut Errors) {
    if let Some(type_) = props.type_.as_deref().filter(|type_| *type_ != "object") {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid(format!("{path}.type"), type_, detail);
    }
    let judges = props.all_of.is_some()
        || props.any_of.is_some()
        || props.one_of.is_some()
        || props.not.is_some()
        || props.additional_properties.is_some()
        || props.enum_.is_some()
        || props.default.is_some()
        || props.max_properties.is_some()
        || props.min_properties.is_some();
    if judges {
        let detail = format!(
            "only {ROOT} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.invalid(path, props, detail);
    }
}

fn walk(props: &JSONSchemaProps, path: &str, place: Place, errors: &mut Errors) {
    let type_ = props.type_.as_deref().unwrap_or_default();
    if !type_.is_empty() && !TYPES.contains(&type_) {
        errors.not_supported(format!("{path}.type"), type_, TYPES);
    }
    if let (Some(reason), Some(_)) = (place.no_defaults, &props.default) {
        errors.forbidden(format!("{path}.default"), &format!("must not be set {reason}"));
    }
    unsupported(props, path, place, errors);
    if props.unique_items == Some(true) {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(format!("{path}.uniqueItems"), detail);
    }
    let inner = Place { root: false, ..place };
    if let Some(additional) = &props.additional_properties {
        let has_properties = props.properties.as_ref().is_some_and(|p| !p.is_empty());
        if has_properties && !matches!(additional, JSONSchemaPropsOrBool::Bool(true)) {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(format!("{path}.additionalProperties"), detail);
        }
        if let JSONSchemaPropsOrBool::Schema(schema) = additional {
            let reason = place.in_meta.then_some("inside additionalProperties applying to object metadata");
            let place = Place { no_defaults: reason.or(place.no_defaults), ..inner };
            walk(schema, &format!("{path}.additionalProperties"), place, errors);
        }
    }
    let resource = place.root || props.x_kubernetes_embedded_resource == Some(true);
    for (name, property) in props.properties.iter().flatten() {
        let mut place = inner;
        if resource && structure::is_meta(name) {
            place.in_meta = true;
            if inner.root || path.ends_with("openAPIV3Schema") {
                place.no_defaults = Some(match name.as_str() {
                    "metadata" => "in top-level metadata",
                    "kind" => "in top-level kind",
                    _ => "in top-level apiVersion",
                });
            }
        }
        walk(property, &format!("{path}.properties[{name}]"), place, errors);
    }
    let junctors = [("allOf", &props.all_of), ("oneOf", &props.one_of), ("anyOf", &props.any_of)];
    for (name, list) in junctors {
        for (i, part) in list.iter().flatten().enumerate() {
            walk(part, &format!("{path}.{name}[{i}]"), inner, errors);
        }
    }
    if let Some(not) = &props.not {
        walk(not, &format!("{path}.not"), inner, errors);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &props.items {
        walk(items, &format!("{path}.items"), inner, errors);
    }
    if props.x_kubernetes_preserve_unknown_fields == Some(false) {
        errors.invalid(
            format!("{path}.x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        );
    }
    maps(props, path, type_, errors);
    lists(props, path, type_, errors);
    rules::check_form(props, path, errors);
}

fn unsupported(props: &JSONSchemaProps, path: &str, place: Place, errors: &mut Errors) {
    for (there, name) in [
        (props.id.as_ref().is_some_and(|id| !id.is_empty()), "id"),
        (props.additional_items.is_some(), "additionalItems"),
        (props.pattern_properties.as_ref().is_some_and(|p| !p.is_empty()), "patternProperties"),
        (props.definitions.as_ref().is_some_and(|p| !p.is_empty()), "definitions"),
        (props.dependencies.is_some(), "dependencies"),
        (props.ref_path.is_some(), "$ref"),
    ] {
        if there {
            errors.forbidden(format!("{path}.{name}"), &format!("{name} is not supported"));
        }
    }
    if props.type_.as_deref() == Some("null") {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(format!("{path}.type"), detail);
    }
    if let Some(JSONSchemaPropsOrArray::Schemas(_)) = &props.items {
        errors.forbidden(format!("{path}.items"), "items must be a schema object and not an array");
    }
    if place.in_meta && props.x_kubernetes_embedded_resource == Some(true) {
        let detail = "must not be used inside of resource meta";
        errors.forbidden(format!("{path}.x-kubernetes-embedded-resource"), detail);
    }
}

/// A type that an extension presupposes.
fn presupposes(path: &str, type_: &str, wanted: &str, extension: &str, errors: &mut Errors) -> bool {
    if type_ == wanted {
        return true;
    }
    let detail = format!("must be {wanted} if {extension} is specified");
    if type_.is_empty() {
        errors.required(format!("{path}.type"), &detail);
    } else {
        errors.invalid(format!("{path}.type"), type_, detail);
    }
    false
}

fn maps(props: &JSONSchemaProps, path: &str, type_: &str, errors: &mut Errors) {
    let Some(map_type) = props.x_kubernetes_map_type.as_deref() else { return };
    presupposes(path, type_, "object", "x-kubernetes-map-type", errors);
    if !matches!(map_type, "atomic" | "granular") {
        errors.not_supported(format!("{path}.x-kubernetes-map-type"), map_type, &["atomic", "granular"]);
    }
}

fn lists(props: &JSONSchemaProps, path: &str, type_: &str, errors: &mut Errors) {
    const LIST_TYPE: &str = "x-kubernetes-list-type";
    let keys: &[String] = props.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let list_type = props.x_kubernetes_list_type.as_deref();
    let items = match &props.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&**items),
        _ => None,
    };
    let fits = list_type.is_none() || presupposes(path, type_, "array", LIST_TYPE, errors);
    if let Some(items) = items.filter(|_| fits && list_type == Some("set")) {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        match items.type_.as_deref() {
            Some("array") if items.x_kubernetes_list_type.as_deref().is_some_and(|t| t != "atomic") => {
                errors.invalid(format!("{path}.items.{LIST_TYPE}"), &items.x_kubernetes_list_type, detail);
            }
            Some("object") if items.x_kubernetes_map_type.as_deref() != Some("atomic") => {
                errors.invalid(
                    format!("{path}.items.x-kubernetes-map-type"),
                    &items.x_kubernetes_list_type,
                    detail,
                );
            }
            _ => {}
        }
    }
    if let Some(other) = list_type.filter(|t| !matches!(*t, "atomic" | "set" | "map")) {
        errors.not_supported(format!("{path}.{LIST_TYPE}"), other, &["atomic", "set", "map"]);
    }
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errors.required(format!("{path}.{LIST_TYPE}"), detail),
            Some(other) => errors.invalid(format!("{path}.{LIST_TYPE}"), other, detail),
        }
    }
    if list_type == Some("map") {
        map_list(items, keys, path, errors);
    }
    if let (Some(items), Some(list_type @ ("map" | "set"))) = (items, list_type)
        && items.nullable == Some(true)
    {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(format!("{path}.items.nullable"), &detail);
    }
}

fn map_list(items: Option<&JSONSchemaProps>, keys: &[String], path: &str, errors: &mut Errors) {
    const KEYS: &str = "x-kubernetes-list-map-keys";
    if keys.is_empty() {
        errors.required(format!("{path}.{KEYS}"), "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = items else {
        return errors
            .required(format!("{path}.items"), "must have a schema if x-kubernetes-list-type is map");
    };
    let type_ = items.type_.as_deref().unwrap_or_default();
    if type_ != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(format!("{path}.items.type"), type_, detail);
    }
    for (i, key) in keys.iter().enumerate() {
        let property = items.properties.as_ref().and_then(|properties| properties.get(key));
        let at = format!("{path}.items.properties[{key}]");
        match property {
            None => {
                errors.invalid(format!("{path}.{KEYS}"), keys, "entries must all be names of item properties")
            }
            Some(property) => {
                if matches!(property.type_.as_deref(), Some("array" | "object")) {
                    let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.invalid(format!("{at}.type"), type_, detail);
                }
                let required = items.required.iter().flatten().any(|name| name == key);
                if !required && property.default.is_none() {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.required(format!("{at}.default"), detail);
                }
                if property.nullable == Some(true) {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    errors.forbidden(format!("{at}.nullable"), detail);
                }
            }
        }
        if keys.iter().take(i).any(|before| before == key) {
            errors.invalid(format!("{path}.{KEYS}"), keys, "must not contain duplicate entries");
        }
    }
}

/// Defaults are valid themselves, and nothing in them is unknown.
fn defaults(schema: &Schema, path: &str, root: bool, errors: &mut Errors) {
    if let Some(default) = &schema.default {
        let at = format!("{path}.default");
        let mut pruned = default.clone();
        structure::prune(&mut pruned, schema, schema.embedded, &mut Unknown::default());
        if pruned != *default {
            errors.invalid(at.as_str(), default, "must not have unknown fields");
        }
        let mut found = values::check(schema, "", default, None).errors;
        for cause in &mut found {
            cause.field = match cause.field.as_str() {
                "" | "<nil>" => at.clone(),
                field => format!("{at}.{field}"),
            };
        }
        errors.extend(found);
    }
    for (name, property) in &schema.properties {
        if !(root && structure::is_meta(name)) {
            defaults(property, &format!("{path}.properties[{name}]"), false, errors);
        }
    }
    if let Some(items) = &schema.items {
        defaults(items, &format!("{path}.items"), false, errors);
    }
}
