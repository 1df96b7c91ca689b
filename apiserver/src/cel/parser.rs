//! Reads an expression's tokens into its syntax tree.

use super::ast::{Element, Entry, Expr, Field, Kind, Literal, operators};
use super::error::Mistake;
use super::escape::is_reserved;
use super::lexer::{self, Token, TokenKind};
use super::macros;

/// Longer expressions are not read.
const CHARACTERS_MAX: usize = 100_000;
/// Deeper trees are not read: everything that walks them recurses.
const DEPTH_MAX: usize = 250;

/// What an operand may begin with, as syntax errors list it.
const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// An expression as it was read: the tree and the place of each of its nodes.
#[derive(Debug)]
pub(super) struct Parsed {
    pub root: Expr,
    /// For each node's number, the characters before it.
    pub offsets: Vec<u32>,
}

pub(super) fn parse(source: &str) -> Result<Parsed, Vec<Mistake>> {
    let length = source.chars().count();
    if length > CHARACTERS_MAX {
        let message =
            format!("expression code point size exceeds limit: size: {length}, limit {CHARACTERS_MAX}");
        return Err(vec![Mistake { offset: None, message }]);
    }
    let mut mistakes = Vec::new();
    let tokens = lexer::tokens(source, &mut mistakes);
    let mut parser = Parser { tokens, at: 0, builder: Builder::default(), mistakes, depth: 0 };
    // Numbers begin at one.
    parser.builder.offsets.push(0);
    let root = match parser.expression() {
        Ok(root) => match parser.peek().kind {
            TokenKind::End => Some(root),
            _ => {
                parser.unexpected_after_operand("<EOF>");
                None
            }
        },
        Err(Stopped) => None,
    };
    match root {
        Some(root) if parser.mistakes.is_empty() => Ok(Parsed { root, offsets: parser.builder.offsets }),
        _ => {
            parser.mistakes.sort_by_key(|mistake| mistake.offset);
            Err(parser.mistakes)
        }
    }
}

/// Makes nodes, each with a number of its own.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub offsets: Vec<u32>,
}

impl Builder {
    pub fn id(&mut self, offset: u32) -> u32 {
        self.offsets.push(offset);
        (self.offsets.len() - 1) as u32
    }

    pub fn node(&mut self, offset: u32, kind: Kind) -> Expr {
        Expr { id: self.id(offset), kind }
    }

    pub fn offset(&self, of: &Expr) -> u32 {
        self.offsets.get(of.id as usize).copied().unwrap_or_default()
    }
}

/// The text cannot be read further; the mistake has been noted.
struct Stopped;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    builder: Builder,
    mistakes: Vec<Mistake>,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn ahead(&self, by: usize) -> &Token {
        &self.tokens[(self.at + by).min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn is(&self, sign: &str) -> bool {
        is_sign(self.peek(), sign)
    }

    fn take(&mut self, sign: &str) -> Option<u32> {
        self.is(sign).then(|| self.next().offset)
    }

    fn mistake(&mut self, offset: u32, message: String) {
        self.mistakes.push(Mistake { offset: Some(offset), message });
    }

    fn unexpected(&mut self, expected: &str) -> Stopped {
        let token = self.peek().clone();
        self.mistake(
            token.offset,
            format!("Syntax error: mismatched input '{}' expecting {expected}", token.text),
        );
        Stopped
    }

    /// What follows an operand is neither an operator nor `expected`, which is one sign or a set of them as messages list it.
    #[cold]
    fn unexpected_after_operand(&mut self, expected: &str) -> Stopped {
        let token = self.peek().clone();
        let message = match (token.kind, expected) {
            (_, "<EOF>") => format!("Syntax error: extraneous input '{}' expecting <EOF>", token.text),
            (TokenKind::End, ")") => "Syntax error: missing ')' at '<EOF>'".to_owned(),
            _ => format!("Syntax error: mismatched input '{}' expecting {}", token.text, quoted(expected)),
        };
        self.mistake(token.offset, message);
        Stopped
    }

    /// The end of what commas separate.
    fn expect_end(&mut self, sign: &str, expected: &str) -> Result<u32, Stopped> {
        match self.take(sign) {
            Some(offset) => Ok(offset),
            None => Err(self.unexpected_after_operand(expected)),
        }
    }

    fn expect(&mut self, sign: &str) -> Result<u32, Stopped> {
        match self.take(sign) {
            Some(offset) => Ok(offset),
            None => Err(self.unexpected_after_operand(sign)),
        }
    }

    /// Goes one level deeper; `ascend` comes back.
    fn descend(&mut self) -> Result<(), Stopped> {
        self.depth += 1;
        if self.depth <= DEPTH_MAX { Ok(()) } else { Err(self.too_deep(DEPTH_MAX)) }
    }

    #[cold]
    fn too_deep(&mut self, limit: usize) -> Stopped {
        self.mistakes
            .push(Mistake { offset: None, message: format!("expression recursion limit exceeded: {limit}") });
        Stopped
    }

    fn expression(&mut self) -> Result<Expr, Stopped> {
        self.descend()?;
        let condition = self.logical()?;
        let expression = match self.take("?") {
            None => condition,
            Some(offset) => {
                let id = self.builder.id(offset);
                let then = self.logical()?;
                self.expect(":")?;
                let otherwise = self.expression()?;
                call(id, operators::CONDITIONAL, vec![condition, then, otherwise])
            }
        };
        self.depth -= 1;
        Ok(expression)
    }

    /// `||` of `&&` of comparisons. Chains are balanced, so that a long one is not deep.
    fn logical(&mut self) -> Result<Expr, Stopped> {
        let first = self.binary(0)?;
        if !self.is("&&") && !self.is("||") {
            return Ok(first);
        }
        let (mut all, mut any) =
            (Chain::new(operators::AND, first), Chain::new(operators::OR, Expr { id: 0, kind: Kind::Wrong }));
        any.terms.clear();
        loop {
            if let Some(offset) = self.take("&&") {
                let next = self.binary(0)?;
                all.push(&mut self.builder, offset, next);
            } else if let Some(offset) = self.take("||") {
                let next = self.binary(0)?;
                let finished = std::mem::replace(&mut all, Chain::new(operators::AND, next));
                any.terms.push(Some(finished.tree()));
                any.places.push(self.builder.id(offset));
            } else {
                any.terms.push(Some(all.tree()));
                return Ok(any.tree());
            }
        }
    }

    /// The operator that follows, if it binds at least as tightly as `level` asks for.
    fn operator(&self, level: usize) -> Option<(usize, &'static str)> {
        let token = self.peek();
        if token.kind != TokenKind::Sign {
            return None;
        }
        let found = match token.text.as_str() {
            "==" => (0, operators::EQUALS),
            "!=" => (0, operators::NOT_EQUALS),
            "<" => (0, operators::LESS),
            "<=" => (0, operators::LESS_EQUALS),
            ">=" => (0, operators::GREATER_EQUALS),
            ">" => (0, operators::GREATER),
            "in" => (0, operators::IN),
            "+" => (1, operators::ADD),
            "-" => (1, operators::SUBTRACT),
            "*" => (2, operators::MULTIPLY),
            "/" => (2, operators::DIVIDE),
            "%" => (2, operators::MODULO),
            _ => return None,
        };
        (found.0 >= level).then_some(found)
    }

    /// Comparisons, sums and products, all of which associate to the left.
    fn binary(&mut self, level: usize) -> Result<Expr, Stopped> {
        let mut left = self.unary()?;
        let mut deeper = 0;
        while let Some((found, function)) = self.operator(level) {
            let offset = self.next().offset;
            let id = self.builder.id(offset);
            self.descend()?;
            deeper += 1;
            let right = self.binary(found + 1)?;
            left = call(id, function, vec![left, right]);
        }
        self.depth -= deeper;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, Stopped> {
        for (sign, function) in [("!", operators::NOT), ("-", operators::NEGATE)] {
            if !self.is(sign)
                || (sign == "-" && matches!(self.ahead(1).kind, TokenKind::Int | TokenKind::Double))
            {
                continue;
            }
            let offset = self.peek().offset;
            let mut odd = false;
            while self.is(sign) {
                self.next();
                odd = !odd;
            }
            if !self.operand_follows() {
                let token = self.peek().clone();
                self.mistake(
                    token.offset,
                    format!("Syntax error: extraneous input '{}' expecting {OPERAND}", token.text),
                );
                return Err(Stopped);
            }
            if !odd {
                return self.member();
            }
            let id = self.builder.id(offset);
            let operand = self.member()?;
            return Ok(call(id, function, vec![operand]));
        }
        self.member()
    }

    fn operand_follows(&self) -> bool {
        let token = self.peek();
        match token.kind {
            TokenKind::End | TokenKind::Escaped => false,
            TokenKind::Sign => {
                matches!(token.text.as_str(), "[" | "{" | "(" | "." | "-" | "!" | "true" | "false" | "null")
            }
            _ => true,
        }
    }

    /// An operand with all its fields, indexes and method calls.
    fn member(&mut self) -> Result<Expr, Stopped> {
        let mut expression = self.primary()?;
        let mut deeper = 0;
        loop {
            if let Some(dot) = self.take(".") {
                let optional = self.take("?").is_some();
                let name = self.next();
                if !optional && name.kind == TokenKind::Identifier && self.is("(") {
                    let open = self.next().offset;
                    let id = self.builder.id(open);
                    let arguments = self.arguments()?;
                    expression = self.call_or_macro(id, Some(expression), name.text, arguments);
                } else {
                    let field = self.field_name(name)?;
                    if optional {
                        let id = self.builder.id(dot);
                        let field = self.builder.node(field.1, Kind::Literal(Literal::String(field.0)));
                        expression = call(id, operators::OPTIONAL_SELECT, vec![expression, field]);
                    } else {
                        let kind =
                            Kind::Select { operand: Box::new(expression), field: field.0, test: false };
                        expression = self.builder.node(dot, kind);
                    }
                }
            } else if let Some(open) = self.take("[") {
                let function =
                    if self.take("?").is_some() { operators::OPTIONAL_INDEX } else { operators::INDEX };
                let id = self.builder.id(open);
                if !self.operand_follows() {
                    return Err(self.unexpected(&OPERAND.replace("'!', ", "'!', '?', ")));
                }
                let index = self.expression()?;
                self.expect("]")?;
                expression = call(id, function, vec![expression, index]);
            } else {
                self.depth -= deeper;
                return Ok(expression);
            }
            self.descend()?;
            deeper += 1;
        }
    }

    fn field_name(&mut self, token: Token) -> Result<(String, u32), Stopped> {
        match token.kind {
            TokenKind::Identifier => Ok((token.text, token.offset)),
            TokenKind::Escaped => {
                self.mistake(token.offset, "unsupported syntax: '`'".into());
                Ok((token.text.trim_matches('`').to_owned(), token.offset))
            }
            _ => {
                let message = match token.kind {
                    TokenKind::End => {
                        "Syntax error: mismatched input '<EOF>' expecting {'?', IDENTIFIER, ESC_IDENTIFIER}"
                            .to_owned()
                    }
                    _ => format!(
                        "Syntax error: no viable alternative at input '{}{}'",
                        self.blank_before(&token),
                        token.text
                    ),
                };
                self.mistake(token.offset, message);
                Err(Stopped)
            }
        }
    }

    /// The dot before a token, with the blanks between.
    fn blank_before(&self, token: &Token) -> String {
        let earlier = &self.tokens[..self.at.min(self.tokens.len())];
        let dot = earlier
            .iter()
            .rev()
            .find(|earlier| is_sign(earlier, ".") && earlier.offset < token.offset)
            .map_or(token.offset, |dot| dot.offset);
        let unread = |place: &u32| self.mistakes.iter().any(|mistake| mistake.offset == Some(*place));
        let blanks = (dot + 1..token.offset).filter(|place| !unread(place)).count();
        format!(".{}", " ".repeat(blanks))
    }

    fn primary(&mut self) -> Result<Expr, Stopped> {
        if self.take("(").is_some() {
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if let Some(offset) = self.take("[") {
            return self.list(offset);
        }
        if let Some(offset) = self.take("{") {
            return self.map(offset);
        }
        if self.peek().kind == TokenKind::Identifier {
            let name = self.next();
            return self.identifier(name, "");
        }
        if self.is(".") && self.ahead(1).kind == TokenKind::Identifier {
            self.next();
            let name = self.next();
            return self.identifier(name, ".");
        }
        self.literal()
    }

    fn literal(&mut self) -> Result<Expr, Stopped> {
        let token = self.next();
        let offset = token.offset;
        let literal = match token.kind {
            TokenKind::Int => self.int(&token, ""),
            TokenKind::Uint => self.uint(&token),
            TokenKind::Double => self.double(&token, ""),
            TokenKind::String => match lexer::unescape(&token.text, false).map(String::from_utf8) {
                Ok(Ok(text)) => Some(Literal::String(text)),
                Ok(Err(_)) => self.wrong_literal(offset, "invalid unicode code point"),
                Err(message) => self.wrong_literal(offset, message),
            },
            TokenKind::Bytes => match lexer::unescape(&token.text, true) {
                Ok(bytes) => Some(Literal::Bytes(bytes)),
                Err(message) => self.wrong_literal(offset, message),
            },
            TokenKind::Sign => match token.text.as_str() {
                "true" => Some(Literal::Bool(true)),
                "false" => Some(Literal::Bool(false)),
                "null" => Some(Literal::Null),
                "-" if self.peek().kind == TokenKind::Int => {
                    let number = self.next();
                    self.int(&number, "-").or(Some(Literal::Int(0)))
                }
                "-" if self.peek().kind == TokenKind::Double => {
                    let number = self.next();
                    self.double(&number, "-")
                }
                _ => {
                    self.at -= 1;
                    return Err(self.unexpected(OPERAND));
                }
            },
            TokenKind::Identifier | TokenKind::Escaped | TokenKind::End => {
                self.at -= 1;
                return Err(self.unexpected(OPERAND));
            }
        };
        Ok(self.builder.node(offset, literal.map_or(Kind::Wrong, Kind::Literal)))
    }

    fn wrong_literal(&mut self, offset: u32, message: &str) -> Option<Literal> {
        self.mistake(offset, message.to_owned());
        None
    }

    fn int(&mut self, token: &Token, sign: &str) -> Option<Literal> {
        let parsed = match token.text.strip_prefix("0x") {
            Some(hexadecimal) => i64::from_str_radix(&format!("{sign}{hexadecimal}"), 16),
            None => format!("{sign}{}", token.text).parse(),
        };
        match parsed {
            Ok(number) => Some(Literal::Int(number)),
            Err(_) => self.wrong_literal(token.offset, "invalid int literal"),
        }
    }

    fn uint(&mut self, token: &Token) -> Option<Literal> {
        let text = token.text.trim_end_matches(['u', 'U']);
        let parsed = match text.strip_prefix("0x") {
            Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
            None => text.parse(),
        };
        match parsed {
            Ok(number) => Some(Literal::Uint(number)),
            Err(_) => self.wrong_literal(token.offset, "invalid uint literal"),
        }
    }

    fn double(&mut self, token: &Token, sign: &str) -> Option<Literal> {
        match format!("{sign}{}", token.text).parse::<f64>() {
            Ok(number) if number.is_finite() => Some(Literal::Double(number)),
            _ => self.wrong_literal(token.offset, "invalid double literal"),
        }
    }

    /// A variable, a function call, or an object written with its type's name.
    fn identifier(&mut self, name: Token, dot: &str) -> Result<Expr, Stopped> {
        if let Some(open) = self.object_follows() {
            let mut full = format!("{dot}{}", name.text);
            for _ in 0..open / 2 {
                self.next();
                full.push('.');
                full.push_str(&self.next().text);
            }
            let brace = self.next().offset;
            return self.object(full, brace);
        }
        if is_reserved(&name.text) {
            self.mistake(name.offset, format!("reserved identifier: {}", name.text));
        }
        if self.is("(") {
            let open = self.next().offset;
            let id = self.builder.id(open);
            let arguments = self.arguments()?;
            return Ok(self.call_or_macro(id, None, format!("{dot}{}", name.text), arguments));
        }
        Ok(self.builder.node(name.offset, Kind::Ident(format!("{dot}{}", name.text))))
    }

    /// The tokens up to the brace, if `.name.name{` follows.
    fn object_follows(&self) -> Option<usize> {
        let mut at = 0;
        while is_sign(self.ahead(at), ".") && self.ahead(at + 1).kind == TokenKind::Identifier {
            at += 2;
        }
        is_sign(self.ahead(at), "{").then_some(at)
    }

    fn object(&mut self, name: String, brace: u32) -> Result<Expr, Stopped> {
        let id = self.builder.id(brace);
        let mut fields = Vec::new();
        while !self.is("}") {
            self.take("?");
            let token = self.next();
            let (name, _) = self.field_name(token)?;
            let colon = self.expect(":")?;
            let id = self.builder.id(colon);
            let value = self.expression()?;
            fields.push(Field { id, name, value });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(Expr { id, kind: Kind::Struct { name, fields } })
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Stopped> {
        let mut arguments = Vec::new();
        if self.take(")").is_some() {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.take(",").is_none() {
                self.expect_end(")", "{')', ','}")?;
                return Ok(arguments);
            }
        }
    }

    fn list(&mut self, offset: u32) -> Result<Expr, Stopped> {
        let id = self.builder.id(offset);
        let mut elements = Vec::new();
        while !self.is("]") {
            let optional = self.take("?").is_some();
            elements.push(Element { value: self.expression()?, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect_end("]", "{']', ','}")?;
        Ok(Expr { id, kind: Kind::List(elements) })
    }

    fn map(&mut self, offset: u32) -> Result<Expr, Stopped> {
        let id = self.builder.id(offset);
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let key = self.expression()?;
            self.expect(":")?;
            entries.push(Entry { key, value: self.expression()?, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect_end("}", "{'}', ','}")?;
        Ok(Expr { id, kind: Kind::Map(entries) })
    }

    fn call_or_macro(
        &mut self,
        id: u32,
        target: Option<Expr>,
        function: String,
        arguments: Vec<Expr>,
    ) -> Expr {
        match macros::expand(&mut self.builder, id, target, &function, arguments) {
            macros::Expansion::Expanded(expression) => expression,
            macros::Expansion::Wrong(offset, message) => {
                self.mistake(offset, message);
                Expr { id, kind: Kind::Wrong }
            }
            macros::Expansion::Call(target, arguments) => {
                Expr { id, kind: Kind::Call { target: target.map(Box::new), function, arguments } }
            }
        }
    }
}

fn quoted(expected: &str) -> String {
    if expected.starts_with(['<', '{']) { expected.to_owned() } else { format!("'{expected}'") }
}

fn is_sign(token: &Token, sign: &str) -> bool {
    token.kind == TokenKind::Sign && token.text == sign
}

fn call(id: u32, function: &str, arguments: Vec<Expr>) -> Expr {
    Expr { id, kind: Kind::Call { target: None, function: function.to_owned(), arguments } }
}

/// Terms of one operator, `&&` or `||`.
struct Chain {
    operator: &'static str,
    terms: Vec<Option<Expr>>,
    places: Vec<u32>,
}

impl Chain {
    fn new(operator: &'static str, first: Expr) -> Chain {
        Chain { operator, terms: vec![Some(first)], places: Vec::new() }
    }

    fn push(&mut self, builder: &mut Builder, offset: u32, term: Expr) {
        self.terms.push(Some(term));
        self.places.push(builder.id(offset));
    }

    fn tree(mut self) -> Expr {
        let high = self.places.len();
        balanced(self.operator, &mut self.terms, &self.places, 0, high)
    }
}

/// The terms from `low` up to and including `high` as a tree as shallow as can be.
fn balanced(operator: &str, terms: &mut [Option<Expr>], places: &[u32], low: usize, high: usize) -> Expr {
    if low == high {
        return terms[low].take().unwrap_or(Expr { id: 0, kind: Kind::Wrong });
    }
    let middle = (low + high) / 2;
    let left = balanced(operator, terms, places, low, middle);
    let right = balanced(operator, terms, places, middle + 1, high);
    call(places[middle], operator, vec![left, right])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_mistake(source: &str) -> (Option<u32>, String) {
        let mistakes = parse(source).unwrap_err();
        (mistakes[0].offset, mistakes[0].message.clone())
    }

    #[test]
    fn expressions_are_read() {
        for source in [
            "self.a.b[0] == 1 && !(x in [1, 2,]) || size(y) > 3 ? a : b",
            "self.items.all(i, i.name.startsWith('x') && has(i.value))",
            "a.?b[?0].orValue(1) - -1",
            "{'a': 1, ?'b': c.?d, }",
            "--1 + !!true",
            ".a.b(c)",
            "x.exists_one(k, v, v == 1)",
            "[1,2].transformMap(i, v, i > 0, v * 2)",
        ] {
            parse(source).unwrap_or_else(|mistakes| panic!("{source}: {mistakes:?}"));
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        assert_eq!(
            first_mistake("1 +"),
            (Some(3), format!("Syntax error: mismatched input '<EOF>' expecting {OPERAND}"))
        );
        assert_eq!(first_mistake("if == 1"), (Some(0), "reserved identifier: if".into()));
        assert_eq!(first_mistake("9223372036854775808"), (Some(0), "invalid int literal".into()));
        assert_eq!(first_mistake("has(a)"), (Some(4), "invalid argument to has() macro".into()));
        assert_eq!(first_mistake("a.`b`"), (Some(2), "unsupported syntax: '`'".into()));
    }

    #[test]
    fn chains_are_balanced_and_depth_is_bounded() {
        let long = vec!["true"; 5000].join(" && ");
        assert!(parse(&long).is_ok());
        for deep in [
            "(".repeat(100_000),
            "[".repeat(300),
            format!("{}1", "(1 + ".repeat(500)),
            format!("a{}", ".b".repeat(300)),
            vec!["1"; 300].join(" + "),
            "a?b:".repeat(1000),
        ] {
            let mistakes = crate::cel::stack::with_room(deep.len(), || parse(&deep)).unwrap().unwrap_err();
            assert!(
                mistakes.iter().any(|mistake| mistake.message.contains("recursion limit")),
                "{:?}",
                mistakes[0].message
            );
        }
    }
}
