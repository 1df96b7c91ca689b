//! An API over an embedded store in a temporary directory, asked through its router.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use coracle_apiserver::api::{Api, Options};
use coracle_apiserver::authn::Identity;
use coracle_apiserver::routes::router;
use coracle_apiserver::storage::Store;
use coracle_apiserver::storage::embedded::{self, Embedded};
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub struct Server {
    pub api: Arc<Api>,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Status code, headers and JSON (or the text as a string).
pub struct Reply {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub json: Value,
}

impl Reply {
    pub fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.json["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The names of a list's items.
    pub fn names(&self) -> Vec<&str> {
        let items = self.json["items"].as_array().unwrap();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
    }

    pub fn reason(&self) -> &str {
        self.json["reason"].as_str().unwrap_or_default()
    }

    pub fn version(&self) -> u64 {
        self.json["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.json);
        self
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(directory.path(), embedded::Options::default()).unwrap());
        let shutdown = CancellationToken::new();
        let api = Api::start(store, options, shutdown.clone()).await.unwrap();
        let server = Self { api, shutdown, _directory: directory };
        for name in ["default", "kube-system"] {
            let body = json!({"metadata": {"name": name}});
            server.post("/api/v1/namespaces", body).await.expect(201);
        }
        let body = json!({"metadata": {"name": "default"}});
        server.post("/api/v1/namespaces/default/serviceaccounts", body).await.expect(201);
        server
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.into()).unwrap();
        request.extensions_mut().insert(Identity::new("tester", &["system:masters"]));
        router(self.api.clone()).oneshot(request).await.unwrap()
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let response = self.raw(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Reply { code: parts.status.as_u16(), headers: parts.headers, json }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: Value) -> Reply {
        let headers = [("content-type", "application/merge-patch+json")];
        self.send("PATCH", path, &headers, body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], "").await
    }

    pub async fn watch(&self, path: &str) -> Events {
        let response = self.raw("GET", path, &[], "").await;
        assert_eq!(response.status().as_u16(), 200);
        Events { body: response.into_body().into_data_stream(), buffer: Vec::new() }
    }
}

pub struct Events {
    body: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; None when the stream ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let next = tokio::time::timeout(std::time::Duration::from_secs(10), self.body.next());
            self.buffer.extend(next.await.expect("no event came")?.unwrap());
        }
    }

    /// `ADDED name` and so on.
    pub async fn line(&mut self) -> String {
        let event = self.next().await.unwrap();
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}
