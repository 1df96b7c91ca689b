//! The query form of label selectors, with upstream's grammar and its words for what does not follow it.

use crate::selector::{Operator, Requirement, SelectorError, is_name_part};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    End,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
}

const SYMBOLS: &[(&str, Kind)] = &[
    ("==", Kind::Equals),
    ("!=", Kind::NotEquals),
    ("=", Kind::Equals),
    ("!", Kind::Not),
    (",", Kind::Comma),
    ("(", Kind::Open),
    (")", Kind::Close),
    (">", Kind::Greater),
    ("<", Kind::Less),
];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { break };
        let symbol = SYMBOLS.iter().find(|(sign, _)| rest.starts_with(sign));
        let (kind, length) = match symbol {
            Some((sign, kind)) => (*kind, sign.len()),
            None => {
                let end = rest
                    .find(|c: char| "=!(),><".contains(c) || matches!(c, ' ' | '\t' | '\r' | '\n'))
                    .unwrap_or(rest.len());
                match rest.get(..end) {
                    Some("in") => (Kind::In, end),
                    Some("notin") => (Kind::NotIn, end),
                    Some(word) if !word.is_empty() => (Kind::Word, end),
                    _ => (Kind::Unknown, first.len_utf8()),
                }
            }
        };
        let (token, after) = rest.split_at(length);
        all.push(Token { kind, text: token });
        rest = after;
    }
    all.push(Token { kind: Kind::End, text: "" });
    all
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

fn error<T>(message: impl Into<String>) -> Result<T, SelectorError> {
    Err(SelectorError::new(message))
}

impl<'a> Parser<'a> {
    fn peek_as_is(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token { kind: Kind::End, text: "" })
    }

    /// Where a name or value may stand, `in` and `notin` are such.
    fn peek(&self) -> Token<'a> {
        let token = self.peek_as_is();
        match token.kind {
            Kind::In | Kind::NotIn => Token { kind: Kind::Word, ..token },
            _ => token,
        }
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next();
        let absent = token.kind == Kind::Not;
        if absent {
            token = self.next();
        }
        if token.kind != Kind::Word {
            return error(format!("found '{}', expected: identifier", token.text));
        }
        let key = token.text;
        if let Some(fault) = key_fault(key) {
            return error(format!("<nil>: Invalid value: {key:?}: {fault}"));
        }
        let requirement = |operator| Ok(Requirement { key: key.to_owned(), operator });
        if absent {
            return requirement(Operator::DoesNotExist);
        }
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return requirement(Operator::Exists);
        }
        let operator = self.peek_as_is();
        self.at += 1;
        let mut values = match operator.kind {
            Kind::In | Kind::NotIn => self.values()?,
            Kind::Equals | Kind::NotEquals | Kind::Greater | Kind::Less => vec![self.value()?.to_owned()],
            _ => {
                return error(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", operator.text));
            }
        };
        values.sort_unstable();
        values.dedup();
        let mut faults = Vec::new();
        let mut bound = 0;
        if let (Kind::Greater | Kind::Less, Some(value)) = (operator.kind, values.first()) {
            match value.parse() {
                Ok(number) => bound = number,
                Err(_) => faults.push(format!(
                    "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                )),
            }
        }
        for (at, value) in values.iter().enumerate() {
            if let Some(fault) = value_fault(value) {
                faults.push(format!("values[{at}][{key}]: Invalid value: {value:?}: {fault}"));
            }
        }
        match faults.as_slice() {
            [] => {}
            [one] => return error(one),
            many => return error(format!("[{}]", many.join(", "))),
        }
        requirement(match operator.kind {
            Kind::In | Kind::Equals => Operator::In(values),
            Kind::Greater => Operator::GreaterThan(bound),
            Kind::Less => Operator::LessThan(bound),
            _ => Operator::NotIn(values),
        })
    }

    fn value(&mut self) -> Result<&'a str, SelectorError> {
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return Ok("");
        }
        let token = self.next();
        if token.kind == Kind::Word {
            return Ok(token.text);
        }
        error(format!("found '{}', expected: identifier", token.text))
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let open = self.next();
        if open.kind != Kind::Open {
            return error(format!("found '{}' expected: '('", open.text));
        }
        let first = self.peek();
        match first.kind {
            Kind::Word | Kind::Comma => {
                let values = self.identifiers()?;
                if self.next().kind != Kind::Close {
                    return error(format!("found '{}', expected: ')'", first.text));
                }
                Ok(values)
            }
            Kind::Close => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            _ => error(format!("found '{}', expected: ',', ')' or identifier", first.text)),
        }
    }

    /// Up to the closing parenthesis; what is left out between commas is the empty value.
    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values: Vec<String> = Vec::new();
        loop {
            let token = self.next();
            match token.kind {
                Kind::Word => {
                    values.push(token.text.to_owned());
                    let after = self.peek();
                    match after.kind {
                        Kind::Comma => {}
                        Kind::Close => return Ok(values),
                        _ => return error(format!("found '{}', expected: ',' or ')'", after.text)),
                    }
                }
                Kind::Comma => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().kind {
                        Kind::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Kind::Comma => {
                            self.at += 1;
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                _ => return error(format!("found '{}', expected: ',', or identifier", token.text)),
            }
        }
    }
}

pub(crate) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        let token = parser.peek();
        match token.kind {
            Kind::Word | Kind::Not => {
                let requirement = parser.requirement();
                requirements.push(
                    requirement
                        .map_err(|e| SelectorError::new(format!("unable to parse requirement: {e}")))?,
                );
                let after = parser.next();
                match after.kind {
                    Kind::End => break,
                    Kind::Comma => {
                        let next = parser.peek();
                        if !matches!(next.kind, Kind::Word | Kind::Not) {
                            return error(format!("found '{}', expected: identifier after ','", next.text));
                        }
                    }
                    _ => return error(format!("found '{}', expected: ',' or 'end of string'", after.text)),
                }
            }
            Kind::End => break,
            _ => {
                return error(format!("found '{}', expected: !, identifier, or 'end of string'", token.text));
            }
        }
    }
    // As upstream shows and compares them.
    requirements.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(requirements)
}

const NAME_FORM: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const DNS_FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_BYTES_MAX: usize = 63;
const DNS_BYTES_MAX: usize = 253;

fn key_fault(key: &str) -> Option<String> {
    let mut faults = Vec::new();
    let name = match key.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > DNS_BYTES_MAX {
                    faults.push(format!("prefix part must be no more than {DNS_BYTES_MAX} bytes"));
                }
                if !is_subdomain(prefix) {
                    faults.push(format!("prefix part {DNS_FORM}"));
                }
            }
            name
        }
        _ => {
            return Some(format!(
                "a valid label key {NAME_FORM} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        faults.push(format!("name part must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !is_name_part(name) && name.len() <= LABEL_BYTES_MAX {
        faults.push(format!("name part {NAME_FORM}"));
    }
    (!faults.is_empty()).then(|| faults.join("; "))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|part| {
        let ends = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ends(part.bytes().next())
            && ends(part.bytes().last())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

fn value_fault(value: &str) -> Option<String> {
    if value.len() > LABEL_BYTES_MAX {
        return Some(format!("must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    (!value.is_empty() && !is_name_part(value)).then(|| {
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_upstreams_words() {
        for (text, want) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in x", "unable to parse requirement: found 'x' expected: '('"),
            ("a in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "l>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        }
        for (text, part) in [
            ("-a", "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist"),
            (
                "a=-x",
                "unable to parse requirement: values[0][a]: Invalid value: \"-x\": a valid label must be",
            ),
            ("a/b/c", "<nil>: Invalid value: \"a/b/c\": a valid label key must consist"),
            ("/b", "prefix part must be non-empty"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn empty_values_and_words_that_are_operators() {
        let values = |text: &str| match &parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))[0].operator {
            Operator::In(values) | Operator::NotIn(values) => values.join("|"),
            other => format!("{other:?}"),
        };
        for (text, want) in [
            ("a in ()", ""),
            ("a notin (,)", ""),
            ("a in (,x)", "|x"),
            ("a in (x,,y)", "|x|y"),
            ("a=", ""),
            ("in in (notin)", "notin"),
            ("a=in", "in"),
            ("a==b", "b"),
        ] {
            assert_eq!(values(text), want, "{text}");
        }
        assert_eq!(parse("b,!a").unwrap()[0].key, "a");
    }
}
