//! JSON, merge and strategic merge patches of three kinds: decided without a panic, and the same way twice.
#![no_main]

use std::sync::LazyLock;

use coracle_apiserver::kinds::{self, KindDef};
use coracle_apiserver::patch;
use coracle_client::PatchType;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static TARGETS: LazyLock<Vec<(KindDef, Value)>> = LazyLock::new(|| {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["a/b", "c/d"]},
            "spec": {"containers": [
                {"name": "one", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "1"}]},
                {"name": "two", "image": "j"}],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}], "selector": {"a": "b"}}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}}),
    ];
    let mut kinds = kinds::all();
    objects
        .into_iter()
        .map(|object| {
            let at = kinds
                .iter()
                .position(|k| k.resource.group().is_empty() && k.resource.kind() == object["kind"])
                .expect("the kind is listed");
            (kinds.swap_remove(at), object)
        })
        .collect()
});
const TYPES: [PatchType; 3] = [PatchType::Json, PatchType::Merge, PatchType::Strategic];

fuzz_target!(|input: &[u8]| {
    let [choice, patch @ ..] = input else { return };
    let (kind, object) = &TARGETS[*choice as usize % TARGETS.len()];
    let patch_type = TYPES[*choice as usize / TARGETS.len() % TYPES.len()];
    let once = patch::apply(kind, patch_type, object, patch);
    let twice = patch::apply(kind, patch_type, object, patch);
    assert_eq!(once.ok(), twice.ok());
});
