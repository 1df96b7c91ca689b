//! Calls to the provider: JSON over HTTP/1.1, with a time limit, a few retries, a token and a CA of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use super::super::provider::CloudError;
use super::contract::Refusal;

const BODY_BYTES_MAX: usize = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One call is tried this often; after that the controller's own backoff goes on.
const TRIES_MAX: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// A provider may ask for a longer pause, but not for more than this.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Where the provider is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub url: Uri,
    /// Read for each call, as tokens change.
    pub token_file: Option<PathBuf>,
    /// PEM; without it the system's CAs count.
    pub ca_file: Option<PathBuf>,
    /// For one try, from its start to the last byte of the answer.
    pub timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("--cloud-provider-url {0}: give http://HOST:PORT or https://HOST:PORT")]
    Url(Uri),
    #[error("--cloud-provider-ca-file {path}: {what}")]
    Ca { path: PathBuf, what: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

pub struct Caller {
    endpoint: Endpoint,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What became of one try.
enum Tried {
    Answered(StatusCode, Bytes),
    /// It may go better soon, after a pause where the provider named one.
    Again(CloudError, Option<Duration>),
    Failed(CloudError),
}

impl Caller {
    pub fn new(endpoint: Endpoint) -> Result<Self, EndpointError> {
        let known = matches!(endpoint.url.scheme_str(), Some("http" | "https"));
        if !known || endpoint.url.host().is_none() {
            return Err(EndpointError::Url(endpoint.url));
        }
        let mut roots = RootCertStore::empty();
        if let Some(path) = &endpoint.ca_file {
            let bad = |what: String| EndpointError::Ca { path: path.clone(), what };
            let text = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("no certificate in it".into()));
            }
        } else {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(2).build(connector);
        Ok(Self { endpoint, client })
    }

    /// The answer's document; None for 404.
    pub async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Option<A>, CloudError> {
        let url = format!("{}{path}", self.endpoint.url.to_string().trim_end_matches('/'));
        let contract = |what: String| CloudError::Contract { url: url.clone(), what };
        let body = match body {
            Some(body) => Bytes::from(serde_json::to_vec(body).map_err(|error| contract(error.to_string()))?),
            None => Bytes::new(),
        };
        let (status, answer) = self.tries(&method, &url, body).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::NO_CONTENT => {
                serde_json::from_slice(b"{}").map(Some).map_err(|error| contract(error.to_string()))
            }
            status if status.is_success() => {
                let text = if answer.is_empty() { b"{}".as_slice() } else { &answer };
                serde_json::from_slice(text).map(Some).map_err(|error| contract(error.to_string()))
            }
            status => {
                let said = serde_json::from_slice::<Refusal>(&answer).unwrap_or_default().message;
                let said = if said.is_empty() { format!("{method} {url}: {status}") } else { said };
                Err(CloudError::Refused(said))
            }
        }
    }

    async fn tries(
        &self,
        method: &Method,
        url: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), CloudError> {
        let mut pause = PAUSE_FIRST;
        let mut tried = 1;
        loop {
            let outcome = tokio::time::timeout(self.endpoint.timeout, self.once(method, url, body.clone()));
            let (error, asked) = match outcome.await {
                Ok(Tried::Answered(status, answer)) => return Ok((status, answer)),
                Ok(Tried::Failed(error)) => return Err(error),
                Ok(Tried::Again(error, asked)) => (error, asked),
                Err(_) => {
                    let what = format!("no answer within {:?}", self.endpoint.timeout);
                    (CloudError::Unreachable { url: url.into(), what }, None)
                }
            };
            if tried == TRIES_MAX {
                return Err(error);
            }
            debug!(%error, tried, "the cloud provider is asked again");
            tokio::time::sleep(asked.unwrap_or(pause).min(PAUSE_MAX)).await;
            pause *= 4;
            tried += 1;
        }
    }

    async fn once(&self, method: &Method, url: &str, body: Bytes) -> Tried {
        let unreachable = |what: String| CloudError::Unreachable { url: url.into(), what };
        let mut request =
            Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json").header(
                header::USER_AGENT,
                concat!("coracle-cloud-controller-manager/", env!("CARGO_PKG_VERSION")),
            );
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(path) = &self.endpoint.token_file {
            match tokio::fs::read_to_string(path).await {
                Ok(token) => {
                    request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
                }
                Err(error) => {
                    let what = format!("--cloud-provider-token-file {}: {error}", path.display());
                    return Tried::Failed(unreachable(what));
                }
            }
        }
        let request = match request.body(Full::new(body)) {
            Ok(request) => request,
            Err(error) => return Tried::Failed(unreachable(error.to_string())),
        };
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Tried::Again(unreachable(with_causes(&error)), None),
        };
        let status = answer.status();
        let pause = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = match Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Tried::Again(unreachable(error.to_string()), None),
        };
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            let said = serde_json::from_slice::<Refusal>(&body).unwrap_or_default().message;
            let said = if said.is_empty() { format!("{method} {url}: {status}") } else { said };
            return Tried::Again(CloudError::Refused(said), pause);
        }
        Tried::Answered(status, body)
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
