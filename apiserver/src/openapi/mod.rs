//! The OpenAPI documents: `/openapi/v3` with one document for each group and version, and `/openapi/v2`. Made when they
//! are first asked for, and kept compressed.

mod components;
mod connect;
mod names;
mod parameters;
mod paths;
mod swagger;
mod swagger_protobuf;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use coracle_client::{ApiError, KUBERNETES_VERSION};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::KindDef;
use crate::subresources::REVIEWS;
use names::GroupVersion;

/// One document, as it is sent.
#[derive(Clone)]
pub struct Document {
    pub gzip: Bytes,
    /// Of the content: in the index's URLs, and the ETag.
    pub hash: String,
}

impl Document {
    fn new(value: &Value) -> Result<Self, std::io::Error> {
        Self::of(&serde_json::to_vec(value)?)
    }

    fn of(content: &[u8]) -> Result<Self, std::io::Error> {
        let digest = Sha256::digest(content);
        let hash = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content)?;
        Ok(Self { gzip: encoder.finish()?.into(), hash })
    }

    pub fn content(&self) -> Result<Bytes, std::io::Error> {
        let mut content = Vec::new();
        GzDecoder::new(&*self.gzip).read_to_end(&mut content)?;
        Ok(content.into())
    }

    pub fn etag(&self) -> String {
        format!("\"{}\"", self.hash)
    }
}

/// What one group and version serves, and its document once someone has asked.
struct Part {
    gv: GroupVersion,
    kinds: Vec<Arc<KindDef>>,
    document: OnceLock<Option<Document>>,
}

impl Part {
    fn of_the_same(&self, kinds: &[Arc<KindDef>]) -> bool {
        self.kinds.len() == kinds.len() && self.kinds.iter().zip(kinds).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

pub struct OpenApi {
    /// By path: `api/v1`, `apis/apps/v1`. Shared with the documents of other states in which the part is the same.
    parts: BTreeMap<String, Arc<Part>>,
    /// Every group and version of the built-in kinds, for the documents that belong to all.
    built_in: Vec<GroupVersion>,
    swagger: OnceLock<Option<Document>>,
    swagger_protobuf: OnceLock<Option<Document>>,
}

const JSON: &str = "application/json";
const SWAGGER_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for; no media type by the rules, so Go's would not take it as the answer's.
const SWAGGER_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

impl OpenApi {
    pub fn new(kinds: &[Arc<KindDef>]) -> Self {
        Self::after(None, kinds)
    }

    /// The documents of another state of what is served: those that are about the same kinds are kept.
    pub fn after(previous: Option<&Self>, kinds: &[Arc<KindDef>]) -> Self {
        let mut by_version: BTreeMap<GroupVersion, Vec<Arc<KindDef>>> = BTreeMap::new();
        for review in REVIEWS {
            let gv = GroupVersion { group: review.group.to_owned(), version: review.version.to_owned() };
            by_version.entry(gv).or_default();
        }
        for kind in kinds {
            by_version.entry(GroupVersion::of(&kind.resource)).or_default().push(kind.clone());
        }
        let custom = |kinds: &[Arc<KindDef>]| kinds.iter().any(|kind| !kind.built_in);
        let built_in =
            by_version.iter().filter(|(_, kinds)| !custom(kinds)).map(|(gv, _)| gv.clone()).collect();
        let parts = by_version.into_iter().map(|(gv, kinds)| {
            let path = gv.path();
            let known = previous.and_then(|previous| previous.parts.get(&path));
            let part = match known.filter(|part| part.of_the_same(&kinds)) {
                Some(part) => part.clone(),
                None => Arc::new(Part { gv, kinds, document: OnceLock::new() }),
            };
            (path, part)
        });
        Self { parts: parts.collect(), built_in, swagger: OnceLock::new(), swagger_protobuf: OnceLock::new() }
    }

    fn build(&self, part: &Part) -> Value {
        let gv = &part.gv;
        let kinds: Vec<&KindDef> = part.kinds.iter().map(|kind| &**kind).collect();
        let mut components = components::build(gv, &kinds, &self.built_in);
        let paths = Value::Object(paths::build(gv, &kinds, &components));
        // Lists come back from no operation as themselves alone, and watches only in words.
        let mut roots = vec![paths.clone()];
        if !kinds.is_empty() {
            roots.push(components::reference(&components::meta_name("WatchEvent")));
        }
        roots.extend(components.kinds.iter().map(|kind| components::reference(&kind.object)));
        components::reachable(&mut components.schemas, &Value::Array(roots));
        json!({
            "openapi": "3.0.0",
            "info": { "title": "Kubernetes", "version": version() },
            "paths": paths,
            "components": {
                "schemas": components.schemas,
                "securitySchemes": {
                    "BearerToken": {
                        "description": "Bearer Token authentication",
                        "type": "apiKey",
                        "in": "header",
                        "name": "authorization",
                    },
                },
            },
        })
    }

    fn document_of<'a>(&self, part: &'a Part) -> Option<&'a Document> {
        let build = || {
            let path = part.gv.path();
            Document::new(&self.build(part))
                .inspect_err(|error| tracing::error!(%error, "building the OpenAPI document of {path}"))
                .ok()
        };
        part.document.get_or_init(build).as_ref()
    }

    fn documents(&self) -> impl Iterator<Item = (&String, &Document)> {
        self.parts.iter().filter_map(|(path, part)| Some((path, self.document_of(part)?)))
    }

    /// `/openapi/v3`: where the documents are.
    pub fn index(&self) -> Value {
        let paths: serde_json::Map<String, Value> = self
            .documents()
            .map(|(path, document)| (path.clone(), json!({ "serverRelativeURL": url(path, document) })))
            .collect();
        json!({ "paths": paths })
    }

    /// The document of a group and version, by its path in the index.
    pub fn document(&self, path: &str) -> Option<&Document> {
        self.parts.get(path).and_then(|part| self.document_of(part))
    }

    fn merged(&self) -> Value {
        // What is kept is read again: less work than to describe every type anew.
        let kept = |document: &Document| serde_json::from_slice(&document.content().ok()?).ok();
        swagger::merged(self.documents().filter_map(|(_, document)| kept(document)))
    }

    /// `/openapi/v2`
    pub fn swagger(&self) -> Option<&Document> {
        self.swagger.get_or_init(|| Document::new(&self.merged()).ok()).as_ref()
    }

    /// `/openapi/v2` in protobuf: all that client-go's discovery and what is built on it take.
    pub fn swagger_protobuf(&self) -> Option<&Document> {
        self.swagger_protobuf
            .get_or_init(|| Document::of(&swagger_protobuf::encoded(&self.merged())).ok())
            .as_ref()
    }

    /// The answer to a GET below `/openapi`; None for paths that are none of it. Takes some tens of milliseconds the
    /// first time.
    pub fn answer(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Result<Response, ApiError>> {
        let rest = path.trim_end_matches('/').strip_prefix("/openapi/")?;
        if rest == "v2" {
            let media_type = match accepted(headers, &[JSON, SWAGGER_PROTOBUF, SWAGGER_PROTOBUF_ASKED]) {
                Ok(SWAGGER_PROTOBUF_ASKED) => SWAGGER_PROTOBUF,
                Ok(media_type) => media_type,
                Err(error) => return Some(Err(error)),
            };
            let document =
                if media_type == SWAGGER_PROTOBUF { self.swagger_protobuf()? } else { self.swagger()? };
            return Some(respond(document, media_type, headers, None));
        }
        let rest = rest.strip_prefix("v3")?;
        let Some(group_version) = rest.strip_prefix('/') else {
            if !rest.is_empty() {
                return None;
            }
            let index = self.index();
            return Some(accepted(headers, &[JSON]).and_then(|media_type| {
                let document = Document::new(&index).map_err(ApiError::internal)?;
                respond(&document, media_type, headers, None)
            }));
        };
        let document = self.document(group_version)?;
        let asked = query.split('&').find_map(|pair| pair.strip_prefix("hash="));
        if let Some(hash) = asked
            && hash != document.hash
        {
            return Some(moved(&url(group_version, document)));
        }
        Some(accepted(headers, &[JSON]).and_then(|media_type| respond(document, media_type, headers, asked)))
    }
}

/// `1.37`
fn version() -> &'static str {
    KUBERNETES_VERSION.trim_start_matches('v').rsplit_once('.').map_or(KUBERNETES_VERSION, |(minor, _)| minor)
}

fn url(path: &str, document: &Document) -> String {
    format!("/openapi/v3/{path}?hash={}", document.hash)
}

/// The first media type of the client's that is among those there are; the first of these where it takes any.
fn accepted(headers: &HeaderMap, there: &[&'static str]) -> Result<&'static str, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let wanted = accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    for media_type in wanted {
        if matches!(media_type, "" | "*/*" | "application/*") {
            return there.first().copied().ok_or_else(|| not_acceptable(there));
        }
        if let Some(found) = there.iter().find(|have| **have == media_type) {
            return Ok(found);
        }
    }
    Err(not_acceptable(there))
}

fn not_acceptable(there: &[&str]) -> ApiError {
    let message = format!("only the following media types are accepted: {}", there.join(", "));
    ApiError::new(406, "NotAcceptable", message)
}

fn moved(to: &str) -> Result<Response, ApiError> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(to).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

/// `asked`: the hash in the URL; such an answer never changes.
fn respond(
    document: &Document,
    media_type: &'static str,
    headers: &HeaderMap,
    asked: Option<&str>,
) -> Result<Response, ApiError> {
    let list = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let known = list(header::IF_NONE_MATCH).split(',').any(|tag| tag.trim() == document.etag());
    let zipped = list(header::ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|quality| quality.replace(' ', "") != "q=0")
    });
    let body = match (known, zipped) {
        (true, _) => Bytes::new(),
        (false, true) => document.gzip.clone(),
        (false, false) => document.content().map_err(ApiError::internal)?,
    };
    let mut response = Response::new(Body::from(body));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    out.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    let caching = if asked.is_some() { "public, immutable, max-age=31536000" } else { "no-cache, private" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Ok(etag) = HeaderValue::from_str(&document.etag()) {
        out.insert(header::ETAG, etag);
    }
    if zipped && !known {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
