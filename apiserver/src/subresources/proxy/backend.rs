//! Where a proxied request goes, and how a connection gets there.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
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
        let (io, tls): (Box<dyn Io>, bool) = match self {
            Backend::Wasmlet(endpoint) => {
                request.headers_mut().remove(header::HOST);
                return nodes(api)?.send(&endpoint.address, endpoint.port, target, request).await;
            }
            Backend::Pod { node, namespace, name, ip, port, tls } => {
                let path = format!("/portForward/{namespace}/{name}?port={port}");
                (through_node(api, node, &path, SocketAddr::new(*ip, *port)).await?, *tls)
            }
            Backend::Address { address, tls } => {
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
                let stream = connected
                    .map_err(|_| unreachable(format!("dial tcp {address}: i/o timeout")))?
                    .map_err(|error| unreachable(format!("dial tcp {address}: connect: {error}")))?;
                let _ = stream.set_nodelay(true);
                (Box::new(stream), *tls)
            }
        };
        let io: Box<dyn Io> = if tls { encrypt(io).await? } else { io };
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

async fn encrypt(io: Box<dyn Io>) -> Result<Box<dyn Io>, ApiError> {
    let config = ANYONE.clone().ok_or_else(|| ApiError::internal("TLS is not available"))?;
    let name = ServerName::try_from("pod").map_err(ApiError::internal)?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, io).await.map_err(unreachable)?;
    Ok(Box::new(stream))
}

/// As upstream: encrypted, without verifying who answers.
static ANYONE: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.enable_sni = false;
    Some(Arc::new(config))
});

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
