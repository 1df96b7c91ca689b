//! Puts a resourceVersion into encoded JSON without decoding it.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};

/// `"resourceVersion":"18446744073709551615",`
const FIELD_BYTES_MAX: usize = 44;

const FIELD: &[u8] = br#""resourceVersion":""#;

/// Where the members of the top-level `metadata` object begin.
fn metadata_start(json: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = string_end(json, at)?;
                if depth == 1 && json.get(at..end) == Some(br#""metadata""#) {
                    let colon = skip_space(json, end);
                    if json.get(colon) == Some(&b':') {
                        let open = skip_space(json, colon + 1);
                        return (json.get(open) == Some(&b'{')).then_some(open + 1);
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The position after the closing quote of the string that opens at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The position after a resourceVersion (and its comma) that [`framed`] put at `start`; `start` where there is none.
fn after_revision(json: &[u8], start: usize) -> usize {
    if !json.get(start..).is_some_and(|rest| rest.starts_with(FIELD)) {
        return start;
    }
    let value = start + FIELD.len() - 1;
    let Some(end) = string_end(json, value) else { return start };
    if json.get(end) == Some(&b',') { end + 1 } else { end }
}

/// `prefix`, the JSON with its resourceVersion set to `revision`, `suffix`; and the JSON's slice of it.
/// None where the document has no metadata.
pub fn framed(prefix: &[u8], json: &[u8], revision: u64, suffix: &[u8]) -> Option<(Bytes, Bytes)> {
    let start = metadata_start(json)?;
    let rest = after_revision(json, start);
    let mut out =
        BytesMut::with_capacity(prefix.len() + json.len() + FIELD_BYTES_MAX + suffix.len()).writer();
    out.get_mut().put_slice(prefix);
    out.get_mut().put_slice(json.get(..start)?);
    let comma = if json.get(skip_space(json, rest)) == Some(&b'}') { "" } else { "," };
    write!(out, "\"resourceVersion\":\"{revision}\"{comma}").ok()?;
    out.get_mut().put_slice(json.get(rest..)?);
    let end = out.get_ref().len();
    out.get_mut().put_slice(suffix);
    let whole = out.into_inner().freeze();
    let object = whole.slice(prefix.len()..end);
    Some((whole, object))
}

/// The JSON with its resourceVersion set; as it was where it has no metadata.
pub fn with_revision(json: &Bytes, revision: u64) -> Bytes {
    framed(b"", json, revision, b"").map_or_else(|| json.clone(), |(_, object)| object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_goes_into_the_top_level_metadata() {
        for (stored, want) in [
            (
                r#"{"kind":"A","metadata":{"name":"x"}}"#,
                r#"{"kind":"A","metadata":{"resourceVersion":"7","name":"x"}}"#,
            ),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (r#"{"metadata" : { } }"#, r#"{"metadata" : {"resourceVersion":"7" } }"#),
            (
                r#"{"a":{"metadata":{"b":1}},"c":"\"metadata\":{","metadata":{"n":1}}"#,
                r#"{"a":{"metadata":{"b":1}},"c":"\"metadata\":{","metadata":{"resourceVersion":"7","n":1}}"#,
            ),
            (
                r#"{"metadata":{"resourceVersion":"6","name":"x"}}"#,
                r#"{"metadata":{"resourceVersion":"7","name":"x"}}"#,
            ),
            (r#"{"metadata":{"resourceVersion":"6"}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (r#"{"data":1}"#, r#"{"data":1}"#),
            (r#"{"metadata":null}"#, r#"{"metadata":null}"#),
            (r#"{"metadata"#, r#"{"metadata"#),
        ] {
            assert_eq!(with_revision(&Bytes::from(stored), 7), want, "{stored}");
        }
    }

    #[test]
    fn a_frame_shares_its_bytes_with_the_object() {
        let (whole, object) = framed(b"<", br#"{"metadata":{"name":"x"}}"#, 12, b">").unwrap();
        assert_eq!(whole, r#"<{"metadata":{"resourceVersion":"12","name":"x"}}>"#);
        assert_eq!(object.as_ptr(), whole[1..].as_ptr());
    }
}
