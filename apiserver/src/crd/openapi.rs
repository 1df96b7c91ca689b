//! A version's schema as the OpenAPI documents publish it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::kind::CustomKind;

const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `com.example.stable.v1.CronTab`
pub fn name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// The schema in the form of a component. `fields`: the paths of selectable fields.
pub fn published(props: Option<&JSONSchemaProps>, fields: &[&str]) -> Value {
    let mut schema = props.and_then(|props| serde_json::to_value(props).ok()).unwrap_or_else(|| json!({}));
    shaped(&mut schema);
    if let Some(members) = schema.as_object_mut() {
        members.insert("type".into(), "object".into());
        describe(members);
        if !fields.is_empty() {
            let list: Vec<Value> = fields.iter().map(|path| json!({ "fieldPath": path })).collect();
            members.insert("x-kubernetes-selectable-fields".into(), list.into());
        }
    }
    schema
}

/// What every resource has: what it is, and its metadata.
fn describe(members: &mut Map<String, Value>) {
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else { return };
    let api_version =
        json!({ "type": "string", "description": "The group and version of this document's form." });
    let kind = json!({ "type": "string", "description": "What this document is, in CamelCase." });
    let metadata = json!({ "description": "Standard object's metadata.", "allOf": [{ "$ref": META }] });
    for (name, schema) in [("apiVersion", api_version), ("kind", kind), ("metadata", metadata)] {
        properties.insert(name.into(), schema);
    }
}

/// Whole numbers are written so; what may be a number or a text says so in plain OpenAPI too.
fn shaped(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    for limit in ["maximum", "minimum", "multipleOf"] {
        if let Some(whole) =
            members.get(limit).and_then(Value::as_f64).filter(|v| v.fract() == 0.0 && v.abs() < 1e15)
        {
            members.insert(limit.into(), json!(whole as i64));
        }
    }
    let flag =
        |members: &Map<String, Value>, name: &str| members.get(name).and_then(Value::as_bool) == Some(true);
    if flag(members, "x-kubernetes-int-or-string")
        && !members.contains_key("anyOf")
        && !members.contains_key("allOf")
    {
        members.insert("anyOf".into(), json!([{ "type": "integer" }, { "type": "string" }]));
    }
    for (name, value) in members.iter_mut() {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(shaped),
            ("items" | "additionalProperties" | "not", value) => shaped(value),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => parts.iter_mut().for_each(shaped),
            _ => {}
        }
    }
    if flag(members, "x-kubernetes-embedded-resource") {
        describe(members);
    }
}

/// Puts the schema into the generator's components.
pub fn schema(kind: &CustomKind, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<ObjectMeta>();
    let (name, schema) = &kind.published;
    generator.definitions_mut().insert(name.clone(), schema.clone());
    schemars::Schema::new_ref(format!("#/components/schemas/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_published_as_upstream() {
        let props: JSONSchemaProps = serde_json::from_value(
            json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer", "maximum": 5.0}, "p": {"x-kubernetes-int-or-string": true},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true}}}}}),
        )
        .unwrap();
        let schema = published(Some(&props), &["spec.n"]);
        assert_eq!(schema["properties"]["spec"]["properties"]["n"]["maximum"], json!(5));
        assert_eq!(
            schema["properties"]["spec"]["properties"]["p"]["anyOf"],
            json!([{"type": "integer"}, {"type": "string"}])
        );
        assert_eq!(schema["properties"]["metadata"]["allOf"][0]["$ref"], META);
        assert!(schema["properties"]["spec"]["properties"]["pod"]["properties"]["kind"].is_object());
        assert_eq!(schema["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.n"}]));
        assert_eq!(name("stable.example.com", "v1", "CronTab"), "com.example.stable.v1.CronTab");
    }
}
