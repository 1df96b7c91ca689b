//! The transport across machines: HTTPS through kube-rs, which brings kubeconfig, TLS and auth.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::value::RawValue;
use tower::{BoxError, ServiceBuilder};

use crate::discovery::{self, Discovered};
use crate::object::Object;
use crate::request::{
    List, ListOptions, PatchType, Request, Transport, Verb, WatchEvent, WatchEventKind, WatchOptions,
    WatchStream, escape_query,
};
use crate::resource::Resource;
use crate::status::{ApiError, Status};

/// A watch asks for an end after this long, so that a connection that died unnoticed is replaced.
const WATCH_SECONDS: u64 = 290;
/// An ordinary request that has no whole answer by then has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed after this; with the interval and retries a dead one is found in half a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Data that the peer does not acknowledge for this long ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// Talks HTTPS. The connection can be replaced while in use, as rotated certificates need.
pub struct Https {
    client: RwLock<kube::Client>,
}

impl Https {
    /// Connects with what a kubeconfig says.
    pub fn new(config: kube::Config) -> Result<Arc<Self>, ApiError> {
        Ok(Arc::new(Self { client: RwLock::new(connect(config)?) }))
    }

    /// Later requests use the new configuration; those under way end on the old one.
    pub fn reconfigure(&self, config: kube::Config) -> Result<(), ApiError> {
        *self.client.write() = connect(config)?;
        Ok(())
    }

    pub fn kube(&self) -> kube::Client {
        self.client.read().clone()
    }
}

/// kube's own connector has no keepalive: over a link that was cut, requests and watches would wait for minutes.
fn connect(config: kube::Config) -> Result<kube::Client, ApiError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_AFTER));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(ApiError::transport)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(ApiError::transport)?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(kube::Client::new(service, config.default_namespace))
}

#[async_trait]
impl Transport for Https {
    async fn call(&self, request: Request) -> Result<Bytes, ApiError> {
        let method = match request.verb {
            Verb::Get => Method::GET,
            Verb::Create => Method::POST,
            Verb::Update => Method::PUT,
            Verb::Patch(_) => Method::PATCH,
            Verb::Delete | Verb::DeleteCollection => Method::DELETE,
        };
        let mut query = Query::default();
        if request.verb != Verb::Get {
            query.flag("dryRun", request.options.dry_run.then_some("All"));
            query.flag("fieldManager", request.options.field_manager.as_deref());
            query.flag("fieldValidation", request.options.field_validation.as_deref());
            query.flag(
                "force",
                (request.verb == Verb::Patch(PatchType::Apply) && request.options.force).then_some("true"),
            );
        }
        if request.verb == Verb::DeleteCollection {
            query.list(&request.selection);
        }
        let path = request.resource.path(
            request.namespace.as_deref(),
            request.name.as_deref(),
            request.subresource.as_deref(),
        );
        let content_type = match request.verb {
            Verb::Patch(kind) => kind.media_type(),
            _ => "application/json",
        };
        let built = http::Request::builder()
            .method(method)
            .uri(query.onto(path))
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, "application/json")
            .body(kube::client::Body::from(request.body.to_vec()))
            .map_err(ApiError::transport)?;
        self.fetch(built).await
    }

    async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: ListOptions,
    ) -> Result<List, ApiError> {
        let mut query = Query::default();
        query.list(&options);
        let built = get(query.onto(resource.path(namespace, None, None)))?
            .body(kube::client::Body::empty())
            .map_err(ApiError::transport)?;
        let body = self.fetch(built).await?;
        let page: Page<'_> = serde_json::from_slice(&body)?;
        let fields = resource.selectable_fields();
        let items = page
            .items
            .unwrap_or_default()
            .into_iter()
            .map(|raw| Object::parse(body.slice_ref(raw.get().as_bytes()), fields))
            .collect::<Result<_, _>>()?;
        Ok(List {
            resource_version: page.metadata.resource_version.parse().unwrap_or(0),
            continue_token: page.metadata.continue_token.filter(|t| !t.is_empty()),
            items,
        })
    }

    async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let mut query = Query::default();
        query.flag("watch", Some("true"));
        query.flag("labelSelector", options.label_selector.as_deref());
        query.flag("fieldSelector", options.field_selector.as_deref());
        query.flag("resourceVersion", options.resource_version.as_deref());
        query.flag("allowWatchBookmarks", options.allow_bookmarks.then_some("true"));
        if options.send_initial_events {
            query.flag("sendInitialEvents", Some("true"));
            query.flag("resourceVersionMatch", Some("NotOlderThan"));
        }
        let seconds = options.timeout.map_or(WATCH_SECONDS, |t| t.as_secs());
        query.flag("timeoutSeconds", Some(&seconds.to_string()));
        let built = get(query.onto(resource.path(namespace, None, None)))?
            .body(kube::client::Body::empty())
            .map_err(ApiError::transport)?;
        // The events may take their time, the head of the answer may not.
        let response = tokio::time::timeout(REQUEST_TIMEOUT, self.kube().send(built))
            .await
            .map_err(|_| ApiError::transport(format!("no answer within {REQUEST_TIMEOUT:?}")))?
            .map_err(|error| ApiError::transport(with_causes(&error)))?;
        if !response.status().is_success() {
            return Err(failure(response).await);
        }
        let fields = resource.selectable_fields();
        Ok(lines(response.into_body()).map(move |line| parse_event(line?, fields)).boxed())
    }

    async fn discover(&self) -> Result<Discovered, ApiError> {
        let mut documents = Vec::with_capacity(2);
        for path in ["/api", "/apis"] {
            let built = http::Request::get(path)
                .header(http::header::ACCEPT, discovery::ACCEPT)
                .body(kube::client::Body::empty())
                .map_err(ApiError::transport)?;
            documents.push(self.fetch(built).await?);
        }
        discovery::parse(&documents)
    }
}

impl Https {
    async fn fetch(&self, request: http::Request<kube::client::Body>) -> Result<Bytes, ApiError> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request))
            .await
            .map_err(|_| ApiError::transport(format!("no answer within {REQUEST_TIMEOUT:?}")))?
    }

    async fn exchange(&self, request: http::Request<kube::client::Body>) -> Result<Bytes, ApiError> {
        let response =
            self.kube().send(request).await.map_err(|error| ApiError::transport(with_causes(&error)))?;
        if !response.status().is_success() {
            return Err(failure(response).await);
        }
        response.into_body().collect_bytes().await.map_err(ApiError::transport)
    }
}

/// The connection's errors say what happened only in their causes: "invalid peer certificate", "connection refused".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

async fn failure(response: http::Response<kube::client::Body>) -> ApiError {
    let code = response.status();
    let body = response.into_body().collect_bytes().await.unwrap_or_default();
    match serde_json::from_slice::<Status>(&body) {
        Ok(status) if status.code != 0 => ApiError::from_status(status),
        _ => ApiError::new(code.as_u16(), "Unknown", String::from_utf8_lossy(&body).into_owned()),
    }
}

fn get(uri: String) -> Result<http::request::Builder, ApiError> {
    Ok(http::Request::get(uri).header(http::header::ACCEPT, "application/json"))
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn parse_event(line: Bytes, fields: &'static [&'static str]) -> Result<WatchEvent, ApiError> {
    let event: Line<'_> = serde_json::from_slice(&line)?;
    let json = line.slice_ref(event.object.get().as_bytes());
    let kind = match event.kind {
        "ADDED" => WatchEventKind::Added,
        "MODIFIED" => WatchEventKind::Modified,
        "DELETED" => WatchEventKind::Deleted,
        "BOOKMARK" => {
            let object = Object::parse(json, &[])?;
            let initial_events_end = std::str::from_utf8(&object.json)
                .is_ok_and(|text| text.contains("k8s.io/initial-events-end"));
            return Ok(WatchEvent { kind: WatchEventKind::Bookmark, object, initial_events_end });
        }
        "ERROR" => return Err(ApiError::from_status(serde_json::from_slice(&json)?)),
        other => return Err(ApiError::transport(format!("unknown watch event type {other:?}"))),
    };
    Ok(WatchEvent { kind, object: Object::parse(json, fields)?, initial_events_end: false })
}

fn lines(body: kube::client::Body) -> impl futures::Stream<Item = Result<Bytes, ApiError>> + Send + 'static {
    let reader = Box::pin(body.into_data_stream().map_err(std::io::Error::other)).into_async_read();
    reader
        .lines()
        .try_filter(|line| std::future::ready(!line.is_empty()))
        .map(|line| line.map(Bytes::from).map_err(ApiError::transport))
}

#[derive(Default)]
struct Query(String);

impl Query {
    fn flag(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        escape_query(value, &mut self.0);
    }

    fn list(&mut self, options: &ListOptions) {
        self.flag("labelSelector", options.label_selector.as_deref());
        self.flag("fieldSelector", options.field_selector.as_deref());
        self.flag("metricLabelSelector", options.metric_label_selector.as_deref());
        self.flag("limit", options.limit.map(|l| l.to_string()).as_deref());
        self.flag("continue", options.continue_token.as_deref());
        // A continue token carries its own version.
        if options.continue_token.is_none() {
            self.flag("resourceVersion", options.resource_version.as_deref());
            self.flag("resourceVersionMatch", options.resource_version_match.as_deref());
        }
    }

    fn onto(self, mut path: String) -> String {
        path.push_str(&self.0);
        path
    }
}
