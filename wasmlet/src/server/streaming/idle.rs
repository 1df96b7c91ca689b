//! How long a stream may be silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// As the kubelet's `--streaming-connection-idle-timeout`.
pub const IDLE_MAX: Duration = Duration::from_secs(4 * 3600);

/// A clock that every byte in either direction sets back.
#[derive(Clone)]
pub struct Idle {
    start: Instant,
    last_millis: Arc<AtomicU64>,
    limit: Duration,
}

impl Idle {
    pub fn new(limit: Duration) -> Self {
        Idle { start: Instant::now(), last_millis: Arc::default(), limit }
    }

    pub fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
    }

    /// Returns when nothing has happened for the limit.
    pub async fn elapsed(&self) {
        loop {
            let last = self.last_millis.load(Ordering::Relaxed);
            tokio::time::sleep_until(self.start + Duration::from_millis(last) + self.limit).await;
            if self.last_millis.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_ends_it_and_a_sign_of_life_does_not() {
        let idle = Idle::new(Duration::from_millis(200));
        let start = Instant::now();
        let touching = idle.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            touching.touch();
        });
        idle.elapsed().await;
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
}
