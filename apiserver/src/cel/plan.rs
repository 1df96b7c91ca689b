//! An expression made ready to run: variables are places, calls are functions, what is constant is a value.

use std::collections::HashMap;

use super::ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal, operators};
use super::checker::Checked;
use super::cost::Rule;
use super::error::EvalError;
use super::functions::{self, Overload, Site};
use super::library::patterns;
use super::types::Type;
use super::value::Value;

#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    /// A variable of the environment.
    Variable(usize),
    /// A variable of a loop, counted from the outermost.
    Local(usize),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    OptionalSelect(Box<Node>, Box<str>),
    Index(Box<Node>, Box<Node>),
    OptionalIndex(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<(Node, Node, Node)>),
    Binary(Binary, Rule, Box<(Node, Node)>),
    /// Membership of a list that is written in the expression.
    InConstants(Box<Node>, Value<'static>),
    NotStrictlyFalse(Box<Node>),
    MapInsert(Vec<Node>),
    OptionalOr(Box<Node>, Box<Node>),
    OptionalOrValue(Box<Node>, Box<Node>),
    Call(Box<Call>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// More items for a loop's list: adds to it in place.
    Append(usize, Vec<Node>),
    Fold(Box<Fold>),
    Bind(Box<(Node, Node)>),
    /// What the checker would not have let pass.
    Impossible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equals,
    NotEquals,
    Less,
    LessEquals,
    Greater,
    GreaterEquals,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    In,
}

pub(super) struct Call {
    pub function: Box<str>,
    /// The overloads that are possible; which one it is, the arguments say.
    pub overloads: Vec<&'static Overload>,
    pub site: Site,
    pub arguments: Vec<Node>,
    pub rule: Rule,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.function, self.arguments)
    }
}

#[derive(Debug)]
pub(super) struct Fold {
    pub range: Node,
    pub start: Node,
    /// Where the accumulator is among the locals; the variables follow.
    pub place: usize,
    pub two_variables: bool,
    /// Whether the loop goes over everything whatever comes out.
    pub whole: bool,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// The environment's variables that an expression uses, by name.
pub(super) struct Planner<'a> {
    checked: &'a Checked,
    variables: &'a HashMap<String, usize>,
    locals: Vec<String>,
    /// Variables that are used.
    pub used: Vec<bool>,
    /// The first conversion of a constant that cannot succeed.
    pub failed: Option<EvalError>,
    depth: usize,
    /// How deep the tree is.
    pub depth_max: usize,
}

impl<'a> Planner<'a> {
    pub fn new(checked: &'a Checked, variables: &'a HashMap<String, usize>) -> Planner<'a> {
        Planner {
            checked,
            variables,
            locals: Vec::new(),
            used: vec![false; variables.len()],
            failed: None,
            depth: 0,
            depth_max: 0,
        }
    }

    pub fn plan(&mut self, expression: &Expr) -> Node {
        self.depth += 1;
        self.depth_max = self.depth_max.max(self.depth);
        let node = self.node(expression);
        self.depth -= 1;
        node
    }

    fn node(&mut self, expression: &Expr) -> Node {
        match &expression.kind {
            Kind::Literal(literal) => Node::Constant(constant(literal)),
            Kind::Ident(name) => match self.ident(name) {
                Node::Impossible => {
                    type_constant(self.checked.type_of(expression)).unwrap_or(Node::Impossible)
                }
                node => node,
            },
            Kind::Select { operand, field, test } => {
                let operand = Box::new(self.plan(operand));
                let field = field.as_str().into();
                if *test { Node::Has(operand, field) } else { Node::Select(operand, field) }
            }
            Kind::Call { target, function, arguments } => {
                self.call(expression, target.as_deref(), function, arguments)
            }
            Kind::List(elements) => {
                let planned: Vec<(Node, bool)> =
                    elements.iter().map(|element| (self.plan(&element.value), element.optional)).collect();
                if planned.iter().all(|(node, optional)| !optional && matches!(node, Node::Constant(_))) {
                    let constants = planned.into_iter().filter_map(|(node, _)| match node {
                        Node::Constant(value) => Some(value),
                        _ => None,
                    });
                    return Node::Constant(Value::list(constants.collect()));
                }
                Node::List(planned)
            }
            Kind::Map(entries) => Node::Map(
                entries
                    .iter()
                    .map(|entry| (self.plan(&entry.key), self.plan(&entry.value), entry.optional))
                    .collect(),
            ),
            Kind::Comprehension(comprehension) => self.comprehension(comprehension),
            Kind::Struct { .. } | Kind::Wrong => Node::Impossible,
        }
    }

    fn ident(&mut self, name: &str) -> Node {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if plain.len() == name.len()
            && let Some(place) = self.locals.iter().rposition(|local| local == name)
        {
            return Node::Local(place);
        }
        if let Some(variable) = self.variables.get(plain) {
            if let Some(used) = self.used.get_mut(*variable) {
                *used = true;
            }
            return Node::Variable(*variable);
        }
        Node::Impossible
    }

    fn call(&mut self, expression: &Expr, target: Option<&Expr>, function: &str, arguments: &[Expr]) -> Node {
        let ids = self.checked.overloads_of(expression);
        let certain = if let [id] = ids { Some(*id) } else { None };
        let mut planned: Vec<Node> =
            target.into_iter().chain(arguments).map(|argument| self.plan(argument)).collect();
        if function == operators::MAP_INSERT {
            return Node::MapInsert(planned);
        }
        if function == operators::CONDITIONAL && planned.len() == 3 {
            let (otherwise, then, condition) = (planned.pop(), planned.pop(), planned.pop());
            if let (Some(condition), Some(then), Some(otherwise)) = (condition, then, otherwise) {
                return Node::Conditional(Box::new((condition, then, otherwise)));
            }
            return Node::Impossible;
        }
        if planned.len() == 2 && (target.is_none() || matches!(function, "or" | "orValue")) {
            if let (operators::ADD, Node::Local(place), [_, Expr { kind: Kind::List(elements), .. }]) =
                (function, &planned[0], arguments)
                && self.locals.get(*place).is_some_and(|local| local == ACCUMULATOR)
                && elements.iter().all(|element| !element.optional)
            {
                return Node::Append(
                    *place,
                    elements.iter().map(|element| self.plan(&element.value)).collect(),
                );
            }
            let binary = match function {
                operators::EQUALS => Some(Binary::Equals),
                operators::NOT_EQUALS => Some(Binary::NotEquals),
                operators::LESS => Some(Binary::Less),
                operators::LESS_EQUALS => Some(Binary::LessEquals),
                operators::GREATER => Some(Binary::Greater),
                operators::GREATER_EQUALS => Some(Binary::GreaterEquals),
                operators::ADD => Some(Binary::Add),
                operators::SUBTRACT => Some(Binary::Subtract),
                operators::MULTIPLY => Some(Binary::Multiply),
                operators::DIVIDE => Some(Binary::Divide),
                operators::MODULO => Some(Binary::Modulo),
                operators::IN => Some(Binary::In),
                _ => None,
            };
            let special = binary.is_some()
                || matches!(
                    function,
                    operators::AND
                        | operators::OR
                        | operators::INDEX
                        | operators::OPTIONAL_INDEX
                        | operators::OPTIONAL_SELECT
                        | "or"
                        | "orValue"
                );
            if special {
                let (Some(right), Some(left)) = (planned.pop(), planned.pop()) else {
                    return Node::Impossible;
                };
                if let Some(binary) = binary {
                    if let (Binary::In, Node::Constant(list @ Value::List(_))) = (binary, &right) {
                        return Node::InConstants(Box::new(left), list.clone());
                    }
                    return Node::Binary(binary, Rule::of(function, certain), Box::new((left, right)));
                }
                let (left, right) = (Box::new(left), Box::new(right));
                return match (function, &*right) {
                    (operators::AND, _) => Node::And(left, right),
                    (operators::OR, _) => Node::Or(left, right),
                    (operators::INDEX, _) => Node::Index(left, right),
                    (operators::OPTIONAL_INDEX, _) => Node::OptionalIndex(left, right),
                    (operators::OPTIONAL_SELECT, Node::Constant(Value::String(field))) => {
                        Node::OptionalSelect(left, (&**field).into())
                    }
                    ("or", _) => Node::OptionalOr(left, right),
                    ("orValue", _) => Node::OptionalOrValue(left, right),
                    _ => Node::Impossible,
                };
            }
        }
        if planned.len() == 1
            && target.is_none()
            && matches!(function, operators::NOT | operators::NEGATE | operators::NOT_STRICTLY_FALSE)
        {
            let Some(operand) = planned.pop().map(Box::new) else { return Node::Impossible };
            return match function {
                operators::NOT => Node::Not(operand),
                operators::NEGATE => Node::Negate(operand),
                _ => Node::NotStrictlyFalse(operand),
            };
        }
        let overloads: Vec<&'static Overload> = functions::all()
            .get(function)
            .unwrap_or_default()
            .iter()
            .filter(|overload| overload.member == target.is_some() && ids.contains(&overload.id))
            .collect();
        let pattern = match (function, planned.get(1)) {
            ("matches" | "find" | "findAll", Some(Node::Constant(Value::String(pattern)))) => {
                patterns::compile(pattern).ok()
            }
            _ => None,
        };
        let converts = matches!(
            function,
            "bool"
                | "bytes"
                | "double"
                | "duration"
                | "dyn"
                | "int"
                | "string"
                | "timestamp"
                | "type"
                | "uint"
        );
        if let ([Node::Constant(constant)], true, None) = (planned.as_slice(), converts, target) {
            match convert(function, &overloads, constant) {
                Ok(value) => return Node::Constant(value),
                Err(error) => self.failed = self.failed.take().or(Some(error)),
            }
        }
        let rule = Rule::of(function, certain);
        Node::Call(Box::new(Call {
            function: function.into(),
            overloads,
            site: Site { pattern },
            arguments: planned,
            rule,
        }))
    }

    fn comprehension(&mut self, comprehension: &Comprehension) -> Node {
        let start = self.plan(&comprehension.start);
        if comprehension.variable == "#unused" {
            self.locals.push(comprehension.accumulator.clone());
            let within = self.plan(&comprehension.result);
            self.locals.pop();
            return Node::Bind(Box::new((start, within)));
        }
        let range = self.plan(&comprehension.range);
        let place = self.locals.len();
        self.locals.push(comprehension.accumulator.clone());
        self.locals.push(comprehension.variable.clone());
        self.locals.extend(comprehension.second_variable.clone());
        let condition = self.plan(&comprehension.condition);
        let step = self.plan(&comprehension.step);
        self.locals.truncate(place + 1);
        let result = self.plan(&comprehension.result);
        self.locals.truncate(place);
        let whole = matches!(comprehension.condition.kind, Kind::Literal(Literal::Bool(true)));
        let two_variables = comprehension.second_variable.is_some();
        Node::Fold(Box::new(Fold { range, start, place, two_variables, whole, condition, step, result }))
    }
}

/// A conversion that is done once.
fn convert(
    function: &str,
    overloads: &[&'static Overload],
    constant: &Value<'static>,
) -> Result<Value<'static>, EvalError> {
    let arguments = std::slice::from_ref(constant);
    match overloads
        .iter()
        .find(|overload| overload.parameters.iter().all(|of| constant.fits(of)))
        .and_then(|overload| overload.run)
    {
        Some(run) => run(&Site::default(), arguments),
        None => Err(EvalError::no_such_function(function, arguments)),
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::text(text.as_str()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}

/// A type that is named in an expression, as a value.
fn type_constant(of: &Type) -> Option<Node> {
    match of {
        Type::Type(Some(inner)) => Some(Node::Constant(Value::Type((**inner).clone()))),
        Type::Type(None) => Some(Node::Constant(Value::Type(Type::Type(None)))),
        _ => None,
    }
}
