//! The functions that expressions know: their overloads by name, and what each does.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::error::EvalError;
use super::library;
use super::types::Type;
use super::value::Value;

/// What a function does with its arguments, the receiver being the first.
pub(super) type Implementation = for<'a> fn(&Site, &[Value<'a>]) -> Result<Value<'a>, EvalError>;

/// Where a function is called: what was prepared for it when the expression was compiled.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// The pattern, if it is written in the expression.
    pub pattern: Option<regex::Regex>,
}

pub(super) struct Overload {
    pub id: &'static str,
    /// Called on a receiver, which is the first parameter.
    pub member: bool,
    pub parameters: Vec<Type>,
    pub result: Type,
    /// None for operators and the few functions that evaluation itself knows.
    pub run: Option<Implementation>,
}

#[derive(Default)]
pub(super) struct Functions {
    by_name: HashMap<&'static str, Vec<Overload>>,
}

static ALL: LazyLock<Functions> = LazyLock::new(|| {
    let mut functions = Functions::default();
    library::declare(&mut functions);
    functions
});

pub(super) fn all() -> &'static Functions {
    &ALL
}

impl Functions {
    pub fn get(&self, name: &str) -> Option<&[Overload]> {
        self.by_name.get(name.strip_prefix('.').unwrap_or(name)).map(Vec::as_slice)
    }

    /// Declares overloads, each with its id and signature, that one implementation serves.
    pub fn declare(
        &mut self,
        name: &'static str,
        member: bool,
        run: Option<Implementation>,
        overloads: &[(&'static str, &str)],
    ) {
        for (id, signature) in overloads {
            let Some((parameters, result)) = Type::signature(signature) else {
                // NOTE: a test walks the list, so that no signature can be wrong unnoticed.
                tracing::error!(name, signature, "the signature of a function cannot be read");
                continue;
            };
            self.by_name.entry(name).or_default().push(Overload { id, member, parameters, result, run });
        }
    }

    pub fn global(&mut self, name: &'static str, run: Implementation, overloads: &[(&'static str, &str)]) {
        self.declare(name, false, Some(run), overloads);
    }

    pub fn member(&mut self, name: &'static str, run: Implementation, overloads: &[(&'static str, &str)]) {
        self.declare(name, true, Some(run), overloads);
    }

    pub fn operator(&mut self, name: &'static str, overloads: &[(&'static str, &str)]) {
        self.declare(name, false, None, overloads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_overload_is_declared_twice() {
        let mut seen = std::collections::HashSet::new();
        for (name, overloads) in &all().by_name {
            for overload in overloads {
                assert!(seen.insert((name, overload.id, overload.member)), "{name}: {}", overload.id);
                assert!(!overload.member || !overload.parameters.is_empty(), "{name}: {}", overload.id);
            }
        }
        assert!(seen.len() > 200, "{}", seen.len());
    }
}
