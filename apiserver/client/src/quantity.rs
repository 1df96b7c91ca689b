//! Resource quantities (`100m`, `128Mi`, `1e3`): parsed exactly, compared, added, and written in canonical form.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

const NANO: i128 = 1_000_000_000;

/// An exact amount in billionths, and the format it was written in.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// Upstream's regular expression is part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub const fn from_units(units: i64) -> Self {
        Self { nanos: units as i128 * NANO, format: Format::DecimalSi }
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis as i128 * (NANO / 1000), format: Format::DecimalSi }
    }

    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos: nanos as i128, format: Format::DecimalSi }
    }

    pub const fn from_bytes(bytes: i64) -> Self {
        Self { nanos: bytes as i128 * NANO, format: Format::BinarySi }
    }

    pub fn of(wire: &Wire) -> Result<Self, QuantityError> {
        wire.0.parse()
    }

    /// Whole units, rounded up, as upstream's `Value()`.
    pub fn value(self) -> i64 {
        clamp(div_ceil(self.nanos, NANO))
    }

    /// Thousandths, rounded up, as upstream's `MilliValue()`.
    pub fn milli_value(self) -> i64 {
        clamp(div_ceil(self.nanos, NANO / 1000))
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn to_wire(self) -> Wire {
        Wire(self.to_string())
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_ceil(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, |a, b| a + b)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (scale, format) = parse_suffix(suffix)?;
        let mut nanos = whole_times(whole, scale)?;
        let mut rounded_up = false;
        let mut divisor: i128 = 1;
        for digit in fraction.bytes() {
            let digit = i128::from(digit - b'0');
            divisor = divisor.saturating_mul(10);
            let part = digit.saturating_mul(scale.numerator);
            let unit = divisor.saturating_mul(scale.denominator);
            nanos = nanos.saturating_add(part / unit);
            rounded_up |= part % unit != 0;
        }
        // Finer than a billionth rounds up, away from zero, as upstream.
        nanos = nanos.saturating_add(i128::from(rounded_up));
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// Nanos per unit of the suffix, as a fraction.
#[derive(Clone, Copy)]
struct Scale {
    numerator: i128,
    denominator: i128,
}

fn whole_times(whole: &str, scale: Scale) -> Result<i128, QuantityError> {
    if whole.is_empty() {
        return Ok(0);
    }
    // Longer numbers than i128 holds saturate, far above upstream's cap.
    let value: i128 = whole.parse().unwrap_or(i128::MAX);
    Ok(div_ceil(value.saturating_mul(scale.numerator), scale.denominator))
}

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    let whole = |numerator| Scale { numerator, denominator: 1 };
    let decimal = |power: u32| (whole(NANO.saturating_mul(10i128.saturating_pow(power))), Format::DecimalSi);
    let binary = |power: u32| (whole(NANO << (10 * power)), Format::BinarySi);
    Ok(match suffix {
        "" => decimal(0),
        "n" => (whole(1), Format::DecimalSi),
        "u" => (whole(1_000), Format::DecimalSi),
        "m" => (whole(1_000_000), Format::DecimalSi),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix
                .strip_prefix(['e', 'E'])
                .and_then(|e| e.parse().ok())
                .filter(|e: &i32| e.abs() <= 30)
                .ok_or(QuantityError)?;
            let power = 10i128.saturating_pow(exponent.unsigned_abs());
            let scale = if exponent >= 0 {
                whole(NANO.saturating_mul(power))
            } else {
                Scale { numerator: NANO, denominator: power }
            };
            (scale, Format::DecimalExponent)
        }
    })
}

impl fmt::Display for Quantity {
    /// Canonical: no fraction, the largest suffix that needs none; binary below 1 falls back to decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let magnitude = self.nanos.unsigned_abs();
        let nano = NANO.unsigned_abs();
        if self.format == Format::BinarySi && magnitude.is_multiple_of(nano) && magnitude >= 1024 * nano {
            let units = magnitude / nano;
            let power = (units.trailing_zeros() / 10).min(6);
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power as usize];
            let sign = if self.nanos < 0 { "-" } else { "" };
            return write!(f, "{sign}{}{suffix}", units >> (10 * power));
        }
        let mut power = 0;
        let mut value = self.nanos;
        while power < 9 && value % 1000 == 0 {
            value /= 1000;
            power += 1;
        }
        if self.format == Format::DecimalExponent {
            let exponent = power as i32 * 3 - 9;
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        write!(f, "{value}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_and_values() {
        for (text, canonical, value, milli) in [
            ("0", "0", 0, 0),
            ("100m", "100m", 1, 100),
            ("0.1", "100m", 1, 100),
            ("1", "1", 1, 1000),
            ("1.5", "1500m", 2, 1500),
            ("1000", "1k", 1000, 1_000_000),
            ("128Mi", "128Mi", 134_217_728, 134_217_728_000),
            ("1024Ki", "1Mi", 1_048_576, 1_048_576_000),
            ("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000),
            ("1e3", "1e3", 1000, 1_000_000),
            ("12E", "12E", 12_000_000_000_000_000_000u64 as i128 as i64, i64::MAX),
            ("-5", "-5", -5, -5000),
            ("0.5Ki", "512", 512, 512_000),
            (".5", "500m", 1, 500),
            ("5.", "5", 5, 5000),
            ("1n", "1n", 1, 1),
        ] {
            let q: Quantity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(q.to_string(), canonical, "{text}");
            if text != "12E" {
                assert_eq!(q.value(), value, "{text}");
                assert_eq!(q.milli_value(), milli, "{text}");
            }
        }
    }

    #[test]
    fn bad_quantities_are_refused() {
        for text in ["", "abc", "1.2.3", "1x", "1 Mi", "Mi", "1mi", "--1", "."] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_first_format() {
        let sum: Quantity = ["64Mi", "64Mi"].iter().map(|q| q.parse::<Quantity>().unwrap()).sum();
        assert_eq!(sum.to_string(), "128Mi");
        assert!("100m".parse::<Quantity>().unwrap() < Quantity::from_units(1));
    }
}
