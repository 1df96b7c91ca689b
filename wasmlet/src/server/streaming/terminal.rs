//! What a terminal's driver does between a client that sends every key and a guest that reads lines: echo, editing,
//! ^C and ^D, and carriage returns in the output.

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::session::{INPUT_QUEUE, OUTPUT_QUEUE};

/// A longer line is handed on as it is.
const LINE_BYTES_MAX: usize = 4096;

const INTERRUPT: u8 = 3;
const END: u8 = 4;
const BACKSPACE: u8 = 8;
const REPRINT: u8 = 18;
const KILL_LINE: u8 = 21;
const ERASE_WORD: u8 = 23;
const QUIT: u8 = 28;
const DELETE: u8 = 127;

/// The line that is being typed.
#[derive(Debug, Default)]
pub struct Discipline {
    line: BytesMut,
}

/// What came of some keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// Shown to the client.
    pub echo: BytesMut,
    /// Lines for the guest.
    pub input: BytesMut,
    /// ^D on an empty line.
    pub ended: bool,
    /// ^C or ^\: the program is to end, as by this signal.
    pub signal: Option<i32>,
}

impl Discipline {
    pub fn take(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for &key in keys {
            match key {
                b'\r' | b'\n' => {
                    self.line.put_u8(b'\n');
                    typed.echo.put_slice(b"\r\n");
                    typed.input.unsplit(self.line.split());
                }
                END if self.line.is_empty() => {
                    typed.ended = true;
                    return typed;
                }
                // Elsewhere it hands over what is typed so far.
                END => typed.input.unsplit(self.line.split()),
                INTERRUPT | QUIT => {
                    self.line.clear();
                    typed.echo.put_slice(if key == INTERRUPT { b"^C\r\n" } else { b"^\\\r\n" });
                    typed.signal = Some(if key == INTERRUPT { 2 } else { 3 });
                    return typed;
                }
                BACKSPACE | DELETE => self.erase(&mut typed.echo),
                KILL_LINE => {
                    while !self.line.is_empty() {
                        self.erase(&mut typed.echo);
                    }
                }
                ERASE_WORD => {
                    while self.line.last() == Some(&b' ') {
                        self.erase(&mut typed.echo);
                    }
                    while self.line.last().is_some_and(|last| *last != b' ') {
                        self.erase(&mut typed.echo);
                    }
                }
                REPRINT => {
                    typed.echo.put_slice(b"^R\r\n");
                    typed.echo.put_slice(&self.line);
                }
                key => {
                    self.line.put_u8(key);
                    match key {
                        b'\t' | b' '.. => typed.echo.put_u8(key),
                        _ => typed.echo.put_slice(&[b'^', key + 64]),
                    }
                    if self.line.len() >= LINE_BYTES_MAX {
                        typed.input.unsplit(self.line.split());
                    }
                }
            }
        }
        typed
    }

    /// The last character, all its bytes.
    fn erase(&mut self, echo: &mut BytesMut) {
        let Some(mut last) = self.line.last().copied() else { return };
        self.line.truncate(self.line.len() - 1);
        while last & 0xc0 == 0x80 {
            let Some(before) = self.line.last().copied() else { break };
            self.line.truncate(self.line.len() - 1);
            last = before;
        }
        let columns = if last < b' ' && last != b'\t' { 2 } else { 1 };
        for _ in 0..columns {
            echo.put_slice(b"\x08 \x08");
        }
    }
}

/// A guest's lines as a terminal wants them.
pub fn output(bytes: Bytes) -> Bytes {
    if !bytes.contains(&b'\n') {
        return bytes;
    }
    let mut out = BytesMut::with_capacity(bytes.len() + 16);
    let mut before = 0;
    for &byte in &bytes {
        if byte == b'\n' && before != b'\r' {
            out.put_u8(b'\r');
        }
        out.put_u8(byte);
        before = byte;
    }
    out.freeze()
}

/// The guest's side of a terminal. `driver` moves the bytes, until the guest has closed its output.
pub struct Terminal {
    pub stdin: mpsc::Receiver<Bytes>,
    pub output: mpsc::Sender<Bytes>,
    /// Numbers of signals that keys stand for.
    pub signals: mpsc::Receiver<i32>,
    pub driver: BoxFuture<'static, ()>,
}

impl Terminal {
    /// `shell`: ^C is no end of it, but of the line.
    pub fn between(
        client_in: Option<mpsc::Receiver<Bytes>>,
        client_out: Option<mpsc::Sender<Bytes>>,
        shell: bool,
    ) -> Self {
        let (to_guest, stdin) = mpsc::channel(INPUT_QUEUE);
        let (output, from_guest) = mpsc::channel(OUTPUT_QUEUE);
        let (signal, signals) = mpsc::channel(1);
        let echo = client_out.clone();
        let driver = async move {
            let show = show(from_guest, client_out);
            let typing = typing(client_in, to_guest, echo, signal, shell);
            tokio::pin!(show, typing);
            tokio::select! {
                () = &mut show => {}
                () = &mut typing => show.await,
            }
        };
        Terminal { stdin, output, signals, driver: driver.boxed() }
    }
}

/// A shell that reads commands from its terminal.
pub fn is_shell(command: &[String]) -> bool {
    match command {
        [only] => matches!(only.rsplit('/').next(), Some("sh" | "bash" | "ash")),
        _ => false,
    }
}

async fn show(mut from_guest: mpsc::Receiver<Bytes>, client: Option<mpsc::Sender<Bytes>>) {
    while let Some(bytes) = from_guest.recv().await {
        if let Some(client) = &client
            && client.send(output(bytes)).await.is_err()
        {
            return;
        }
    }
}

async fn typing(
    client: Option<mpsc::Receiver<Bytes>>,
    to_guest: mpsc::Sender<Bytes>,
    echo: Option<mpsc::Sender<Bytes>>,
    signal: mpsc::Sender<i32>,
    shell: bool,
) {
    let Some(mut client) = client else { return };
    let mut discipline = Discipline::default();
    while let Some(keys) = client.recv().await {
        let mut typed = discipline.take(&keys);
        if shell && typed.signal == Some(2) {
            typed.signal = None;
            typed.input.put_u8(b'\n');
        }
        if let Some(echo) = echo.as_ref().filter(|_| !typed.echo.is_empty())
            && echo.send(typed.echo.freeze()).await.is_err()
        {
            return;
        }
        if !typed.input.is_empty() && to_guest.send(typed.input.freeze()).await.is_err() {
            return;
        }
        if let Some(number) = typed.signal {
            let _ = signal.send(number).await;
        }
        if typed.ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_edited_and_shown() {
        for (keys, input, echo) in [
            (&b"ls\r"[..], &b"ls\n"[..], &b"ls\r\n"[..]),
            (b"lx\x7fs\r", b"ls\n", b"lx\x08 \x08s\r\n"),
            (b"\x7fa\n", b"a\n", b"a\r\n"),
            (b"abc\x15d\r", b"d\n", b"abc\x08 \x08\x08 \x08\x08 \x08d\r\n"),
            (b"a bc\x17d\r", b"a d\n", b"a bc\x08 \x08\x08 \x08d\r\n"),
            ("ü\x7fx\r".as_bytes(), b"x\n", "ü\x08 \x08x\r\n".as_bytes()),
            (b"half\x04", b"half", b"half"),
            (b"unfinished", b"", b"unfinished"),
        ] {
            let typed = Discipline::default().take(keys);
            assert_eq!((&typed.input[..], &typed.echo[..]), (input, echo), "{keys:?}");
            assert!(!typed.ended && typed.signal.is_none());
        }
    }

    #[test]
    fn ends_and_signals() {
        assert!(Discipline::default().take(b"\x04").ended);
        let typed = Discipline::default().take(b"abc\x03def");
        assert_eq!((typed.signal, &typed.echo[..]), (Some(2), &b"abc^C\r\n"[..]));
        assert_eq!(Discipline::default().take(b"\x1c").signal, Some(3));
    }

    #[test]
    fn output_gets_carriage_returns() {
        for (from, to) in [("a\nb\n", "a\r\nb\r\n"), ("a\r\n", "a\r\n"), ("plain", "plain")] {
            assert_eq!(output(from.into()), to);
        }
    }
}
