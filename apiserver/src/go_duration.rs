//! Durations as Go writes them (`1m30.5s`), which is how the API has them in JSON.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cel::parse_duration;

/// Nanoseconds. In JSON a text, in protobuf the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub i64);

/// None for what Go does not read.
pub fn parse(text: &str) -> Option<i64> {
    parse_duration(text)
}

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000 * MICRO;
const SECOND: u64 = 1_000 * MILLI;

/// `nanos` of a unit that is `scale` nanoseconds, with a fraction where there is one.
fn of_unit(nanos: u64, scale: u64, unit: &str) -> String {
    let fraction = nanos % scale;
    if fraction == 0 {
        return format!("{}{unit}", nanos / scale);
    }
    let digits = scale.ilog10() as usize;
    let fraction = format!("{fraction:0digits$}");
    format!("{}.{}{unit}", nanos / scale, fraction.trim_end_matches('0'))
}

pub fn text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    match nanos {
        0 => "0s".into(),
        1..MICRO => format!("{sign}{nanos}ns"),
        MICRO..MILLI => format!("{sign}{}", of_unit(nanos, MICRO, "µs")),
        MILLI..SECOND => format!("{sign}{}", of_unit(nanos, MILLI, "ms")),
        _ => {
            let minutes = nanos / (60 * SECOND);
            let seconds = of_unit(nanos % (60 * SECOND), SECOND, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(self.0))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).ok_or_else(|| D::Error::custom(format!("time: invalid duration {text:?}")))
    }
}

impl schemars::JsonSchema for GoDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "io.k8s.apimachinery.pkg.apis.meta.v1.Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A length of time: numbers with the units h, m, s, ms, us and ns, such as 1m30s.",
            "type": "string",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        for (nanos, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (15_000_000_000, "15s"),
            (15_020_000_000, "15.02s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (-90_500_000_000, "-1m30.5s"),
        ] {
            assert_eq!(text(nanos), want);
            assert_eq!(parse(want), Some(nanos));
        }
        assert!(serde_json::from_str::<GoDuration>("\"soon\"").is_err());
    }
}
