//! Bodies as k8s-pb's types encode them, and as kubectl sends them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_pb::api::apps::v1 as apps;
use k8s_pb::api::authentication::v1 as authentication;
use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime as envelope;
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use schemars::generate::SchemaSettings;

use prost::Message as _;

use serde_json::{Value, json};

use super::envelope::MAGIC;
use super::table::FIELDS;
use super::{Fault, Table};
use crate::schema::{self, Types};

fn tree() -> Table {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut roots = schema::documents(&mut generator);
    roots.push(("v1".into(), "Pod".into(), generator.subschema_for::<Pod>()));
    roots.push(("v1".into(), "Secret".into(), generator.subschema_for::<Secret>()));
    roots.push(("v1".into(), "Service".into(), generator.subschema_for::<Service>()));
    roots.push(("apps/v1".into(), "Deployment".into(), generator.subschema_for::<Deployment>()));
    Table::build(&Types::build(&generator, roots))
}

fn enveloped(api_version: &str, kind: &str, message: &impl prost::Message) -> Vec<u8> {
    let unknown = envelope::Unknown {
        type_meta: Some(envelope::TypeMeta {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
        }),
        raw: Some(message.encode_to_vec()),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    let mut body = MAGIC.to_vec();
    body.extend(unknown.encode_to_vec());
    body
}

fn to_json(table: &Table, body: &[u8], api_version: &str, kind: &str) -> Result<Value, Fault> {
    let json = super::to_json(table, body, api_version, kind)?;
    Ok(serde_json::from_slice(&json).expect("what is read is JSON"))
}

fn decoded(api_version: &str, kind: &str, message: &impl prost::Message) -> Value {
    to_json(&tree(), &enveloped(api_version, kind, message), "", "").unwrap()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn metadata() -> meta::ObjectMeta {
    meta::ObjectMeta {
        name: some("a"),
        // As Go sends what is not set.
        generate_name: some(""),
        generation: Some(0),
        creation_timestamp: Some(meta::Time::default()),
        labels: BTreeMap::from([("x".to_owned(), String::new())]),
        owner_references: vec![meta::OwnerReference {
            uid: some("u"),
            controller: Some(false),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_pod() {
    let pod = core::Pod {
        metadata: Some(metadata()),
        spec: Some(core::PodSpec {
            containers: vec![core::Container {
                name: some("c"),
                ports: vec![core::ContainerPort {
                    container_port: Some(80),
                    host_port: Some(0),
                    ..Default::default()
                }],
                liveness_probe: Some(core::Probe {
                    handler: Some(core::ProbeHandler {
                        http_get: Some(core::HttpGetAction {
                            path: some("/"),
                            port: Some(IntOrString {
                                r#type: Some(1),
                                int_val: Some(0),
                                str_val: some("http"),
                            }),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                    period_seconds: Some(5),
                    ..Default::default()
                }),
                resources: Some(core::ResourceRequirements {
                    limits: BTreeMap::from([("cpu".to_owned(), Quantity { string: some("100m") })]),
                    ..Default::default()
                }),
                env: vec![core::EnvVar {
                    name: some("E"),
                    value_from: Some(core::EnvVarSource {
                        config_map_key_ref: Some(core::ConfigMapKeySelector {
                            local_object_reference: Some(core::LocalObjectReference { name: some("cm") }),
                            key: some("k"),
                            optional: Some(false),
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            volumes: vec![core::Volume {
                name: some("v"),
                volume_source: Some(core::VolumeSource {
                    empty_dir: Some(core::EmptyDirVolumeSource::default()),
                    ..Default::default()
                }),
            }],
            termination_grace_period_seconds: Some(0),
            host_network: Some(false),
            priority: Some(-5),
            ..Default::default()
        }),
        status: Some(core::PodStatus {
            start_time: Some(meta::Time { seconds: Some(1_700_000_000), nanos: Some(0) }),
            ..Default::default()
        }),
    };
    assert_eq!(
        decoded("v1", "Pod", &pod),
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"x": ""}, "ownerReferences": [{"uid": "u", "controller": false}]},
            "spec": {
                "containers": [{"name": "c", "ports": [{"containerPort": 80}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                    "resources": {"limits": {"cpu": "100m"}},
                    "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": false}}}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "terminationGracePeriodSeconds": 0, "priority": -5},
            "status": {"startTime": "2023-11-14T22:13:20Z"}})
    );
}

#[test]
fn a_deployment_a_service_and_a_secret() {
    let deployment = apps::Deployment {
        spec: Some(apps::DeploymentSpec {
            replicas: Some(0),
            min_ready_seconds: Some(0),
            strategy: Some(apps::DeploymentStrategy {
                rolling_update: Some(apps::RollingUpdateDeployment {
                    max_surge: Some(IntOrString { r#type: Some(1), int_val: Some(0), str_val: some("25%") }),
                    max_unavailable: Some(IntOrString {
                        r#type: Some(0),
                        int_val: Some(0),
                        str_val: some(""),
                    }),
                }),
                ..Default::default()
            }),
            selector: Some(meta::LabelSelector {
                match_expressions: vec![meta::LabelSelectorRequirement {
                    key: some("k"),
                    operator: some("In"),
                    values: vec!["a".to_owned(), String::new()],
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        decoded("apps/v1", "Deployment", &deployment),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0,
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "selector": {"matchExpressions": [{"key": "k", "operator": "In", "values": ["a", ""]}]}}})
    );
    let service = core::Service {
        spec: Some(core::ServiceSpec {
            ports: vec![core::ServicePort {
                port: Some(80),
                target_port: Some(IntOrString { r#type: Some(0), int_val: Some(0), str_val: some("") }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(decoded("v1", "Service", &service)["spec"], json!({"ports": [{"port": 80}]}));
    let secret = core::Secret {
        data: BTreeMap::from([("k".to_owned(), vec![0, 255]), ("e".to_owned(), Vec::new())]),
        immutable: Some(false),
        ..Default::default()
    };
    let value = decoded("v1", "Secret", &secret);
    assert_eq!((&value["data"], &value["immutable"]), (&json!({"k": "AP8=", "e": ""}), &json!(false)));
}

#[test]
fn documents() {
    let options = meta::DeleteOptions {
        grace_period_seconds: Some(0),
        propagation_policy: some("Background"),
        preconditions: Some(meta::Preconditions { uid: some("u"), resource_version: None }),
        ..Default::default()
    };
    for api_version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        assert_eq!(
            decoded(api_version, "DeleteOptions", &options),
            json!({"apiVersion": api_version, "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "propagationPolicy": "Background", "preconditions": {"uid": "u"}})
        );
    }
    let eviction =
        k8s_pb::api::policy::v1::Eviction { metadata: Some(metadata()), delete_options: Some(options) };
    let value = decoded("policy/v1", "Eviction", &eviction);
    assert_eq!(value["deleteOptions"]["gracePeriodSeconds"], 0);
    assert!(serde_json::from_value::<Eviction>(value).is_ok());
    let review = authentication::SelfSubjectReview {
        status: Some(authentication::SelfSubjectReviewStatus {
            user_info: Some(authentication::UserInfo {
                username: some("me"),
                extra: BTreeMap::from([(
                    "k".to_owned(),
                    authentication::ExtraValue { items: vec!["v".to_owned(), "w".to_owned()] },
                )]),
                ..Default::default()
            }),
        }),
        ..Default::default()
    };
    assert_eq!(
        decoded("authentication.k8s.io/v1", "SelfSubjectReview", &review)["status"],
        json!({"userInfo": {"username": "me", "extra": {"k": ["v", "w"]}}})
    );
}

#[test]
fn what_a_body_does_not_say_the_url_does() {
    let body = enveloped("", "", &core::Pod::default());
    assert_eq!(to_json(&tree(), &body, "v1", "Pod").unwrap(), json!({"apiVersion": "v1", "kind": "Pod"}));
    let body = enveloped("v7", "Frob", &core::Pod::default());
    assert_eq!(to_json(&tree(), &body, "v1", "Pod").unwrap(), json!({"apiVersion": "v7", "kind": "Frob"}));
}

#[test]
fn damage_is_an_error() {
    let types = tree();
    assert!(matches!(to_json(&types, b"{}", "v1", "Pod"), Err(Fault::NoPrefix)));
    assert!(matches!(to_json(&types, b"k8s\0\xff", "v1", "Pod"), Err(Fault::Envelope(_))));
    let good = enveloped("v1", "Pod", &core::Pod { metadata: Some(metadata()), ..Default::default() });
    let mut state = 7u32;
    for at in 4..good.len() {
        // Whatever is cut off or flipped, an answer comes.
        let _ = to_json(&types, &good[..at], "v1", "Pod");
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut bad = good.clone();
        bad[at] ^= (state >> 24) as u8 | 1;
        let _ = to_json(&types, &bad, "v1", "Pod");
    }
}

#[test]
fn every_message_of_a_served_type_is_in_the_table() {
    for (name, object) in schema::types().objects() {
        if object.fields().is_empty() || name.contains("apiextensions.v1.JSONSchemaPropsOr") {
            continue;
        }
        let short = name.strip_prefix("io.k8s.").unwrap();
        let line = FIELDS.find(short).unwrap_or_else(|| panic!("no message {name}"));
        for field in object.fields() {
            if matches!(&*field.name, "apiVersion" | "kind") {
                continue;
            }
            assert!(has(line, &field.name), "{name} has no number for {}", field.name);
        }
    }
}

fn has(line: &'static str, field: &str) -> bool {
    line.split(' ').any(|token| {
        let name = token.split('=').next().unwrap();
        match name.strip_prefix('+') {
            Some(inlined) => FIELDS.find(inlined).is_some_and(|line| has(line, field)),
            None => name.trim_end_matches('*') == field,
        }
    })
}
