//! Tools that read text, or bytes.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use crate::context::{named, Context, Done, Failure, Io, Options};

fn names(options: &Options) -> Vec<String> {
    if options.rest.is_empty() { vec!["-".to_owned()] } else { options.rest.clone() }
}

pub fn cat(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "nuvetA", "")?;
    let (mut code, mut number) = (0, 0);
    for name in names(&options) {
        if options.has('n') {
            let bytes = io.whole(context, &name).map_err(|error| named(&name, &error))?;
            for line in bytes.split_inclusive(|b| *b == b'\n') {
                number += 1;
                write!(io.out, "{number:>6}\t")?;
                io.out.write_all(line)?;
            }
            continue;
        }
        if let Err(failure) = pour(context, io, &name) {
            if failure.kind == Some(io::ErrorKind::BrokenPipe) {
                return Err(failure);
            }
            io.flush();
            io.complain(&format!("cat: {}", failure.text));
            code = 1;
        }
    }
    Ok(code)
}

/// A file's bytes, as they come.
fn pour(context: &Context, io: &mut Io, name: &str) -> Result<(), Failure> {
    if name == "-" || name == "/dev/stdin" {
        loop {
            let piece = io.input.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            io.out.write_all(piece)?;
            let length = piece.len();
            io.input.consume(length);
            // Who types wants to see it.
            io.out.flush()?;
        }
    }
    if name == "/dev/null" {
        return Ok(());
    }
    let mut file = context.open(name).map_err(|error| named(name, &error))?;
    io::copy(&mut file, &mut io.out)?;
    Ok(())
}

/// `-5`, as head and tail take it.
fn old_count(arguments: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for argument in arguments {
        match argument.strip_prefix('-').filter(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit())) {
            Some(number) => out.extend(["-n".to_owned(), number.to_owned()]),
            None => out.push(argument.clone()),
        }
    }
    out
}

fn count(text: &str) -> Result<u64, Failure> {
    let (digits, unit) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 1 << 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 1 << 20),
        Some('b') => (&text[..text.len() - 1], 512),
        _ => (text, 1),
    };
    Ok(digits.parse::<u64>().map_err(|_| format!("invalid number '{text}'"))? * unit)
}

pub fn head(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(&old_count(arguments), "qv", "nc")?;
    let names = names(&options);
    for name in &names {
        if names.len() > 1 && !options.has('q') || options.has('v') {
            writeln!(io.out, "==> {name} <==")?;
        }
        let mut taken = Vec::new();
        {
            let mut reader = io.reader(context, name).map_err(|error| named(name, &error))?;
            if let Some(bytes) = options.value('c') {
                reader.take(count(bytes)?).read_to_end(&mut taken)?;
            } else {
                let lines = options.value('n').map_or(Ok(10), count)?;
                let mut reader = BufReader::new(&mut reader);
                for _ in 0..lines {
                    if reader.read_until(b'\n', &mut taken)? == 0 {
                        break;
                    }
                }
            }
        }
        io.out.write_all(&taken)?;
    }
    Ok(0)
}

pub fn tail(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(&old_count(arguments), "fFqv", "ncs")?;
    let names = names(&options);
    for name in &names {
        if names.len() > 1 && !options.has('q') || options.has('v') {
            writeln!(io.out, "==> {name} <==")?;
        }
        let (text, lines) = match options.value('c') {
            Some(text) => (text, false),
            None => (options.value('n').unwrap_or("10"), true),
        };
        let mut out = Vec::new();
        {
            let mut reader =
                BufReader::with_capacity(64 << 10, io.reader(context, name).map_err(|error| named(name, &error))?);
            if let Some(from) = text.strip_prefix('+') {
                // From that line or byte on; both count from one.
                let skip = count(from)?.saturating_sub(1);
                if lines {
                    let mut line = Vec::new();
                    for _ in 0..skip {
                        line.clear();
                        if reader.read_until(b'\n', &mut line)? == 0 {
                            break;
                        }
                    }
                } else {
                    io::copy(&mut (&mut reader).take(skip), &mut io::sink())?;
                }
                reader.read_to_end(&mut out)?;
            } else {
                let wanted = count(text.trim_start_matches('-'))? as usize;
                if lines {
                    let mut last: VecDeque<Vec<u8>> = VecDeque::new();
                    loop {
                        let mut line = Vec::new();
                        if reader.read_until(b'\n', &mut line)? == 0 {
                            break;
                        }
                        last.push_back(line);
                        if last.len() > wanted {
                            last.pop_front();
                        }
                    }
                    out = last.into_iter().flatten().collect();
                } else {
                    reader.read_to_end(&mut out)?;
                    out.drain(..out.len().saturating_sub(wanted));
                }
            }
        }
        io.out.write_all(&out)?;
    }
    if options.has('f') || options.has('F') {
        io.out.flush()?;
        follow(context, io, &names)?;
    }
    Ok(0)
}

/// What is appended to the last file, for ever.
fn follow(context: &Context, io: &mut Io, names: &[String]) -> Result<(), Failure> {
    use std::io::{Seek, SeekFrom};
    let mut file = match names.last().map(String::as_str) {
        Some(name) if !matches!(name, "-" | "/dev/null" | "/dev/stdin") => {
            let mut file = context.open(name).map_err(|error| named(name, &error))?;
            file.seek(SeekFrom::End(0))?;
            Some(file)
        }
        _ => None,
    };
    loop {
        std::thread::sleep(Duration::from_millis(500));
        if let Some(file) = &mut file {
            if io::copy(file, &mut io.out)? > 0 {
                io.out.flush()?;
            }
        }
    }
}

pub fn tee(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "ai", "")?;
    let mut files = Vec::new();
    for name in &options.rest {
        let mut how = std::fs::OpenOptions::new();
        how.create(true).write(true).append(options.has('a')).truncate(!options.has('a'));
        files.push(how.open(context.path(name)).map_err(|error| named(name, &error))?);
    }
    loop {
        let piece = io.input.fill_buf()?;
        if piece.is_empty() {
            return Ok(0);
        }
        for file in &mut files {
            file.write_all(piece)?;
        }
        io.out.write_all(piece)?;
        let length = piece.len();
        io.input.consume(length);
    }
}

pub fn wc(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "lwcm", "")?;
    let all = !"lwcm".chars().any(|letter| options.has(letter));
    let names = names(&options);
    let mut total = [0u64; 3];
    for name in &names {
        let (mut lines, mut words, mut bytes, mut inside) = (0u64, 0u64, 0u64, false);
        {
            let mut reader = io.reader(context, name).map_err(|error| named(name, &error))?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = reader.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                bytes += read as u64;
                for byte in &buffer[..read] {
                    lines += u64::from(*byte == b'\n');
                    let word = !byte.is_ascii_whitespace();
                    words += u64::from(word && !inside);
                    inside = word;
                }
            }
        }
        let counts = [lines, words, bytes];
        total.iter_mut().zip(counts).for_each(|(t, c)| *t += c);
        line_of_counts(io, &options, all, counts, if name == "-" { "" } else { name })?;
    }
    if names.len() > 1 {
        line_of_counts(io, &options, all, total, "total")?;
    }
    Ok(0)
}

fn line_of_counts(io: &mut Io, options: &Options, all: bool, counts: [u64; 3], name: &str) -> io::Result<()> {
    let wanted = [all || options.has('l'), all || options.has('w'), all || options.has('c') || options.has('m')];
    let shown: Vec<u64> = counts.into_iter().zip(wanted).filter(|(_, w)| *w).map(|(c, _)| c).collect();
    let text = match shown.as_slice() {
        [one] => one.to_string(),
        many => many.iter().map(|c| format!("{c:>9}")).collect::<Vec<_>>().join(" "),
    };
    if name.is_empty() { writeln!(io.out, "{text}") } else { writeln!(io.out, "{text} {name}") }
}

pub fn grep(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let mut options = Options::parse(arguments, "viqcnlFEosHhwrx", "em")?;
    let pattern = match options.value('e') {
        Some(pattern) => pattern.to_owned(),
        None if !options.rest.is_empty() => options.rest.remove(0),
        None => return Err("missing pattern".into()),
    };
    let fold = |text: &str| if options.has('i') { text.to_lowercase() } else { text.to_owned() };
    let pattern = fold(&pattern);
    let titled = options.rest.len() > 1 && !options.has('h') || options.has('H');
    let mut found = false;
    for name in names(&options) {
        let bytes = io.whole(context, &name).map_err(|error| named(&name, &error))?;
        let mut hits = 0;
        for (at, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if line.is_empty() && at > 0 && at == bytes.iter().filter(|b| **b == b'\n').count() {
                break;
            }
            let line = String::from_utf8_lossy(line);
            let folded = fold(&line);
            let hit = if options.has('F') {
                folded.contains(&pattern)
            } else {
                pattern.split(if options.has('E') { "|" } else { "\\|" }).any(|p| matches_expression(p, &folded))
            };
            let hit = hit != options.has('v');
            if !hit {
                continue;
            }
            hits += 1;
            if options.has('q') || options.has('c') || options.has('l') {
                continue;
            }
            let title = if titled { format!("{name}:") } else { String::new() };
            let number = if options.has('n') { format!("{}:", at + 1) } else { String::new() };
            writeln!(io.out, "{title}{number}{line}")?;
        }
        found |= hits > 0;
        if options.has('c') {
            writeln!(io.out, "{}{hits}", if titled { format!("{name}:") } else { String::new() })?;
        }
        if options.has('l') && hits > 0 {
            writeln!(io.out, "{name}")?;
        }
    }
    Ok(i32::from(!found))
}

/// Expressions of `^ $ . * + ? [..]`, without groups.
fn matches_expression(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    if let Some(('^', rest)) = pattern.split_first() {
        return here(rest, &text);
    }
    (0..=text.len()).any(|at| here(&pattern, &text[at..]))
}

fn here(pattern: &[char], text: &[char]) -> bool {
    let Some(first) = pattern.first() else { return true };
    if *first == '$' && pattern.len() == 1 {
        return text.is_empty();
    }
    // One item: a character, an escaped one, a dot or a set.
    let length = match first {
        '[' => pattern.iter().skip(2).position(|c| *c == ']').map_or(1, |at| at + 3),
        '\\' if pattern.len() > 1 => 2,
        _ => 1,
    };
    let (item, rest) = pattern.split_at(length);
    let fits = |char: char| match item {
        ['.'] => true,
        ['\\', 'd'] => char.is_ascii_digit(),
        ['\\', 's'] => char.is_whitespace(),
        ['\\', 'w'] => char.is_alphanumeric() || char == '_',
        ['\\', escaped] => *escaped == char,
        ['[', ..] if length > 1 => {
            let pattern: String = item.iter().collect();
            crate::files::matches_glob(&pattern, char.encode_utf8(&mut [0; 4]))
        }
        _ => item[0] == char,
    };
    let repeat = rest.first().copied().filter(|c| matches!(c, '*' | '+' | '?'));
    let Some(repeat) = repeat else {
        return text.first().is_some_and(|c| fits(*c)) && here(rest, &text[1..]);
    };
    let least = usize::from(repeat == '+');
    let most = if repeat == '?' { 1 } else { usize::MAX };
    let run = text.iter().take_while(|c| fits(**c)).count().min(most);
    (least..=run).rev().any(|taken| here(&rest[1..], &text[taken..]))
}

fn lines(context: &Context, io: &mut Io, options: &Options) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for name in names(options) {
        let bytes = io.whole(context, &name).map_err(|error| named(&name, &error))?;
        all.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
    }
    Ok(all)
}

pub fn sort(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "rnuf", "kt")?;
    let mut lines = lines(context, io, &options)?;
    let number = |text: &str| {
        let text = text.trim_start();
        let end = text.char_indices().find(|(at, c)| !(c.is_ascii_digit() || *at == 0 && *c == '-')).map_or(text.len(), |(at, _)| at);
        text[..end].parse::<i64>().unwrap_or(0)
    };
    let field = options.value('k').and_then(|k| k.split([',', '.']).next()?.parse::<usize>().ok());
    let key = |line: &str| -> String {
        let Some(field) = field else { return line.to_owned() };
        match options.value('t') {
            Some(separator) => line.split(separator).nth(field - 1).unwrap_or("").to_owned(),
            None => line.split_whitespace().nth(field - 1).unwrap_or("").to_owned(),
        }
    };
    if options.has('n') {
        lines.sort_by(|a, b| number(&key(a)).cmp(&number(&key(b))).then_with(|| a.cmp(b)));
    } else {
        lines.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.cmp(b)));
    }
    if options.has('r') {
        lines.reverse();
    }
    if options.has('u') {
        lines.dedup();
    }
    for line in lines {
        writeln!(io.out, "{line}")?;
    }
    Ok(0)
}

pub fn uniq(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "cdu", "")?;
    let mut groups: Vec<(String, usize)> = Vec::new();
    for line in lines(context, io, &options)? {
        match groups.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => groups.push((line, 1)),
        }
    }
    for (line, count) in groups {
        if options.has('d') && count == 1 || options.has('u') && count > 1 {
            continue;
        }
        if options.has('c') {
            write!(io.out, "{count:>7} ")?;
        }
        writeln!(io.out, "{line}")?;
    }
    Ok(0)
}

pub fn cut(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "s", "dfc")?;
    let list = options.value('f').or(options.value('c')).ok_or_else(|| Failure::from("give -f or -c"))?;
    let mut ranges = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from = if from.is_empty() { 1 } else { from.parse().map_err(|_| format!("bad list '{list}'"))? };
        let to = if to.is_empty() { usize::MAX } else { to.parse().map_err(|_| format!("bad list '{list}'"))? };
        ranges.push(from..=to);
    }
    let wanted = |at: usize| ranges.iter().any(|range: &std::ops::RangeInclusive<usize>| range.contains(&(at + 1)));
    let by_field = options.has('f');
    let separator = options.value('d').unwrap_or("\t").to_owned();
    let rest = Options::parse(&options.rest, "", "")?;
    for line in lines(context, io, &rest)? {
        if !by_field {
            let kept: String = line.chars().enumerate().filter(|(at, _)| wanted(*at)).map(|(_, c)| c).collect();
            writeln!(io.out, "{kept}")?;
        } else if !line.contains(&separator) {
            writeln!(io.out, "{line}")?;
        } else {
            let kept: Vec<&str> =
                line.split(&separator).enumerate().filter(|(at, _)| wanted(*at)).map(|(_, f)| f).collect();
            writeln!(io.out, "{}", kept.join(&separator))?;
        }
    }
    Ok(0)
}

pub fn tr(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "ds", "")?;
    let set = |text: &str| -> Vec<char> {
        let text = text
            .replace("[:upper:]", "A-Z")
            .replace("[:lower:]", "a-z")
            .replace("[:digit:]", "0-9")
            .replace("[:space:]", " \t\n\r")
            .replace("\\n", "\n")
            .replace("\\t", "\t");
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < chars.len() {
            if at + 2 < chars.len() && chars[at + 1] == '-' {
                out.extend(chars[at]..=chars[at + 2]);
                at += 3;
            } else {
                out.push(chars[at]);
                at += 1;
            }
        }
        out
    };
    let from = set(options.rest.first().ok_or_else(|| Failure::from("missing operand"))?);
    let to = options.rest.get(1).map(|text| set(text)).unwrap_or_default();
    let mut text = String::new();
    io.input.read_to_string(&mut text)?;
    let mut out = String::new();
    for char in text.chars() {
        match from.iter().position(|c| *c == char) {
            None => out.push(char),
            Some(_) if options.has('d') => {}
            Some(at) => {
                let new = to.get(at).or(to.last()).copied().unwrap_or(char);
                if !(options.has('s') && out.ends_with(new)) {
                    out.push(new);
                }
            }
        }
    }
    io.out.write_all(out.as_bytes())?;
    Ok(0)
}

pub fn base64(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let options = Options::parse(arguments, "d", "w")?;
    for name in names(&options) {
        let bytes = io.whole(context, &name).map_err(|error| named(&name, &error))?;
        if options.has('d') {
            let (mut bits, mut count) = (0u32, 0);
            for byte in bytes.iter().filter(|b| !b.is_ascii_whitespace() && **b != b'=') {
                let value = LETTERS.iter().position(|l| l == byte).ok_or_else(|| Failure::from("invalid input"))?;
                bits = bits << 6 | value as u32;
                count += 6;
                if count >= 8 {
                    count -= 8;
                    io.out.write_all(&[(bits >> count) as u8])?;
                }
            }
            continue;
        }
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().fold(0u32, |b, byte| b << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for at in 0..4 {
                let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize] as char;
                text.push(if at <= chunk.len() { letter } else { '=' });
            }
        }
        let width = options.value('w').and_then(|w| w.parse().ok()).unwrap_or(76usize);
        if width == 0 {
            write!(io.out, "{text}")?;
            continue;
        }
        for line in text.as_bytes().chunks(width) {
            io.out.write_all(line)?;
            io.out.write_all(b"\n")?;
        }
    }
    Ok(0)
}
