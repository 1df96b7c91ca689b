//! What a file's documents come to: which objects, in which order, and which have left. Pure.

use std::fmt;
use std::sync::Arc;

use coracle_client::{Informer, Object, Resource};
use serde_json::{Map, Value, json};

use crate::custom;
use crate::manifest::Document;

/// On every applied object: the file it comes from, below the directory.
pub const FILE_ANNOTATION: &str = "coracle.dev/addon-file";

/// Names an object; two of different versions of one group are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub group: String,
    pub version: String,
    pub kind: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    pub name: String,
}

impl Reference {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |r: &Self| (r.group.clone(), r.kind.clone(), r.namespace.clone(), r.name.clone());
        identity(self) == identity(other)
    }

    /// One line of a record: `v1 ConfigMap namespace/name`.
    pub fn line(&self) -> String {
        format!("{} {} {}/{}", self.api_version(), self.kind, self.namespace, self.name)
    }

    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (api_version, kind, name) = (words.next()?, words.next()?, words.next()?);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (namespace, name) = name.split_once('/')?;
        Some(Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub number: usize,
    pub reference: Reference,
    /// None: the API has no such kind, as yet.
    pub resource: Option<Resource>,
    pub object: Map<String, Value>,
}

/// A document's number, and why it is not applied.
pub type Failure = (usize, String);

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What an object is called, as its manifest says; a namespace is filled in later, where its kind has them.
pub fn reference(object: &Map<String, Value>) -> Reference {
    let api_version = text(object, "apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let meta = |field: &str| {
        let value = object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    Reference {
        group: group.into(),
        version: version.into(),
        kind: text(object, "kind").into(),
        namespace: meta("namespace"),
        name: meta("name"),
    }
}

/// The objects of all documents, with their resources; those that cannot be applied whatever the API has.
pub fn items(
    documents: &[Document],
    resource: impl Fn(&str, &str) -> Option<Resource>,
) -> (Vec<Item>, Vec<Failure>) {
    let (mut items, mut failures): (Vec<Item>, Vec<Failure>) = (Vec::new(), Vec::new());
    for document in documents {
        let mut reference = reference(&document.object);
        let mut object = document.object.clone();
        let resource = resource(&reference.api_version(), &reference.kind);
        match resource.as_ref().map(Resource::namespaced) {
            Some(true) if reference.namespace.is_empty() => reference.namespace = "default".into(),
            Some(false) => reference.namespace.clear(),
            _ => {}
        }
        if reference.name.is_empty() {
            failures.push((document.number, format!("{}: metadata.name not set", reference.kind)));
            continue;
        }
        if let Some(known) = items.iter().find(|item| item.reference.is_same(&reference)) {
            failures.push((
                document.number,
                format!("{reference} is declared by document {} already", known.number),
            ));
            continue;
        }
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("namespace");
            if !reference.namespace.is_empty() {
                meta.insert("namespace".into(), json!(reference.namespace));
            }
        }
        items.push(Item { number: document.number, reference, resource, object });
    }
    (items, failures)
}

/// An object that two files declare is the first one's.
pub fn uncontested(
    items: Vec<Item>,
    declared_before: impl Fn(&Reference) -> Option<Arc<str>>,
) -> (Vec<Item>, Vec<Failure>) {
    let (mut ours, mut failures) = (Vec::new(), Vec::new());
    for item in items {
        match declared_before(&item.reference) {
            Some(file) => {
                failures.push((item.number, format!("{} is declared by {file} already", item.reference)))
            }
            None => ours.push(item),
        }
    }
    (ours, failures)
}

/// Namespaces first, then definitions, then the rest as it stands.
pub fn ordered(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by_key(|item| rank(&item.reference));
    items
}

fn rank(reference: &Reference) -> u8 {
    match (reference.group.as_str(), reference.kind.as_str()) {
        ("", "Namespace") => 0,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => 1,
        _ => 2,
    }
}

/// What is recorded and no longer declared; namespaces and definitions last, as others live in them.
pub fn gone(recorded: &[Reference], declared: &[Reference]) -> Vec<Reference> {
    let stays = |reference: &&Reference| !declared.iter().any(|d| d.is_same(reference));
    let mut gone: Vec<Reference> = recorded.iter().filter(stays).cloned().collect();
    gone.sort_by_key(|reference| std::cmp::Reverse(rank(reference)));
    gone
}

/// The object with the marks of its file.
pub fn marked(mut object: Map<String, Value>, label: &str, record: &str, file: &str) -> Value {
    let mut mark = |field: &str, key: &str, value: &str| {
        let meta = object.entry("metadata").or_insert_with(|| json!({}));
        if !meta.get(field).is_some_and(Value::is_object) {
            meta[field] = json!({});
        }
        meta[field][key] = json!(value);
    };
    mark("labels", label, record);
    mark("annotations", FILE_ANNOTATION, file);
    Value::Object(object)
}

/// Whether anything but the status (and what the server counts) changed.
pub fn differs(old: &Object, new: &Object) -> bool {
    let essence = |object: &Object| {
        let mut value: Value = object.decode().ok()?;
        let map = value.as_object_mut()?;
        map.remove("status");
        if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
            meta.remove("managedFields");
            meta.remove("generation");
        }
        Some(value)
    };
    essence(old) != essence(new)
}

/// The resource of a kind: built in, or by a definition that is established.
pub fn resource(
    known: &[Resource],
    definitions: &Informer,
    api_version: &str,
    kind: &str,
) -> Option<Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let built_in = known.iter().find(|r| r.group() == group && r.kind() == kind);
    if let Some(found) = built_in {
        return Some(Resource::new(group, version, found.plural(), kind, found.namespaced()));
    }
    definitions
        .list()
        .iter()
        .filter(|definition| definition.head.name.ends_with(&format!(".{group}")))
        .find_map(|definition| custom::resource_at(definition, version).filter(|r| r.kind() == kind))
}
