//! Finds literals that can only fail: durations, timestamps, patterns and formats that are written wrong.

use super::ast::{Expr, Kind, Literal};
use super::checker::Checked;
use super::error::Mistake;
use super::library::text_format::{self, Piece};
use super::library::{patterns, time};
use super::types::{Root, Type};

pub(super) fn validate(
    root: &Expr,
    offsets: &[u32],
    checked: &Checked,
    names: &Root,
) -> Result<(), Vec<Mistake>> {
    let mut validator = Validator { offsets, checked, names, exempt: false, mistakes: Vec::new() };
    validator.visit(root);
    if validator.mistakes.is_empty() { Ok(()) } else { Err(validator.mistakes) }
}

struct Validator<'a> {
    offsets: &'a [u32],
    checked: &'a Checked,
    names: &'a Root,
    exempt: bool,
    mistakes: Vec<Mistake>,
}

impl Validator<'_> {
    fn mistake(&mut self, at: &Expr, message: String) {
        self.mistakes.push(Mistake { offset: self.offsets.get(at.id as usize).copied(), message });
    }

    fn visit(&mut self, expression: &Expr) {
        match &expression.kind {
            Kind::Literal(_) | Kind::Ident(_) | Kind::Wrong => {}
            Kind::Select { operand, .. } => self.visit(operand),
            Kind::Call { target, function, arguments } => {
                // The values of a format may be of any types, whatever they are in.
                let exempt = self.exempt;
                self.exempt |= function == "format" && target.is_some();
                for operand in target.iter().map(|target| &**target).chain(arguments) {
                    self.visit(operand);
                }
                self.exempt = exempt;
                self.call(expression, target.as_deref(), function, arguments);
            }
            Kind::List(elements) => {
                elements.iter().for_each(|element| self.visit(&element.value));
                self.agree(elements.iter().map(|element| (&element.value, element.optional)));
            }
            Kind::Map(entries) => {
                self.agree(entries.iter().map(|entry| (&entry.key, false)));
                self.agree(entries.iter().map(|entry| (&entry.value, entry.optional)));
                for entry in entries {
                    self.visit(&entry.key);
                    self.visit(&entry.value);
                }
            }
            Kind::Struct { fields, .. } => fields.iter().for_each(|field| self.visit(&field.value)),
            Kind::Comprehension(inner) => {
                for part in [&inner.range, &inner.start, &inner.condition, &inner.step, &inner.result] {
                    self.visit(part);
                }
            }
        }
    }

    /// Values that are written as one list or map have one type.
    fn agree<'e>(&mut self, values: impl Iterator<Item = (&'e Expr, bool)>) {
        if self.exempt {
            return;
        }
        let mut common: Option<Type> = None;
        for (value, optional) in values {
            let of = match self.checked.type_of(value) {
                Type::Optional(inner) if optional => (**inner).clone(),
                of => of.clone(),
            };
            match &common {
                None => common = Some(of),
                Some(expected) if *expected == of => {}
                Some(expected) => {
                    let message = format!(
                        "expected type '{}' but found '{}'",
                        expected.display(self.names),
                        of.display(self.names)
                    );
                    return self.mistake(value, message);
                }
            }
        }
    }

    fn call(&mut self, expression: &Expr, target: Option<&Expr>, function: &str, arguments: &[Expr]) {
        match (function, target, arguments) {
            ("duration", None, [argument @ Expr { kind: Kind::Literal(Literal::String(text)), .. }])
                if time::parse_duration(text).is_none() =>
            {
                self.mistake(argument, "invalid duration argument".into());
            }
            ("duration", None, [argument @ Expr { kind: Kind::Literal(Literal::Int(_)), .. }]) => {
                self.mistake(argument, "invalid duration argument".into());
            }
            ("timestamp", None, [argument @ Expr { kind: Kind::Literal(Literal::String(text)), .. }])
                if time::Timestamp::parse(text).is_none() =>
            {
                self.mistake(argument, "invalid timestamp argument".into());
            }
            ("matches", Some(_), [argument]) | ("matches", None, [_, argument]) => {
                if let Kind::Literal(Literal::String(pattern)) = &argument.kind
                    && patterns::compile(pattern).is_err()
                {
                    self.mistake(argument, "invalid matches argument".into());
                }
            }
            (
                "format",
                Some(Expr { kind: Kind::Literal(Literal::String(format)), .. }),
                [Expr { kind: Kind::List(values), .. }],
            ) => {
                let pieces = match text_format::parse(format) {
                    Ok(pieces) => pieces,
                    Err(why) => return self.mistake(expression, why),
                };
                let verbs: Vec<_> = pieces
                    .iter()
                    .filter_map(|piece| match piece {
                        Piece::Verb(verb) => Some(*verb),
                        Piece::Literal(_) => None,
                    })
                    .collect();
                for (number, verb) in verbs.iter().enumerate() {
                    let Some(value) = values.get(number) else {
                        return self.mistake(expression, format!("index {number} out of range"));
                    };
                    let of = self.checked.type_of(&value.value);
                    let written = of.display(self.names).to_string();
                    if let Some(why) = verb.refuses(of, written.split('(').next().unwrap_or_default()) {
                        return self.mistake(&value.value, format!("error during formatting: {why}"));
                    }
                }
                if values.len() > verbs.len() {
                    let message = format!(
                        "too many arguments supplied to string.format (expected {}, got {})",
                        verbs.len(),
                        values.len()
                    );
                    self.mistake(expression, message);
                }
            }
            _ => {}
        }
    }
}
