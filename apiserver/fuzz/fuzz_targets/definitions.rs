//! Definitions of custom resources, varied, and objects of what they define: no panic in checking the schema or by it, and
//! pruning and defaulting settle, so that what was stored reads as itself. Their OpenAPI and columns go along.
#![no_main]

use std::sync::{Arc, LazyLock};

use coracle_apiserver::crd::{self, definition};
use coracle_apiserver::decode::{self, FieldValidation};
use coracle_apiserver::field_error::Errors;
use coracle_apiserver::kinds::{self, KindDef};
use coracle_apiserver::object::ApiObject;
use coracle_apiserver::openapi::OpenApi;
use coracle_apiserver_fuzz::Choices;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const JSON: Option<&str> = Some("application/json");
const WORDS: &[&str] = &[
    "a",
    "b",
    "type",
    "object",
    "array",
    "string",
    "integer",
    "number",
    "boolean",
    "properties",
    "items",
    "required",
    "default",
    "nullable",
    "additionalProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "enum",
    "format",
    "pattern",
    "^a+$",
    "(",
    "maximum",
    "minimum",
    "multipleOf",
    "maxLength",
    "minLength",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "minProperties",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
    "rule",
    "self.a == 1",
    "oldSelf == self",
    "self.all(x, x > 0)",
    "message",
    "messageExpression",
    "reason",
    "fieldPath",
    ".a",
    "optionalOldSelf",
    "set",
    "map",
    "atomic",
    "granular",
    "spec",
    "status",
    "metadata",
    "name",
    "apiVersion",
    "kind",
    "g.io/v1",
    "Foo",
    "date-time",
    "date",
    "duration",
    "byte",
    "ipv4",
    "uuid",
    ".spec.replicas",
    ".status.replicas",
    "jsonPath",
    "k",
    "v",
];

static DEFINITION: LazyLock<KindDef> = LazyLock::new(|| {
    let kinds = kinds::all().into_iter();
    kinds
        .into_iter()
        .find(|kind| kind.resource.kind() == "CustomResourceDefinition")
        .expect("the kind is listed")
});

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({"type": "object", "required": ["spec"], "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}}},
        "spec": {"type": "object", "default": {"b": 1}, "properties": {
            "a": {"type": "string", "maxLength": 5, "pattern": "^[a-z]*$", "default": "x", "enum": ["x", "y"]},
            "b": {"type": "integer", "minimum": 0, "maximum": 10, "multipleOf": 2, "default": 4, "nullable": true},
            "n": {"type": "number", "anyOf": [{"minimum": 1}, {"maximum": 0}], "not": {"enum": [0.5]}},
            "e": {"x-kubernetes-int-or-string": true, "default": 1},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 4, "items": {"type": "string", "format": "ipv4"}},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "maxItems": 4, "items": {
                "type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer", "default": 3}},
                "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "grows"}]}},
            "map": {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "object", "nullable": true,
                "properties": {"a": {"type": "boolean", "default": true}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string", "default": "q"}}},
            "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "replicas": {"type": "integer"}, "when": {"type": "string", "format": "date-time"}},
            "x-kubernetes-validations": [{"rule": "!has(self.b) || self.b < 9", "messageExpression": "'b: ' + string(self.b)",
                "reason": "FieldValueForbidden", "fieldPath": ".b"}]},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}})
});

static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"a": "x", "b": 2, "n": 1.5, "e": "5%",
        "set": ["1.2.3.4"], "keyed": [{"k": "a"}, {"k": "b", "v": 5}], "map": {"a": {"a": false}, "b": null}, "free": {"x": [1]},
        "emb": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "x": 1}, "replicas": 3,
        "when": "2026-01-02T03:04:05Z", "odd": null}, "status": {"replicas": 1, "selector": "a=b"}, "more": {"a": 1}})
});

fn definition_of(schema: &Value, choices: &mut Choices<'_>) -> Value {
    let path = |choices: &mut Choices<'_>| match choices.byte() {
        0..=199 => choices
            .pick(&[".spec.replicas", ".spec.a", ".spec.keyed[*].k", ".metadata.name", ".status"])
            .to_string(),
        _ => choices.made_up(0).to_string(),
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.g.io"},
        "spec": {"group": "g.io", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {"specReplicasPath": path(choices), "statusReplicasPath": path(choices)}},
            "additionalPrinterColumns": [{"name": "A", "type": choices.pick(&["string", "integer", "date"]), "jsonPath": path(choices)}],
            "selectableFields": [{"jsonPath": path(choices)}]}]}})
}

fn settled(kind: &KindDef, json: &[u8]) -> Option<Box<dyn ApiObject>> {
    let mut object = decode::body(kind, JSON, json, FieldValidation::Warn).ok()?.object;
    kind.ops.set_defaults(&mut *object);
    Some(object)
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input, WORDS);
    // A part of the input is for objects, so that there are some.
    let objects = input.get(input.len() / 2..).unwrap_or_default();
    let schema = choices.vary(&SCHEMA);
    let said = definition_of(&schema, &mut choices);
    let Ok(decoded) = decode::body(&DEFINITION, JSON, said.to_string().as_bytes(), FieldValidation::Warn)
    else {
        return;
    };
    let mut object = decoded.object;
    DEFINITION.ops.set_defaults(&mut *object);
    DEFINITION.ops.prepare_create(&mut *object);
    let Some(crd) = object.as_any().downcast_ref::<CustomResourceDefinition>() else { return };
    let _ = definition::violations(crd);
    let mut errors = Errors::default();
    DEFINITION.ops.validate_create(&*object, &mut errors);
    DEFINITION.ops.validate_update(&*object, &*object, &mut Errors::default());
    if !errors.is_empty() {
        return;
    }
    let kinds: Vec<Arc<KindDef>> = crd::kinds(crd).into_iter().map(Arc::new).collect();
    // A document takes long: not each time.
    if choices.byte() % 32 == 0 {
        assert!(OpenApi::new(&kinds).document("apis/g.io/v1").is_some(), "{said}");
    }
    let Some(kind) = kinds.first() else { return };
    let mut choices = Choices::new(objects, WORDS);
    let mut before: Option<Box<dyn ApiObject>> = None;
    for _ in 0..2 {
        let json = choices.vary(&OBJECT).to_string();
        let Some(object) = settled(kind, json.as_bytes()) else { continue };
        let encoded = object.encode().expect("what was decoded can be encoded");
        let again = settled(kind, &encoded)
            .unwrap_or_else(|| panic!("{said}: {}", String::from_utf8_lossy(&encoded)));
        assert_eq!(again.encode().expect("encodes"), encoded, "settles: {json} by {schema}");
        let mut errors = Errors::default();
        match &before {
            None => kind.ops.validate_create(&*object, &mut errors),
            Some(old) => {
                kind.ops.validate_update(&*object, &**old, &mut errors);
                kind.ops.validate_status_update(&*object, &**old, &mut Errors::default());
            }
        }
        assert_eq!(kind.ops.cells(&*object, Timestamp::UNIX_EPOCH).len(), kind.ops.columns().len());
        let _ = kind.ops.warnings(&*object, before.as_deref());
        before = Some(object);
    }
});
