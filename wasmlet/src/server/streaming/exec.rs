//! `/exec`: a program in a container's sandbox with its streams at the client; `/run`: the same, answered whole.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::session::{Ended, Session, Wanted};
use super::terminal::{self, Terminal};
use super::{Target, answer, session, wanted};
use crate::runtime::output::output_of;
use crate::runtime::stdio::Stdio;
use crate::runtime::{Container, ExecError};
use crate::server::Site;
use crate::server::query::Query;

/// What `/run` answers at most.
const RUN_BYTES_MAX: usize = 16 << 20;
/// Added to a signal's number where a program ended by it.
const SIGNALLED: i32 = 128;

pub async fn serve(
    State(site): State<Arc<Site>>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    answer(
        async {
            let command = query.all("command");
            let wanted = wanted(&query)?;
            let container = target.container(&site)?;
            session(&site, request, wanted, move |session| run_in(session, container, command, wanted)).await
        }
        .await,
    )
}

async fn run_in(session: Session, container: Arc<dyn Container>, command: Vec<String>, wanted: Wanted) {
    let Session { stdin, stdout, stderr, size: _size, gone, end } = session;
    let complaints = stderr.clone().or_else(|| stdout.clone());
    let mut stdio = Stdio { stdin, stdout, stderr, terminal: wanted.tty };
    let mut terminal = None;
    if wanted.tty {
        let wrapped =
            Terminal::between(stdio.stdin.take(), stdio.stdout.take(), terminal::is_shell(&command));
        stdio.stdin = Some(wrapped.stdin);
        stdio.stdout = Some(wrapped.output.clone());
        stdio.stderr = Some(wrapped.output);
        terminal = Some((wrapped.signals, wrapped.driver));
    }
    let ended = match container.exec(command, stdio).await {
        Ok(child) => {
            let running = Arc::downgrade(&child);
            // The program lets go of its error stream when it is let go itself, and the terminal waits for that.
            let wait = async move {
                let Some((mut signals, driver)) = terminal else { return child.wait().await.code };
                let waiting = async move {
                    tokio::select! {
                        exit = child.wait() => exit.code,
                        Some(signal) = signals.recv() => {
                            child.kill();
                            child.wait().await;
                            SIGNALLED + signal
                        }
                    }
                };
                // The terminal is over when the guest's output is.
                let (code, ()) = tokio::join!(waiting, driver);
                code
            };
            tokio::pin!(wait);
            tokio::select! {
                code = &mut wait => Ended::Exited(code),
                () = gone.cancelled() => {
                    if let Some(child) = running.upgrade() {
                        child.kill();
                        child.wait().await;
                    }
                    return;
                }
            }
        }
        Err(error @ (ExecError::NotRunning | ExecError::Start(_))) => {
            Ended::Failed(format!("error executing command in container: {error}"))
        }
        Err(error) => {
            let text = format!("exec failed: unable to start container process: {error}: unknown\r\n");
            if let Some(complaints) = &complaints {
                let _ = complaints.send(text.into()).await;
            }
            Ended::Exited(error.code())
        }
    };
    drop(complaints);
    let _ = end.send(ended);
}

/// Output and errors of a command in one text, as the kubelet's.
pub async fn run(
    State(site): State<Arc<Site>>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let container = match target.container(&site) {
        Ok(container) => container,
        Err(refusal) => return refusal.into_response(),
    };
    let command: Vec<String> = match query.all("cmd").as_slice() {
        [one] => one.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        many => many.to_vec(),
    };
    let shown = query.all("cmd").join(" ");
    match output_of(&container, command, RUN_BYTES_MAX).await {
        Ok((0, text)) => text.into_response(),
        Ok((code, mut text)) => {
            text.extend_from_slice(format!("command '{shown}' exited with {code}\n").as_bytes());
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
