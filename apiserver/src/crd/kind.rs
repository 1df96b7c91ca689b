//! A served version of a custom kind, as the generic verbs see it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use coracle_client::status::Cause;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use serde_json::{Map, Value, json};

use super::document::{self, CustomObject, metadata_value};
use super::json_path::JsonPath;
use super::rules::Rules;
use super::schema::Schema;
use super::structure::{self, Unknown};
use super::{list_types, resources, values};
use crate::decode::Report;
use crate::field_error::Errors;
use crate::kinds::{Column, Decoded, Operations};
use crate::object::ApiObject;
use crate::ownership;
use crate::table;
use crate::validation;

/// Where a custom resource keeps its replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePaths {
    /// `.spec.replicas`
    pub wanted: String,
    pub present: String,
    pub selector: Option<String>,
}

struct Shown {
    column: Column,
    path: Option<JsonPath>,
}

/// What is particular to one version of a kind.
pub struct CustomKind {
    pub kind: String,
    pub api_version: String,
    pub schema: Arc<Schema>,
    /// Unknown fields are kept, as definitions older than v1 had it.
    pub preserve: bool,
    pub has_status: bool,
    pub scale: Option<Arc<ScalePaths>>,
    pub rules: Option<Rules>,
    columns: Vec<Shown>,
    ownership: OnceLock<ownership::Rules>,
    /// The schema as OpenAPI publishes it, and under which name.
    pub published: (String, Value),
}

/// What a version is made of.
pub struct Parts {
    pub kind: String,
    pub api_version: String,
    pub schema: Arc<Schema>,
    pub preserve: bool,
    pub has_status: bool,
    pub scale: Option<Arc<ScalePaths>>,
    pub published: (String, Value),
}

/// Errors that leave the rules unchecked: they say that values are not what rules expect.
const BLOCKING: &[&str] = &[
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
];
const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

impl CustomKind {
    pub fn new(parts: Parts, columns: &[CustomResourceColumnDefinition]) -> Self {
        let Parts { kind, api_version, schema, preserve, has_status, scale, published } = parts;
        let rules = Rules::of(&schema, &published.1);
        let columns = shown(columns);
        Self {
            kind,
            api_version,
            schema,
            preserve,
            has_status,
            scale,
            rules,
            columns,
            ownership: OnceLock::new(),
            published,
        }
    }

    fn of(object: &dyn ApiObject) -> Option<&CustomObject> {
        object.as_any().downcast_ref()
    }

    fn of_mut(object: &mut dyn ApiObject) -> Option<&mut CustomObject> {
        object.as_any_mut().downcast_mut()
    }

    /// Drops what the version does not know and sets its defaults, in a document that was stored or converted.
    pub fn settle(&self, body: &mut Map<String, Value>) {
        let mut value = Value::Object(std::mem::take(body));
        if !self.preserve {
            structure::prune(&mut value, &self.schema, true, &mut Unknown::default());
        }
        structure::drop_nulls(&mut value, Some(&self.schema));
        structure::set_defaults(&mut value, &self.schema);
        if let Value::Object(members) = value {
            *body = members;
        }
    }

    fn check(&self, object: &CustomObject, old: Option<&CustomObject>, errors: &mut Errors) {
        let mistyped = self.check_type(object);
        if !mistyped.is_empty() {
            return errors.extend(mistyped);
        }
        let (whole, before) = (object.document(), old.map(CustomObject::document));
        errors.extend(values::check(&self.schema, "", &whole, before.as_ref()).errors);
        if let Some(scale) = &self.scale {
            errors.extend(check_count(&scale.wanted, &whole));
        }
        self.check_present(&whole, errors);
        errors.extend(resources::check(&self.schema, &whole));
        self.check_lists(&whole, before.as_ref(), errors);
        self.check_rules(&whole, before.as_ref(), errors);
    }

    fn check_type(&self, object: &CustomObject) -> Vec<Cause> {
        let mut errors = Errors::default();
        if object.kind() != self.kind {
            errors.invalid("kind", object.kind(), format!("must be {}", self.kind));
        }
        if object.api_version() != self.api_version {
            errors.invalid("apiVersion", object.api_version(), format!("must be {}", self.api_version));
        }
        errors.into_causes()
    }

    fn check_present(&self, whole: &Value, errors: &mut Errors) {
        let Some(scale) = &self.scale else { return };
        errors.extend(check_count(&scale.present, whole));
        if let Some(path) = &scale.selector
            && let Some(value) = whole.pointer(&pointer(path)).filter(|value| !value.is_string())
        {
            let detail = format!(
                "{path} accessor error: {} is of the type {}, expected string",
                go_text(value),
                go_type(value)
            );
            errors.invalid(path.as_str(), "", detail);
        }
    }

    /// Lists that held duplicates before may go on to.
    fn check_lists(&self, whole: &Value, before: Option<&Value>, errors: &mut Errors) {
        let found = |value: &Value| {
            let mut found = Vec::new();
            list_types::check(&self.schema, "", value, &mut found);
            found
        };
        if before.is_none_or(|before| found(before).is_empty()) {
            errors.extend(found(whole));
        }
    }

    fn check_rules(&self, whole: &Value, before: Option<&Value>, errors: &mut Errors) {
        let Some(rules) = &self.rules else { return };
        if errors.reasons().any(|reason| BLOCKING.contains(&reason)) {
            let message = format!("Invalid value: null: {UNCHECKED}");
            let field = "<nil>".to_owned();
            return errors.extend(vec![Cause { reason: "FieldValueInvalid".into(), message, field }]);
        }
        errors.extend(rules.check(&self.schema, whole, before));
    }
}

/// `.spec.replicas` as a JSON pointer.
pub fn pointer(path: &str) -> String {
    path.strip_prefix('.')
        .unwrap_or(path)
        .split('.')
        .map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")))
        .collect()
}

/// As Go's `%v` writes it.
fn go_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn check_count(path: &str, whole: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    match whole.pointer(&pointer(path)) {
        None => {}
        Some(value) => match value.as_i64() {
            None => {
                let detail = format!(
                    "{path} accessor error: {} is of the type {}, expected int64",
                    go_text(value),
                    go_type(value)
                );
                errors.invalid(path, 0, detail);
            }
            Some(count) if count < 0 => errors.invalid(path, count, "should be a non-negative integer"),
            Some(count) if count > i64::from(i32::MAX) => {
                errors.invalid(path, count, format!("should be less than or equal to {}", i32::MAX));
            }
            Some(_) => {}
        },
    }
    errors.into_causes()
}

fn shown(columns: &[CustomResourceColumnDefinition]) -> Vec<Shown> {
    let mut all = vec![Shown { column: table::NAME, path: None }];
    let given = columns.iter().map(|column| Shown {
        column: Column {
            name: Cow::Owned(column.name.clone()),
            type_: Cow::Owned(column.type_.clone()),
            format: Cow::Owned(column.format.clone().unwrap_or_default()),
            description: match column.description.as_deref().unwrap_or_default() {
                "" => Cow::Owned(format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    column.json_path
                )),
                description => Cow::Owned(description.to_owned()),
            },
            priority: column.priority.unwrap_or(0),
        },
        path: JsonPath::parse(&column.json_path).ok(),
    });
    all.extend(given);
    if columns.is_empty() {
        let column = Column { type_: Cow::Borrowed("date"), ..table::AGE };
        all.push(Shown { column, path: JsonPath::parse(".metadata.creationTimestamp").ok() });
    }
    all
}

/// A value as a cell of a column's type.
fn cell(type_: &str, value: &Value, now: Timestamp) -> Value {
    match (type_, value) {
        (_, Value::Null) => Value::Null,
        ("integer", value) => match (value.as_i64(), value.as_f64()) {
            (Some(whole), _) => json!(whole),
            (None, Some(number)) => json!(number as i64),
            _ => Value::Null,
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(then) => json!(table::since(Some(then), now)),
            Err(_) => json!("<invalid>"),
        },
        ("string", Value::String(text)) => json!(text),
        ("string", value) => json!(value.to_string()),
        _ => Value::Null,
    }
}

/// Finalizers that nobody can tell whose they are.
fn vague_finalizers(object: &CustomObject, old: Option<&CustomObject>) -> Vec<String> {
    const STANDARD: &[&str] = &["foregroundDeletion", "kubernetes", "orphan"];
    let known = old.and_then(|old| old.meta.finalizers.as_deref()).unwrap_or_default();
    let mut added: Vec<&String> =
        object.meta.finalizers.iter().flatten().filter(|f| !known.contains(f)).collect();
    added.sort();
    added.dedup();
    let vague = added.into_iter().filter(|f| !f.contains('/') && !STANDARD.contains(&f.as_str()));
    vague
        .map(|finalizer| {
            let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
            format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
            )
        })
        .collect()
}

impl Operations for CustomKind {
    fn decode(&self, json: &[u8]) -> Decoded {
        Ok(Box::new(document::stored(json)?))
    }

    fn decode_value(&self, value: Value) -> Decoded {
        let Value::Object(members) = value else {
            return Err(serde::de::Error::custom("expected an object"));
        };
        let (object, _) = CustomObject::of(members).map_err(serde::de::Error::custom)?;
        Ok(Box::new(object))
    }

    fn decode_checked(&self, json: &[u8], report: &Report) -> Decoded {
        let (members, duplicates) = document::read(json)?;
        let wrong = |message: String| -> serde_json::Error {
            report.verbatim(message.clone());
            serde::de::Error::custom(message)
        };
        let mut whole = Value::Object(members);
        let mut unknown = Unknown::default();
        structure::coerce(&mut whole, &self.schema, &mut unknown).map_err(|fault| {
            wrong(format!("{}: Invalid value: {}: {}", fault.path, fault.value, fault.why))
        })?;
        if !self.preserve {
            structure::prune(&mut whole, &self.schema, true, &mut unknown);
        }
        let Value::Object(members) = whole else { return Err(wrong("expected an object".into())) };
        let (object, dropped) = CustomObject::of(members).map_err(wrong)?;
        if report.strict {
            duplicates.iter().for_each(|path| report.note(format!("duplicate field {path:?}")));
            let dropped = dropped.iter().map(|path| format!("metadata.{path}"));
            for path in dropped.chain(unknown.into_paths()) {
                report.note(format!("unknown field {path:?}"));
            }
        }
        Ok(Box::new(object))
    }

    fn deletion_grace_seconds(&self, _object: &dyn ApiObject) -> Option<i64> {
        None
    }

    fn prepare_deletion(&self, _object: &mut dyn ApiObject) {}

    fn held_back(&self, _object: &dyn ApiObject) -> bool {
        false
    }

    fn set_defaults(&self, object: &mut dyn ApiObject) {
        let Some(object) = Self::of_mut(object) else { return };
        let mut value = Value::Object(std::mem::take(&mut object.body));
        structure::drop_nulls(&mut value, Some(&self.schema));
        structure::set_defaults(&mut value, &self.schema);
        if let Value::Object(members) = value {
            object.body = members;
            // What a schema defaults within metadata is not for it to say at the root.
            object.body.remove("metadata");
        }
    }

    fn prepare_create(&self, object: &mut dyn ApiObject) {
        if let Some(object) = Self::of_mut(object).filter(|_| self.has_status) {
            object.body.remove("status");
        }
    }

    fn prepare_update(&self, _object: &mut dyn ApiObject, _old: &dyn ApiObject) {}

    /// Nothing but the status comes from the new object.
    fn prepare_status_update(&self, object: &mut dyn ApiObject, old: &dyn ApiObject) {
        let (Some(object), Some(old)) = (Self::of_mut(object), Self::of(old)) else { return };
        let status = object.body.remove("status");
        let (version, managers) = (object.meta.resource_version.take(), object.meta.managed_fields.take());
        *object = old.clone();
        object.meta.resource_version = version;
        object.meta.managed_fields = managers;
        match status {
            Some(status) => object.body.insert("status".into(), status),
            None => object.body.remove("status"),
        };
    }

    fn validate_name(&self, name: &str) -> Result<(), String> {
        validation::dns_subdomain(name)
    }

    /// What is wrong depends on what was there before: see the other two.
    fn validate(&self, _object: &dyn ApiObject, _errors: &mut Errors) {}

    fn validate_create(&self, object: &dyn ApiObject, errors: &mut Errors) {
        if let Some(object) = Self::of(object) {
            self.check(object, None, errors);
        }
    }

    fn validate_update(&self, object: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors) {
        if let (Some(object), Some(old)) = (Self::of(object), Self::of(old)) {
            self.check(object, Some(old), errors);
        }
    }

    fn validate_status_update(&self, object: &dyn ApiObject, old: &dyn ApiObject, errors: &mut Errors) {
        let (Some(object), Some(old)) = (Self::of(object), Self::of(old)) else { return };
        let mistyped = self.check_type(object);
        if !mistyped.is_empty() {
            return errors.extend(mistyped);
        }
        if let (Some(schema), Some(status)) =
            (self.schema.properties.get("status"), object.body.get("status"))
        {
            let mut found = values::check(schema, "", status, old.body.get("status")).errors;
            for cause in &mut found {
                cause.field = match cause.field.as_str() {
                    "" | "<nil>" => "status".into(),
                    path => format!("status.{path}"),
                };
            }
            errors.extend(found);
        }
        let (whole, before) = (object.document(), old.document());
        self.check_present(&whole, errors);
        self.check_lists(&whole, Some(&before), errors);
        self.check_rules(&whole, Some(&before), errors);
    }

    fn warnings(&self, object: &dyn ApiObject, old: Option<&dyn ApiObject>) -> Vec<String> {
        Self::of(object).map(|object| vague_finalizers(object, old.and_then(Self::of))).unwrap_or_default()
    }

    fn columns(&self) -> Vec<Column> {
        self.columns.iter().map(|shown| shown.column.clone()).collect()
    }

    fn cells(&self, object: &dyn ApiObject, now: Timestamp) -> Vec<Value> {
        let Some(object) = Self::of(object) else { return Vec::new() };
        let mut body = Value::Object(object.body.clone());
        body["metadata"] = metadata_value(&object.meta);
        let cells = self.columns.iter().map(|shown| match &shown.path {
            None if shown.column.format == "name" => json!(object.meta.name),
            path => {
                let found = path.as_ref().and_then(|path| path.find(&body).first().copied());
                found.map_or(Value::Null, |value| cell(&shown.column.type_, value, now))
            }
        });
        cells.collect()
    }

    fn ownership(&self) -> &ownership::Rules {
        const STATUS_RESETS: &[&[&str]] = &[&["metadata"], &["spec"]];
        self.ownership.get_or_init(|| {
            let schema = ownership::Schema::custom(&self.published.1);
            let status = self.has_status.then_some(STATUS_RESETS);
            ownership::Rules::new(schema, &self.api_version, &self.kind, status)
        })
    }

    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        super::openapi::schema(self, generator)
    }
}
