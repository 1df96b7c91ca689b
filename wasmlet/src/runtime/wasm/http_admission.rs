//! Lets requests into a container: so many at once, so many waiting, and no more than its memory limit holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::http_limits::HttpLimits;
use super::memory::MemoryAccount;

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    QueueFull,
    WaitedTooLong,
}

pub(super) struct Admission {
    limits: HttpLimits,
    /// The container's requests in progress.
    own: Arc<Semaphore>,
    /// The node's.
    node: Arc<Semaphore>,
    waiting: AtomicUsize,
    memory: Arc<MemoryAccount>,
    admitted: Mutex<u64>,
    left: Notify,
}

/// Held while a request is in progress.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    since: Instant,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.memory.activity().answered(self.since.elapsed());
        *self.admission.admitted.lock() -= 1;
        self.admission.left.notify_one();
    }
}

impl Admission {
    pub fn new(limits: HttpLimits, node: Arc<Semaphore>, memory: Arc<MemoryAccount>) -> Arc<Self> {
        Arc::new(Admission {
            limits,
            own: Arc::new(Semaphore::new(limits.concurrency_max)),
            node,
            waiting: AtomicUsize::new(0),
            memory,
            admitted: Mutex::new(0),
            left: Notify::new(),
        })
    }

    pub async fn admit(self: &Arc<Self>) -> Result<Admitted, Busy> {
        let since = Instant::now();
        let admitted = self.admit_since(since).await;
        admitted.inspect_err(|_| self.memory.activity().refused())
    }

    async fn admit_since(self: &Arc<Self>, since: Instant) -> Result<Admitted, Busy> {
        if let (Ok(own), Ok(node)) =
            (self.own.clone().try_acquire_owned(), self.node.clone().try_acquire_owned())
            && self.take_memory()
        {
            return Ok(self.admitted(since, [own, node]));
        }
        // The place is given back by its drop: a client that gives up while it waits leaves the queue.
        let _place = QueuePlace::take(&self.waiting, self.limits.queue_max).ok_or(Busy::QueueFull)?;
        let turn = async {
            let own = self.own.clone().acquire_owned().await.ok()?;
            let node = self.node.clone().acquire_owned().await.ok()?;
            loop {
                let mut left = std::pin::pin!(self.left.notified());
                // Counted as waiting before the check, or a departure between the two would be missed.
                left.as_mut().enable();
                if self.take_memory() {
                    return Some(self.admitted(since, [own, node]));
                }
                left.await;
            }
        };
        match tokio::time::timeout(self.limits.queue_timeout, turn).await {
            Ok(Some(admitted)) => Ok(admitted),
            Ok(None) | Err(_) => Err(Busy::WaitedTooLong),
        }
    }

    fn admitted(self: &Arc<Self>, since: Instant, permits: [OwnedSemaphorePermit; 2]) -> Admitted {
        Admitted { admission: self.clone(), since, _permits: permits }
    }

    /// The memory limit is the container's, each request is an instance: as many fit as the limit holds of the
    /// largest seen. One that is too large on its own gets in, and ends the container as OOMKilled.
    fn take_memory(&self) -> bool {
        let mut admitted = self.admitted.lock();
        let fits = instances_that_fit(self.memory.limit(), self.memory.store_peak());
        let room = fits.is_none_or(|fits| *admitted < fits);
        if room {
            *admitted += 1;
        }
        room
    }
}

/// None: any number. Until the first instance is made its size is not known: one at a time.
fn instances_that_fit(limit: Option<u64>, largest: u64) -> Option<u64> {
    limit.map(|limit| limit.checked_div(largest).unwrap_or(1).max(1))
}

struct QueuePlace<'a>(&'a AtomicUsize);

impl<'a> QueuePlace<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = QueuePlace(waiting);
        // On refusal the guard's drop takes the count back.
        (waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn admission(concurrency_max: usize, queue_max: usize) -> Arc<Admission> {
        let limits = HttpLimits {
            concurrency_max,
            queue_max,
            queue_timeout: Duration::from_millis(50),
            request_timeout: None,
            connections_max: 1,
        };
        Admission::new(limits, Arc::new(Semaphore::new(100)), Arc::new(MemoryAccount::new(None)))
    }

    #[test]
    fn memory_bounds_instances() {
        for (limit, largest, fits) in
            [(None, 5, None), (Some(100), 0, Some(1)), (Some(100), 30, Some(3)), (Some(100), 200, Some(1))]
        {
            assert_eq!(instances_that_fit(limit, largest), fits, "{limit:?} {largest}");
        }
    }

    #[tokio::test]
    async fn queues_and_refuses() {
        let admission = admission(1, 1);
        let first = admission.admit().await.ok().unwrap();
        let second = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit().await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(admission.admit().await.err(), Some(Busy::QueueFull));
        drop(first);
        assert_eq!(second.await.unwrap(), Ok(()));
        let _held = admission.admit().await.ok().unwrap();
        assert_eq!(admission.admit().await.err(), Some(Busy::WaitedTooLong));
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
        let requests = admission.memory.activity().requests();
        assert_eq!((requests.count(), requests.refused), (2, 2), "one is still held");
    }
}
