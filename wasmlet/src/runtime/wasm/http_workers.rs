//! Instances that answer more than one request: those of WASI 0.3 handlers, several at a time, and those of 0.2 handlers
//! whose pod asks for it, one after the other.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::channel::oneshot;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut, PoolConcurrencyLimitError};
use wasmtime_wasi_http::handler::{Prepared, Proxy, ProxyPre};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::cpu::Metered;
use super::guest::ComponentState;
use super::http::HttpServer;
use super::http_admission::Admitted;

/// An instance without work is dropped after this long: idle pods hold no memory.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// An instance that offered room and then began to compute does not see what it is handed: after this long another one
/// gets it.
const TAKEN_WITHIN: Duration = Duration::from_millis(20);
/// Instances beyond the requests that may be in progress: one that has given its last answer takes a moment to go.
const INSTANCES_SPARE: usize = 16;

/// How an instance is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reuse {
    /// Requests in its life.
    pub requests_max: usize,
    /// Requests at once.
    pub concurrency_max: usize,
}

impl Reuse {
    pub const ONCE: Reuse = Reuse { requests_max: 1, concurrency_max: 1 };
}

/// The instances of one server.
pub(super) struct Workers {
    pre: ProxyPre<ComponentState>,
    reuse: Reuse,
    /// Instances that would take one more request; the idle ones last.
    free: Mutex<Vec<Offer>>,
    next_id: AtomicU64,
    /// One permit per instance: also of one that goes on after its answers, which no request counts for.
    instances: Arc<Semaphore>,
}

/// There are as many instances as requests may be in progress, and none has room.
#[derive(Debug, thiserror::Error)]
#[error("every instance is busy")]
pub(super) struct NoInstance;

struct Offer {
    worker: Arc<Worker>,
    idle: bool,
}

/// One instance, as seen from outside its task.
struct Worker {
    id: u64,
    jobs: mpsc::UnboundedSender<Handed>,
    /// Requests whose clients are there.
    live: AtomicUsize,
    /// A client left before its answer was whole. Nobody can tell what the guest still does for it: the instance takes no
    /// more requests and ends with the last of the others.
    abandoned: AtomicBool,
    end: CancellationToken,
}

/// The instance's answer, or why there is none.
pub(super) type Answer = Result<Response<WasiBody>, wasmtime::Error>;

struct Job {
    request: Request<WasiBody>,
    sender: oneshot::Sender<Answer>,
}

/// A job on its way to an instance that lives; until it is taken it can be taken back.
struct Handed {
    job: Arc<Mutex<Option<Job>>>,
    taken: oneshot::Sender<()>,
}

/// A client's hold on the instance that answers it.
pub(super) struct Lease {
    worker: Arc<Worker>,
    /// Until the answer is whole, or another instance has the request.
    admitted: Option<Admitted>,
    finished: bool,
}

impl Lease {
    fn new(worker: Arc<Worker>, admitted: Option<Admitted>) -> Self {
        worker.live.fetch_add(1, Ordering::Relaxed);
        Lease { worker, admitted, finished: false }
    }

    /// The answer is whole.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The instance never had the request.
    fn give_up(mut self) -> Option<Admitted> {
        self.finished = true;
        self.admitted.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            self.worker.abandoned.store(true, Ordering::Relaxed);
        }
        if self.worker.live.fetch_sub(1, Ordering::AcqRel) == 1
            && self.worker.abandoned.load(Ordering::Relaxed)
        {
            self.worker.end.cancel();
        }
    }
}

impl Workers {
    pub fn new(pre: ProxyPre<ComponentState>, reuse: Reuse, requests_max: usize) -> Arc<Self> {
        Arc::new(Workers {
            pre,
            reuse,
            free: Mutex::default(),
            next_id: AtomicU64::new(0),
            instances: Arc::new(Semaphore::new(requests_max + INSTANCES_SPARE)),
        })
    }

    /// Hands a request to an instance that has room, or to a new one.
    pub async fn send(
        self: &Arc<Self>,
        server: &Arc<HttpServer>,
        request: Request<WasiBody>,
        admitted: Admitted,
    ) -> (oneshot::Receiver<Answer>, Lease) {
        let (sender, receiver) = oneshot::channel();
        let job = Arc::new(Mutex::new(Some(Job { request, sender })));
        let (mut admitted, mut lease) = (Some(admitted), None);
        if let Some((worker, taken)) = self.hand_over(&job) {
            let held = Lease::new(worker, admitted.take());
            // An error: the instance ended with the job in its queue.
            if matches!(tokio::time::timeout(TAKEN_WITHIN, taken).await, Ok(Ok(()))) {
                return (receiver, held);
            }
            lease = Some(held);
        }
        let left = job.lock().take();
        match (left, lease) {
            (Some(job), lease) => {
                let admitted = lease.and_then(Lease::give_up).or(admitted);
                (receiver, self.start(server, job, admitted))
            }
            (None, Some(lease)) => (receiver, lease),
            (None, None) => unreachable!("nobody else was given it"),
        }
    }

    /// None: no instance has room.
    fn hand_over(&self, job: &Arc<Mutex<Option<Job>>>) -> Option<(Arc<Worker>, oneshot::Receiver<()>)> {
        // Sent under the lock: an instance that finds its offer taken knows that a job is there.
        let mut free = self.free.lock();
        while let Some(Offer { worker, .. }) = free.pop() {
            if worker.abandoned.load(Ordering::Relaxed) || worker.end.is_cancelled() {
                continue;
            }
            let (taken, receiver) = oneshot::channel();
            if worker.jobs.send(Handed { job: job.clone(), taken }).is_ok() {
                return Some((worker, receiver));
            }
        }
        None
    }

    /// A new instance, where there may be one more.
    fn start(self: &Arc<Self>, server: &Arc<HttpServer>, job: Job, admitted: Option<Admitted>) -> Lease {
        let (jobs, queue) = mpsc::unbounded_channel();
        let worker = Arc::new(Worker {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            jobs,
            live: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            end: CancellationToken::new(),
        });
        let lease = Lease::new(worker.clone(), admitted);
        let Ok(permit) = self.instances.clone().try_acquire_owned() else {
            let _ = job.sender.send(Err(wasmtime::Error::new(NoInstance)));
            return lease;
        };
        let (workers, server) = (self.clone(), server.clone());
        let tracker = server.state.guests.clone();
        tracker.spawn(async move {
            workers.run(server, worker, queue, job).await;
            drop(permit);
        });
        lease
    }

    /// An instance from its start to its end.
    async fn run(
        self: Arc<Self>,
        server: Arc<HttpServer>,
        worker: Arc<Worker>,
        mut queue: mpsc::UnboundedReceiver<Handed>,
        first: Job,
    ) {
        let work = self.answer(&server, &worker, &mut queue, first);
        let work = Metered::new(work, server.cpu.clone(), server.ticker.clone());
        let result = tokio::select! {
            biased;
            () = server.state.abort.cancelled() => Ok(()),
            () = worker.end.cancelled() => Ok(()),
            result = work => result,
        };
        self.withdraw(&worker);
        if let Err(error) = result {
            server.guest_failed(error);
        }
    }

    fn offer(&self, worker: &Arc<Worker>, idle: bool) {
        let mut free = self.free.lock();
        let offer = Offer { worker: worker.clone(), idle };
        match idle {
            true => free.push(offer),
            false => {
                let at = free.partition_point(|other| !other.idle);
                free.insert(at, offer);
            }
        }
    }

    /// False: somebody took the offer, and a job is in the queue.
    fn withdraw(&self, worker: &Worker) -> bool {
        let mut free = self.free.lock();
        match free.iter().position(|offer| offer.worker.id == worker.id) {
            Some(at) => {
                free.remove(at);
                true
            }
            None => false,
        }
    }

    async fn answer(
        &self,
        server: &HttpServer,
        worker: &Arc<Worker>,
        queue: &mut mpsc::UnboundedReceiver<Handed>,
        first: Job,
    ) -> wasmtime::Result<()> {
        let mut store = server.setup.component_store(&server.engine)?;
        let proxy = match self.pre.instantiate_async(&mut store).await {
            Ok(proxy) => proxy,
            Err(error) if error.is::<PoolConcurrencyLimitError>() => {
                let _ = first.sender.send(Err(error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let function = match &proxy {
            Proxy::P2(guest) => *guest.wasi_http_incoming_handler().func_handle().func(),
            Proxy::P3(guest) => *guest.wasi_http_handler().func_handle().func(),
        };
        // False from a request's start until its guest first waits for something: while it computes, another request is
        // better off in another instance.
        let waits = AtomicBool::new(true);
        let serve = async |accessor: &Accessor<ComponentState>| {
            let mut answering = FuturesUnordered::new();
            let (mut first, mut served, mut offered) = (Some(first), 0, false);
            let mut idle: Option<Pin<Box<tokio::time::Sleep>>> = None;
            let mut closing = pin!(server.state.closing.cancelled());
            poll_fn(|cx| {
                loop {
                    while let Poll::Ready(Some(done)) = answering.poll_next_unpin(cx) {
                        let done: wasmtime::Result<bool> = done;
                        if let Err(error) = done {
                            return Poll::Ready(Err(error));
                        }
                    }
                    let room = served < self.reuse.requests_max
                        && answering.len() < self.reuse.concurrency_max
                        && !worker.abandoned.load(Ordering::Relaxed)
                        && (answering.is_empty() || waits.load(Ordering::Relaxed))
                        && accessor.poll_ready_for_concurrent_call(function, cx).is_ready();
                    if first.is_none() && room != offered {
                        if room {
                            self.offer(worker, answering.is_empty());
                            offered = true;
                        } else if self.withdraw(worker) {
                            offered = false;
                        }
                    }
                    let job = match first.take() {
                        Some(job) => Some(job),
                        None => match queue.poll_recv(cx) {
                            Poll::Ready(Some(Handed { job, taken })) => {
                                offered = false;
                                let job = job.lock().take();
                                let _ = taken.send(());
                                if job.is_none() {
                                    // Another instance has it.
                                    continue;
                                }
                                job
                            }
                            _ => None,
                        },
                    };
                    if let Some(Job { request, sender }) = job {
                        (offered, idle) = (false, None);
                        served += 1;
                        waits.store(false, Ordering::Relaxed);
                        let prepared = accessor.with(|mut access| {
                            Prepared::new(
                                access.as_context_mut(),
                                &proxy,
                                request,
                                WasiHttpView::http,
                                sender,
                            )
                        });
                        answering.push(async move { prepared?.run(accessor, pending()).await });
                        continue;
                    }
                    // Bodies are still being written after their answers began.
                    if !answering.is_empty() || accessor.poll_no_interesting_tasks(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if !offered {
                        return Poll::Ready(Ok(()));
                    }
                    let timer = idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE_MAX)));
                    if timer.as_mut().poll(cx).is_pending() && closing.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if self.withdraw(worker) {
                        return Poll::Ready(Ok(()));
                    }
                }
            })
            .await
        };
        let mut serving = pin!(store.run_concurrent(serve));
        poll_fn(|cx| {
            let polled = serving.as_mut().poll(cx);
            if polled.is_pending() && !waits.swap(true, Ordering::Relaxed) {
                // It waits now: it may have room.
                return serving.as_mut().poll(cx);
            }
            polled
        })
        .await?
    }
}
