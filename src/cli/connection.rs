//! Finds the cluster as kubectl does, and sends requests to it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use coracle_client::ApiError;
use coracle_client::status::Status;
use http::{Method, Request, header};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::options::DataOptions;

#[derive(Args, Clone, Debug)]
pub struct ConnectionOptions {
    /// The kubeconfig to use [default: $KUBECONFIG, ~/.kube/config, or that of a local `coracle up`]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// The namespace to work in
    #[arg(short, long, value_name = "NAMESPACE", global = true)]
    pub namespace: Option<String>,
}

pub struct Connection {
    pub client: kube::Client,
    /// From the flag, else the context's, else `default`.
    pub namespace: String,
    pub namespace_given: bool,
}

impl ConnectionOptions {
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let kubeconfig = self.load()?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context("the kubeconfig")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).context("connecting")?;
        Ok(Connection { client, namespace, namespace_given: self.namespace.is_some() })
    }

    fn load(&self) -> anyhow::Result<Kubeconfig> {
        if let Some(path) = &self.kubeconfig {
            return Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()));
        }
        if let Some(kubeconfig) = Kubeconfig::from_env().context("$KUBECONFIG")? {
            return Ok(kubeconfig);
        }
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
        let data = DataOptions { data_dir: None, log_level: String::new() }.directory().ok();
        let local = data.map(|data| data.join("kubeconfig"));
        for path in [home, local].into_iter().flatten() {
            if path.exists() {
                return Kubeconfig::read_from(&path).with_context(|| path.display().to_string());
            }
        }
        bail!("no kubeconfig: give --kubeconfig FILE, set KUBECONFIG, or start `coracle up`")
    }
}

impl Connection {
    pub async fn get(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        let body = self.send(Method::GET, path, accept, "", Bytes::new()).await?;
        serde_json::from_slice(&body).context("the server's answer is no JSON")
    }

    /// The answer's body; an answer that is an error becomes an [`ApiError`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Bytes> {
        let response = self.open(method, path, accept, content_type, body).await?;
        response.into_body().collect_bytes().await.context("reading the server's answer")
    }

    /// The answer with its body still to come, for watches and logs.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<http::Response<Body>> {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Body::from(body.to_vec())).context("making the request")?;
        let response = self.client.send(request).await.context("the server cannot be reached")?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let body = response.into_body().collect_bytes().await.unwrap_or_default();
        let error = match serde_json::from_slice::<Status>(&body) {
            Ok(status) if status.code != 0 => ApiError::from_status(status),
            _ => {
                ApiError::new(code.as_u16(), "Unknown", format!("{code}: {}", String::from_utf8_lossy(&body)))
            }
        };
        Err(error.into())
    }
}

/// The API's error in an [`anyhow::Error`], where it is one.
pub fn api_error(error: &anyhow::Error) -> Option<&ApiError> {
    error.downcast_ref()
}

/// `Error from server (NotFound): …`, as kubectl says it.
pub fn from_server(error: anyhow::Error) -> anyhow::Error {
    match api_error(&error) {
        Some(api) => anyhow::anyhow!("Error from server ({}): {}", api.reason(), api.message()),
        None => error,
    }
}
