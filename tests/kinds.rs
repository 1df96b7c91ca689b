//! Every kind that the API serves has a manifest under tests/fixtures/round_trip, and comes back as it was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use harness::{Https, eventually, repository, shared};
use serde_json::Value;

/// Resources that are asked and answered, never kept: they have nothing to round-trip.
const VERBS_WITHOUT_STORAGE: &[&str] = &["create"];

struct Resource {
    path: String,
    namespaced: bool,
    kind: String,
    group_version: String,
}

fn fixtures() -> BTreeMap<String, Value> {
    std::fs::read_dir(repository("tests/fixtures/round_trip"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (
                name,
                serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            )
        })
        .collect()
}

/// What is kept, by discovery: all that can be listed.
fn resources(api: &Https) -> Vec<Resource> {
    let mut roots = vec![("/api/v1".to_owned(), "v1".to_owned())];
    for group in api.get("/apis").json()["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let name = version["groupVersion"].as_str().unwrap();
            roots.push((format!("/apis/{name}"), name.to_owned()));
        }
    }
    let mut found = Vec::new();
    for (root, group_version) in roots {
        for resource in api.get(&root).json()["resources"].as_array().unwrap() {
            let verbs: Vec<_> =
                resource["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
            let name = resource["name"].as_str().unwrap();
            // What nobody creates (component statuses) is answered, not kept.
            if name.contains('/') || verbs == VERBS_WITHOUT_STORAGE || !verbs.contains(&"create") {
                continue;
            }
            found.push(Resource {
                path: format!("{root}|{name}"),
                namespaced: resource["namespaced"].as_bool().unwrap(),
                kind: resource["kind"].as_str().unwrap().to_owned(),
                group_version: group_version.clone(),
            });
        }
    }
    found
}

/// Where `wanted` has a value that `found` lacks or has otherwise.
fn differences(wanted: &Value, found: &Value, path: &str, differing: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                let path = format!("{path}.{key}");
                match found.get(key) {
                    Some(other) => differences(value, other, &path, differing),
                    None => differing.push(format!("{path} is gone")),
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() <= found.len() => {
            for (index, (value, other)) in wanted.iter().zip(found).enumerate() {
                differences(value, other, &format!("{path}[{index}]"), differing);
            }
        }
        (wanted, found) if wanted == found => {}
        (wanted, found) => differing.push(format!("{path}: sent {wanted}, got {found}")),
    }
}

#[test]
fn every_kind_has_a_manifest_and_comes_back_as_it_was_sent() {
    let api = shared();
    let fixtures = fixtures();
    let resources = resources(&api);
    let mut faults = Vec::new();

    let kind_of = |object: &Value| {
        (object["apiVersion"].as_str().unwrap().to_owned(), object["kind"].as_str().unwrap().to_owned())
    };
    let covered: BTreeSet<_> = fixtures.values().map(kind_of).collect();
    for resource in &resources {
        if !covered.contains(&(resource.group_version.clone(), resource.kind.clone())) {
            faults.push(format!(
                "{} {} has no manifest under tests/fixtures/round_trip",
                resource.group_version, resource.kind
            ));
        }
    }
    // The namespace comes first, for the others stand in it.
    let mut ordered: Vec<_> = fixtures.iter().collect();
    ordered.sort_by_key(|(name, _)| *name != "namespace.yaml");
    for (file, object) in ordered {
        let (group_version, kind) = kind_of(object);
        let Some(resource) = resources.iter().find(|r| r.group_version == group_version && r.kind == kind)
        else {
            faults.push(format!("{file}: {group_version} {kind} is not served"));
            continue;
        };
        let (root, plural) = resource.path.split_once('|').unwrap();
        let namespace = if resource.namespaced { "/namespaces/round-trip" } else { "" };
        let collection = format!("{root}{namespace}/{plural}");
        let created = api.post(&format!("{collection}?fieldValidation=Strict"), object.to_string());
        if created.status != 201 {
            faults.push(format!("{file}: {} {}", created.status, created.text()));
            continue;
        }
        let mut differing = Vec::new();
        differences(object, &created.json(), file, &mut differing);
        let one = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        let read = api.get(&one);
        differences(object, &read.json(), &format!("{file} (read)"), &mut differing);
        // In YAML, through a Table and written back unchanged: no version is made of it.
        let yaml = api.request("GET", &one, &[("accept", "application/yaml")], b"");
        let parsed: Value = serde_norway::from_str(&yaml.text()).unwrap_or(Value::Null);
        differences(object, &parsed, &format!("{file} (YAML)"), &mut differing);
        let table = api
            .request("GET", &one, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], b"")
            .json();
        let columns = table["columnDefinitions"].as_array().map_or(0, Vec::len);
        let cells = table["rows"][0]["cells"].as_array().map_or(0, Vec::len);
        if columns == 0 || columns != cells {
            differing.push(format!("{file}: a Table of {columns} columns and {cells} cells"));
        }
        // Controllers may write in between, so a conflict is tried again.
        let written = eventually(&one, || {
            let written = api.put(&one, &api.get(&one).json());
            if written.status == 409 { Err(written.text()) } else { Ok(written) }
        });
        if written.status != 200 {
            differing.push(format!("{file}: written back: {} {}", written.status, written.text()));
        }
        faults.extend(differing);
    }
    assert!(faults.is_empty(), "{} faults:\n  {}", faults.len(), faults.join("\n  "));
}
