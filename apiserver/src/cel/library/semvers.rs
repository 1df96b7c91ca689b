//! Semantic versions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Opaque;
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Semver {
    major: u64,
    minor: u64,
    patch: u64,
    prerelease: Vec<Identifier>,
}

/// One part of a pre-release: numbers are before words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

pub(super) fn declare(functions: &mut Functions) {
    functions.global(
        "semver",
        semver,
        &[("string_to_semver", "string -> semver"), ("string_bool_to_semver", "string, bool -> semver")],
    );
    functions.global(
        "isSemver",
        is_semver,
        &[("is_semver_string", "string -> bool"), ("is_semver_string_bool", "string, bool -> bool")],
    );
    functions.member(
        "isGreaterThan",
        is_greater_than,
        &[("semver_is_greater_than", "semver, semver -> bool")],
    );
    functions.member("isLessThan", is_less_than, &[("semver_is_less_than", "semver, semver -> bool")]);
    functions.member("compareTo", compare_to, &[("semver_compare_to", "semver, semver -> int")]);
    functions.member(
        "major",
        |_, arguments| number(arguments, |version| version.major),
        &[("semver_major", "semver -> int")],
    );
    functions.member(
        "minor",
        |_, arguments| number(arguments, |version| version.minor),
        &[("semver_minor", "semver -> int")],
    );
    functions.member(
        "patch",
        |_, arguments| number(arguments, |version| version.patch),
        &[("semver_patch", "semver -> int")],
    );
}

fn parse(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".into());
    }
    let mut parts = text.splitn(3, '.');
    let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("No Major.Minor.Patch elements found".into());
    };
    let part = |name: &str, digits: &str| {
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(format!("Invalid character(s) found in {name} number {digits:?}"));
        }
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(format!("{} number must not contain leading zeroes {digits:?}", capitalized(name)));
        }
        digits
            .parse::<u64>()
            .map_err(|_| format!("strconv.ParseUint: parsing {digits:?}: value out of range"))
    };
    let (rest, build) = match rest.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (rest, None),
    };
    let (patch, prerelease) = match rest.split_once('-') {
        Some((patch, prerelease)) => (patch, Some(prerelease)),
        None => (rest, None),
    };
    let (major, minor, patch) = (part("major", major)?, part("minor", minor)?, part("patch", patch)?);
    let allowed = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let mut identifiers = Vec::new();
    for identifier in prerelease.into_iter().flat_map(|prerelease| prerelease.split('.')) {
        if identifier.is_empty() {
            return Err("Prerelease is empty".into());
        }
        identifiers.push(if identifier.bytes().all(|digit| digit.is_ascii_digit()) {
            if identifier.len() > 1 && identifier.starts_with('0') {
                return Err(format!(
                    "Numeric PreRelease version must not contain leading zeroes {identifier:?}"
                ));
            }
            Identifier::Number(
                identifier
                    .parse()
                    .map_err(|_| format!("strconv.ParseUint: parsing {identifier:?}: value out of range"))?,
            )
        } else if allowed(identifier) {
            Identifier::Word(identifier.into())
        } else {
            return Err(format!("Invalid character(s) found in prerelease {identifier:?}"));
        });
    }
    for identifier in build.into_iter().flat_map(|build| build.split('.')) {
        if identifier.is_empty() {
            return Err("Build meta data is empty".into());
        }
        if !allowed(identifier) {
            return Err(format!("Invalid character(s) found in build meta data {identifier:?}"));
        }
    }
    Ok(Semver { major, minor, patch, prerelease: identifiers })
}

fn capitalized(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + characters.as_str())
        .unwrap_or_default()
}

/// The version with what is customary but not allowed put right: a leading `v`, leading zeroes, missing parts.
fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            if part.len() <= 1 {
                return part.to_owned();
            }
            let trimmed = part.trim_start_matches('0');
            if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
                trimmed.to_owned()
            } else {
                format!("0{trimmed}")
            }
        })
        .collect();
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".into());
        }
        parts.resize(3, "0".into());
    }
    Ok(parts.join("."))
}

impl Semver {
    fn compare(&self, other: &Semver) -> Ordering {
        (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch)).then_with(
            || match (self.prerelease.is_empty(), other.prerelease.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.prerelease.cmp(&other.prerelease),
            },
        )
    }
}

type Result2<'a> = Result<Value<'a>, EvalError>;

fn read(arguments: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    match arguments {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Ok(parse(text)),
        [Value::String(text), Value::Bool(true)] => Ok(normalized(text).and_then(|text| parse(&text))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn semver<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    read(arguments)?.map(|version| Value::Opaque(Opaque::Semver(Arc::new(version)))).map_err(EvalError::new)
}

fn is_semver<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(read(arguments)?.is_ok()))
}

fn ordering(arguments: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match arguments {
        [Value::Opaque(Opaque::Semver(one)), Value::Opaque(Opaque::Semver(other))] => Ok(one.compare(other)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_greater_than<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(ordering(arguments)?.is_gt()))
}

fn is_less_than<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(ordering(arguments)?.is_lt()))
}

fn compare_to<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Int(ordering(arguments)? as i64))
}

fn number<'a>(arguments: &[Value<'a>], part: impl Fn(&Semver) -> u64) -> Result2<'a> {
    match arguments {
        [Value::Opaque(Opaque::Semver(version))] => Ok(Value::Int(part(version) as i64)),
        _ => Err(EvalError::no_such_overload()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered() {
        let mut earlier: Option<Semver> = None;
        for text in [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0",
            "1.0.1",
            "1.10.0",
        ] {
            let version = parse(text).unwrap();
            if let Some(earlier) = earlier {
                assert_eq!(earlier.compare(&version), Ordering::Less, "{text}");
            }
            earlier = Some(version);
        }
        for wrong in ["", "1", "1.2", "01.2.3", "1.2.x", "1.2.3-", "1.2.3+"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse(&normalized("v01.2").unwrap()).unwrap(), parse("1.2.0").unwrap());
        assert!(normalized("1.2-a").is_err());
    }
}
