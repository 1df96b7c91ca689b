//! The sink a container writes to: splits output into lines, appends them to a file, rotates it, and wakes followers.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Limits;
use super::format::{TEXT_MAX, append};
use crate::runtime::{LogSink, Stream};

/// What followers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub bytes: u64,
    pub rotations: u32,
    pub closed: bool,
}

pub struct LogWriter {
    path: PathBuf,
    restart: u32,
    limits: Limits,
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Inner {
    file: Option<File>,
    file_bytes: u64,
    /// Unfinished lines of stdout and stderr.
    partial: [Vec<u8>; 2],
    budget: Option<Budget>,
    dropped: u64,
    closed: bool,
}

/// A token bucket of one second's worth.
struct Budget {
    bytes: f64,
    at: Instant,
}

impl LogWriter {
    pub(super) fn new(path: PathBuf, restart: u32, limits: Limits) -> Self {
        LogWriter {
            path,
            restart,
            limits,
            inner: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which run of the container this is.
    pub fn restart(&self) -> u32 {
        self.restart
    }

    pub fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Writes out unfinished lines; nothing is written from now on.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.closed = true;
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut inner.partial[slot(stream)]);
            if !rest.is_empty() {
                append(&mut out, Timestamp::now(), stream, true, &rest);
            }
        }
        self.store(&mut inner, &out);
        inner.file = None;
        self.progress.send_modify(|progress| progress.closed = true);
    }

    fn store(&self, inner: &mut Inner, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        // A full disk must not end the guest: its output is lost, and the node's DiskPressure says why.
        if let Err(error) = self.try_store(inner, out) {
            tracing::debug!(%error, path = %self.path.display(), "writing a container log");
            inner.file = None;
        }
        self.progress.send_modify(|progress| progress.bytes += out.len() as u64);
    }

    fn try_store(&self, inner: &mut Inner, out: &[u8]) -> io::Result<()> {
        if inner.file_bytes > 0 && inner.file_bytes + out.len() as u64 > self.limits.file_bytes_max {
            inner.file = None;
            self.rotate()?;
            inner.file_bytes = 0;
            self.progress.send_modify(|progress| progress.rotations += 1);
        }
        if inner.file.is_none() {
            let file = self.create()?;
            inner.file_bytes = file.metadata()?.len();
            inner.file = Some(file);
        }
        if let Some(file) = &mut inner.file {
            file.write_all(out)?;
            inner.file_bytes += out.len() as u64;
        }
        Ok(())
    }

    fn create(&self) -> io::Result<File> {
        let open = || File::options().append(true).create(true).open(&self.path);
        match (open(), self.path.parent()) {
            (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(parent)?;
                open()
            }
            (result, _) => result,
        }
    }

    /// Shifts `N.log` to `N.log.1`, that to `N.log.2`, …; the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.limits.files_max.saturating_sub(1)).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.limits.files_max {
            0 | 1 => std::fs::remove_file(&self.path),
            _ => std::fs::rename(&self.path, numbered(1)),
        }
    }
}

fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Inner {
    /// Takes `bytes` from the budget, or says that they do not fit.
    fn admit(&mut self, bytes: usize, per_second: u64) -> bool {
        let now = Instant::now();
        let per_second = per_second as f64;
        let budget = self.budget.get_or_insert(Budget { bytes: per_second, at: now });
        let refill = now.duration_since(budget.at).as_secs_f64() * per_second;
        budget.bytes = (budget.bytes + refill).min(per_second);
        budget.at = now;
        if budget.bytes < bytes as f64 {
            return false;
        }
        budget.bytes -= bytes as f64;
        true
    }
}

impl LogSink for LogWriter {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        if inner.closed || bytes.is_empty() {
            return;
        }
        if !inner.admit(bytes.len(), self.limits.bytes_per_second_max) {
            inner.dropped += bytes.len() as u64;
            return;
        }
        let now = Timestamp::now();
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let dropped = std::mem::take(&mut inner.dropped);
        if dropped > 0 {
            let note = format!("[{dropped} bytes dropped: written faster than the log takes]");
            append(&mut out, now, Stream::Stderr, true, note.as_bytes());
        }
        let mut partial = std::mem::take(&mut inner.partial[slot(stream)]);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            partial.extend_from_slice(text);
            while partial.len() > TEXT_MAX {
                append(&mut out, now, stream, false, &partial[..TEXT_MAX]);
                partial.drain(..TEXT_MAX);
            }
            if ended {
                append(&mut out, now, stream, true, &partial);
                partial.clear();
            }
        }
        inner.partial[slot(stream)] = partial;
        self.store(&mut inner, &out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path) -> Vec<(bool, String)> {
        let content = std::fs::read(path).unwrap_or_default();
        content
            .split(|b| *b == b'\n')
            .filter_map(super::super::format::parse)
            .map(|line| (line.full, String::from_utf8_lossy(line.text).into_owned()))
            .collect()
    }

    fn writer(limits: Limits) -> (tempfile::TempDir, LogWriter) {
        let dir = tempfile::tempdir().unwrap();
        let writer = LogWriter::new(dir.path().join("c").join("0.log"), 0, limits);
        (dir, writer)
    }

    #[test]
    fn output_becomes_lines() {
        let (_dir, writer) = writer(Limits::default());
        assert!(!writer.path().exists(), "a silent container has no file");
        for piece in ["a", "b\nc\n", "", "\n", "tail"] {
            writer.write(Stream::Stdout, piece.as_bytes());
        }
        writer.write(Stream::Stderr, b"err\n");
        assert_eq!(
            texts(writer.path()),
            [(true, "ab".into()), (true, "c".into()), (true, "".into()), (true, "err".into())]
        );
        writer.close();
        assert_eq!(texts(writer.path()).last(), Some(&(true, "tail".into())));
        writer.write(Stream::Stdout, b"late\n");
        assert_eq!(texts(writer.path()).len(), 5);
        assert!(writer.follow().borrow().closed);
    }

    #[test]
    fn long_lines_are_split() {
        let (_dir, writer) = writer(Limits::default());
        let long = "x".repeat(TEXT_MAX + 10);
        writer.write(Stream::Stdout, long.as_bytes());
        writer.write(Stream::Stdout, b"y\n");
        let got = texts(writer.path());
        assert_eq!(got.len(), 2);
        assert!(!got[0].0 && got[1].0);
        assert_eq!(format!("{}{}", got[0].1, got[1].1), format!("{long}y"));
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let (dir, writer) = writer(Limits { file_bytes_max: 100, files_max: 3, ..Limits::default() });
        for number in 0..20 {
            writer.write(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("c"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        assert_eq!(texts(writer.path()).last().unwrap().1, "line 19");
        assert!(writer.follow().borrow().rotations >= 2);
    }

    #[test]
    fn floods_are_dropped_and_counted() {
        let (_dir, writer) = writer(Limits { bytes_per_second_max: 1000, ..Limits::default() });
        writer.write(Stream::Stdout, &[b'a'; 900]);
        writer.write(Stream::Stdout, &[b'b'; 900]);
        assert_eq!(writer.inner.lock().dropped, 900);
    }
}
