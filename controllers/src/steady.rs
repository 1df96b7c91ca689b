//! Time that goes on however the machine's clock is set: what the API dates by the wall clock is placed on the steady
//! clock once, and waited for there, so that a jump neither ends a wait nor draws it out.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Now, on the clock that people set and on the one that only goes forward.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    pub steady: Instant,
}

impl Now {
    pub fn read() -> Self {
        Self { wall: Timestamp::now(), steady: Instant::now() }
    }

    /// When on the steady clock that was, by what the wall clock says now. What it takes to lie in the future is now:
    /// whoever dated it had another clock, or this one has been set back.
    pub fn moment(self, dated: Timestamp) -> Instant {
        let age = Duration::try_from(self.wall.duration_since(dated)).unwrap_or_default();
        self.steady.checked_sub(age).unwrap_or(self.steady)
    }
}

/// When things began that the API dates, each placed on the steady clock when it was first seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Beginnings<T> {
    seen: Vec<(T, Option<Timestamp>, Instant)>,
}

impl<T: PartialEq> Beginnings<T> {
    /// `things` as they are dated now. One without a date began when it was first seen.
    pub fn of(before: Option<&Self>, things: impl Iterator<Item = (T, Option<Timestamp>)>, now: Now) -> Self {
        let seen = things.map(|(thing, dated)| {
            let known = before.and_then(|before| before.get(&thing, dated));
            let moment = known.unwrap_or_else(|| dated.map_or(now.steady, |dated| now.moment(dated)));
            (thing, dated, moment)
        });
        Self { seen: seen.collect() }
    }

    /// In the order of the things.
    pub fn moments(&self) -> impl Iterator<Item = Instant> {
        self.seen.iter().map(|(_, _, moment)| *moment)
    }

    fn get(&self, thing: &T, dated: Option<Timestamp>) -> Option<Instant> {
        self.seen.iter().find(|(t, d, _)| t == thing && *d == dated).map(|(_, _, moment)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_stay_where_they_were_first_placed() {
        let begin = Instant::now() + Duration::from_secs(100_000);
        let wall = |second: i64| Timestamp::from_second(1_767_225_600 + second).unwrap();
        // So many seconds after the beginning, with the wall clock set by so many.
        let after = |seconds: u64, set: i64| Now {
            wall: wall(i64::try_from(seconds).unwrap() + set),
            steady: begin + Duration::from_secs(seconds),
        };
        let place = |before: Option<&Beginnings<u8>>, dated: Option<i64>, now: Now| {
            let dated = dated.map(wall);
            let placed = Beginnings::of(before, [(1, dated)].into_iter(), now);
            let moment = placed.get(&1, dated).unwrap();
            (placed, moment)
        };
        let (first, moment) = place(None, Some(10), after(60, 0));
        assert_eq!(moment, begin + Duration::from_secs(10));
        for set in [-7200, 7200] {
            assert_eq!(place(Some(&first), Some(10), after(90, set)).1, moment, "set by {set}");
        }
        // Dated anew: another beginning, by the clock as it is.
        assert_eq!(place(Some(&first), Some(7260), after(90, 7200)).1, begin + Duration::from_secs(60));
        // Never in the future.
        assert_eq!(place(None, Some(10), after(60, -7200)).1, begin + Duration::from_secs(60));
        let (undated, moment) = place(None, None, after(60, 0));
        assert_eq!(moment, begin + Duration::from_secs(60));
        assert_eq!(place(Some(&undated), None, after(99, -7200)).1, moment);
        assert_eq!(first.get(&2, Some(wall(10))), None);
    }
}
