//! Printer columns: what `kubectl get` shows, and the ages and counts in it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use coracle_client::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use serde_json::{Value, json};

use crate::kinds::Column;

pub const NAME: Column = Column {
    name: Cow::Borrowed("Name"),
    type_: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed("Name must be unique within a namespace."),
    priority: 0,
};

pub const AGE_DESCRIPTION: &str =
    "CreationTimestamp is a timestamp representing the server time when this object was created.";

pub const AGE: Column = Column {
    name: Cow::Borrowed("Age"),
    type_: Cow::Borrowed("string"),
    format: Cow::Borrowed(""),
    description: Cow::Borrowed(AGE_DESCRIPTION),
    priority: 0,
};

pub fn name_and_age_columns() -> Vec<Column> {
    vec![NAME, AGE]
}

pub fn name_and_age_cells(meta: &ObjectMeta, now: Timestamp) -> Vec<Value> {
    vec![json!(meta.name), json!(age(meta.creation_timestamp.as_ref(), now))]
}

const fn column(name: &'static str, type_: &'static str, description: &'static str, priority: i32) -> Column {
    Column {
        name: Cow::Borrowed(name),
        type_: Cow::Borrowed(type_),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(description),
        priority,
    }
}

/// A column that `kubectl get` shows.
pub const fn narrow(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    column(name, type_, description, 0)
}

/// A column that only `kubectl get -o wide` shows.
pub const fn wide(name: &'static str, type_: &'static str, description: &'static str) -> Column {
    column(name, type_, description, 1)
}

/// Name, the narrow ones of the given columns, Age, and the wide ones.
pub fn columns(middle: &[Column]) -> Vec<Column> {
    let mut all = vec![NAME];
    all.extend(middle.iter().filter(|c| c.priority == 0).cloned());
    all.push(AGE);
    all.extend(middle.iter().filter(|c| c.priority != 0).cloned());
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

/// The name of the class that is taken where none is named.
pub fn mark_default(cells: &mut [Value]) {
    if let Some(Value::String(name)) = cells.first_mut() {
        name.push_str(" (default)");
    }
}

/// What upstream prints for a text that is not there.
pub fn or_none(text: Option<&str>) -> &str {
    text.filter(|t| !t.is_empty()).unwrap_or("<none>")
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// A label selector as text, or `<none>`.
pub fn selector(selector: Option<&LabelSelector>) -> String {
    let text = Selector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default();
    if text.is_empty() { "<none>".into() } else { text }
}

/// Container names and images, each joined by commas.
pub fn containers_and_images(containers: &[Container]) -> (String, String) {
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    (names.join(","), images.join(","))
}

/// `5d`, `3h12m`, … since a time, or `<unknown>`.
pub fn age(created: Option<&Time>, now: Timestamp) -> String {
    since(created.map(|t| t.0), now)
}

pub fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".into(), |t| human_duration(now.duration_since(t).as_secs()))
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
