//! What goes wrong, how often, decided by the seed alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::SplitMix;

pub struct Faults {
    random: Mutex<SplitMix>,
    on: AtomicBool,
    /// While it is set, no change reaches a watcher.
    held: watch::Sender<bool>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Mutex::new(SplitMix(seed)),
            on: AtomicBool::new(false),
            held: watch::Sender::new(false),
        }
    }

    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    pub fn hold_watches(&self, on: bool) {
        self.held.send_replace(on);
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.random.lock().next() % bound.max(1)
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        let at = usize::try_from(self.below(of.len() as u64)).ok()?;
        of.get(at)
    }

    /// One time in `bound`.
    pub fn one_in(&self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn strikes(&self, bound: u64) -> bool {
        self.on.load(Ordering::Relaxed) && self.one_in(bound)
    }

    pub fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// What any step costs: next to nothing, or under faults sometimes a lot.
    pub async fn pause(&self) {
        let pause = if self.strikes(40) { self.millis(50, 2_000) } else { Duration::from_micros(200) };
        tokio::time::sleep(pause).await;
    }

    /// How late a change reaches a watcher.
    pub async fn lag(&self) {
        self.held.subscribe().wait_for(|held| !held).await.ok();
        if self.strikes(30) {
            tokio::time::sleep(self.millis(5, 3_000)).await;
        } else if self.strikes(1_000) {
            tokio::time::sleep(self.millis(5_000, 60_000)).await;
        }
    }

    pub fn store_answer_lost(&self) -> bool {
        self.strikes(200)
    }

    pub fn store_watch_cut(&self) -> bool {
        self.strikes(3_000)
    }

    pub fn request_lost(&self) -> bool {
        self.strikes(60)
    }

    pub fn answer_lost(&self) -> bool {
        self.strikes(60)
    }

    pub fn watch_cut(&self) -> bool {
        self.strikes(250)
    }
}
