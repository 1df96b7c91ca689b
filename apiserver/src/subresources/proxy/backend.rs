//! Where a proxied request goes, and how a connection gets there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use coracle_client::{ApiError, unverified_tls};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::api::Api;
use crate::subresources::node::{self, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The upgrade that the wasmlet answers with the bytes of a connection to a pod's port.
const RAW: &str = "coracle-tcp";
const REASON_BYTES_MAX: usize = 4096;

pub enum Backend {
    /// The node's own server.
    Wasmlet(Endpoint),
    /// A port of a pod, by way of its node: pods' addresses may be known there only.
    Pod {
        node: String,
        namespace: String,
        name: String,
        ip: IpAddr,
        port: u16,
        tls: bool,
    },
    Address {
        address: SocketAddr,
        tls: bool,
    },
}

impl Backend {
    /// As a URL names it.
    pub fn host(&self) -> String {
        match self {
            Backend::Wasmlet(endpoint) => format!("{}:{}", endpoint.address, endpoint.port),
            Backend::Pod { ip, port, .. } => SocketAddr::new(*ip, *port).to_string(),
            Backend::Address { address, .. } => address.to_string(),
        }
    }

    /// `target`: path and query, as they are.
    pub async fn send(
        &self,
        api: &Api,
        target: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let (io, tls, ip): (Box<dyn Io>, bool, IpAddr) = match self {
            Backend::Wasmlet(endpoint) => {
                request.headers_mut().remove(header::HOST);
                return nodes(api)?.send(&endpoint.address, endpoint.port, target, request).await;
            }
            Backend::Pod { node, namespace, name, ip, port, tls } => {
                let path = format!("/portForward/{namespace}/{name}?port={port}");
                (through_node(api, node, &path, SocketAddr::new(*ip, *port)).await?, *tls, *ip)
            }
            Backend::Address { address, tls } => {
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
                let stream = connected
                    .map_err(|_| unreachable(format!("dial tcp {address}: i/o timeout")))?
                    .map_err(|error| unreachable(format!("dial tcp {address}: connect: {error}")))?;
                let _ = stream.set_nodelay(true);
                (Box::new(stream), *tls, address.ip())
            }
        };
        let io: Box<dyn Io> = if tls { encrypt(io, ip).await? } else { io };
        *request.uri_mut() = target.parse().map_err(|_| ApiError::bad_request("invalid path"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(unreachable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a proxied connection");
            }
        });
        let response = sender.send_request(request).await.map_err(unreachable)?;
        Ok(response.map(Body::new))
    }
}

fn nodes(api: &Api) -> Result<&dyn crate::subresources::NodeProxy, ApiError> {
    api.options
        .node_proxy
        .as_deref()
        .ok_or_else(|| ApiError::service_unavailable("this apiserver does not connect to nodes"))
}

fn unreachable(why: impl std::fmt::Display) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

async fn through_node(
    api: &Api,
    node: &str,
    path: &str,
    address: SocketAddr,
) -> Result<Box<dyn Io>, ApiError> {
    let endpoint = node::endpoint(api, node)?;
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(RAW));
    let sent = nodes(api)?.send(&endpoint.address, endpoint.port, path, request).await;
    let mut answer = sent.map_err(|error| unreachable(error.message()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(answer.into_body(), REASON_BYTES_MAX).collect().await;
        let text = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let why = if text.contains("refused") { "connect: connection refused".to_owned() } else { text };
        return Err(unreachable(format!("dial tcp {address}: {why}")));
    }
    let upgraded = hyper::upgrade::on(&mut answer).await.map_err(unreachable)?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

/// `ip`: in the place of a name to ask for.
async fn encrypt(io: Box<dyn Io>, ip: IpAddr) -> Result<Box<dyn Io>, ApiError> {
    let config = unverified_tls::CONFIG.clone().ok_or_else(|| ApiError::internal("TLS is not available"))?;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(ServerName::IpAddress(ip.into()), io)
        .await
        .map_err(unreachable)?;
    Ok(Box::new(stream))
}
