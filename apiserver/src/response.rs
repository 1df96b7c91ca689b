//! Answers as HTTP: status lines, media types, warnings, errors as Status objects, watches as streams.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use coracle_client::ApiError;
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};

use crate::api::Served;
use crate::negotiation::{Encoding, Shape};
use crate::shape::View;
use crate::verbs::Answer;
use crate::verbs::watch::Signal;
use crate::watch_cache::{FRAME_END, frame_start};

/// Events that are ready at once go out as one piece up to this size.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNK_EVENTS: usize = 128;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
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
    build(code, TEXT, Body::from(body.into()))
}

/// A JSON document in pieces, which are sent without being copied together.
pub fn pieces<const N: usize>(pieces: [Bytes; N]) -> Response {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let pieces = pieces.into_iter().filter(|p| !p.is_empty()).map(Ok::<_, std::io::Error>);
    let mut response = build(200, JSON, Body::from_stream(futures::stream::iter(pieces)));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// As Go's server says it of paths it does not know.
pub fn page_not_found() -> Response {
    text(404, "404 page not found\n")
}

pub fn error(error: &ApiError) -> Response {
    // A transport error has no code of its own.
    let code = if error.code() == 0 { 500 } else { error.code() };
    let mut response = json(code, error.to_json());
    if let Some(seconds) = error.details().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A document, in the encoding the client accepts.
pub fn document(code: u16, encoding: Encoding, body: Bytes) -> Result<Response, ApiError> {
    match encoding {
        Encoding::Json => Ok(json(code, body)),
        Encoding::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&body)?;
            let yaml = serde_norway::to_string(&value).map_err(ApiError::internal)?;
            Ok(build(code, YAML, Body::from(yaml)))
        }
    }
}

pub fn answer(answer: Answer, kind: &Served, view: &View) -> Result<Response, ApiError> {
    let body = if answer.of_kind { view.object(kind, answer.json)? } else { answer.json };
    let mut response = document(answer.code, view.accepted.encoding, body)?;
    for warning in answer.warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

/// A stream of events, one line each. What is ready at once goes out in one piece.
pub fn watch(
    signals: impl Stream<Item = Signal> + Send + 'static,
    kind: Arc<Served>,
    view: View,
) -> Response {
    let mut headed = true;
    let lines = signals.ready_chunks(CHUNK_EVENTS).map(move |signals| {
        let mut whole = BytesMut::new();
        let mut pieces = Vec::new();
        for signal in signals {
            match line(&signal, &kind, &view, &mut headed) {
                Ok(Line::Shared(frame)) if frame.len() > CHUNK_BYTES => {
                    pieces.push(whole.split().freeze());
                    pieces.push(frame);
                }
                Ok(Line::Shared(frame)) => whole.put_slice(&frame),
                Ok(Line::Made(start, object)) => {
                    for part in [start, &object, FRAME_END] {
                        whole.put_slice(part);
                    }
                }
                Err(error) => whole.put_slice(&error_line(&error)),
            }
        }
        pieces.push(whole.freeze());
        futures::stream::iter(pieces.into_iter().filter(|p| !p.is_empty()).map(Ok::<_, std::io::Error>))
    });
    build(200, JSON, Body::from_stream(lines.flatten()))
}

enum Line {
    Shared(Bytes),
    Made(&'static [u8], Bytes),
}

fn line(signal: &Signal, kind: &Served, view: &View, headed: &mut bool) -> Result<Line, ApiError> {
    match signal {
        Signal::Event(delivery) => match (&delivery.frame, view.accepted.shape) {
            (Some(frame), Shape::Object) if kind.def.alias.is_none() => Ok(Line::Shared(frame.clone())),
            _ => {
                let object = kind.shown(&delivery.object)?;
                let body = view.event(kind, &object, std::mem::take(headed))?;
                Ok(Line::Made(frame_start(delivery.kind), body))
            }
        },
        Signal::Bookmark { revision, initial_events_end } => {
            let kind = bookmark(kind, view.accepted.shape, *revision, *initial_events_end);
            Ok(Line::Made(frame_start(coracle_client::WatchEventKind::Bookmark), kind))
        }
    }
}

/// An object of the kind with nothing but a resourceVersion.
pub fn bookmark(kind: &Served, shape: Shape, revision: u64, initial_events_end: bool) -> Bytes {
    let (name, version) = match shape {
        Shape::Object => (kind.resource().kind().to_owned(), kind.resource().api_version()),
        Shape::Metadata => ("PartialObjectMetadata".into(), "meta.k8s.io/v1".into()),
        Shape::Table => ("Table".into(), "meta.k8s.io/v1".into()),
    };
    let annotations =
        if initial_events_end { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
    let more = if shape == Shape::Table { ",\"columnDefinitions\":[],\"rows\":[]" } else { "" };
    format!(
        "{{\"kind\":\"{name}\",\"apiVersion\":\"{version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"{annotations}}}{more}}}"
    )
    .into()
}

fn error_line(error: &ApiError) -> Vec<u8> {
    let mut line = br#"{"type":"ERROR","object":"#.to_vec();
    line.extend(error.to_json());
    line.extend(FRAME_END);
    line
}
