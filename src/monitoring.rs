//! What a component that runs alone serves: `/healthz` to everybody, `/metrics` to those the API lets read it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use coracle_apiserver::authn::{AUTHENTICATED_GROUP, Identity, PeerCertificate};
use coracle_apiserver::pki::Pair;
use coracle_apiserver::server;
use coracle_client::{ApiError, Client, metrics};
use http::request::Parts;
use http::{StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::process;

/// Where it listens; the port is each component's own.
#[derive(Args, Clone, Debug)]
pub struct Listening {
    /// The address on which /healthz and /metrics are served
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The serving certificate (PEM) [default: one signed by itself]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
}

/// Serves until the shutdown; port 0 serves nothing. `client_ca`: whose client certificates count, PEM.
pub async fn start(
    listening: &Listening,
    port: u16,
    client: Client,
    client_ca: &str,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if port == 0 {
        return Ok(());
    }
    let address = SocketAddr::new(listening.bind_address, port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let pair = match (&listening.tls_cert_file, &listening.tls_private_key_file) {
        (Some(certificate), Some(key)) => {
            let read = |path: &PathBuf| {
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
            };
            Pair { certificate: read(certificate)?, key: read(key)? }
        }
        _ => self_signed()?,
    };
    if client_ca.is_empty() {
        bail!("the kubeconfig names no certificate-authority: give --secure-port 0 to serve no metrics");
    }
    let (_tls, receiver) = watch::channel(server::tls_config(&pair, client_ca)?);
    let app = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found") })
        .with_state(Arc::new(client));
    tokio::spawn(server::serve(listener, receiver, app, shutdown));
    Ok(())
}

fn self_signed() -> anyhow::Result<Pair> {
    let key = KeyPair::generate().context("making a key")?;
    let params = CertificateParams::new(vec!["localhost".to_owned(), process::hostname()])
        .context("making a certificate")?;
    let certificate = params.self_signed(&key).context("making a certificate")?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

async fn serve_metrics(State(client): State<Arc<Client>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let identity = match identify(&client, &request).await {
        Ok(Some(identity)) => identity,
        Ok(None) => return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
        Err(error) => return unsure(&error),
    };
    match may_read(&client, &identity).await {
        Ok(true) => {}
        Ok(false) => {
            let text = format!("forbidden: User \"{}\" cannot get path \"/metrics\"", identity.name);
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        Err(error) => return unsure(&error),
    }
    match metrics::text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn unsure(error: &ApiError) -> Response {
    warn!(%error, "asking the API about a reader of metrics");
    (StatusCode::INTERNAL_SERVER_ERROR, "the API could not be asked").into_response()
}

/// By client certificate, or by a bearer token that the API knows.
async fn identify(client: &Client, request: &Parts) -> Result<Option<Identity>, ApiError> {
    let now = jiff::Timestamp::now();
    if let Some(peer) = request.extensions.get::<PeerCertificate>() {
        return Ok(peer.at(now));
    }
    let header = request.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else { return Ok(None) };
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.trim().to_owned(), audiences: None },
        ..TokenReview::default()
    };
    let status = client.create(&review).await?.decode()?.status.unwrap_or_default();
    let user = status.user.filter(|_| status.authenticated == Some(true));
    Ok(user.map(|user| {
        let groups: Vec<String> = user.groups.unwrap_or_default();
        let groups: Vec<&str> =
            groups.iter().map(String::as_str).filter(|g| *g != AUTHENTICATED_GROUP).collect();
        Identity::new(&user.username.unwrap_or_default(), &groups)
    }))
}

async fn may_read(client: &Client, identity: &Identity) -> Result<bool, ApiError> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(identity.name.clone()),
            groups: Some(identity.groups.clone()),
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some("/metrics".into()),
                verb: Some("get".into()),
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let status = client.create(&review).await?.decode()?.status;
    Ok(status.is_some_and(|status| status.allowed))
}
