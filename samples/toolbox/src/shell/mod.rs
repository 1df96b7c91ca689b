//! A small POSIX shell whose commands are the tools of this program; pipes are run one side after the other.

mod expand;
mod syntax;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Cursor, IsTerminal, Write};
use std::rc::Rc;

use crate::context::{describe, Context, Done, Io};
use syntax::{parse, Node, Redirect, RedirectKind};

/// What a script leaves its normal course for.
pub enum Leave {
    Exit(i32),
    Break(u32),
    Continue(u32),
    Return(i32),
}

pub struct Shell {
    pub context: Context,
    /// Those that commands see.
    exported: BTreeMap<String, ()>,
    pub arguments: Vec<String>,
    pub last: i32,
    functions: BTreeMap<String, Node>,
    /// `set -e`, and how deep in conditions it does not count.
    stops: bool,
    conditions: u32,
    traces: bool,
}

pub fn sh(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let exported = context.variables.keys().map(|name| (name.clone(), ())).collect();
    let mut shell = Shell {
        context: context.clone(),
        exported,
        arguments: vec!["sh".into()],
        last: 0,
        functions: BTreeMap::new(),
        stops: false,
        conditions: 0,
        traces: false,
    };
    let mut at = 0;
    let mut command = false;
    while let Some(letters) = arguments.get(at).and_then(|a| a.strip_prefix('-')).filter(|l| !l.is_empty()) {
        at += 1;
        for letter in letters.chars() {
            match letter {
                'c' => command = true,
                'e' => shell.stops = true,
                'x' => shell.traces = true,
                _ => {}
            }
        }
        if letters == "-" {
            break;
        }
    }
    let rest = &arguments[at..];
    if command {
        let Some((script, rest)) = rest.split_first() else { return Err("-c requires an argument".into()) };
        if !rest.is_empty() {
            shell.arguments = rest.to_vec();
        }
        return Ok(shell.script(io, script));
    }
    if let Some(file) = rest.first() {
        shell.arguments = rest.to_vec();
        let script = match io.whole(&shell.context, file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                io.complain(&format!("sh: can't open '{file}': {}", describe(&error)));
                return Ok(2);
            }
        };
        return Ok(shell.script(io, &script));
    }
    Ok(shell.interactive(io))
}

impl Shell {
    fn script(&mut self, io: &mut Io, text: &str) -> i32 {
        match self.text(io, text) {
            Ok(code) => code,
            Err(Leave::Exit(code) | Leave::Return(code)) => code,
            Err(Leave::Break(_) | Leave::Continue(_)) => self.last,
        }
    }

    fn text(&mut self, io: &mut Io, text: &str) -> Result<i32, Leave> {
        match parse(text) {
            Ok(node) => self.run(&node, io),
            Err(error) => {
                io.flush();
                io.complain(&format!("sh: {error}"));
                self.last = 2;
                Ok(2)
            }
        }
    }

    /// Lines of the standard input, with a prompt where that is a terminal.
    fn interactive(&mut self, io: &mut Io) -> i32 {
        let prompts = io::stdin().is_terminal();
        let mut text = String::new();
        loop {
            if prompts {
                let prompt = if text.is_empty() {
                    format!("{} $ ", self.context.directory)
                } else {
                    "> ".to_owned()
                };
                let _ = io.out.write_all(prompt.as_bytes());
                io.flush();
            }
            let before = text.len();
            let read = io.input.read_line(&mut text);
            let ended = !matches!(read, Ok(1..)) || text.len() == before;
            if let Err(error) = parse(&text) {
                let unfinished = ["unterminated", "end of file", "expected"].iter().any(|why| error.contains(why));
                if unfinished && !ended {
                    continue;
                }
            }
            match self.text(io, &std::mem::take(&mut text)) {
                Ok(_) | Err(Leave::Break(_) | Leave::Continue(_)) => {}
                Err(Leave::Exit(code) | Leave::Return(code)) => return code,
            }
            io.flush();
            if ended {
                return self.last;
            }
        }
    }

    pub fn run(&mut self, node: &Node, io: &mut Io) -> Result<i32, Leave> {
        let code = match node {
            Node::Sequence(nodes) => {
                let mut code = 0;
                for node in nodes {
                    code = self.run(node, io)?;
                }
                if nodes.is_empty() { self.last } else { code }
            }
            Node::Chain { first, rest } => {
                self.conditions += 1;
                let mut code = self.run(first, io);
                for (at, (and, node)) in rest.iter().enumerate() {
                    let Ok(before) = code else { break };
                    if at + 1 == rest.len() {
                        self.conditions -= 1;
                    }
                    if (before == 0) == *and {
                        code = self.run(node, io);
                    }
                    if at + 1 == rest.len() {
                        self.conditions += 1;
                    }
                }
                self.conditions -= 1;
                self.last = code?;
                return Ok(self.last);
            }
            Node::Pipeline { parts, negated } => {
                let code = self.pipeline(parts, io)?;
                if *negated { i32::from(code == 0) } else { code }
            }
            Node::If { branches, otherwise } => {
                let mut chosen = otherwise.as_deref();
                for (condition, body) in branches {
                    if self.condition(condition, io)? == 0 {
                        chosen = Some(body);
                        break;
                    }
                }
                match chosen {
                    Some(body) => self.run(body, io)?,
                    None => 0,
                }
            }
            Node::While { condition, body, until } => {
                let mut code = 0;
                while (self.condition(condition, io)? == 0) != *until {
                    match self.run(body, io) {
                        Ok(ended) => code = ended,
                        Err(Leave::Break(levels)) if levels > 1 => return Err(Leave::Break(levels - 1)),
                        Err(Leave::Break(_)) => break,
                        Err(Leave::Continue(levels)) if levels > 1 => return Err(Leave::Continue(levels - 1)),
                        Err(Leave::Continue(_)) => {}
                        Err(other) => return Err(other),
                    }
                    io.flush();
                }
                code
            }
            Node::For { name, words, body } => {
                let values = match words {
                    Some(words) => self.words(words, io),
                    None => self.arguments[1..].to_vec(),
                };
                let mut code = 0;
                for value in values {
                    self.context.variables.insert(name.clone(), value);
                    match self.run(body, io) {
                        Ok(ended) => code = ended,
                        Err(Leave::Break(levels)) if levels > 1 => return Err(Leave::Break(levels - 1)),
                        Err(Leave::Break(_)) => break,
                        Err(Leave::Continue(levels)) if levels > 1 => return Err(Leave::Continue(levels - 1)),
                        Err(Leave::Continue(_)) => {}
                        Err(other) => return Err(other),
                    }
                }
                code
            }
            Node::Case { word, arms } => {
                let text = self.one(word, io);
                let arm = arms.iter().find(|(patterns, _)| {
                    patterns.iter().any(|p| crate::files::matches_glob(&self.pattern(p, io), &text))
                });
                match arm {
                    Some((_, body)) => self.run(body, io)?,
                    None => 0,
                }
            }
            Node::Group { body, subshell: false } => self.run(body, io)?,
            Node::Group { body, subshell: true } => self.apart(body, io),
            Node::Redirected { body, redirects } => {
                let mut inner = Streams::of(io);
                match inner.redirect(self, redirects) {
                    Ok(mut io) => self.run(body, &mut io)?,
                    Err(text) => self.refused(io, &text),
                }
            }
            Node::Function { name, body } => {
                self.functions.insert(name.clone(), (**body).clone());
                0
            }
            Node::Simple { assignments, words, redirects } => {
                let values = self.words(words, io);
                if self.traces && !values.is_empty() {
                    io.flush();
                    io.complain(&format!("+ {}", values.join(" ")));
                }
                let mut inner = Streams::of(io);
                match inner.redirect(self, redirects) {
                    Ok(mut io) => {
                        let code = self.simple(assignments, &values, &mut io);
                        io.flush();
                        code?
                    }
                    Err(text) => self.refused(io, &text),
                }
            }
        };
        self.last = code;
        if code != 0 && self.stops && self.conditions == 0 {
            return Err(Leave::Exit(code));
        }
        Ok(code)
    }

    fn refused(&mut self, io: &mut Io, text: &str) -> i32 {
        io.flush();
        io.complain(&format!("sh: {text}"));
        1
    }

    fn condition(&mut self, node: &Node, io: &mut Io) -> Result<i32, Leave> {
        self.conditions += 1;
        let code = self.run(node, io);
        self.conditions -= 1;
        code
    }

    /// In a shell of its own: nothing it changes stays.
    pub fn apart(&mut self, node: &Node, io: &mut Io) -> i32 {
        let mut shell = Shell {
            context: self.context.clone(),
            exported: self.exported.clone(),
            arguments: self.arguments.clone(),
            last: self.last,
            functions: self.functions.clone(),
            stops: self.stops,
            conditions: self.conditions,
            traces: self.traces,
        };
        match shell.run(node, io) {
            Ok(code) | Err(Leave::Exit(code) | Leave::Return(code)) => code,
            Err(_) => shell.last,
        }
    }

    fn pipeline(&mut self, parts: &[Node], io: &mut Io) -> Result<i32, Leave> {
        if let [only] = parts {
            return self.run(only, io);
        }
        let mut carried: Option<Vec<u8>> = None;
        let mut code = 0;
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let buffer = Rc::new(RefCell::new(Vec::new()));
            let mut streams = Streams::of(io);
            let mut inner = streams.io();
            if let Some(bytes) = carried.take() {
                inner.input = Box::new(Cursor::new(bytes));
            }
            if !last {
                inner.out = Box::new(Shared(buffer.clone()));
            }
            code = self.apart(part, &mut inner);
            inner.flush();
            drop(inner);
            carried = Some(buffer.take());
        }
        Ok(code)
    }

    fn simple(
        &mut self,
        assignments: &[(String, syntax::Word)],
        values: &[String],
        io: &mut Io,
    ) -> Result<i32, Leave> {
        let Some((name, arguments)) = values.split_first() else {
            let mut code = 0;
            for (name, word) in assignments {
                self.last = 0;
                let value = self.one(word, io);
                code = self.last;
                self.context.variables.insert(name.clone(), value);
            }
            return Ok(code);
        };
        let mut before = Vec::new();
        for (name, word) in assignments {
            let value = self.one(word, io);
            before.push((name.clone(), self.context.variables.insert(name.clone(), value)));
        }
        let named: Vec<String> = assignments.iter().map(|(name, _)| name.clone()).collect();
        let code = self.command(name, arguments, &named, io);
        for (name, value) in before {
            match value {
                Some(value) => drop(self.context.variables.insert(name, value)),
                None => drop(self.context.variables.remove(&name)),
            }
        }
        code
    }

    fn command(&mut self, name: &str, arguments: &[String], given: &[String], io: &mut Io) -> Result<i32, Leave> {
        if let Some(body) = self.functions.get(name).cloned() {
            let mut inner = vec![self.arguments[0].clone()];
            inner.extend_from_slice(arguments);
            let outer = std::mem::replace(&mut self.arguments, inner);
            let result = self.run(&body, io);
            self.arguments = outer;
            return match result {
                Err(Leave::Return(code)) => Ok(code),
                other => other,
            };
        }
        let number = |default: i32| arguments.first().and_then(|a| a.parse().ok()).unwrap_or(default);
        let levels = || arguments.first().and_then(|a| a.parse().ok()).unwrap_or(1u32).max(1);
        match name {
            ":" => return Ok(0),
            "exit" => return Err(Leave::Exit(number(self.last) & 255)),
            "return" => return Err(Leave::Return(number(self.last))),
            "break" => return Err(Leave::Break(levels())),
            "continue" => return Err(Leave::Continue(levels())),
            "cd" => {
                let home = || self.context.variables.get("HOME").cloned().unwrap_or_else(|| "/".into());
                let to = arguments.first().cloned().unwrap_or_else(home);
                let path = self.context.path(&to);
                if !self.context.is_dir(&path) {
                    return Ok(self.refused(io, &format!("cd: can't cd to {to}: No such file or directory")));
                }
                self.context.directory.clone_from(&path);
                self.context.variables.insert("PWD".into(), path);
                return Ok(0);
            }
            "export" | "readonly" | "local" => {
                for argument in arguments {
                    let (name, value) = match argument.split_once('=') {
                        Some((name, value)) => (name, Some(value)),
                        None => (argument.as_str(), None),
                    };
                    if let Some(value) = value {
                        self.context.variables.insert(name.to_owned(), value.to_owned());
                    }
                    if matches!(argument.chars().next(), Some('A'..='Z' | 'a'..='z' | '_')) {
                        self.exported.insert(name.to_owned(), ());
                    }
                }
                return Ok(0);
            }
            "unset" => {
                for name in arguments {
                    self.context.variables.remove(name);
                    self.functions.remove(name);
                }
                return Ok(0);
            }
            "set" => {
                for (at, argument) in arguments.iter().enumerate() {
                    match argument.as_str() {
                        "--" => {
                            self.arguments.truncate(1);
                            self.arguments.extend_from_slice(&arguments[at + 1..]);
                            break;
                        }
                        letters => {
                            let on = letters.starts_with('-');
                            if letters.contains('e') {
                                self.stops = on;
                            }
                            if letters.contains('x') {
                                self.traces = on;
                            }
                        }
                    }
                }
                return Ok(0);
            }
            "shift" => {
                let count = (number(1).max(0) as usize).min(self.arguments.len() - 1);
                self.arguments.drain(1..=count);
                return Ok(0);
            }
            "eval" => return self.text(io, &arguments.join(" ")),
            "." | "source" => {
                let Some(file) = arguments.first() else { return Ok(2) };
                return match io.whole(&self.context, file) {
                    Ok(bytes) => self.text(io, &String::from_utf8_lossy(&bytes)),
                    Err(error) => Ok(self.refused(io, &format!("{file}: {}", describe(&error)))),
                };
            }
            "exec" if !arguments.is_empty() => {
                let code = self.command(&arguments[0], &arguments[1..], given, io)?;
                return Err(Leave::Exit(code));
            }
            "exec" | "trap" | "wait" | "umask" | "ulimit" => return Ok(0),
            "command" | "type" => {
                let names: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
                if name == "command" && arguments.first().is_none_or(|a| !a.starts_with('-')) {
                    return match names.split_first() {
                        Some((name, _)) => self.command(name, &arguments[1..], given, io),
                        None => Ok(0),
                    };
                }
                let mut code = 0;
                for name in names {
                    match crate::tool(name) {
                        Some(_) => io.say(&format!("/bin/{name}")),
                        None => code = 127,
                    }
                }
                return Ok(code);
            }
            "read" => return Ok(self.read(arguments, io)),
            _ => {}
        }
        let base = crate::base(name);
        let tool = crate::tool(base).filter(|_| !name.contains('/') || name.starts_with("/bin/") || name.starts_with("/usr/bin/"));
        let Some(tool) = tool else {
            if name.contains('/') {
                if let Ok(bytes) = io.whole(&self.context, name) {
                    if bytes.starts_with(b"#!") {
                        let mut inner = vec![name.to_owned()];
                        inner.extend_from_slice(arguments);
                        return Ok(crate::run(sh, &mut self.visible(given), io, "sh", &inner));
                    }
                    io.flush();
                    io.complain(&format!("sh: {name}: Permission denied"));
                    return Ok(126);
                }
            }
            io.flush();
            io.complain(&format!("sh: {name}: not found"));
            return Ok(127);
        };
        let mut context = self.visible(given);
        Ok(crate::run(tool, &mut context, io, base, arguments))
    }

    /// What a command sees of our variables.
    fn visible(&self, given: &[String]) -> Context {
        let mut context = self.context.clone();
        context.variables.retain(|name, _| self.exported.contains_key(name) || given.contains(name));
        context
    }

    fn read(&mut self, arguments: &[String], io: &mut Io) -> i32 {
        let names: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
        let mut line = String::new();
        let read = io.input.read_line(&mut line).unwrap_or(0);
        let line = line.trim_end_matches('\n');
        let mut rest = line.trim();
        for (at, name) in names.iter().enumerate() {
            let value = if at + 1 == names.len() {
                std::mem::take(&mut rest)
            } else {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after.trim_start();
                word
            };
            self.context.variables.insert((*name).clone(), value.to_owned());
        }
        i32::from(read == 0)
    }
}

/// A buffer that the next command of a pipe reads.
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The streams of an enclosing command, lent to one within it.
struct Streams {
    io: *mut Io,
}

/// Hands every call on to a stream of the enclosing command.
struct Lent {
    io: *mut Io,
    which: u32,
}

impl Lent {
    fn io(&self) -> &mut Io {
        // SAFETY: the enclosing command's streams outlive the command that they are lent to, and only one of both
        // runs at a time: all is one thread, and the lender waits.
        unsafe { &mut *self.io }
    }
}

impl Write for Lent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.which == 2 { self.io().err.write(bytes) } else { self.io().out.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.which == 2 { self.io().err.flush() } else { self.io().out.flush() }
    }
}

impl io::Read for Lent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.io().input.read(buffer)
    }
}

impl BufRead for Lent {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.io().input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.io().input.consume(amount);
    }
}

impl Streams {
    fn of(io: &mut Io) -> Self {
        Streams { io }
    }

    fn io(&mut self) -> Io {
        let lent = |which| Lent { io: self.io, which };
        Io { input: Box::new(lent(0)), out: Box::new(lent(1)), err: Box::new(lent(2)) }
    }

    fn redirect(&mut self, shell: &mut Shell, redirects: &[Redirect]) -> Result<Io, String> {
        let mut io = self.io();
        for redirect in redirects {
            if redirect.kind == RedirectKind::Here {
                let text = shell.one(&redirect.target, &mut io);
                io.input = Box::new(Cursor::new(text.into_bytes()));
                continue;
            }
            let name = shell.one(&redirect.target, &mut io);
            match redirect.kind {
                RedirectKind::Read => {
                    io.input = match name.as_str() {
                        "/dev/null" => Io::nothing_in(),
                        _ => {
                            let file = shell.context.open(&name);
                            let file = file.map_err(|e| format!("can't open {name}: {}", describe(&e)))?;
                            Box::new(BufReader::new(file))
                        }
                    };
                }
                RedirectKind::Duplicate => match (redirect.fd, name.as_str()) {
                    // To where the other goes by now: a file's handle is shared.
                    (2, "1") => io.err = self.same(&mut io.out),
                    (1, "2") => io.out = self.same(&mut io.err),
                    (_, "-") => {}
                    _ => {}
                },
                kind => {
                    let writer: Box<dyn Write> = match name.as_str() {
                        "/dev/null" => Box::new(io::sink()),
                        "/dev/stdout" => Box::new(Lent { io: self.io, which: 1 }),
                        "/dev/stderr" => Box::new(Lent { io: self.io, which: 2 }),
                        _ => {
                            let append = kind == RedirectKind::Append;
                            let mut how = std::fs::OpenOptions::new();
                            how.create(true).write(true).append(append).truncate(!append);
                            let path = shell.context.path(&name);
                            if shell.context.is_dir(&path) {
                                return Err(format!("can't create {name}: Is a directory"));
                            }
                            Box::new(how.open(path).map_err(|e| format!("can't create {name}: {}", describe(&e)))?)
                        }
                    };
                    match redirect.fd {
                        2 => io.err = writer,
                        12 => {
                            io.out = writer;
                            io.err = self.same(&mut io.out);
                        }
                        _ => io.out = writer,
                    }
                }
            }
        }
        Ok(io)
    }

    /// Two handles on one stream, in the place of the one.
    fn same(&self, stream: &mut Box<dyn Write>) -> Box<dyn Write> {
        let shared = Rc::new(RefCell::new(std::mem::replace(stream, Box::new(io::sink()))));
        *stream = Box::new(Both(shared.clone()));
        Box::new(Both(shared))
    }
}

struct Both(Rc<RefCell<Box<dyn Write>>>);

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}
