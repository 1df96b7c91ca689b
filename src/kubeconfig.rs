//! Writes kubeconfig files with everything embedded, whole or not at all.

use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_apiserver::pki::{Pair, write_private};
use serde_json::json;

/// A kubeconfig for one user of one cluster. JSON is YAML too, but kubectl's own files are YAML, so is this.
pub fn render(server: &str, ca: &str, user: &str, pair: &Pair) -> anyhow::Result<String> {
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "coracle", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&pair.certificate),
            "client-key-data": STANDARD.encode(&pair.key),
        }}],
        "contexts": [{"name": "coracle", "context": {"cluster": "coracle", "user": user}}],
        "current-context": "coracle",
    });
    serde_norway::to_string(&document).context("rendering the kubeconfig")
}

/// A kubeconfig for nobody: where the cluster is, and how it is known again.
pub fn render_cluster(server: &str, ca: &str) -> anyhow::Result<String> {
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "contexts": null,
        "current-context": "",
        "preferences": {},
        "users": null,
    });
    serde_norway::to_string(&document).context("rendering the cluster's description")
}

pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    write_private(path, text.as_bytes()).with_context(|| format!("writing the kubeconfig {}", path.display()))
}
