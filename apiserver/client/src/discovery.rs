//! What the API serves: every resource in the version that the server prefers, and the groups it cannot tell of now.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::resource::Resource;
use crate::status::ApiError;

/// How the aggregated documents are asked for.
pub const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedResource {
    pub resource: Resource,
    pub verbs: Vec<String>,
}

impl ServedResource {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Each once, in its group's preferred version that has it.
    pub resources: Vec<ServedResource>,
    /// Groups and versions (`metrics.k8s.io/v1beta1`) whose server did not answer.
    pub stale: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    freshness: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    resource: String,
    response_kind: Option<Kind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

/// Out of the aggregated documents of `/api` and `/apis`.
pub fn parse(documents: &[impl AsRef<[u8]>]) -> Result<Discovered, ApiError> {
    let mut discovered = Discovered::default();
    for document in documents {
        let document: Document = serde_json::from_slice(document.as_ref())?;
        for group in document.items {
            let name = group.metadata.name;
            let mut seen = BTreeSet::new();
            // The preferred version comes first; what only others have is taken from those.
            for version in group.versions {
                if version.freshness == "Stale" {
                    discovered.stale.push(if name.is_empty() {
                        version.version.clone()
                    } else {
                        format!("{name}/{}", version.version)
                    });
                }
                for entry in version.resources {
                    let Some(kind) = entry.response_kind else { continue };
                    if !seen.insert(entry.resource.clone()) {
                        continue;
                    }
                    let namespaced = entry.scope == "Namespaced";
                    let resource =
                        Resource::new(&name, &version.version, &entry.resource, &kind.kind, namespaced);
                    discovered.resources.push(ServedResource { resource, verbs: entry.verbs });
                }
            }
        }
    }
    Ok(discovered)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_resource_is_found_once_in_its_preferred_version() {
        let entry = |name: &str, kind: &str, scope: &str| {
            json!({"resource": name, "responseKind": {"group": "", "version": "", "kind": kind}, "scope": scope,
                "verbs": ["list", "watch", "delete"]})
        };
        let core = json!({"items": [{"metadata": {}, "versions": [
            {"version": "v1", "resources": [entry("pods", "Pod", "Namespaced")]}]}]});
        let others = json!({"items": [
            {"metadata": {"name": "example.com"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [entry("boats", "Boat", "Cluster")]},
                {"version": "v1", "freshness": "Current", "resources": [
                    entry("boats", "Boat", "Cluster"), entry("oars", "Oar", "Namespaced")]}]},
            {"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale"}]}]});
        let found = parse(&[core.to_string(), others.to_string()]).unwrap();
        let names: Vec<_> = found.resources.iter().map(|r| format!("{:?}", r.resource)).collect();
        assert_eq!(names, ["v1/pods", "example.com/v2/boats", "example.com/v1/oars"]);
        assert_eq!(found.stale, ["metrics.k8s.io/v1beta1"]);
        assert!(found.resources[0].can("delete") && !found.resources[0].can("deletecollection"));
        assert!(found.resources[0].resource.namespaced() && !found.resources[1].resource.namespaced());
    }
}
