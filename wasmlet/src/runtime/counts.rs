//! What the guests of a container did, as it is counted and shown.

use super::Stats;

/// Bounds of the histogram of requests, in seconds.
pub const LATENCY_BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The requests to a container that serves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// There was no room for these.
    pub refused: u64,
    /// The others by the first of [`LATENCY_BOUNDS`] that they took at most; beyond all of them at last.
    pub answered: [u64; LATENCY_BOUNDS.len() + 1],
    /// How long those took together.
    pub answered_nanos: u64,
}

impl Requests {
    /// How many were answered.
    pub fn count(&self) -> u64 {
        self.answered.iter().sum()
    }

    pub fn plus(mut self, other: Self) -> Self {
        self.refused += other.refused;
        self.answered_nanos += other.answered_nanos;
        self.answered.iter_mut().zip(other.answered).for_each(|(sum, more)| *sum += more);
        self
    }
}

/// What goes on being counted when a container is started anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub traps: u64,
    pub throttled: u64,
    pub throttled_nanos: u64,
    pub requests: Requests,
}

impl Counted {
    pub fn of(stats: &Stats) -> Self {
        Self {
            traps: stats.traps,
            throttled: stats.cpu_throttled,
            throttled_nanos: stats.cpu_throttled_nanos,
            requests: stats.requests,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            traps: self.traps + other.traps,
            throttled: self.throttled + other.throttled,
            throttled_nanos: self.throttled_nanos + other.throttled_nanos,
            requests: self.requests.plus(other.requests),
        }
    }
}
