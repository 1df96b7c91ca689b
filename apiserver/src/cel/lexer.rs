//! Splits the text of an expression into tokens, and reads literals.

use super::error::Mistake;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: TokenKind,
    /// Characters before the token.
    pub offset: u32,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An operator, a bracket, or one of the words `in`, `true`, `false`, `null`.
    Sign,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Identifier,
    /// A field name between backquotes, which Kubernetes does not enable.
    Escaped,
    End,
}

const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%",
];

/// The tokens of `source`, the last being the end. Characters that begin no token are mistakes and are passed over.
pub(super) fn tokens(source: &str, mistakes: &mut Vec<Mistake>) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let character = text[at];
        if matches!(character, ' ' | '\t' | '\r' | '\n' | '\u{c}') {
            at += 1;
            continue;
        }
        if character == '/' && text.get(at + 1) == Some(&'/') {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
            continue;
        }
        let (kind, end) = match token(&text, at) {
            Ok(token) => token,
            Err(end) => {
                let wrong: String = text[at..end].iter().collect();
                let message = format!("Syntax error: token recognition error at: '{}'", shown(&wrong));
                mistakes.push(Mistake { offset: Some(at as u32), message });
                at = end;
                continue;
            }
        };
        found.push(Token { kind, offset: at as u32, text: text[at..end].iter().collect() });
        at = end;
    }
    found.push(Token { kind: TokenKind::End, offset: text.len() as u32, text: "<EOF>".into() });
    found
}

fn shown(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

/// The kind and end of the token at `at`, or the end of what is no token.
fn token(text: &[char], at: usize) -> Result<(TokenKind, usize), usize> {
    let character = text[at];
    let next = text.get(at + 1).copied();
    if let Some((prefix, raw, bytes)) = string_prefix(text, at) {
        let end = string_end(text, at + prefix, raw)?;
        return Ok((if bytes { TokenKind::Bytes } else { TokenKind::String }, end));
    }
    if character.is_ascii_alphabetic() || character == '_' {
        let end = run(text, at, |c| c.is_ascii_alphanumeric() || c == '_');
        let word: String = text[at..end].iter().collect();
        let kind = if matches!(word.as_str(), "in" | "true" | "false" | "null") {
            TokenKind::Sign
        } else {
            TokenKind::Identifier
        };
        return Ok((kind, end));
    }
    if character.is_ascii_digit() || (character == '.' && next.is_some_and(|c| c.is_ascii_digit())) {
        return Ok(number(text, at));
    }
    if character == '`' {
        let end =
            run(text, at + 1, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' '));
        return if end > at + 1 && text.get(end) == Some(&'`') {
            Ok((TokenKind::Escaped, end + 1))
        } else {
            Err(end.max(at + 1))
        };
    }
    for sign in SIGNS {
        let length = sign.len();
        if text[at..].len() >= length && sign.chars().eq(text[at..at + length].iter().copied()) {
            return Ok((TokenKind::Sign, at + length));
        }
    }
    // What could have begun an operator is not one only because of what follows it.
    Err(if matches!(character, '=' | '&' | '|') { (at + 2).min(text.len()) } else { at + 1 })
}

fn run(text: &[char], mut at: usize, belongs: impl Fn(char) -> bool) -> usize {
    while text.get(at).is_some_and(|c| belongs(*c)) {
        at += 1;
    }
    at
}

fn number(text: &[char], at: usize) -> (TokenKind, usize) {
    let digits = |at| run(text, at, |c| c.is_ascii_digit());
    let unsigned = |end: usize| match text.get(end) {
        Some('u' | 'U') => (TokenKind::Uint, end + 1),
        _ => (TokenKind::Int, end),
    };
    if text[at] == '0'
        && text.get(at + 1) == Some(&'x')
        && text.get(at + 2).is_some_and(char::is_ascii_hexdigit)
    {
        return unsigned(run(text, at + 2, |c| c.is_ascii_hexdigit()));
    }
    let mut end = digits(at);
    let mut double = false;
    if text.get(end) == Some(&'.') && text.get(end + 1).is_some_and(char::is_ascii_digit) {
        end = digits(end + 1);
        double = true;
    }
    if matches!(text.get(end), Some('e' | 'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some('+' | '-')));
        if text.get(end + 1 + sign).is_some_and(char::is_ascii_digit) {
            end = digits(end + 1 + sign);
            double = true;
        }
    }
    if double { (TokenKind::Double, end) } else { unsigned(end) }
}

/// If a string or bytes literal begins here: the length of its prefix, whether it is raw, whether it is bytes.
fn string_prefix(text: &[char], at: usize) -> Option<(usize, bool, bool)> {
    let quote = |at: usize| matches!(text.get(at), Some('"' | '\''));
    let is = |at: usize, letter: char| text.get(at).is_some_and(|c| c.eq_ignore_ascii_case(&letter));
    if quote(at) {
        Some((0, false, false))
    } else if is(at, 'r') && quote(at + 1) {
        Some((1, true, false))
    } else if is(at, 'b') && quote(at + 1) {
        Some((1, false, true))
    } else if is(at, 'b') && is(at + 1, 'r') && quote(at + 2) {
        Some((2, true, true))
    } else {
        None
    }
}

/// The end of a string literal whose first quote is at `at`, or of what a string without an end consists of.
fn string_end(text: &[char], at: usize, raw: bool) -> Result<usize, usize> {
    let quote = text[at];
    let triple = |at: usize| (0..3).all(|offset| text.get(at + offset) == Some(&quote));
    if triple(at) {
        let mut end = at + 3;
        while end < text.len() {
            if triple(end) {
                return Ok(end + 3);
            }
            end += if !raw && text[end] == '\\' { escape_length(text, end)? } else { 1 };
        }
        return Err(text.len());
    }
    let mut end = at + 1;
    while let Some(&character) = text.get(end) {
        match character {
            _ if character == quote => return Ok(end + 1),
            '\n' | '\r' => return Err(end + 1),
            '\\' if !raw => end += escape_length(text, end)?,
            _ => end += 1,
        }
    }
    Err(text.len())
}

/// The length of an escape, or the end of what is none.
fn escape_length(text: &[char], at: usize) -> Result<usize, usize> {
    let hexadecimal =
        |count: usize| digits(text, at + 2, count, |c| c.is_ascii_hexdigit()).map(|()| count + 2);
    match text.get(at + 1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(2),
        Some('x' | 'X') => hexadecimal(2),
        Some('u') => hexadecimal(4),
        Some('U') => hexadecimal(8),
        Some('0'..='3') => digits(text, at + 2, 2, |c| ('0'..='7').contains(&c)).map(|()| 4),
        _ => Err((at + 2).min(text.len())),
    }
}

fn digits(text: &[char], at: usize, count: usize, is: impl Fn(char) -> bool) -> Result<(), usize> {
    match (at..at + count).find(|place| !text.get(*place).is_some_and(|c| is(*c))) {
        None => Ok(()),
        Some(wrong) => Err((wrong + 1).min(text.len())),
    }
}

/// What a string or bytes literal stands for; a string's bytes are UTF-8.
pub(super) fn unescape(literal: &str, bytes: bool) -> Result<Vec<u8>, &'static str> {
    let mut rest = if bytes { &literal[1..] } else { literal };
    let raw = rest.starts_with(['r', 'R']);
    if raw {
        rest = &rest[1..];
    }
    let quotes =
        if rest.len() >= 6 && (rest.starts_with("\"\"\"") || rest.starts_with("'''")) { 3 } else { 1 };
    let inner = &rest[quotes..rest.len() - quotes];
    // Line ends are the same everywhere, whatever the editor wrote.
    let inner = inner.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !inner.contains('\\') {
        return Ok(inner.into_bytes());
    }
    let mut meant = Vec::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        let mut push = |code: u32, raw_byte: bool| -> Result<(), &'static str> {
            if raw_byte {
                meant.push(code as u8);
                return Ok(());
            }
            let character = char::from_u32(code).ok_or("invalid unicode code point")?;
            meant.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            Ok(())
        };
        if character != '\\' {
            push(character as u32, false)?;
            continue;
        }
        let kind = characters.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let mut digits = |count: usize, radix: u32, start: u32| {
            (0..count)
                .try_fold(start, |code, _| Some(code * radix + characters.next()?.to_digit(radix)?))
                .ok_or("unable to unescape string")
        };
        match kind {
            'a' => push(7, true)?,
            'b' => push(8, true)?,
            'f' => push(12, true)?,
            'n' => push(10, true)?,
            'r' => push(13, true)?,
            't' => push(9, true)?,
            'v' => push(11, true)?,
            '\\' | '\'' | '"' | '`' | '?' => push(kind as u32, true)?,
            'x' | 'X' => push(digits(2, 16, 0)?, bytes)?,
            'u' if !bytes => push(digits(4, 16, 0)?, false)?,
            'U' if !bytes => push(digits(8, 16, 0)?, false)?,
            '0'..='3' => push(digits(2, 8, kind as u32 - '0' as u32)?, bytes)?,
            _ => return Err("unable to unescape string"),
        }
    }
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        tokens(source, &mut Vec::new()).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn text_is_split() {
        assert_eq!(texts("a.b>=1 // end"), ["a", ".", "b", ">=", "1", "<EOF>"]);
        assert_eq!(
            texts("x in ['it\\'s', r'\\d', b\"z\"]"),
            ["x", "in", "[", "'it\\'s'", ",", "r'\\d'", ",", "b\"z\"", "]", "<EOF>"]
        );
        assert_eq!(texts("1.5e3 0x1Fu .5 1u 1.x"), ["1.5e3", "0x1Fu", ".5", "1u", "1", ".", "x", "<EOF>"]);
        assert_eq!(texts("'''a'b'''"), ["'''a'b'''", "<EOF>"]);
    }

    #[test]
    fn what_is_no_token_is_named() {
        let mut mistakes = Vec::new();
        tokens("a # b", &mut mistakes);
        assert_eq!(mistakes[0].message, "Syntax error: token recognition error at: '#'");
        for wrong in ["'abc", "'\\q'", "`", "@", "'a\nb'", "\"\"\"x", "b'\\"] {
            let mut mistakes = Vec::new();
            tokens(wrong, &mut mistakes);
            assert!(!mistakes.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn literals_stand_for_text() {
        for (literal, bytes, meant) in [
            ("'a\\n\\x41\\u00e9\\101'", false, "a\nAéA".as_bytes()),
            ("r'\\d'", false, b"\\d".as_slice()),
            ("\"\"\"a\"b\"\"\"", false, b"a\"b"),
            ("b'\\xff\\000'", true, b"\xff\x00"),
            ("b'é'", true, "é".as_bytes()),
        ] {
            assert_eq!(unescape(literal, bytes).unwrap(), meant);
        }
        assert!(unescape("'\\ud800'", false).is_err());
    }
}
