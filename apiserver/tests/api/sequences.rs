//! Sequences of writes by several managers, and what a real kube-apiserver answered to each (`record.py`).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::Server;

#[tokio::test]
async fn sequences_of_writes_end_as_on_the_real_server() {
    let directory = match std::env::var_os("SEQUENCES") {
        Some(elsewhere) => PathBuf::from(elsewhere),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/apply"),
    };
    let server = Server::start().await;
    let mut differences = Vec::new();
    let mut number = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let sequences: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for sequence in &sequences {
            number += 1;
            if let Err(difference) = play(&server, &format!("seq-{number}"), sequence).await {
                differences.push(difference);
            }
        }
    }
    assert!(number > 0);
    assert!(
        differences.is_empty(),
        "{} of {number} differ:\n{}",
        differences.len(),
        differences.join("\n\n")
    );
}

/// Err: the first step that was answered in another way.
async fn play(server: &Server, namespace: &str, sequence: &Value) -> Result<(), String> {
    server.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.expect(201);
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    // Where the sequences were recorded, pods got no token.
    let body = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
    server.post(&account, body).await.expect(201);
    let mut version = None;
    let mut before = Value::Null;
    for (i, step) in sequence["steps"].as_array().unwrap().iter().enumerate() {
        let text = |name: &str| step[name].as_str().unwrap();
        let path = text("path").replace("{ns}", namespace);
        let body = step["body"].to_string().replace("{ns}", namespace);
        let headers = [("content-type", text("type")), ("user-agent", "recorder/1")];
        let reply = server.send(text("method"), &path, &headers, body.clone()).await;
        let answer = reply.json.to_string().replace(namespace, "{ns}");
        let ours = bare(reply.code, serde_json::from_str(&answer).unwrap(), &mut version);
        let theirs = &step["answer"];
        let last = std::mem::replace(&mut before, theirs.clone());
        if ours != *theirs {
            let mut lines = Vec::new();
            differing("", theirs, &ours, &mut lines);
            return Err(format!(
                "{} step {i}: {} {path} {body}\n  {}\n  before: {last}",
                sequence["name"],
                text("method"),
                lines.join("\n  ")
            ));
        }
    }
    Ok(())
}

/// As `record.py` keeps an answer: without what differs between any two servers.
fn bare(code: u16, mut answer: Value, version: &mut Option<String>) -> Value {
    if answer["kind"] == "Status" {
        let mut causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
        let key = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        causes.sort_by_key(|cause| (key(cause, "message"), key(cause, "field")));
        let mut message = answer["message"].as_str().unwrap_or_default().to_owned();
        if message.contains("may not change fields") {
            message.truncate(message.find('\n').unwrap_or(message.len()));
        }
        if message.contains("conflicts") {
            let mut lines: Vec<&str> = message.split('\n').collect();
            lines.sort_unstable();
            message = lines.join("\n");
        }
        // What follows is a difference in Go's names.
        for text in causes.iter_mut().filter_map(|cause| cause.get_mut("message")) {
            *text = json!(text.as_str().unwrap_or_default().split('\n').next());
        }
        let reason = Some(answer["reason"].clone()).filter(|reason| *reason != "");
        return json!({"code": code, "message": message, "reason": reason, "causes": causes});
    }
    let meta = answer["metadata"].as_object_mut().unwrap();
    let now = meta.remove("resourceVersion").and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let changed = version.as_ref() != Some(&now);
    *version = Some(now);
    meta.remove("uid");
    meta.remove("creationTimestamp");
    let mut owners = match meta.remove("managedFields") {
        Some(Value::Array(owners)) => owners,
        _ => Vec::new(),
    };
    for entry in &mut owners {
        entry["time"] = json!(entry.get("time").is_some());
    }
    owners.sort_by_key(|entry| {
        let text = |name: &str| entry.get(name).map_or("null".to_owned(), Value::to_string);
        [text("manager"), text("operation"), text("apiVersion"), text("subresource")]
    });
    if let Some(spec) = answer.get_mut("spec").and_then(Value::as_object_mut) {
        for made in ["clusterIP", "clusterIPs"] {
            spec.entry(made).and_modify(|address| *address = json!("made"));
        }
        for admitted in ["serviceAccount", "serviceAccountName"] {
            spec.remove(admitted);
        }
    }
    json!({"code": code, "changed": changed, "owners": owners, "object": without_nulls(answer)})
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

fn differing(path: &str, theirs: &Value, ours: &Value, lines: &mut Vec<String>) {
    match (theirs, ours) {
        _ if theirs == ours => {}
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(name).cloned().unwrap_or(json!("(nothing)"))
                };
                differing(&format!("{path}.{name}"), &of(a), &of(b), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differing(&format!("{path}[{i}]"), a, b, lines);
            }
        }
        _ => lines.push(format!("{path}: theirs {theirs}, ours {ours}")),
    }
}
