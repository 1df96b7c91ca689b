//! Infers the type of each part of an expression and finds what cannot be.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Comprehension, Element, Entry, Expr, Kind, Literal, operators};
use super::error::Mistake;
use super::functions::{self, Overload};
use super::inference::{Bindings, most_general};
use super::types::{Root, Type};

/// What the checker found out, by the numbers of the nodes.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub types: Vec<Type>,
    /// The overloads that a call can mean. More than one if arguments are `dyn`.
    pub overloads: HashMap<u32, Vec<&'static str>>,
}

impl Checked {
    pub fn type_of(&self, expression: &Expr) -> &Type {
        self.types.get(expression.id as usize).unwrap_or(&Type::Dyn)
    }

    pub fn overloads_of(&self, expression: &Expr) -> &[&'static str] {
        self.overloads.get(&expression.id).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Checks an expression whose variables have the given types. Calls of functions with dots in their names lose their receivers.
pub(super) fn check(
    root: &mut Expr,
    offsets: &[u32],
    variables: &HashMap<String, Type>,
    names: &Root,
    mutation: bool,
) -> Result<Checked, Vec<Mistake>> {
    let mut checker = Checker {
        types: vec![Type::Error; offsets.len()],
        overloads: HashMap::new(),
        bindings: Bindings::default(),
        scopes: Vec::new(),
        offsets,
        variables,
        names,
        mutation,
        mistakes: Vec::new(),
    };
    checker.expression(root);
    if !checker.mistakes.is_empty() {
        // The order of the text, whatever the order of checking.
        checker.mistakes.sort_by_key(|mistake| mistake.offset);
        return Err(checker.mistakes);
    }
    let types = checker.types.iter().map(|of| checker.bindings.resolve(of, true)).collect();
    Ok(Checked { types, overloads: checker.overloads })
}

struct Checker<'a> {
    types: Vec<Type>,
    overloads: HashMap<u32, Vec<&'static str>>,
    bindings: Bindings,
    /// Variables of loops, the innermost last.
    scopes: Vec<(String, Type)>,
    offsets: &'a [u32],
    variables: &'a HashMap<String, Type>,
    names: &'a Root,
    mutation: bool,
    mistakes: Vec<Mistake>,
}

/// The types that can be named in expressions, `type(x) == string`.
fn named_type(name: &str) -> Option<Type> {
    let of = match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "type" => return Some(Type::Type(None)),
        "kubernetes.Quantity" => super::types::QUANTITY,
        "kubernetes.URL" => super::types::URL,
        "kubernetes.Semver" => super::types::SEMVER,
        "kubernetes.NamedFormat" => super::types::FORMAT,
        "net.IP" => super::types::IP,
        "net.CIDR" => super::types::CIDR,
        _ => return None,
    };
    Some(Type::Type(Some(Arc::new(of))))
}

impl Checker<'_> {
    fn mistake(&mut self, id: u32, message: String) {
        self.mistakes.push(Mistake { offset: self.offsets.get(id as usize).copied(), message });
    }

    fn written(&self, of: &Type) -> String {
        of.display(self.names).to_string()
    }

    fn set(&mut self, id: u32, of: Type) {
        if let Some(slot) = self.types.get_mut(id as usize) {
            *slot = of;
        }
    }

    fn get(&self, expression: &Expr) -> Type {
        self.types.get(expression.id as usize).cloned().unwrap_or(Type::Error)
    }

    fn undeclared(&mut self, id: u32, name: &str) {
        self.mistake(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn function(&self, name: &str) -> Option<&'static [Overload]> {
        // A library that only mutation has.
        if name.starts_with("jsonpatch.") && !self.mutation {
            return None;
        }
        functions::all().get(name)
    }

    fn lookup(&self, name: &str) -> Option<Type> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if plain.len() == name.len()
            && let Some((_, of)) = self.scopes.iter().rev().find(|(variable, _)| variable == name)
        {
            return Some(of.clone());
        }
        self.variables.get(plain).cloned().or_else(|| named_type(plain))
    }

    fn expression(&mut self, expression: &mut Expr) {
        let id = expression.id;
        let of = match &mut expression.kind {
            Kind::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Kind::Ident(name) => match self.lookup(name) {
                Some(of) => of,
                None => {
                    let name = name.clone();
                    self.undeclared(id, &name);
                    Type::Error
                }
            },
            Kind::Select { .. } => self.select(expression),
            Kind::Call { .. } => self.call(expression),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => {
                let name = name.clone();
                for field in fields {
                    self.expression(&mut field.value);
                }
                match self.lookup(&name) {
                    None => self.undeclared(id, &name),
                    Some(_) => self.mistake(id, format!("'{name}' is not a message type")),
                }
                Type::Error
            }
            Kind::Comprehension(comprehension) => self.comprehension(comprehension),
            Kind::Wrong => Type::Error,
        };
        self.set(id, of);
    }

    fn select(&mut self, expression: &mut Expr) -> Type {
        let id = expression.id;
        if let Some(name) = expression.qualified_name()
            && let Some(of) = self.lookup_qualified(&name)
        {
            expression.kind = Kind::Ident(name);
            return of;
        }
        let Kind::Select { operand, field, test } = &mut expression.kind else { return Type::Error };
        let test = *test;
        self.expression(operand);
        let of = self.get(operand);
        let field = field.clone();
        let selected = self.field(id, &of, &field, false);
        if test { Type::Bool } else { self.bindings.resolve(&selected, false) }
    }

    /// A name with dots, unless its first part is a loop's variable.
    fn lookup_qualified(&self, name: &str) -> Option<Type> {
        let first = name.split('.').next()?;
        if self.scopes.iter().any(|(variable, _)| variable == first) {
            return None;
        }
        self.lookup(name)
    }

    fn field(&mut self, id: u32, of: &Type, field: &str, optional: bool) -> Type {
        let operand = self.bindings.resolve(of, false);
        let (target, was_optional) = match &operand {
            Type::Optional(inner) => ((**inner).clone(), true),
            _ => (operand, false),
        };
        let selected = match &target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(object) => match object.field(field) {
                Some(found) => found.declared.of.clone(),
                None => {
                    self.mistake(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            _ => {
                let written = self.written(&target);
                let message = match &target {
                    // Upstream declares these as objects whose fields nothing provides.
                    Type::Opaque(name) if name.starts_with("kubernetes.") => {
                        format!("unexpected failed resolution of '{name}'")
                    }
                    _ => format!("type '{written}' does not support field selection"),
                };
                self.mistake(id, message);
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(selected) } else { selected }
    }

    fn call(&mut self, expression: &mut Expr) -> Type {
        let id = expression.id;
        let Kind::Call { target, function, arguments } = &mut expression.kind else { return Type::Error };
        if function == operators::OPTIONAL_SELECT {
            let [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] =
                arguments.as_mut_slice()
            else {
                self.mistake(
                    id,
                    "unsupported optional field selection: incorrect signature. argument count: 0".into(),
                );
                return Type::Error;
            };
            self.expression(operand);
            let of = self.get(operand);
            let selected = self.field(id, &of, field, true);
            self.overloads.insert(id, vec!["select_optional_field"]);
            if let [_, field] = arguments.as_slice() {
                self.set(field.id, Type::String);
            }
            return self.bindings.resolve(&selected, false);
        }
        for argument in arguments.iter_mut() {
            self.expression(argument);
        }
        if let Some(receiver) = target {
            // `url(...)` and `ip.isCanonical(...)` are functions with dots in their names, unless a variable is called so.
            if let Some(prefix) = receiver.qualified_name() {
                let first = prefix.split('.').next().unwrap_or_default();
                let full = format!("{prefix}.{function}");
                if !self.scopes.iter().any(|(variable, _)| variable == first)
                    && self.function(&full).is_some()
                {
                    *function = full;
                    *target = None;
                }
            }
        }
        if let Some(receiver) = target {
            self.expression(receiver);
        }
        let Some(overloads) = self.function(function) else {
            let function = function.clone();
            self.undeclared(id, &function);
            return Type::Error;
        };
        let mut types: Vec<Type> = target.iter().map(|receiver| self.get(receiver)).collect();
        types.extend(arguments.iter().map(|argument| self.get(argument)));
        if matches!(function.as_str(), operators::AND | operators::OR) {
            let places: Vec<u32> = arguments.iter().map(|argument| argument.id).collect();
            return self.logical(id, overloads, &places, &types);
        }
        let (function, member) = (function.clone(), target.is_some());
        self.resolve_overload(id, &function, overloads, member, &types)
    }

    fn logical(&mut self, id: u32, overloads: &'static [Overload], places: &[u32], types: &[Type]) -> Type {
        let mut of = Type::Bool;
        for (place, operand) in places.iter().zip(types) {
            if !self.bindings.assignable(operand, &Type::Bool) {
                let written = self.written(&self.bindings.resolve(operand, false));
                self.mistake(*place, format!("expected type 'bool' but found '{written}'"));
                of = Type::Error;
            }
        }
        self.overloads.insert(id, overloads.iter().map(|overload| overload.id).collect());
        of
    }

    fn resolve_overload(
        &mut self,
        id: u32,
        function: &str,
        overloads: &'static [Overload],
        member: bool,
        types: &[Type],
    ) -> Type {
        let mut matching = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads
            .iter()
            .filter(|overload| overload.member == member && overload.parameters.len() == types.len())
        {
            let mut fresh = HashMap::new();
            let parameters: Vec<Type> =
                overload.parameters.iter().map(|of| self.bindings.instantiate(of, &mut fresh)).collect();
            if !self.bindings.all_assignable(types, &parameters) {
                continue;
            }
            matching.push(overload.id);
            let declared = self.bindings.instantiate(&overload.result, &mut fresh);
            let of = self.bindings.resolve(&declared, false);
            result = match result {
                None => Some(of),
                Some(earlier) if !earlier.is_dyn() && earlier != of => Some(Type::Dyn),
                earlier => earlier,
            };
        }
        let Some(result) = result else {
            let mut written: Vec<String> =
                types.iter().map(|of| self.written(&self.bindings.resolve(of, true))).collect();
            let receiver = if member { format!("{}.", written.remove(0)) } else { String::new() };
            self.mistake(
                id,
                format!(
                    "found no matching overload for '{function}' applied to '{receiver}({})'",
                    written.join(", ")
                ),
            );
            return Type::Error;
        };
        self.overloads.insert(id, matching);
        result
    }

    /// The common type of an aggregate's values: the most general, if they agree. Those that must agree are looked at later.
    fn join(&mut self, earlier: Option<Type>, of: Type) -> Type {
        match earlier {
            None => of,
            Some(earlier) if self.bindings.assignable(&earlier, &of) => most_general(&earlier, &of).clone(),
            Some(_) => Type::Dyn,
        }
    }

    /// The type inside an optional, which an entry with a question mark must be.
    fn inside_optional(&mut self, expression: &Expr) -> Type {
        match self.bindings.resolve(&self.get(expression), false) {
            Type::Optional(inner) => (*inner).clone(),
            of => {
                if !of.is_dyn() {
                    let (expected, found) = (self.written(&Type::optional(of.clone())), self.written(&of));
                    self.mistake(expression.id, format!("expected type '{expected}' but found '{found}'"));
                }
                of
            }
        }
    }

    fn list(&mut self, elements: &mut [Element]) -> Type {
        let mut common = None;
        for element in elements {
            self.expression(&mut element.value);
            let of = if element.optional {
                self.inside_optional(&element.value)
            } else {
                self.get(&element.value)
            };
            common = Some(self.join(common, of));
        }
        Type::list(common.unwrap_or_else(|| self.bindings.variable()))
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.expression(&mut entry.key);
            let key = self.get(&entry.key);
            keys = Some(self.join(keys, key));
            self.expression(&mut entry.value);
            let of = if entry.optional { self.inside_optional(&entry.value) } else { self.get(&entry.value) };
            values = Some(self.join(values, of));
        }
        match (keys, values) {
            (Some(key), Some(value)) => Type::map(key, value),
            _ => {
                let key = self.bindings.variable();
                Type::map(key, self.bindings.variable())
            }
        }
    }

    fn comprehension(&mut self, comprehension: &mut Comprehension) -> Type {
        self.expression(&mut comprehension.range);
        self.expression(&mut comprehension.start);
        let range = self.bindings.resolve(&self.get(&comprehension.range), false);
        let accumulated = self.get(&comprehension.start);
        let two = comprehension.second_variable.is_some();
        let (first, second) = match &range {
            Type::List(element) if two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Dyn),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            _ => {
                let written = self.written(&range);
                let message = format!(
                    "expression of type '{written}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.mistake(comprehension.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((comprehension.accumulator.clone(), accumulated.clone()));
        let depth = self.scopes.len();
        self.scopes.push((comprehension.variable.clone(), first));
        if let Some(variable) = &comprehension.second_variable {
            self.scopes.push((variable.clone(), second));
        }
        self.expression(&mut comprehension.condition);
        self.assert(&comprehension.condition, &Type::Bool);
        self.expression(&mut comprehension.step);
        self.assert(&comprehension.step, &accumulated);
        self.scopes.truncate(depth);
        self.expression(&mut comprehension.result);
        self.scopes.pop();
        self.bindings.resolve(&self.get(&comprehension.result), false)
    }

    fn assert(&mut self, expression: &Expr, expected: &Type) {
        let of = self.get(expression);
        if !self.bindings.assignable(expected, &of) {
            let (expected, found) = (
                self.written(&self.bindings.resolve(expected, false)),
                self.written(&self.bindings.resolve(&of, false)),
            );
            self.mistake(expression.id, format!("expected type '{expected}' but found '{found}'"));
        }
    }
}
