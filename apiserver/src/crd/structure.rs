//! What a schema does to the structure of a document: unknown fields go, nulls that may not be go, defaults come, and
//! embedded resources get well-formed metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::document::{self, metadata_of};
use super::schema::{Additional, Schema};

const META_FIELDS: &[&str] = &["apiVersion", "kind", "metadata"];

pub fn is_meta(name: &str) -> bool {
    META_FIELDS.contains(&name)
}

/// Collects what is dropped, by path; a limit keeps answers short, as upstream.
#[derive(Default)]
pub struct Unknown {
    paths: Vec<String>,
    at: Vec<String>,
}

impl Unknown {
    fn within<T>(&mut self, step: String, work: impl FnOnce(&mut Self) -> T) -> T {
        self.at.push(step);
        let result = work(self);
        self.at.pop();
        result
    }

    fn path(&self, last: &str) -> String {
        let mut path = String::new();
        for step in self.at.iter().map(String::as_str).chain(Some(last)) {
            if !path.is_empty() && !step.starts_with('[') {
                path.push('.');
            }
            path.push_str(step);
        }
        path
    }

    fn record(&mut self, name: &str) {
        let path = self.path(name);
        self.paths.push(path);
    }

    /// Sorted, as upstream names them.
    pub fn into_paths(mut self) -> Vec<String> {
        self.paths.sort();
        self.paths
    }
}

/// Removes what the schema does not know. `resource`: the value is a resource, whose metadata are not the schema's.
pub fn prune(value: &mut Value, schema: &Schema, resource: bool, unknown: &mut Unknown) {
    keep_known(value, Some(schema), resource, unknown);
}

fn keep_known(value: &mut Value, schema: Option<&Schema>, resource: bool, unknown: &mut Unknown) {
    if let Some(schema) = schema.filter(|schema| schema.preserve_unknown) {
        return look_into(value, Some(schema), resource, unknown);
    }
    match value {
        Value::Object(members) => {
            let Some(schema) = schema else {
                members.keys().for_each(|name| unknown.record(name));
                return members.clear();
            };
            let resource = resource || schema.embedded;
            let root = unknown.at.is_empty();
            members.retain(|name, member| {
                if resource && is_meta(name) {
                    return true;
                }
                let known = match (schema.properties.get(name), &schema.additional) {
                    (Some(schema), _) => Some(schema),
                    (None, Additional::Schema(schema)) => Some(&**schema),
                    // As upstream: whatever such a map holds is not known.
                    (None, Additional::Any(_)) => {
                        unknown.within(name.clone(), |unknown| keep_known(member, None, false, unknown));
                        return true;
                    }
                    _ => None,
                };
                match known {
                    Some(schema) => {
                        unknown
                            .within(name.clone(), |unknown| keep_known(member, Some(schema), false, unknown));
                    }
                    None if root && is_meta(name) => {}
                    None => unknown.record(name),
                }
                known.is_some()
            });
        }
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            for (i, item) in items.iter_mut().enumerate() {
                unknown.within(format!("[{i}]"), |unknown| keep_known(item, schema, false, unknown));
            }
        }
        _ => {}
    }
}

/// Unknown fields stay here, but those that are specified may be strict within.
fn look_into(value: &mut Value, schema: Option<&Schema>, resource: bool, unknown: &mut Unknown) {
    let Some(schema) = schema else { return };
    let resource = resource || schema.embedded;
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut().filter(|(name, _)| !(resource && is_meta(name))) {
                if let Some(schema) = schema.member(name) {
                    unknown.within(name.clone(), |unknown| keep_known(member, Some(schema), false, unknown));
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                let schema = schema.items.as_deref();
                unknown.within(format!("[{i}]"), |unknown| look_into(item, schema, false, unknown));
            }
        }
        _ => {}
    }
}

/// Nulls where none may be and no default will come.
pub fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(members) => members.retain(|name, member| {
            let schema = schema.and_then(|schema| schema.member(name));
            if member.is_null() && schema.is_some_and(|s| !s.nullable && s.default.is_none()) {
                return false;
            }
            drop_nulls(member, schema);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            items.iter_mut().for_each(|item| drop_nulls(item, schema));
        }
        _ => {}
    }
}

/// Puts defaults in; a null that may not be is as good as nothing.
pub fn set_defaults(value: &mut Value, schema: &Schema) {
    let unset = |value: &Value, schema: &Schema| value.is_null() && !schema.nullable;
    match value {
        Value::Object(members) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if members.get(name).is_none_or(|value| unset(value, property)) {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, member) in members.iter_mut() {
                let Some(schema) = schema.member(name) else { continue };
                if let Some(default) = schema.default.as_ref().filter(|_| unset(member, schema)) {
                    *member = default.clone();
                }
                set_defaults(member, schema);
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            for item in items {
                if let Some(default) = schema.default.as_ref().filter(|_| unset(item, schema)) {
                    *item = default.clone();
                }
                set_defaults(item, schema);
            }
        }
        _ => {}
    }
}

/// What stands at the wrong place in an embedded resource: path, value, what is wrong.
pub struct Malformed {
    pub path: String,
    pub value: Value,
    pub why: String,
}

/// Gives embedded resources metadata of the right types, without fields that are none of it.
pub fn coerce(value: &mut Value, schema: &Schema, unknown: &mut Unknown) -> Result<(), Malformed> {
    match value {
        Value::Object(members) => {
            if schema.embedded {
                coerce_resource(members, unknown)?;
            }
            for (name, member) in members.iter_mut() {
                if let Some(schema) = schema.member(name) {
                    unknown.within(name.clone(), |unknown| coerce(member, schema, unknown))?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                unknown.within(format!("[{i}]"), |unknown| coerce(item, schema, unknown))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn coerce_resource(members: &mut Map<String, Value>, unknown: &mut Unknown) -> Result<(), Malformed> {
    for name in ["apiVersion", "kind"] {
        if let Some(value) = members.get(name).filter(|value| !value.is_string()) {
            return Err(Malformed {
                path: unknown.path(name),
                value: value.clone(),
                why: "must be a string".into(),
            });
        }
    }
    let Some(metadata) = members.get_mut("metadata") else { return Ok(()) };
    match metadata_of(metadata) {
        Ok((meta, dropped)) => {
            unknown.within("metadata".into(), |unknown| dropped.iter().for_each(|name| unknown.record(name)));
            *metadata = document::metadata_value(&meta);
            Ok(())
        }
        Err(why) => Err(Malformed { path: unknown.path("metadata"), value: metadata.clone(), why }),
    }
}

/// The metadata of an embedded resource, empty where there are none.
pub fn embedded_meta(members: &Map<String, Value>) -> ObjectMeta {
    members.get("metadata").and_then(|m| metadata_of(m).ok()).map(|(meta, _)| meta).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(json: Value) -> Schema {
        Schema::of(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn unknown_fields_go_unless_they_are_kept() {
        let inner = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let spec = json!({"type": "object", "properties": {
            "known": {"type": "string"},
            "nested": inner,
            "list": {"type": "array", "items": inner},
            "map": {"type": "object", "additionalProperties": inner},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"strict": inner}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": inner}},
        }});
        let schema = schema(json!({"type": "object", "properties": {"spec": spec}}));
        let mut value = json!({
            "apiVersion": "g/v1", "kind": "K", "metadata": {"any": 1}, "other": 1,
            "spec": {
                "known": "x", "unknown": 1, "nested": {"a": "x", "b": 1},
                "list": [{"a": "x"}, {"b": [1]}],
                "map": {"k": {"a": "x", "b": 1}},
                "free": {"any": {"thing": 1}, "strict": {"b": 1}},
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": "x"}, "status": 1},
            },
        });
        let mut unknown = Unknown::default();
        prune(&mut value, &schema, true, &mut unknown);
        assert_eq!(
            unknown.into_paths(),
            [
                "other",
                "spec.free.strict.b",
                "spec.list[1].b",
                "spec.map.k.b",
                "spec.nested.b",
                "spec.pod.status",
                "spec.unknown",
            ]
        );
        assert_eq!(
            value["spec"],
            json!({
                "known": "x", "nested": {"a": "x"}, "list": [{"a": "x"}, {}], "map": {"k": {"a": "x"}},
                "free": {"any": {"thing": 1}, "strict": {}},
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": "x"}},
            })
        );
    }

    #[test]
    fn defaults_come_where_nothing_is() {
        let schema = schema(json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 5},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
            "n": {"type": "string", "nullable": true, "default": "y"},
            "z": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "integer", "default": 80}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"p": {"type": "integer", "default": 1}}}},
        }}));
        for (before, after) in [
            (json!({}), json!({"a": 5, "b": {"c": "x"}, "n": "y"})),
            (json!({"a": null, "n": null, "z": null}), json!({"a": 5, "b": {"c": "x"}, "n": null})),
            (
                json!({"a": 1, "b": {"c": "q"}, "n": "", "list": [{}, {"p": 1}], "map": {"k": {}}}),
                json!({"a": 1, "b": {"c": "q"}, "n": "", "list": [{"p": 80}, {"p": 1}], "map": {"k": {"p": 1}}}),
            ),
        ] {
            let mut value = before.clone();
            drop_nulls(&mut value, Some(&schema));
            set_defaults(&mut value, &schema);
            assert_eq!(value, after, "{before}");
        }
    }

    #[test]
    fn embedded_resources_have_the_metadata_they_may_have() {
        let schema = schema(json!({"type": "object", "properties": {
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        }}));
        let mut unknown = Unknown::default();
        let mut value = json!({"pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "odd": 1, "labels": {"a": "b"}}}});
        assert!(coerce(&mut value, &schema, &mut unknown).is_ok());
        assert_eq!(value["pod"]["metadata"], json!({"name": "x", "labels": {"a": "b"}}));
        assert_eq!(unknown.into_paths(), ["pod.metadata.odd"]);
        for (pod, path) in
            [(json!({"kind": 5}), "pod.kind"), (json!({"metadata": {"labels": 5}}), "pod.metadata")]
        {
            let fault = coerce(&mut json!({"pod": pod}), &schema, &mut Unknown::default()).err().unwrap();
            assert_eq!(fault.path, path);
        }
    }
}
