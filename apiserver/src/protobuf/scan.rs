//! JSON text read from left to right, as far as writing protobuf needs it.

use std::borrow::Cow;

/// A place in a text. Every function leaves it after what it read; None: the text is not what was asked for.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    /// The next byte that is no space, which stays.
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    pub fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// `null` is passed over.
    pub fn null(&mut self) -> bool {
        let null = self.peek() == Some(b'n') && self.text.get(self.at..self.at + 4) == Some(b"null");
        if null {
            self.at += 4;
        }
        null
    }

    /// Whether another element follows, after the first; `end` closes.
    pub fn more(&mut self, end: u8, first: &mut bool) -> Option<bool> {
        let byte = self.peek()?;
        if byte == end {
            self.at += 1;
            return Some(false);
        }
        if !std::mem::take(first) {
            self.take(b',')?;
        }
        Some(true)
    }

    /// A name of an object's member, and its colon.
    pub fn name(&mut self) -> Option<Cow<'a, str>> {
        let name = self.string()?;
        self.take(b':')?;
        Some(name)
    }

    /// A string's text between its quotes, as it is written, and whether something in it is escaped.
    fn quoted(&mut self) -> Option<(&'a [u8], bool)> {
        self.take(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match *self.text.get(self.at)? {
                b'"' => {
                    let inner = self.text.get(start..self.at)?;
                    self.at += 1;
                    return Some((inner, escaped));
                }
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
    }

    pub fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        let (inner, escaped) = self.quoted()?;
        if !escaped {
            return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
        }
        let text = self.text.get(start..self.at)?;
        serde_json::from_slice::<String>(text).ok().map(Cow::Owned)
    }

    /// A number or literal as it is written.
    pub fn word(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let end = rest
            .iter()
            .position(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'+' | b'-' | b'.' | b'E'))
            .unwrap_or(rest.len());
        self.at += end;
        std::str::from_utf8(rest.get(..end)?).ok().filter(|word| !word.is_empty())
    }

    /// Any value, as it is written.
    pub fn value(&mut self) -> Option<&'a [u8]> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => {
                self.quoted()?;
            }
            b'{' | b'[' => {
                let mut depth = 0usize;
                loop {
                    match *self.text.get(self.at)? {
                        b'"' => {
                            self.quoted()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                self.word()?;
            }
        }
        self.text.get(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_they_end() {
        for (text, want) in [
            (r#" {"a":"}\"","b":[1,{}]} x"#, r#"{"a":"}\"","b":[1,{}]}"#),
            (r#""a\\" ,"#, r#""a\\""#),
            ("-1.5e+3,", "-1.5e+3"),
            ("true]", "true"),
        ] {
            assert_eq!(Cursor::new(text.as_bytes()).value().unwrap(), want.as_bytes());
        }
        for text in ["", "{", "\"a", "[1", "\"a\\", "?"] {
            assert!(Cursor::new(text.as_bytes()).value().is_none(), "{text}");
        }
        assert_eq!(Cursor::new(br#""a\u00e4\n""#).string().unwrap(), "aä\n");
        assert_eq!(Cursor::new(br#""a\ud800""#).string(), None);
    }
}
