//! A thin client for machines without kubectl: apply, get, logs, delete, wait, with kubectl's flags.

mod connection;
mod resolve;
mod manifests;
mod print;
mod apply;
mod get;
mod logs;
mod delete;
mod wait;

pub use apply::Apply;
pub use delete::Delete;
pub use get::Get;
pub use logs::Logs;
pub use wait::Wait;

use std::future::Future;

use anyhow::Context;

/// Runs one command to its end on a small runtime.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(work)
}
