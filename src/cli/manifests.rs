//! Reads manifests: files, directories or standard input, YAML (several documents) or JSON, Lists taken apart.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// The objects of all files, in order; of a directory the .yaml, .yml and .json files by name.
pub fn read(paths: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Value>> {
    if paths.is_empty() {
        bail!("must specify -f");
    }
    let mut objects = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            parse(&text, "standard input", &mut objects)?;
            continue;
        }
        for file in files(path, recursive)? {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            parse(&text, &file.display().to_string(), &mut objects)?;
        }
    }
    if objects.is_empty() {
        bail!("no objects passed to apply");
    }
    Ok(objects)
}

fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("the path \"{}\"", path.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(path)
        .with_context(|| format!("reading {}", path.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                found.extend(files(&entry, true)?);
            }
        } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(entry);
        }
    }
    Ok(found)
}

fn parse(text: &str, source: &str, objects: &mut Vec<Value>) -> anyhow::Result<()> {
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document).with_context(|| format!("error parsing {source}"))?;
        match value {
            Value::Null => {}
            Value::Object(mut map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                if let Some(Value::Array(items)) = map.remove("items") {
                    objects.extend(items);
                }
            }
            Value::Object(map) => {
                for field in ["apiVersion", "kind"] {
                    if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                        bail!("error validating {source}: {field} not set");
                    }
                }
                objects.push(Value::Object(map));
            }
            _ => bail!("error parsing {source}: a manifest is an object, not a list or a scalar"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_empty_ones_are_taken_apart() {
        let mut objects = Vec::new();
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\n---\nkind: List\napiVersion: v1\nitems:\n- {kind: Pod, apiVersion: v1}\n- {kind: Service, apiVersion: v1}\n";
        parse(text, "test", &mut objects).unwrap();
        let kinds: Vec<_> = objects.iter().map(|o| o["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ConfigMap", "Pod", "Service"]);
        for bad in ["- a\n", "kind: Pod\n", "a: [\n"] {
            assert!(parse(bad, "test", &mut Vec::new()).is_err(), "{bad:?}");
        }
    }
}
