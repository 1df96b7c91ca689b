//! What the server offers: groups, versions and resources, in one aggregated document or in the older ones, one for
//! each group and version.

mod aggregated;
mod legacy;
pub(crate) mod order;

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
use crate::negotiation::{Clause, Encoding, Form, JSON, PROTOBUF, YAML, clauses, not_acceptable};
use crate::response;
use crate::subresources::{self, REVIEWS};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const READ: &[&str] = &["get", "list"];
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

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

/// Group, then version, the preferred one first, then what is in it.
type Groups = Vec<(String, Vec<(String, Vec<Entry>)>)>;

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
    aggregated: Aggregated,
}

impl Discovery {
    pub fn new(kinds: &[impl Borrow<KindDef>]) -> Self {
        let groups = groups(kinds);
        let aggregated = Aggregated {
            core: Document::new(&aggregated::document(&groups, true)),
            others: Document::new(&aggregated::document(&groups, false)),
        };
        Self { legacy: legacy::documents(&groups), aggregated }
    }

    /// The aggregated documents of `/api` and `/apis`.
    pub fn whole(&self) -> [Bytes; 2] {
        [self.aggregated.core.body.clone(), self.aggregated.others.body.clone()]
    }

    pub fn knows(&self, path: &str) -> bool {
        self.legacy.contains_key(path)
    }

    /// The answer to a GET of a discovery path; the 404 page for what is none. `host`: how the client reached the server.
    pub async fn answer(
        &self,
        path: &str,
        host: &str,
        headers: &HeaderMap,
        form: Form,
    ) -> Result<Response, ApiError> {
        let Some(body) = self.legacy.get(path) else { return Ok(response::page_not_found()) };
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let whole = matches!(path, "/api" | "/apis");
        match clauses(accept).iter().find_map(|clause| acceptable(clause, whole)) {
            Some(true) => {
                let documents = &self.aggregated;
                let document = if path == "/api" { &documents.core } else { &documents.others };
                conditional(document, headers, form).await
            }
            Some(false) if path == "/api" => {
                response::document(200, legacy::versions(body, host)?, form).await
            }
            Some(false) => response::document(200, body.clone(), form).await,
            None if accept.trim().is_empty() => response::document(200, body.clone(), form).await,
            None => Err(not_acceptable(&format!("{JSON}, {YAML}, {PROTOBUF}"))),
        }
    }
}

/// Whether a clause asks for the aggregated form, which `whole` documents have; None: for what there is not.
fn acceptable(clause: &Clause<'_>, whole: bool) -> Option<bool> {
    let known = matches!(clause.media_type, JSON | YAML | PROTOBUF | "*/*" | "application/*");
    match clause.parameter("as") {
        None => known.then_some(false),
        Some("APIGroupDiscoveryList") => {
            let asked = (clause.parameter("g"), clause.parameter("v"));
            (whole && clause.media_type == JSON && asked == (Some("apidiscovery.k8s.io"), Some("v2")))
                .then_some(true)
        }
        Some(_) => None,
    }
}

async fn conditional(document: &Document, headers: &HeaderMap, form: Form) -> Result<Response, ApiError> {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|etag| *etag == document.etag);
    let mut response = if known {
        response::json(304, Bytes::new())
    } else {
        let form = Form { encoding: Encoding::Json, ..form };
        response::document(200, document.body.clone(), form).await?
    };
    let out = response.headers_mut();
    out.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    );
    out.insert(header::ETAG, document.etag.clone());
    out.append(header::VARY, HeaderValue::from_static("Accept"));
    // Caches must ask whether it is still true.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}

fn groups(kinds: &[impl Borrow<KindDef>]) -> Groups {
    let mut groups: Groups = Vec::new();
    let mut add = |group: &str, version: &str, entry: Entry| {
        let at = groups.iter().position(|(name, _)| name == group).unwrap_or_else(|| {
            groups.push((group.to_owned(), Vec::new()));
            groups.len() - 1
        });
        let Some((_, versions)) = groups.get_mut(at) else { return };
        match versions.iter_mut().find(|(name, _)| name == version) {
            Some((_, entries)) => entries.push(entry),
            None => versions.push((version.to_owned(), vec![entry])),
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
        versions.sort_by(|(a, _), (b, _)| order::versions(a, b));
        for (_, entries) in versions {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    groups.sort_by(|(a, _), (b, _)| order::groups(a, b));
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
        verbs: match def {
            def if def.computed => READ,
            def if def.deletes_collection => VERBS,
            _ => ONE_BY_ONE,
        },
        short_names: def.short_names.clone(),
        categories: def.categories.clone(),
        storage_hash: (!def.computed)
            .then(|| storage_hash(def.alias.as_ref().map_or(resource, |alias| &alias.stored))),
    }];
    for name in def.all_subresources() {
        let (verbs, own) = subresources::describe(resource.kind(), name);
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

/// Group and version are said where they are not those around it.
fn group_kind(entry: &Entry, group: &str, version: &str) -> Value {
    if entry.group == group && entry.version == version {
        return json!({ "group": "", "version": "", "kind": entry.kind });
    }
    json!({ "group": entry.group, "version": entry.version, "kind": entry.kind })
}

#[cfg(test)]
mod tests;
