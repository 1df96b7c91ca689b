//! Services as rules in the kernel: one table of ours, looked up by maps, changed element by element.

mod render;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::debug;

use crate::{Backend, Error, Options, ServiceRules};

pub struct Nftables {
    current: BTreeMap<Arc<str>, ServiceRules>,
}

impl Nftables {
    /// Replaces whatever an earlier process left. Until the first `apply` nothing is forwarded; the caller applies
    /// everything at once, right after this.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        nft(&render::base(options)).await?;
        Ok(Self { current: BTreeMap::new() })
    }
}

#[async_trait]
impl Backend for Nftables {
    async fn apply(&mut self, changed: Vec<(Arc<str>, ServiceRules)>) -> Result<(), Error> {
        let mut script = String::new();
        let none = ServiceRules::default();
        for (name, rules) in &changed {
            let old = self.current.get(name).unwrap_or(&none);
            if old != rules {
                render::change(&mut script, name, old, rules);
            }
        }
        if !script.is_empty() {
            nft(&script).await?;
        }
        for (name, rules) in changed {
            if rules.ports.is_empty() {
                self.current.remove(&name);
            } else {
                self.current.insert(name, rules);
            }
        }
        Ok(())
    }

    /// The rules stay: connections go on while this process restarts.
    async fn stop(&mut self) {}
}

/// Runs a script as one transaction.
async fn nft(script: &str) -> Result<(), Error> {
    debug!(bytes = script.len(), "nft");
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::NftMissing,
            _ => Error::Run(error),
        })?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).await.map_err(Error::Run)?;
    }
    let output = child.wait_with_output().await.map_err(Error::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::Nft(text.lines().take(3).collect::<Vec<_>>().join(" ")))
}
