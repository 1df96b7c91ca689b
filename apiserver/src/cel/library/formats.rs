//! Formats by name, and what is wrong with a text that should have one.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::{Opaque, time, urls};
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Implementation, Site};
use crate::cel::value::Value;

pub struct Format {
    name: &'static str,
    validate: fn(&str) -> Vec<String>,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", validate: |text| dns_label(text) },
    Format { name: "dns1123Subdomain", validate: |text| dns_subdomain(text) },
    Format { name: "dns1035Label", validate: |text| dns1035_label(text) },
    Format { name: "qualifiedName", validate: qualified_name },
    Format { name: "dns1123LabelPrefix", validate: |text| dns_label(&without_dash(text)) },
    Format { name: "dns1123SubdomainPrefix", validate: |text| dns_subdomain(&without_dash(text)) },
    Format { name: "dns1035LabelPrefix", validate: |text| dns1035_label(&without_dash(text)) },
    Format { name: "labelValue", validate: label_value },
    Format { name: "uri", validate: |text| urls::parse(text).err().into_iter().collect() },
    Format { name: "uuid", validate: uuid },
    Format { name: "byte", validate: byte },
    Format { name: "date", validate: date },
    Format { name: "datetime", validate: datetime },
];

pub(super) fn declare(functions: &mut Functions) {
    macro_rules! constant {
        ($($name:literal => $index:literal),*) => {
            $({
                let run: Implementation = |_, _| Ok(Value::Opaque(Opaque::Format(&FORMATS[$index])));
                functions.global(concat!("format.", $name), run, &[(concat!("format.", $name), " -> format")]);
            })*
        };
    }
    constant!(
        "dns1123Label" => 0, "dns1123Subdomain" => 1, "dns1035Label" => 2, "qualifiedName" => 3, "dns1123LabelPrefix" => 4,
        "dns1123SubdomainPrefix" => 5, "dns1035LabelPrefix" => 6, "labelValue" => 7, "uri" => 8, "uuid" => 9, "byte" => 10, "date" => 11,
        "datetime" => 12
    );
    functions.global("format.named", named, &[("format-named", "string -> optional(format)")]);
    functions.member(
        "validate",
        validate,
        &[("format-validate", "format, string -> optional(list(string))")],
    );
}

/// A prefix of generated names may end with a dash, since more follows.
fn without_dash(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn too_long(text: &str, length: usize) -> Option<String> {
    (text.len() > length).then(|| format!("must be no more than {length} bytes"))
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match text.as_bytes() {
        [] => false,
        bytes => {
            bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
                && !text.starts_with('-')
                && !text.ends_with('-')
        }
    }
}

fn dns_label(text: &str) -> Vec<String> {
    let wrong = (!is_label(text)).then(|| LABEL.to_owned());
    too_long(text, 63).into_iter().chain(wrong).collect()
}

fn dns_subdomain(text: &str) -> Vec<String> {
    let wrong = (!text.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned());
    too_long(text, 253).into_iter().chain(wrong).collect()
}

fn dns1035_label(text: &str) -> Vec<String> {
    let valid = is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    let wrong = (!valid).then(|| LABEL_1035.to_owned());
    too_long(text, 63).into_iter().chain(wrong).collect()
}

fn is_name(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(end)
        && text.ends_with(end)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(first).into_iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            let form = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {NAME} {form}")];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else {
        wrong.extend(too_long(name, 63).map(|why| format!("name part {why}")));
    }
    if !is_name(name) {
        wrong.push(format!("name part {NAME}"));
    }
    wrong
}

fn label_value(text: &str) -> Vec<String> {
    let wrong = (!text.is_empty() && !is_name(text)).then(|| LABEL_VALUE.to_owned());
    too_long(text, 63).into_iter().chain(wrong).collect()
}

fn uuid(text: &str) -> Vec<String> {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new("(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{12}$").ok()
    });
    let valid = PATTERN.as_ref().is_some_and(|pattern| pattern.is_match(text));
    if valid { Vec::new() } else { vec!["does not match the UUID format".into()] }
}

fn byte(text: &str) -> Vec<String> {
    use base64::Engine as _;
    let valid = !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok();
    if valid { Vec::new() } else { vec!["invalid base64".into()] }
}

fn date(text: &str) -> Vec<String> {
    let valid = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
    if valid { Vec::new() } else { vec!["invalid date".into()] }
}

fn datetime(text: &str) -> Vec<String> {
    if time::Timestamp::parse(text).is_some() { Vec::new() } else { vec!["invalid datetime".into()] }
}

fn named<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let [Value::String(name)] = arguments else { return Err(EvalError::no_such_overload()) };
    Ok(match FORMATS.iter().find(|format| *format.name == **name) {
        Some(format) => Value::some(Value::Opaque(Opaque::Format(format))),
        None => Value::NONE,
    })
}

fn validate<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let [Value::Opaque(Opaque::Format(format)), Value::String(text)] = arguments else {
        return Err(EvalError::no_such_overload());
    };
    let wrong = (format.validate)(text);
    if wrong.is_empty() {
        return Ok(Value::NONE);
    }
    Ok(Value::Optional(Some(Arc::new(Value::list(wrong.into_iter().map(Value::text).collect())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_formats_or_not() {
        for (name, good, bad) in [
            ("dns1123Label", "my-name", "My-name"),
            ("dns1123Subdomain", "a.b-c", "a..b"),
            ("dns1035Label", "a1", "1a"),
            ("qualifiedName", "example.com/My_Name", "a/b/c"),
            ("dns1123LabelPrefix", "abc-", "-"),
            ("labelValue", "", "-x"),
            ("uri", "http://x", "x"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("byte", "aGVsbG8=", "?"),
            ("date", "2021-01-31", "2021-02-30"),
            ("datetime", "2021-01-01T00:00:00Z", "2021-01-01"),
        ] {
            let format = FORMATS.iter().find(|format| format.name == name).unwrap();
            assert!((format.validate)(good).is_empty(), "{name}: {good}");
            assert!(!(format.validate)(bad).is_empty(), "{name}: {bad}");
        }
    }
}
