//! Answers as HTTP: status lines, media types, warnings, errors as Status objects, watches as streams.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use coracle_client::{ApiError, WatchEventKind};
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use crate::api::Served;
use crate::metrics::{self, Watching};
use crate::negotiation::{Accepted, Encoding, Form, Shape};
use crate::shape::View;
use crate::verbs::Answer;
use crate::verbs::list::Whole;
use crate::verbs::watch::Signal;
use crate::watch_cache::{FRAME_END, frame_start};
use crate::{gzip, pretty, protobuf};

/// Events that are ready at once go out as one piece up to this size.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNK_EVENTS: usize = 128;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
const PROTOBUF_STREAM: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn build(code: u16, content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn json(code: u16, body: impl Into<Bytes>) -> Response {
    build(code, JSON, Body::from(body.into()))
}

pub fn text(code: u16, body: impl Into<Bytes>) -> Response {
    let mut response = build(code, TEXT, Body::from(body.into()));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The pieces of one document, which are sent without being copied together.
fn pieces<const N: usize>(pieces: [Bytes; N], encoding: Encoding) -> Response {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let pieces = pieces.into_iter().filter(|p| !p.is_empty()).map(Ok::<_, std::io::Error>);
    let mut response = build(200, media_type(encoding), Body::from_stream(futures::stream::iter(pieces)));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// What is scraped.
pub fn metrics(body: Bytes) -> Response {
    build(200, HeaderValue::from_static(metrics::MEDIA_TYPE), Body::from(body))
}

fn media_type(encoding: Encoding) -> HeaderValue {
    match encoding {
        Encoding::Json => JSON,
        Encoding::Yaml => YAML,
        Encoding::Protobuf => PROTOBUF,
    }
}

fn mark_compressed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// A list out of items that are shared with other requests, with what stands before and after them.
pub async fn list(whole: Whole, form: Form) -> Result<Response, ApiError> {
    let Whole { head, items, end } = whole;
    if form.gzip && items.bytes.len() > gzip::THRESHOLD_BYTES {
        let compressing = move || items.compressed().map(|part| part.within(&head, &end));
        let compressed = tokio::task::spawn_blocking(compressing).await.map_err(ApiError::internal)?;
        let compressed = compressed.ok_or_else(|| ApiError::internal("a list could not be compressed"))?;
        let compressed = compressed.map_err(ApiError::internal)?;
        return Ok(mark_compressed(pieces(compressed, form.encoding)));
    }
    Ok(pieces([head, items.bytes.clone(), end], form.encoding))
}

/// As Go's server says it of paths it does not know.
pub fn page_not_found() -> Response {
    text(404, "404 page not found\n")
}

pub fn error(error: &ApiError, form: Form) -> Response {
    // A transport error has no code of its own.
    let code = if error.code() == 0 { 500 } else { error.code() };
    let json = Bytes::from(error.to_json());
    let (encoding, body) = match encoded(&json, form) {
        Ok(encoded) => encoded,
        Err(_) => (Encoding::Json, json),
    };
    let mut response = build(code, media_type(encoding), Body::from(body));
    let headers = response.headers_mut();
    if let Some(seconds) = error.details().and_then(|d| d.retry_after_seconds) {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What a document calls itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    api_version: String,
    kind: String,
}

/// A JSON document in the encoding that was negotiated; JSON where the document has no other form.
fn encoded(json: &Bytes, form: Form) -> Result<(Encoding, Bytes), ApiError> {
    Ok(match form.encoding {
        Encoding::Json if form.pretty => (Encoding::Json, pretty::indented(json).into()),
        Encoding::Json => (Encoding::Json, json.clone()),
        Encoding::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(json)?;
            let yaml = serde_norway::to_string(&value).map_err(ApiError::internal)?;
            (Encoding::Yaml, yaml.into())
        }
        Encoding::Protobuf => match protobuf_document(json)? {
            Some(bytes) => (Encoding::Protobuf, bytes),
            None => (Encoding::Json, json.clone()),
        },
    })
}

/// A document under its own name; None where its type has no form in protobuf.
pub fn protobuf_document(json: &[u8]) -> Result<Option<Bytes>, ApiError> {
    let Ok(said) = serde_json::from_slice::<Said>(json) else { return Ok(None) };
    let table = protobuf::table();
    let Some(message) = table.kind(&said.api_version, &said.kind) else { return Ok(None) };
    let document = protobuf::document(table, message, &said.api_version, &said.kind, json);
    Ok(Some(document.map_err(ApiError::internal)?.into()))
}

/// A document, in the encoding the client accepts.
pub async fn document(code: u16, json: Bytes, form: Form) -> Result<Response, ApiError> {
    let (encoding, body) = encoded(&json, form)?;
    if form.gzip && body.len() > gzip::THRESHOLD_BYTES {
        let compressing = move || gzip::document(&body);
        let compressed = tokio::task::spawn_blocking(compressing).await.map_err(ApiError::internal)?;
        let body = Body::from(compressed.map_err(ApiError::internal)?);
        return Ok(mark_compressed(build(code, media_type(encoding), body)));
    }
    Ok(build(code, media_type(encoding), Body::from(body)))
}

pub async fn answer(answer: Answer, kind: &Served, view: &View) -> Result<Response, ApiError> {
    let body = if answer.of_kind { view.object(kind, answer.json)? } else { answer.json };
    document(answer.code, body, view.form).await
}

/// Tells the client what is odd.
pub fn warn(response: &mut Response, warning: &str) {
    let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        response.headers_mut().append(header::WARNING, value);
    }
}

/// A stream of events, one line (or in protobuf one frame) each. What is ready at once goes out in one piece.
pub fn watch(
    signals: impl Stream<Item = Signal> + Send + 'static,
    kind: Arc<Served>,
    view: View,
    watching: Watching,
) -> Response {
    let mut frames = Frames { kind, view, headed: true };
    let chunks = signals.ready_chunks(CHUNK_EVENTS).map(move |signals| {
        let mut whole = BytesMut::new();
        let mut pieces = Vec::new();
        for signal in signals {
            match frames.of(&signal) {
                Ok(Frame::Shared(frame)) if frame.len() > CHUNK_BYTES => {
                    watching.sent(frame.len());
                    pieces.push(whole.split().freeze());
                    pieces.push(frame);
                }
                Ok(Frame::Shared(frame)) => {
                    watching.sent(frame.len());
                    whole.put_slice(&frame);
                }
                Ok(Frame::Line(start, object)) => {
                    watching.sent(start.len() + object.len() + FRAME_END.len());
                    for part in [start, &object, FRAME_END] {
                        whole.put_slice(part);
                    }
                }
                Err(error) => whole.put_slice(&error_frame(&error, view.form.encoding)),
            }
        }
        pieces.push(whole.freeze());
        futures::stream::iter(pieces.into_iter().filter(|p| !p.is_empty()).map(Ok::<_, std::io::Error>))
    });
    build(200, stream_type(view.form.encoding), Body::from_stream(chunks.flatten()))
}

/// A watch that ends before it began: the error is its only event, as upstream has it once a request is understood.
pub fn failed_watch(error: &ApiError, encoding: Encoding) -> Response {
    build(200, stream_type(encoding), Body::from(error_frame(error, encoding)))
}

fn stream_type(encoding: Encoding) -> HeaderValue {
    match encoding {
        Encoding::Protobuf => PROTOBUF_STREAM,
        _ => JSON,
    }
}

enum Frame {
    Shared(Bytes),
    /// How a line of JSON starts, and its object.
    Line(&'static [u8], Bytes),
}

/// Makes the frames of one watch.
struct Frames {
    kind: Arc<Served>,
    view: View,
    /// The next Table carries the columns.
    headed: bool,
}

impl Frames {
    fn of(&mut self, signal: &Signal) -> Result<Frame, ApiError> {
        let (event, object) = match signal {
            Signal::Event(delivery) => {
                if self.view.accepted.shape == Shape::Object && self.kind.def.alias.is_none() {
                    match (self.view.form.encoding, &delivery.frame, &delivery.binary) {
                        (Encoding::Protobuf, _, Some(shared)) => {
                            let make = || Self::binary(delivery.kind, &delivery.object.json);
                            return shared.get_or_make(make).map(Frame::Shared);
                        }
                        (Encoding::Json, Some(frame), _) => return Ok(Frame::Shared(frame.clone())),
                        _ => {}
                    }
                }
                let object = self.kind.shown(&delivery.object)?;
                let headed = std::mem::take(&mut self.headed);
                (delivery.kind, self.view.event(&self.kind, &object, headed)?)
            }
            Signal::Failed(error) => return Err(error.clone()),
            Signal::Bookmark { revision, initial_events_end } => {
                let object = bookmark(&self.kind, &self.view.accepted, *revision, *initial_events_end);
                (WatchEventKind::Bookmark, object)
            }
        };
        match self.view.form.encoding {
            Encoding::Protobuf => Self::binary(event, &object).map(Frame::Shared),
            _ => Ok(Frame::Line(frame_start(event), object)),
        }
    }

    fn binary(event: WatchEventKind, json: &[u8]) -> Result<Bytes, ApiError> {
        let document = protobuf_document(json)?
            .ok_or_else(|| ApiError::internal("an object has no form in protobuf"))?;
        Ok(protobuf::frame(event, &document).into())
    }
}

/// An object of the kind with nothing but a resourceVersion.
pub fn bookmark(kind: &Served, accepted: &Accepted, revision: u64, initial_events_end: bool) -> Bytes {
    let meta = || if accepted.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }.to_owned();
    let (name, version) = match accepted.shape {
        Shape::Object => (kind.resource().kind(), kind.resource().api_version()),
        Shape::Metadata | Shape::MetadataList => ("PartialObjectMetadata", meta()),
        Shape::Table => ("Table", meta()),
    };
    let annotations =
        if initial_events_end { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
    if accepted.shape == Shape::Table {
        // The object in the row carries the version too, and the mark.
        return format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"columnDefinitions\":null,\"rows\":[{{\"cells\":[],\"object\":{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"{annotations}}}}}}}]}}"
        )
        .into();
    }
    format!(
        "{{\"kind\":\"{name}\",\"apiVersion\":\"{version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"{annotations}}}}}"
    )
    .into()
}

fn error_frame(error: &ApiError, encoding: Encoding) -> Vec<u8> {
    let json = error.to_json();
    if encoding == Encoding::Protobuf
        && let Ok(Some(status)) = protobuf_document(&json)
    {
        return protobuf::error_frame(&status);
    }
    let mut line = br#"{"type":"ERROR","object":"#.to_vec();
    line.extend(json);
    line.extend(FRAME_END);
    line
}
