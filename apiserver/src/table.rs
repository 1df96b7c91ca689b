//! Printer columns: what `kubectl get` shows, and the ages and counts in it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::kinds::Column;

const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};

const AGE: Column = Column {
    name: "Age",
    type_: "string",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
    priority: 0,
};

pub fn name_and_age_columns() -> Vec<Column> {
    vec![NAME, AGE]
}

pub fn name_and_age_cells(meta: &ObjectMeta, now: Timestamp) -> Vec<Value> {
    vec![json!(meta.name), json!(age(meta.creation_timestamp.as_ref(), now))]
}

/// Name, the given (name, type, priority) columns, and Age after those of priority 0, before the wide ones.
pub fn columns(middle: &[(&'static str, &'static str, i32)]) -> Vec<Column> {
    let column = |&(name, type_, priority): &(&'static str, &'static str, i32)| Column {
        name,
        type_,
        format: "",
        description: name,
        priority,
    };
    let mut all = vec![NAME];
    all.extend(middle.iter().filter(|c| c.2 == 0).map(column));
    all.push(AGE);
    all.extend(middle.iter().filter(|c| c.2 != 0).map(column));
    all
}

/// The cells for [`columns`] where no column is wide.
pub fn cells(meta: &ObjectMeta, now: Timestamp, middle: Vec<Value>) -> Vec<Value> {
    wide_cells(meta, now, middle, Vec::new())
}

/// The cells for [`columns`]: those of priority 0, then the wide ones.
pub fn wide_cells(meta: &ObjectMeta, now: Timestamp, narrow: Vec<Value>, wide: Vec<Value>) -> Vec<Value> {
    let mut all = vec![json!(meta.name)];
    all.extend(narrow);
    all.push(json!(age(meta.creation_timestamp.as_ref(), now)));
    all.extend(wide);
    all
}

/// `5d`, `3h12m`, … since a time, or `<unknown>`.
pub fn age(since: Option<&Time>, now: Timestamp) -> String {
    since.map_or_else(|| "<unknown>".into(), |t| human_duration(now.duration_since(t.0).as_secs()))
}

/// As upstream's `duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstream() {
        for (seconds, want) in [
            (0, "0s"),
            (59, "59s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), want);
        }
    }
}
