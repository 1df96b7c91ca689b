//! Operations that connect: streams into pods, and proxies to what answers HTTP by itself.

use serde_json::{Map, Value, json};

use super::names::capitalised;
use super::parameters::{in_path, query};

/// The methods of a subresource that connects; None: it is none of these.
pub fn methods(subresource: &str) -> Option<&'static [&'static str]> {
    match subresource {
        "exec" | "attach" | "portforward" => Some(&["get", "post"]),
        "proxy" => Some(&["get", "put", "post", "delete", "options", "head", "patch"]),
        _ => None,
    }
}

/// `PodExecOptions`
pub fn options_kind(parent: &str, subresource: &str) -> String {
    let word = if subresource == "portforward" { "PortForward".to_owned() } else { capitalised(subresource) };
    format!("{parent}{word}Options")
}

pub fn parameters(subresource: &str) -> Vec<Value> {
    let streams = || {
        vec![
            query("container", "string", "The container; the only one where nothing is said."),
            query("stderr", "boolean", "Carries the standard error stream of the container."),
            query("stdin", "boolean", "Carries the standard input stream of the container."),
            query("stdout", "boolean", "Carries the standard output stream of the container."),
            query("tty", "boolean", "Runs on a terminal."),
        ]
    };
    match subresource {
        "exec" => {
            let mut all = streams();
            all.insert(0, query("command", "string", "The program and its arguments, one each; no shell."));
            all
        }
        "attach" => streams(),
        "portforward" => {
            vec![query("ports", "integer", "The ports to forward, where it goes over WebSockets.")]
        }
        _ => vec![query("path", "string", "The path that is asked for behind the proxy.")],
    }
}

/// The further path of a proxy.
pub fn rest() -> Value {
    in_path("path", "path to the resource")
}

/// What comes back is whatever is at the other end.
pub fn responses() -> Value {
    let content = json!({ "*/*": { "schema": { "type": "string" } } });
    json!({ "200": { "description": "OK", "content": content }, "401": { "description": "Unauthorized" } })
}

/// An operation under each method.
pub fn each(
    methods: &[&'static str],
    operation: impl Fn(String) -> Map<String, Value>,
) -> Vec<(&'static str, Map<String, Value>)> {
    methods.iter().map(|method| (*method, operation(capitalised(method)))).collect()
}
