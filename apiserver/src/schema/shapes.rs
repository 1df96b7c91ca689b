//! The fields of every type that the served kinds reach, in a compact tree that is built when it is first asked for.

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::{Resource, api};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::kinds;

/// What a JSON value of a field looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything: free JSON.
    Any,
    Bool,
    /// 32 and 64 bits alike.
    Integer,
    Number,
    Text,
    /// Base64 text.
    Bytes,
    Time,
    MicroTime,
    /// Text in JSON, nanoseconds in protobuf.
    Duration,
    Quantity,
    IntOrString,
    /// By index into [`Types`].
    Object(u32),
    List(Box<Shape>),
    Map(Box<Shape>),
}

#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    pub shape: Shape,
}

/// A struct of the API.
#[derive(Debug)]
pub struct Object {
    /// As OpenAPI names it: `io.k8s.api.core.v1.PodSpec`.
    pub name: Box<str>,
    /// In the order of their names.
    fields: Box<[Field]>,
}

impl Object {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        self.fields.get(at)
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

#[derive(Default)]
pub struct Types {
    objects: Vec<Object>,
    names: HashMap<Box<str>, u32>,
    /// By apiVersion and kind.
    kinds: HashMap<(String, String), u32>,
}

/// The types of all kinds that can be served and of the documents beside them.
pub fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| {
        let mut generator = SchemaSettings::openapi3().into_generator();
        let mut roots = documents(&mut generator);
        roots.push(("v1".to_owned(), "Status".to_owned(), generator.subschema_for::<meta::Status>()));
        for kind in kinds::all().into_iter().chain(kinds::off_by_default()) {
            let schema = kind.ops.schema(&mut generator);
            roots.push((kind.resource.api_version(), kind.resource.kind().to_owned(), schema));
        }
        Types::build(&generator, roots)
    })
}

/// The apiVersion, kind and schema of what subresources and virtual resources take in their bodies.
pub fn documents(generator: &mut SchemaGenerator) -> Vec<(String, String, Schema)> {
    fn of<T: JsonSchema + Resource>(generator: &mut SchemaGenerator) -> (String, String, Schema) {
        (T::API_VERSION.to_owned(), T::KIND.to_owned(), generator.subschema_for::<T>())
    }
    vec![
        ("v1".to_owned(), "DeleteOptions".to_owned(), generator.subschema_for::<meta::DeleteOptions>()),
        of::<api::core::v1::Binding>(generator),
        of::<api::policy::v1::Eviction>(generator),
        of::<api::autoscaling::v1::Scale>(generator),
        of::<api::authentication::v1::TokenRequest>(generator),
        of::<api::authentication::v1::TokenReview>(generator),
        of::<api::authentication::v1::SelfSubjectReview>(generator),
        of::<api::authorization::v1::SelfSubjectAccessReview>(generator),
        of::<api::authorization::v1::SelfSubjectRulesReview>(generator),
        of::<api::authorization::v1::SubjectAccessReview>(generator),
        of::<api::authorization::v1::LocalSubjectAccessReview>(generator),
    ]
}

impl Types {
    pub fn named(&self, name: &str) -> Option<&Object> {
        self.get(*self.names.get(name)?)
    }

    pub fn get(&self, index: u32) -> Option<&Object> {
        self.objects.get(index as usize)
    }

    /// All types, by name.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Object)> {
        self.objects.iter().map(|object| (&*object.name, object))
    }

    /// The type of a served kind.
    pub fn of(&self, kind: &kinds::KindDef) -> Option<&Object> {
        self.kind(&kind.resource.api_version(), kind.resource.kind())
    }

    /// The type that documents of this apiVersion and kind have.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&Object> {
        // Every group takes the same options.
        let api_version = if kind == "DeleteOptions" { "v1" } else { api_version };
        self.get(*self.kinds.get(&(api_version.to_owned(), kind.to_owned()))?)
    }

    /// The apiVersion, kind and type of every document.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &str, &Object)> {
        self.kinds.iter().filter_map(|((api_version, kind), index)| {
            Some((api_version.as_str(), kind.as_str(), self.get(*index)?))
        })
    }

    pub fn build(generator: &SchemaGenerator, roots: Vec<(String, String, Schema)>) -> Self {
        let definitions = generator.definitions();
        let mut types = Self::default();
        for (name, schema) in definitions {
            if schema.get("properties").is_some_and(Value::is_object) {
                let index = u32::try_from(types.names.len()).unwrap_or(u32::MAX);
                types.names.insert(name.as_str().into(), index);
                types.objects.push(Object { name: name.as_str().into(), fields: Box::default() });
            }
        }
        for (name, schema) in definitions {
            let Some(index) = types.names.get(name.as_str()).copied() else { continue };
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
            let mut fields: Vec<Field> = properties
                .iter()
                .map(|(name, schema)| Field { name: name.as_str().into(), shape: types.shape(schema) })
                .collect();
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            if let Some(object) = types.objects.get_mut(index as usize) {
                object.fields = fields.into_boxed_slice();
            }
        }
        for (api_version, kind, schema) in roots {
            if let Shape::Object(index) = types.shape(schema.as_value()) {
                types.kinds.insert((api_version, kind), index);
            }
        }
        types
    }

    fn shape(&self, schema: &Value) -> Shape {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return match name.rsplit('.').next().unwrap_or_default() {
                "Time" => Shape::Time,
                "MicroTime" => Shape::MicroTime,
                "Duration" => Shape::Duration,
                "Quantity" => Shape::Quantity,
                "IntOrString" => Shape::IntOrString,
                _ => self.names.get(name).map_or(Shape::Any, |index| Shape::Object(*index)),
            };
        }
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "boolean" => Shape::Bool,
            "integer" => Shape::Integer,
            "number" => Shape::Number,
            "string" if text("format") == "byte" => Shape::Bytes,
            "string" => Shape::Text,
            "array" => Shape::List(Box::new(schema.get("items").map_or(Shape::Any, |item| self.shape(item)))),
            "object" => match schema.get("additionalProperties") {
                Some(value) => Shape::Map(Box::new(self.shape(value))),
                None => Shape::Any,
            },
            _ => Shape::Any,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_known_fields() {
        let types = types();
        let shape = |type_: &str, field: &str| {
            types.named(&format!("io.k8s.{type_}")).unwrap().field(field).unwrap().shape.clone()
        };
        assert_eq!(shape("apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp"), Shape::Time);
        assert_eq!(
            shape("apimachinery.pkg.apis.meta.v1.ObjectMeta", "labels"),
            Shape::Map(Box::new(Shape::Text))
        );
        assert_eq!(shape("api.core.v1.ConfigMap", "binaryData"), Shape::Map(Box::new(Shape::Bytes)));
        assert_eq!(
            shape("apimachinery.pkg.apis.meta.v1.DeleteOptions", "gracePeriodSeconds"),
            Shape::Integer
        );
        assert!(matches!(shape("api.core.v1.Binding", "target"), Shape::Object(_)));
    }

    #[test]
    fn the_tree_is_small() {
        let types = types();
        let fields: usize = types.objects.iter().map(|o| o.fields.len()).sum();
        let bytes = fields * (std::mem::size_of::<Field>() + 24) + types.objects.len() * 128;
        assert!(bytes < 1024 * 1024, "{fields} fields, about {bytes} bytes");
    }
}
