//! Services as rules in the kernel: one table of ours, looked up by maps, changed element by element.

mod change;
mod conntrack;
mod library;
mod render;
#[cfg(test)]
mod tests;

use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::{debug, warn};

use crate::dns::Family;
use crate::table::Protocol;
use crate::{Backend, Error, Options, ServiceRules};
use change::State;
use conntrack::Watched;
use library::Library;

pub struct Nftables {
    nft: Nft,
    base: String,
    /// Whose tables there are.
    families: &'static [Family],
    /// What is to be in the kernel.
    state: State,
    /// Whether it is; if not, everything is made anew.
    in_effect: bool,
    keep_rules: bool,
}

impl Nftables {
    /// Replaces whatever an earlier process left. Until the first `apply` nothing is forwarded; the caller applies
    /// everything at once, right after this.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let base = render::base(options);
        let nft = Nft::open();
        nft.run(&base).await?;
        let families = if options.second.is_some() { &[Family::V4, Family::V6][..] } else { &[Family::V4] };
        if families.len() == 1 {
            // What a process of two families left; the kernel may not know the other at all.
            if let Err(error) = nft.run(&render::removal(Family::V6)).await {
                debug!(%error, "no IPv6 table to remove");
            }
        }
        let state = State::default();
        Ok(Self { nft, base, families, state, in_effect: true, keep_rules: options.keep_rules })
    }
}

#[async_trait]
impl Backend for Nftables {
    async fn apply(&mut self, changed: Vec<(Arc<str>, ServiceRules)>) -> Result<(), Error> {
        let stale = watched(&self.state, &changed);
        let script = self.state.change(&changed);
        if self.in_effect {
            if script.is_empty() {
                return Ok(());
            }
            let Err(error) = self.nft.run(&script).await else {
                conntrack::forget(stale).await;
                return Ok(());
            };
            self.in_effect = false;
            if matches!(error, Error::NftMissing) {
                return Err(error);
            }
            // Someone else has changed or removed the table, as `nft flush ruleset` does.
            warn!(%error, "nft refused a change; making the whole table anew");
        }
        let script = self.state.anew();
        self.nft.run(&format!("{}{script}", self.base)).await?;
        self.in_effect = true;
        conntrack::forget(stale).await;
        Ok(())
    }

    /// Where the node's pods end with this process, rules that lead to them would mislead.
    async fn stop(&mut self) {
        if self.keep_rules {
            return;
        }
        let removal: String = self.families.iter().map(|family| render::removal(*family)).collect();
        if let Err(error) = self.nft.run(&removal).await {
            warn!(%error, "the rules could not be removed");
        }
    }
}

/// The ways in by UDP of Services that change, with the endpoints that remain valid for them: datagrams of known clients
/// follow conntrack, not the rules, and would go on to endpoints that are gone.
fn watched(old: &State, changed: &[(Arc<str>, ServiceRules)]) -> Vec<Watched> {
    let mut all = Vec::new();
    for (name, rules) in changed {
        let before = old.rules(name).cloned().unwrap_or_default();
        for (rules, valid) in [(&before, false), (rules, true)] {
            for group in render::groups(name, rules).into_iter().filter(|g| g.protocol == Protocol::Udp) {
                let endpoints = if valid { group.endpoints.to_vec() } else { Vec::new() };
                all.extend(
                    group
                        .entrances
                        .into_iter()
                        .map(|entrance| Watched { entrance, endpoints: endpoints.clone() }),
                );
            }
        }
    }
    conntrack::merged(all)
}

/// What takes scripts: nft's library in this process (0.3 ms for a change of one Service), or its program (4 ms).
#[derive(Clone)]
struct Nft {
    library: Option<Arc<Mutex<Library>>>,
}

impl Nft {
    fn open() -> Self {
        let library = Library::open();
        debug!(in_process = library.is_some(), "nft");
        Self { library: library.map(|library| Arc::new(Mutex::new(library))) }
    }

    /// Runs a script as one transaction.
    async fn run(&self, script: &str) -> Result<(), Error> {
        debug!(bytes = script.len(), "nft");
        let Some(library) = self.library.clone() else { return run_program(script).await };
        let script = script.to_owned();
        let done = tokio::task::spawn_blocking(move || library.lock().run(&script)).await;
        done.unwrap_or_else(|error| Err(error.to_string())).map_err(|text| refused(&text))
    }
}

async fn run_program(script: &str) -> Result<(), Error> {
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
    Err(refused(&String::from_utf8_lossy(&output.stderr)))
}

fn refused(text: &str) -> Error {
    Error::Nft(text.lines().take(3).collect::<Vec<_>>().join(" "))
}
