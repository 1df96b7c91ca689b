//! `"%s is %d".format([…])`: texts with values put in.

use super::conversions::text;
use crate::cel::error::EvalError;
use crate::cel::functions::Site;
use crate::cel::types::Type;
use crate::cel::value::Value;

/// Digits after the point if none are asked for.
const PRECISION: usize = 6;
/// The most digits after the point that are written.
const PRECISION_MAX: usize = 1000;

/// One piece of a format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cel) enum Verb {
    Text,
    Decimal,
    Fixed(usize),
    Scientific,
    Binary,
    Hexadecimal { upper: bool },
    Octal,
}

#[derive(Debug, PartialEq)]
pub(in crate::cel) enum Piece {
    Literal(String),
    Verb(Verb),
}

pub(in crate::cel) fn parse(format: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            literal.push(character);
            continue;
        }
        let Some(next) = characters.next() else { return Err("unexpected end of string".into()) };
        if next == '%' {
            literal.push('%');
            continue;
        }
        let mut verb = next;
        let mut precision = None;
        if next == '.' {
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = Some(
                digits
                    .parse::<usize>()
                    .map_err(|_| "error while converting precision to integer".to_owned())?
                    .min(PRECISION_MAX),
            );
            let Some(after) = characters.next() else {
                return Err("could not find end of precision specifier".into());
            };
            verb = after;
        }
        let verb = match verb {
            's' => Verb::Text,
            'd' => Verb::Decimal,
            'f' => Verb::Fixed(precision.unwrap_or(PRECISION)),
            'e' => Verb::Scientific,
            'b' => Verb::Binary,
            'x' => Verb::Hexadecimal { upper: false },
            'X' => Verb::Hexadecimal { upper: true },
            'o' => Verb::Octal,
            other => {
                return Err(format!(
                    "could not parse formatting clause: unrecognized formatting clause \"{other}\""
                ));
            }
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Verb(verb));
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

impl Verb {
    /// What is wrong with a value of this type here.
    pub(in crate::cel) fn refuses(self, of: &Type, written: &str) -> Option<String> {
        let fits = match self {
            _ if of.is_dyn() => true,
            Verb::Text => !matches!(of, Type::Object(_) | Type::Opaque(_) | Type::Optional(_)),
            Verb::Decimal | Verb::Octal => matches!(of, Type::Int | Type::Uint),
            Verb::Fixed(_) | Verb::Scientific => matches!(of, Type::Double | Type::String),
            Verb::Binary => matches!(of, Type::Int | Type::Uint | Type::Bool),
            Verb::Hexadecimal { .. } => matches!(of, Type::Int | Type::Uint | Type::String | Type::Bytes),
        };
        (!fits).then(|| self.complaint(written))
    }

    fn complaint(self, given: &str) -> String {
        let rule = match self {
            Verb::Text => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
            }
            Verb::Decimal => "decimal clause can only be used on integers",
            Verb::Fixed(_) => "fixed-point clause can only be used on doubles",
            Verb::Scientific => "scientific clause can only be used on doubles",
            Verb::Binary => "only integers and bools can be formatted as binary",
            Verb::Hexadecimal { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Verb::Octal => "octal clause can only be used on integers",
        };
        format!("{rule}, was given {given}")
    }

    fn write(self, value: &Value<'_>) -> Result<String, String> {
        let refused = || Err(self.complaint(&value.type_name()));
        let special = |value: &str| match value {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        };
        match (self, value) {
            (Verb::Text, value) => written(value, false, 0).or_else(|_| refused()),
            (Verb::Decimal, Value::Int(value)) => Ok(value.to_string()),
            (Verb::Decimal, Value::Uint(value)) => Ok(value.to_string()),
            (Verb::Octal, Value::Int(value)) => Ok(signed(*value, |magnitude| format!("{magnitude:o}"))),
            (Verb::Octal, Value::Uint(value)) => Ok(format!("{value:o}")),
            (Verb::Binary, Value::Int(value)) => Ok(signed(*value, |magnitude| format!("{magnitude:b}"))),
            (Verb::Binary, Value::Uint(value)) => Ok(format!("{value:b}")),
            (Verb::Binary, Value::Bool(value)) => Ok(u8::from(*value).to_string()),
            (Verb::Hexadecimal { upper }, value) => {
                let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let text = match value {
                    Value::Int(value) => signed(*value, |magnitude| format!("{magnitude:x}")),
                    Value::Uint(value) => format!("{value:x}"),
                    Value::String(text) => bytes(text.as_bytes()),
                    Value::Bytes(value) => bytes(value),
                    _ => return refused(),
                };
                Ok(if upper { text.to_uppercase() } else { text })
            }
            (Verb::Fixed(precision), Value::Double(value)) => Ok(fixed(*value, precision)),
            (Verb::Scientific, Value::Double(value)) => Ok(scientific(*value)),
            (Verb::Fixed(_) | Verb::Scientific, Value::String(text)) => match special(text) {
                Some(value) => Ok(fixed(value, 0)),
                None => refused(),
            },
            _ => refused(),
        }
    }
}

fn signed(value: i64, write: impl Fn(u64) -> String) -> String {
    let text = write(value.unsigned_abs());
    if value < 0 { format!("-{text}") } else { text }
}

fn infinite(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value.is_infinite() {
        Some(if value > 0.0 { "∞" } else { "-∞" })
    } else {
        None
    }
}

/// With commas between thousands, as the English locale has them.
fn fixed(value: f64, precision: usize) -> String {
    if let Some(text) = infinite(value) {
        return text.into();
    }
    let text = format!("{value:.precision$}");
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => ("-", text),
        None => ("", text.as_str()),
    };
    let (whole, fraction) =
        text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

/// With the power of ten written out, as the English locale has it, which does not heed the digits that are asked for.
fn scientific(value: f64) -> String {
    if let Some(text) = infinite(value) {
        return text.into();
    }
    let text = format!("{value:.PRECISION$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ("\u{207b}", exponent),
        None => ("", exponent),
    };
    let raised = |digit: char| match digit {
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or_default()).unwrap_or(digit),
    };
    let exponent: String = format!("{exponent:0>2}").chars().map(raised).collect();
    format!("{digits}×10{sign}{exponent}")
}

/// A value as `%s` has it; inside lists and maps as it would be written in an expression.
fn written(value: &Value<'_>, inside: bool, depth: usize) -> Result<String, ()> {
    if depth > 100 {
        return Err(());
    }
    Ok(match value {
        Value::String(text) if inside => format!("{:?}", &**text),
        Value::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| ())?;
            if inside { format!("b{text:?}") } else { text.to_owned() }
        }
        Value::Double(value) if inside => match infinite(*value) {
            Some(_) => format!("{:?}", text(&Value::Double(*value))),
            None => format!("{value:.PRECISION$}"),
        },
        Value::Timestamp(timestamp) if inside => format!("timestamp(\"{timestamp}\")"),
        Value::Duration(_) if inside => format!("duration(\"{}\")", text(value)),
        Value::List(list) => {
            let items: Result<Vec<String>, ()> =
                list.iter().map(|item| written(&item.map_err(|_| ())?, true, depth + 1)).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.to_entries().map_err(|_| ())?.into_values() {
                entries.push(format!(
                    "{}:{}",
                    written(&key, true, depth + 1)?,
                    written(&value, true, depth + 1)?
                ));
            }
            entries.sort_unstable();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Object(object) => {
            let mut entries = Vec::new();
            for name in object.of.fields.keys() {
                if let Some(value) = object.get(name) {
                    entries.push(format!("{name:?}:{}", written(&value.map_err(|_| ())?, true, depth + 1)?));
                }
            }
            format!("{{{}}}", entries.join(", "))
        }
        Value::Type(of) => {
            let name = of.display(&Default::default()).to_string();
            name.split('(').next().unwrap_or_default().to_owned()
        }
        Value::Optional(_) | Value::Opaque(_) => return Err(()),
        plain => text(plain),
    })
}

pub(super) fn format<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let [Value::String(format), Value::List(values)] = arguments else {
        return Err(EvalError::no_such_overload());
    };
    let mut text = String::new();
    let mut used = 0;
    for piece in parse(format).map_err(EvalError::new)? {
        match piece {
            Piece::Literal(literal) => text.push_str(&literal),
            Piece::Verb(verb) => {
                let Some(value) = values.get(used) else {
                    return Err(EvalError::new(format!("index {used} out of range")));
                };
                used += 1;
                text.push_str(
                    &verb
                        .write(&value?)
                        .map_err(|wrong| EvalError::new(format!("error during formatting: {wrong}")))?,
                );
            }
        }
        if text.len() > crate::cel::arithmetic::SIZE_MAX {
            return Err(crate::cel::arithmetic::size_error());
        }
    }
    Ok(Value::text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_into_texts() {
        let list = Value::list(vec![Value::Int(1), Value::text("a\"b")]);
        for (format, value, text) in [
            ("%s!", Value::text("x"), "x!"),
            ("%d%%", Value::Int(50), "50%"),
            ("%x", Value::Int(-255), "-ff"),
            ("%X", Value::text("az"), "617A"),
            ("%b", Value::Bool(true), "1"),
            ("%o", Value::Uint(8), "10"),
            ("%.2f", Value::Double(1234.567), "1,234.57"),
            ("%s", list, "[1, \"a\\\"b\"]"),
            ("%s", Value::Null, "null"),
        ] {
            let arguments = [Value::text(format), Value::list(vec![value])];
            let Ok(Value::String(formatted)) = super::format(&Site::default(), &arguments) else {
                panic!("{format}")
            };
            assert_eq!(&*formatted, text);
        }
        assert!(parse("%q").is_err());
        assert!(parse("%").is_err());
        let missing = super::format(&Site::default(), &[Value::text("%s"), Value::list(vec![])]);
        assert_eq!(missing.unwrap_err().message(), "index 0 out of range");
    }
}
