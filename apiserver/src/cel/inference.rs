//! Unification: which type agrees with which, and what the variables of a type stand for.

use std::collections::HashMap;
use std::sync::Arc;

use super::types::Type;

/// What variables stand for, with a log by which an attempt is taken back.
#[derive(Default)]
pub(super) struct Bindings {
    bound: Vec<Option<Type>>,
    log: Vec<(u32, Option<Type>)>,
}

/// How deeply types are compared. Types grow with the depth of an expression, which is bounded; a loop among variables is not.
const DEPTH_MAX: usize = 600;

impl Bindings {
    pub fn variable(&mut self) -> Type {
        self.bound.push(None);
        Type::Param((self.bound.len() - 1) as u32)
    }

    fn find(&self, variable: u32) -> Option<&Type> {
        self.bound.get(variable as usize)?.as_ref()
    }

    fn bind(&mut self, variable: u32, to: Type) {
        let Some(slot) = self.bound.get_mut(variable as usize) else { return };
        self.log.push((variable, slot.replace(to)));
    }

    fn attempt(&mut self, what: impl FnOnce(&mut Self) -> bool) -> bool {
        let before = self.log.len();
        let holds = what(self);
        if !holds {
            while self.log.len() > before {
                if let Some((variable, earlier)) = self.log.pop() {
                    self.bound[variable as usize] = earlier;
                }
            }
        }
        if before == 0 {
            self.log.clear();
        }
        holds
    }

    /// Whether a value of type `from` can be where `to` is expected. If not, nothing is bound.
    pub fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.attempt(|bindings| bindings.agrees(from, to, 0))
    }

    pub fn all_assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        self.attempt(|bindings| {
            from.len() == to.len() && from.iter().zip(to).all(|(from, to)| bindings.agrees(from, to, 0))
        })
    }

    fn agrees(&mut self, from: &Type, to: &Type, depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return false;
        }
        if let Type::Param(variable) = to {
            let (valid, was_bound) = self.substitutes(from, *variable, depth);
            if valid || was_bound {
                return valid;
            }
        }
        if let Type::Param(variable) = from {
            return self.substitutes(to, *variable, depth).0;
        }
        if from.is_dyn_or_error() || to.is_dyn_or_error() {
            return true;
        }
        match (from, to) {
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(from), Type::List(to)) | (Type::Optional(from), Type::Optional(to)) => {
                self.agrees(from, to, depth + 1)
            }
            (Type::Map(from), Type::Map(to)) => {
                self.agrees(&from.0, &to.0, depth + 1) && self.agrees(&from.1, &to.1, depth + 1)
            }
            _ => from == to,
        }
    }

    /// Whether `variable` can stand for `of`, and whether it already stood for something.
    fn substitutes(&mut self, of: &Type, variable: u32, depth: usize) -> (bool, bool) {
        if *of == Type::Param(variable) {
            return (true, true);
        }
        if let Some(bound) = self.find(variable).cloned() {
            if *of == bound {
                return (true, true);
            }
            if !self.agrees(of, &bound, depth + 1) {
                return (false, true);
            }
            let general = most_general(of, &bound).clone();
            if !self.occurs(variable, &general, 0) {
                self.bind(variable, general);
            }
            return (true, true);
        }
        if self.occurs(variable, of, 0) {
            return (false, false);
        }
        self.bind(variable, of.clone());
        (true, false)
    }

    fn occurs(&self, variable: u32, within: &Type, depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return true;
        }
        match within {
            Type::Param(other) if *other == variable => true,
            Type::Param(other) => {
                self.find(*other).is_some_and(|bound| self.occurs(variable, bound, depth + 1))
            }
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => {
                self.occurs(variable, inner, depth + 1)
            }
            Type::Map(entry) => {
                self.occurs(variable, &entry.0, depth + 1) || self.occurs(variable, &entry.1, depth + 1)
            }
            _ => false,
        }
    }

    /// The type with its variables replaced by what they stand for, and with `to_dyn` the others by `dyn`.
    pub fn resolve(&self, of: &Type, to_dyn: bool) -> Type {
        match of {
            Type::Param(variable) => match self.find(*variable) {
                Some(bound) => self.resolve(&bound.clone(), to_dyn),
                None if to_dyn => Type::Dyn,
                None => of.clone(),
            },
            Type::List(inner) => Type::list(self.resolve(inner, to_dyn)),
            Type::Optional(inner) => Type::optional(self.resolve(inner, to_dyn)),
            Type::Map(entry) => Type::map(self.resolve(&entry.0, to_dyn), self.resolve(&entry.1, to_dyn)),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.resolve(inner, to_dyn)))),
            _ => of.clone(),
        }
    }

    /// A declared type with its parameters replaced by fresh variables, the same for all types of one signature.
    pub fn instantiate(&mut self, of: &Type, fresh: &mut HashMap<u32, Type>) -> Type {
        match of {
            Type::Param(parameter) => {
                if let Some(variable) = fresh.get(parameter) {
                    return variable.clone();
                }
                let variable = self.variable();
                fresh.insert(*parameter, variable.clone());
                variable
            }
            Type::List(inner) => Type::list(self.instantiate(inner, fresh)),
            Type::Optional(inner) => Type::optional(self.instantiate(inner, fresh)),
            Type::Map(entry) => {
                Type::map(self.instantiate(&entry.0, fresh), self.instantiate(&entry.1, fresh))
            }
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.instantiate(inner, fresh)))),
            _ => of.clone(),
        }
    }
}

/// The more general of two types that agree.
pub(super) fn most_general<'a>(one: &'a Type, other: &'a Type) -> &'a Type {
    if is_equal_or_less_specific(one, other) { one } else { other }
}

fn is_equal_or_less_specific(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::Type(_), Type::Type(_)) => true,
        (Type::List(one), Type::List(other)) | (Type::Optional(one), Type::Optional(other)) => {
            is_equal_or_less_specific(one, other)
        }
        (Type::Map(one), Type::Map(other)) => {
            is_equal_or_less_specific(&one.0, &other.0) && is_equal_or_less_specific(&one.1, &other.1)
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_stand_for_what_they_met() {
        let mut bindings = Bindings::default();
        let variable = bindings.variable();
        assert!(bindings.assignable(&Type::list(Type::Int), &Type::list(variable.clone())));
        assert_eq!(bindings.resolve(&variable, false), Type::Int);
        assert!(!bindings.assignable(&Type::String, &variable));
        assert!(bindings.assignable(&Type::Dyn, &variable));
        assert_eq!(bindings.resolve(&variable, false), Type::Dyn);
    }

    #[test]
    fn no_type_contains_itself_and_a_failed_attempt_binds_nothing() {
        let mut bindings = Bindings::default();
        let (one, other) = (bindings.variable(), bindings.variable());
        assert!(!bindings.assignable(&Type::list(one.clone()), &one));
        assert!(!bindings.all_assignable(&[Type::Int, Type::String], &[other.clone(), Type::Int]));
        assert_eq!(bindings.resolve(&other, true), Type::Dyn);
    }
}
