//! tar: makes and unpacks archives on the standard streams or in files; what `kubectl cp` needs.

use std::fs;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context::{describe, named, Context, Done, Failure, Io};
use crate::files::make_all;

const BLOCK: usize = 512;

#[derive(Default)]
struct Plan {
    mode: Option<char>,
    file: Option<String>,
    directory: Option<String>,
    touch: bool,
    verbose: bool,
    keep_root: bool,
    strip: usize,
    names: Vec<String>,
}

fn plan(arguments: &[String]) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let mut arguments = arguments.iter().cloned().peekable();
    let mut first = true;
    while let Some(argument) = arguments.next() {
        if let Some(long) = argument.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            match name {
                "create" => plan.mode = Some('c'),
                "extract" | "get" => plan.mode = Some('x'),
                "list" => plan.mode = Some('t'),
                "file" => plan.file = value.or_else(|| arguments.next()),
                "directory" => plan.directory = value.or_else(|| arguments.next()),
                "strip-components" => {
                    let value = value.or_else(|| arguments.next()).unwrap_or_default();
                    plan.strip = value.parse().map_err(|_| "bad --strip-components")?;
                }
                "" => plan.names.extend(arguments.by_ref()),
                // Of owners, modes and warnings there are none here.
                _ => {}
            }
            first = false;
            continue;
        }
        let letters = match argument.strip_prefix('-') {
            Some(letters) if !letters.is_empty() => letters.to_owned(),
            _ if first => argument.clone(),
            _ => {
                plan.names.push(argument);
                continue;
            }
        };
        first = false;
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let mut value = || {
                let rest: String = letters.by_ref().collect();
                let value = if argument.starts_with('-') && !rest.is_empty() { Some(rest) } else { arguments.next() };
                value.ok_or_else(|| Failure::from(format!("option requires an argument -- '{letter}'")))
            };
            match letter {
                'c' | 'x' | 't' => plan.mode = Some(letter),
                'f' => plan.file = Some(value()?),
                'C' => plan.directory = Some(value()?),
                'm' => plan.touch = true,
                'v' => plan.verbose = true,
                'P' => plan.keep_root = true,
                'p' | 'o' | 'h' | 'k' => {}
                'z' | 'j' | 'J' => return Err("compressed archives are not supported".into()),
                other => return Err(format!("invalid option -- '{other}'").into()),
            }
        }
    }
    Ok(plan)
}

pub fn tar(context: &mut Context, io: &mut Io, arguments: &[String]) -> Done {
    let plan = plan(arguments)?;
    let mut inner = context.clone();
    if let Some(directory) = &plan.directory {
        inner.directory = context.path(directory);
        if !inner.is_dir(&inner.directory) {
            return Err(format!("can't change directory to '{directory}': No such file or directory").into());
        }
    }
    let file = plan.file.clone().filter(|file| file != "-");
    match plan.mode {
        Some('c') => match file {
            Some(name) => {
                let file = fs::File::create(context.path(&name)).map_err(|error| named(&name, &error))?;
                create(&inner, io, &plan, Some(&mut io::BufWriter::new(file)))
            }
            None => create(&inner, io, &plan, None),
        },
        Some(mode) => match file {
            Some(name) => {
                let mut file = io::BufReader::new(context.open(&name).map_err(|error| named(&name, &error))?);
                read(&inner, io, &plan, mode == 'x', Some(&mut file))
            }
            None => read(&inner, io, &plan, mode == 'x', None),
        },
        None => Err("need at least one of -c, -x, -t".into()),
    }
}

fn create(context: &Context, io: &mut Io, plan: &Plan, mut to: Option<&mut dyn Write>) -> Done {
    if plan.names.is_empty() {
        return Err("empty archive".into());
    }
    let mut code = 0;
    let mut members = 0;
    for name in &plan.names {
        let mut left = vec![name.trim_end_matches('/').to_owned()];
        while let Some(shown) = left.pop() {
            let path = context.path(&shown);
            let member = if plan.keep_root { shown.clone() } else { shown.trim_start_matches('/').to_owned() };
            let out: &mut dyn Write = match &mut to {
                Some(to) => *to,
                None => &mut io.out,
            };
            let added = add(context, &path, &member, out);
            members += usize::from(added.is_ok());
            match added {
                Ok(true) => {
                    let mut names = context.names(&path)?;
                    names.reverse();
                    left.extend(names.into_iter().map(|name| format!("{}/{name}", shown.trim_end_matches('/'))));
                }
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(error.into()),
                Err(error) => {
                    io.complain(&format!("tar: {shown}: {}", describe(&error)));
                    code = 1;
                }
            }
            if plan.verbose {
                io.complain(&member);
            }
        }
    }
    let out: &mut dyn Write = match &mut to {
        Some(to) => *to,
        None => &mut io.out,
    };
    // NOTE: whoever reads takes the end of an archive for success, as kubectl cp does, before the exit code is known.
    if members > 0 || code == 0 {
        out.write_all(&[0; 2 * BLOCK])?;
    }
    out.flush()?;
    Ok(code)
}

/// Whether it is a directory, whose entries follow.
fn add(context: &Context, path: &str, member: &str, out: &mut dyn Write) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path);
    let modified = |m: &fs::Metadata| {
        m.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
    };
    match metadata {
        Ok(m) if m.file_type().is_symlink() => {
            let target = fs::read_link(path)?.to_string_lossy().into_owned();
            header(out, member, b'2', 0, modified(&m), &target)?;
            Ok(false)
        }
        Ok(m) if m.is_file() => {
            let mut file = fs::File::open(path)?;
            let size = m.len();
            header(out, member, b'0', size, modified(&m), "")?;
            // A file that grows or shrinks meanwhile still has the size that was said.
            let copied = io::copy(&mut (&mut file).take(size), out)?;
            let missing = size - copied + (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
            io::copy(&mut io::repeat(0).take(missing), out)?;
            Ok(false)
        }
        Err(error) if !context.is_dir(path) => Err(error),
        other => {
            let at = other.as_ref().map_or(0, modified);
            if !member.is_empty() && member != "." {
                header(out, &format!("{member}/"), b'5', 0, at, "")?;
            }
            Ok(true)
        }
    }
}

fn header(out: &mut dyn Write, name: &str, kind: u8, size: u64, modified: u64, link: &str) -> io::Result<()> {
    for (text, kind) in [(link, b'K'), (name, b'L')] {
        if text.len() > 100 {
            let mut bytes = text.as_bytes().to_vec();
            bytes.push(0);
            block(out, "././@LongLink", kind, bytes.len() as u64, 0, "")?;
            bytes.resize(bytes.len().div_ceil(BLOCK) * BLOCK, 0);
            out.write_all(&bytes)?;
        }
    }
    block(out, name, kind, size, modified, link)
}

fn block(out: &mut dyn Write, name: &str, kind: u8, size: u64, modified: u64, link: &str) -> io::Result<()> {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, length: usize, bytes: &[u8]| {
        let length = length.min(bytes.len());
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    put(0, 100, name.as_bytes());
    put(100, 8, if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
    put(108, 8, b"0000000\0");
    put(116, 8, b"0000000\0");
    if size < 1 << 33 {
        put(124, 12, format!("{size:011o}\0").as_bytes());
    } else {
        let mut wide = [0u8; 12];
        wide[4..].copy_from_slice(&size.to_be_bytes());
        wide[0] = 0x80;
        put(124, 12, &wide);
    }
    put(136, 12, format!("{modified:011o}\0").as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, link.as_bytes());
    put(257, 8, b"ustar  \0");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn number(field: &[u8]) -> Result<u64, Failure> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        return Ok(field[1..].iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 8).map_err(|_| "corrupted header".into())
}

fn read(context: &Context, io: &mut Io, plan: &Plan, unpack: bool, mut from: Option<&mut dyn Read>) -> Done {
    let (mut long_name, mut long_link, mut pax_size) = (None::<String>, None::<String>, None::<u64>);
    let mut seen = false;
    loop {
        let input: &mut dyn Read = match &mut from {
            Some(from) => *from,
            None => &mut io.input,
        };
        let mut block = [0u8; BLOCK];
        match input.read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return if seen { Ok(0) } else { Err("short read".into()) };
            }
            other => other?,
        }
        seen = true;
        if block.iter().all(|b| *b == 0) {
            // What follows an archive's end is read, or its sender would find nobody.
            io::copy(input, &mut io::sink())?;
            return Ok(0);
        }
        let sum: u32 = block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
        if number(&block[148..156])? != u64::from(sum) {
            return Err("invalid tar header checksum".into());
        }
        let mut size = number(&block[124..136])?;
        let kind = block[156];
        if matches!(kind, b'L' | b'K' | b'x' | b'g') {
            let mut bytes = vec![0; usize::try_from(size.min(1 << 20)).unwrap_or(0)];
            input.read_exact(&mut bytes)?;
            skip(input, size - bytes.len() as u64 + padding(size))?;
            match kind {
                b'L' => long_name = Some(text(&bytes)),
                b'K' => long_link = Some(text(&bytes)),
                b'x' => {
                    for (key, value) in records(&bytes) {
                        match key.as_str() {
                            "path" => long_name = Some(value),
                            "linkpath" => long_link = Some(value),
                            "size" => pax_size = value.parse().ok(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            continue;
        }
        size = pax_size.take().unwrap_or(size);
        let mut name = long_name.take().unwrap_or_else(|| {
            let (name, prefix) = (text(&block[..100]), text(&block[345..500]));
            let ustar = &block[257..263] == b"ustar\0";
            if ustar && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
        });
        let link = long_link.take().unwrap_or_else(|| text(&block[157..257]));
        let wanted = plan.names.is_empty()
            || plan.names.iter().any(|n| {
                let n = n.trim_end_matches('/');
                name == n || name.starts_with(&format!("{n}/"))
            });
        if plan.strip > 0 {
            name = name.split('/').skip(plan.strip).collect::<Vec<_>>().join("/");
        }
        if !wanted || name.trim_matches('/').is_empty() {
            skip(input, size + padding(size))?;
            continue;
        }
        if !unpack {
            skip(input, size + padding(size))?;
            io.say(&name);
            continue;
        }
        if name.split('/').any(|part| part == "..") {
            return Err(format!("name with '..': {name}").into());
        }
        let path = context.path(name.trim_start_matches('/'));
        let failed = |error: io::Error| Failure::from(format!("can't open '{name}': {}", describe(&error)));
        match kind {
            b'5' => make_all(context, &path).map_err(failed)?,
            b'2' | b'1' => {
                // WASI's standard library makes no links: what it leads to is copied where that is there.
                let target = if kind == b'1' { context.path(link.trim_start_matches('/')) } else {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    context.path(&if link.starts_with('/') { link.clone() } else { format!("{parent}/{link}") })
                };
                if let Err(error) = fs::copy(&target, &path) {
                    io.complain(&format!("tar: {name}: link to {link} was not made: {}", describe(&error)));
                }
                continue;
            }
            b'0' | 0 | b'7' => {
                if let Some((parent, _)) = path.rsplit_once('/') {
                    make_all(context, if parent.is_empty() { "/" } else { parent }).map_err(failed)?;
                }
                let mut file = fs::File::create(&path).map_err(failed)?;
                let copied = io::copy(&mut (&mut *input).take(size), &mut file)?;
                if copied < size {
                    return Err("short read".into());
                }
                skip(input, padding(size))?;
                let modified = number(&block[136..148])?;
                if !plan.touch {
                    let at = UNIX_EPOCH + Duration::from_secs(modified);
                    let _ = file.set_modified(at.min(SystemTime::now() + Duration::from_secs(86_400)));
                }
            }
            _ => skip(input, size + padding(size))?,
        }
        if plan.verbose {
            io.say(&name);
        }
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn skip(input: &mut dyn Read, bytes: u64) -> io::Result<()> {
    io::copy(&mut input.take(bytes), &mut io::sink()).map(drop)
}

/// `LENGTH KEY=VALUE\n`, one after the other.
fn records(bytes: &[u8]) -> Vec<(String, String)> {
    let (mut records, mut rest) = (Vec::new(), bytes);
    while let Some(space) = rest.iter().position(|b| *b == b' ') {
        let Some(length) = std::str::from_utf8(&rest[..space]).ok().and_then(|t| t.parse::<usize>().ok()) else { break };
        if length <= space + 1 || length > rest.len() {
            break;
        }
        let record = String::from_utf8_lossy(&rest[space + 1..length - 1]).into_owned();
        if let Some((key, value)) = record.split_once('=') {
            records.push((key.to_owned(), value.to_owned()));
        }
        rest = &rest[length..];
    }
    records
}
