//! The node's HTTPS server: container logs, exec and its like, statistics, pods, health; for the apiserver and
//! administrators only.

pub mod authorize;
mod container_logs;
mod query;
pub mod exposition;
pub mod resource_metrics;
pub mod container_metrics;
mod stats;
pub mod streaming;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use coracle_client::Client;
use coracle_client::informer::Informer;
use http::{Method, Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::pods::context::Context;
use authorize::Question;
pub use tls::TlsError;
use tls::{Acceptor, Peer};

/// The certificate the node serves with, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingIdentity {
    pub certificate: String,
    pub key: String,
}

/// Connections at once; a follower of a log holds one.
const CONNECTIONS_MAX: usize = 1024;
/// The port that kubelets have.
pub const PORT: u16 = 10250;
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// For the head of each request, and how often a silent HTTP/2 peer is probed.
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// What the server answers from.
pub struct Site {
    pub context: Arc<Context>,
    pub pods: Informer,
    pub rates: stats::Rates,
    pub streams: streaming::Streams,
}

/// Lets in who may ask what.
pub struct Gate {
    /// Asks the API about those it does not know; without one they stay outside.
    client: Option<Client>,
    /// Whom a path without a node is about.
    node: String,
    authorizer: authorize::Authorizer,
}

impl Gate {
    pub fn new(client: Option<Client>, node: String) -> Self {
        Self { client, node, authorizer: authorize::Authorizer::default() }
    }

    /// Several nodes behind one server have paths of their own: `/nodes/NAME/…`.
    async fn admits(&self, peer: &Peer, method: &Method, path: &str) -> Result<(), Vec<Question>> {
        let of_node = path.strip_prefix("/nodes/").and_then(|rest| rest.split_once('/'));
        let (node, within) = match of_node {
            Some((node, _)) => (node, path.get("/nodes/".len() + node.len()..).unwrap_or_default()),
            None => (self.node.as_str(), path),
        };
        let questions = Question::of(method, within);
        if peer.may_enter() {
            return Ok(());
        }
        let allowed = match &self.client {
            Some(client) => self.authorizer.allows(client, node, peer, &questions).await,
            None => false,
        };
        if allowed { Ok(()) } else { Err(questions) }
    }
}

/// Listens on the preferred port; on another when that is taken (several nodes on one machine).
pub async fn listen(address: std::net::IpAddr, preferred: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(address, preferred)).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && preferred != 0 => {
            TcpListener::bind(SocketAddr::new(address, 0)).await
        }
        other => other,
    }
}

/// Serves until the shutdown. A new identity counts for new connections.
pub async fn serve(
    listener: TcpListener,
    mut serving: watch::Receiver<ServingIdentity>,
    client_ca: String,
    router: Router,
    gate: Gate,
    shutdown: CancellationToken,
) -> Result<(), TlsError> {
    let gate = Arc::new(gate);
    let mut acceptor = tls::acceptor(&serving.borrow_and_update(), &client_ca)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut renewable = true;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = serving.changed(), if renewable => {
                renewable = changed.is_ok();
                match tls::acceptor(&serving.borrow_and_update(), &client_ca) {
                    Ok(fresh) => acceptor = fresh,
                    Err(error) => tracing::error!(%error, "the new serving certificate is unusable, the old one stays"),
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let work = connection(stream, acceptor.clone(), router.clone(), gate.clone());
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    let _slot = slot;
                    tokio::select! {
                        () = work => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors: the connections there are must end first.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: Acceptor, router: Router, gate: Arc<Gate>) {
    let _ = stream.set_nodelay(true);
    let (stream, peer) = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let peer = Arc::new(peer);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (router, peer, gate) = (router.clone(), peer.clone(), gate.clone());
        async move {
            let admitted = gate.admits(&peer, request.method(), request.uri().path()).await;
            let response: Result<Response, Infallible> = match admitted {
                Ok(()) => router.oneshot(request.map(Body::new)).await,
                Err(questions) => Ok(forbidden(&peer, &questions)),
            };
            response
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEADER_TIMEOUT);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection");
    }
}

fn forbidden(peer: &Peer, questions: &[Question]) -> Response {
    let verb = questions.first().map_or("get", |question| question.verb);
    let subresources: Vec<&str> = questions.iter().map(|question| question.subresource).collect();
    let text = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
        peer.user,
        subresources.join(" ")
    );
    (StatusCode::FORBIDDEN, text).into_response()
}

/// The settings of this node that a kubelet would have.
async fn configz(State(site): State<Arc<Site>>) -> Response {
    let node = &site.context.node;
    let pods = node.allocatable.get("pods").and_then(|pods| pods.0.parse::<u64>().ok());
    let body = serde_json::json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "port": PORT,
        "clusterDomain": node.cluster_domain,
        "maxPods": pods,
        "streamingConnectionIdleTimeout": "4h0m0s",
        "authentication": {"x509": {}, "webhook": {"enabled": false}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
    }});
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// What one wasmlet serves.
pub fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/configz", get(configz))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs::serve))
        .route("/stats/summary", get(stats::summary))
        .route("/metrics", get(stats::metrics))
        .route("/metrics/cadvisor", get(stats::cadvisor))
        .route("/metrics/resource", get(stats::resource))
        .merge(streaming::routes())
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found") })
        .with_state(site)
}

/// The node's pods as it knows them.
async fn pods(State(site): State<Arc<Site>>) -> Response {
    let mut body = Vec::from(&br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#[..]);
    for (index, object) in site.pods.list().iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&object.json);
    }
    body.extend_from_slice(b"]}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests;
