//! What a tool works with: variables, a working directory, the container's mounts, and three streams.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Read, Write};

pub type Done = Result<i32, Failure>;

/// Ends a tool with exit code 1.
pub struct Failure {
    pub text: String,
    pub kind: Option<io::ErrorKind>,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { text: describe(&error), kind: Some(error.kind()) }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure { text, kind: None }
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// As libc words it.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    // WASI has no word for "outside of every mount": to a container there is nothing there.
    if error.raw_os_error() == Some(76) {
        return "No such file or directory".into();
    }
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[derive(Clone)]
pub struct Context {
    pub variables: BTreeMap<String, String>,
    pub directory: String,
    /// Where the container's volumes are mounted.
    pub mounts: Vec<String>,
}

impl Context {
    pub fn of_process() -> Self {
        let variables: BTreeMap<_, _> = std::env::vars().collect();
        let directory = variables.get("PWD").filter(|d| d.starts_with('/')).cloned();
        Context { directory: directory.unwrap_or_else(|| "/".into()), mounts: mounts(), variables }
    }

    /// Absolute, without dots.
    pub fn path(&self, text: &str) -> String {
        let whole = if text.starts_with('/') { text.to_owned() } else { format!("{}/{text}", self.directory) };
        let mut parts = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    pub fn open(&self, text: &str) -> io::Result<fs::File> {
        let path = self.path(text);
        if self.is_dir(&path) {
            return Err(io::Error::new(io::ErrorKind::Other, "Is a directory"));
        }
        fs::File::open(path)
    }

    /// A directory of the file system, or one that only leads to mounts.
    pub fn is_dir(&self, path: &str) -> bool {
        fs::metadata(path).is_ok_and(|m| m.is_dir()) || self.leads_to_mounts(path)
    }

    fn leads_to_mounts(&self, path: &str) -> bool {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        path == "/" || self.mounts.iter().any(|mount| mount.starts_with(&prefix) || mount == path)
    }

    /// The names in a directory, sorted.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = match fs::read_dir(path) {
            Ok(entries) => entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name != "." && name != "..")
                .collect(),
            Err(error) if !self.leads_to_mounts(path) => return Err(error),
            Err(_) => Vec::new(),
        };
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        for mount in &self.mounts {
            if let Some(first) = mount.strip_prefix(&prefix).and_then(|rest| rest.split('/').next()) {
                if !first.is_empty() && !names.iter().any(|name| name == first) {
                    names.push(first.to_owned());
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The directories that the host gave us.
fn mounts() -> Vec<String> {
    #[repr(C)]
    struct Prestat {
        tag: u8,
        length: u32,
    }
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    extern "C" {
        fn fd_prestat_get(fd: u32, out: *mut Prestat) -> u16;
        fn fd_prestat_dir_name(fd: u32, out: *mut u8, length: u32) -> u16;
    }
    let mut mounts = Vec::new();
    for fd in 3.. {
        let mut stat = Prestat { tag: 255, length: 0 };
        // SAFETY: the pointers are to memory of ours, of the lengths given.
        unsafe {
            if fd_prestat_get(fd, &mut stat) != 0 || stat.tag != 0 {
                break;
            }
            let mut name = vec![0; stat.length as usize];
            if fd_prestat_dir_name(fd, name.as_mut_ptr(), stat.length) == 0 {
                let name = String::from_utf8_lossy(&name).trim_end_matches('/').to_owned();
                mounts.push(if name.is_empty() { "/".into() } else { name });
            }
        }
    }
    mounts
}

/// The streams of one command.
pub struct Io {
    pub input: Box<dyn BufRead>,
    pub out: Box<dyn Write>,
    pub err: Box<dyn Write>,
}

impl Io {
    pub fn of_process() -> Self {
        Io {
            input: Box::new(BufReader::with_capacity(32 << 10, io::stdin())),
            out: Box::new(BufWriter::with_capacity(32 << 10, io::stdout())),
            err: Box::new(io::stderr()),
        }
    }

    pub fn nothing_in() -> Box<dyn BufRead> {
        Box::new(Cursor::new(Vec::new()))
    }

    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }

    pub fn complain(&mut self, line: &str) {
        let _ = writeln!(self.err, "{line}");
    }

    pub fn flush(&mut self) {
        let _ = self.out.flush();
        let _ = self.err.flush();
    }

    /// A file's bytes, or the input's for `-`.
    pub fn reader<'a>(&'a mut self, context: &Context, name: &str) -> io::Result<Box<dyn Read + 'a>> {
        match name {
            "-" | "/dev/stdin" => Ok(Box::new(&mut self.input)),
            "/dev/null" => Ok(Box::new(io::empty())),
            name => Ok(Box::new(context.open(name)?)),
        }
    }

    pub fn whole(&mut self, context: &Context, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader(context, name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Options in one letter each, and what is no option.
pub struct Options {
    letters: Vec<(char, Option<String>)>,
    pub rest: Vec<String>,
}

impl Options {
    /// `with_value`: letters that take one.
    pub fn parse(arguments: &[String], known: &str, with_value: &str) -> Result<Self, Failure> {
        let mut options = Options { letters: Vec::new(), rest: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                options.rest.extend(arguments.cloned());
                break;
            }
            let Some(letters) = argument.strip_prefix('-').filter(|l| !l.is_empty() && !l.starts_with('-')) else {
                options.rest.push(argument.clone());
                continue;
            };
            let mut letters = letters.chars();
            while let Some(letter) = letters.next() {
                if with_value.contains(letter) {
                    let value: String = letters.by_ref().collect();
                    let value = if value.is_empty() { arguments.next().cloned() } else { Some(value) };
                    let value = value.ok_or_else(|| format!("option requires an argument -- '{letter}'"))?;
                    options.letters.push((letter, Some(value)));
                } else if known.contains(letter) {
                    options.letters.push((letter, None));
                } else {
                    return Err(format!("invalid option -- '{letter}'").into());
                }
            }
        }
        Ok(options)
    }

    pub fn has(&self, letter: char) -> bool {
        self.letters.iter().any(|(l, _)| *l == letter)
    }

    pub fn value(&self, letter: char) -> Option<&str> {
        self.letters.iter().rev().find(|(l, _)| *l == letter).and_then(|(_, value)| value.as_deref())
    }
}

pub fn named(name: &str, error: &io::Error) -> Failure {
    Failure { text: format!("{name}: {}", describe(error)), kind: None }
}
