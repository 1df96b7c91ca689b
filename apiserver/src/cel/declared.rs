//! Types as a schema declares them: the fields that expressions see, and how large values can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::escape::escape;
use super::types::Type;

/// The largest request, which bounds what no schema bounds.
const REQUEST_BYTES_MAX: i64 = 3 * 1024 * 1024;

/// The type of a part of an object, with the bounds by which the cost of a rule is estimated before any object is there.
#[derive(Debug)]
pub struct DeclaredType {
    pub(super) kind: Declared,
    pub(super) of: Type,
    /// Characters, bytes, items or entries; what a date in JSON has for a timestamp. Zero for what has no size.
    pub(super) size_max: i64,
    /// The fewest bytes such a value has in JSON.
    pub(super) json_bytes_min: i64,
    /// Where in the schema this is, `.spec.items.@idx`.
    pub(super) path: String,
}

#[derive(Debug)]
pub(super) enum Declared {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Date,
    DateTime,
    Duration,
    IntOrString,
    List { items: Arc<DeclaredType>, list_kind: ListKind },
    Map { values: Arc<DeclaredType> },
    Object(Arc<ObjectType>),
}

/// What makes two lists equal and how they are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// As in any language.
    Atomic,
    /// Without order; `+` is the union.
    Set,
    /// Items are told apart by these fields; `+` replaces items with the same keys and appends the others.
    Map(Vec<String>),
}

/// An object's fields, by the identifiers that expressions call them by.
#[derive(Debug)]
pub struct ObjectType {
    pub(super) path: String,
    pub(super) fields: BTreeMap<String, DeclaredField>,
}

#[derive(Debug)]
pub(super) struct DeclaredField {
    /// The name in JSON.
    pub name: String,
    pub declared: Arc<DeclaredType>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.path == other.path
    }
}

impl Eq for ObjectType {}

impl ObjectType {
    /// A field by its identifier. Words that are reserved elsewhere can be written as they are after a dot.
    pub(super) fn field(&self, identifier: &str) -> Option<&DeclaredField> {
        self.fields.get(identifier).or_else(|| {
            let escaped = escape(identifier).filter(|escaped| *escaped == format!("__{identifier}__"))?;
            self.fields.get(&escaped)
        })
    }
}

impl DeclaredType {
    /// The type that a structural schema, as JSON, declares; none if its values cannot be seen by expressions: what has no type,
    /// or holds what has none. `resource_root` is set for the schema of a whole custom resource, which always has
    /// `apiVersion`, `kind` and `metadata` with `name` and `generateName`, and no other metadata.
    pub fn from_schema(schema: &Json, resource_root: bool) -> Option<Arc<DeclaredType>> {
        from_schema(schema, resource_root, String::new())
    }

    /// The type of a field, by its name in JSON. None if expressions cannot see it.
    pub fn field(&self, name: &str) -> Option<&Arc<DeclaredType>> {
        match &self.kind {
            Declared::Object(object) => object.fields.get(&escape(name)?).map(|field| &field.declared),
            _ => None,
        }
    }

    /// The type of a list's items or of a map's values.
    pub fn element(&self) -> Option<&Arc<DeclaredType>> {
        match &self.kind {
            Declared::List { items, .. } => Some(items),
            Declared::Map { values } => Some(values),
            _ => None,
        }
    }

    /// How often such a value can occur in one request at most: what a rule's cost is multiplied by if it is under unbounded lists or maps.
    pub fn cardinality_max(&self) -> u64 {
        // At least one comma is between two values.
        (REQUEST_BYTES_MAX / (self.json_bytes_min + 1)) as u64
    }

    /// The type as expressions see it.
    pub fn as_type(&self) -> &Type {
        &self.of
    }
}

fn count(schema: &Json, key: &str) -> Option<i64> {
    let value = schema.get(key)?;
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64)).map(|number| number.max(0))
}

fn is_set(schema: &Json, key: &str) -> bool {
    schema.get(key).and_then(Json::as_bool).unwrap_or_default()
}

fn from_schema(schema: &Json, resource_root: bool, path: String) -> Option<Arc<DeclaredType>> {
    let declared = |kind, of, size_max, json_bytes_min, path| {
        Some(Arc::new(DeclaredType { kind, of, size_max, json_bytes_min, path }))
    };
    if is_set(schema, "x-kubernetes-int-or-string") {
        // The longest string, which may be counted in characters of four bytes.
        let size_max =
            count(schema, "maxLength").map_or(REQUEST_BYTES_MAX - 2, |length| length.saturating_mul(4));
        return declared(Declared::IntOrString, Type::Dyn, size_max, 1, path);
    }
    match schema.get("type").and_then(Json::as_str)? {
        "array" => {
            let items = schema.get("items")?;
            let items =
                from_schema(items, is_set(items, "x-kubernetes-embedded-resource"), format!("{path}.@idx"))?;
            let size_max =
                count(schema, "maxItems").unwrap_or((REQUEST_BYTES_MAX - 2) / (items.json_bytes_min + 1));
            let list_kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
                Some("set") => ListKind::Set,
                Some("map") => {
                    ListKind::Map(names(schema, "x-kubernetes-list-map-keys").map(str::to_owned).collect())
                }
                _ => ListKind::Atomic,
            };
            let of = Type::list(items.of.clone());
            declared(Declared::List { items, list_kind }, of, size_max, 2, path)
        }
        "object" => {
            let values = if resource_root {
                None
            } else {
                schema.get("additionalProperties").filter(|values| values.is_object())
            };
            if let Some(values) = values {
                let values = from_schema(
                    values,
                    is_set(values, "x-kubernetes-embedded-resource"),
                    format!("{path}.@elem"),
                )?;
                // A key of two bytes, quotes, a colon and a comma.
                let size_max = count(schema, "maxProperties")
                    .unwrap_or((REQUEST_BYTES_MAX - 2) / (values.json_bytes_min + 6));
                let of = Type::map(Type::String, values.of.clone());
                return declared(Declared::Map { values }, of, size_max, 2, path);
            }
            let (object, json_bytes_min) = object(schema, resource_root, path.clone());
            let object = Arc::new(object);
            declared(Declared::Object(object.clone()), Type::Object(object), 0, json_bytes_min, path)
        }
        "string" => string(schema, path),
        "boolean" => declared(Declared::Bool, Type::Bool, 0, 4, path),
        "number" => declared(Declared::Double, Type::Double, 0, 1, path),
        "integer" => declared(Declared::Int, Type::Int, 0, 1, path),
        _ => None,
    }
}

fn names<'a>(schema: &'a Json, key: &str) -> impl Iterator<Item = &'a str> {
    schema.get(key).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn object(schema: &Json, resource_root: bool, path: String) -> (ObjectType, i64) {
    let string = serde_json::json!({"type": "string"});
    let metadata = serde_json::json!({"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}});
    let mut properties: BTreeMap<&str, &Json> = schema
        .get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .map(|(name, property)| (name.as_str(), property))
        .collect();
    if resource_root {
        properties.insert("apiVersion", &string);
        properties.insert("kind", &string);
        properties.insert("metadata", &metadata);
    }
    let required: Vec<&str> = names(schema, "required").collect();
    let mut fields = BTreeMap::new();
    // `{}`
    let mut json_bytes_min = 2;
    for (name, property) in properties {
        let embedded = is_set(property, "x-kubernetes-embedded-resource");
        let identifier = escape(name);
        let field_path = format!("{path}.{}", identifier.as_deref().unwrap_or(name));
        let Some(declared) = from_schema(property, embedded, field_path) else { continue };
        if required.contains(&name) && property.get("default").is_none_or(Json::is_null) {
            json_bytes_min += name.len() as i64 + declared.json_bytes_min + 4;
        }
        if let Some(identifier) = identifier {
            fields.insert(identifier, DeclaredField { name: name.to_owned(), declared });
        }
    }
    (ObjectType { path, fields }, json_bytes_min)
}

fn string(schema: &Json, path: String) -> Option<Arc<DeclaredType>> {
    let length_max = count(schema, "maxLength");
    let unbounded = REQUEST_BYTES_MAX - 2;
    let (kind, of, size_max, json_bytes_min) = match schema.get("format").and_then(Json::as_str) {
        Some("byte") => (Declared::Bytes, Type::Bytes, length_max.unwrap_or(unbounded), 2),
        Some("duration") => (Declared::Duration, Type::Duration, 32, 3),
        Some("date") => (Declared::Date, Type::Timestamp, 12, 12),
        Some("date-time") => (Declared::DateTime, Type::Timestamp, 32, 21),
        _ => {
            let longest = |values: &Vec<Json>| {
                values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or_default() as i64
            };
            let size_max = match (length_max, schema.get("enum").and_then(Json::as_array)) {
                (Some(length), _) => length.saturating_mul(4),
                (None, Some(values)) if !values.is_empty() => longest(values),
                (None, _) => unbounded,
            };
            (Declared::String, Type::String, size_max, 2)
        }
    };
    Some(Arc::new(DeclaredType { kind, of, size_max, json_bytes_min, path }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_declared_by_their_identifiers() {
        let schema = json!({"type": "object", "properties": {
            "a-b": {"type": "integer"},
            "untyped": {"x-kubernetes-preserve-unknown-fields": true},
            "items": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 5}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "port": {"x-kubernetes-int-or-string": true},
        }});
        let declared = DeclaredType::from_schema(&schema, true).unwrap();
        let Declared::Object(object) = &declared.kind else { panic!() };
        let names: Vec<&str> = object.fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["a__dash__b", "apiVersion", "items", "kind", "labels", "metadata", "port"]);
        let items = declared.field("items").unwrap();
        assert_eq!((items.size_max, items.element().unwrap().size_max), (3, 20));
        assert!(declared.field("untyped").is_none());
        assert!(declared.field("a-b").is_some());
    }

    #[test]
    fn the_smallest_object_counts_what_it_must_hold() {
        let schema = json!({"type": "object", "required": ["name", "size"], "properties": {
            "name": {"type": "string"}, "size": {"type": "integer", "default": 1},
        }});
        let declared = DeclaredType::from_schema(&schema, false).unwrap();
        // {} and "name":"",
        assert_eq!(declared.json_bytes_min, 2 + 4 + 2 + 4);
        assert_eq!(declared.cardinality_max(), 3 * 1024 * 1024 / 13);
    }
}
