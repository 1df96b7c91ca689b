//! What was applied for a file, as a ConfigMap in `kube-system`.

use std::path::Path;

use coracle_client::{ApiError, Client, DeleteOptions, ListOptions};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::plan::Reference;

const NAMESPACE: &str = "kube-system";
/// On every record.
const LABEL: &str = "coracle.dev/addon-record";
/// Of the file's path, so that a record's name fits a label.
const NAME_BYTES_MAX: usize = 40;

/// The record of one file. The default is of none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Of the ConfigMap.
    pub name: String,
    /// Below the directory.
    pub file: String,
    /// Which server's directory.
    pub source: String,
    /// All that may exist.
    pub objects: Vec<Reference>,
    stored: Option<ConfigMap>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("ConfigMap {NAMESPACE}/{name}: {line:?} names no object")]
    Line { name: String, line: String },
}

/// This machine's directory; servers of one cluster may have different ones.
pub fn source(directory: &Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), directory.display())
}

/// A name that is a label's value too: the path where it is short and plain, and a hash that makes it one of a kind.
fn name(file: &str) -> String {
    let plain: String =
        file.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let short = plain.get(..plain.len().min(NAME_BYTES_MAX)).unwrap_or_default().trim_matches('-');
    let hash: String = Sha256::digest(file.as_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("addon-{short}-{hash}")
}

impl Record {
    pub fn new(file: &str) -> Self {
        Self { name: name(file), file: file.into(), ..Self::default() }
    }

    pub fn add(&mut self, more: Vec<Reference>) {
        for reference in more {
            match self.objects.iter_mut().find(|known| known.is_same(&reference)) {
                Some(known) => *known = reference,
                None => self.objects.push(reference),
            }
        }
    }

    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("ConfigMap".into()),
            namespace: Some(NAMESPACE.into()),
            name: Some(self.name.clone()),
            uid: self.stored.as_ref().and_then(|map| map.metadata.uid.clone()),
            ..ObjectReference::default()
        }
    }

    fn read(map: ConfigMap) -> Result<Self, RecordError> {
        let name = map.metadata.name.clone().unwrap_or_default();
        let data = map.data.as_ref();
        let text = |key: &str| data.and_then(|d| d.get(key)).cloned().unwrap_or_default();
        let objects = text("objects")
            .lines()
            .map(|line| {
                Reference::from_line(line)
                    .ok_or_else(|| RecordError::Line { name: name.clone(), line: line.into() })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { file: text("file"), source: text("source"), objects, name, stored: Some(map) })
    }
}

pub async fn find(client: &Client, file: &str) -> Result<Option<Record>, RecordError> {
    let found = client.find::<ConfigMap>(NAMESPACE, &name(file)).await?;
    found.map(Record::read).transpose()
}

pub async fn list(client: &Client) -> Result<Vec<Record>, RecordError> {
    let labelled = ListOptions { label_selector: Some(LABEL.into()), ..ListOptions::default() };
    let found = client.list::<ConfigMap>(NAMESPACE, labelled).await?;
    found.items.iter().map(|object| Record::read(object.decode().map_err(ApiError::from)?)).collect()
}

/// Makes the stored record this one.
pub async fn write(client: &Client, mut record: Record, source: &str) -> Result<Record, RecordError> {
    record.source = source.to_owned();
    let lines: Vec<String> = record.objects.iter().map(Reference::line).collect();
    let data = [
        ("file".to_owned(), record.file.clone()),
        ("source".to_owned(), record.source.clone()),
        ("objects".to_owned(), lines.join("\n")),
    ];
    let data = Some(data.into());
    let stored = match record.stored.take() {
        Some(map) if map.data == data => map,
        Some(mut map) => {
            map.data = data;
            client.update(&map).await?.decode()?
        }
        None => {
            let metadata = ObjectMeta {
                namespace: Some(NAMESPACE.into()),
                name: Some(record.name.clone()),
                labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            };
            client.create(&ConfigMap { metadata, data, ..ConfigMap::default() }).await?.decode()?
        }
    };
    record.stored = Some(stored);
    Ok(record)
}

pub async fn remove(client: &Client, record: &Record) -> Result<(), RecordError> {
    match client.delete::<ConfigMap>(NAMESPACE, &record.name, DeleteOptions::default()).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_too_and_differ() {
        let all = ["a.yaml", "a/yaml", "A.yaml", &"x".repeat(300), "ünï.yaml", ".yaml"].map(name);
        for name in &all {
            assert!(
                name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
                "{name}"
            );
        }
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
