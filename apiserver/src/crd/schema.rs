//! A version's schema in the form that decoding, defaulting and validation walk: parsed once for a definition.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use regex::Regex;
use serde_json::Value;

/// What `additionalProperties` says.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    #[default]
    Unsaid,
    Any(bool),
    Schema(Box<Schema>),
}

#[derive(Clone, Debug)]
pub struct Pattern {
    pub source: String,
    /// Unless it is no regular expression.
    pub regex: Result<Regex, String>,
}

/// A schema or a part of one. Absent texts are empty.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub type_: String,
    /// Only formats that are known; others say nothing.
    pub format: String,
    pub title: String,
    pub description: String,
    pub nullable: bool,
    pub default: Option<Value>,

    pub properties: BTreeMap<String, Schema>,
    pub additional: Additional,
    pub items: Option<Box<Schema>>,

    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list_type: Option<String>,
    pub list_map_keys: Vec<String>,
    pub map_type: Option<String>,
    pub rules: Vec<ValidationRule>,

    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,

    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

impl Schema {
    pub fn of(props: &JSONSchemaProps) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let flag = |flag: Option<bool>| flag.unwrap_or(false);
        let list = |list: &Option<Vec<JSONSchemaProps>>| list.iter().flatten().map(Self::of).collect();
        Self {
            type_: text(&props.type_),
            format: props
                .format
                .clone()
                .filter(|format| super::formats::applies(&text(&props.type_), format))
                .unwrap_or_default(),
            title: text(&props.title),
            description: text(&props.description),
            nullable: flag(props.nullable),
            default: props.default.as_ref().map(|json| json.0.clone()).filter(|value| !value.is_null()),
            properties: props
                .properties
                .iter()
                .flatten()
                .map(|(name, props)| (name.clone(), Self::of(props)))
                .collect(),
            additional: match &props.additional_properties {
                None => Additional::Unsaid,
                Some(JSONSchemaPropsOrBool::Bool(allowed)) => Additional::Any(*allowed),
                Some(JSONSchemaPropsOrBool::Schema(props)) => Additional::Schema(Box::new(Self::of(props))),
            },
            items: match &props.items {
                Some(JSONSchemaPropsOrArray::Schema(props)) => Some(Box::new(Self::of(props))),
                _ => None,
            },
            preserve_unknown: flag(props.x_kubernetes_preserve_unknown_fields),
            embedded: flag(props.x_kubernetes_embedded_resource),
            int_or_string: flag(props.x_kubernetes_int_or_string),
            list_type: props.x_kubernetes_list_type.clone(),
            list_map_keys: props.x_kubernetes_list_map_keys.clone().unwrap_or_default(),
            map_type: props.x_kubernetes_map_type.clone(),
            rules: props.x_kubernetes_validations.clone().unwrap_or_default(),
            maximum: props.maximum,
            exclusive_maximum: flag(props.exclusive_maximum),
            minimum: props.minimum,
            exclusive_minimum: flag(props.exclusive_minimum),
            multiple_of: props.multiple_of,
            max_length: props.max_length,
            min_length: props.min_length,
            pattern: props.pattern.as_ref().filter(|p| !p.is_empty()).map(|source| Pattern {
                source: source.clone(),
                regex: Regex::new(source).map_err(|error| error.to_string()),
            }),
            max_items: props.max_items,
            min_items: props.min_items,
            unique_items: flag(props.unique_items),
            max_properties: props.max_properties,
            min_properties: props.min_properties,
            required: props.required.clone().unwrap_or_default(),
            enumeration: props.enum_.iter().flatten().map(|json| json.0.clone()).collect(),
            all_of: list(&props.all_of),
            any_of: list(&props.any_of),
            one_of: list(&props.one_of),
            not: props.not.as_ref().map(|props| Box::new(Self::of(props))),
        }
    }

    /// The schema of a member of an object.
    pub fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    pub fn is_map_list(&self) -> bool {
        self.list_type.as_deref() == Some("map")
    }

    /// Whether it or anything within it sets a default.
    pub fn has_defaults(&self) -> bool {
        self.default.is_some() || self.parts().any(Schema::has_defaults)
    }

    /// What objects are made of: members and items, but not alternatives.
    fn parts(&self) -> impl Iterator<Item = &Schema> {
        let additional = match &self.additional {
            Additional::Schema(schema) => Some(&**schema),
            _ => None,
        };
        self.properties.values().chain(additional).chain(self.items.as_deref())
    }
}
