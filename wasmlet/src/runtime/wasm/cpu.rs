//! A container's CPU time: counted around every poll of its guests, and held to its limit.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ticker::Ticker;

/// As the kernel's CFS bandwidth control: what a container may burst before it waits is one period's quota.
const PERIOD: Duration = Duration::from_millis(100);

/// The CPU account of one container, shared by all its guests.
pub(super) struct CpuAccount {
    bucket: Mutex<Option<Bucket>>,
    /// Spares guests without a limit the lock.
    limited: AtomicBool,
    used_nanos: AtomicU64,
    throttled: AtomicU64,
    throttled_nanos: AtomicU64,
}

impl CpuAccount {
    pub fn new(limit_millis: Option<u64>) -> Self {
        CpuAccount {
            bucket: Mutex::new(limit_millis.map(|millis| Bucket::new(millis, Instant::now()))),
            limited: AtomicBool::new(limit_millis.is_some()),
            used_nanos: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            throttled_nanos: AtomicU64::new(0),
        }
    }

    /// Counts from now on; debt is forgiven.
    pub fn set_limit(&self, limit_millis: Option<u64>) {
        let mut bucket = self.bucket.lock();
        self.limited.store(limit_millis.is_some(), Ordering::Relaxed);
        *bucket = limit_millis.map(|millis| Bucket::new(millis, Instant::now()));
    }

    pub fn used_nanos(&self) -> u64 {
        self.used_nanos.load(Ordering::Relaxed)
    }

    /// How often a guest had to wait.
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    /// How long guests had to wait, all together.
    pub fn throttled_nanos(&self) -> u64 {
        self.throttled_nanos.load(Ordering::Relaxed)
    }

    pub fn limit_millis(&self) -> Option<u64> {
        self.bucket.lock().as_ref().map(|bucket| bucket.limit_millis)
    }

    fn waits(&self, wait: Duration) -> Pin<Box<tokio::time::Sleep>> {
        self.throttled.fetch_add(1, Ordering::Relaxed);
        self.throttled_nanos.fetch_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Box::pin(tokio::time::sleep(wait))
    }

    /// How long the container has to stay off the CPU from now on.
    fn charge(&self, nanos: u64) -> Option<Duration> {
        self.used_nanos.fetch_add(nanos, Ordering::Relaxed);
        if !self.limited.load(Ordering::Relaxed) {
            return None;
        }
        self.bucket.lock().as_mut()?.charge(nanos, Instant::now())
    }
}

/// A token bucket in nanoseconds of CPU; debt is kept, so the mean holds whatever the slices are.
#[derive(Debug)]
struct Bucket {
    limit_millis: u64,
    /// CPU nanoseconds per wall nanosecond.
    rate: f64,
    burst: f64,
    tokens: f64,
    refilled_at: Instant,
}

impl Bucket {
    fn new(limit_millis: u64, now: Instant) -> Self {
        // A limit of zero means none to upstream and never gets here; 1m is the least that can make progress.
        let rate = limit_millis.max(1) as f64 / 1000.0;
        let burst = PERIOD.as_nanos() as f64 * rate;
        Bucket { limit_millis, rate, burst, tokens: burst, refilled_at: now }
    }

    fn charge(&mut self, nanos: u64, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.refilled_at).as_nanos() as f64;
        self.refilled_at = now;
        self.tokens = (self.tokens + elapsed * self.rate).min(self.burst) - nanos as f64;
        (self.tokens < 0.0).then(|| Duration::from_nanos((-self.tokens / self.rate) as u64))
    }
}

/// A guest's future: keeps the ticker going while it is polled, charges its account, and waits when that is overdrawn.
pub(super) struct Metered<F> {
    guest: Pin<Box<F>>,
    account: Arc<CpuAccount>,
    ticker: Arc<Ticker>,
    gate: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<F: Future> Metered<F> {
    pub fn new(guest: F, account: Arc<CpuAccount>, ticker: Arc<Ticker>) -> Self {
        Metered { guest: Box::pin(guest), account, ticker, gate: None }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Other guests of the container may have overdrawn the account since this one ran.
        if self.gate.is_none()
            && let Some(wait) = self.account.charge(0)
        {
            self.gate = Some(self.account.waits(wait));
        }
        if let Some(gate) = &mut self.gate {
            std::task::ready!(gate.as_mut().poll(cx));
            self.gate = None;
        }
        let this = &mut *self;
        let before = thread_cpu_nanos();
        let polled = {
            let _running = this.ticker.running();
            this.guest.as_mut().poll(cx)
        };
        let used = thread_cpu_nanos().saturating_sub(before);
        if let Some(wait) = this.account.charge(used)
            && polled.is_pending()
        {
            let mut gate = this.account.waits(wait);
            // Polled here, or nobody would wake this task when the wait is over.
            if gate.as_mut().poll(cx).is_pending() {
                this.gate = Some(gate);
            }
        }
        polled
    }
}

fn thread_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec of ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return 0;
    }
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_mean_and_bounds_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        assert_eq!(bucket.charge(10_000_000, start), None, "one period's quota is free");
        let wait = bucket.charge(5_000_000, start).unwrap();
        assert_eq!(wait, Duration::from_millis(50), "5 ms of debt at a tenth of a CPU");
        assert_eq!(bucket.charge(0, start + wait), None, "paid");
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.charge(10_000_000, later), None);
        assert!(bucket.charge(1_000_000, later).is_some(), "idling for a minute saves up one quota only");
    }

    #[tokio::test]
    async fn no_limit_never_waits() {
        let account = CpuAccount::new(None);
        assert_eq!(account.charge(u64::MAX / 2), None);
        assert_eq!(account.used_nanos(), u64::MAX / 2);
        assert_eq!((account.limit_millis(), account.throttled_nanos()), (None, 0));
        account.set_limit(Some(250));
        drop(account.waits(Duration::from_millis(30)));
        assert_eq!((account.limit_millis(), account.throttled_nanos()), (Some(250), 30_000_000));
    }
}
