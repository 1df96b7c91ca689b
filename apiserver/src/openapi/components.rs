//! The schemas of types in upstream's form: `k8s-openapi`'s, with the facts of the table put in.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::names::GroupVersion;
use crate::kinds::KindDef;
use crate::schema::facts::{self, List};

pub const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Type names to schemas.
pub type Schemas = BTreeMap<String, Value>;

/// What a kind's documents are called.
pub struct KindNames {
    /// `io.k8s.api.core.v1.Pod`
    pub object: String,
    pub list: String,
}

/// Every schema that the kinds of one group and version may need, and the names of the kinds' own.
pub struct Components {
    pub schemas: Schemas,
    pub kinds: Vec<KindNames>,
    /// By apiVersion and kind, of the documents subresources take.
    pub documents: BTreeMap<(String, String), String>,
}

pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{PREFIX}{name}") })
}

pub fn meta_name(name: &str) -> String {
    format!("{META}.{name}")
}

fn name_of(schema: &schemars::Schema) -> String {
    let reference = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    reference.rsplit('/').next().unwrap_or_default().to_owned()
}

/// `served`: every group and version of the server. Options of deletes and events of watches are of all of them; a
/// document of built-in kinds names those of the core and its own only, as upstream.
pub fn build(gv: &GroupVersion, kinds: &[&KindDef], served: &[GroupVersion]) -> Components {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let objects: Vec<String> = kinds.iter().map(|kind| name_of(&kind.ops.schema(&mut generator))).collect();
    let custom: Vec<String> =
        kinds.iter().zip(&objects).filter(|(kind, _)| !kind.built_in).map(|(_, name)| name.clone()).collect();
    let documents: BTreeMap<_, _> = crate::schema::documents(&mut generator)
        .into_iter()
        .map(|(api_version, kind, schema)| ((api_version, kind), name_of(&schema)))
        .collect();
    generator.subschema_for::<RawExtension>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::APIResourceList>();
    let mut schemas: Schemas = definitions(&mut generator)
        .into_iter()
        .map(|(name, schema)| {
            // Custom kinds bring schemas that are as they should be.
            let schema = if custom.contains(&name) { schema } else { shaped(&name, schema) };
            (name, schema)
        })
        .collect();
    let mut names = Vec::new();
    for (kind, object) in kinds.iter().zip(objects) {
        let list = format!("{object}List");
        schemas.insert(list.clone(), list_schema(gv, kind, &object));
        mark(&mut schemas, &object, &[(gv, kind.resource.kind())]);
        names.push(KindNames { object, list });
    }
    let custom = kinds.iter().any(|kind| !kind.built_in);
    let shared = || served.iter().filter(|other| custom || other.group.is_empty() || *other == gv);
    for ((api_version, kind), name) in &documents {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let own = GroupVersion { group: group.to_owned(), version: version.to_owned() };
        if kind == "DeleteOptions" {
            let all: Vec<_> = shared().map(|gv| (gv, kind.as_str())).collect();
            mark(&mut schemas, name, &all);
        } else {
            mark(&mut schemas, name, &[(&own, kind)]);
        }
    }
    let core = GroupVersion { group: String::new(), version: "v1".to_owned() };
    mark(&mut schemas, &meta_name("Status"), &[(&core, "Status")]);
    mark(&mut schemas, &meta_name("APIResourceList"), &[(&core, "APIResourceList")]);
    schemas.insert(
        meta_name("Patch"),
        json!({ "type": "object", "description": "A patch, in the form its media type says." }),
    );
    schemas.insert(meta_name("WatchEvent"), watch_event());
    let all: Vec<_> = shared().map(|gv| (gv, "WatchEvent")).collect();
    mark(&mut schemas, &meta_name("WatchEvent"), &all);
    Components { schemas, kinds: names, documents }
}

fn definitions(generator: &mut SchemaGenerator) -> Map<String, Value> {
    generator.take_definitions(true)
}

/// Keeps what `roots` reach, themselves and through others.
pub fn reachable(schemas: &mut Schemas, roots: &Value) {
    let mut wanted = Vec::new();
    let mut kept = Schemas::new();
    references(roots, &mut wanted);
    while let Some(name) = wanted.pop() {
        if let Some(schema) = schemas.remove(&name) {
            references(&schema, &mut wanted);
            kept.insert(name, schema);
        }
    }
    *schemas = kept;
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "$ref" => {
                        found.extend(text.strip_prefix(PREFIX).map(str::to_owned));
                    }
                    other => references(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// One type's schema in upstream's form.
fn shaped(name: &str, mut schema: Value) -> Value {
    let Some(fields) = schema.as_object_mut() else { return schema };
    match name.rsplit('.').next() {
        Some("Quantity") => {
            fields.remove("type");
            fields.remove("x-kubernetes-int-or-string");
            fields.insert("oneOf".to_owned(), json!([{ "type": "string" }, { "type": "number" }]));
        }
        Some("IntOrString") => {
            fields.remove("type");
            fields.remove("x-kubernetes-int-or-string");
            fields.insert("format".to_owned(), "int-or-string".into());
            fields.insert("oneOf".to_owned(), json!([{ "type": "integer" }, { "type": "string" }]));
        }
        _ => {}
    }
    let whole = facts::of_type(name).unwrap_or_default();
    if whole.atomic {
        fields.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if let Some(unions) = whole.unions.and_then(|text| serde_json::from_str(text).ok()) {
        fields.insert("x-kubernetes-unions".to_owned(), unions);
    }
    // k8s-openapi's types always have some fields that upstream does not ask for.
    match whole.required {
        Some(required) => {
            let required: Vec<&str> = required.split(',').collect();
            fields.insert("required".to_owned(), required.into());
        }
        None => {
            fields.remove("required");
        }
    }
    let Some(Value::Object(properties)) = fields.get_mut("properties") else { return schema };
    for (field, property) in properties.iter_mut() {
        shape_property(name, field, property);
    }
    schema
}

fn shape_property(type_name: &str, field: &str, property: &mut Value) {
    let facts = facts::field(type_name, field);
    let Some(fields) = property.as_object_mut() else { return };
    fields.remove("nullable");
    if let Some(default) = facts.default.and_then(|text| serde_json::from_str(text).ok()) {
        fields.insert("default".to_owned(), default);
    }
    // Nothing may stand beside a reference.
    if fields.len() > 1
        && let Some(reference) = fields.remove("$ref")
    {
        fields.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
    if let Some(map) = facts.map {
        fields.insert("x-kubernetes-map-type".to_owned(), map.into());
    }
    if let Some(patch) = facts.patch {
        fields.insert("x-kubernetes-patch-strategy".to_owned(), patch.name().into());
        if let Some(key) = patch.merge_key().filter(|key| !key.is_empty()) {
            fields.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(element) = fields.get_mut(inner).and_then(Value::as_object_mut) {
            shape_element(element, facts.elements);
        }
    }
    if let Some(words) = facts.words {
        fields.insert("enum".to_owned(), words.split('|').collect());
    }
    if fields.get("type").and_then(Value::as_str) == Some("array") {
        let list_type = match facts.list {
            List::Atomic => "atomic",
            List::Set => "set",
            List::Map(keys) => {
                let keys: Vec<&str> = keys.split(',').collect();
                fields.insert("x-kubernetes-list-map-keys".to_owned(), keys.into());
                "map"
            }
            List::Free => return,
        };
        fields.insert("x-kubernetes-list-type".to_owned(), list_type.into());
    }
}

/// The words that elements of a list or map may be.
fn shape_element(element: &mut Map<String, Value>, words: Option<&'static str>) {
    if let Some(words) = words {
        element.insert("enum".to_owned(), words.split('|').collect());
    }
}

/// Names the kinds that documents of a schema may be.
fn mark(schemas: &mut Schemas, name: &str, kinds: &[(&GroupVersion, &str)]) {
    let all: Vec<Value> = kinds
        .iter()
        .map(|(gv, kind)| json!({ "group": gv.group, "version": gv.version, "kind": kind }))
        .collect();
    if let Some(schema) = schemas.get_mut(name).and_then(Value::as_object_mut) {
        schema.insert("x-kubernetes-group-version-kind".to_owned(), Value::Array(all));
    }
}

fn list_schema(gv: &GroupVersion, kind: &KindDef, object: &str) -> Value {
    json!({
        "description": format!("{} is a list of objects of kind {}.", kind.list_kind, kind.resource.kind()),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": "The group and version of this document's form." },
            "kind": { "type": "string", "description": "What this document is, in CamelCase." },
            "metadata": {
                "description": "Standard list metadata.",
                "default": {},
                "allOf": [reference(&meta_name("ListMeta"))],
            },
            "items": {
                "description": format!("The objects of kind {}.", kind.resource.kind()),
                "type": "array",
                "items": reference(object),
            },
        },
        "x-kubernetes-group-version-kind": [
            { "group": gv.group, "version": gv.version, "kind": kind.list_kind },
        ],
    })
}

fn watch_event() -> Value {
    json!({
        "description": "One event of a watch.",
        "type": "object",
        "required": ["type", "object"],
        "properties": {
            "type": { "type": "string", "default": "", "description": "ADDED, MODIFIED, DELETED, BOOKMARK or ERROR." },
            "object": {
                "description": "The object as it is after the event (before it, where it is deleted), or a Status.",
                "allOf": [reference("io.k8s.apimachinery.pkg.runtime.RawExtension")],
            },
        },
    })
}
