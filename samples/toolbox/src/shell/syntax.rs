//! A script's text as commands: words, quotes, operators and the compound commands.

/// A word is what its parts become.
pub type Word = Vec<Part>;

#[derive(Clone, Debug)]
pub enum Part {
    /// `quoted`: not split, and no pattern.
    Text { text: String, quoted: bool },
    Variable { name: String, quoted: bool },
    /// `${NAME:-word}` and its like.
    Default { name: String, operator: String, word: Word, quoted: bool },
    Length(String),
    Command { script: String, quoted: bool },
    Arithmetic(Word),
}

#[derive(Clone, Debug)]
pub struct Redirect {
    pub fd: u32,
    pub kind: RedirectKind,
    pub target: Word,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RedirectKind {
    Read,
    Write,
    Append,
    Duplicate,
    /// The target is the text itself.
    Here,
}

#[derive(Clone, Debug)]
pub enum Node {
    Simple { assignments: Vec<(String, Word)>, words: Vec<Word>, redirects: Vec<Redirect> },
    Pipeline { parts: Vec<Node>, negated: bool },
    /// `&&` is true.
    Chain { first: Box<Node>, rest: Vec<(bool, Node)> },
    Sequence(Vec<Node>),
    If { branches: Vec<(Node, Node)>, otherwise: Option<Box<Node>> },
    While { condition: Box<Node>, body: Box<Node>, until: bool },
    For { name: String, words: Option<Vec<Word>>, body: Box<Node> },
    Case { word: Word, arms: Vec<(Vec<Word>, Node)> },
    Group { body: Box<Node>, subshell: bool },
    Redirected { body: Box<Node>, redirects: Vec<Redirect> },
    Function { name: String, body: Box<Node> },
}

pub struct Parser {
    chars: Vec<char>,
    at: usize,
    /// Here-documents whose bodies begin at the next line.
    pending: Vec<(String, bool, usize)>,
    bodies: Vec<Word>,
}

type Parsed<T> = Result<T, String>;

const STOPPERS: &[&str] = &["then", "else", "elif", "fi", "do", "done", "esac", "}"];

pub fn parse(text: &str) -> Parsed<Node> {
    let mut parser = Parser {
        chars: text.chars().collect(),
        at: 0,
        pending: Vec::new(),
        bodies: Vec::new(),
    };
    let node = parser.sequence()?;
    parser.blanks(true);
    match parser.peek() {
        None => Ok(parser.filled(node)),
        Some(char) => Err(format!("syntax error: unexpected \"{char}\"")),
    }
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn starts(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, c)| self.chars.get(self.at + offset) == Some(&c))
    }

    fn eat(&mut self, text: &str) -> bool {
        let yes = self.starts(text);
        if yes {
            self.at += text.chars().count();
        }
        yes
    }

    fn blanks(&mut self, lines: bool) {
        while let Some(char) = self.peek() {
            match char {
                ' ' | '\t' | '\r' => self.at += 1,
                '\\' if self.chars.get(self.at + 1) == Some(&'\n') => self.at += 2,
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                '\n' if lines => {
                    self.at += 1;
                    self.here_bodies();
                }
                _ => return,
            }
        }
    }

    fn here_bodies(&mut self) {
        for (end, expands, slot) in std::mem::take(&mut self.pending) {
            let mut text = String::new();
            while self.at < self.chars.len() {
                let length = self.chars[self.at..].iter().position(|c| *c == '\n');
                let stop = length.map_or(self.chars.len(), |length| self.at + length);
                let line: String = self.chars[self.at..stop].iter().collect();
                self.at = (stop + 1).min(self.chars.len());
                if line.trim_start_matches('\t') == end {
                    break;
                }
                text.push_str(&line);
                text.push('\n');
            }
            self.bodies[slot] = if expands {
                quoted_parts(&text).unwrap_or_else(|_| vec![Part::Text { text, quoted: true }])
            } else {
                vec![Part::Text { text, quoted: true }]
            };
        }
    }

    /// The word that stands here if nothing in it is quoted or expanded.
    fn keyword(&self) -> Option<String> {
        let mut word = String::new();
        for char in &self.chars[self.at..] {
            match char {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '{' | '}' | '!' => word.push(*char),
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                _ => return None,
            }
        }
        (!word.is_empty()).then_some(word)
    }

    fn eat_keyword(&mut self, wanted: &str) -> bool {
        self.blanks(true);
        let yes = self.keyword().as_deref() == Some(wanted);
        if yes {
            self.at += wanted.chars().count();
        }
        yes
    }

    fn expect(&mut self, wanted: &str) -> Parsed<()> {
        if self.eat_keyword(wanted) { Ok(()) } else { Err(format!("syntax error: expected \"{wanted}\"")) }
    }

    fn sequence(&mut self) -> Parsed<Node> {
        let mut nodes = Vec::new();
        loop {
            self.blanks(true);
            match self.peek() {
                None | Some(')') => break,
                Some(';') if self.starts(";;") => break,
                Some(';' | '&') if !nodes.is_empty() => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            if self.keyword().is_some_and(|word| STOPPERS.contains(&word.as_str())) {
                break;
            }
            nodes.push(self.chain()?);
        }
        Ok(Node::Sequence(nodes))
    }

    fn chain(&mut self) -> Parsed<Node> {
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            self.blanks(false);
            let and = if self.eat("&&") {
                true
            } else if self.eat("||") {
                false
            } else {
                break;
            };
            self.blanks(true);
            rest.push((and, self.pipeline()?));
        }
        Ok(if rest.is_empty() { first } else { Node::Chain { first: Box::new(first), rest } })
    }

    fn pipeline(&mut self) -> Parsed<Node> {
        let mut negated = false;
        while self.keyword().as_deref() == Some("!") {
            self.at += 1;
            self.blanks(false);
            negated = !negated;
        }
        let mut parts = vec![self.command()?];
        loop {
            self.blanks(false);
            if self.peek() != Some('|') || self.starts("||") {
                break;
            }
            self.at += 1;
            self.blanks(true);
            parts.push(self.command()?);
        }
        if parts.len() == 1 && !negated {
            return Ok(parts.remove(0));
        }
        Ok(Node::Pipeline { parts, negated })
    }

    fn command(&mut self) -> Parsed<Node> {
        self.blanks(false);
        let body = match self.keyword().as_deref() {
            Some("if") => self.conditional()?,
            Some(word @ ("while" | "until")) => {
                self.at += 5;
                let until = word == "until";
                let condition = Box::new(self.sequence()?);
                Node::While { condition, body: Box::new(self.loop_body()?), until }
            }
            Some("for") => self.each()?,
            Some("case") => self.case()?,
            Some("{") => {
                self.at += 1;
                let body = Box::new(self.sequence()?);
                self.expect("}")?;
                Node::Group { body, subshell: false }
            }
            _ if self.peek() == Some('(') => {
                self.at += 1;
                let body = Box::new(self.sequence()?);
                self.close()?;
                Node::Group { body, subshell: true }
            }
            _ => return self.simple(),
        };
        let mut redirects = Vec::new();
        while let Some(redirect) = self.redirect()? {
            redirects.push(redirect);
        }
        Ok(if redirects.is_empty() { body } else { Node::Redirected { body: Box::new(body), redirects } })
    }

    fn close(&mut self) -> Parsed<()> {
        self.blanks(true);
        if self.eat(")") { Ok(()) } else { Err("syntax error: expected \")\"".into()) }
    }

    fn conditional(&mut self) -> Parsed<Node> {
        self.at += 2;
        let mut branches = Vec::new();
        loop {
            let condition = self.sequence()?;
            self.expect("then")?;
            branches.push((condition, self.sequence()?));
            if self.eat_keyword("elif") {
                continue;
            }
            let otherwise =
                if self.eat_keyword("else") { Some(Box::new(self.sequence()?)) } else { None };
            self.expect("fi")?;
            return Ok(Node::If { branches, otherwise });
        }
    }

    fn loop_body(&mut self) -> Parsed<Node> {
        self.expect("do")?;
        let body = self.sequence()?;
        self.expect("done")?;
        Ok(body)
    }

    fn each(&mut self) -> Parsed<Node> {
        self.at += 3;
        self.blanks(false);
        let name = self.keyword().ok_or("syntax error: bad for loop variable")?;
        self.at += name.chars().count();
        let mut words = None;
        if self.eat_keyword("in") {
            let mut list = Vec::new();
            self.blanks(false);
            while let Some(word) = self.word()? {
                list.push(word);
                self.blanks(false);
            }
            words = Some(list);
        }
        self.blanks(true);
        self.eat(";");
        Ok(Node::For { name, words, body: Box::new(self.loop_body()?) })
    }

    fn case(&mut self) -> Parsed<Node> {
        self.at += 4;
        self.blanks(false);
        let word = self.word()?.ok_or("syntax error: case of nothing")?;
        self.expect("in")?;
        let mut arms = Vec::new();
        while !self.eat_keyword("esac") {
            self.eat("(");
            let mut patterns = Vec::new();
            loop {
                self.blanks(true);
                patterns.push(self.word()?.ok_or("syntax error: expected a pattern")?);
                self.blanks(false);
                if !self.eat("|") {
                    break;
                }
            }
            self.close()?;
            arms.push((patterns, self.sequence()?));
            self.blanks(true);
            self.eat(";;");
        }
        Ok(Node::Case { word, arms })
    }

    fn simple(&mut self) -> Parsed<Node> {
        let (mut assignments, mut words, mut redirects) = (Vec::new(), Vec::<Word>::new(), Vec::new());
        loop {
            self.blanks(false);
            if let Some(redirect) = self.redirect()? {
                redirects.push(redirect);
                continue;
            }
            if words.is_empty() {
                if let Some(name) = self.assigned() {
                    assignments.push((name, self.word()?.unwrap_or_default()));
                    continue;
                }
            }
            let Some(word) = self.word()? else { break };
            words.push(word);
            if words.len() == 1 && self.starts("()") {
                self.at += 2;
                let [Part::Text { text, .. }] = words[0].as_slice() else {
                    return Err("syntax error: bad function name".into());
                };
                let name = text.clone();
                self.blanks(true);
                return Ok(Node::Function { name, body: Box::new(self.command()?) });
            }
        }
        if assignments.is_empty() && words.is_empty() && redirects.is_empty() {
            let found = self.peek().map_or("end of file".to_owned(), |c| format!("\"{c}\""));
            return Err(format!("syntax error: unexpected {found}"));
        }
        Ok(Node::Simple { assignments, words, redirects })
    }

    /// `NAME=`, which it consumes.
    fn assigned(&mut self) -> Option<String> {
        let mut at = self.at;
        while self.chars.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
            at += 1;
        }
        let name: String = self.chars[self.at..at].iter().collect();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || self.chars.get(at) != Some(&'=') {
            return None;
        }
        self.at = at + 1;
        Some(name)
    }

    fn redirect(&mut self) -> Parsed<Option<Redirect>> {
        self.blanks(false);
        let start = self.at;
        let mut fd = None;
        if let Some(digit) = self.peek().filter(char::is_ascii_digit) {
            if matches!(self.chars.get(self.at + 1), Some('<' | '>')) {
                fd = digit.to_digit(10);
                self.at += 1;
            }
        }
        if self.eat("&>") {
            return self.target(1, RedirectKind::Write).map(|mut redirect| {
                redirect.fd = 12;
                Some(redirect)
            });
        }
        let (kind, default) = if self.eat("<<-") || self.eat("<<") {
            (RedirectKind::Here, 0)
        } else if self.eat(">>") {
            (RedirectKind::Append, 1)
        } else if self.eat(">&") {
            (RedirectKind::Duplicate, 1)
        } else if self.eat(">|") || self.eat(">") {
            (RedirectKind::Write, 1)
        } else if self.eat("<&") {
            (RedirectKind::Duplicate, 0)
        } else if self.eat("<") {
            (RedirectKind::Read, 0)
        } else {
            self.at = start;
            return Ok(None);
        };
        let mut redirect = self.target(fd.unwrap_or(default), kind)?;
        if kind == RedirectKind::Here {
            let expands = redirect.target.iter().all(|p| matches!(p, Part::Text { quoted: false, .. }));
            let end: String = redirect
                .target
                .iter()
                .map(|p| match p {
                    Part::Text { text, .. } => text.as_str(),
                    _ => "",
                })
                .collect();
            self.pending.push((end, expands, self.bodies.len()));
            redirect.target = vec![Part::Length(format!("#{}", self.bodies.len()))];
            self.bodies.push(Vec::new());
        }
        Ok(Some(redirect))
    }

    fn target(&mut self, fd: u32, kind: RedirectKind) -> Parsed<Redirect> {
        self.blanks(false);
        let target = self.word()?.ok_or("syntax error: redirection to nothing")?;
        Ok(Redirect { fd, kind, target })
    }

    /// Puts the here-documents, which came after their commands, into them.
    fn filled(&self, node: Node) -> Node {
        if self.bodies.is_empty() {
            return node;
        }
        let all = |nodes: Vec<Node>| nodes.into_iter().map(|n| self.filled(n)).collect();
        let one = |node: Box<Node>| Box::new(self.filled(*node));
        let ins = |redirects: Vec<Redirect>| -> Vec<Redirect> {
            redirects
                .into_iter()
                .map(|mut redirect| {
                    if redirect.kind == RedirectKind::Here {
                        if let [Part::Length(slot)] = redirect.target.as_slice() {
                            let slot = slot.trim_start_matches('#').parse().unwrap_or(usize::MAX);
                            redirect.target = self.bodies.get(slot).cloned().unwrap_or_default();
                        }
                    }
                    redirect
                })
                .collect()
        };
        match node {
            Node::Simple { assignments, words, redirects } => {
                Node::Simple { assignments, words, redirects: ins(redirects) }
            }
            Node::Pipeline { parts, negated } => Node::Pipeline { parts: all(parts), negated },
            Node::Chain { first, rest } => Node::Chain {
                first: one(first),
                rest: rest.into_iter().map(|(and, n)| (and, self.filled(n))).collect(),
            },
            Node::Sequence(nodes) => Node::Sequence(all(nodes)),
            Node::If { branches, otherwise } => Node::If {
                branches: branches.into_iter().map(|(c, b)| (self.filled(c), self.filled(b))).collect(),
                otherwise: otherwise.map(one),
            },
            Node::While { condition, body, until } => {
                Node::While { condition: one(condition), body: one(body), until }
            }
            Node::For { name, words, body } => Node::For { name, words, body: one(body) },
            Node::Case { word, arms } => {
                Node::Case { word, arms: arms.into_iter().map(|(p, b)| (p, self.filled(b))).collect() }
            }
            Node::Group { body, subshell } => Node::Group { body: one(body), subshell },
            Node::Redirected { body, redirects } => {
                Node::Redirected { body: one(body), redirects: ins(redirects) }
            }
            Node::Function { name, body } => Node::Function { name, body: one(body) },
        }
    }

    fn word(&mut self) -> Parsed<Option<Word>> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let start = self.at;
        let flush = |text: &mut String, parts: &mut Word| {
            if !text.is_empty() {
                parts.push(Part::Text { text: std::mem::take(text), quoted: false });
            }
        };
        while let Some(char) = self.peek() {
            match char {
                ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => break,
                '\\' => {
                    self.at += 1;
                    if let Some(next) = self.peek() {
                        self.at += 1;
                        if next != '\n' {
                            flush(&mut text, &mut parts);
                            parts.push(Part::Text { text: next.to_string(), quoted: true });
                        }
                    }
                }
                '\'' => {
                    flush(&mut text, &mut parts);
                    self.at += 1;
                    let mut inside = String::new();
                    loop {
                        match self.peek() {
                            Some('\'') => break,
                            Some(c) => inside.push(c),
                            None => return Err("syntax error: unterminated quoted string".into()),
                        }
                        self.at += 1;
                    }
                    self.at += 1;
                    parts.push(Part::Text { text: inside, quoted: true });
                }
                '"' => {
                    flush(&mut text, &mut parts);
                    self.at += 1;
                    // So that "" is a word.
                    parts.push(Part::Text { text: String::new(), quoted: true });
                    self.quoted(&mut parts, Some('"'))?;
                    self.at += 1;
                }
                '$' | '`' => {
                    flush(&mut text, &mut parts);
                    match self.dollar(false)? {
                        Some(part) => parts.push(part),
                        None => text.push('$'),
                    }
                }
                c => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
        flush(&mut text, &mut parts);
        Ok((self.at > start).then_some(parts))
    }

    /// Up to `end`, which stays.
    fn quoted(&mut self, parts: &mut Word, end: Option<char>) -> Parsed<()> {
        let mut text = String::new();
        loop {
            let Some(char) = self.peek() else {
                if end.is_some() {
                    return Err("syntax error: unterminated quoted string".into());
                }
                break;
            };
            if Some(char) == end {
                break;
            }
            match char {
                '\\' if self.chars.get(self.at + 1).is_some_and(|c| "$`\"\\\n".contains(*c)) => {
                    let next = self.chars[self.at + 1];
                    if next != '\n' {
                        text.push(next);
                    }
                    self.at += 2;
                }
                '$' | '`' => {
                    if !text.is_empty() {
                        parts.push(Part::Text { text: std::mem::take(&mut text), quoted: true });
                    }
                    match self.dollar(true)? {
                        Some(part) => parts.push(part),
                        None => text.push('$'),
                    }
                }
                c => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text { text, quoted: true });
        }
        Ok(())
    }

    /// What begins with `$` or a backquote. None: just the sign.
    fn dollar(&mut self, quoted: bool) -> Parsed<Option<Part>> {
        if self.eat("`") {
            let script = self.until("`", false)?;
            return Ok(Some(Part::Command { script: script.replace("\\`", "`"), quoted }));
        }
        self.at += 1;
        if self.eat("((") {
            let text = self.until("))", true)?;
            return Ok(Some(Part::Arithmetic(quoted_parts(&text)?)));
        }
        if self.eat("(") {
            let script = self.until(")", true)?;
            return Ok(Some(Part::Command { script, quoted }));
        }
        if self.eat("{") {
            let text = self.until("}", true)?;
            if let Some(name) = text.strip_prefix('#').filter(|name| !name.is_empty()) {
                return Ok(Some(Part::Length(name.to_owned())));
            }
            let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_?@*#".contains(c))).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if rest.is_empty() {
                return Ok(Some(Part::Variable { name: name.to_owned(), quoted }));
            }
            let operators = [":-", ":=", ":+", ":?", "-", "=", "+", "?", "%%", "%", "##", "#"];
            let operator = operators.iter().find(|operator| rest.starts_with(**operator));
            let operator = operator.ok_or_else(|| format!("{text}: bad substitution"))?;
            let word = quoted_parts(&rest[operator.len()..])?;
            return Ok(Some(Part::Default { name: name.to_owned(), operator: (*operator).to_owned(), word, quoted }));
        }
        let Some(first) = self.peek() else { return Ok(None) };
        let mut name = String::new();
        if "?$#@*!-".contains(first) || first.is_ascii_digit() {
            name.push(first);
            self.at += 1;
        } else {
            while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                name.push(c);
                self.at += 1;
            }
        }
        Ok((!name.is_empty()).then_some(Part::Variable { name, quoted }))
    }

    /// The text up to an end that is in no quotes and, where it nests, in no inner pair.
    fn until(&mut self, end: &str, nests: bool) -> Parsed<String> {
        let (mut text, mut depth) = (String::new(), 0);
        let (open, close) = match end {
            "}" => ('{', '}'),
            _ => ('(', ')'),
        };
        let mut quote = None;
        loop {
            if depth == 0 && quote.is_none() && self.eat(end) {
                return Ok(text);
            }
            let Some(char) = self.peek() else { return Err(format!("syntax error: expected \"{end}\"")) };
            match (quote, char) {
                (_, '\\') => {
                    text.push(char);
                    self.at += 1;
                    if let Some(next) = self.peek() {
                        text.push(next);
                        self.at += 1;
                    }
                    continue;
                }
                (None, '\'' | '"') if nests => quote = Some(char),
                (Some(open), c) if open == c => quote = None,
                (None, c) if nests && c == open => depth += 1,
                (None, c) if nests && c == close => depth -= 1,
                _ => {}
            }
            text.push(char);
            self.at += 1;
        }
    }
}

/// A text as if it stood between double quotes.
fn quoted_parts(text: &str) -> Parsed<Word> {
    let mut parser = Parser {
        chars: text.chars().collect(),
        at: 0,
        pending: Vec::new(),
        bodies: Vec::new(),
    };
    let mut parts = Vec::new();
    parser.quoted(&mut parts, None)?;
    Ok(parts)
}
