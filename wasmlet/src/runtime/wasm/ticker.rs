//! Advances the engine's epoch while a guest is on a CPU, and sleeps for good while none is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::Engine;

/// How long a guest may hold a thread before it yields: the lateness a spinner adds to others, and to its own kill.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// One thread for the engine. A node whose guests all wait for something burns no CPU on it.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// Polls of guests in progress.
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// Held while a guest is polled.
pub(super) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub fn start(engine: &Engine) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let (weak, state) = (engine.weak(), shared.clone());
        let handle = std::thread::Builder::new().name("wasm-epoch".into()).spawn(move || {
            while state.wait_until_running() {
                std::thread::sleep(TICK);
                match weak.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })?;
        Ok(Arc::new(Ticker { shared, thread: handle.thread().clone() }))
    }

    pub fn running(&self) -> Running<'_> {
        // Pairs with `wait_until_running`: whichever of the two counts is written second sees the other.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) && self.shared.parked.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(self)
    }

    #[cfg(test)]
    fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// False when the ticker is to end.
    fn wait_until_running(&self) -> bool {
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return false;
            }
            if self.running.load(Ordering::SeqCst) > 0 {
                self.parked.store(false, Ordering::SeqCst);
                return true;
            }
            self.parked.store(true, Ordering::SeqCst);
            if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
                std::thread::park();
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parks_when_nobody_runs_and_wakes_when_somebody_does() {
        let engine = Engine::default();
        let ticker = Ticker::start(&engine).unwrap();
        let until_parked = |wanted| {
            let begun = std::time::Instant::now();
            while ticker.is_parked() != wanted {
                assert!(begun.elapsed() < Duration::from_secs(10), "parked is not {wanted}");
                std::thread::sleep(TICK);
            }
        };
        for _ in 0..3 {
            let guard = ticker.running();
            until_parked(false);
            drop(guard);
            until_parked(true);
        }
    }
}
