//! Texts: positions are those of characters, not of bytes.

use crate::cel::arithmetic::{SIZE_MAX, size_error};
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

pub(super) fn declare(functions: &mut Functions) {
    functions.member("charAt", char_at, &[("string_char_at_int", "string, int -> string")]);
    functions.member(
        "indexOf",
        index_of,
        &[
            ("string_index_of_string", "string, string -> int"),
            ("string_index_of_string_int", "string, string, int -> int"),
        ],
    );
    functions.member(
        "lastIndexOf",
        last_index_of,
        &[
            ("string_last_index_of_string", "string, string -> int"),
            ("string_last_index_of_string_int", "string, string, int -> int"),
        ],
    );
    functions.member("lowerAscii", lower_ascii, &[("string_lower_ascii", "string -> string")]);
    functions.member("upperAscii", upper_ascii, &[("string_upper_ascii", "string -> string")]);
    functions.member("trim", trim, &[("string_trim", "string -> string")]);
    functions.member(
        "replace",
        replace,
        &[
            ("string_replace_string_string", "string, string, string -> string"),
            ("string_replace_string_string_int", "string, string, string, int -> string"),
        ],
    );
    functions.member(
        "split",
        split,
        &[
            ("string_split_string", "string, string -> list(string)"),
            ("string_split_string_int", "string, string, int -> list(string)"),
        ],
    );
    functions.member(
        "substring",
        substring,
        &[
            ("string_substring_int", "string, int -> string"),
            ("string_substring_int_int", "string, int, int -> string"),
        ],
    );
    functions.member(
        "join",
        join,
        &[("list_join", "list(string) -> string"), ("list_join_string", "list(string), string -> string")],
    );
    functions.member(
        "format",
        super::text_format::format,
        &[("string_format", "string, list(dyn) -> string")],
    );
    functions.global("strings.quote", quote, &[("strings_quote", "string -> string")]);
    functions.global(
        "jsonpatch.escapeKey",
        escape_key,
        &[("string_jsonpatch_escapeKey_string", "string -> string")],
    );
}

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

fn char_at<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::String(text), Value::Int(index)] = arguments else {
        return Err(EvalError::no_such_overload());
    };
    let place = usize::try_from(*index).map_err(|_| out_of_range(*index))?;
    match text.chars().nth(place) {
        Some(character) => Ok(Value::text(character.to_string())),
        None if text.chars().count() == place => Ok(Value::text("")),
        None => Err(out_of_range(*index)),
    }
}

fn index_of<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (text, part, offset) = match arguments {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return Err(EvalError::no_such_overload()),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let skipped = usize::try_from(offset).map_err(|_| out_of_range(offset))?;
    let Some((start, _)) = text.char_indices().nth(skipped) else { return Ok(Value::Int(-1)) };
    Ok(Value::Int(match text[start..].find(&**part) {
        Some(found) => offset + text[start..start + found].chars().count() as i64,
        None => -1,
    }))
}

fn last_index_of<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (text, part, offset) = match arguments {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, Some(*offset)),
        _ => return Err(EvalError::no_such_overload()),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset.unwrap_or_else(|| text.chars().count() as i64)));
    }
    let end = match offset {
        None => text.len(),
        Some(offset) => {
            let last = usize::try_from(offset).map_err(|_| out_of_range(offset))?;
            let Some((start, _)) = text.char_indices().nth(last) else { return Ok(Value::Int(-1)) };
            // The part begins at the offset at the latest.
            (start + part.len()).min(text.len())
        }
    };
    // What begins at the offset may end inside a character of the text; the part then is not there.
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    Ok(Value::Int(match text[..end].rfind(&**part) {
        Some(found) => text[..found].chars().count() as i64,
        None => -1,
    }))
}

fn lower_ascii<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    Ok(Value::text(text.to_ascii_lowercase()))
}

fn upper_ascii<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    Ok(Value::text(text.to_ascii_uppercase()))
}

fn trim<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    Ok(Value::text(text.trim()))
}

fn replace<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (text, old, new, times) = match arguments {
        [Value::String(text), Value::String(old), Value::String(new)] => (text, old, new, None),
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(times)] => {
            (text, old, new, usize::try_from(*times).ok())
        }
        _ => return Err(EvalError::no_such_overload()),
    };
    let occurrences = if old.is_empty() { text.chars().count() + 1 } else { text.len() / old.len() };
    let replaced = occurrences.min(times.unwrap_or(usize::MAX));
    if text.len().saturating_add(replaced.saturating_mul(new.len())) > SIZE_MAX {
        return Err(size_error());
    }
    Ok(Value::text(match times {
        None => text.replace(&**old, new),
        Some(times) => text.replacen(&**old, new, times),
    }))
}

fn split<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (text, separator, parts_max) = match arguments {
        [Value::String(text), Value::String(separator)] => (text, separator, None),
        [Value::String(text), Value::String(separator), Value::Int(parts)] => {
            (text, separator, usize::try_from(*parts).ok())
        }
        _ => return Err(EvalError::no_such_overload()),
    };
    let parts: Vec<Value<'a>> = match (separator.is_empty(), parts_max) {
        (_, Some(0)) => Vec::new(),
        (true, parts_max) => {
            let parts_max = parts_max.unwrap_or(usize::MAX);
            let mut parts = Vec::new();
            let mut rest: &str = text;
            while let Some(character) = rest.chars().next() {
                let end = if parts.len() + 1 == parts_max { rest.len() } else { character.len_utf8() };
                parts.push(Value::text(&rest[..end]));
                rest = &rest[end..];
            }
            parts
        }
        (false, None) => text.split(&**separator).map(Value::text).collect(),
        (false, Some(parts_max)) => text.splitn(parts_max, &**separator).map(Value::text).collect(),
    };
    Ok(Value::list(parts))
}

fn substring<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (text, start, end) = match arguments {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return Err(EvalError::no_such_overload()),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let place = |index: i64| {
        let wanted = usize::try_from(index).map_err(|_| out_of_range(index))?;
        text.char_indices()
            .map(|(place, _)| place)
            .chain([text.len()])
            .nth(wanted)
            .ok_or_else(|| out_of_range(index))
    };
    let first = place(start)?;
    let last = match end {
        Some(end) => place(end)?,
        None => text.len(),
    };
    Ok(Value::text(&text[first..last]))
}

fn join<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let (list, separator) = match arguments {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(EvalError::no_such_overload()),
    };
    let mut joined = String::new();
    for (number, item) in list.iter().enumerate() {
        if number > 0 {
            joined.push_str(separator);
        }
        match item? {
            Value::String(text) => joined.push_str(&text),
            other => {
                return Err(EvalError::new(format!(
                    "join: invalid input: {}",
                    super::conversions::text(&other)
                )));
            }
        }
        if joined.len() > SIZE_MAX {
            return Err(size_error());
        }
    }
    Ok(Value::text(joined))
}

fn quote<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

fn escape_key<'a>(_: &Site, arguments: &[Value<'a>]) -> Result<'a> {
    let [Value::String(text)] = arguments else { return Err(EvalError::no_such_overload()) };
    Ok(Value::text(text.replace('~', "~0").replace('/', "~1")))
}
