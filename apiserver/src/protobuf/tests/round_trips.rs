//! Every kind's fixture through protobuf and back, and what Go's decoders would make of it.

use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime as envelope;
use prost::Message as _;
use serde_json::{Value, json};

use super::envelope::{self as ours, MAGIC};
use super::{ListPart, table, to_json};

/// Both without what JSON and protobuf cannot tell apart: null, empty lists and empty maps.
fn bare(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let map = map.into_iter().map(|(k, v)| (k, bare(v)));
            Value::Object(map.filter(|(_, v)| !v.is_null() && *v != json!([])).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(bare).collect()),
        other => other,
    }
}

fn fixtures() -> Vec<(String, Value)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/kinds");
    let mut all = Vec::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in serde_norway::Deserializer::from_str(&text) {
            let value: Value = serde::Deserialize::deserialize(document).unwrap();
            if value.is_object() {
                all.push((path.file_name().unwrap().to_string_lossy().into_owned(), value));
            }
        }
    }
    all
}

#[test]
fn every_fixture_survives_the_journey() {
    let mut seen = 0;
    for (file, value) in fixtures() {
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        // Custom resources have no form in protobuf.
        let Some(message) = table().kind(&api_version, &kind) else { continue };
        let document =
            ours::document(table(), message, &api_version, &kind, value.to_string().as_bytes()).unwrap();
        let unknown = envelope::Unknown::decode(document.strip_prefix(MAGIC).unwrap()).unwrap();
        assert_eq!(unknown.type_meta.unwrap().kind(), kind);
        let back: Value = serde_json::from_slice(&to_json(table(), &document, "", "").unwrap()).unwrap();
        assert_eq!(bare(back), bare(value), "{file}");
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn every_kind_has_a_message() {
    for def in crate::kinds::all() {
        let (api_version, kind) = (def.resource.api_version(), def.resource.kind().to_owned());
        assert!(table().kind(&api_version, &kind).is_some(), "{api_version} {kind}");
    }
    assert!(table().kinds().any(|(_, kind)| kind == "PartialObjectMetadataList"));
}

#[test]
fn lists_and_frames_as_upstreams_types_read_them() {
    let message = table().kind("v1", "ConfigMap").unwrap();
    let mut items = Vec::new();
    for name in ["a", "b"] {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v\n"}});
        ours::item(table(), message, map.to_string().as_bytes(), &mut items).unwrap();
    }
    let part = ListPart { revision: 7, continue_token: Some("t"), remaining: Some(3) };
    let (head, end) = ours::list("v1", "ConfigMapList", part, items.len());
    let whole = [&head[..], &items, &end].concat();
    let unknown = envelope::Unknown::decode(whole.strip_prefix(MAGIC).unwrap()).unwrap();
    let list = k8s_pb::api::core::v1::ConfigMapList::decode(unknown.raw()).unwrap();
    let metadata = list.metadata.unwrap();
    assert_eq!(
        (metadata.resource_version(), metadata.r#continue(), metadata.remaining_item_count()),
        ("7", "t", 3)
    );
    assert_eq!(list.items[1].metadata.as_ref().unwrap().name(), "b");
    assert_eq!(list.items[1].data["k"], "v\n");
    let frame = ours::frame(coracle_client::WatchEventKind::Modified, b"k8s\0x");
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    let event = meta::WatchEvent::decode(event).unwrap();
    assert_eq!((event.r#type(), event.object.as_ref().unwrap().raw()), ("MODIFIED", &b"k8s\0x"[..]));
}

#[test]
fn schemas_of_custom_resources() {
    let table = super::Table::build(&{
        let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
        let schema = generator.subschema_for::<
            k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >();
        let root = ("apiextensions.k8s.io/v1".to_owned(), "CustomResourceDefinition".to_owned(), schema);
        crate::schema::Types::build(&generator, vec![root])
    });
    let schema = json!({
        "type": "object", "description": "a \"quoted\" one", "maximum": 1.5, "exclusiveMinimum": true,
        "properties": {
            "a": {"items": {"type": "string"}, "x-kubernetes-list-type": "set", "default": {"z": [1, null]}},
            "b": {"items": [{"type": "string"}, {"type": "integer"}], "additionalProperties": false},
            "c": {"additionalProperties": {"type": "string"}, "enum": ["x", 1, true]},
            "d": {"additionalProperties": true, "dependencies": {"p": ["q", "r"], "s": {"type": "null"}}},
            "e": {"$ref": "#/x", "x-kubernetes-preserve-unknown-fields": true, "minLength": 0},
        },
        "x-kubernetes-validations": [{"rule": "self.a == 1", "optionalOldSelf": false}],
    });
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas"}}});
    let value = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "a.b"}, "spec": {"group": "b", "versions": [version]}});
    let message = table.kind("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let text = value.to_string();
    let document = ours::document(
        &table,
        message,
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        text.as_bytes(),
    )
    .unwrap();
    let back: Value = serde_json::from_slice(&to_json(&table, &document, "", "").unwrap()).unwrap();
    assert_eq!(back, value);
}
