//! Server-side apply and the tracking of updates: managers take turns on varied objects of kinds with all sorts of lists
//! and maps. No panic, the same twice, and what was applied is applied: doing it again changes nothing.
#![no_main]

use std::sync::LazyLock;

use coracle_apiserver::ownership::{drop_empty, ApplyError, Managers, OneVersion, Operation, Schema, Set, Who, Write};
use coracle_apiserver_fuzz::Choices;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

struct Target {
    schema: Schema,
    sample: Value,
    empty: Value,
    api_version: String,
}

const WORDS: &[&str] = &[
    "a",
    "b",
    "name",
    "spec",
    "status",
    "metadata",
    "labels",
    "annotations",
    "finalizers",
    "containers",
    "ports",
    "containerPort",
    "protocol",
    "TCP",
    "UDP",
    "env",
    "value",
    "image",
    "data",
    "set",
    "keyed",
    "atomic",
    "one",
    "two",
    "k",
    "v",
    "x",
    "kind",
    "apiVersion",
    "conditions",
    "type",
    "ownerReferences",
    "uid",
    "f:a",
    "k:{}",
    ".",
];

static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(|| {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"},
            "finalizers": ["a/b", "c/d"], "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u"}]},
        "spec": {"containers": [
            {"name": "one", "image": "i", "args": ["x"], "resources": {"limits": {"cpu": "1"}},
                "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}],
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
            {"name": "two", "image": "j"}],
        "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "volumes": [{"name": "v", "emptyDir": {}}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}, {"port": 80, "protocol": "UDP", "targetPort": "x"}],
            "selector": {"a": "b"}, "externalIPs": ["1.2.3.4"]}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b", "b": "c"}});
    let custom = json!({"apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "a"},
        "spec": {"set": ["a", "b", 1], "keyed": [{"a": "x", "b": 1, "v": {"k": 1}}, {"a": "y", "v": [1]}], "atomic": {"a": 1},
            "plain": [1, 2], "map": {"a": {"x": 1}}, "free": {"a": [1], "b": {"c": null}}, "either": "1"}});
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"x-kubernetes-int-or-string": true}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"], "items": {
            "type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 7},
                "v": {"x-kubernetes-preserve-unknown-fields": true}}}},
        "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "integer"}}},
        "plain": {"type": "array", "items": {"type": "integer"}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "either": {"x-kubernetes-int-or-string": true}}}}});
    let built_in = |sample: &Value| {
        let text = |name: &str| sample[name].as_str().unwrap_or_default().to_owned();
        Schema::built_in(&text("apiVersion"), &text("kind")).expect("the kind has a type")
    };
    let schemas =
        [built_in(&pod), built_in(&service), built_in(&map), Schema::custom(&schema), Schema::deduced()];
    let samples = [pod, service, map, custom.clone(), custom];
    let targets = schemas.into_iter().zip(samples).map(|(schema, sample)| Target {
        schema,
        empty: json!({"apiVersion": sample["apiVersion"], "kind": sample["kind"], "metadata": {}}),
        api_version: sample["apiVersion"].as_str().unwrap_or_default().to_owned(),
        sample,
    });
    targets.collect()
});

fn who(name: &str, operation: Operation, api_version: &str) -> Who {
    Who { name: name.into(), operation, api_version: api_version.into(), subresource: String::new() }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input, WORDS);
    let target = choices.pick(&TARGETS);
    let reset = Set::of_fields(if choices.byte() & 1 == 0 { &[&["status"]] } else { &[] });
    let mut live = if choices.byte() & 1 == 0 { target.empty.clone() } else { choices.vary(&target.sample) };
    let mut managers = Managers::default();
    for turn in 0..8 {
        if choices.is_empty() {
            break;
        }
        let name = *choices.pick(&["a", "b", "c"]);
        let object = choices.vary(&target.sample);
        // Whatever is written or applied is an object, as decoding sees to.
        if !object.is_object() || !live.is_object() {
            continue;
        }
        let now = Timestamp::from_second(turn).expect("a time");
        let write = |operation| Write {
            who: who(name, operation, &target.api_version),
            schema: &target.schema,
            reset: &reset,
            versions: &OneVersion,
            now,
        };
        match choices.below(3) {
            0 => {
                let exists = choices.byte() & 1 == 0;
                let write = write(Operation::Update);
                let Ok(after) = write.update(&live, &object, managers.clone(), exists) else { continue };
                live = object;
                let again =
                    write.update(&live, &live, after.clone(), true).expect("what was tracked once is");
                assert_eq!(again, after, "an update that changes nothing takes nothing: {live}");
                managers = after;
            }
            forced => {
                let (force, write) = (forced == 1, write(Operation::Apply));
                let applied = write.apply(&live, &target.empty, &object, managers.clone(), force);
                let applied = match applied {
                    Ok(applied) => applied,
                    Err(ApplyError::Conflicts(conflicts)) => {
                        assert!(!force && !conflicts.is_empty());
                        continue;
                    }
                    Err(_) => continue,
                };
                live = applied.object.unwrap_or(live);
                // As the verb does: upstream's types leave empty lists and maps out.
                drop_empty(target.schema.root(), &mut live);
                // What it gave up may leave `null`, as upstream, where the same configuration then puts what it says: it
                // comes to rest with the second time.
                let mut before = (live.clone(), applied.managers);
                for time in 1..=2 {
                    let again = write.apply(&before.0, &target.empty, &object, before.1.clone(), false);
                    let again = again.unwrap_or_else(|error| panic!("{error}: {object} on {live}"));
                    let mut after = again.object.unwrap_or_else(|| before.0.clone());
                    drop_empty(target.schema.root(), &mut after);
                    assert!(after == before.0 || time == 1, "applied thrice: {object} on {live}: {before:?} {after}");
                    assert_eq!(again.managers, before.1, "applied again: {object} on {live}");
                    before = (after, again.managers);
                }
                (live, managers) = before;
            }
        }
        let written = managers.clone().write().unwrap_or_default();
        let mut read = Managers::read(&written).expect("what was written can be read");
        read.0.sort_by(|a, b| format!("{:?}", a.who).cmp(&format!("{:?}", b.who)));
        managers.0.sort_by(|a, b| format!("{:?}", a.who).cmp(&format!("{:?}", b.who)));
        assert_eq!(read, managers);
    }
});
