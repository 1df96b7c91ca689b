//! Tools about files and directories.

use std::fs;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use crate::context::{named, Context, Done, Failure, Io, Options};
use crate::words::formatted;

struct Entry {
    name: String,
    path: String,
    is_dir: bool,
    is_link: bool,
    size: u64,
    modified: std::time::Duration,
}

fn entry(context: &Context, path: &str, name: &str) -> io::Result<Entry> {
    let (is_dir, is_link, size, modified) = match fs::symlink_metadata(path) {
        Ok(m) => {
            let at = m.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            (m.is_dir(), m.file_type().is_symlink(), m.len(), at)
        }
        Err(_) if context.is_dir(path) => (true, false, 0, Default::default()),
        Err(error) => return Err(error),
    };
    Ok(Entry { name: name.into(), path: path.into(), is_dir, is_link, size, modified })
}

pub fn ls(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let mut options = Options::parse(arguments, "laA1RdhFtrnS", "")?;
    if options.rest.is_empty() {
        options.rest.push(".".into());
    }
    let mut code = 0;
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for name in &options.rest {
        let path = context.path(name);
        match entry(context, &path, name) {
            Ok(found) if context.is_dir(&path) && !options.has('d') => directories.push((name.clone(), found.path)),
            Ok(found) => files.push(found),
            Err(error) => {
                io.complain(&format!("ls: {name}: {}", crate::context::describe(&error)));
                code = 1;
            }
        }
    }
    show(io, &options, files)?;
    let titled = options.rest.len() > 1 || options.has('R');
    let mut first = true;
    while !directories.is_empty() {
        let (name, path) = directories.remove(0);
        if titled {
            writeln!(io.out, "{}{name}:", if first { "" } else { "\n" })?;
        }
        first = false;
        let names = context.names(&path).map_err(|error| named(&name, &error))?;
        let mut entries = Vec::new();
        if options.has('a') {
            for dot in [".", ".."] {
                entries.push(entry(context, &path, dot)?);
            }
        }
        for child in names.iter().filter(|n| options.has('a') || options.has('A') || !n.starts_with('.')) {
            let below = format!("{}/{child}", path.trim_end_matches('/'));
            if let Ok(found) = entry(context, &below, child) {
                entries.push(found);
            }
        }
        if options.has('R') {
            let mut below: Vec<_> = entries
                .iter()
                .filter(|e| e.is_dir && e.name != "." && e.name != "..")
                .map(|e| (format!("{}/{}", name.trim_end_matches('/'), e.name), e.path.clone()))
                .collect();
            below.append(&mut directories);
            directories = below;
        }
        show(io, &options, entries)?;
    }
    Ok(code)
}

fn show(io: &mut Io, options: &Options, mut entries: Vec<Entry>) -> Result<(), Failure> {
    if options.has('t') {
        entries.sort_by(|a, b| b.modified.cmp(&a.modified));
    }
    if options.has('S') {
        entries.sort_by(|a, b| b.size.cmp(&a.size));
    }
    if options.has('r') {
        entries.reverse();
    }
    for entry in entries {
        let mark = if options.has('F') && entry.is_dir { "/" } else { "" };
        if !options.has('l') && !options.has('n') {
            writeln!(io.out, "{}{mark}", entry.name)?;
            continue;
        }
        let mode = match (entry.is_dir, entry.is_link) {
            (_, true) => "lrwxrwxrwx",
            (true, _) => "drwxr-xr-x",
            _ => "-rw-r--r--",
        };
        let link = fs::read_link(&entry.path).ok().filter(|_| entry.is_link);
        let link = link.map(|to| format!(" -> {}", to.display())).unwrap_or_default();
        let size = if options.has('h') { human(entry.size) } else { entry.size.to_string() };
        let at = formatted(entry.modified, "%b %e %H:%M");
        writeln!(io.out, "{mode}    1 root     root     {size:>9} {at} {}{mark}{link}", entry.name)?;
    }
    Ok(())
}

fn human(size: u64) -> String {
    match size {
        0..=1023 => size.to_string(),
        1024..=1_048_575 => format!("{:.1}K", size as f64 / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1}M", size as f64 / 1_048_576.0),
        _ => format!("{:.1}G", size as f64 / 1_073_741_824.0),
    }
}

pub fn stat(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "Lt", "c")?;
    for name in &options.rest {
        let found = entry(context, &context.path(name), name).map_err(|error| named(name, &error))?;
        let kind = match (found.is_dir, found.is_link) {
            (_, true) => "symbolic link",
            (true, _) => "directory",
            _ => "regular file",
        };
        match options.value('c') {
            Some(format) => {
                let text = format
                    .replace("%s", &found.size.to_string())
                    .replace("%n", name)
                    .replace("%F", kind)
                    .replace("%Y", &found.modified.as_secs().to_string())
                    .replace("%a", if found.is_dir { "755" } else { "644" });
                writeln!(io.out, "{text}")?;
            }
            None => {
                writeln!(io.out, "  File: {name}\n  Size: {}\t{kind}", found.size)?;
                writeln!(io.out, "Modify: {}", formatted(found.modified, "%F %T.%N %z"))?;
            }
        }
    }
    Ok(0)
}

pub fn mkdir(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "pv", "m")?;
    for name in &options.rest {
        let path = context.path(name);
        let made = if options.has('p') && context.is_dir(&path) {
            Ok(())
        } else if options.has('p') {
            make_all(context, &path)
        } else {
            fs::create_dir(&path)
        };
        made.map_err(|error| Failure::from(format!("can't create directory '{name}': {}", crate::context::describe(&error))))?;
    }
    Ok(0)
}

/// The standard library's stops at directories that only lead to mounts.
pub fn make_all(context: &Context, path: &str) -> io::Result<()> {
    if context.is_dir(path) {
        return Ok(());
    }
    if let Some((parent, _)) = path.rsplit_once('/') {
        if !parent.is_empty() {
            make_all(context, parent)?;
        }
    }
    match fs::create_dir(path) {
        Err(_) if context.is_dir(path) => Ok(()),
        other => other,
    }
}

pub fn rmdir(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "p", "")?;
    for name in &options.rest {
        fs::remove_dir(context.path(name)).map_err(|error| named(name, &error))?;
    }
    Ok(0)
}

pub fn rm(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "rRfv", "")?;
    for name in &options.rest {
        let path = context.path(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() && (options.has('r') || options.has('R')) => remove_all(context, &path),
            Ok(m) if m.is_dir() => Err(io::Error::new(io::ErrorKind::Other, "is a directory")),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if options.has('f') && error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| named(&format!("can't remove '{name}'"), &error))?,
        }
    }
    Ok(0)
}

fn remove_all(context: &Context, path: &str) -> io::Result<()> {
    for name in context.names(path)? {
        let below = format!("{path}/{name}");
        if fs::symlink_metadata(&below)?.is_dir() {
            remove_all(context, &below)?;
        } else {
            fs::remove_file(&below)?;
        }
    }
    // The root of a mount stays.
    if context.mounts.iter().any(|mount| mount == path) { Ok(()) } else { fs::remove_dir(path) }
}

pub fn touch(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "cam", "dtr")?;
    for name in &options.rest {
        let path = context.path(name);
        if options.has('c') && fs::metadata(&path).is_err() {
            continue;
        }
        let file = fs::OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|error| named(name, &error))?;
        let _ = file.set_modified(std::time::SystemTime::now());
    }
    Ok(0)
}

/// Where a copy or a move of `from` ends up.
fn destination(context: &Context, from: &str, to: &str) -> String {
    let to = context.path(to);
    if context.is_dir(&to) {
        return format!("{}/{}", to.trim_end_matches('/'), crate::base(from.trim_end_matches('/')));
    }
    to
}

pub fn cp(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "rRafpdvL", "")?;
    let Some((to, from)) = options.rest.split_last().filter(|(_, from)| !from.is_empty()) else {
        return Err("missing file operand".into());
    };
    if from.len() > 1 && !context.is_dir(&context.path(to)) {
        return Err(format!("{to}: Not a directory").into());
    }
    let deep = options.has('r') || options.has('R') || options.has('a');
    for name in from {
        let source = context.path(name);
        if context.is_dir(&source) && !deep {
            return Err(format!("omitting directory '{name}'").into());
        }
        copy(context, &source, &destination(context, &source, to)).map_err(|error| named(name, &error))?;
    }
    Ok(0)
}

fn copy(context: &Context, from: &str, to: &str) -> io::Result<()> {
    if !context.is_dir(from) {
        let (mut source, mut target) = (fs::File::open(from)?, fs::File::create(to)?);
        return io::copy(&mut source, &mut target).map(drop);
    }
    make_all(context, to)?;
    for name in context.names(from)? {
        copy(context, &format!("{from}/{name}"), &format!("{to}/{name}"))?;
    }
    Ok(())
}

pub fn mv(context: &mut Context, _: &mut Io, arguments: &[String]) -> Done {
    let options = Options::parse(arguments, "fvn", "")?;
    let Some((to, from)) = options.rest.split_last().filter(|(_, from)| !from.is_empty()) else {
        return Err("missing file operand".into());
    };
    for name in from {
        let source = context.path(name);
        let target = destination(context, &source, to);
        let moved = fs::rename(&source, &target).or_else(|_| {
            // Between mounts.
            copy(context, &source, &target)?;
            if context.is_dir(&source) { remove_all(context, &source) } else { fs::remove_file(&source) }
        });
        moved.map_err(|error| named(&format!("can't rename '{name}'"), &error))?;
    }
    Ok(0)
}

pub fn find(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let split = arguments.iter().position(|a| a.starts_with('-')).unwrap_or(arguments.len());
    let (mut roots, mut tests) = (arguments[..split].to_vec(), arguments[split..].iter());
    if roots.is_empty() {
        roots.push(".".into());
    }
    let (mut pattern, mut kind, mut depth) = (None, None, usize::MAX);
    while let Some(test) = tests.next() {
        let mut value = || tests.next().cloned().ok_or_else(|| format!("{test} requires an argument"));
        match test.as_str() {
            "-name" => pattern = Some(value()?),
            "-type" => kind = Some(value()?),
            "-maxdepth" => depth = value()?.parse().map_err(|_| "bad -maxdepth")?,
            "-print" => {}
            other => return Err(format!("unrecognized: {other}").into()),
        }
    }
    let mut left: Vec<(String, usize)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
    while let Some((shown, level)) = left.pop() {
        let found = entry(context, &context.path(&shown), &shown).map_err(|error| named(&shown, &error))?;
        let fits = pattern.as_ref().is_none_or(|p| matches_glob(p, crate::base(&shown)));
        let kinds = kind.as_deref().is_none_or(|k| k == if found.is_dir { "d" } else if found.is_link { "l" } else { "f" });
        if fits && kinds {
            writeln!(io.out, "{shown}")?;
        }
        if found.is_dir && level < depth {
            for name in context.names(&found.path)?.into_iter().rev() {
                left.push((format!("{}/{name}", shown.trim_end_matches('/')), level + 1));
            }
        }
    }
    Ok(0)
}

/// `*`, `?` and `[abc]`.
pub fn matches_glob(pattern: &str, text: &str) -> bool {
    fn go(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| go(rest, &text[at..])),
            Some(('?', rest)) => !text.is_empty() && go(rest, &text[1..]),
            Some(('[', rest)) => {
                let Some(end) = rest.iter().position(|c| *c == ']').filter(|end| *end > 0) else {
                    return text.first() == Some(&'[') && go(rest, &text[1..]);
                };
                let Some(first) = text.first() else { return false };
                let (set, not) = match rest[0] {
                    '!' | '^' => (&rest[1..end], true),
                    _ => (&rest[..end], false),
                };
                let mut inside = set.contains(first);
                for window in set.windows(3) {
                    inside |= window[1] == '-' && (window[0]..=window[2]).contains(first);
                }
                inside != not && go(&rest[end + 1..], &text[1..])
            }
            Some(('\\', rest)) if !rest.is_empty() => text.first() == rest.first() && go(&rest[1..], &text[1..]),
            Some((char, rest)) => text.first() == Some(char) && go(rest, &text[1..]),
        }
    }
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    go(&pattern, &text)
}
