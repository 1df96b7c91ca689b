//! The custom resources that the API serves at present, read from their definitions.

use coracle_client::{Informer, Object, Resource};
use serde::Deserialize;

#[derive(Deserialize)]
struct View {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    group: String,
    scope: String,
    names: Names,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Names {
    plural: String,
    kind: String,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    #[serde(default)]
    served: bool,
    #[serde(default)]
    storage: bool,
}

#[derive(Default, Deserialize)]
struct Status {
    /// `null` before the first is written.
    conditions: Option<Vec<Condition>>,
}

impl Status {
    fn established(&self) -> bool {
        self.conditions.iter().flatten().any(|c| c.kind == "Established" && c.status == "True")
    }
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// The resource of an established definition, in the version that is stored where that is served, which costs no
/// conversion.
pub fn resource_of(definition: &Object) -> Option<Resource> {
    let View { spec, status } = definition.decode::<View>().ok()?;
    let established = status.established();
    let version =
        spec.versions.iter().filter(|v| v.served).max_by_key(|v| v.storage).filter(|_| established)?;
    let namespaced = spec.scope == "Namespaced";
    Some(Resource::new(&spec.group, &version.name, &spec.names.plural, &spec.names.kind, namespaced))
}

/// The resource of an established definition in a version of its own, where that is served.
pub fn resource_at(definition: &Object, version: &str) -> Option<Resource> {
    let View { spec, status } = definition.decode::<View>().ok()?;
    let established = status.established();
    let served = spec.versions.iter().any(|v| v.served && v.name == version);
    let namespaced = spec.scope == "Namespaced";
    (established && served)
        .then(|| Resource::new(&spec.group, version, &spec.names.plural, &spec.names.kind, namespaced))
}

/// Group and plural of every definition, established or not.
pub fn named(definitions: &Informer) -> Vec<(String, String)> {
    let named = |definition: &Object| {
        let spec = definition.decode::<View>().ok()?.spec;
        Some((spec.group, spec.names.plural))
    };
    definitions.list().iter().filter_map(|definition| named(definition)).collect()
}

/// All of them, by an informer of CustomResourceDefinitions.
pub fn resources(definitions: &Informer) -> Vec<Resource> {
    definitions.list().iter().filter_map(|definition| resource_of(definition)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(versions: serde_json::Value, established: &str) -> std::sync::Arc<Object> {
        let json = json!({"metadata": {"name": "boats.example.com", "resourceVersion": "1"},
            "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
                "names": {"plural": "boats", "kind": "Boat"}},
            "status": {"conditions": [{"type": "Established", "status": established}]}});
        Object::parse(json.to_string().into(), &[]).unwrap()
    }

    #[test]
    fn the_stored_version_is_preferred_and_an_unserved_one_never_taken() {
        let old = json!({"name": "v1", "served": true, "storage": false});
        let stored = json!({"name": "v2", "served": true, "storage": true});
        let hidden = json!({"name": "v3", "served": false, "storage": true});
        for (versions, established, wanted) in [
            (json!([old, stored]), "True", Some("v2")),
            (json!([old, hidden]), "True", Some("v1")),
            (json!([hidden]), "True", None),
            (json!([stored]), "False", None),
        ] {
            let found = resource_of(&definition(versions.clone(), established));
            assert_eq!(found.as_ref().map(Resource::version), wanted, "{versions}");
        }
    }
}
