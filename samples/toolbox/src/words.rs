//! Tools about words, variables and time.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context::{Context, Done, Io, Options};

pub fn yes(_: &mut Context, _: &mut Io, _: &[String]) -> Done {
    Ok(0)
}

pub fn no(_: &mut Context, _: &mut Io, _: &[String]) -> Done {
    Ok(1)
}

pub fn echo(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let (mut newline, mut escapes, mut at) = (true, false, 0);
    while let Some(letters) = arguments.get(at).and_then(|a| a.strip_prefix('-')) {
        if letters.is_empty() || !letters.chars().all(|l| "neE".contains(l)) {
            break;
        }
        newline &= !letters.contains('n');
        escapes |= letters.contains('e');
        at += 1;
    }
    let text = arguments[at..].join(" ");
    let text = if escapes { unescape(&text) } else { text.into_bytes() };
    io.out.write_all(&text)?;
    if newline {
        io.out.write_all(b"\n")?;
    }
    Ok(0)
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next() {
            Some('n') => out.push(b'\n'),
            Some('t') => out.push(b'\t'),
            Some('r') => out.push(b'\r'),
            Some('a') => out.push(7),
            Some('b') => out.push(8),
            Some('e') => out.push(27),
            Some('\\') => out.push(b'\\'),
            Some('x') => {
                let mut value = 0;
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(16)) else { break };
                    value = value * 16 + digit;
                    chars.next();
                }
                out.push(value as u8);
            }
            Some(digit @ '0'..='7') => {
                let mut value = digit.to_digit(8).unwrap_or(0);
                for _ in 0..if digit == '0' { 3 } else { 2 } {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.push(value as u8);
            }
            Some(other) => {
                out.push(b'\\');
                out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
            }
            None => out.push(b'\\'),
        }
    }
    out
}

pub fn printf(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let Some((format, values)) = arguments.split_first() else { return Err("missing operand".into()) };
    let mut values = values.iter();
    loop {
        let before = values.len();
        let mut out = String::new();
        let mut chars = format.chars().peekable();
        while let Some(char) = chars.next() {
            if char != '%' {
                out.push(char);
                continue;
            }
            if chars.next_if_eq(&'%').is_some() {
                out.push('%');
                continue;
            }
            let (mut left, mut zero, mut width) = (false, false, String::new());
            while let Some(c) = chars.next_if(|c| "-0123456789.".contains(*c)) {
                match c {
                    '-' => left = true,
                    '0' if width.is_empty() => zero = true,
                    c => width.push(c),
                }
            }
            let value = values.next().map_or("", String::as_str);
            let text = match chars.next() {
                Some('d' | 'i' | 'u') => value.trim().parse::<i64>().unwrap_or(0).to_string(),
                Some('x') => format!("{:x}", value.trim().parse::<i64>().unwrap_or(0)),
                Some('o') => format!("{:o}", value.trim().parse::<i64>().unwrap_or(0)),
                Some('c') => value.chars().take(1).collect(),
                Some('b') => String::from_utf8_lossy(&unescape(value)).into_owned(),
                Some('f') => format!("{:.6}", value.trim().parse::<f64>().unwrap_or(0.0)),
                _ => value.to_owned(),
            };
            let width: usize = width.split('.').next().unwrap_or("").parse().unwrap_or(0);
            match (left, zero) {
                (true, _) => out.push_str(&format!("{text:<width$}")),
                (_, true) => out.push_str(&format!("{text:0>width$}")),
                _ => out.push_str(&format!("{text:>width$}")),
            }
        }
        io.out.write_all(&unescape(&out))?;
        // The format is used again while there are values.
        if values.len() == 0 || values.len() == before {
            return Ok(0);
        }
    }
}

pub fn env(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let mut inner = context.clone();
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        match argument.split_once('=') {
            Some((name, value)) => drop(inner.variables.insert(name.into(), value.into())),
            None if argument == "-i" || argument == "-" => inner.variables.clear(),
            None => break,
        }
        at += 1;
    }
    match arguments[at..].split_first() {
        Some((name, rest)) => match crate::tool(crate::base(name)) {
            Some(tool) => Ok(crate::run(tool, &mut inner, io, name, rest)),
            None => {
                io.complain(&format!("env: can't execute '{name}': No such file or directory"));
                Ok(127)
            }
        },
        None => {
            for (name, value) in &inner.variables {
                writeln!(io.out, "{name}={value}")?;
            }
            Ok(0)
        }
    }
}

pub fn printenv(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    if arguments.is_empty() {
        return env(context, io, &[]);
    }
    let mut code = 0;
    for name in arguments {
        match context.variables.get(name) {
            Some(value) => writeln!(io.out, "{value}")?,
            None => code = 1,
        }
    }
    Ok(code)
}

pub fn pwd(context: &mut Context, io: &mut Io, _: &[String]) -> Done {
    writeln!(io.out, "{}", context.directory)?;
    Ok(0)
}

pub fn hostname(context: &mut Context, io: &mut Io, _: &[String]) -> Done {
    writeln!(io.out, "{}", context.variables.get("HOSTNAME").map_or("localhost", String::as_str))?;
    Ok(0)
}

pub fn id(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "ugnGr", "")?;
    // A guest has no user: what it may do is what it was given.
    let text = match (options.has('u') || options.has('g') || options.has('G'), options.has('n')) {
        (true, true) => "root",
        (true, false) => "0",
        _ => "uid=0(root) gid=0(root) groups=0(root)",
    };
    writeln!(io.out, "{text}")?;
    Ok(0)
}

pub fn uname(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "asnrvmo", "")?;
    let host = context.variables.get("HOSTNAME").map_or("localhost", String::as_str);
    let all = [('s', "WASI"), ('n', host), ('r', "0.1"), ('v', "preview1"), ('m', "wasm32"), ('o', "WASI")];
    let none = !all.iter().any(|(letter, _)| options.has(*letter)) && !options.has('a');
    let shown: Vec<&str> = all
        .iter()
        .filter(|(letter, _)| options.has('a') || options.has(*letter) || none && *letter == 's')
        .map(|(_, text)| *text)
        .collect();
    writeln!(io.out, "{}", shown.join(" "))?;
    Ok(0)
}

pub fn which(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let mut code = 0;
    for name in arguments {
        match crate::tool(name) {
            Some(_) => writeln!(io.out, "/bin/{name}")?,
            None => code = 1,
        }
    }
    Ok(code)
}

pub fn basename(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let Some(path) = arguments.first() else { return Err("missing operand".into()) };
    let last = crate::base(path.trim_end_matches('/'));
    let last = if last.is_empty() { "/" } else { last };
    let suffix = arguments.get(1).map_or("", String::as_str);
    let bare = last.strip_suffix(suffix).filter(|bare| !bare.is_empty()).unwrap_or(last);
    writeln!(io.out, "{bare}")?;
    Ok(0)
}

pub fn dirname(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let Some(path) = arguments.first() else { return Err("missing operand".into()) };
    let parent = match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None if path.starts_with('/') => "/",
        None => ".",
    };
    writeln!(io.out, "{parent}")?;
    Ok(0)
}

pub fn seq(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let number = |text: &String| text.parse::<i64>().map_err(|_| format!("invalid number '{text}'"));
    let numbers = arguments.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let (first, step, last) = match numbers.as_slice() {
        [last] => (1, 1, *last),
        [first, last] => (*first, 1, *last),
        [first, step, last] if *step != 0 => (*first, *step, *last),
        _ => return Err("usage: seq [FIRST [STEP]] LAST".into()),
    };
    let mut at = first;
    while if step > 0 { at <= last } else { at >= last } {
        writeln!(io.out, "{at}")?;
        at += step;
    }
    Ok(0)
}

pub fn sleep(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    io.flush();
    let mut total = 0.0;
    for argument in arguments {
        if matches!(argument.as_str(), "inf" | "infinity") {
            total = f64::INFINITY;
            continue;
        }
        let (number, unit) = match argument.char_indices().last() {
            Some((at, 's')) => (&argument[..at], 1.0),
            Some((at, 'm')) => (&argument[..at], 60.0),
            Some((at, 'h')) => (&argument[..at], 3600.0),
            Some((at, 'd')) => (&argument[..at], 86400.0),
            _ => (argument.as_str(), 1.0),
        };
        let seconds: f64 = number.parse().map_err(|_| format!("invalid number '{argument}'"))?;
        total += seconds * unit;
    }
    if arguments.is_empty() {
        return Err("missing operand".into());
    }
    if total > 1e9 {
        loop {
            std::thread::sleep(Duration::from_secs(1 << 20));
        }
    }
    std::thread::sleep(Duration::from_secs_f64(total.max(0.0)));
    Ok(0)
}

pub fn date(_: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let format = arguments.iter().find_map(|a| a.strip_prefix('+'));
    let text = formatted(now, format.unwrap_or("%a %b %e %H:%M:%S UTC %Y"));
    writeln!(io.out, "{text}")?;
    Ok(0)
}

/// Year, month and day of a count of days since 1970.
pub fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = if month < 10 { month + 3 } else { month - 9 } as u32;
    (year + era * 400 + i64::from(month <= 2), month, day)
}

pub fn formatted(time: Duration, format: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let seconds = time.as_secs() as i64;
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('M') => out.push_str(&format!("{minute:02}")),
            Some('S') => out.push_str(&format!("{second:02}")),
            Some('N') => out.push_str(&format!("{:09}", time.subsec_nanos())),
            Some('s') => out.push_str(&seconds.to_string()),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('a') => out.push_str(DAYS[days.rem_euclid(7) as usize]),
            Some('b') => out.push_str(MONTHS[month as usize - 1]),
            Some(other) => out.push(other),
            None => out.push('%'),
        }
    }
    out
}

pub fn bracket(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    match arguments.split_last() {
        Some((last, rest)) if last == "]" => test(context, io, rest),
        _ => Err("missing ]".into()),
    }
}

pub fn test(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(i32::from(!any(context, &words)?))
}

fn any(context: &Context, words: &[&str]) -> Result<bool, String> {
    for alternative in words.split(|word| *word == "-o") {
        let mut all = true;
        for condition in alternative.split(|word| *word == "-a") {
            all &= one(context, condition)?;
        }
        if all {
            return Ok(true);
        }
    }
    Ok(false)
}

fn one(context: &Context, words: &[&str]) -> Result<bool, String> {
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("{text}: bad number"));
    Ok(match words {
        [] => false,
        ["!", rest @ ..] => !one(context, rest)?,
        ["-n", text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        ["-t", _] => false,
        [check, name] if check.len() == 2 && check.starts_with('-') => {
            let path = context.path(name);
            let metadata = std::fs::metadata(&path);
            match *check {
                "-e" | "-r" | "-w" | "-x" => metadata.is_ok() || context.is_dir(&path),
                "-f" => metadata.is_ok_and(|m| m.is_file()),
                "-d" => context.is_dir(&path),
                "-s" => metadata.is_ok_and(|m| m.len() > 0),
                "-L" | "-h" => std::fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_symlink()),
                _ => return Err(format!("{check}: unknown operand")),
            }
        }
        [left, "=" | "==", right] => left == right,
        [left, "!=", right] => left != right,
        [left, "<", right] => left < right,
        [left, ">", right] => left > right,
        [left, "-eq", right] => number(left)? == number(right)?,
        [left, "-ne", right] => number(left)? != number(right)?,
        [left, "-lt", right] => number(left)? < number(right)?,
        [left, "-le", right] => number(left)? <= number(right)?,
        [left, "-gt", right] => number(left)? > number(right)?,
        [left, "-ge", right] => number(left)? >= number(right)?,
        [text] => !text.is_empty(),
        [_, operator, ..] => return Err(format!("{operator}: unknown operand")),
    })
}
