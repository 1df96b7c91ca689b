//! JSON indented as Go indents it, with everything in the order it had.

/// Valid JSON, each level indented by two spaces.
pub fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 3 / 2);
    let mut depth = 0usize;
    let mut in_text = false;
    let mut escaped = false;
    let mut opened = false;
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    for &byte in json {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if std::mem::take(&mut opened) && !matches!(byte, b'}' | b']') {
            line(&mut out, depth);
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                depth += 1;
                opened = true;
                continue;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !out.last().is_some_and(|b| matches!(b, b'{' | b'[')) {
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'"' => {
                out.push(byte);
                in_text = true;
            }
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_does_it() {
        let text = r#"{"b":{},"a":[],"l":[1,{"x":"a\"{,:\\"}],"n":null}"#;
        let want = r#"{
  "b": {},
  "a": [],
  "l": [
    1,
    {
      "x": "a\"{,:\\"
    }
  ],
  "n": null
}"#;
        assert_eq!(String::from_utf8(indented(text.as_bytes())).unwrap(), want);
        assert_eq!(indented(want.as_bytes()), indented(text.as_bytes()));
    }
}
