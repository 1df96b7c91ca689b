//! Every HTTP filter, in order, in one function.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use coracle_client::ApiError;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, header};
use tokio::sync::{Semaphore, TryAcquireError};
use tracing::error;

use crate::authn::Authenticators;
use crate::authz::Authorizers;
use crate::impersonation;
use crate::negotiation::Form;
use crate::request_info::RequestInfo;
use crate::response;

/// Requests under way at once, as kube-apiserver's `--max-requests-inflight` and `--max-mutating-requests-inflight`.
const READS_MAX: usize = 400;
const WRITES_MAX: usize = 200;
/// A request that is over the limit may wait this long for its turn before it is shed.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// How many may wait.
const QUEUE_MAX: usize = 2000;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What the filters need.
#[derive(Clone)]
pub struct Chain {
    pub authenticators: Authenticators,
    pub authorizers: Authorizers,
    limits: Arc<Limits>,
}

struct Limits {
    reads: Semaphore,
    writes: Semaphore,
    waiting: Semaphore,
}

impl Chain {
    pub fn new(authenticators: Authenticators, authorizers: Authorizers) -> Self {
        let limits = Limits {
            reads: Semaphore::new(READS_MAX),
            writes: Semaphore::new(WRITES_MAX),
            waiting: Semaphore::new(QUEUE_MAX),
        };
        Self { authenticators, authorizers, limits: Arc::new(limits) }
    }

    /// Puts the filters before the routes. Audit and priority come with later issues, in here.
    pub fn around(self, routes: Router) -> Router {
        routes.layer(from_fn_with_state(self, filter))
    }
}

/// In order: panics become 500s; who and what; how many at once; as whom; may they; then the verb, in time.
async fn filter(State(chain): State<Chain>, request: Request, next: Next) -> Response {
    let form = Form::of(request.headers(), request.uri().query().unwrap_or_default());
    let mut response = match AssertUnwindSafe(answer(chain, request, next)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => response::error(&error, form),
        Err(_) => {
            error!("a request handler panicked");
            response::error(&ApiError::internal("the request handler failed; see the server's log"), form)
        }
    };
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        response.headers_mut().entry(AUDIT_ID).or_insert(id);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

async fn answer(chain: Chain, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
    let (parts, body) = request.into_parts();
    let sender = chain.authenticators.authenticate(&parts).await?;
    request = Request::from_parts(parts, body);

    let _permit = if info.is_long_running() {
        None
    } else {
        let reads = matches!(info.verb, "get" | "list" | "head");
        let semaphore = if reads { &chain.limits.reads } else { &chain.limits.writes };
        Some(chain.limits.admit(semaphore).await?)
    };

    // What runs in the cluster may be asked for its options.
    let proxied = info.subresource == "proxy" && info.verb == "options";
    if info.verb == "other" || info.verb == "options" && !proxied {
        return Err(ApiError::wrong_method());
    }
    let attributes = info.attributes();
    let about = || attributes.clone();
    let identity = impersonation::acting(&chain.authorizers, sender, request.headers_mut(), about).await?;
    chain.authorizers.authorize(&identity, &attributes).await?;

    let long_running = info.is_long_running();
    request.extensions_mut().insert(identity);
    request.extensions_mut().insert(info);
    if long_running {
        return Ok(next.run(request).await);
    }
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request))
        .await
        .map_err(|_| ApiError::timeout("the request did not complete within the allotted timeout"))
}

impl Limits {
    async fn admit<'a>(
        &'a self,
        semaphore: &'a Semaphore,
    ) -> Result<tokio::sync::SemaphorePermit<'a>, ApiError> {
        let overloaded = || ApiError::too_many_requests("too many requests, please try again later.", 1);
        match semaphore.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(overloaded()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| overloaded())?;
        match tokio::time::timeout(QUEUE_WAIT, semaphore.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(overloaded()),
        }
    }
}
