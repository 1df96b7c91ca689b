//! HTTPS from the apiserver to the wasmlets of nodes, with the apiserver's own client certificate.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use coracle_client::ApiError;
use futures::{StreamExt, TryStreamExt};
use http::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::pki::Pair;
use crate::server::TlsError;
use crate::subresources::{BodyStream, NodeProxy};

/// For the head of the answer; a log that is followed may take as long as it likes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections are pooled per node.
pub struct NodeConnection {
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

impl NodeConnection {
    /// Trusts what the CA signed, and shows `pair`.
    pub fn new(pair: &Pair, ca: &str) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        let chain =
            CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(2).build(connector) })
    }
}

#[async_trait]
impl NodeProxy for NodeConnection {
    async fn open(
        &self,
        node_address: &str,
        port: u16,
        path_and_query: &str,
    ) -> Result<(http::response::Parts, BodyStream), ApiError> {
        let request = Request::new(Body::empty());
        let (parts, body) = self.send(node_address, port, path_and_query, request).await?.into_parts();
        Ok((parts, body.into_data_stream().map_err(std::io::Error::other).boxed()))
    }

    async fn send(
        &self,
        node_address: &str,
        port: u16,
        path_and_query: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let host =
            if node_address.contains(':') { format!("[{node_address}]") } else { node_address.to_owned() };
        *request.uri_mut() =
            format!("https://{host}:{port}{path_and_query}").parse().map_err(ApiError::internal)?;
        *request.version_mut() = http::Version::HTTP_11;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request)).await;
        let response = answered
            .map_err(|_| unreachable_node(&host, port, "no answer in time"))?
            .map_err(|error| unreachable_node(&host, port, with_causes(&error)))?;
        Ok(response.map(Body::new))
    }
}

fn unreachable_node(host: &str, port: u16, why: impl std::fmt::Display) -> ApiError {
    ApiError::internal(format!("dialing the node at {host}:{port}: {why}"))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
