//! Macros: calls that stand for loops and tests, written out while the text is read.

use super::ast::{ACCUMULATOR, Comprehension, Element, Entry, Expr, Field, Kind, Literal, operators};
use super::parser::Builder;

/// No expression becomes larger than this by its macros.
const NODES_MAX: usize = 200_000;

pub(super) enum Expansion {
    Expanded(Expr),
    /// The call is a macro's, its arguments are not: where, and what is wrong.
    Wrong(u32, String),
    /// No macro: the call as it came.
    Call(Option<Expr>, Vec<Expr>),
}

/// Writes out a macro's call, if it is one.
pub(super) fn expand(
    builder: &mut Builder,
    id: u32,
    target: Option<Expr>,
    function: &str,
    arguments: Vec<Expr>,
) -> Expansion {
    let offset = builder.offsets.get(id as usize).copied().unwrap_or_default();
    let mut make = Make { builder, offset };
    let expanded = match (target, function, arguments.len()) {
        (None, "has", 1) => make.has(arguments),
        (Some(range), "all" | "exists" | "exists_one" | "existsOne" | "filter", 2)
            if function != "existsOne" =>
        {
            make.one_variable(range, function, arguments)
        }
        (Some(range), "map", 2 | 3) => make.map(range, arguments),
        (Some(range), "all" | "exists" | "exists_one" | "existsOne", 3) => {
            make.two_variables(range, function, arguments)
        }
        (Some(range), "transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
            make.two_variables(range, function, arguments)
        }
        (Some(target), "optMap" | "optFlatMap", 2) => make.optional_map(target, function, arguments),
        (Some(target), "sortBy", 2) => make.sort_by(target, arguments),
        (target, _, _) => return Expansion::Call(target, arguments),
    };
    match expanded {
        Ok(expression) => Expansion::Expanded(expression),
        Err((offset, message)) => Expansion::Wrong(offset, message),
    }
}

type Made = Result<Expr, (u32, String)>;

struct Make<'a> {
    builder: &'a mut Builder,
    offset: u32,
}

impl Make<'_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.builder.node(self.offset, kind)
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.to_owned()))
    }

    fn accumulator(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(Kind::Literal(literal))
    }

    fn call(&mut self, function: &str, arguments: Vec<Expr>) -> Expr {
        self.node(Kind::Call { target: None, function: function.to_owned(), arguments })
    }

    fn method(&mut self, target: Expr, function: &str, arguments: Vec<Expr>) -> Expr {
        self.node(Kind::Call { target: Some(Box::new(target)), function: function.to_owned(), arguments })
    }

    fn list(&mut self, values: Vec<Expr>) -> Expr {
        self.node(Kind::List(values.into_iter().map(|value| Element { value, optional: false }).collect()))
    }

    fn has(&mut self, arguments: Vec<Expr>) -> Made {
        let Some(argument) = arguments.into_iter().next() else {
            return Err((self.offset, "invalid argument to has() macro".into()));
        };
        let offset = self.builder.offset(&argument);
        match argument.kind {
            Kind::Select { operand, field, test: false } => {
                Ok(self.node(Kind::Select { operand, field, test: true }))
            }
            _ => Err((offset, "invalid argument to has() macro".into())),
        }
    }

    fn variable(&self, argument: Option<Expr>, message: &str) -> Result<String, (u32, String)> {
        let Some(argument) = argument else { return Err((self.offset, message.into())) };
        let offset = self.builder.offset(&argument);
        match argument.kind {
            Kind::Ident(name) if name == "__result__" => {
                Err((offset, "iteration variable overwrites accumulator variable".into()))
            }
            Kind::Ident(name) => Ok(name),
            _ => Err((offset, message.into())),
        }
    }

    fn comprehension(
        &mut self,
        range: Expr,
        variables: (String, Option<String>),
        start: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> Expr {
        let (variable, second_variable) = variables;
        let accumulator = ACCUMULATOR.to_owned();
        self.node(Kind::Comprehension(Box::new(Comprehension {
            range,
            variable,
            second_variable,
            accumulator,
            start,
            condition,
            step,
            result,
        })))
    }

    /// all, exists and exists_one: over each value a predicate.
    fn quantifier(
        &mut self,
        range: Expr,
        variables: (String, Option<String>),
        function: &str,
        predicate: Expr,
    ) -> Expr {
        let accumulated = self.accumulator();
        match function {
            "all" => {
                let start = self.literal(Literal::Bool(true));
                let condition = self.call(operators::NOT_STRICTLY_FALSE, vec![accumulated]);
                let accumulated = self.accumulator();
                let step = self.call(operators::AND, vec![accumulated, predicate]);
                let result = self.accumulator();
                self.comprehension(range, variables, start, condition, step, result)
            }
            "exists" => {
                let start = self.literal(Literal::Bool(false));
                let not = self.call(operators::NOT, vec![accumulated]);
                let condition = self.call(operators::NOT_STRICTLY_FALSE, vec![not]);
                let accumulated = self.accumulator();
                let step = self.call(operators::OR, vec![accumulated, predicate]);
                let result = self.accumulator();
                self.comprehension(range, variables, start, condition, step, result)
            }
            _ => {
                let start = self.literal(Literal::Int(0));
                let condition = self.literal(Literal::Bool(true));
                let one = self.literal(Literal::Int(1));
                let more = self.call(operators::ADD, vec![accumulated, one]);
                let same = self.accumulator();
                let step = self.call(operators::CONDITIONAL, vec![predicate, more, same]);
                let accumulated = self.accumulator();
                let one = self.literal(Literal::Int(1));
                let result = self.call(operators::EQUALS, vec![accumulated, one]);
                self.comprehension(range, variables, start, condition, step, result)
            }
        }
    }

    fn one_variable(&mut self, range: Expr, function: &str, arguments: Vec<Expr>) -> Made {
        let mut arguments = arguments.into_iter();
        let first = arguments.next();
        let name = match (function, &first) {
            ("filter", Some(Expr { kind: Kind::Ident(name), .. })) if name != "__result__" => name.clone(),
            ("filter", _) => self.variable(first, "argument is not an identifier")?,
            _ => self.variable(first, "argument must be a simple name")?,
        };
        let Some(predicate) = arguments.next() else { return Err((self.offset, "missing predicate".into())) };
        if function != "filter" {
            return Ok(self.quantifier(range, (name, None), function, predicate));
        }
        let item = self.ident(&name);
        Ok(self.collect(range, (name, None), Some(predicate), item))
    }

    /// A list of what `transform` makes of those values that `filter` takes.
    fn collect(
        &mut self,
        range: Expr,
        variables: (String, Option<String>),
        filter: Option<Expr>,
        transform: Expr,
    ) -> Expr {
        let start = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(true));
        let accumulated = self.accumulator();
        let one = self.list(vec![transform]);
        let mut step = self.call(operators::ADD, vec![accumulated, one]);
        if let Some(filter) = filter {
            let same = self.accumulator();
            step = self.call(operators::CONDITIONAL, vec![filter, step, same]);
        }
        let result = self.accumulator();
        self.comprehension(range, variables, start, condition, step, result)
    }

    fn map(&mut self, range: Expr, arguments: Vec<Expr>) -> Made {
        let mut arguments = arguments.into_iter();
        let name = self.variable(arguments.next(), "argument is not an identifier")?;
        let (filter, transform) = match (arguments.next(), arguments.next()) {
            (filter, Some(transform)) => (filter, transform),
            (Some(transform), None) => (None, transform),
            (None, None) => return Err((self.offset, "missing transformation".into())),
        };
        Ok(self.collect(range, (name, None), filter, transform))
    }

    fn two_variables(&mut self, range: Expr, function: &str, arguments: Vec<Expr>) -> Made {
        let mut arguments = arguments.into_iter();
        let name = self.variable(arguments.next(), "argument must be a simple name")?;
        let second = arguments.next();
        let second_offset = second.as_ref().map_or(self.offset, |second| self.builder.offset(second));
        let second = self.variable(second, "argument must be a simple name")?;
        if name == second {
            return Err((second_offset, format!("duplicate variable name: {name}")));
        }
        let (filter, transform) = match (arguments.next(), arguments.next()) {
            (filter, Some(transform)) => (filter, transform),
            (Some(transform), None) => (None, transform),
            (None, None) => return Err((self.offset, "missing transformation".into())),
        };
        let key = self.ident(&name);
        let variables = (name, Some(second));
        match function {
            "transformList" => return Ok(self.collect(range, variables, filter, transform)),
            "all" | "exists" | "exists_one" | "existsOne" => {
                return Ok(self.quantifier(range, variables, function, transform));
            }
            _ => {}
        }
        let start = self.node(Kind::Map(Vec::new()));
        let condition = self.literal(Literal::Bool(true));
        let accumulated = self.accumulator();
        let inserted = if function == "transformMap" {
            vec![accumulated, key, transform]
        } else {
            vec![accumulated, transform]
        };
        let mut step = self.call(operators::MAP_INSERT, inserted);
        if let Some(filter) = filter {
            let same = self.accumulator();
            step = self.call(operators::CONDITIONAL, vec![filter, step, same]);
        }
        let result = self.accumulator();
        Ok(self.comprehension(range, variables, start, condition, step, result))
    }

    /// `name` bound to `value` in `within`: a loop over nothing, whose accumulator is the variable.
    fn bind(&mut self, name: &str, value: Expr, within: Expr) -> Expr {
        let range = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(name);
        self.node(Kind::Comprehension(Box::new(Comprehension {
            range,
            variable: "#unused".into(),
            second_variable: None,
            accumulator: name.to_owned(),
            start: value,
            condition,
            step,
            result: within,
        })))
    }

    fn optional_map(&mut self, target: Expr, function: &str, arguments: Vec<Expr>) -> Made {
        let mut arguments = arguments.into_iter();
        let message = format!("{function}() variable name must be a simple identifier");
        let name = self.variable(arguments.next(), &message)?;
        let Some(transform) = arguments.next() else { return Err((self.offset, message)) };
        let copied = self.copy(&target)?;
        let has = self.method(target, "hasValue", Vec::new());
        let value = self.method(copied, "value", Vec::new());
        let mapped = self.bind(&name, value, transform);
        let mapped = if function == "optMap" { self.call("optional.of", vec![mapped]) } else { mapped };
        let none = self.call("optional.none", Vec::new());
        Ok(self.call(operators::CONDITIONAL, vec![has, mapped, none]))
    }

    /// The same expression once more, which chains of such macros must not do without bound.
    fn copy(&mut self, expression: &Expr) -> Made {
        if self.builder.offsets.len() > NODES_MAX {
            return Err((self.offset, "expression is too large once its macros are expanded".into()));
        }
        let offset = self.builder.offset(expression);
        let kind = match &expression.kind {
            Kind::Literal(_) | Kind::Ident(_) | Kind::Wrong => expression.kind.clone(),
            Kind::Select { operand, field, test } => {
                Kind::Select { operand: Box::new(self.copy(operand)?), field: field.clone(), test: *test }
            }
            Kind::Call { target, function, arguments } => Kind::Call {
                target: match target {
                    Some(target) => Some(Box::new(self.copy(target)?)),
                    None => None,
                },
                function: function.clone(),
                arguments: arguments.iter().map(|argument| self.copy(argument)).collect::<Result<_, _>>()?,
            },
            Kind::List(elements) => Kind::List(
                elements
                    .iter()
                    .map(|element| {
                        Ok(Element { value: self.copy(&element.value)?, optional: element.optional })
                    })
                    .collect::<Result<_, (u32, String)>>()?,
            ),
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|entry| {
                        Ok(Entry {
                            key: self.copy(&entry.key)?,
                            value: self.copy(&entry.value)?,
                            optional: entry.optional,
                        })
                    })
                    .collect::<Result<_, (u32, String)>>()?,
            ),
            Kind::Struct { name, fields } => Kind::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|field| {
                        Ok(Field {
                            id: self.builder.id(offset),
                            name: field.name.clone(),
                            value: self.copy(&field.value)?,
                        })
                    })
                    .collect::<Result<_, (u32, String)>>()?,
            },
            Kind::Comprehension(inner) => Kind::Comprehension(Box::new(Comprehension {
                range: self.copy(&inner.range)?,
                variable: inner.variable.clone(),
                second_variable: inner.second_variable.clone(),
                accumulator: inner.accumulator.clone(),
                start: self.copy(&inner.start)?,
                condition: self.copy(&inner.condition)?,
                step: self.copy(&inner.step)?,
                result: self.copy(&inner.result)?,
            })),
        };
        Ok(self.builder.node(offset, kind))
    }

    fn sort_by(&mut self, target: Expr, arguments: Vec<Expr>) -> Made {
        let input = "@__sortBy_input__";
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. }) {
            let offset = self.builder.offset(&target);
            return Err((
                offset,
                "sortBy can only be applied to a list, identifier, comprehension, call or select expression"
                    .into(),
            ));
        }
        let range = self.ident(input);
        let keys = self.map(range, arguments)?;
        let list = self.ident(input);
        let sorted = self.method(list, operators::SORT_BY_KEYS, vec![keys]);
        Ok(self.bind(input, target, sorted))
    }
}
