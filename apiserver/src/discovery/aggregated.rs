//! `APIGroupDiscoveryList`: everything at once.

use serde_json::{Map, Value, json};

use super::{Entry, Groups, group_kind};

/// `core`: the document under `/api`; otherwise the one under `/apis`.
pub fn document(groups: &Groups, core: bool) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, entries)| {
                    let resources = resources(entries, name, version);
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            let metadata = if core { json!({}) } else { json!({ "name": name }) };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn resources(entries: &[Entry], group: &str, version: &str) -> Vec<Value> {
    entries
        .iter()
        .filter(|entry| !entry.name.contains('/'))
        .map(|entry| {
            let mut resource = Map::new();
            resource.insert("resource".into(), json!(entry.name));
            resource.insert("responseKind".into(), group_kind(entry, group, version));
            resource.insert("scope".into(), json!(if entry.namespaced { "Namespaced" } else { "Cluster" }));
            resource.insert("singularResource".into(), json!(entry.singular));
            resource.insert("verbs".into(), json!(entry.verbs));
            for (name, list) in [("shortNames", &entry.short_names), ("categories", &entry.categories)] {
                if !list.is_empty() {
                    resource.insert(name.into(), json!(list));
                }
            }
            let subresources: Vec<Value> = entries
                .iter()
                .filter_map(|sub| {
                    let (parent, name) = sub.name.split_once('/')?;
                    (parent == entry.name).then(|| {
                        json!({ "subresource": name, "responseKind": group_kind(sub, group, version), "verbs": sub.verbs })
                    })
                })
                .collect();
            if !subresources.is_empty() {
                resource.insert("subresources".into(), json!(subresources));
            }
            Value::Object(resource)
        })
        .collect()
}
