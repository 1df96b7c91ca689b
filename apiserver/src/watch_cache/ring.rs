//! The bounded memory of recent changes, for watches and reads that start in the past.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::Event;

/// Whichever bound is hit first drops the oldest change.
pub const EVENTS_MAX: usize = 16 * 1024;
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// As long as upstream's etcd keeps history before it is compacted.
pub const AGE_MAX: Duration = Duration::from_secs(300);

/// Changes of one resource in revision order.
#[derive(Default)]
pub struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every change after this revision is here.
    floor: u64,
}

impl Ring {
    pub fn starting_at(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The revision of the newest change; the floor where there is none.
    pub fn last(&self) -> u64 {
        self.events.back().map_or(self.floor, |e| e.revision)
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.cost_bytes();
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    pub fn trim(&mut self, now: Instant) {
        while self.events.front().is_some_and(|e| now.saturating_duration_since(e.taken_in) > AGE_MAX) {
            self.drop_oldest();
        }
        if self.events.capacity() > 2 * self.events.len() {
            self.events.shrink_to_fit();
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(event) = self.events.pop_front() else { return false };
        self.bytes = self.bytes.saturating_sub(event.cost_bytes());
        self.floor = event.revision;
        true
    }

    /// The changes after `revision`; None where they are no longer all here.
    pub fn after(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.floor {
            return None;
        }
        let start = self.events.partition_point(|e| e.revision <= revision);
        Some(self.events.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_by_count_and_age() {
        let mut ring = Ring::starting_at(10);
        for revision in 11..EVENTS_MAX as u64 + 31 {
            ring.push(Arc::new(Event::new(revision, "a".into(), None, None, None)));
        }
        assert_eq!(ring.events.len(), EVENTS_MAX);
        assert_eq!(ring.floor(), 30);
        assert!(ring.after(29).is_none());
        assert_eq!(ring.after(30).unwrap().count(), EVENTS_MAX);
        assert_eq!(ring.after(ring.last() - 1).unwrap().count(), 1);
        assert_eq!(ring.after(ring.last() + 9).unwrap().count(), 0);
        let last = ring.last();
        ring.trim(Instant::now() + AGE_MAX * 2);
        assert_eq!((ring.floor(), ring.last(), ring.bytes), (last, last, 0));
    }
}
