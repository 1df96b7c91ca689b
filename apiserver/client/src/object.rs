//! An object of the API in memory: its encoded JSON, shared, beside a small parsed head.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use smol_str::SmolStr;

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `metadata.uid`: kept once, however many refer to it.
pub type Uid = SmolStr;

/// Labels, sorted by key.
pub type LabelPairs = Arc<[(SmolStr, SmolStr)]>;

/// What is known of an object without decoding it.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Uid,
    pub resource_version: u64,
    pub generation: i64,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    pub has_finalizers: bool,
    pub labels: LabelPairs,
    pub owners: Arc<[Owner]>,
    /// Values of `Resource::selectable_fields`, in that order; empty where the object has none.
    pub fields: Arc<[(&'static str, SmolStr)]>,
}

/// One `metadata.ownerReferences` entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub api_version: SmolStr,
    pub kind: SmolStr,
    pub name: SmolStr,
    pub uid: Uid,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

impl Head {
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|i| &*self.labels[i].1)
    }

    /// The value of a selectable field; `metadata.name` and `metadata.namespace` included. None: not selectable.
    pub fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.iter().find(|(p, _)| *p == path).map(|(_, v)| &**v),
        }
    }

    /// The owner that controls this object, if one does.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|o| o.controller)
    }

    pub fn key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Takes over what is the same in another version of the object, so that it is in memory once.
    pub fn share(&mut self, other: &Self) {
        fn same<T: PartialEq + ?Sized>(mine: &mut Arc<T>, theirs: &Arc<T>) {
            if mine == theirs {
                mine.clone_from(theirs);
            }
        }
        same(&mut self.namespace, &other.namespace);
        same(&mut self.name, &other.name);
        same(&mut self.labels, &other.labels);
        same(&mut self.owners, &other.owners);
        same(&mut self.fields, &other.fields);
        if self.uid == other.uid {
            self.uid.clone_from(&other.uid);
        }
    }

    /// Reads the head out of encoded JSON, with the values of `fields`.
    pub fn parse(json: &[u8], fields: &'static [&'static str]) -> Result<Self, serde_json::Error> {
        let document: Document<'_> = serde_json::from_slice(json)?;
        let meta = document.metadata;
        // A map by key: sorted already.
        let labels = meta.labels.unwrap_or_default().into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Ok(Self {
            namespace: meta.namespace.unwrap_or_default().into(),
            name: meta.name.unwrap_or_default().into(),
            uid: meta.uid.unwrap_or_default().into(),
            resource_version: meta.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0),
            generation: meta.generation.unwrap_or(0),
            deleting: meta.deletion_timestamp.is_some(),
            has_finalizers: meta.finalizers.is_some_and(|f| !f.is_empty()),
            labels,
            owners: meta
                .owner_references
                .unwrap_or_default()
                .into_iter()
                .map(|o| Owner {
                    api_version: o.api_version.into(),
                    kind: o.kind.into(),
                    name: o.name.into(),
                    uid: o.uid.into(),
                    controller: o.controller.unwrap_or(false),
                    block_owner_deletion: o.block_owner_deletion.unwrap_or(false),
                })
                .collect(),
            fields: read_fields(json, fields)?,
        })
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    metadata: Meta<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    #[serde(borrow)]
    deletion_timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    finalizers: Option<Vec<&'a RawValue>>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerReference {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

/// Values by field path.
type FieldValues = Arc<[(&'static str, SmolStr)]>;

type Fields<'a> = BTreeMap<std::borrow::Cow<'a, str>, &'a RawValue>;

fn read_fields(json: &[u8], paths: &'static [&'static str]) -> Result<FieldValues, serde_json::Error> {
    if paths.is_empty() {
        return Ok(Arc::default());
    }
    let top: Fields<'_> = serde_json::from_slice(json)?;
    let mut sections: BTreeMap<&str, Fields<'_>> = BTreeMap::new();
    let mut fields = Vec::with_capacity(paths.len());
    for path in paths {
        let raw = match path.split_once('.') {
            None => top.get(*path).copied(),
            Some((section, rest)) => {
                if !sections.contains_key(section) {
                    let parsed = match top.get(section) {
                        Some(raw) => serde_json::from_str(raw.get()).unwrap_or_default(),
                        None => Fields::new(),
                    };
                    sections.insert(section, parsed);
                }
                // Jobs count under another name than they are selected by.
                let rest = if rest == "successful" { "succeeded" } else { rest };
                sections.get(section).and_then(|s| within(s, rest))
            }
        };
        let value = raw.map(scalar).unwrap_or_default();
        fields.push((*path, if value.is_empty() { absent(path).into() } else { value }));
    }
    Ok(fields.into())
}

/// What Go's zero of a field reads as.
fn absent(path: &str) -> &'static str {
    match path {
        "spec.hostNetwork" | "spec.unschedulable" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}

/// A field of a section, or one further down.
fn within<'a>(section: &Fields<'a>, path: &str) -> Option<&'a RawValue> {
    if let Some(raw) = section.get(path) {
        return Some(raw);
    }
    let (name, rest) = path.split_once('.')?;
    let inner: Fields<'a> = serde_json::from_str(section.get(name)?.get()).ok()?;
    within(&inner, rest)
}

/// A string as it is, a bool or number as JSON writes it; null and structures are empty, except that
/// an event's `source` is selected by its component.
fn scalar(raw: &RawValue) -> SmolStr {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(text).unwrap_or_default().into(),
        Some(b'{') => {
            #[derive(Deserialize)]
            struct Source {
                component: Option<String>,
            }
            serde_json::from_str::<Source>(text).ok().and_then(|s| s.component).unwrap_or_default().into()
        }
        Some(b'[') | Some(b'n') | None => SmolStr::default(),
        Some(_) => text.into(),
    }
}

/// An immutable object: shared bytes and head. The JSON carries `apiVersion`, `kind` and `resourceVersion`.
#[derive(Debug)]
pub struct Object {
    pub head: Head,
    pub json: Bytes,
    view: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Object {
    pub fn new(head: Head, json: Bytes) -> Self {
        Self { head, json, view: OnceLock::new() }
    }

    pub fn parse(json: Bytes, fields: &'static [&'static str]) -> Result<Arc<Self>, serde_json::Error> {
        Ok(Arc::new(Self::new(Head::parse(&json, fields)?, json)))
    }

    /// What `make` reads out of the object, kept for as long as the object is, for readers that come by all objects
    /// whenever one changes. One type is kept: the first that is asked for; others are made each time.
    pub fn view<T: Any + Send + Sync, E>(
        &self,
        make: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some(kept) = self.view.get() {
            return match kept.clone().downcast() {
                Ok(view) => Ok(view),
                Err(_) => make(self).map(Arc::new),
            };
        }
        let view = Arc::new(make(self)?);
        // Whoever was faster has made the same.
        let _ = self.view.set(view.clone());
        Ok(view)
    }

    /// Decodes into the full type, or into a view struct that names only the fields of interest.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// Whether the text stands somewhere in the JSON: a cheap no, where a yes needs a look.
    pub fn contains(&self, text: impl AsRef<[u8]>) -> bool {
        memmem::find(&self.json, text.as_ref()).is_some()
    }

    pub fn key(&self) -> Key {
        self.head.key()
    }

    /// The head alone.
    pub fn without_json(&self) -> Arc<Self> {
        Arc::new(Self::new(self.head.clone(), Bytes::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_carries_metadata_and_selectable_fields() {
        let json = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a\"b","namespace":"ns","uid":"u","resourceVersion":"42",
            "labels":{"z":"1","app":"web"},"deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["x"],
            "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","uid":"ru","controller":true}]},
            "spec":{"nodeName":"n1","hostNetwork":true},"source":{"component":"kubelet"}}"#;
        let head =
            Head::parse(json, &["spec.nodeName", "spec.hostNetwork", "status.phase", "source"]).unwrap();
        assert_eq!(&*head.name, "a\"b");
        assert_eq!(head.resource_version, 42);
        assert!(head.deleting && head.has_finalizers);
        assert_eq!(head.label("app"), Some("web"));
        assert_eq!(head.label("nope"), None);
        assert_eq!(head.controller().map(|o| &*o.uid), Some("ru"));
        for (path, want) in [
            ("spec.nodeName", Some("n1")),
            ("spec.hostNetwork", Some("true")),
            ("status.phase", Some("")),
            ("source", Some("kubelet")),
            ("metadata.namespace", Some("ns")),
            ("spec.other", None),
        ] {
            assert_eq!(head.field(path), want, "{path}");
        }
    }

    #[test]
    fn a_view_is_made_once_and_another_each_time() {
        let object = Object::parse(r#"{"metadata":{"name":"a"}}"#.into(), &[]).unwrap();
        let length = |object: &Object| Ok::<usize, ()>(object.json.len());
        assert_eq!(object.view(|_| Err::<usize, _>("unreadable")), Err("unreadable"));
        let first = object.view(length).unwrap();
        assert!(Arc::ptr_eq(&first, &object.view(|_| Err::<usize, _>("not asked again")).unwrap()));
        assert_eq!(*object.view(|o| Ok::<String, ()>(o.head.name.to_string())).unwrap(), "a");
        assert!(object.view(|_| Err::<String, _>(())).is_err());
    }

    #[test]
    fn what_stands_in_the_json_is_found() {
        let object = Object::parse(r#"{"metadata":{"name":"a"}}"#.into(), &[]).unwrap();
        for (text, want) in [("\"name\":", true), ("\"names\":", false), ("", true)] {
            assert_eq!(object.contains(text), want, "{text}");
        }
    }
}
