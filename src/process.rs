//! What every long-running subcommand does around its work: logging, runtime, signals, and how it fails.

use std::future::Future;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::memory;

/// Prints an error and its causes on one line of stderr.
#[allow(clippy::print_stderr, reason = "the one place that speaks to the user of a failed command")]
pub fn complain(error: &anyhow::Error) {
    eprintln!("coracle: {}", one_line(error));
}

/// The error and its causes, but not those that an error before them has told already.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

/// A remark for whoever started the program, on stderr.
#[allow(clippy::print_stderr, reason = "notes for the user go beside the output")]
pub fn note(text: &str) {
    eprintln!("coracle: {text}");
}

/// Logs go to stderr; `level` is a level or a `tracing` filter.
pub fn init_logging(level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).with_context(|| {
        format!("--log-level {level:?}: give error, warn, info, debug, trace, or a filter such as info,coracle_apiserver=debug")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    Ok(())
}

/// Runs `work` on a fresh runtime; its token ends at SIGTERM or SIGINT.
pub fn run<F>(level: &str, work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    memory::bound_arenas();
    init_logging(level)?;
    raise_open_files();
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .thread_name("coracle")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let shutdown = CancellationToken::new();
    let result = runtime.block_on(async {
        stop_on_signals(shutdown.clone())?;
        tokio::spawn(memory::give_back(shutdown.clone()));
        work(shutdown.clone()).await
    });
    // Blocking work (a compilation, say) must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}

/// Pods hold sockets and logs: as many files as the system lets this process open.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the limit of open files could not be raised");
    }
}

fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// This machine's name, as the kernel has it.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_lowercase())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow::anyhow!("disk full");
        assert_eq!(
            one_line(&inner.context("writing a: disk full").context("starting")),
            "starting: writing a: disk full"
        );
        assert_eq!(one_line(&anyhow::anyhow!("b\nc").context("a")), "a: b c");
    }
}
