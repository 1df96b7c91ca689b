//! Runs an expression, counting what it costs and stopping where it costs too much.

use std::sync::Arc;

use super::arithmetic;
use super::ast::operators;
use super::cost::{LIST, MAP, Rule};
use super::equality;
use super::error::EvalError;
use super::plan::{Binary, Call, Fold, Node};
use super::value::{Entries, Items, List, Map, Value};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// One evaluation.
pub(super) struct Evaluation<'p, 'a> {
    /// The environment's variables; none where nothing was bound.
    pub variables: &'p [Option<Value<'a>>],
    pub names: &'p [String],
    /// Variables of loops, the innermost last. An accumulator can be an error that a later value makes up for.
    pub locals: Vec<Evaluated<'a>>,
    pub cost: u64,
    pub limit: u64,
}

impl<'p, 'a: 'p> Evaluation<'p, 'a> {
    fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::call_limit()) } else { Ok(()) }
    }

    pub fn run(&mut self, node: &'a Node) -> Evaluated<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(place) => {
                self.spend(1)?;
                match self.variables.get(*place) {
                    Some(Some(value)) => Ok(value.clone()),
                    _ => Err(EvalError::new(format!(
                        "no such attribute(s): {}",
                        self.names.get(*place).map_or("", String::as_str)
                    ))),
                }
            }
            Node::Local(place) => {
                self.spend(1)?;
                self.locals.get(*place).cloned().unwrap_or_else(|| Err(EvalError::new("no such attribute")))
            }
            Node::Select(operand, field) => {
                let operand = self.run(operand)?;
                self.spend(1)?;
                match select(&operand, field)? {
                    Value::Optional(None) if matches!(operand, Value::Optional(_)) => Ok(Value::NONE),
                    value => Ok(value),
                }
            }
            Node::Has(operand, field) => {
                let operand = self.run(operand)?;
                // A null that is written out counts as a field that is not there, if the object has a schema.
                Ok(Value::Bool(match find(&operand, field)? {
                    Some(Ok(Value::Null)) => !matches!(operand, Value::Object(_)),
                    found => found.is_some(),
                }))
            }
            Node::OptionalSelect(operand, field) => {
                let operand = self.run(operand)?;
                self.spend(1)?;
                match (find(inside(&operand), field)?, inside(&operand)) {
                    (Some(Ok(Value::Null)), Value::Object(_)) => Ok(Value::NONE),
                    (found, _) => optional(found),
                }
            }
            Node::Index(operand, index) => {
                let (operand, index) = (self.run(operand)?, self.run(index)?);
                self.spend(1)?;
                match &operand {
                    Value::Optional(None) => Ok(Value::NONE),
                    Value::Optional(Some(inner)) => optional(at(inner, &index)?),
                    operand => at(operand, &index)?.unwrap_or_else(|| Err(missing(operand, &index))),
                }
            }
            Node::OptionalIndex(operand, index) => {
                let (operand, index) = (self.run(operand)?, self.run(index)?);
                self.spend(1)?;
                match &operand {
                    Value::Optional(None) => Ok(Value::NONE),
                    operand => optional(at(inside(operand), &index)?),
                }
            }
            Node::Not(operand) => {
                let operand = self.run(operand)?;
                self.spend(1)?;
                operand.as_bool().map(|value| Value::Bool(!value)).ok_or_else(EvalError::no_such_overload)
            }
            Node::Negate(operand) => {
                let operand = self.run(operand)?;
                self.spend(1)?;
                arithmetic::negate(&operand)
            }
            Node::And(left, right) => self.logical(left, right, false),
            Node::Or(left, right) => self.logical(left, right, true),
            Node::Conditional(parts) => match self.run(&parts.0)? {
                Value::Bool(true) => self.run(&parts.1),
                Value::Bool(false) => self.run(&parts.2),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::Binary(operator, rule, operands) => self.binary(*operator, *rule, &operands.0, &operands.1),
            Node::InConstants(operand, list) => {
                let operand = self.run(operand)?;
                match list {
                    Value::List(list) => equality::contains(list, &operand).map(Value::Bool),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::NotStrictlyFalse(operand) => {
                let operand = self.run(operand);
                self.spend(1)?;
                match operand {
                    Err(error) if error.is_final() => Err(error),
                    Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::OptionalOr(left, right) => match self.run(left)? {
                found @ Value::Optional(Some(_)) => Ok(found),
                Value::Optional(None) => self.run(right),
                value => Ok(value),
            },
            Node::OptionalOrValue(left, right) => match self.run(left)? {
                Value::Optional(Some(value)) => Ok((*value).clone()),
                Value::Optional(None) => self.run(right),
                value => Ok(value),
            },
            Node::MapInsert(arguments) => self.map_insert(arguments),
            Node::Call(call) => self.call(call),
            Node::List(elements) => {
                let mut items = Vec::with_capacity(elements.len());
                for (element, is_optional) in elements {
                    match (self.run(element)?, is_optional) {
                        (value, false) => items.push(value),
                        (Value::Optional(Some(value)), true) => items.push((*value).clone()),
                        (Value::Optional(None), true) => {}
                        (other, true) => return Err(not_optional(&other)),
                    }
                }
                self.spend(LIST)?;
                Ok(Value::list(items))
            }
            Node::Map(entries) => self.map(entries),
            Node::Append(place, elements) => self.append(*place, elements),
            Node::Fold(fold) => {
                let depth = self.locals.len();
                let result = self.fold(fold);
                self.locals.truncate(depth);
                result
            }
            Node::Bind(parts) => {
                let value = self.run(&parts.0)?;
                self.locals.push(Ok(value));
                let result = self.run(&parts.1);
                self.locals.pop();
                result
            }
            Node::Impossible => Err(EvalError::new("expression was not checked")),
        }
    }

    /// `&&` and `||`: an operand that decides makes up for whatever the other is.
    fn logical(&mut self, left: &'a Node, right: &'a Node, decisive: bool) -> Evaluated<'a> {
        let mut wrong = None;
        for operand in [left, right] {
            match self.run(operand) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => wrong = wrong.or_else(|| Some(EvalError::no_such_overload())),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        match wrong {
            Some(error) => Err(error),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    fn binary(&mut self, operator: Binary, rule: Rule, left: &'a Node, right: &'a Node) -> Evaluated<'a> {
        let operands = [self.run(left)?, self.run(right)?];
        let [left, right] = &operands;
        self.spend(rule.cost(&operands, None))?;
        let ordered = |function: &str, is: fn(std::cmp::Ordering) -> bool| match left {
            Value::Null
            | Value::List(_)
            | Value::Map(_)
            | Value::Object(_)
            | Value::Optional(_)
            | Value::Type(_)
            | Value::Opaque(_) => Err(EvalError::no_such_operator(function, left)),
            _ => equality::compare(left, right).map(|ordering| Value::Bool(ordering.is_some_and(is))),
        };
        match operator {
            Binary::Equals => equality::equal(left, right).map(Value::Bool),
            Binary::NotEquals => equality::equal(left, right).map(|equal| Value::Bool(!equal)),
            Binary::Less => ordered(operators::LESS, std::cmp::Ordering::is_lt),
            Binary::LessEquals => ordered(operators::LESS_EQUALS, std::cmp::Ordering::is_le),
            Binary::Greater => ordered(operators::GREATER, std::cmp::Ordering::is_gt),
            Binary::GreaterEquals => ordered(operators::GREATER_EQUALS, std::cmp::Ordering::is_ge),
            Binary::Add => {
                if let (Value::List(one), Value::List(other)) = (left, right) {
                    // NOTE: the list is copied, though adding costs one; no limit on the number of copies follows from that.
                    self.spend((one.len() + other.len()) as u64 / 100)?;
                }
                arithmetic::add(left, right)
            }
            Binary::Subtract => arithmetic::subtract(left, right),
            Binary::Multiply => arithmetic::multiply(left, right),
            Binary::Divide => arithmetic::divide(left, right),
            Binary::Modulo => arithmetic::modulo(left, right),
            Binary::In => match right {
                Value::List(list) => equality::contains(list, left).map(Value::Bool),
                Value::Map(map) => Ok(Value::Bool(map.get(left).is_some())),
                Value::Object(object) => match left {
                    Value::String(field) => Ok(Value::Bool(object.get(field).is_some())),
                    _ => Err(EvalError::no_such_overload()),
                },
                _ => Err(EvalError::no_such_overload()),
            },
        }
    }

    fn call(&mut self, call: &'a Call) -> Evaluated<'a> {
        let mut arguments = Vec::with_capacity(call.arguments.len());
        for argument in &call.arguments {
            arguments.push(self.run(argument)?);
        }
        let fitting = call.overloads.iter().find(|overload| {
            overload.parameters.len() == arguments.len()
                && overload.parameters.iter().zip(&arguments).all(|(of, argument)| argument.fits(of))
        });
        let result = match fitting.and_then(|overload| overload.run) {
            Some(run) => run(&call.site, &arguments),
            None => Err(match &*call.function {
                "startsWith" | "endsWith" | "contains" | "matches" => EvalError::no_such_overload(),
                "size" => EvalError::no_such_operator("size", &Value::Null),
                function => EvalError::no_such_function(function, &arguments),
            }),
        };
        self.spend(call.rule.cost(&arguments, result.as_ref().ok()))?;
        result
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Evaluated<'a> {
        let mut map = Entries::new();
        for (key, value, is_optional) in entries {
            let key = self.run(key)?;
            let value = match (self.run(value)?, is_optional) {
                (value, false) => value,
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (Value::Optional(None), true) => continue,
                (other, true) => return Err(not_optional(&other)),
            };
            let Some(place) = key.key() else {
                return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
            };
            map.insert(place, (key, value));
        }
        self.spend(MAP)?;
        Ok(Value::Map(Map::Owned(Arc::new(map))))
    }

    /// Takes a loop's list or map out of its place, so that it can be changed without a copy.
    fn take(&mut self, place: usize) -> Evaluated<'a> {
        match self.locals.get_mut(place) {
            Some(local) => std::mem::replace(local, Ok(Value::Null)),
            None => Err(EvalError::new("no such attribute")),
        }
    }

    fn append(&mut self, place: usize, elements: &'a [Node]) -> Evaluated<'a> {
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            items.push(self.run(element)?);
        }
        self.spend(2 + LIST)?;
        match self.take(place)? {
            Value::List(List { items: Items::Owned(mut list), kind }) => {
                Arc::make_mut(&mut list).extend(items);
                Ok(Value::List(List { items: Items::Owned(list), kind }))
            }
            other => arithmetic::add(&other, &Value::list(items)),
        }
    }

    fn map_insert(&mut self, arguments: &'a [Node]) -> Evaluated<'a> {
        let Some((Node::Local(place), rest)) = arguments.split_first() else {
            return Err(EvalError::no_such_overload());
        };
        let mut inserted = Vec::with_capacity(rest.len());
        for argument in rest {
            inserted.push(self.run(argument)?);
        }
        self.spend(2)?;
        let Value::Map(map) = self.take(*place)? else { return Err(EvalError::no_such_overload()) };
        let mut map = match map {
            Map::Owned(map) => map,
            map => Arc::new(map.to_entries()?),
        };
        let entries = Arc::make_mut(&mut map);
        let mut inserted = inserted.into_iter();
        match (inserted.next(), inserted.next()) {
            (Some(key), Some(value)) => insert(entries, key, value)?,
            (Some(Value::Map(more)), None) => {
                for (key, value) in more.to_entries()?.into_values() {
                    insert(entries, key, value)?;
                }
            }
            _ => return Err(EvalError::no_such_overload()),
        }
        Ok(Value::Map(Map::Owned(map)))
    }

    fn fold(&mut self, fold: &'a Fold) -> Evaluated<'a> {
        let range = self.run(&fold.range)?;
        let start = self.run(&fold.start);
        self.locals.truncate(fold.place);
        self.locals.push(start);
        match &range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(item) = list.get(index) else { break };
                    let index = fold.two_variables.then_some(Ok(Value::Int(index as i64)));
                    if !self.iteration(fold, index.into_iter().chain([item]))? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = fold.two_variables.then(|| map.get(&key)).flatten();
                    if !self.iteration(fold, [Ok(key)].into_iter().chain(value))? {
                        break;
                    }
                }
            }
            Value::Object(object) => {
                for name in object.of.fields.keys() {
                    let Some(value) = object.get(name) else { continue };
                    let value = fold.two_variables.then_some(value);
                    if !self.iteration(fold, [Ok(Value::text(name.as_str()))].into_iter().chain(value))? {
                        break;
                    }
                }
            }
            other => {
                return Err(EvalError::new(format!("got '{}', expected iterable type", other.go_type())));
            }
        }
        self.locals.truncate(fold.place + 1);
        self.run(&fold.result)
    }

    /// One round with the variables' values: whether another follows.
    fn iteration(
        &mut self,
        fold: &'a Fold,
        variables: impl Iterator<Item = Evaluated<'a>>,
    ) -> Result<bool, EvalError> {
        self.locals.truncate(fold.place + 1);
        self.locals.extend(variables);
        if !fold.whole && self.run(&fold.condition)?.as_bool() == Some(false) {
            return Ok(false);
        }
        let next = self.run(&fold.step);
        let failed = match &next {
            Err(error) if error.is_final() => return Err(error.clone()),
            Err(_) => true,
            Ok(_) => false,
        };
        if let Some(accumulator) = self.locals.get_mut(fold.place) {
            *accumulator = next;
        }
        // Where every round adds to the result, nothing makes up for one that failed.
        Ok(!(failed && fold.whole))
    }
}

/// Adds an entry to a map that a loop makes, whose keys must differ.
fn insert<'a>(map: &mut Entries<'a>, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
    let Some(place) = key.key() else {
        return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
    };
    if map.contains_key(&place) {
        return Err(EvalError::new(format!(
            "insert failed: key {} already exists",
            super::library::conversions::text(&key)
        )));
    }
    map.insert(place, (key, value));
    Ok(())
}

fn not_optional(value: &Value<'_>) -> EvalError {
    EvalError::new(format!("cannot initialize optional entry from non-optional value: {}", value.type_name()))
}

/// The value in an optional, or the value itself.
fn inside<'v, 'a>(value: &'v Value<'a>) -> &'v Value<'a> {
    match value {
        Value::Optional(Some(inner)) => inner,
        value => value,
    }
}

fn optional<'a>(found: Option<Evaluated<'a>>) -> Evaluated<'a> {
    match found {
        Some(Ok(value)) => Ok(Value::some(value)),
        Some(Err(error)) => Err(error),
        None => Ok(Value::NONE),
    }
}

/// A field by its name, if it is there.
fn find<'a>(operand: &Value<'a>, field: &str) -> Result<Option<Evaluated<'a>>, EvalError> {
    match operand {
        Value::Object(object) => Ok(object.get(field)),
        Value::Map(map) => Ok(map.get(&Value::String(super::value::Text::Borrowed(field)))),
        Value::Optional(Some(inner)) => find(inner, field),
        Value::List(_) => Err(EvalError::new("unsupported index type 'string' in list")),
        // What has no fields does not have this one.
        _ => Ok(None),
    }
}

fn select<'a>(operand: &Value<'a>, field: &str) -> Evaluated<'a> {
    match operand {
        Value::Optional(None) => Ok(Value::NONE),
        Value::Optional(Some(inner)) => optional(find(inner, field)?),
        operand => find(operand, field)?.unwrap_or_else(|| Err(EvalError::no_such_key(field))),
    }
}

/// An item by its index or an entry by its key, if it is there.
fn at<'a>(operand: &Value<'a>, index: &Value<'_>) -> Result<Option<Evaluated<'a>>, EvalError> {
    match operand {
        Value::List(list) => {
            let index = match (index, &list.items) {
                (Value::Int(index), _) => *index,
                (index, Items::Json(..)) => {
                    return Err(EvalError::new(format!(
                        "unsupported index: {}",
                        super::library::conversions::text(index)
                    )));
                }
                (Value::Uint(index), _) => i64::try_from(*index).unwrap_or(i64::MAX),
                (Value::Double(index), _) if index.fract() == 0.0 => *index as i64,
                (Value::Double(index), _) => {
                    return Err(EvalError::new(format!("unsupported index value {index} in list")));
                }
                (index, _) => {
                    return Err(EvalError::new(format!(
                        "unsupported index type '{}' in list",
                        index.type_name()
                    )));
                }
            };
            Ok(usize::try_from(index).ok().and_then(|index| list.get(index)))
        }
        Value::Map(map) => Ok(map.get(index)),
        Value::Object(object) => match index {
            Value::String(field) => Ok(object.get(field)),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => Ok(None),
    }
}

fn missing(operand: &Value<'_>, index: &Value<'_>) -> EvalError {
    let index = super::library::conversions::text(index);
    match operand {
        Value::List(_) => EvalError::new(format!("index out of bounds: {index}")),
        _ => EvalError::no_such_key(index),
    }
}
