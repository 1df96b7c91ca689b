//! Quantities of resources: `500Mi`, `1.5`, `2e3`.

use std::cmp::Ordering;

use super::Opaque;
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

/// A decimal number: `digits` times ten to the power of `-scale`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    digits: i128,
    scale: u32,
    /// Whether upstream keeps it as an integer and a scale, and not as a decimal of any length, which is never taken for an integer.
    small: bool,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other).is_eq()
    }
}

const FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX: &str = "unable to parse quantity's suffix";

/// The finest fraction, billionths, to which the rest is rounded up.
const SCALE_MAX: u32 = 9;

pub(super) fn declare(functions: &mut Functions) {
    functions.global("quantity", quantity, &[("string_to_quantity", "string -> quantity")]);
    functions.global("isQuantity", is_quantity, &[("is_quantity_string", "string -> bool")]);
    functions.global("sign", sign, &[("quantity_sign", "quantity -> int")]);
    functions.member(
        "isGreaterThan",
        |_, arguments| order(arguments, Ordering::is_gt),
        &[("quantity_is_greater_than", "quantity, quantity -> bool")],
    );
    functions.member(
        "isLessThan",
        |_, arguments| order(arguments, Ordering::is_lt),
        &[("quantity_is_less_than", "quantity, quantity -> bool")],
    );
    functions.member("compareTo", compare_to, &[("quantity_compare_to", "quantity, quantity -> int")]);
    functions.member("asApproximateFloat", as_float, &[("quantity_get_float", "quantity -> double")]);
    functions.member("asInteger", as_integer, &[("quantity_get_int", "quantity -> int")]);
    functions.member("isInteger", is_integer, &[("quantity_is_integer", "quantity -> bool")]);
    functions.member(
        "add",
        add,
        &[
            ("quantity_add", "quantity, quantity -> quantity"),
            ("quantity_add_int", "quantity, int -> quantity"),
        ],
    );
    functions.member(
        "sub",
        subtract,
        &[
            ("quantity_sub", "quantity, quantity -> quantity"),
            ("quantity_sub_int", "quantity, int -> quantity"),
        ],
    );
}

/// Reads a quantity. The largest there is stands for all that are larger.
fn parse(text: &str) -> Result<Quantity, &'static str> {
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(FORMAT);
    }
    // Ten or two, to which power.
    let (binary, power): (u32, i64) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let allowed = |c: char| {
                matches!(c, 'e' | 'E' | 'i' | 'n' | 'u' | 'm' | 'k' | 'K' | 'M' | 'G' | 'T' | 'P' | '+' | '-')
                    || c.is_ascii_digit()
            };
            if !suffix.chars().all(allowed) {
                return Err(FORMAT);
            }
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(SUFFIX)?;
            (0, exponent.parse::<i32>().map_err(|_| SUFFIX)?.into())
        }
    };
    let largest = i128::from(i64::MAX);
    let whole = whole.trim_start_matches('0');
    let written_fraction = fraction.len();
    let fraction = fraction.trim_end_matches('0');
    // Numbers so long that they are out of range or beyond the finest fraction whatever follows.
    let zero = whole.is_empty() && fraction.is_empty();
    let magnitude = whole.len() as i64 + power + i64::from(binary * 3 / 10);
    let sign = if negative { -1 } else { 1 };
    let small = if binary == 0 {
        whole.len() + written_fraction <= 18 && power - written_fraction as i64 >= -(SCALE_MAX as i64)
    } else {
        written_fraction == 0 && whole.len() + (binary * 3 / 10) as usize <= 14
    };
    if zero {
        return Ok(Quantity { digits: 0, scale: 0, small });
    }
    let beyond = Quantity { digits: sign * largest, scale: 0, small: false };
    if magnitude > 30 {
        return Ok(beyond);
    }
    let leading_zeros =
        if whole.is_empty() { fraction.len() - fraction.trim_start_matches('0').len() } else { 0 } as i64;
    if whole.len() as i64 + power - leading_zeros < -(SCALE_MAX as i64) && binary == 0 {
        // Rounded away from zero.
        return Ok(Quantity { digits: sign, scale: SCALE_MAX, small: false });
    }
    // Digits times ten to the power of this, then two to the power of `binary`, rounded up to billionths.
    let mut exponent = power - fraction.len() as i64;
    let mut digits: i128 = 0;
    let mut lost = false;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if digits > (i128::MAX / 100) >> binary {
            lost |= digit != b'0';
            exponent += 1;
            continue;
        }
        digits = digits * 10 + i128::from(digit - b'0');
    }
    digits = digits.checked_shl(binary).ok_or(FORMAT)?;
    while exponent > 0 {
        digits = match digits.checked_mul(10) {
            Some(more) => more,
            None => return Ok(beyond),
        };
        exponent -= 1;
    }
    while exponent < -(SCALE_MAX as i64) {
        lost |= digits % 10 != 0;
        digits /= 10;
        exponent += 1;
    }
    if lost {
        digits += 1;
    }
    let mut scale = exponent.unsigned_abs() as u32;
    if digits / 10_i128.pow(scale) > largest {
        return Ok(beyond);
    }
    // The digits that were written count: `1.0` is no integer.
    while small && binary == 0 && i64::from(scale) < written_fraction as i64 - power {
        digits *= 10;
        scale += 1;
    }
    Ok(Quantity { digits: sign * digits, scale, small })
}

impl Quantity {
    fn at_scale(self, scale: u32) -> i128 {
        self.digits.saturating_mul(10_i128.pow(scale - self.scale))
    }

    fn compare(&self, other: &Quantity) -> Ordering {
        let scale = self.scale.max(other.scale);
        self.at_scale(scale).cmp(&other.at_scale(scale))
    }

    fn plus(self, other: Quantity, sign: i128) -> Quantity {
        let other = Quantity { digits: sign * other.digits, ..other };
        match (self.digits, other.digits) {
            (_, 0) => return self,
            (0, _) => return other,
            _ => {}
        }
        let scale = self.scale.max(other.scale);
        let small = self.small && other.small;
        Quantity { digits: self.at_scale(scale).saturating_add(other.at_scale(scale)), scale, small }
    }

    fn as_integer(&self) -> Option<i64> {
        if self.small && self.scale == 0 { i64::try_from(self.digits).ok() } else { None }
    }
}

type Result2<'a> = Result<Value<'a>, EvalError>;

fn text<'v>(arguments: &'v [Value<'_>]) -> Result<&'v str, EvalError> {
    match arguments {
        [Value::String(text)] => Ok(text),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn quantity<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    parse(text(arguments)?).map(|quantity| Value::Opaque(Opaque::Quantity(quantity))).map_err(EvalError::new)
}

fn is_quantity<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(parse(text(arguments)?).is_ok()))
}

fn one(arguments: &[Value<'_>]) -> Result<Quantity, EvalError> {
    match arguments {
        [Value::Opaque(Opaque::Quantity(quantity))] => Ok(*quantity),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn two(arguments: &[Value<'_>]) -> Result<(Quantity, Quantity), EvalError> {
    match arguments {
        [Value::Opaque(Opaque::Quantity(one)), Value::Opaque(Opaque::Quantity(other))] => Ok((*one, *other)),
        [Value::Opaque(Opaque::Quantity(one)), Value::Int(other)] => {
            Ok((*one, Quantity { digits: i128::from(*other), scale: 0, small: true }))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn sign<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Int(one(arguments)?.digits.signum() as i64))
}

fn order<'a>(arguments: &[Value<'a>], is: impl Fn(Ordering) -> bool) -> Result2<'a> {
    let (one, other) = two(arguments)?;
    Ok(Value::Bool(is(one.compare(&other))))
}

fn compare_to<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let (one, other) = two(arguments)?;
    Ok(Value::Int(one.compare(&other) as i64))
}

fn as_float<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let quantity = one(arguments)?;
    Ok(Value::Double(quantity.digits as f64 / 10_f64.powi(quantity.scale as i32)))
}

fn as_integer<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    one(arguments)?
        .as_integer()
        .map(Value::Int)
        .ok_or_else(|| EvalError::new("cannot convert value to integer"))
}

fn is_integer<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(one(arguments)?.as_integer().is_some()))
}

fn add<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let (one, other) = two(arguments)?;
    Ok(Value::Opaque(Opaque::Quantity(one.plus(other, 1))))
}

fn subtract<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let (one, other) = two(arguments)?;
    Ok(Value::Opaque(Opaque::Quantity(one.plus(other, -1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_what_they_amount_to() {
        for (one, other) in [
            ("1", "1000m"),
            ("1Ki", "1024"),
            ("1.5Gi", "1610612736"),
            ("2e3", "2k"),
            ("0.5", "500m"),
            ("1E", "1000P"),
            ("-1.0", "-1"),
        ] {
            assert_eq!(parse(one).unwrap(), parse(other).unwrap(), "{one} {other}");
        }
        for wrong in ["", "x", "1.2.3", "1Kii", "1 ", "--1", ".", "1e", "5GiB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("1.5").unwrap().as_integer(), None);
        assert_eq!(parse("3k").unwrap().as_integer(), Some(3000));
        assert_eq!(parse("1.0").unwrap().as_integer(), None);
        assert_eq!(parse("1e100").unwrap().as_integer(), None);
        assert_eq!(parse("1e100").unwrap(), parse("9223372036854775807").unwrap());
        assert!(parse("1e2147483647").is_ok() && parse("1e-2147483648").is_ok());
        assert_eq!(parse("0.0000000001").unwrap(), parse("1n").unwrap());
        assert!(parse(&"9".repeat(100)).is_ok());
        assert!(parse(&format!("0.{}1", "0".repeat(100))).is_ok());
        assert!(parse("1.9999999999999999999999999999999999999999999Ei").is_ok());
    }
}
