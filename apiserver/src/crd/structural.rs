//! The rules that make a schema structural: every value's shape is said once, outside of alternatives.

use crate::field_error::Errors;

use super::schema::{Additional, Schema};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps a schema from being structural; errors come sorted, as upstream's.
pub fn check(path: &str, schema: &Schema) -> Errors {
    let mut errors = Errors::default();
    invariants(schema, Level::Root, path, &mut errors);
    complete(schema, Some(schema), path, path, &mut errors);
    errors.sort();
    errors
}

fn invariants(schema: &Schema, level: Level, path: &str, errors: &mut Errors) {
    if schema.type_ == "array" && schema.items.is_none() {
        errors.required(format!("{path}.items"), "must be specified");
    }
    if let Some(items) = &schema.items {
        invariants(items, Level::Item, &format!("{path}.items"), errors);
    }
    for (name, property) in &schema.properties {
        invariants(property, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    let additional = format!("{path}.additionalProperties");
    if !matches!(schema.additional, Additional::Unsaid) {
        if level == Level::Root {
            errors.forbidden(additional.as_str(), "must not be used at the root");
        }
        if schema.embedded {
            errors
                .forbidden(additional.as_str(), "must not be used if x-kubernetes-embedded-resource is set");
        }
    }
    if let Additional::Schema(inner) = &schema.additional {
        invariants(inner, Level::Field, &additional, errors);
    }
    if schema.int_or_string && schema.preserve_unknown {
        let detail = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(format!("{path}.x-kubernetes-preserve-unknown-fields"), true, detail);
    }
    if schema.int_or_string && schema.embedded {
        let detail = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(format!("{path}.x-kubernetes-embedded-resource"), true, detail);
    }
    alternatives(schema, path, errors);
    kind_of(schema, level, path, errors);
    resource(schema, level, path, errors);
}

fn kind_of(schema: &Schema, level: Level, path: &str, errors: &mut Errors) {
    let field = format!("{path}.type");
    let type_ = schema.type_.as_str();
    if schema.embedded && type_ != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if type_.is_empty() {
            errors.required(field.as_str(), detail);
        } else {
            errors.invalid(field.as_str(), type_, detail);
        }
    } else if type_.is_empty() && !schema.int_or_string && !schema.preserve_unknown {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(field.as_str(), detail);
    }
    if level == Level::Root && !type_.is_empty() && type_ != "object" {
        errors.invalid(field, type_, "must be object at the root");
    }
}

/// What is said of the fields that every resource has.
fn resource(schema: &Schema, level: Level, path: &str, errors: &mut Errors) {
    let is_resource = level == Level::Root || schema.embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(property) = schema.properties.get(name).filter(|p| is_resource && p.type_ != "string") {
            errors.invalid(format!("{path}.properties[{name}].type"), &property.type_, "must be string");
        }
    }
    if let Some(metadata) = schema.properties.get("metadata") {
        let path = format!("{path}.properties[metadata]");
        if is_resource && metadata.type_ != "object" {
            errors.invalid(format!("{path}.type"), &metadata.type_, "must be object");
        }
        if level == Level::Root && !says_only_names(metadata) {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(path, detail);
        }
    }
    if schema.embedded && !schema.preserve_unknown && schema.properties.is_empty() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(format!("{path}.properties"), detail);
    }
}

fn says_only_names(metadata: &Schema) -> bool {
    let names = metadata.properties.keys().all(|name| matches!(name.as_str(), "name" | "generateName"));
    let rest =
        Schema { type_: String::new(), properties: Default::default(), default: None, ..metadata.clone() };
    // Patterns do not compare; their text does.
    names && format!("{rest:?}") == format!("{:?}", Schema::default())
}

/// The one way in which alternatives may name types: that a value is a number or a text.
fn says_int_or_string(alternatives: &[Schema]) -> bool {
    let types: Vec<&str> = alternatives.iter().map(|schema| schema.type_.as_str()).collect();
    types == ["integer", "string"]
}

fn alternatives(schema: &Schema, path: &str, errors: &mut Errors) {
    if !says_int_or_string(&schema.any_of) {
        for (i, nested) in schema.any_of.iter().enumerate() {
            inside(nested, &format!("{path}.anyOf[{i}]"), false, errors);
        }
    }
    for (i, nested) in schema.all_of.iter().enumerate() {
        let exempt = i == 0 && says_int_or_string(&nested.any_of);
        inside(nested, &format!("{path}.allOf[{i}]"), exempt, errors);
    }
    for (i, nested) in schema.one_of.iter().enumerate() {
        inside(nested, &format!("{path}.oneOf[{i}]"), false, errors);
    }
    if let Some(not) = &schema.not {
        inside(not, &format!("{path}.not"), false, errors);
    }
    if let Some(pattern) = &schema.pattern
        && let Err(why) = &pattern.regex
    {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(format!("{path}.pattern"), &pattern.source, detail);
    }
}

/// A schema under a junctor restricts values and does not say what they are.
fn inside(schema: &Schema, path: &str, exempt: bool, errors: &mut Errors) {
    if exempt {
        let rest = Schema { any_of: Vec::new(), ..schema.clone() };
        alternatives(&rest, path, errors);
    } else {
        alternatives(schema, path, errors);
    }
    if let Some(items) = &schema.items {
        inside(items, &format!("{path}.items"), false, errors);
    }
    for (name, property) in &schema.properties {
        inside(property, &format!("{path}.properties[{name}]"), false, errors);
    }
    for (said, name, detail) in [
        (!schema.type_.is_empty(), "type", "must be empty to be structural"),
        (
            !matches!(schema.additional, Additional::Unsaid),
            "additionalProperties",
            "must be undefined to be structural",
        ),
        (schema.default.is_some(), "default", "must be undefined to be structural"),
        (!schema.title.is_empty(), "title", "must be empty to be structural"),
        (!schema.description.is_empty(), "description", "must be empty to be structural"),
        (schema.nullable, "nullable", "must be false to be structural"),
        (schema.preserve_unknown, "x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        (schema.embedded, "x-kubernetes-embedded-resource", "must be false to be structural"),
        (schema.int_or_string, "x-kubernetes-int-or-string", "must be false to be structural"),
        (!schema.list_map_keys.is_empty(), "x-kubernetes-list-map-keys", "must be empty to be structural"),
        (schema.list_type.is_some(), "x-kubernetes-list-type", "must be undefined to be structural"),
        (schema.map_type.is_some(), "x-kubernetes-map-type", "must be undefined to be structural"),
        (!schema.rules.is_empty(), "x-kubernetes-validations", "must be empty to be structural"),
        (
            schema.properties.contains_key("metadata"),
            "properties[metadata]",
            "must not be specified in a nested context",
        ),
    ] {
        if said {
            errors.forbidden(format!("{path}.{name}"), detail);
        }
    }
}

/// Whatever alternatives speak of is specified outside of them.
fn complete(nested: &Schema, outside: Option<&Schema>, outside_path: &str, path: &str, errors: &mut Errors) {
    let junctors = [("allOf", &nested.all_of), ("anyOf", &nested.any_of), ("oneOf", &nested.one_of)];
    for (name, list) in junctors {
        for (i, part) in list.iter().enumerate() {
            completed(part, outside, outside_path, &format!("{path}.{name}[{i}]"), errors);
        }
    }
    if let Some(not) = &nested.not {
        completed(not, outside, outside_path, &format!("{path}.not"), errors);
    }
    // The structural part of the root goes on below.
    if std::ptr::eq(nested, outside.unwrap_or(nested)) {
        let Some(schema) = outside else { return };
        for (name, property) in &schema.properties {
            let path = format!("{path}.properties[{name}]");
            complete(property, Some(property), &path, &path, errors);
        }
        for (name, part) in [("items", schema.items.as_deref()), ("additionalProperties", additional(schema))]
        {
            if let Some(part) = part {
                let path = format!("{path}.{name}");
                complete(part, Some(part), &path, &path, errors);
            }
        }
    }
}

fn additional(schema: &Schema) -> Option<&Schema> {
    match &schema.additional {
        Additional::Schema(schema) => Some(schema),
        _ => None,
    }
}

fn completed(nested: &Schema, outside: Option<&Schema>, outside_path: &str, path: &str, errors: &mut Errors) {
    let Some(schema) = outside else {
        errors.required(outside_path, &format!("because it is defined in {path}"));
        return;
    };
    complete(nested, Some(schema), outside_path, path, errors);
    if let Some(items) = &nested.items {
        let (outside_path, path) = (format!("{outside_path}.items"), format!("{path}.items"));
        completed(items, schema.items.as_deref(), &outside_path, &path, errors);
    }
    for (name, property) in &nested.properties {
        let outside_path = format!("{outside_path}.properties[{name}]");
        let path = format!("{path}.properties[{name}]");
        completed(property, schema.properties.get(name), &outside_path, &path, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lines(schema: Value) -> Vec<String> {
        let schema = Schema::of(&serde_json::from_value(schema).unwrap());
        check("s", &schema).into_causes().into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn what_is_not_structural_is_named() {
        let spec = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
        for (schema, want) in [
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (json!({"type": "string"}), "s.type: Invalid value: \"string\": must be object at the root"),
            (
                spec(json!({})),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (spec(json!({"type": "array"})), "s.properties[a].items: Required value: must be specified"),
            (
                spec(json!({"type": "array", "items": {}})),
                "s.properties[a].items.type: Required value: must not be empty for specified array items",
            ),
            (
                spec(json!({"type": "string", "pattern": "("})),
                "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
            ),
            (
                spec(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                "s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                spec(json!({"type": "string", "not": {"description": "x"}})),
                "s.properties[a].not.description: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                "s.additionalProperties: Forbidden: must not be used at the root",
            ),
            (
                json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1.0}}}]}),
                "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "description": "x"}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName",
            ),
            (
                json!({"type": "object", "properties": {"kind": {"type": "integer"}}}),
                "s.properties[kind].type: Invalid value: \"integer\": must be string",
            ),
            (
                spec(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
                "s.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true",
            ),
        ] {
            let found = lines(schema.clone());
            assert!(found.len() == 1 && found[0].starts_with(want), "{schema}\n{want}\n{found:#?}");
        }
    }

    #[test]
    fn structural_schemas_pass() {
        for schema in [
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "object", "properties": {
                "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}},
                "p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "q": {"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "a"}]},
                "spec": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}, {"properties": {"a": {"enum": ["x"]}}}]},
            }}),
        ] {
            assert_eq!(lines(schema), Vec::<String>::new());
        }
    }
}
