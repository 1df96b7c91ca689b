//! The Common Expression Language as Kubernetes uses it: rules of custom resources, and whatever else is decided by expressions.
//!
//! An [`Environment`] declares variables and compiles expressions to [`Program`]s. A program estimates what it can cost, from the bounds
//! that the schema sets, and is evaluated on objects as they are: values borrow from the JSON and nothing is copied to be looked at.
//!
//! ```ignore
//! let declared = DeclaredType::from_schema(&schema, true)?;          // the schema of the whole resource; nested ones by .field() and .element()
//! let environment = Environment::for_rule(declared, optional_old_self);
//! let program = environment.compile("self.spec.replicas <= 10", Expected::Bool)?; // error.of_rule() is upstream's message
//! program.estimated_cost() > limits::EXPRESSION                          // what a rule may cost
//! let mut budget = Budget::object();                                 // one for all rules of an object
//! program.evaluate(Bindings::new().json("self", &object), &mut budget)?.as_bool();
//! ```
//!
//! Messages are those of upstream. The language is <https://github.com/google/cel-spec/blob/master/doc/langdef.md>, and the libraries are
//! <https://kubernetes.io/docs/reference/using-api/cel/>.

mod error;
mod ast;
mod lexer;
mod macros;
mod parser;
mod types;
mod escape;
mod declared;
mod functions;
mod library;
mod inference;
mod checker;
mod validators;
mod estimate;
mod library_cost;
mod cost;
mod plan;
mod value;
mod convert;
mod equality;
mod arithmetic;
mod evaluate;
mod stack;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;

pub use cost::{CALL_LIMIT, OBJECT_BUDGET};
pub use declared::{DeclaredType, ListKind};
pub use error::{CompileError, CompileErrorKind, EvalError, EvalErrorKind, Mistake};
pub use escape::{escape, is_keyword};
pub use library::time::Timestamp;
pub(crate) use library::time::parse_duration;
pub use types::Type;
pub use value::Value;

/// The variables that an expression may use, with their types.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<Variable>,
    root: types::Root,
    mutation: bool,
}

#[derive(Clone, Debug)]
struct Variable {
    name: String,
    of: Type,
    /// The schema of its values, by which they are seen and their size is bounded.
    declared: Option<Arc<DeclaredType>>,
}

/// What an expression has to evaluate to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Bool,
    String,
    Any,
}

impl Environment {
    /// No variables, and all functions.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// What the rules of a custom resource see: `self`, and `oldSelf`, which is optional if the rule says so.
    pub fn for_rule(declared: Arc<DeclaredType>, optional_old_self: bool) -> Environment {
        let of = declared.of.clone();
        let old = if optional_old_self { Type::optional(of) } else { of };
        let mut environment = Environment::new().declared("self", declared.clone());
        environment.variables.push(Variable { name: "oldSelf".into(), of: old, declared: Some(declared) });
        environment
    }

    /// Adds a variable whose values have a schema. The first such variable's type gets a name that no expression can rely on.
    pub fn declared(mut self, name: &str, declared: Arc<DeclaredType>) -> Environment {
        if self.root.name.is_empty() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.root =
                types::Root { name: format!("selfType{}", now.subsec_nanos()), path: declared.path.clone() };
        }
        self.variables.push(Variable {
            name: name.into(),
            of: declared.of.clone(),
            declared: Some(declared),
        });
        self
    }

    /// Adds a variable by its type, `Type::Dyn` for objects whose schema is not known. Its name can have dots.
    pub fn variable(mut self, name: &str, of: Type) -> Environment {
        self.variables.push(Variable { name: name.into(), of, declared: None });
        self
    }

    /// Adds the functions that only expressions which make patches have.
    pub fn mutation(mut self) -> Environment {
        self.mutation = true;
        self
    }

    /// Reads, checks and prepares an expression. [`CompileError::of_rule`] has upstream's message.
    pub fn compile(&self, source: &str, expected: Expected) -> Result<Program, CompileError> {
        let compiled = stack::with_room(stack::depth_of(source), || self.compile_here(source, expected));
        compiled.unwrap_or_else(|| {
            let kind = CompileErrorKind::Constant("no thread for an expression this deep".into());
            Err(CompileError { source: source.to_owned(), kind })
        })
    }

    fn compile_here(&self, source: &str, expected: Expected) -> Result<Program, CompileError> {
        let wrong = |kind| CompileError { source: source.to_owned(), kind };
        let mistaken = |mistakes| wrong(CompileErrorKind::Mistakes(mistakes));
        let parser::Parsed { mut root, offsets } = parser::parse(source).map_err(mistaken)?;
        let types: HashMap<String, Type> =
            self.variables.iter().map(|variable| (variable.name.clone(), variable.of.clone())).collect();
        let checked =
            checker::check(&mut root, &offsets, &types, &self.root, self.mutation).map_err(mistaken)?;
        validators::validate(&root, &offsets, &checked, &self.root).map_err(mistaken)?;
        let of = checked.type_of(&root).clone();
        match expected {
            Expected::Bool if of != Type::Bool => return Err(wrong(CompileErrorKind::Result("bool"))),
            Expected::String if of != Type::String => return Err(wrong(CompileErrorKind::Result("string"))),
            _ => {}
        }
        let roots = self
            .variables
            .iter()
            .filter_map(|variable| Some((variable.name.as_str(), variable.declared.as_deref()?)))
            .collect();
        let estimated_cost = estimate::estimate(&root, &checked, roots).max;
        let places: HashMap<String, usize> = self
            .variables
            .iter()
            .enumerate()
            .map(|(place, variable)| (variable.name.clone(), place))
            .collect();
        let mut planner = plan::Planner::new(&checked, &places);
        let node = planner.plan(&root);
        if let Some(error) = planner.failed {
            return Err(wrong(CompileErrorKind::Constant(error.to_string())));
        }
        let (used, depth) = (planner.used, planner.depth_max);
        let names = self.variables.iter().map(|variable| variable.name.clone()).collect();
        let declared = self.variables.iter().map(|variable| variable.declared.clone()).collect();
        Ok(Program { node, names, declared, used, estimated_cost, of, depth })
    }
}

/// A compiled expression. Cheap to evaluate any number of times, at the same time.
#[derive(Debug)]
pub struct Program {
    node: plan::Node,
    names: Vec<String>,
    declared: Vec<Option<Arc<DeclaredType>>>,
    used: Vec<bool>,
    estimated_cost: u64,
    of: Type,
    depth: usize,
}

/// The values of an environment's variables for one evaluation.
#[derive(Debug, Default)]
pub struct Bindings<'a> {
    values: Vec<(&'a str, Binding<'a>)>,
}

#[derive(Debug)]
enum Binding<'a> {
    Json(&'a Json),
    Optional(Option<&'a Json>),
    Value(Value<'a>),
}

impl<'a> Bindings<'a> {
    pub fn new() -> Bindings<'a> {
        Bindings::default()
    }

    /// A part of an object, seen through the schema that the environment declares for the variable.
    pub fn json(mut self, name: &'a str, json: &'a Json) -> Bindings<'a> {
        self.values.push((name, Binding::Json(json)));
        self
    }

    /// The value of a variable whose type is optional.
    pub fn optional(mut self, name: &'a str, json: Option<&'a Json>) -> Bindings<'a> {
        self.values.push((name, Binding::Optional(json)));
        self
    }

    /// A value that came out of another evaluation.
    pub fn value(mut self, name: &'a str, value: Value<'a>) -> Bindings<'a> {
        self.values.push((name, Binding::Value(value)));
        self
    }
}

/// What evaluations may still cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub remaining: u64,
    /// What one evaluation may cost.
    pub call_limit: u64,
}

impl Budget {
    /// What all rules may cost together for one object.
    pub fn object() -> Budget {
        Budget::of(OBJECT_BUDGET)
    }

    pub fn of(remaining: u64) -> Budget {
        Budget { remaining, call_limit: CALL_LIMIT }
    }
}

/// What rules may cost by their estimates, before any object is there.
pub mod limits {
    /// One rule, times how often it can be evaluated.
    pub const EXPRESSION: u64 = 10_000_000;
    /// All rules of a custom resource definition.
    pub const DEFINITION: u64 = 100_000_000;

    /// How many times a cost is the limit, as messages have it: what follows "exceeds budget by factor of".
    pub fn excess(cost: u64, limit: u64) -> String {
        let factor = cost as f64 / limit as f64;
        if factor > 100.0 {
            "more than 100x".into()
        } else if factor < 1.5 {
            // Not `1.0x`.
            format!("{factor:.6}x")
        } else {
            format!("{factor:.1}x")
        }
    }
}

impl Program {
    /// The most that one evaluation can cost, from the bounds in the schema.
    pub fn estimated_cost(&self) -> u64 {
        self.estimated_cost
    }

    /// Whether the expression uses a variable. A rule that uses `oldSelf` is a transition rule.
    pub fn uses(&self, variable: &str) -> bool {
        self.names.iter().zip(&self.used).any(|(name, used)| *used && name == variable)
    }

    pub fn result_type(&self) -> &Type {
        &self.of
    }

    /// Evaluates the expression and takes the cost from the budget, whatever the result. Errors are ordinary ones (`no such key: x`), or of a
    /// kind after which nothing more should be evaluated: [`EvalErrorKind::CallLimit`] and [`EvalErrorKind::Budget`].
    pub fn evaluate<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let mut variables = Vec::with_capacity(self.names.len());
        for (place, name) in self.names.iter().enumerate() {
            let bound = bindings
                .values
                .iter()
                .find(|(bound, _)| bound == name)
                .filter(|_| self.used.get(place) == Some(&true));
            let declared = self.declared.get(place).and_then(Option::as_deref);
            variables.push(match bound {
                None => None,
                Some((_, Binding::Json(json))) => Some(Value::from_json(json, declared)?),
                Some((_, Binding::Optional(None))) => Some(Value::NONE),
                Some((_, Binding::Optional(Some(json)))) => {
                    Some(Value::some(Value::from_json(json, declared)?))
                }
                Some((_, Binding::Value(value))) => Some(value.clone()),
            });
        }
        let limit = budget.call_limit;
        let evaluated = stack::with_room(self.depth, || {
            let (variables, names) = (variables.as_slice(), self.names.as_slice());
            let mut evaluation =
                evaluate::Evaluation { variables, names, locals: Vec::new(), cost: 0, limit };
            let result = evaluation.run(&self.node);
            (result, evaluation.cost)
        });
        let Some((result, cost)) = evaluated else {
            return Err(EvalError::new("no thread for an expression this deep"));
        };
        match budget.remaining.checked_sub(cost) {
            Some(remaining) => {
                budget.remaining = remaining;
                result
            }
            None => {
                budget.remaining = 0;
                let message = "validation failed due to running out of cost budget, no further validation rules will be run";
                Err(EvalError::of(EvalErrorKind::Budget, message))
            }
        }
    }
}
