//! Serves a wasi:http component at the pod's address: a fresh instance for every request, within bounds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::{Engine, PoolConcurrencyLimitError};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode as ErrorCodeP3;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpView};

use super::command::outcome_of;
use super::container::{Control, Outcome, describe};
use super::cpu::{CpuAccount, Metered};
use super::guest::{ComponentState, GuestSetup};
use super::http_admission::{Admission, Admitted, Busy};
use super::http_body::{AbortOnDrop, Keeper, ResponseBody};
use super::http_limits::{self, HttpLimits};
use super::http_workers::{NoInstance, Reuse, Workers};
use super::memory::OomKilled;
use super::modules::HttpPre;
use super::ticker::Ticker;
use crate::runtime::StartError;

/// While an endpoint is being withdrawn its clients still come: after being asked to end, the listeners stay open
/// until nobody came for this long,
const QUIET: Duration = Duration::from_millis(300);
/// or for this long (and never for more than half of the grace).
const LAME_DUCK_MAX: Duration = Duration::from_secs(2);
/// How long the answers to the requests that a dying container fails may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// An idle or half-open connection is closed after this long without a request head.
/// (Longer than common clients keep theirs, so that it is they who close.)
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after a failed accept (out of file descriptors, most likely), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a server is made of.
pub(super) struct HttpServer {
    pub engine: Engine,
    pub instances: Instances,
    pub setup: Arc<GuestSetup>,
    pub control: Arc<Control>,
    pub cpu: Arc<CpuAccount>,
    pub ticker: Arc<Ticker>,
    pub limits: HttpLimits,
    pub admission: Arc<Admission>,
    pub state: ServerState,
}

/// Whose a request is.
pub(super) enum Instances {
    /// Its own.
    EachItsOwn(ProxyPre<ComponentState>),
    Shared(Arc<Workers>),
}

impl Instances {
    pub fn of(
        pre: &HttpPre,
        limits: &HttpLimits,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Self, StartError> {
        let reuse = http_limits::reuse(annotations, matches!(pre, HttpPre::P3(_)))?;
        let shared = |pre, reuse| Instances::Shared(Workers::new(pre, reuse, limits.concurrency_max));
        Ok(match (pre, reuse) {
            (HttpPre::P2(pre), None) => Instances::EachItsOwn(pre.clone()),
            (HttpPre::P2(pre), Some(reuse)) => shared(HttpPre::P2(pre.clone()), reuse),
            (HttpPre::P3(pre), reuse) => shared(HttpPre::P3(pre.clone()), reuse.unwrap_or(Reuse::ONCE)),
        })
    }
}

pub(super) struct ServerState {
    accepted: AtomicU64,
    /// Nothing is accepted any more.
    deaf: CancellationToken,
    acceptors: TaskTracker,
    connections: TaskTracker,
    pub guests: TaskTracker,
    /// Connections end after the request they are at.
    pub closing: CancellationToken,
    /// Guests are dropped where they are.
    pub abort: CancellationToken,
    out_of_memory: watch::Sender<Option<OomKilled>>,
}

impl ServerState {
    pub fn new() -> Self {
        ServerState {
            accepted: AtomicU64::new(0),
            deaf: CancellationToken::new(),
            acceptors: TaskTracker::new(),
            connections: TaskTracker::new(),
            guests: TaskTracker::new(),
            closing: CancellationToken::new(),
            abort: CancellationToken::new(),
            out_of_memory: watch::channel(None).0,
        }
    }

    /// Waits, too: once a container's end is told, its ports are free.
    async fn close_listeners(&self) {
        self.deaf.cancel();
        self.acceptors.close();
        self.acceptors.wait().await;
    }

    /// Drops what is left and waits until it is gone.
    pub async fn clear(&self) {
        self.close_listeners().await;
        self.abort.cancel();
        self.closing.cancel();
        self.guests.close();
        self.connections.close();
        self.guests.wait().await;
        let _ = tokio::time::timeout(LAST_WORDS, self.connections.wait()).await;
    }
}

impl HttpServer {
    /// Until the container is asked to end and its requests are done, or it runs out of memory.
    pub async fn serve(self: Arc<Self>, listeners: Vec<TcpListener>) -> Outcome {
        for listener in listeners {
            let server = self.clone();
            self.state.acceptors.spawn(async move {
                tokio::select! {
                    () = server.state.deaf.cancelled() => {}
                    () = server.clone().accept(listener) => {}
                }
            });
        }
        let mut out_of_memory = self.state.out_of_memory.subscribe();
        let oom = tokio::select! {
            oom = async { out_of_memory.wait_for(Option::is_some).await.ok().and_then(|oom| *oom) } => {
                Some(oom.unwrap_or_else(|| self.setup.memory.oom()))
            }
            () = self.control.terminate.cancelled() => None,
        };
        if let Some(oom) = oom {
            self.state.clear().await;
            return Outcome::OutOfMemory(oom);
        }
        self.lame_duck().await;
        self.state.close_listeners().await;
        self.state.closing.cancel();
        self.state.connections.close();
        self.state.connections.wait().await;
        self.state.guests.close();
        self.state.guests.wait().await;
        Outcome::Exited(0)
    }

    async fn lame_duck(&self) {
        let deadline = tokio::time::Instant::now() + LAME_DUCK_MAX.min(self.control.grace() / 2);
        loop {
            let before = self.state.accepted.load(Ordering::Relaxed);
            let quiet = tokio::time::Instant::now() + QUIET;
            tokio::time::sleep_until(quiet.min(deadline)).await;
            if self.state.accepted.load(Ordering::Relaxed) == before
                || tokio::time::Instant::now() >= deadline
            {
                return;
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(self.limits.connections_max));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _peer)) => {
                    self.state.accepted.fetch_add(1, Ordering::Relaxed);
                    let server = self.clone();
                    self.state.connections.spawn(async move {
                        server.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accept for a pod failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(self.limits.streams_max());
        let server = self.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.handle(request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut closing = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::trace!(%error, "connection to a pod ended");
                    }
                    return;
                }
                () = self.state.closing.cancelled(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let version = request.version();
        let mut response = match self.admission.admit().await {
            Ok(admitted) => self.clone().answer(request, admitted).await,
            Err(busy) => refuse(&busy),
        };
        if self.control.terminate.is_cancelled() && version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        admitted: Admitted,
    ) -> Response<ResponseBody> {
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            return plain(StatusCode::BAD_REQUEST, "missing Host header\n");
        }
        if let Some(refused) = refuse_upgrade(&request) {
            return refused;
        }
        let pre = match &self.instances {
            Instances::EachItsOwn(pre) => pre.clone(),
            Instances::Shared(workers) => return self.answer_shared(workers, request, admitted).await,
        };
        let (sender, receiver) = oneshot::channel();
        let server = self.clone();
        let guest = self.state.guests.spawn(async move {
            let status = server.guest(pre, request, sender).await;
            drop(admitted);
            status
        });
        let guest = AbortOnDrop::new(guest);
        match receiver.await {
            Ok(Ok(response)) => {
                response.map(|body| ResponseBody::guest(body, Keeper::Own(guest), None)).into_response()
            }
            Ok(Err(code)) => {
                tracing::debug!(?code, "guest answered with an error");
                plain(StatusCode::BAD_GATEWAY, "the guest reported an error\n")
            }
            Err(_) => match guest.join().await {
                Some(StatusCode::GATEWAY_TIMEOUT) => {
                    plain(StatusCode::GATEWAY_TIMEOUT, "request timed out\n")
                }
                Some(StatusCode::SERVICE_UNAVAILABLE) => refuse(&Busy::QueueFull),
                _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed\n"),
            },
        }
    }

    /// A request in an instance that others may share. Its time is bounded here, as the guest is not its own.
    async fn answer_shared(
        self: &Arc<Self>,
        workers: &Arc<Workers>,
        request: Request<Incoming>,
        admitted: Admitted,
    ) -> Response<ResponseBody> {
        let what = (request.method().clone(), request.uri().clone());
        let deadline = self.limits.request_timeout.map(|limit| tokio::time::Instant::now() + limit);
        let request = request.map(|body| body.map_err(HttpError::from).boxed_unsync());
        let (answer, lease) = workers.send(self, request, admitted).await;
        let answer = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, answer).await,
            None => Ok(answer.await),
        };
        match answer {
            Ok(Ok(Ok(response))) => response
                .map(|body| ResponseBody::guest(body, Keeper::Shared(lease), deadline))
                .into_response(),
            Ok(Ok(Err(error))) if error.is::<PoolConcurrencyLimitError>() || error.is::<NoInstance>() => {
                refuse(&Busy::QueueFull)
            }
            Ok(Ok(Err(error))) if error.is::<ErrorCode>() || error.is::<ErrorCodeP3>() => {
                tracing::debug!(%error, "guest answered with an error");
                plain(StatusCode::BAD_GATEWAY, "the guest reported an error\n")
            }
            Ok(Ok(Err(error))) => {
                self.log(&what, &describe(&error));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed\n")
            }
            // The instance is gone; why, its end says.
            Ok(Err(_)) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed\n"),
            Err(_) => {
                self.log(&what, "timed out");
                plain(StatusCode::GATEWAY_TIMEOUT, "request timed out\n")
            }
        }
    }

    /// A shared instance ended before its time.
    pub fn guest_failed(&self, error: wasmtime::Error) {
        match outcome_of(error, &self.setup.memory) {
            Outcome::OutOfMemory(oom) => {
                self.setup.complain(&format!("{oom}\n"));
                self.state.out_of_memory.send_replace(Some(oom));
            }
            Outcome::Failed(error) => self.setup.complain(&format!("{}\n", describe(&error))),
            Outcome::Exited(code) => self.setup.complain(&format!("exited with code {code}\n")),
            Outcome::Terminated | Outcome::Killed | Outcome::Panicked => {}
        }
    }

    /// One request in an instance of its own. The status is what to answer when the guest did not.
    async fn guest(
        &self,
        pre: ProxyPre<ComponentState>,
        request: Request<Incoming>,
        sender: ResponseSender,
    ) -> StatusCode {
        let what = (request.method().clone(), request.uri().clone());
        let run = Metered::new(self.run(pre, request, sender), self.cpu.clone(), self.ticker.clone());
        let result = tokio::select! {
            biased;
            () = self.state.abort.cancelled() => return StatusCode::INTERNAL_SERVER_ERROR,
            result = with_timeout(self.limits.request_timeout, run) => result,
        };
        let Some(result) = result else {
            self.log(&what, "timed out");
            return StatusCode::GATEWAY_TIMEOUT;
        };
        let Err(error) = result else { return StatusCode::INTERNAL_SERVER_ERROR };
        if error.is::<PoolConcurrencyLimitError>() {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        match outcome_of(error, &self.setup.memory) {
            Outcome::OutOfMemory(oom) => {
                self.log(&what, &oom.to_string());
                self.state.out_of_memory.send_replace(Some(oom));
            }
            Outcome::Failed(error) => self.log(&what, &describe(&error)),
            Outcome::Exited(code) => self.log(&what, &format!("exited with code {code}")),
            Outcome::Terminated | Outcome::Killed | Outcome::Panicked => {}
        }
        StatusCode::INTERNAL_SERVER_ERROR
    }

    async fn run(
        &self,
        pre: ProxyPre<ComponentState>,
        request: Request<Incoming>,
        sender: ResponseSender,
    ) -> wasmtime::Result<()> {
        let mut store = self.setup.component_store(&self.engine)?;
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let response = store.data_mut().http().new_response_outparam(sender)?;
        let proxy = pre.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, request, response).await
    }

    fn log(&self, (method, uri): &(http::Method, http::Uri), text: &str) {
        let line = format!("{method} {}: {text}\n", uri.path());
        self.setup.complain(&line);
    }
}

type ResponseSender = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

trait IntoResponse {
    fn into_response(self) -> Response<ResponseBody>;
}

impl IntoResponse for Response<ResponseBody> {
    fn into_response(mut self) -> Response<ResponseBody> {
        let length = self
            .headers()
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        self.body_mut().expect_length(length);
        self
    }
}

async fn with_timeout<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

/// No wasi:http handler can take a connection over. `h2c` is no such wish: who offers it goes on in HTTP/1.1.
fn refuse_upgrade(request: &Request<Incoming>) -> Option<Response<ResponseBody>> {
    let upgrade =
        request.headers().get(UPGRADE).filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    if upgrade.is_none() && request.method() != Method::CONNECT {
        return None;
    }
    Some(plain(
        StatusCode::NOT_IMPLEMENTED,
        "a wasi:http component cannot take a connection over: no Upgrade, no CONNECT\n",
    ))
}

fn refuse(busy: &Busy) -> Response<ResponseBody> {
    let text = match busy {
        Busy::QueueFull => "too many requests are waiting\n",
        Busy::WaitedTooLong => "waited too long for an instance\n",
    };
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Listens without a runtime, so that the caller learns of a taken port before the container counts as started.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
