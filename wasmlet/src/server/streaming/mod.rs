//! exec, attach, run and port-forward: connections that are upgraded, in every protocol that clients speak.

mod attach;
mod exec;
mod idle;
mod port_forward;
mod port_forward_websocket;
mod session;
mod spdy;
mod spdy_session;
mod terminal;
mod upgrade;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Request, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use coracle_client::Object;
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Site;
use super::query::Query;
use crate::runtime::Container;
use idle::{IDLE_MAX, Idle};
use session::{Session, Wanted};
use upgrade::{Refusal, Wish};

/// Streams at once on this node.
const STREAMS_MAX: usize = 1024;
/// The longest message of a WebSocket client.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The streams that are open.
pub struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Streams(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

impl Streams {
    pub fn open(&self) -> usize {
        STREAMS_MAX - self.0.available_permits()
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.0.clone().try_acquire_owned().map_err(|_| {
            (StatusCode::TOO_MANY_REQUESTS, format!("this node holds {STREAMS_MAX} streams already"))
        })
    }
}

pub fn routes() -> Router<Arc<Site>> {
    let (exec, attach) = (get(exec::serve).post(exec::serve), get(attach::serve).post(attach::serve));
    let forward = get(port_forward::serve).post(port_forward::serve);
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", exec.clone())
        .route("/exec/{namespace}/{pod}/{uid}/{container}", exec)
        .route("/attach/{namespace}/{pod}/{container}", attach.clone())
        .route("/attach/{namespace}/{pod}/{uid}/{container}", attach)
        .route("/run/{namespace}/{pod}/{container}", post(exec::run))
        .route("/run/{namespace}/{pod}/{uid}/{container}", post(exec::run))
        .route("/portForward/{namespace}/{pod}", forward.clone())
        .route("/portForward/{namespace}/{pod}/{uid}", forward)
}

/// What a path names; pods by name may be pinned by uid.
#[derive(Debug, serde::Deserialize)]
pub struct Target {
    namespace: String,
    pod: String,
    uid: Option<String>,
    #[serde(default)]
    container: String,
}

impl Target {
    fn pod(&self, site: &Site) -> Result<Arc<Object>, Refusal> {
        site.pods
            .get(&self.namespace, &self.pod)
            .filter(|object| self.uid.as_ref().is_none_or(|uid| **uid == *object.head.uid))
            .ok_or_else(|| (StatusCode::NOT_FOUND, "pod does not exist".to_owned()))
    }

    fn container(&self, site: &Site) -> Result<Arc<dyn Container>, Refusal> {
        let pod = self.pod(site)?;
        let running = site.context.running.of_pod(&pod.head.uid);
        running.into_iter().find(|(name, _)| **name == *self.container).map(|(_, c)| c).ok_or_else(|| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{}\")", self.container))
        })
    }
}

fn wanted(query: &Query) -> Result<Wanted, Refusal> {
    let wanted = Wanted {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error"),
        tty: query.flag("tty"),
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err((StatusCode::BAD_REQUEST, text.to_owned()));
    }
    Ok(wanted)
}

/// What every stream on this node holds while it is open.
struct Open {
    _permit: OwnedSemaphorePermit,
    shutdown: CancellationToken,
}

impl Open {
    fn new(site: &Site) -> Result<Self, Refusal> {
        Ok(Open { _permit: site.streams.take()?, shutdown: site.context.shutdown.clone() })
    }

    /// Runs a stream to its end, or the node's.
    async fn run(self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

/// Upgrades the request and serves the session that comes of it.
async fn session<F, W>(site: &Site, request: Request, wanted: Wanted, serve: F) -> Result<Response, Refusal>
where
    F: FnOnce(Session) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let open = Open::new(site)?;
    let idle = Idle::new(IDLE_MAX);
    match upgrade::wish(request.headers())? {
        Wish::WebSocket => {
            let (socket, name) = websocket(request, websocket::PROTOCOLS).await?;
            let protocol = websocket::Protocol::named(&name);
            Ok(socket.on_upgrade(move |socket| async move {
                let (session, moving) = websocket::session(socket, protocol, wanted, idle);
                open.run(async {
                    tokio::join!(moving, serve(session));
                })
                .await;
            }))
        }
        Wish::Spdy => {
            let mut request = request;
            let version = upgrade::negotiate(request.headers(), spdy_session::PROTOCOLS)?;
            let protocol = spdy_session::Protocol::named(version);
            let (response, connection) = upgrade::switch(&mut request, "SPDY/3.1", Some(version))?;
            tokio::spawn(open.run(async move {
                let Some(io) = connection.await else { return };
                let (session, moving) = spdy_session::session(io, protocol, wanted, idle);
                tokio::join!(moving, serve(session));
            }));
            Ok(response)
        }
        Wish::Raw => Err((StatusCode::BAD_REQUEST, "only ports have raw streams".into())),
    }
}

/// The handshake, and the name of the protocol that was agreed on.
async fn websocket(
    request: Request,
    known: &'static [&'static str],
) -> Result<(WebSocketUpgrade, String), Refusal> {
    let offers = request.headers().contains_key(http::header::SEC_WEBSOCKET_PROTOCOL);
    let (mut parts, _) = request.into_parts();
    let socket = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| (StatusCode::BAD_REQUEST, rejection.to_string()))?;
    let socket = socket
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .protocols(known.iter().copied());
    let name = socket.selected_protocol().and_then(|name| name.to_str().ok()).map(str::to_owned);
    match name {
        Some(name) => Ok((socket, name)),
        None if !offers => Ok((socket, String::new())),
        None => Err((StatusCode::FORBIDDEN, "unknown WebSocket subprotocol".into())),
    }
}

fn answer(result: Result<Response, Refusal>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}
