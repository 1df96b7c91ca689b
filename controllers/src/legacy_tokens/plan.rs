//! Which tokens that earlier versions made are no longer used: marked invalid first, deleted when nobody missed them.

use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What is known of one Secret with a token.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    pub created: Timestamp,
    pub deleting: bool,
    pub last_used: Option<&'a str>,
    pub invalid_since: Option<&'a str>,
    /// Its account is there and names it: a version before 1.24 made it, not a person.
    pub generated: bool,
    pub used_by_pods: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Keep,
    /// Mark as invalid since this day.
    Invalidate(String),
    Delete,
}

fn is_date(text: &str) -> bool {
    text.parse::<Date>().is_ok()
}

/// Whether the uses noted since that day (of which the first is not whole) tell of the whole period.
pub fn tracked_long_enough(since: &str, period: Duration, now: Timestamp) -> bool {
    let Ok(day) = since.parse::<Date>() else { return false };
    let begins = day.tomorrow().ok().and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC).ok());
    let ends = begins.and_then(|b| b.timestamp().checked_add(signed(period)).ok());
    ends.is_some_and(|ends| now >= ends)
}

pub fn plan(token: &Token<'_>, period: Duration, now: Timestamp) -> Action {
    let threshold = now.saturating_sub(signed(period)).unwrap_or(Timestamp::MIN);
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let threshold_day = day(threshold);
    if token.created >= threshold || token.deleting || !token.generated || token.used_by_pods {
        return Action::Keep;
    }
    // Days as they are written sort as they follow each other.
    if token.last_used.is_some_and(|used| !is_date(used) || used >= threshold_day.as_str()) {
        return Action::Keep;
    }
    match token.invalid_since.filter(|since| is_date(since)) {
        None => Action::Invalidate(day(now)),
        Some(since) if since >= threshold_day.as_str() => Action::Keep,
        Some(_) => Action::Delete,
    }
}

fn signed(period: Duration) -> SignedDuration {
    SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn at(day: &str) -> Timestamp {
        format!("{day}T12:00:00Z").parse().unwrap()
    }

    #[test]
    fn only_what_is_generated_old_and_unused_goes() {
        let old = Token {
            created: at("2020-01-01"),
            deleting: false,
            last_used: None,
            invalid_since: None,
            generated: true,
            used_by_pods: false,
        };
        let marked = Token { invalid_since: Some("2024-01-01"), ..old.clone() };
        let invalidate = Action::Invalidate("2026-06-01".into());
        for (token, want) in [
            (old.clone(), invalidate.clone()),
            (Token { created: at("2026-01-01"), ..old.clone() }, Action::Keep),
            (Token { deleting: true, ..old.clone() }, Action::Keep),
            (Token { generated: false, ..old.clone() }, Action::Keep),
            (Token { used_by_pods: true, ..old.clone() }, Action::Keep),
            (Token { last_used: Some("2026-05-01"), ..old.clone() }, Action::Keep),
            (Token { last_used: Some("2025-06-01"), ..old.clone() }, Action::Keep),
            (Token { last_used: Some("2025-05-31"), ..old.clone() }, invalidate.clone()),
            (Token { last_used: Some("long ago"), ..old.clone() }, Action::Keep),
            (Token { invalid_since: Some("once"), ..old.clone() }, invalidate),
            (Token { invalid_since: Some("2025-06-01"), ..old.clone() }, Action::Keep),
            (Token { invalid_since: Some("2025-05-31"), ..old }, Action::Delete),
            (Token { last_used: Some("2026-05-01"), ..marked.clone() }, Action::Keep),
            (marked, Action::Delete),
        ] {
            assert_eq!(plan(&token, YEAR, at("2026-06-01")), want, "{token:?}");
        }
    }

    #[test]
    fn tracking_begins_with_the_first_whole_day() {
        for (since, now, want) in [
            ("2025-05-30", "2026-06-01", true),
            ("2025-05-31", "2026-06-01", true),
            ("2025-06-01", "2026-06-01", false),
            ("never", "2026-06-01", false),
        ] {
            assert_eq!(tracked_long_enough(since, YEAR, at(now)), want, "{since}");
        }
    }
}
