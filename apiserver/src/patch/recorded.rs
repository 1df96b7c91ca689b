//! JSON and merge patches, and what a real kube-apiserver made of a custom resource's free-form `spec` with them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{json as json_patch, merge};

#[test]
fn patches_end_as_on_the_real_server() {
    let before = json!({"spec": {"a": {"b": 1, "n": null}, "l": [1, 2, 3], "s": "x", "m/n": 1, "t~u": 2, "": 5,
        "o": [{"k": 1}, {"k": 2}]}});
    let cases: Vec<BTreeMap<String, Value>> =
        serde_json::from_str(include_str!("../../tests/fixtures/patches.json")).unwrap();
    let mut differences = Vec::new();
    for case in &cases {
        let patch = case["patch"].as_str().unwrap();
        let patched = match case["type"].as_str().unwrap() {
            "json" => json_patch::apply(&before, patch.as_bytes()),
            _ => merge::apply(&before, patch.as_bytes()),
        };
        let ours = match patched {
            Ok(patched) => json!({"code": 200, "spec": patched.get("spec")}),
            Err(error) => json!({"code": error.code(), "message": error.message()}),
        };
        if ours != case["answer"] {
            differences.push(format!("{patch}: theirs {}, ours {ours}", case["answer"]));
        }
    }
    assert!(cases.len() > 80 && differences.is_empty(), "{}", differences.join("\n"));
}
