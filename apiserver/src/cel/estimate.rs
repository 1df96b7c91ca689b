//! Estimates what an expression can cost at most, from the sizes that a schema bounds and the sizes that follow from them.

use std::collections::HashMap;

use super::ast::{Comprehension, Expr, Kind, Literal, operators};
use super::checker::Checked;
use super::cost::{FORMAT_PATTERN_LENGTH, LIST, MAP, PATTERN_FACTOR, STRING_FACTOR};
use super::declared::{Declared, DeclaredType};
use super::library_cost;
use super::types::Type;

/// The least and the most of a size or a cost. What would be too large to be counted is the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub min: u64,
    pub max: u64,
}

pub(super) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl Range {
    pub fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Scaled and rounded up.
    pub fn scaled(self, factor: f64) -> Range {
        // Converting to an integer saturates.
        let scale = |value: u64| (value as f64 * factor).ceil() as u64;
        Range { min: scale(self.min), max: scale(self.max) }
    }

    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// What is known of a list's or map's entries.
#[derive(Clone, Copy, Debug)]
struct EntrySize {
    is_list: bool,
    key: Range,
    value: Range,
}

impl EntrySize {
    fn union(self, other: EntrySize) -> EntrySize {
        EntrySize {
            is_list: self.is_list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

/// Where in a variable's schema a value comes from.
type Path = Vec<String>;

struct Local {
    name: String,
    path: Path,
    size: Option<Range>,
    entry_size: Option<EntrySize>,
}

/// A value that a call gets, as far as its cost depends on it.
pub(super) struct Operand<'a> {
    pub expression: &'a Expr,
    pub of: &'a Type,
    path: Path,
    size: Option<Range>,
}

/// A call's cost without its arguments', and the size of what comes out.
pub(super) struct CallEstimate {
    pub cost: Range,
    pub result: Option<Range>,
}

pub(super) struct Estimator<'a> {
    checked: &'a Checked,
    roots: HashMap<&'a str, &'a DeclaredType>,
    paths: HashMap<u32, Path>,
    sizes: HashMap<u32, Range>,
    entry_sizes: HashMap<u32, EntrySize>,
    locals: Vec<Local>,
}

pub(super) fn estimate<'a>(
    root: &'a Expr,
    checked: &'a Checked,
    roots: HashMap<&'a str, &'a DeclaredType>,
) -> Range {
    let mut estimator = Estimator {
        checked,
        roots,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entry_sizes: HashMap::new(),
        locals: Vec::new(),
    };
    estimator.cost(root)
}

impl<'a> Estimator<'a> {
    fn cost(&mut self, expression: &'a Expr) -> Range {
        match &expression.kind {
            Kind::Literal(_) | Kind::Wrong => Range::fixed(0),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expression.id, path);
                Range::fixed(1)
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, test: false } => {
                let mut cost = self.cost(operand);
                if matches!(self.checked.type_of(operand), Type::Map(_) | Type::Object(_) | Type::Param(_)) {
                    cost = cost.plus(Range::fixed(1));
                }
                let path = self.extended(operand, field);
                self.paths.insert(expression.id, path);
                cost
            }
            Kind::Call { target, function, arguments } => {
                self.call(expression, target.as_deref(), function, arguments)
            }
            Kind::List(elements) => {
                let mut cost = Range::fixed(LIST);
                let mut value =
                    if elements.is_empty() { Range::fixed(0) } else { Range { min: u64::MAX, max: 0 } };
                for element in elements {
                    cost = cost.plus(self.cost(&element.value));
                    value = value.union(self.size_or_unknown(&element.value));
                }
                self.entry_sizes
                    .insert(expression.id, EntrySize { is_list: true, key: Range::fixed(1), value });
                cost
            }
            Kind::Map(entries) => {
                let mut cost = Range::fixed(MAP);
                let nothing =
                    if entries.is_empty() { Range::fixed(0) } else { Range { min: u64::MAX, max: 0 } };
                let (mut key, mut value) = (nothing, nothing);
                for entry in entries {
                    cost = cost.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.entry_sizes.insert(expression.id, EntrySize { is_list: false, key, value });
                cost
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(Range::fixed(40), |cost, field| cost.plus(self.cost(&field.value)))
            }
            Kind::Comprehension(comprehension) => self.comprehension(expression, comprehension),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn path(&self, expression: &Expr) -> Path {
        if let Kind::Ident(name) = &expression.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expression.id).cloned().unwrap_or_default()
    }

    fn extended(&self, operand: &Expr, step: &str) -> Path {
        let mut path = self.path(operand);
        path.push(step.to_owned());
        path
    }

    /// The size that the schema bounds.
    fn declared_size(&self, path: &[String]) -> Option<Range> {
        let (root, steps) = path.split_first()?;
        let mut at: &DeclaredType = match self.roots.get(root.as_str()) {
            Some(root) => root,
            // Upstream measures what does not begin at a variable from the one there is.
            None => self.roots.get("self")?,
        };
        for step in steps {
            at = match (step.as_str(), &at.kind) {
                ("@items" | "@values", _) => at.element()?,
                // Keys are texts of any length.
                ("@keys", Declared::Map { .. }) => return Some(Range::fixed(0)),
                (field, Declared::Object(object)) => &object.fields.get(field)?.declared,
                _ => return None,
            };
        }
        Some(Range { min: 0, max: at.size_max.max(0) as u64 })
    }

    fn size(&mut self, expression: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expression.id) {
            return Some(*size);
        }
        match &expression.kind {
            Kind::Literal(literal) => {
                return Some(Range::fixed(match literal {
                    Literal::String(text) => text.chars().count() as u64,
                    Literal::Bytes(bytes) => bytes.len() as u64,
                    _ => 1,
                }));
            }
            Kind::List(elements) => return Some(Range::fixed(elements.len() as u64)),
            Kind::Map(entries) => return Some(Range::fixed(entries.len() as u64)),
            _ => {}
        }
        let path = self.path(expression);
        if let Some(size) = self.declared_size(&path) {
            self.sizes.insert(expression.id, size);
            return Some(size);
        }
        if self.checked.type_of(expression).is_scalar() {
            return Some(Range::fixed(1));
        }
        match &expression.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expression: &Expr) -> Range {
        self.size(expression).unwrap_or(UNKNOWN)
    }

    fn entry_size(&self, expression: &Expr) -> Option<EntrySize> {
        if let Some(size) = self.entry_sizes.get(&expression.id) {
            return Some(*size);
        }
        match &expression.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entry_size),
            _ => None,
        }
    }

    fn operand(&mut self, expression: &'a Expr) -> Operand<'a> {
        let mut path = self.path(expression);
        if path.first().is_some_and(|first| first == super::ast::ACCUMULATOR) {
            path.clear();
        }
        let size = self.size(expression);
        Operand { expression, of: self.checked.type_of(expression), path, size }
    }

    /// The size of a value that libraries ask for: what was computed, or what the schema bounds.
    pub fn size_of(&self, operand: &Operand<'_>) -> Range {
        operand.size.or_else(|| self.declared_size(&operand.path)).unwrap_or(UNKNOWN)
    }

    /// The computed size alone.
    pub fn computed(operand: &Operand<'_>) -> Range {
        operand.size.unwrap_or(UNKNOWN)
    }

    /// The type and size of a list's items.
    pub fn items<'o>(&self, list: &'o Operand<'_>) -> Option<(&'o Type, Range)> {
        let element = match list.of {
            Type::List(element) | Type::Optional(element) => element,
            _ => return None,
        };
        let size = if list.path.is_empty() {
            None
        } else {
            let mut path = list.path.clone();
            path.push("@items".into());
            self.declared_size(&path)
        };
        Some((element, size.unwrap_or(UNKNOWN)))
    }

    fn call(
        &mut self,
        expression: &'a Expr,
        target: Option<&'a Expr>,
        function: &str,
        arguments: &'a [Expr],
    ) -> Range {
        if let ("dyn", [argument]) = (function, arguments) {
            let cost = self.cost(argument);
            if let Some(size) = self.size(argument) {
                self.sizes.insert(expression.id, size);
            }
            if let Some(size) = self.entry_size(argument) {
                self.entry_sizes.insert(expression.id, size);
            }
            return cost.plus(Range::fixed(1));
        }
        let mut costs = Vec::with_capacity(arguments.len());
        let mut operands = Vec::with_capacity(arguments.len());
        for argument in arguments {
            costs.push(self.cost(argument));
            operands.push(self.operand(argument));
        }
        let overloads = self.checked.overloads_of(expression);
        let mut sum = Range::fixed(0);
        let target = match target {
            Some(target) => {
                sum = self.cost(target);
                Some(self.operand(target))
            }
            None => None,
        };
        let mut total: Option<Range> = None;
        let mut result: Option<Range> = None;
        for overload in overloads {
            let estimate = self.overload(expression, function, overload, target.as_ref(), &operands, &costs);
            total = Some(total.map_or(estimate.cost, |total| total.union(estimate.cost)));
            result = match (result, estimate.result) {
                (Some(earlier), Some(size)) => Some(earlier.union(size)),
                (earlier, size) => earlier.or(size),
            };
            if let (Some(list), "index_list" | "index_map") = (arguments.first(), *overload) {
                result = self.entry_size(list).map(|entry| entry.value);
                let path = self.extended(list, if *overload == "index_list" { "@items" } else { "@values" });
                self.paths.insert(expression.id, path);
            }
            if result.is_none() {
                result = self.size(expression);
            }
        }
        if let Some(size) = result {
            self.sizes.insert(expression.id, size);
        }
        sum.plus(total.unwrap_or(Range::fixed(0)))
    }

    fn overload(
        &mut self,
        expression: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Operand<'_>>,
        operands: &[Operand<'_>],
        costs: &[Range],
    ) -> CallEstimate {
        let sum = costs.iter().fold(Range::fixed(0), |sum, cost| sum.plus(*cost));
        let with = |cost: Range, result: Option<Range>| CallEstimate { cost: cost.plus(sum), result };
        if let Some(estimate) = library_cost::estimate(self, function, overload, target, operands) {
            return with(estimate.cost, estimate.result);
        }
        let computed = Self::computed;
        match (overload, target, operands) {
            ("string_format", Some(target), _) => with(computed(target).scaled(STRING_FACTOR), None),
            ("string_to_bytes", _, [text]) => {
                let size = computed(text);
                with(
                    size.scaled(STRING_FACTOR),
                    Some(Range { min: size.min, max: size.max.saturating_mul(4) }),
                )
            }
            ("bytes_to_string", _, [bytes]) => {
                let size = computed(bytes);
                with(size.scaled(STRING_FACTOR), Some(Range { min: size.min / 4, max: size.max }))
            }
            ("strings_quote", _, [text]) => {
                let size = computed(text);
                let quoted = Range {
                    min: size.min.saturating_add(2),
                    max: size.max.saturating_mul(2).saturating_add(2),
                };
                with(size.scaled(STRING_FACTOR), Some(quoted))
            }
            ("starts_with_string" | "ends_with_string", _, [part]) => {
                with(computed(part).scaled(STRING_FACTOR), None)
            }
            ("in_list", _, [_, list]) => with(computed(list), None),
            ("matches_string", Some(target), [pattern]) => {
                let text = computed(target).plus(Range::fixed(1)).scaled(STRING_FACTOR);
                with(text.times(computed(pattern).scaled(PATTERN_FACTOR)), None)
            }
            ("contains_string", Some(target), [part]) => {
                with(computed(target).scaled(STRING_FACTOR).times(computed(part).scaled(STRING_FACTOR)), None)
            }
            ("logical_or" | "logical_and", _, _) => match costs {
                [left, right] => {
                    CallEstimate { cost: Range { min: left.min, max: left.plus(*right).max }, result: None }
                }
                _ => with(Range::fixed(1), None),
            },
            ("conditional", _, [_, then, otherwise]) => {
                let size = computed(then).union(computed(otherwise));
                if let (Some(one), Some(other)) =
                    (self.entry_size(then.expression), self.entry_size(otherwise.expression))
                {
                    self.entry_sizes.insert(expression.id, one.union(other));
                }
                let cost = match costs {
                    [condition, then, otherwise] => condition.plus(then.union(*otherwise)),
                    _ => sum,
                };
                CallEstimate { cost, result: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let size = computed(left).plus(computed(right));
                if let (Some(one), Some(other)) =
                    (self.entry_size(left.expression), self.entry_size(right.expression))
                {
                    self.entry_sizes.insert(expression.id, one.union(other));
                }
                let cost = if overload == "add_list" { Range::fixed(1) } else { size.scaled(STRING_FACTOR) };
                with(cost, Some(size))
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [left, right],
            ) => {
                let max = computed(left).max.min(computed(right).max);
                with(Range { min: u64::from(max > 0), max }.scaled(STRING_FACTOR), None)
            }
            _ => with(Range::fixed(1), None),
        }
    }

    fn push_iteration(&mut self, name: &str, range: &Expr, part: Part) {
        let entry = self.entry_size(range);
        let is_list =
            entry.map_or_else(|| matches!(self.checked.type_of(range), Type::List(_)), |entry| entry.is_list);
        let (step, size) = match (part, is_list) {
            (Part::Key, true) => ("@indices", entry.map(|entry| entry.key)),
            (Part::Key, false) | (Part::Only, false) => ("@keys", entry.map(|entry| entry.key)),
            (Part::Value, false) => ("@values", entry.map(|entry| entry.value)),
            (Part::Value, true) | (Part::Only, true) => ("@items", entry.map(|entry| entry.value)),
        };
        let path = self.extended(range, step);
        self.locals.push(Local { name: name.to_owned(), path, size, entry_size: None });
    }

    fn comprehension(&mut self, expression: &Expr, comprehension: &'a Comprehension) -> Range {
        let is_bind = comprehension.variable == "#unused";
        let mut sum = self.cost(&comprehension.range).plus(self.cost(&comprehension.start));
        let depth = self.locals.len();
        let local = Local {
            name: comprehension.accumulator.clone(),
            path: self.path(&comprehension.start),
            size: self.size(&comprehension.start),
            entry_size: self.entry_size(&comprehension.start),
        };
        self.locals.push(local);
        if is_bind {
            sum = sum.plus(self.cost(&comprehension.result));
            self.locals.truncate(depth);
            if let Some(size) = self.size(&comprehension.result) {
                self.sizes.insert(expression.id, size);
            }
            if let Some(size) = self.entry_size(&comprehension.result) {
                self.entry_sizes.insert(expression.id, size);
            }
            return sum;
        }
        match &comprehension.second_variable {
            Some(second) => {
                self.push_iteration(&comprehension.variable, &comprehension.range, Part::Key);
                self.push_iteration(second, &comprehension.range, Part::Value);
            }
            None => self.push_iteration(&comprehension.variable, &comprehension.range, Part::Only),
        }
        let round = self.cost(&comprehension.condition).plus(self.cost(&comprehension.step));
        self.locals.truncate(depth + 1);
        sum = sum.plus(self.cost(&comprehension.result));
        self.locals.truncate(depth);
        let count = self.size_or_unknown(&comprehension.range);
        sum = sum.plus(count.times(round));
        match &comprehension.start.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&comprehension.start) {
                    self.sizes.insert(expression.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(expression.id, count);
                if let Some(size) = self.entry_size(&comprehension.step) {
                    self.entry_sizes.insert(expression.id, size);
                }
            }
            _ => {}
        }
        sum
    }
}

#[derive(Clone, Copy)]
enum Part {
    Key,
    Value,
    /// The item of a list or the key of a map.
    Only,
}

/// The pattern inside a format, whose length is not seen.
pub(super) fn format_pattern() -> f64 {
    FORMAT_PATTERN_LENGTH as f64 * PATTERN_FACTOR
}

/// Whether a call is an operator's.
pub(super) fn is_equality(function: &str) -> bool {
    function == operators::EQUALS
}
