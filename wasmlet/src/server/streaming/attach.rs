//! `/attach`: the client at the streams of the container's own guest.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use tokio::sync::mpsc;

use super::session::{Ended, Session, Wanted};
use super::terminal::Terminal;
use super::{Target, answer, session, wanted};
use crate::runtime::stdio::Attached;
use crate::runtime::{Container, Stream};
use crate::server::Site;
use crate::server::query::Query;

pub async fn serve(
    State(site): State<Arc<Site>>,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    answer(
        async {
            let wanted = wanted(&query)?;
            let container = target.container(&site)?;
            let attached = container
                .attach(wanted.stdin)
                .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
            session(&site, request, wanted, move |session| connect(session, container, attached, wanted))
                .await
        }
        .await,
    )
}

async fn connect(session: Session, container: Arc<dyn Container>, mut attached: Attached, wanted: Wanted) {
    let Session { mut stdin, mut stdout, mut stderr, size: _size, gone, end } = session;
    let mut terminal = None;
    if wanted.tty {
        let wrapped = Terminal::between(stdin.take(), stdout.take(), false);
        stdin = Some(wrapped.stdin);
        stdout = Some(wrapped.output);
        stderr.clone_from(&stdout);
        terminal = Some((wrapped.signals, wrapped.driver));
    }
    let work = async {
        let moving = move_bytes(&mut attached, stdin, stdout, stderr);
        match terminal {
            Some((mut signals, driver)) => {
                let signalled = async {
                    if signals.recv().await.is_some() {
                        container.kill();
                    }
                };
                tokio::join!(moving, driver, signalled);
            }
            None => moving.await,
        }
    };
    tokio::select! {
        () = work => {
            // As upstream: how the container ended is in the pod's status.
            let _ = end.send(Ended::Exited(0));
        }
        () = gone.cancelled() => {}
    }
}

/// Until the guest has ended.
async fn move_bytes(
    attached: &mut Attached,
    mut stdin: Option<mpsc::Receiver<Bytes>>,
    stdout: Option<mpsc::Sender<Bytes>>,
    stderr: Option<mpsc::Sender<Bytes>>,
) {
    let mut guest = attached.stdin();
    let mut typed: Option<Bytes> = None;
    loop {
        tokio::select! {
            piece = attached.next() => {
                let Some((stream, bytes)) = piece else { return };
                let to = match stream {
                    Stream::Stdout => &stdout,
                    Stream::Stderr => &stderr,
                };
                if let Some(to) = to
                    && to.send(bytes).await.is_err()
                {
                    return;
                }
            }
            piece = next(&mut stdin), if typed.is_none() && stdin.is_some() => match piece {
                Some(bytes) if guest.is_some() => typed = Some(bytes),
                Some(_) => {}
                None => {
                    stdin = None;
                    guest = None;
                    attached.stdin_ended();
                }
            },
            // Waits for room without holding the output up.
            permit = room(&guest), if typed.is_some() => match (permit, typed.take()) {
                (Some(permit), Some(bytes)) => drop(permit.send(bytes)),
                _ => guest = None,
            },
        }
    }
}

async fn next(stdin: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    stdin.as_mut()?.recv().await
}

async fn room(guest: &Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    guest.clone()?.reserve_owned().await.ok()
}
