//! Which time of a schedule is due, and how long until the next one.

use std::time::Duration;

use coracle_client::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// More missed starts than this are reported.
const MISSED_MAX: i64 = 100;
/// The clock that wakes up may be a little ahead of the one that decides.
const SLACK: Duration = Duration::from_millis(100);

/// A cron job's clock.
#[derive(Debug)]
pub struct Times<'a> {
    pub schedule: &'a Schedule,
    pub zone: &'a TimeZone,
    /// When the last job was started, else when the cron job was made.
    pub since: Timestamp,
    pub deadline_seconds: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub at: Timestamp,
    pub too_many_missed: bool,
}

enum Last {
    /// None since then.
    None(Timestamp),
    /// Many passed, and none can be named.
    Unknown,
    At(Due),
}

impl Times<'_> {
    /// The newest time that has come and was not started at.
    pub fn due(&self, now: Timestamp) -> Result<Option<Due>, String> {
        let deadline = self.deadline_seconds.map(SignedDuration::from_secs);
        let window = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
        match self.last(window.map_or(self.since, |window| window.max(self.since)), now)? {
            Last::At(due) if due.at <= now => Ok(Some(due)),
            _ => Ok(None),
        }
    }

    /// How long until the next. None: it never comes.
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        let last = match self.last(self.since, now) {
            Ok(Last::At(due)) => due.at,
            Ok(Last::None(since)) => since,
            Ok(Last::Unknown) | Err(_) => now,
        };
        let next = self.schedule.next(last, self.zone)?;
        Some(Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO) + SLACK)
    }

    fn last(&self, since: Timestamp, now: Timestamp) -> Result<Last, String> {
        let next = |after| self.schedule.next(after, self.zone);
        let Some(first) = next(since).filter(|first| *first <= now) else { return Ok(Last::None(since)) };
        let Some(second) = next(first).filter(|second| *second <= now) else {
            return Ok(Last::At(Due { at: first, too_many_missed: false }));
        };
        let apart = second.duration_since(first).as_secs();
        if apart < 1 {
            return Err("time difference between two schedules is less than 1 second".into());
        }
        // About how many: stepping through all that were missed in a year would take long.
        let missed = now.duration_since(first).as_secs() / apart + 1;
        let skipped = SignedDuration::from_secs((missed - 2).max(0).saturating_mul(apart));
        let mut last = None;
        let mut time = first.checked_add(skipped).ok().and_then(next);
        while let Some(at) = time.filter(|at| *at <= now) {
            last = Some(at);
            time = next(at);
        }
        Ok(last.map_or(Last::Unknown, |at| Last::At(Due { at, too_many_missed: missed > MISSED_MAX })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-05-19T{text}Z").parse().unwrap()
    }

    #[test]
    fn the_newest_missed_time_is_due() {
        for (schedule, since, deadline, now, due, many) in [
            ("0 * * * *", "10:00:00", None, "10:30:00", None, false),
            ("0 * * * *", "09:59:59", None, "10:30:00", Some("10:00:00"), false),
            ("0 * * * *", "07:30:00", None, "10:30:00", Some("10:00:00"), false),
            ("0 * * * *", "10:00:00", None, "11:00:00", Some("11:00:00"), false),
            ("0 * * * *", "09:30:00", Some(60), "10:30:00", None, false),
            ("0 * * * *", "09:30:00", Some(3600), "10:30:00", Some("10:00:00"), false),
            ("* * * * *", "08:00:00", None, "10:30:30", Some("10:30:00"), true),
            ("* * * * *", "08:00:00", Some(600), "10:30:30", Some("10:30:00"), false),
            ("* * * * *", "10:29:10", None, "10:30:30", Some("10:30:00"), false),
            ("0 10,14 * * *", "08:00:00", None, "15:00:00", Some("14:00:00"), false),
            ("@every 10m", "10:00:00", None, "10:25:00", Some("10:20:00"), false),
            ("@every 1s", "10:00:00", None, "10:00:01", Some("10:00:01"), false),
            ("0 0 31 2 *", "08:00:00", None, "10:30:00", None, false),
        ] {
            let parsed = Schedule::parse(schedule).unwrap();
            let times = Times {
                schedule: &parsed,
                zone: &TimeZone::UTC,
                since: at(since),
                deadline_seconds: deadline,
            };
            let found = times.due(at(now)).unwrap();
            let want = due.map(|due| Due { at: at(due), too_many_missed: many });
            assert_eq!(found, want, "{schedule} since {since} within {deadline:?} at {now}");
        }
    }

    #[test]
    fn it_wakes_up_just_after_the_next_time() {
        for (schedule, since, now, wait) in [
            ("0 * * * *", "10:00:00", "10:30:00", Some(1800)),
            ("0 * * * *", "07:00:00", "10:30:00", Some(1800)),
            ("*/5 * * * *", "10:00:00", "10:04:59", Some(1)),
            ("@every 10m", "10:00:00", "10:25:00", Some(300)),
            ("0 0 31 2 *", "10:00:00", "10:25:00", None),
        ] {
            let parsed = Schedule::parse(schedule).unwrap();
            let times =
                Times { schedule: &parsed, zone: &TimeZone::UTC, since: at(since), deadline_seconds: None };
            let want = wait.map(|wait| Duration::from_secs(wait) + SLACK);
            assert_eq!(times.wait(at(now)), want, "{schedule} since {since} at {now}");
        }
    }
}
