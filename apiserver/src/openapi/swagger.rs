//! OpenAPI v2 (Swagger) from the v3 documents, all groups in one.

use serde_json::map::Entry;
use serde_json::{Map, Value, json};

use super::components::PREFIX;

const DEFINITIONS: &str = "#/definitions/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// One v2 document of v3 documents.
pub fn merged(documents: impl Iterator<Item = Value>) -> Value {
    let mut definitions = Map::new();
    let mut paths = Map::new();
    let mut info = Value::Null;
    for mut document in documents {
        info = document["info"].take();
        if let Value::Object(schemas) = document["components"]["schemas"].take() {
            for (name, schema) in schemas {
                match definitions.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(definition(schema))),
                    Entry::Occupied(known) => unite(known.into_mut(), schema),
                }
            }
        }
        if let Value::Object(items) = document["paths"].take() {
            paths.extend(items.into_iter().map(|(path, item)| (path, path_item(item))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": info,
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "description": "Bearer Token authentication",
                "type": "apiKey",
                "in": "header",
                "name": "authorization",
            },
        },
        "security": [{ "BearerToken": [] }],
    })
}

/// Of a type that several documents have, each names the kinds it knows.
fn unite(known: &mut Value, mut other: Value) {
    let Some(Value::Array(more)) = other.get_mut(KINDS).map(Value::take) else { return };
    let Some(kinds) = known.get_mut(KINDS).and_then(Value::as_array_mut) else { return };
    for kind in more {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
}

/// A schema: references stand beside descriptions there, and a type has one form.
fn definition(schema: Value) -> Value {
    let Value::Object(fields) = schema else { return schema };
    let mut out = Map::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("$ref", Value::String(target)) => {
                out.insert(name, target.replacen(PREFIX, DEFINITIONS, 1).into());
            }
            ("allOf", Value::Array(mut one)) if one.len() == 1 => {
                if let Some(Value::Object(inner)) = one.pop().map(definition) {
                    out.extend(inner);
                }
            }
            // Quantities and the like: text, as v2 has no "one of".
            ("oneOf", _) => {
                out.insert("type".to_owned(), "string".into());
            }
            // Defaults belong to v3.
            ("default", _) => {}
            ("properties", Value::Object(properties)) => {
                let properties: Map<String, Value> =
                    properties.into_iter().map(|(field, schema)| (field, definition(schema))).collect();
                out.insert(name, properties.into());
            }
            ("items" | "additionalProperties", value) => {
                out.insert(name, definition(value));
            }
            (_, value) => {
                out.insert(name, value);
            }
        }
    }
    Value::Object(out)
}

fn path_item(item: Value) -> Value {
    let Value::Object(fields) = item else { return item };
    let converted = fields.into_iter().map(|(name, value)| {
        let value = if name == "parameters" { parameters(value) } else { operation(value) };
        (name, value)
    });
    Value::Object(converted.collect())
}

fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return list };
    let converted = list.into_iter().map(|mut parameter| {
        if let Value::Object(schema) = parameter["schema"].take()
            && let Value::Object(fields) = &mut parameter
        {
            fields.remove("schema");
            fields.extend(schema);
        }
        parameter
    });
    Value::Array(converted.collect())
}

fn operation(value: Value) -> Value {
    let Value::Object(mut fields) = value else { return value };
    let mut list = match fields.remove("parameters").map(parameters) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    fields.insert("consumes".to_owned(), json!(["*/*"]));
    if let Some(mut body) = fields.remove("requestBody")
        && let Value::Object(content) = body["content"].take()
    {
        let media_types: Vec<&String> = content.keys().collect();
        fields.insert("consumes".to_owned(), json!(media_types));
        if let Some(mut first) = content.into_iter().next().map(|(_, value)| value) {
            let schema = definition(first["schema"].take());
            list.push(json!({ "in": "body", "name": "body", "required": body["required"] == true, "schema": schema }));
        }
    }
    if !list.is_empty() {
        fields.insert("parameters".to_owned(), list.into());
    }
    if let Some(Value::Object(responses)) = fields.get_mut("responses") {
        let mut produces: Vec<String> = Vec::new();
        for response in responses.values_mut() {
            let Some(response) = response.as_object_mut() else { continue };
            let Some(Value::Object(content)) = response.remove("content") else { continue };
            produces.extend(
                content.keys().filter(|media| !produces.contains(media)).cloned().collect::<Vec<_>>(),
            );
            if let Some(mut first) = content.into_iter().next().map(|(_, value)| value) {
                response.insert("schema".to_owned(), definition(first["schema"].take()));
            }
        }
        fields.insert("produces".to_owned(), json!(produces));
    }
    fields.insert("schemes".to_owned(), json!(["https"]));
    Value::Object(fields)
}
