//! Reads manifests: files, directories or standard input, YAML (several documents) or JSON, Lists taken apart.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_controllers::manifest;
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
    let documents = manifest::documents(text).with_context(|| format!("error parsing {source}"))?;
    objects.extend(documents.into_iter().map(|document| Value::Object(document.object)));
    Ok(())
}
