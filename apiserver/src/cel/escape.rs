//! Field names as identifiers: what an identifier cannot contain is written out between underscores.

/// Words that name nothing, and those that are values or operators.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const MEANT: [&str; 4] = ["true", "false", "null", "in"];

/// The word is kept for the language, which gives it no meaning yet.
pub fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// The word cannot name a variable.
pub fn is_keyword(word: &str) -> bool {
    MEANT.contains(&word) || is_reserved(word)
}

/// The identifier for a field, or none if the field cannot be reached from expressions.
pub fn escape(field: &str) -> Option<String> {
    let first = field.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if is_keyword(field) {
        return Some(format!("__{field}__"));
    }
    let mut escaped = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match character {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            '_' => escaped.push('_'),
            _ if character.is_ascii_alphanumeric() => escaped.push(character),
            _ => return None,
        }
        rest = &rest[character.len_utf8()..];
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_identifiers() {
        for (field, identifier) in [
            ("replicas", Some("replicas")),
            ("namespace", Some("__namespace__")),
            ("a-b", Some("a__dash__b")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("a__b", Some("a__underscores__b")),
            ("a___b", Some("a__underscores___b")),
            ("_a_", Some("_a_")),
            ("1a", None),
            ("ä", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(escape(field).as_deref(), identifier, "{field}");
        }
    }
}
