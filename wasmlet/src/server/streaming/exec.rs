//! `/exec`: a program in a container's sandbox with its streams at the client; `/run`: the same, answered whole.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::session::{Ended, OUTPUT_QUEUE, Session, Wanted};
use super::terminal::{self, Terminal};
use super::{Target, answer, session, wanted};
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
            let wait = async {
                match terminal {
                    Some((mut signals, driver)) => {
                        let waiting = async {
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
                    }
                    None => child.wait().await.code,
                }
            };
            tokio::select! {
                code = wait => Ended::Exited(code),
                () = gone.cancelled() => {
                    child.kill();
                    child.wait().await;
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
    let (ended, text) = collect(container, command, RUN_BYTES_MAX).await;
    match ended {
        Ended::Exited(0) => text.into_response(),
        Ended::Exited(code) => {
            let mut text = text;
            text.extend_from_slice(
                format!("command '{}' exited with {code}\n", query.all("cmd").join(" ")).as_bytes(),
            );
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        Ended::Failed(text) => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
    }
}

/// Runs a command without a client and returns how it ended and the first `limit` bytes of what it wrote. Dropped: the
/// program ends.
pub async fn collect(container: Arc<dyn Container>, command: Vec<String>, limit: usize) -> (Ended, Vec<u8>) {
    let (output, mut pieces) = mpsc::channel(OUTPUT_QUEUE);
    let (end, ended) = oneshot::channel();
    let gone = CancellationToken::new();
    let session = Session {
        stdin: None,
        stdout: Some(output.clone()),
        stderr: Some(output),
        size: watch::channel(None).1,
        gone: gone.clone(),
        end,
    };
    let wanted = Wanted { stdout: true, stderr: true, ..Wanted::default() };
    let guard = gone.drop_guard();
    // A task of its own: who stops waiting lets it clean up behind itself.
    tokio::spawn(run_in(session, container, command, wanted));
    let mut text = Vec::new();
    while let Some(piece) = pieces.recv().await {
        let room = limit.saturating_sub(text.len()).min(piece.len());
        text.extend_from_slice(&piece[..room]);
    }
    let ended = ended.await.unwrap_or(Ended::Failed("the program was lost".into()));
    drop(guard);
    (ended, text)
}
