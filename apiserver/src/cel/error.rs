//! What is wrong with an expression: when it is compiled, with the place in its text, and when it is evaluated.

use std::borrow::Cow;
use std::fmt;

use super::value::Value;

/// Why an expression cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// The expression that is wrong.
    pub source: String,
    pub kind: CompileErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileErrorKind {
    /// The text or the types are wrong: each mistake with its place.
    Mistakes(Vec<Mistake>),
    /// The result is not of the type that is wanted, `bool` or `string`.
    Result(&'static str),
    /// A conversion of a constant can only fail.
    Constant(String),
}

impl CompileError {
    /// What upstream says of a rule.
    pub fn of_rule(&self) -> String {
        match &self.kind {
            CompileErrorKind::Mistakes(_) => format!("compilation failed: {self}"),
            CompileErrorKind::Result(_) => format!("cel expression {self}"),
            CompileErrorKind::Constant(_) => format!("program instantiation failed: {self}"),
        }
    }

    /// What upstream says of the expression of a rule's message.
    pub fn of_message_expression(&self) -> String {
        match &self.kind {
            CompileErrorKind::Mistakes(_) => format!("messageExpression compilation failed: {self}"),
            CompileErrorKind::Result(_) => format!("messageExpression {self}"),
            CompileErrorKind::Constant(_) => format!("messageExpression instantiation failed: {self}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Characters before the mistake; none if it has no place.
    pub offset: Option<u32>,
    pub message: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            CompileErrorKind::Result(wanted) => write!(f, "must evaluate to a {wanted}"),
            CompileErrorKind::Constant(why) => f.write_str(why),
            CompileErrorKind::Mistakes(mistakes) => {
                for (number, mistake) in mistakes.iter().enumerate() {
                    if number > 0 {
                        f.write_str("\n")?;
                    }
                    mistake.write(&self.source, f)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for CompileError {}

/// Lines longer than this are not shown.
const SNIPPET_LENGTH_MAX: usize = 16384;

impl Mistake {
    fn write(&self, source: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(offset) = self.offset else {
            return write!(f, "ERROR: <input>:-1:0: {}", self.message);
        };
        let (line, column) = place(source, offset);
        write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, self.message)?;
        let Some(snippet) = source.split('\n').nth(line - 1) else { return Ok(()) };
        if snippet.len() > SNIPPET_LENGTH_MAX {
            return Ok(());
        }
        let snippet = snippet.replace('\t', " ");
        write!(f, "\n | {snippet}\n | ")?;
        let mut characters = snippet.chars();
        for character in characters.by_ref().take(column) {
            // Characters of several bytes are taken for wide ones.
            f.write_str(if character.len_utf8() > 1 { "．" } else { "." })?;
        }
        f.write_str(if characters.next().is_some_and(|c| c.len_utf8() > 1) { "＾" } else { "^" })
    }
}

/// The line, from 1, and column, from 0, of a character.
fn place(source: &str, offset: u32) -> (usize, usize) {
    let (mut line, mut column) = (1, 0);
    for character in source.chars().take(offset as usize) {
        if character == '\n' {
            line += 1;
            column = 0;
        } else {
            column += 1;
        }
    }
    (line, column)
}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError {
    pub kind: EvalErrorKind,
    message: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalErrorKind {
    /// A wrong value: `no such key: x`, `division by zero`. Another operand of `&&` or `||` may make up for it.
    Ordinary,
    /// A function got arguments of types that it does not take, which only `dyn` values can bring about.
    NoSuchOverload,
    /// This evaluation did more than one evaluation may. The cost is spent all the same.
    CallLimit,
    /// The budget that evaluations of one object share is spent.
    Budget,
}

impl EvalError {
    pub fn new(message: impl Into<Cow<'static, str>>) -> EvalError {
        EvalError { kind: EvalErrorKind::Ordinary, message: message.into() }
    }

    pub(super) fn no_such_overload() -> EvalError {
        EvalError { kind: EvalErrorKind::NoSuchOverload, message: "no such overload".into() }
    }

    /// A function was called with what it does not take.
    pub(super) fn no_such_function(function: &str, arguments: &[Value<'_>]) -> EvalError {
        let types: Vec<_> = arguments.iter().map(|argument| argument.type_name().into_owned()).collect();
        EvalError::of(
            EvalErrorKind::NoSuchOverload,
            format!("no such overload: {function}({})", types.join(", ")),
        )
    }

    /// An operator's left operand does not have the operator. Texts and times say less, since they could have any function.
    pub(super) fn no_such_operator(function: &str, left: &Value<'_>) -> EvalError {
        match left {
            Value::String(_) | Value::Timestamp(_) | Value::Duration(_) => EvalError::no_such_overload(),
            _ => EvalError::of(EvalErrorKind::NoSuchOverload, format!("no such overload: {function}")),
        }
    }

    pub(super) fn no_such_key(key: impl fmt::Display) -> EvalError {
        EvalError::new(format!("no such key: {key}"))
    }

    pub(super) fn of(kind: EvalErrorKind, message: impl Into<Cow<'static, str>>) -> EvalError {
        EvalError { kind, message: message.into() }
    }

    pub(super) fn call_limit() -> EvalError {
        EvalError::of(EvalErrorKind::CallLimit, "operation cancelled: actual cost limit exceeded")
    }

    /// Whether nothing can make up for the error.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.kind, EvalErrorKind::CallLimit | EvalErrorKind::Budget)
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_pointed_at() {
        let error = CompileError {
            source: "self.foo > 1".into(),
            kind: CompileErrorKind::Mistakes(vec![Mistake {
                offset: Some(4),
                message: "undefined field 'foo'".into(),
            }]),
        };
        assert_eq!(error.to_string(), "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo > 1\n | ....^");
    }

    #[test]
    fn places_are_counted_in_characters_of_their_line() {
        let error = CompileError {
            source: "true &&\n'ß' == x".into(),
            kind: CompileErrorKind::Mistakes(vec![Mistake { offset: Some(15), message: "m".into() }]),
        };
        assert_eq!(error.to_string(), "ERROR: <input>:2:8: m\n | 'ß' == x\n | .．.....^");
    }
}
