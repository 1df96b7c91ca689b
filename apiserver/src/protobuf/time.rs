//! Times: RFC 3339 in JSON, seconds and nanoseconds in protobuf.

use jiff::Timestamp;

use super::Fault;
use super::wire::{Reader, put_integer};

/// None: a zero time, which is no time.
pub fn to_text(name: &str, bytes: &[u8], micro: bool) -> Result<Option<String>, Fault> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => seconds = Some(payload.integer(name)?),
            2 => nanos = payload.integer(name)?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let out_of_range = || Fault::Time(name.to_owned());
    let nanos = i32::try_from(nanos).map_err(|_| out_of_range())?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| out_of_range())?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(time.strftime(format).to_string()))
}

/// The content of the message.
pub fn put(out: &mut Vec<u8>, name: &str, text: &str, micro: bool) -> Result<(), Fault> {
    let (seconds, nanos) = match plain(text) {
        Some(seconds) => (seconds, 0),
        None => {
            let time: Timestamp = text.parse().map_err(|_| Fault::Time(name.to_owned()))?;
            (time.as_second(), i64::from(time.subsec_nanosecond()))
        }
    };
    put_integer(out, 1, seconds);
    // As upstream: a time is of whole seconds, a finer one of microseconds.
    put_integer(out, 2, if micro { nanos / 1000 * 1000 } else { 0 });
    Ok(())
}

/// The seconds of a time as the API writes it, `2006-01-02T15:04:05Z`; None: in whatever other form.
fn plain(text: &str) -> Option<i64> {
    let bytes: &[u8; 20] = text.as_bytes().try_into().ok()?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'Z'] = *bytes
    else {
        return None;
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let two = |a, b| Some(digit(a)? * 10 + digit(b)?);
    let (year, month, day) = (two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970-01-01, with years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_seconds() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2024-02-28T23:59:59Z",
            "2024-02-29T12:00:00Z",
            "2026-03-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2000-01-01T00:00:01Z",
            "0001-01-01T00:00:00Z",
        ] {
            let mut out = Vec::new();
            put(&mut out, "t", text, false).unwrap();
            assert_eq!(to_text("t", &out, false).unwrap().unwrap(), text);
            assert!(
                plain(text).is_none_or(|s| s == text.parse::<Timestamp>().unwrap().as_second()),
                "{text}"
            );
        }
        let mut out = Vec::new();
        put(&mut out, "t", "2024-05-06T07:08:09.123456+02:00", true).unwrap();
        assert_eq!(to_text("t", &out, true).unwrap().unwrap(), "2024-05-06T05:08:09.123456Z");
        assert!(put(&mut out, "t", "soon", true).is_err());
        assert_eq!(to_text("t", b"", true).unwrap(), None);
    }
}
