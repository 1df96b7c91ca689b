//! The parameters of operations.

use serde_json::{Value, json};

pub fn query(name: &str, type_: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": "query",
        "description": description,
        "schema": { "type": type_, "uniqueItems": true },
    })
}

pub fn in_path(name: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "description": description,
        "required": true,
        "schema": { "type": "string", "uniqueItems": true },
    })
}

pub fn pretty() -> Value {
    query("pretty", "string", "If 'true', the answer is indented. JSON is compact otherwise.")
}

fn dry_run() -> Value {
    query("dryRun", "string", "'All' goes through every stage of the request but stores nothing.")
}

/// Of everything that writes an object.
pub fn write() -> Vec<Value> {
    vec![
        dry_run(),
        query("fieldManager", "string", "Who makes the change; at most 128 printable characters."),
        query(
            "fieldValidation",
            "string",
            "What happens to unknown and duplicate fields: 'Ignore' drops them, 'Warn' (the default) also sends a \
             warning for each, 'Strict' refuses the request.",
        ),
    ]
}

pub fn patch() -> Vec<Value> {
    let mut all = write();
    all.push(query("force", "boolean", "Takes over fields that others manage. Only for apply patches."));
    all
}

pub fn delete() -> Vec<Value> {
    vec![
        dry_run(),
        query(
            "gracePeriodSeconds",
            "integer",
            "Seconds the object is given to end. Zero deletes at once; the kind's default where nothing is said.",
        ),
        query("orphanDependents", "boolean", "Deprecated: see propagationPolicy."),
        query(
            "propagationPolicy",
            "string",
            "What happens to dependents: 'Orphan' leaves them, 'Background' deletes them after, 'Foreground' before \
             the object.",
        ),
    ]
}

fn selection() -> Vec<Value> {
    vec![
        query("continue", "string", "The token a limited list ended with: the list goes on there."),
        query("fieldSelector", "string", "Only objects whose fields are so, e.g. 'metadata.name=a'."),
        query("labelSelector", "string", "Only objects whose labels are so, e.g. 'app=web,tier!=cache'."),
        query("limit", "integer", "At most this many objects; the answer says how to go on."),
        query("resourceVersion", "string", "How new the data must be; see resourceVersionMatch."),
        query("resourceVersionMatch", "string", "How resourceVersion is meant: 'NotOlderThan' or 'Exact'."),
        query(
            "sendInitialEvents",
            "boolean",
            "With watch: begins with an event for every object there is, ended by a bookmark.",
        ),
        query("timeoutSeconds", "integer", "Ends the call after this time."),
    ]
}

pub fn list() -> Vec<Value> {
    let mut all = selection();
    all.insert(
        0,
        query("allowWatchBookmarks", "boolean", "With watch: events of type BOOKMARK tell how far it is."),
    );
    all.push(query("watch", "boolean", "Changes, as they come, instead of a list."));
    all
}

pub fn delete_collection() -> Vec<Value> {
    let mut all = selection();
    all.extend(delete());
    all.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    all
}

pub fn log() -> Vec<Value> {
    vec![
        query("container", "string", "The container whose log it is; the only one where nothing is said."),
        query("follow", "boolean", "Goes on with what is written later."),
        query(
            "insecureSkipTLSVerifyBackend",
            "boolean",
            "Does not check the certificate of the node's server.",
        ),
        query("limitBytes", "integer", "At most this many bytes."),
        query("previous", "boolean", "The log of the instance that ran before."),
        query("sinceSeconds", "integer", "Only lines of the last so many seconds."),
        query("sinceTime", "string", "Only lines since this time (RFC 3339)."),
        query("stream", "string", "'All', 'Stdout' or 'Stderr'."),
        query("tailLines", "integer", "Only so many lines from the end."),
        query("timestamps", "boolean", "Every line begins with its time."),
    ]
}
