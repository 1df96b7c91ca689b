//! Timestamps and durations: how they are read and written, and their parts.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Implementation, Site};
use crate::cel::value::Value;

/// A time from the year 1 to the year 9999, all of it: jiff's own type ends a day before that, at a time that stands for "never" in many objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Since 1970.
    seconds: i64,
    nanoseconds: u32,
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl Timestamp {
    pub(in crate::cel) fn from_seconds(seconds: i64) -> Option<Timestamp> {
        Timestamp::from_nanoseconds(i128::from(seconds) * 1_000_000_000)
    }

    fn from_nanoseconds(nanoseconds: i128) -> Option<Timestamp> {
        let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?;
        let nanoseconds = nanoseconds.rem_euclid(1_000_000_000) as u32;
        (-62_135_596_800..=253_402_300_799).contains(&seconds).then_some(Timestamp { seconds, nanoseconds })
    }

    pub(in crate::cel) fn seconds(self) -> i64 {
        self.seconds
    }

    pub(in crate::cel) fn as_nanoseconds(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanoseconds)
    }

    /// The time so many nanoseconds later, if there is one.
    pub(in crate::cel) fn plus(self, nanoseconds: i128) -> Option<Timestamp> {
        Timestamp::from_nanoseconds(self.as_nanoseconds() + nanoseconds)
    }

    fn civil(self, zone: &TimeZone) -> Option<DateTime> {
        // Rules of a zone do not change after what jiff can represent.
        let bounded = self.seconds.clamp(jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
        let offset = zone.to_offset(jiff::Timestamp::from_second(bounded).ok()?);
        EPOCH
            .checked_add(SignedDuration::new(
                self.seconds + i64::from(offset.seconds()),
                self.nanoseconds as i32,
            ))
            .ok()
    }

    /// Reads a time as RFC 3339 has it.
    pub(in crate::cel) fn parse(text: &str) -> Option<Timestamp> {
        let bytes = text.as_bytes();
        let separated = bytes.len() >= 20
            && bytes[4] == b'-'
            && bytes[7] == b'-'
            && bytes[10] == b'T'
            && bytes[13] == b':'
            && bytes[16] == b':';
        if !separated || !text.is_ascii() {
            return None;
        }
        let zone = text[19..].find(['Z', '+', '-'])? + 19;
        let offset = match &text[zone..] {
            "Z" => 0,
            offset => {
                let (hours, minutes) = offset[1..].split_once(':')?;
                if hours.len() != 2 || minutes.len() != 2 {
                    return None;
                }
                let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
                if hours > 24 || minutes > 60 {
                    return None;
                }
                (hours * 60 + minutes) * if offset.starts_with('-') { -60 } else { 60 }
            }
        };
        let fraction = &text[19..zone];
        if !fraction.is_empty()
            && (fraction.len() < 2
                || !fraction[1..].bytes().all(|digit| digit.is_ascii_digit())
                || !fraction.starts_with('.'))
        {
            return None;
        }
        // More than nanoseconds are cut off.
        let civil: DateTime = text[..zone.min(29)].parse().ok()?;
        let since = civil.duration_since(EPOCH);
        Timestamp::from_nanoseconds(since.as_nanos() - i128::from(offset) * 1_000_000_000)
    }

    /// The beginning of a day.
    pub(in crate::cel) fn parse_date(text: &str) -> Option<Timestamp> {
        if text.len() != 10 {
            return None;
        }
        let date: Date = text.parse().ok()?;
        Timestamp::from_nanoseconds(
            date.to_datetime(jiff::civil::Time::midnight()).duration_since(EPOCH).as_nanos(),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.civil(&TimeZone::UTC) {
            Some(civil) => write!(f, "{civil}Z"),
            None => Err(fmt::Error),
        }
    }
}

/// Nanoseconds of a duration such as `1h2m3.5s`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut rest = rest;
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Nanoseconds of a duration as schemas have it: also with days and weeks, and with spaces.
pub(in crate::cel) fn parse_schema_duration(text: &str) -> Option<i64> {
    parse_duration(text).or_else(|| {
        let lower = text.trim().to_lowercase();
        let mut rest = lower.as_str();
        let mut total: i64 = 0;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: i64 = rest[..end].parse().ok()?;
            rest = rest[end..].trim_start();
            let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            let scale: i64 = match &rest[..unit_end] {
                "ns" | "nano" | "nanosecond" | "nanoseconds" => 1,
                "us" | "µs" | "micro" | "microsecond" | "microseconds" => 1_000,
                "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
                "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
                "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000_000_000,
                "d" | "day" | "days" => 86_400_000_000_000,
                "w" | "wk" | "wks" | "week" | "weeks" => 604_800_000_000_000,
                _ => return None,
            };
            total = total.checked_add(number.checked_mul(scale)?)?;
            rest = rest[unit_end..].trim_start();
        }
        Some(total)
    })
}

/// A duration in seconds, `90s` or `1.5s`.
pub(in crate::cel) fn duration_text(nanoseconds: i64) -> String {
    let (sign, magnitude) =
        if nanoseconds < 0 { ("-", nanoseconds.unsigned_abs()) } else { ("", nanoseconds as u64) };
    let (seconds, fraction) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {name}"));
    if let Some((hours, minutes)) = name.split_once(':') {
        let hours: i32 = hours.parse().map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        let seconds = (hours * 60 + if name.starts_with('-') { -minutes } else { minutes }) * 60;
        return Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown());
    }
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| unknown())
}

#[derive(Clone, Copy)]
enum Part {
    Year,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

fn part<'a>(which: Part, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let (timestamp, zone) = match arguments {
        [Value::Duration(nanoseconds)] => {
            return Ok(Value::Int(match which {
                Part::Hours => nanoseconds / 3_600_000_000_000,
                Part::Minutes => nanoseconds / 60_000_000_000,
                Part::Seconds => nanoseconds / 1_000_000_000,
                Part::Milliseconds => nanoseconds / 1_000_000,
                _ => return Err(EvalError::no_such_overload()),
            }));
        }
        [Value::Timestamp(timestamp)] => (timestamp, TimeZone::UTC),
        [Value::Timestamp(timestamp), Value::String(name)] => (timestamp, zone(name)?),
        _ => return Err(EvalError::no_such_overload()),
    };
    let Some(time) = timestamp.civil(&zone) else { return Err(EvalError::new("timestamp overflow")) };
    Ok(Value::Int(match which {
        Part::Year => time.year().into(),
        Part::Month => i64::from(time.month()) - 1,
        Part::DayOfYear => i64::from(time.day_of_year()) - 1,
        Part::DayOfMonth => i64::from(time.day()) - 1,
        Part::Date => time.day().into(),
        Part::DayOfWeek => time.weekday().to_sunday_zero_offset().into(),
        Part::Hours => time.hour().into(),
        Part::Minutes => time.minute().into(),
        Part::Seconds => time.second().into(),
        Part::Milliseconds => time.millisecond().into(),
    }))
}

pub(super) fn declare(functions: &mut Functions) {
    macro_rules! getter {
        ($name:literal, $part:ident, $plain:literal, $zoned:literal $(, $duration:literal)?) => {{
            let run: Implementation = |_: &Site, arguments| part(Part::$part, arguments);
            functions.member($name, run, &[($plain, "timestamp -> int"), ($zoned, "timestamp, string -> int") $(, ($duration, "duration -> int"))?]);
        }};
    }
    getter!("getFullYear", Year, "timestamp_to_year", "timestamp_to_year_with_tz");
    getter!("getMonth", Month, "timestamp_to_month", "timestamp_to_month_with_tz");
    getter!("getDayOfYear", DayOfYear, "timestamp_to_day_of_year", "timestamp_to_day_of_year_with_tz");
    getter!("getDayOfMonth", DayOfMonth, "timestamp_to_day_of_month", "timestamp_to_day_of_month_with_tz");
    getter!(
        "getDate",
        Date,
        "timestamp_to_day_of_month_1_based",
        "timestamp_to_day_of_month_1_based_with_tz"
    );
    getter!("getDayOfWeek", DayOfWeek, "timestamp_to_day_of_week", "timestamp_to_day_of_week_with_tz");
    getter!("getHours", Hours, "timestamp_to_hours", "timestamp_to_hours_with_tz", "duration_to_hours");
    getter!(
        "getMinutes",
        Minutes,
        "timestamp_to_minutes",
        "timestamp_to_minutes_with_tz",
        "duration_to_minutes"
    );
    getter!("getSeconds", Seconds, "timestamp_to_seconds", "timestamp_to_seconds_tz", "duration_to_seconds");
    getter!(
        "getMilliseconds",
        Milliseconds,
        "timestamp_to_milliseconds",
        "timestamp_to_milliseconds_with_tz",
        "duration_to_milliseconds"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, nanoseconds) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("0", Some(0)),
            (".5ms", Some(500_000)),
            ("", None),
            ("1", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse_duration(text), nanoseconds, "{text}");
        }
        assert_eq!(parse_schema_duration("2 days"), Some(172_800_000_000_000));
        assert_eq!(duration_text(5_400_000_000_000), "5400s");
        assert_eq!(duration_text(-1_500_000_000), "-1.5s");
    }

    #[test]
    fn times_are_read_and_written() {
        for (text, written) in [
            ("2024-03-01T12:30:45+02:00", Some("2024-03-01T10:30:45Z")),
            ("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("1969-12-31T23:59:59.5Z", Some("1969-12-31T23:59:59.5Z")),
            ("0001-01-01T00:00:00+01:00", None),
            ("2024-02-30T00:00:00Z", None),
            ("2024-03-01 12:30:45Z", None),
            ("2024-03-01T12:30:45", None),
            ("2024-03-01T12:30:45.Z", None),
            ("2024-03-01T12:30:45+2:00", None),
        ] {
            assert_eq!(Timestamp::parse(text).map(|time| time.to_string()).as_deref(), written, "{text}");
        }
        assert_eq!(Timestamp::parse_date("2024-03-01").map(Timestamp::seconds), Some(1_709_251_200));
    }
}
