//! The CRI log line: `TIME STREAM F|P TEXT`, written and read.

use jiff::Timestamp;

use crate::runtime::Stream;

/// The longest text of one log line; longer ones are split into partial lines, as containerd does.
pub const TEXT_MAX: usize = 16 << 10;

/// Appends one line. `full`: the text ended with a newline (or with its stream).
pub fn append(out: &mut Vec<u8>, at: Timestamp, stream: Stream, full: bool, text: &[u8]) {
    use std::io::Write;
    // Writing into a Vec cannot fail.
    let _ = write!(
        out,
        "{} {} {} ",
        at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"),
        stream.as_str(),
        if full { 'F' } else { 'P' }
    );
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: &'a str,
    pub stream: Stream,
    pub full: bool,
    pub text: &'a [u8],
}

/// Takes a line (without its newline) apart; None for what is no CRI line.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags may be joined by colons; the first says whether the line is whole.
    let full = match parts.next()?.split(|b| *b == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line { time, stream, full, text: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip() {
        let at: Timestamp = "2026-01-02T03:04:05.0607Z".parse().unwrap();
        for (stream, full, text) in [
            (Stream::Stdout, true, &b"hello world"[..]),
            (Stream::Stderr, false, b""),
            (Stream::Stdout, true, b"  two  spaces "),
            (Stream::Stderr, true, &[0xff, 0x00]),
        ] {
            let mut out = Vec::new();
            append(&mut out, at, stream, full, text);
            assert_eq!(out.pop(), Some(b'\n'));
            let line = parse(&out).unwrap();
            assert_eq!(line, Line { time: "2026-01-02T03:04:05.060700000Z", stream, full, text });
        }
    }

    #[test]
    fn other_lines_are_refused() {
        for bad in ["", "x", "2026 stdout", "2026 stdin F x", "2026 stdout X y"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(parse(b"2026 stdout F").is_some(), "an empty text");
        assert!(parse(b"2026 stdout P:x text").is_some_and(|l| !l.full));
    }
}
