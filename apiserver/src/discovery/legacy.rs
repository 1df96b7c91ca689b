//! `APIVersions`, `APIGroupList`, `APIGroup` and `APIResourceList`: one document for each path.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Entry, Groups};
use crate::health;

/// What is served beside resources and their descriptions.
const OTHERS: &[&str] = &[
    "/.well-known/openid-configuration",
    "/apis/",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

/// By path.
pub fn documents(groups: &Groups) -> BTreeMap<String, Bytes> {
    let mut documents = BTreeMap::new();
    let mut list = Vec::new();
    let mut core = Vec::new();
    for (group, versions) in groups {
        for (version, entries) in versions {
            let (path, group_version) = if group.is_empty() {
                core.push(version.clone());
                (format!("/api/{version}"), version.clone())
            } else {
                (format!("/apis/{group}/{version}"), format!("{group}/{version}"))
            };
            documents.insert(path, resource_list(&group_version, entries));
        }
        if !group.is_empty() {
            let about = about(group, versions);
            let mut document = Map::new();
            document.insert("kind".into(), json!("APIGroup"));
            document.insert("apiVersion".into(), json!("v1"));
            document.extend(about.clone());
            documents.insert(format!("/apis/{group}"), Value::Object(document));
            list.push(Value::Object(about));
        }
    }
    documents.insert(
        "/api".into(),
        json!({
            "kind": "APIVersions",
            "versions": core,
            "serverAddressByClientCIDRs": [],
        }),
    );
    documents.insert("/apis".into(), json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": list }));
    let mut paths: Vec<&str> = documents.keys().map(String::as_str).collect();
    paths.extend(OTHERS);
    let checks: Vec<String> = ["healthz", "livez", "readyz"]
        .into_iter()
        .flat_map(|endpoint| health::checks(endpoint).map(move |check| format!("/{endpoint}/{check}")))
        .collect();
    paths.extend(checks.iter().map(String::as_str));
    paths.retain(|path| *path != "/");
    paths.sort_unstable();
    let root = json!({ "paths": paths });
    documents.insert("/".into(), root);
    documents.into_iter().map(|(path, document)| (path, document.to_string().into())).collect()
}

/// `/api`, which also says where clients reach the server.
pub fn versions(document: &[u8], host: &str) -> Result<Bytes, serde_json::Error> {
    let mut document: Value = serde_json::from_slice(document)?;
    if !host.is_empty() {
        document["serverAddressByClientCIDRs"] =
            json!([{ "clientCIDR": "0.0.0.0/0", "serverAddress": host }]);
    }
    Ok(document.to_string().into())
}

fn about(group: &str, versions: &[(String, Vec<Entry>)]) -> Map<String, Value> {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(version, _)| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
        .collect();
    let mut about = Map::new();
    about.insert("name".into(), json!(group));
    about.insert("preferredVersion".into(), versions.first().cloned().unwrap_or_default());
    about.insert("versions".into(), Value::Array(versions));
    about
}

fn resource_list(group_version: &str, entries: &[Entry]) -> Value {
    let resources: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut resource = Map::new();
            resource.insert("name".into(), json!(entry.name));
            resource.insert("singularName".into(), json!(entry.singular));
            resource.insert("namespaced".into(), json!(entry.namespaced));
            let own = if entry.group.is_empty() {
                entry.version.clone()
            } else {
                format!("{}/{}", entry.group, entry.version)
            };
            if own != group_version {
                resource.insert("group".into(), json!(entry.group));
                resource.insert("version".into(), json!(entry.version));
            }
            resource.insert("kind".into(), json!(entry.kind));
            resource.insert("verbs".into(), json!(entry.verbs));
            for (name, list) in [("shortNames", &entry.short_names), ("categories", &entry.categories)] {
                if !list.is_empty() {
                    resource.insert(name.into(), json!(list));
                }
            }
            if let Some(hash) = &entry.storage_hash {
                resource.insert("storageVersionHash".into(), json!(hash));
            }
            Value::Object(resource)
        })
        .collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    })
}
