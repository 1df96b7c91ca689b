//! What words become: variables, the output of commands, arithmetic, splitting, and the names that patterns stand for.

use std::cell::RefCell;
use std::rc::Rc;

use super::syntax::{parse, Part, Word};
use super::{Shared, Shell, Streams};
use crate::context::Io;
use crate::files::matches_glob;

/// A piece of a word on its way: `quoted` text is not split and is no pattern.
struct Piece {
    text: String,
    quoted: bool,
    /// Of an expansion: split at blanks where it is not quoted.
    splits: bool,
}

impl Shell {
    /// Words as a command gets them.
    pub fn words(&mut self, words: &[Word], io: &mut Io) -> Vec<String> {
        let mut out = Vec::new();
        for word in words {
            if let [Part::Variable { name, quoted: true }] | [Part::Text { .. }, Part::Variable { name, quoted: true }] =
                word.as_slice()
            {
                if name == "@" {
                    out.extend_from_slice(&self.arguments[1..]);
                    continue;
                }
            }
            let pieces = self.pieces(word, io);
            for field in split(pieces) {
                self.names(field, &mut out);
            }
        }
        out
    }

    /// A word that stays one.
    pub fn one(&mut self, word: &Word, io: &mut Io) -> String {
        self.pieces(word, io).into_iter().map(|piece| piece.text).collect()
    }

    /// A word as a pattern: what is quoted stands for itself.
    pub fn pattern(&self, word: &Word, io: &mut Io) -> String {
        let mut shell = Shell {
            context: self.context.clone(),
            exported: self.exported.clone(),
            arguments: self.arguments.clone(),
            last: self.last,
            functions: Default::default(),
            stops: false,
            conditions: 0,
            traces: false,
        };
        let pieces = shell.pieces(word, io);
        pieces.iter().map(|piece| if piece.quoted { escaped(&piece.text) } else { piece.text.clone() }).collect()
    }

    fn pieces(&mut self, word: &Word, io: &mut Io) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (at, part) in word.iter().enumerate() {
            let (text, quoted, splits) = match part {
                Part::Text { text, quoted } => {
                    let text = if at == 0 && !quoted { self.home(text) } else { text.clone() };
                    (text, *quoted, false)
                }
                Part::Variable { name, quoted } => (self.value(name).unwrap_or_default(), *quoted, true),
                Part::Length(name) => (self.value(name).unwrap_or_default().chars().count().to_string(), true, false),
                Part::Default { name, operator, word, quoted } => {
                    (self.or_default(name, operator, word, io), *quoted, true)
                }
                Part::Command { script, quoted } => (self.output(script, io), *quoted, true),
                Part::Arithmetic(word) => {
                    let text = self.one(word, io);
                    match self.calculate(&text) {
                        Ok(number) => (number.to_string(), true, false),
                        Err(error) => {
                            io.complain(&format!("sh: arithmetic: {error}"));
                            (String::new(), true, false)
                        }
                    }
                }
            };
            pieces.push(Piece { text, quoted, splits });
        }
        pieces
    }

    fn home(&self, text: &str) -> String {
        match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                format!("{}{rest}", self.context.variables.get("HOME").map_or("/", String::as_str).trim_end_matches('/'))
            }
            _ => text.to_owned(),
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        match name {
            "?" => Some(self.last.to_string()),
            "$" => Some("1".into()),
            "#" => Some((self.arguments.len() - 1).to_string()),
            "@" | "*" => Some(self.arguments[1..].join(" ")),
            "!" | "-" => None,
            name => match name.parse::<usize>() {
                Ok(at) => self.arguments.get(at).cloned(),
                Err(_) => self.context.variables.get(name).cloned(),
            },
        }
    }

    fn or_default(&mut self, name: &str, operator: &str, word: &Word, io: &mut Io) -> String {
        let value = self.value(name);
        let there = value.as_ref().is_some_and(|v| !operator.starts_with(':') || !v.is_empty());
        let value = value.unwrap_or_default();
        match operator.trim_start_matches(':') {
            "-" if !there => self.one(word, io),
            "=" if !there => {
                let value = self.one(word, io);
                self.context.variables.insert(name.to_owned(), value.clone());
                value
            }
            "+" => if there { self.one(word, io) } else { String::new() },
            "?" if !there => {
                let why = self.one(word, io);
                io.complain(&format!("sh: {name}: {}", if why.is_empty() { "parameter not set" } else { &why }));
                self.last = 1;
                String::new()
            }
            side @ ("%" | "%%" | "#" | "##") => {
                let pattern = self.one(word, io);
                let mut ends: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
                // The shortest cut first, or the longest.
                if matches!(side, "%" | "##") {
                    ends.reverse();
                }
                let cut = ends.into_iter().find(|at| {
                    let part = if side.starts_with('%') { &value[*at..] } else { &value[..*at] };
                    matches_glob(&pattern, part)
                });
                match cut {
                    Some(at) if side.starts_with('%') => value[..at].to_owned(),
                    Some(at) => value[at..].to_owned(),
                    None => value,
                }
            }
            _ => value,
        }
    }

    /// What a script writes, without the newlines at its end.
    fn output(&mut self, script: &str, io: &mut Io) -> String {
        let buffer = Rc::new(RefCell::new(Vec::new()));
        match parse(script) {
            Ok(node) => {
                let mut streams = Streams::of(io);
                let mut inner = streams.io();
                inner.out = Box::new(Shared(buffer.clone()));
                self.last = self.apart(&node, &mut inner);
                inner.flush();
            }
            Err(error) => {
                io.complain(&format!("sh: {error}"));
                self.last = 2;
            }
        }
        let bytes = buffer.take();
        String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()
    }

    /// Paths that a field stands for, or the field as it is.
    fn names(&self, field: Vec<Piece>, out: &mut Vec<String>) {
        let plain: String = field.iter().map(|piece| piece.text.as_str()).collect();
        let is_pattern = field.iter().any(|piece| !piece.quoted && piece.text.contains(['*', '?', '[']));
        if !is_pattern {
            out.push(plain);
            return;
        }
        let pattern: String =
            field.iter().map(|p| if p.quoted { escaped(&p.text) } else { p.text.clone() }).collect();
        let absolute = pattern.starts_with('/');
        let mut found = vec![if absolute { "/".to_owned() } else { String::new() }];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for base in found {
                let join = |name: &str| match base.as_str() {
                    "" => name.to_owned(),
                    "/" => format!("/{name}"),
                    base => format!("{base}/{name}"),
                };
                if !part.contains(['*', '?', '[']) {
                    let name = part.replace('\\', "");
                    let path = self.context.path(&join(&name));
                    if std::fs::metadata(&path).is_ok() || self.context.is_dir(&path) {
                        next.push(join(&name));
                    }
                    continue;
                }
                let directory = self.context.path(if base.is_empty() { "." } else { &base });
                let hidden = part.starts_with('.');
                let names = self.context.names(&directory).unwrap_or_default();
                next.extend(
                    names
                        .iter()
                        .filter(|name| (hidden || !name.starts_with('.')) && matches_glob(part, name))
                        .map(|name| join(name)),
                );
            }
            found = next;
        }
        if found.is_empty() {
            out.push(plain);
        } else {
            out.extend(found);
        }
    }

    fn calculate(&mut self, text: &str) -> Result<i64, String> {
        if let Some((name, value)) = text.split_once('=') {
            let name = name.trim();
            let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if plain && !value.starts_with('=') {
                let number = self.calculate(value)?;
                self.context.variables.insert(name.to_owned(), number.to_string());
                return Ok(number);
            }
        }
        let mut sum = Sum { chars: text.chars().filter(|c| !c.is_whitespace()).collect(), at: 0, shell: self };
        let number = sum.level(0)?;
        if sum.at < sum.chars.len() {
            return Err(format!("syntax error in \"{text}\""));
        }
        Ok(number)
    }
}

fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if "*?[]\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

/// Fields: expansions that are not quoted are split at blanks; empty ones vanish.
fn split(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut fields: Vec<Vec<Piece>> = Vec::new();
    let mut current: Option<Vec<Piece>> = None;
    for piece in pieces {
        if piece.quoted || !piece.splits {
            current.get_or_insert_with(Vec::new).push(piece);
            continue;
        }
        let mut rest = piece.text.as_str();
        loop {
            let start = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
            if start > 0 {
                fields.extend(current.take());
            }
            rest = &rest[start..];
            if rest.is_empty() {
                break;
            }
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let word = Piece { text: rest[..end].to_owned(), quoted: false, splits: false };
            current.get_or_insert_with(Vec::new).push(word);
            rest = &rest[end..];
        }
    }
    fields.extend(current);
    fields
}

struct Sum<'a> {
    chars: Vec<char>,
    at: usize,
    shell: &'a Shell,
}

/// Loosest first.
const OPERATORS: &[&[&str]] =
    &[&["||"], &["&&"], &["==", "!="], &["<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

impl Sum<'_> {
    fn eat(&mut self, text: &str) -> bool {
        let yes = text.chars().enumerate().all(|(offset, c)| self.chars.get(self.at + offset) == Some(&c));
        if yes {
            self.at += text.len();
        }
        yes
    }

    fn level(&mut self, level: usize) -> Result<i64, String> {
        let Some(operators) = OPERATORS.get(level) else { return self.atom() };
        let mut left = self.level(level + 1)?;
        while let Some(operator) = operators.iter().find(|operator| self.eat(operator)) {
            let right = self.level(level + 1)?;
            left = match *operator {
                "||" => i64::from(left != 0 || right != 0),
                "&&" => i64::from(left != 0 && right != 0),
                "==" => i64::from(left == right),
                "!=" => i64::from(left != right),
                "<=" => i64::from(left <= right),
                ">=" => i64::from(left >= right),
                "<" => i64::from(left < right),
                ">" => i64::from(left > right),
                "+" => left.wrapping_add(right),
                "-" => left.wrapping_sub(right),
                "*" => left.wrapping_mul(right),
                _ if right == 0 => return Err("divide by zero".into()),
                "/" => left.wrapping_div(right),
                _ => left.wrapping_rem(right),
            };
        }
        Ok(left)
    }

    fn atom(&mut self) -> Result<i64, String> {
        if self.eat("(") {
            let inner = self.level(0)?;
            return if self.eat(")") { Ok(inner) } else { Err("expected )".into()) };
        }
        if self.eat("-") {
            return Ok(self.atom()?.wrapping_neg());
        }
        if self.eat("!") {
            return Ok(i64::from(self.atom()? == 0));
        }
        let start = self.at;
        while self.chars.get(self.at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        if word.is_empty() {
            return Err("expected a number".into());
        }
        match word.parse() {
            Ok(number) => Ok(number),
            Err(_) => Ok(self.shell.value(&word).and_then(|v| v.trim().parse().ok()).unwrap_or(0)),
        }
    }
}
