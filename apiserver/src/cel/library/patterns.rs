//! Regular expressions as RE2 has them: `matches`, `find` and `findAll`.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

/// Patterns whose automata are larger, in bytes, are refused.
const SIZE_MAX: usize = 4 << 20;

pub(super) fn declare(functions: &mut Functions) {
    functions.global("matches", matches, &[("matches", "string, string -> bool")]);
    functions.member("matches", matches, &[("matches_string", "string, string -> bool")]);
    functions.member("find", find, &[("string_find_string", "string, string -> string")]);
    functions.member(
        "findAll",
        find_all,
        &[
            ("string_find_all_string", "string, string -> list(string)"),
            ("string_find_all_string_int", "string, string, int -> list(string)"),
        ],
    );
}

/// Compiles an RE2 pattern. What is wrong with it is said as Go says it, as far as that can be told.
pub(in crate::cel) fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.contains('{')
        && let Some(why) = complaint(pattern).filter(|why| why.starts_with("invalid repeat count"))
    {
        return Err(format!("error parsing regexp: {why}"));
    }
    RegexBuilder::new(&translated(pattern)).size_limit(SIZE_MAX).build().map_err(|error| {
        let why = complaint(pattern).unwrap_or_else(|| match error {
            regex::Error::CompiledTooBig(_) => "expression too large".to_owned(),
            _ => format!("invalid pattern: `{pattern}`"),
        });
        format!("error parsing regexp: {why}")
    })
}

/// The mistakes that are made most.
fn complaint(pattern: &str) -> Option<String> {
    let mut open = 0_usize;
    let mut characters = pattern.char_indices().peekable();
    let mut repeatable = false;
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                None => return Some("trailing backslash at end of expression: ``".into()),
                Some(_) => repeatable = true,
            },
            '{' if repeatable => {
                let counts: String =
                    characters.clone().map(|(_, next)| next).take_while(|next| *next != '}').collect();
                let is_count =
                    |count: &str| !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit());
                let mut parts = counts.splitn(2, ',');
                let (least, most) = (parts.next().unwrap_or_default(), parts.next());
                let repeats = is_count(least) && most.is_none_or(|most| most.is_empty() || is_count(most));
                if repeats
                    && [Some(least), most]
                        .into_iter()
                        .flatten()
                        .any(|count| count.parse::<u32>().is_ok_and(|count| count > 1000))
                {
                    return Some(format!("invalid repeat count: `{{{counts}}}`"));
                }
            }
            '[' => {
                let mut end =
                    characters.clone().skip_while(|(next, c)| *next == place + 1 && matches!(c, '^' | ']'));
                let closed = loop {
                    match end.next() {
                        None => break false,
                        Some((_, '\\')) => {
                            end.next();
                        }
                        Some((_, ']')) => break true,
                        Some(_) => {}
                    }
                };
                if !closed {
                    return Some(format!("missing closing ]: `{}`", &pattern[place..]));
                }
                let mut first = true;
                while let Some((_, inner)) = characters.next() {
                    match inner {
                        '\\' => {
                            characters.next();
                        }
                        ']' if !first => break,
                        '^' if first => continue,
                        _ => {}
                    }
                    first = false;
                }
                repeatable = true;
            }
            '(' => {
                open += 1;
                repeatable = false;
            }
            ')' => {
                let Some(fewer) = open.checked_sub(1) else {
                    return Some(format!("unexpected ): `{pattern}`"));
                };
                open = fewer;
                repeatable = true;
            }
            '*' | '+' | '?' if !(repeatable || (character == '?' && pattern[..place].ends_with('('))) => {
                return Some(format!("missing argument to repetition operator: `{character}`"));
            }
            '|' => repeatable = false,
            _ => repeatable = true,
        }
    }
    (open > 0).then(|| format!("missing closing ): `{pattern}`"))
}

/// The pattern with what means something else to our library written so that it means what RE2 takes it for.
fn translated(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains(['\\', '[', '&', '~', '-']) {
        return Cow::Borrowed(pattern);
    }
    let mut written = String::with_capacity(pattern.len() + 16);
    let mut characters = pattern.chars().peekable();
    // The characters of a class so far, none outside of one.
    let mut in_class: Option<usize> = None;
    while let Some(character) = characters.next() {
        match (character, in_class) {
            ('\\', _) => {
                let Some(escaped) = characters.next() else {
                    written.push('\\');
                    break;
                };
                // Digits, words and spaces are ASCII's.
                match (escaped, in_class.is_some()) {
                    ('d', false) => written.push_str("[0-9]"),
                    ('D', false) => written.push_str("[^0-9]"),
                    ('w', false) => written.push_str("[0-9A-Za-z_]"),
                    ('W', false) => written.push_str("[^0-9A-Za-z_]"),
                    ('s', false) => written.push_str("[\\t\\n\\f\\r ]"),
                    ('S', false) => written.push_str("[^\\t\\n\\f\\r ]"),
                    ('d', true) => written.push_str("0-9"),
                    ('w', true) => written.push_str("0-9A-Za-z_"),
                    ('s', true) => written.push_str("\\t\\n\\f\\r "),
                    ('D', true) => written.push_str("[^0-9]"),
                    ('W', true) => written.push_str("[^0-9A-Za-z_]"),
                    ('S', true) => written.push_str("[^\\t\\n\\f\\r ]"),
                    ('b', false) => written.push_str("(?-u:\\b)"),
                    ('Q', false) => {
                        let mut quoted = String::new();
                        while let Some(inner) = characters.next() {
                            if inner == '\\' && characters.peek() == Some(&'E') {
                                characters.next();
                                break;
                            }
                            quoted.push(inner);
                        }
                        written.push_str(&regex::escape(&quoted));
                    }
                    (escaped, _) => {
                        written.push('\\');
                        written.push(escaped);
                    }
                }
                in_class = in_class.map(|count| count + 1);
            }
            ('[', None) => {
                written.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    written.push('^');
                }
                in_class = Some(0);
            }
            ('[', Some(count)) => {
                // Only `[:name:]` is more than a bracket in a class.
                written.push_str(if characters.peek() == Some(&':') { "[" } else { "\\[" });
                if characters.peek() == Some(&':') {
                    for inner in characters.by_ref() {
                        written.push(inner);
                        if inner == ']' {
                            break;
                        }
                    }
                }
                in_class = Some(count + 1);
            }
            (']', Some(count)) => {
                if count == 0 {
                    written.push_str("\\]");
                    in_class = Some(1);
                } else {
                    written.push(']');
                    in_class = None;
                }
            }
            ('&' | '~', Some(count)) => {
                written.push('\\');
                written.push(character);
                in_class = Some(count + 1);
            }
            ('-', Some(count)) => {
                // At either end of a class a hyphen is only itself, and two never mean a difference.
                if count == 0 || characters.peek() == Some(&']') || characters.peek() == Some(&'-') {
                    written.push('\\');
                }
                written.push('-');
                in_class = Some(count + 1);
            }
            (character, inside) => {
                written.push(character);
                in_class = inside.map(|count| count + 1);
            }
        }
    }
    Cow::Owned(written)
}

type Result2<'a> = Result<Value<'a>, EvalError>;

/// The pattern that was prepared, or the one that came as an argument.
fn pattern<'s>(site: &'s Site, pattern: &str, prefix: &str) -> Result<Cow<'s, Regex>, EvalError> {
    match &site.pattern {
        Some(prepared) => Ok(Cow::Borrowed(prepared)),
        None => compile(pattern).map(Cow::Owned).map_err(|why| EvalError::new(format!("{prefix}{why}"))),
    }
}

fn matches<'a>(site: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let [Value::String(text), Value::String(wanted)] = arguments else {
        return Err(EvalError::no_such_overload());
    };
    Ok(Value::Bool(pattern(site, wanted, "")?.is_match(text)))
}

fn find<'a>(site: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let [Value::String(text), Value::String(wanted)] = arguments else {
        return Err(EvalError::no_such_overload());
    };
    let found = pattern(site, wanted, "Illegal regex: ")?;
    Ok(Value::text(found.find(text).map_or("", |found| found.as_str())))
}

fn find_all<'a>(site: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let (text, wanted, count) = match arguments {
        [Value::String(text), Value::String(wanted)] => (text, wanted, usize::MAX),
        [Value::String(text), Value::String(wanted), Value::Int(count)] => {
            (text, wanted, usize::try_from(*count).unwrap_or(usize::MAX))
        }
        _ => return Err(EvalError::no_such_overload()),
    };
    let found = pattern(site, wanted, "Illegal regex: ")?;
    Ok(Value::list(found.find_iter(text).take(count).map(|found| Value::text(found.as_str())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_re2_takes_them_for() {
        for (pattern, text, matches) in [
            ("^\\d+$", "12", true),
            ("^\\d+$", "١٢", false),
            ("^[[]$", "[", true),
            ("^[]a]+$", "]a", true),
            ("^[^]]$", "]", false),
            ("^[a&&b]+$", "&", true),
            ("^[a-]+$", "-a", true),
            ("^[[:alpha:]_]+$", "a_b", true),
            ("^[\\w.-]+$", "a.b-c", true),
            ("^\\Qa.b\\E$", "a.b", true),
            ("^\\Qa.b\\E$", "axb", false),
            ("\\bfoo\\b", "a foo b", true),
            ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "my-name", true),
            ("^https?:\\/\\/x", "https://x", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn wrong_patterns_are_told_apart() {
        for (pattern, message) in [
            ("a(", "error parsing regexp: missing closing ): `a(`"),
            ("a)", "error parsing regexp: unexpected ): `a)`"),
            ("*", "error parsing regexp: missing argument to repetition operator: `*`"),
            ("x[a", "error parsing regexp: missing closing ]: `[a`"),
            ("a\\", "error parsing regexp: trailing backslash at end of expression: ``"),
        ] {
            assert_eq!(compile(pattern).unwrap_err(), message);
        }
    }
}
