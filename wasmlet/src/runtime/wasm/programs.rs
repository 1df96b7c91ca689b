//! What a command's first word means in a container of Wasm: its own module, a .wasm file in its mounts, or a tool.

use std::io::Read;
use std::path::{Component as PathPart, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::container::Sandbox;
use super::guest::GuestSetup;
use super::modules::Prepared;
use crate::images::{ImageConfig, LocalImage, digest};
use crate::runtime::ExecError;

/// The basic commands that every container has: one module of ours, which does what its first argument says.
/// Built from samples/toolbox.
static TOOLBOX: &[u8] = include_bytes!("../../../../samples/toolbox/toolbox.wasm");
/// What is in it, sorted.
const TOOLS: &[&str] = &[
    "[", "ash", "base64", "basename", "bash", "cat", "cp", "cut", "date", "dirname", "echo", "env", "false",
    "find", "grep", "head", "hostname", "id", "ls", "mkdir", "mv", "printenv", "printf", "pwd", "rm",
    "rmdir", "seq", "sh", "sleep", "sort", "stat", "tail", "tar", "tee", "test", "touch", "tr", "true",
    "uname", "uniq", "wc", "which",
];
/// Where people expect them.
const TOOL_DIRECTORIES: &[&str] = &["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin"];
/// The largest module that is run from a container's files.
const FILE_BYTES_MAX: u64 = 256 << 20;

pub(super) struct Program {
    pub prepared: Arc<Prepared>,
    pub argv: Vec<String>,
}

/// What the first word stands for.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Own,
    Tool,
    File(Bytes),
    /// A script: run by the shell of the toolbox.
    Script,
}

pub(super) async fn find(sandbox: &Sandbox, mut argv: Vec<String>) -> Result<Program, ExecError> {
    let Some(word) = argv.first().filter(|word| !word.is_empty()).cloned() else {
        return Err(ExecError::NotInPath(String::new()));
    };
    let refuse = |reason: String| ExecError::NotExecutable { program: word.clone(), reason };
    let setup = sandbox.setup.clone();
    let looking = word.clone();
    // Files are looked at: not on the caller's threads.
    let meaning = sandbox.runtime.guests.spawn_blocking(move || meaning(&setup, &looking));
    let meaning = meaning.await.map_err(|error| refuse(error.to_string()))??;
    let (image, bytes) = match meaning {
        Meaning::Own => {
            if let Prepared::Http(_) = &*sandbox.prepared {
                return Err(refuse("it is a wasi:http component, which serves and cannot be run".into()));
            }
            return Ok(Program { prepared: sandbox.prepared.clone(), argv });
        }
        Meaning::Tool | Meaning::Script => {
            if meaning == Meaning::Script {
                argv.insert(0, "sh".into());
            }
            let bytes = Bytes::from_static(TOOLBOX);
            (image_of("coracle.dev/toolbox", &bytes), bytes)
        }
        Meaning::File(bytes) => (image_of(&word, &bytes), bytes),
    };
    let prepared =
        sandbox.runtime.prepared(&image, Some(bytes)).await.map_err(|error| refuse(error.to_string()))?;
    if let Prepared::Http(_) = &*prepared {
        return Err(refuse("it is a wasi:http component, which serves and cannot be run".into()));
    }
    Ok(Program { prepared, argv })
}

fn image_of(reference: &str, bytes: &[u8]) -> LocalImage {
    let digest = digest::of_bytes(bytes);
    LocalImage {
        reference: reference.to_owned(),
        wasm_digest: digest.clone(),
        digest,
        wasm_path: PathBuf::new(),
        size_bytes: bytes.len() as u64,
        config: ImageConfig::default(),
    }
}

fn meaning(setup: &GuestSetup, word: &str) -> Result<Meaning, ExecError> {
    let own = setup.program();
    if is_own(own, word) {
        return Ok(Meaning::Own);
    }
    if !word.contains('/') {
        for dir in setup.variable("PATH").unwrap_or_default().split(':').filter(|dir| dir.starts_with('/')) {
            for name in [word.to_owned(), format!("{word}.wasm")] {
                if let Some(found) = read(setup, word, &Path::new(dir).join(name))? {
                    return Ok(found);
                }
            }
        }
        if TOOLS.binary_search(&word).is_ok() {
            return Ok(Meaning::Tool);
        }
        return Err(ExecError::NotInPath(word.to_owned()));
    }
    let path = absolute(setup.working_dir.as_deref().unwrap_or("/"), word);
    if let Some(found) = read(setup, word, &path)? {
        return Ok(found);
    }
    let is_tool = path.parent().and_then(Path::to_str).is_some_and(|dir| TOOL_DIRECTORIES.contains(&dir))
        && path.file_name().and_then(|name| name.to_str()).is_some_and(|n| TOOLS.binary_search(&n).is_ok());
    if is_tool { Ok(Meaning::Tool) } else { Err(ExecError::NoSuchFile(word.to_owned())) }
}

/// The container's entrypoint, in full, by its last part, and with or without `.wasm`.
fn is_own(own: &str, word: &str) -> bool {
    let bare = |text: &str| text.strip_suffix(".wasm").unwrap_or(text).to_owned();
    let last = own.rsplit('/').next().unwrap_or(own);
    !word.is_empty() && (word == own || (!word.contains('/') && bare(word) == bare(last)))
}

fn absolute(working_dir: &str, word: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in Path::new(working_dir).join(word).components() {
        match part {
            PathPart::Normal(name) => path.push(name),
            PathPart::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path
}

/// A regular file of the container, through the mount that holds it; None where there is none. Symlinks do not lead
/// out of their mount.
fn read(setup: &GuestSetup, word: &str, path: &Path) -> Result<Option<Meaning>, ExecError> {
    let refuse =
        |reason: &str| ExecError::NotExecutable { program: word.to_owned(), reason: reason.to_owned() };
    let holder = setup
        .mounts
        .directories()
        .iter()
        .filter_map(|mount| Some((mount, path.strip_prefix(&mount.container_path).ok()?)))
        .min_by_key(|(_, inside)| inside.as_os_str().len());
    let Some((mount, inside)) = holder.filter(|(_, inside)| !inside.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let Ok(root) = std::fs::File::open(&mount.host_path) else { return Ok(None) };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    let Ok(file) = openat2(&root, inside, how) else { return Ok(None) };
    let mut file = std::fs::File::from(file);
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    if metadata.is_dir() {
        return Err(refuse("is a directory"));
    }
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(refuse("permission denied"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| refuse(&error.to_string()))?;
    if bytes.starts_with(b"\0asm") {
        return Ok(Some(Meaning::File(bytes.into())));
    }
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let interpreter = String::from_utf8_lossy(line.strip_prefix(b"#!").unwrap_or_default()).trim().to_owned();
    match interpreter.rsplit('/').next() {
        Some("sh" | "bash" | "ash" | "env sh" | "env bash") if !interpreter.is_empty() => {
            Ok(Some(Meaning::Script))
        }
        _ => Err(refuse("exec format error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_sorted() {
        assert!(TOOLS.is_sorted());
    }

    #[test]
    fn own_names() {
        for (own, word, want) in [
            ("counter", "counter", true),
            ("counter", "counter.wasm", true),
            ("/app/counter.wasm", "counter", true),
            ("/app/counter.wasm", "/app/counter.wasm", true),
            ("/app/counter.wasm", "/other/counter.wasm", false),
            ("counter", "count", false),
            ("counter", "", false),
        ] {
            assert_eq!(is_own(own, word), want, "{own} {word}");
        }
    }

    #[test]
    fn paths_are_made_absolute() {
        for (dir, word, want) in
            [("/", "./a", "/a"), ("/work", "../bin/x", "/bin/x"), ("/work", "/etc/../../y", "/y")]
        {
            assert_eq!(absolute(dir, word), Path::new(want));
        }
    }
}
