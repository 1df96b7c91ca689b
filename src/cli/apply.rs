//! `coracle apply`: creates objects, or merges what changed between the last manifest, this one and the live object.

use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

use super::connection::{Connection, ConnectionOptions, api_error, from_server};
use super::get::kind_word;
use super::manifests;
use super::resolve::Resources;

/// Where kubectl keeps the manifest that was applied last; kept the same, so that both can be used in turn.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const QUERY: &str = "?fieldManager=kubectl-client-side-apply&fieldValidation=Strict";

#[derive(Args)]
pub struct Apply {
    /// Files or directories of manifests; - for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Directories within directories too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
}

impl Apply {
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async { self.apply().await.map_err(from_server) })
    }

    async fn apply(&self) -> anyhow::Result<()> {
        let objects = manifests::read(&self.filename, self.recursive)?;
        let connection = self.connection.connect().await?;
        let resources = Resources::discover(&connection).await?;
        for object in objects {
            apply_one(&connection, &resources, object).await?;
        }
        Ok(())
    }
}

async fn apply_one(
    connection: &Connection,
    resources: &Resources,
    mut manifest: Value,
) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = resources.of_kind(&text(&manifest["apiVersion"]), &text(&manifest["kind"]))?;
    let name = text(&manifest["metadata"]["name"]);
    let given = text(&manifest["metadata"]["namespace"]);
    if connection.namespace_given && !given.is_empty() && given != connection.namespace {
        anyhow::bail!(
            "the namespace from the provided object \"{given}\" does not match the namespace \"{}\". You must pass '--namespace={given}' to perform this operation.",
            connection.namespace
        );
    }
    let namespace = if given.is_empty() { connection.namespace.clone() } else { given };
    let label = format!("{}/{name}", kind_word(&resource));
    if resource.namespaced() {
        manifest["metadata"]["namespace"] = json!(namespace);
    }
    let recorded = format!("{}\n", without_annotation(&manifest));
    manifest["metadata"]["annotations"][LAST_APPLIED] = json!(recorded);

    let path = resource.path(Some(&namespace), Some(&name), None);
    let live = match connection.get(&path, "application/json").await {
        Ok(live) => live,
        Err(error) if api_error(&error).is_some_and(|e| e.is_not_found()) => {
            let path = format!("{}{QUERY}", resource.path(Some(&namespace), None, None));
            let body = Bytes::from(serde_json::to_vec(&manifest)?);
            connection.send(Method::POST, &path, "application/json", "application/json", body).await?;
            println!("{label} created");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let last: Value = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .map(serde_json::from_str)
        .transpose()
        .with_context(|| format!("{label}: the last applied configuration in its annotation"))?
        .unwrap_or(Value::Null);
    let patch = three_way(&last, &manifest, &live);
    if patch.as_object().is_none_or(Map::is_empty) {
        println!("{label} unchanged");
        return Ok(());
    }
    let body = Bytes::from(serde_json::to_vec(&patch)?);
    let answer = connection
        .send(
            Method::PATCH,
            &format!("{path}{QUERY}"),
            "application/json",
            "application/merge-patch+json",
            body,
        )
        .await?;
    let after: Value = serde_json::from_slice(&answer)?;
    let same = after["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
    println!("{label} {}", if same { "unchanged" } else { "configured" });
    Ok(())
}

fn without_annotation(manifest: &Value) -> Value {
    let mut copy = manifest.clone();
    if let Some(annotations) = copy.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    copy
}

/// A JSON merge patch: sets what the manifest says and the live object lacks, removes what the last manifest said and
/// this one does not. Lists are taken whole.
fn three_way(last: &Value, manifest: &Value, live: &Value) -> Value {
    let empty = Map::new();
    let (Some(wanted), live) = (manifest.as_object(), live.as_object().unwrap_or(&empty)) else {
        return manifest.clone();
    };
    let last = last.as_object().unwrap_or(&empty);
    let mut patch = Map::new();
    for (key, value) in wanted {
        match (value, live.get(key)) {
            (Value::Object(_), Some(there @ Value::Object(_))) => {
                let inner = three_way(last.get(key).unwrap_or(&Value::Null), value, there);
                if inner.as_object().is_some_and(|i| !i.is_empty()) {
                    patch.insert(key.clone(), inner);
                }
            }
            (value, there) if there != Some(value) && !(value.is_null() && there.is_none()) => {
                patch.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    for key in last.keys() {
        if !wanted.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_patched() {
        for (last, manifest, live, want) in [
            (json!({}), json!({"a": 1}), json!({"a": 1, "b": 2}), json!({})),
            (json!({"a": 1, "b": 2}), json!({"a": 3}), json!({"a": 1, "b": 2}), json!({"a": 3, "b": null})),
            (json!({"b": 2}), json!({}), json!({}), json!({})),
            (
                json!({"spec": {"x": 1, "y": 1}}),
                json!({"spec": {"x": 1}}),
                json!({"spec": {"x": 1, "y": 1, "server": true}}),
                json!({"spec": {"y": null}}),
            ),
            (json!(null), json!({"l": [1]}), json!({"l": [1, 2]}), json!({"l": [1]})),
        ] {
            assert_eq!(three_way(&last, &manifest, &live), want);
        }
    }
}
