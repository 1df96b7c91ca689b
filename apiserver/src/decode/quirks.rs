//! Values that upstream's types read in their own way: quantities, times, and YAML 1.1's booleans and octal numbers.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_client::quantity::{Quantity, QuantityError};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::report::Report;

/// A quantity may be written as a number; it is kept in canonical form.
pub struct QuantityText<'r, V> {
    pub visitor: V,
    pub report: &'r Report,
}

impl<'de, V: Visitor<'de>> QuantityText<'_, V> {
    fn read<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        let quantity: Quantity = text.trim().parse().map_err(|error: QuantityError| {
            self.report.verbatim(error.to_string());
            E::custom(error)
        })?;
        self.visitor.visit_newtype_struct(quantity.to_string().into_deserializer())
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for QuantityText<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.read(text)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<V::Value, E> {
        self.read(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<V::Value, E> {
        self.read(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<V::Value, E> {
        self.read(&number.to_string())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.read(if value { "true" } else { "false" })
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.read("0")
    }

    // What is neither is read by its text, and no quantity begins like that.
    fn visit_seq<A: SeqAccess<'de>>(self, _list: A) -> Result<V::Value, A::Error> {
        self.read("[")
    }

    fn visit_map<A: MapAccess<'de>>(self, _map: A) -> Result<V::Value, A::Error> {
        self.read("{")
    }
}

/// RFC 3339, as Go's `time.Parse` takes it.
pub struct TimeText<'r, V> {
    pub visitor: V,
    pub report: &'r Report,
    pub micro: bool,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for TimeText<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        if let Some(fault) = time_fault(text, self.micro) {
            self.report.verbatim(fault.clone());
            return Err(E::custom(fault));
        }
        self.visitor.visit_newtype_struct(text.into_deserializer())
    }
}

/// What Go's `time.Parse` says of a time that is none.
fn time_fault(text: &str, micro: bool) -> Option<String> {
    let fraction = if micro { ".000000" } else { "" };
    let layout = format!("2006-01-02T15:04:05{fraction}Z07:00");
    let mut rest = text;
    for part in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05"] {
        let fits = rest.get(..part.len()).is_some_and(|have| {
            have.bytes()
                .zip(part.bytes())
                .all(|(have, want)| if want.is_ascii_digit() { have.is_ascii_digit() } else { have == want })
        });
        if !fits {
            return Some(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}"));
        }
        rest = rest.get(part.len()..).unwrap_or_default();
    }
    if let Some(digits) = rest.strip_prefix('.') {
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if end > 0 {
            rest = digits.get(end..).unwrap_or_default();
        }
    }
    let offset = |zone: &str| {
        zone.len() == 6
            && zone.starts_with(['+', '-'])
            && zone
                .bytes()
                .enumerate()
                .skip(1)
                .all(|(at, b)| if at == 3 { b == b':' } else { b.is_ascii_digit() })
    };
    if rest != "Z" && !offset(rest) {
        return Some(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \"Z07:00\""));
    }
    text.parse::<jiff::Timestamp>().err().map(|_| format!("parsing time {text:?}: day out of range"))
}

/// Bytes are a text in base64; Go also takes a list of them.
pub struct BytesText<V>(pub V);

impl<'de, V: Visitor<'de>> Visitor<'de> for BytesText<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.0.visit_str(text)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<V::Value, A::Error> {
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(byte) = list.next_element()? {
            bytes.push(byte);
        }
        self.0.visit_str(&STANDARD.encode(bytes))
    }
}

/// A boolean of a YAML document.
pub struct YamlBool<V>(pub V);

impl<'de, V: Visitor<'de>> Visitor<'de> for YamlBool<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => self.0.visit_bool(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => self.0.visit_bool(false),
            _ => self.0.visit_str(text),
        }
    }
}

/// A whole number of a YAML document.
pub struct YamlInt<V>(pub V);

impl<'de, V: Visitor<'de>> Visitor<'de> for YamlInt<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<V::Value, E> {
        self.0.visit_u64(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<V::Value, E> {
        self.0.visit_i64(number)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        match text.strip_prefix('0').and_then(|octal| i64::from_str_radix(octal, 8).ok()) {
            Some(number) => self.0.visit_i64(number),
            None => self.0.visit_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_reads_them() {
        for text in ["2024-02-29T01:02:03Z", "2024-01-01T00:00:00.123456Z", "2024-01-01T00:00:00+01:00"] {
            assert_eq!(time_fault(text, false), None, "{text}");
        }
        for (text, want) in [
            ("abc", r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#),
            (
                "2024-01-01",
                r#"parsing time "2024-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
            ),
            (
                "2024-01-01T00:00:00",
                r#"parsing time "2024-01-01T00:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
            ),
            ("2023-02-30T00:00:00Z", r#"parsing time "2023-02-30T00:00:00Z": day out of range"#),
        ] {
            assert_eq!(time_fault(text, false).as_deref(), Some(want));
        }
    }
}
