//! Types of custom resources, from the OpenAPI v3 schemas of their definitions.

use serde_json::Value;

use super::types::{Items, MapParts, Parts, Ref, Scalar, Types};

/// The whole object: what the schema says, and the fields that every object has.
pub(super) fn root(types: &mut Types, schema: &Value) -> Ref {
    Build { types }.object(schema, preserves(schema))
}

fn preserves(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-preserve-unknown-fields")
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'v>(schema: &'v Value, name: &str) -> &'v str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

struct Build<'t> {
    types: &'t mut Types,
}

impl Build<'_> {
    /// An object that has apiVersion, kind and metadata, whatever its schema says of them.
    fn object(&mut self, schema: &Value, preserve: bool) -> Ref {
        let mut map = self.map(schema, preserve);
        let meta = self.types.object_meta();
        map.fields.retain(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        map.fields.extend([
            ("apiVersion".to_owned(), Ref::TEXT),
            ("kind".to_owned(), Ref::TEXT),
            ("metadata".to_owned(), meta),
        ]);
        self.types.compose(Parts { map: Some(map), ..Parts::default() })
    }

    /// `preserve`: something above lets unknown fields be.
    fn place(&mut self, schema: &Value, preserve: bool) -> Ref {
        let preserve = preserve || preserves(schema);
        if flag(schema, "x-kubernetes-embedded-resource") {
            return self.object(schema, preserve);
        }
        match text(schema, "type") {
            "integer" | "number" => Ref::NUMBER,
            "boolean" => Ref::BOOL,
            "string" if matches!(text(schema, "format"), "" | "byte") => Ref::TEXT,
            "string" => Ref::SCALAR,
            "object" => {
                let map = Some(self.map(schema, preserve));
                self.types.compose(Parts { map, ..Parts::default() })
            }
            "array" => {
                let list = Some(self.list(schema, preserve));
                self.types.compose(Parts { list, ..Parts::default() })
            }
            // Anything, or a number or text.
            _ => {
                let list = Some(self.list(schema, preserve));
                let map = Some(self.map(schema, preserve));
                self.types.compose(Parts { scalar: Some(Scalar::Any), list, map })
            }
        }
    }

    fn map(&mut self, schema: &Value, preserve: bool) -> MapParts {
        let mut fields = Vec::new();
        for (name, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            fields.push((name.clone(), self.place(below, preserve)));
        }
        let other = match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => Some(Ref::DEDUCED),
            Some(Value::Bool(false)) => None,
            Some(below) => Some(self.place(below, preserve)),
            None if preserve || fields.is_empty() => Some(Ref::DEDUCED),
            None => None,
        };
        MapParts { fields, other, atomic: text(schema, "x-kubernetes-map-type") == "atomic" }
    }

    fn list(&mut self, schema: &Value, preserve: bool) -> (Items, Ref) {
        let items = match text(schema, "x-kubernetes-list-type") {
            "set" => Items::Set,
            "map" => {
                let item = schema.get("items");
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                let default = |key: &str| item?.get("properties")?.get(key)?.get("default").cloned();
                Items::Keyed(keys.map(|key| (key.into(), default(key))).collect())
            }
            _ => Items::Atomic,
        };
        let item = match schema.get("items") {
            Some(below) => self.place(below, preserve),
            None => Ref::UNTYPED,
        };
        (items, item)
    }
}
