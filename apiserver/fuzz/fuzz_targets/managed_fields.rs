//! `metadata.managedFields` as clients send it: what is read is written as what reads the same, the sets obey the laws of
//! sets, and writes on top of them do not panic.
#![no_main]

use std::sync::LazyLock;

use coracle_apiserver::ownership::{Managers, OneVersion, Operation, Schema, Set, Who, Write};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static POD: LazyLock<Schema> = LazyLock::new(|| Schema::built_in("v1", "Pod").expect("pods have a type"));
static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["a/b"]},
        "spec": {"containers": [{"name": "one", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}})
});

fn laws(a: &Set, b: &Set) {
    let (union, both) = (a.union(b), a.intersection(b));
    assert_eq!(union, b.union(a));
    assert_eq!(both, b.intersection(a));
    assert_eq!(a.union(a), *a);
    assert_eq!(a.intersection(a), *a);
    assert!(a.difference(a).is_empty());
    assert_eq!(union.intersection(a), *a);
    assert_eq!(a.difference(b).union(&both), *a);
}

fuzz_target!(|text: &str| {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let sets: Vec<Set> = match &value {
        Value::Array(items) => items.iter().filter_map(|item| Set::from_fields(item).ok()).collect(),
        value => Set::from_fields(value).into_iter().collect(),
    };
    for set in sets.iter().take(4) {
        let again = Set::from_fields(&set.to_fields()).expect("what was written can be read");
        assert_eq!(again, *set, "{}", set.to_fields());
        sets.iter().take(4).for_each(|other| laws(set, other));
    }
    let Ok(entries) = serde_json::from_value::<Vec<ManagedFieldsEntry>>(value) else { return };
    let Ok(managers) = Managers::read(&entries) else { return };
    let reset = Set::default();
    let operation = Operation::Apply;
    let who = Who { name: "a".into(), operation, api_version: "v1".into(), subresource: String::new() };
    let write = Write { who, schema: &POD, reset: &reset, versions: &OneVersion, now: Timestamp::UNIX_EPOCH };
    let mut config = OBJECT.clone();
    config["spec"]["containers"][0]["image"] = json!("j");
    let empty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}});
    for force in [false, true] {
        let _ = write.apply(&OBJECT, &empty, &config, managers.clone(), force);
    }
    let _ = write.update(&OBJECT, &config, managers, true);
});
