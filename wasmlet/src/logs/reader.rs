//! Reads a container's log as `kubectl logs` asks for it, and follows it by the writer's notifications.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::format::{Line, parse};
use super::writer::Progress;
use crate::runtime::Stream;

/// `PodLogOptions`, the part a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    pub follow: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// None: both.
    pub stream: Option<Stream>,
}

const CHUNK: usize = 64 << 10;

/// Sends the log to `out` until its end (or, following, until the container has ended), or until nobody listens.
/// A file that does not exist is an empty log.
pub async fn read(
    path: PathBuf,
    options: LogOptions,
    live: Option<watch::Receiver<Progress>>,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut live = live.filter(|_| options.follow);
    let mut filter = Filter::new(&options);
    let mut tail = options.tail_lines;
    let mut file: Option<File> = None;
    // How often the log had been rotated when `file` was opened.
    let mut opened_at = 0;
    let mut pending = Vec::new();
    loop {
        // What was written before this is seen by the reads below; what comes after wakes us.
        let seen = live.as_mut().map(|live| *live.borrow_and_update());
        let rotations = || live.as_ref().map_or(0, |live| live.borrow().rotations);
        while file.is_none() {
            opened_at = rotations();
            file = open(path.clone(), tail).await?;
            if file.is_none() || rotations() == opened_at {
                break;
            }
            file = None;
        }
        // Set when the file was seen to be rotated away: what it holds now is all it will ever hold.
        let mut last_pass = false;
        let mut rotated = false;
        while let Some(current) = file.take() {
            let (current, chunk) = read_chunk(current).await?;
            if chunk.is_empty() {
                let moved = rotations() != opened_at;
                rotated = moved && last_pass;
                if moved && !last_pass {
                    last_pass = true;
                    file = Some(current);
                    continue;
                }
                file = Some(current).filter(|_| !rotated);
                break;
            }
            file = Some(current);
            pending.extend_from_slice(&chunk);
            let mut text = Vec::new();
            let more = filter.take_lines(&mut pending, &mut text);
            if !text.is_empty() && out.send(text.into()).await.is_err() {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
        // Only the first file is read from its tail.
        tail = None;
        if rotated {
            continue;
        }
        let Some(live) = &mut live else { return Ok(()) };
        if seen.is_some_and(|seen| seen.closed) {
            return Ok(());
        }
        tokio::select! {
            changed = live.changed() => if changed.is_err() { return Ok(()) },
            () = out.closed() => return Ok(()),
        }
    }
}

async fn open(path: PathBuf, tail: Option<u64>) -> io::Result<Option<File>> {
    blocking(move || {
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if let Some(lines) = tail {
            let start = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Some(file))
    })
    .await
}

async fn read_chunk(mut file: File) -> io::Result<(File, Vec<u8>)> {
    blocking(move || {
        let mut chunk = vec![0; CHUNK];
        let read = file.read(&mut chunk)?;
        chunk.truncate(read);
        Ok((file, chunk))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Where the last `lines` lines begin, found from the end of the file.
fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut left = lines;
    let mut position = end;
    let mut chunk = vec![0; CHUNK];
    while position > 0 {
        let size = position.min(CHUNK as u64) as usize;
        position -= size as u64;
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut chunk[..size])?;
        for index in (0..size).rev() {
            let at = position + index as u64;
            // The newline that ends the file ends the last line; it does not begin another one.
            if chunk[index] == b'\n' && at + 1 != end {
                left -= 1;
                if left == 0 {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Turns log lines into what was asked for.
struct Filter {
    since: Option<String>,
    timestamps: bool,
    stream: Option<Stream>,
    left: Option<u64>,
    at_line_start: bool,
}

impl Filter {
    fn new(options: &LogOptions) -> Self {
        Filter {
            // Times in the file have one fixed form, so they compare as text.
            since: options.since.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()),
            timestamps: options.timestamps,
            stream: options.stream,
            left: options.limit_bytes,
            at_line_start: true,
        }
    }

    /// Takes the whole lines out of `pending`. False when the limit is reached.
    fn take_lines(&mut self, pending: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        let whole = pending.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = pending.drain(..whole).collect();
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            // A damaged line (of a crash in the middle of a write) is passed over.
            if let Some(line) = parse(line) {
                self.take(line, out);
            }
        }
        match &mut self.left {
            Some(left) if out.len() as u64 >= *left => {
                out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left = 0;
                false
            }
            Some(left) => {
                *left -= out.len() as u64;
                true
            }
            None => true,
        }
    }

    fn take(&mut self, line: Line<'_>, out: &mut Vec<u8>) {
        let early = self.since.as_deref().is_some_and(|since| line.time < since);
        if early || self.stream.is_some_and(|stream| stream != line.stream) {
            return;
        }
        if self.timestamps && self.at_line_start {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.full {
            out.push(b'\n');
        }
        self.at_line_start = line.full;
    }
}

/// The end of a log as plain text, within bounds: `terminationMessagePolicy: FallbackToLogsOnError`.
pub fn tail_text(path: &std::path::Path, lines: u64, bytes_max: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = tail_offset(&mut file, lines)?;
    file.seek(SeekFrom::Start(start))?;
    let mut pending = Vec::new();
    file.read_to_end(&mut pending)?;
    let mut out = Vec::new();
    Filter::new(&LogOptions::default()).take_lines(&mut pending, &mut out);
    let cut = out.len().saturating_sub(bytes_max);
    Ok(String::from_utf8_lossy(out.get(cut..).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Limits, Logs};
    use crate::runtime::LogSink;

    const FILE: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
        2026-01-01T00:00:02.000000000Z stderr F two\n\
        2026-01-01T00:00:03.000000000Z stdout P thr\n\
        2026-01-01T00:00:03.000000000Z stdout F ee\n\
        garbage\n\
        2026-01-01T00:00:04.500000000Z stdout F four\n";

    async fn collect(path: PathBuf, options: LogOptions) -> String {
        let (out, mut received) = mpsc::channel(16);
        let reading = tokio::spawn(read(path, options, None, out));
        let mut text = Vec::new();
        while let Some(chunk) = received.recv().await {
            text.extend_from_slice(&chunk);
        }
        reading.await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn options_select() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, FILE).unwrap();
        let base = LogOptions::default;
        for (what, options, want) in [
            ("all", base(), "one\ntwo\nthree\nfour\n"),
            ("tail 1", LogOptions { tail_lines: Some(1), ..base() }, "four\n"),
            ("tail 0", LogOptions { tail_lines: Some(0), ..base() }, ""),
            ("tail beyond", LogOptions { tail_lines: Some(99), ..base() }, "one\ntwo\nthree\nfour\n"),
            (
                "since",
                LogOptions { since: Some("2026-01-01T00:00:03Z".parse().unwrap()), ..base() },
                "three\nfour\n",
            ),
            (
                "since a fraction",
                LogOptions { since: Some("2026-01-01T00:00:04.5Z".parse().unwrap()), ..base() },
                "four\n",
            ),
            ("limit", LogOptions { limit_bytes: Some(6), ..base() }, "one\ntw"),
            ("stderr", LogOptions { stream: Some(Stream::Stderr), ..base() }, "two\n"),
            (
                "timestamps",
                LogOptions { timestamps: true, tail_lines: Some(4), ..base() },
                "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.500000000Z four\n",
            ),
        ] {
            assert_eq!(collect(path.clone(), options).await, want, "{what}");
        }
        assert_eq!(collect(dir.path().join("none.log"), base()).await, "");
        assert_eq!(tail_text(&path, 2, 2048).unwrap(), "four\n");
        assert_eq!(tail_text(&path, 80, 7).unwrap(), "e\nfour\n");
    }

    #[tokio::test]
    async fn tails_cross_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let lines: String =
            (0..5000).map(|n| format!("2026-01-01T00:00:01.000000000Z stdout F line {n}\n")).collect();
        std::fs::write(&path, lines).unwrap();
        let text = collect(path, LogOptions { tail_lines: Some(3000), ..LogOptions::default() }).await;
        assert_eq!(text.lines().count(), 3000);
        assert!(text.starts_with("line 2000\n") && text.ends_with("line 4999\n"));
    }

    #[tokio::test]
    async fn following_sees_everything_across_rotation_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let logs =
            Logs::new(dir.path().into(), Limits { file_bytes_max: 4000, files_max: 50, ..Limits::default() });
        let writer = logs.open("p", "u", "c", 0);
        writer.write(Stream::Stdout, b"first\n");
        let (out, mut received) = mpsc::channel(4);
        let live = Some(writer.follow());
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let reading = tokio::spawn(read(writer.path().into(), options, live, out));
        let producer = {
            let writer = writer.clone();
            tokio::spawn(async move {
                for number in 0..200 {
                    writer.write(Stream::Stdout, format!("line {number}\n").as_bytes());
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                writer.close();
            })
        };
        let mut text = Vec::new();
        while let Some(chunk) = received.recv().await {
            text.extend_from_slice(&chunk);
        }
        producer.await.unwrap();
        reading.await.unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 201, "{text}");
        assert!(text.ends_with("line 199\n"));
    }
}
