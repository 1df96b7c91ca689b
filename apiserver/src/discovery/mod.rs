//! What the server offers: groups, versions and resources, in one aggregated document or in the older ones, one for
//! each group and version.

mod aggregated;
mod legacy;

use std::borrow::Borrow;
use std::collections::BTreeMap;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_client::{ApiError, Resource};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::KindDef;
use crate::negotiation::{Form, Offer, clauses, negotiate};
use crate::response;
use crate::subresources::{self, REVIEWS};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
/// The groups after the core group come in this order, as upstream's priorities have them; then the others.
const ORDER: &[&str] = &["apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io"];

/// A resource or subresource as discovery shows it.
struct Entry {
    /// `pods`, `pods/status`
    name: String,
    singular: String,
    namespaced: bool,
    group: String,
    version: String,
    kind: String,
    verbs: &'static [&'static str],
    short_names: Vec<String>,
    categories: Vec<String>,
    storage_hash: Option<String>,
}

/// Group, then version, then what is in it.
type Groups = Vec<(String, BTreeMap<String, Vec<Entry>>)>;

struct Document {
    body: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        let digest: String = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{digest}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("\"-\""));
        Self { body, etag }
    }
}

/// Two aggregated documents: of the core group, of the others.
struct Aggregated {
    core: Document,
    others: Document,
}

pub struct Discovery {
    /// By path.
    legacy: BTreeMap<String, Bytes>,
    v2: Aggregated,
    v2beta1: Aggregated,
}

impl Discovery {
    pub fn new(kinds: &[impl Borrow<KindDef>]) -> Self {
        let groups = groups(kinds);
        let aggregated = |version: &str| Aggregated {
            core: Document::new(&aggregated::document(&groups, version, true)),
            others: Document::new(&aggregated::document(&groups, version, false)),
        };
        Self { legacy: legacy::documents(&groups), v2: aggregated("v2"), v2beta1: aggregated("v2beta1") }
    }

    pub fn knows(&self, path: &str) -> bool {
        self.legacy.contains_key(path)
    }

    /// The answer to a GET of a discovery path; the 404 page for what is none.
    pub async fn answer(&self, path: &str, headers: &HeaderMap, form: Form) -> Result<Response, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if matches!(path, "/api" | "/apis")
            && let Some((version, documents)) = self.wanted(accept)
        {
            let document = if path == "/api" { &documents.core } else { &documents.others };
            return Ok(conditional(document, version, headers));
        }
        match self.legacy.get(path) {
            Some(body) => {
                negotiate(Some(accept), Offer::default())?;
                response::document(200, body.clone(), form).await
            }
            None => Ok(response::page_not_found()),
        }
    }

    /// The aggregated form, where the client prefers it.
    fn wanted(&self, accept: &str) -> Option<(&'static str, &Aggregated)> {
        for clause in clauses(accept) {
            match clause.parameter("as") {
                Some("APIGroupDiscoveryList") if clause.parameter("g") == Some("apidiscovery.k8s.io") => {
                    match clause.parameter("v") {
                        Some("v2") => return Some(("v2", &self.v2)),
                        Some("v2beta1") => return Some(("v2beta1", &self.v2beta1)),
                        _ => {}
                    }
                }
                None if matches!(clause.media_type, "application/json" | "*/*") => return None,
                _ => {}
            }
        }
        None
    }
}

fn conditional(document: &Document, version: &str, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|etag| *etag == document.etag);
    let mut response =
        if known { response::json(304, Bytes::new()) } else { response::json(200, document.body.clone()) };
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let out = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&content_type) {
        out.insert(header::CONTENT_TYPE, value);
    }
    out.insert(header::ETAG, document.etag.clone());
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    // Caches must ask whether it is still true.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

fn groups(kinds: &[impl Borrow<KindDef>]) -> Groups {
    let mut groups: Groups = Vec::new();
    let mut add = |group: &str, version: &str, entry: Entry| {
        let at = groups.iter().position(|(name, _)| name == group).unwrap_or_else(|| {
            groups.push((group.to_owned(), BTreeMap::new()));
            groups.len() - 1
        });
        if let Some((_, versions)) = groups.get_mut(at) {
            versions.entry(version.to_owned()).or_default().push(entry);
        }
    };
    for def in kinds {
        let def: &KindDef = def.borrow();
        let resource = &def.resource;
        for entry in entries(def) {
            add(resource.group(), resource.version(), entry);
        }
    }
    for review in REVIEWS {
        let entry = Entry {
            name: review.plural.into(),
            singular: review.singular.into(),
            namespaced: review.namespaced,
            group: review.group.into(),
            version: review.version.into(),
            kind: review.kind.into(),
            verbs: &["create"],
            short_names: Vec::new(),
            categories: Vec::new(),
            storage_hash: None,
        };
        add(review.group, review.version, entry);
    }
    for (_, versions) in &mut groups {
        for entries in versions.values_mut() {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    let rank = |name: &str| match name {
        "" => 0,
        name => ORDER.iter().position(|n| *n == name).map_or(ORDER.len() + 1, |at| at + 1),
    };
    groups.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    groups
}

/// The resource and its subresources.
fn entries(def: &KindDef) -> Vec<Entry> {
    let resource = &def.resource;
    let mut all = vec![Entry {
        name: resource.plural().into(),
        singular: def.singular.clone(),
        namespaced: resource.namespaced(),
        group: resource.group().into(),
        version: resource.version().into(),
        kind: resource.kind().into(),
        verbs: if def.deletes_collection { VERBS } else { ONE_BY_ONE },
        short_names: def.short_names.clone(),
        categories: def.categories.clone(),
        storage_hash: Some(storage_hash(def.alias.as_ref().map_or(resource, |alias| &alias.stored))),
    }];
    for name in def.all_subresources() {
        let (verbs, own) = subresources::describe(name);
        let (group, version, kind) = own.unwrap_or((resource.group(), resource.version(), resource.kind()));
        all.push(Entry {
            name: format!("{}/{name}", resource.plural()),
            singular: String::new(),
            namespaced: resource.namespaced(),
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            verbs,
            short_names: Vec::new(),
            categories: Vec::new(),
            storage_hash: None,
        });
    }
    all
}

/// Changes when what is stored does, as upstream's: a short hash of group, version and kind.
fn storage_hash(resource: &Resource) -> String {
    let text = format!("{}/{}/{}", resource.group(), resource.version(), resource.kind());
    STANDARD.encode(Sha256::digest(text).get(..8).unwrap_or_default())
}

fn group_kind(entry: &Entry) -> Value {
    json!({ "group": entry.group, "version": entry.version, "kind": entry.kind })
}

#[cfg(test)]
mod tests;
