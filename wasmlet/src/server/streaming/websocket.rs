//! Exec and attach over WebSocket: each message begins with the number of its channel.

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::idle::Idle;
use super::session::{Ended, INPUT_QUEUE, OUTPUT_QUEUE, Session, Wanted};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the channel named by the second byte ends.
const CLOSE: u8 = 255;

/// A client answers our close within this time.
const GOODBYE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Version 5 first: the first that a client offers is taken.
pub const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    base64: bool,
    /// The error channel carries a Status.
    status: bool,
    /// The client may end its stdin.
    half_close: bool,
}

impl Protocol {
    /// Without a name it is the oldest, in bytes.
    pub fn named(name: &str) -> Self {
        let (version, rest) = match name.split_once('.') {
            Some((version @ ("v4" | "v5"), rest)) => (version, rest),
            _ => ("", name),
        };
        Protocol {
            base64: rest.starts_with("base64."),
            status: !version.is_empty(),
            half_close: version == "v5",
        }
    }

    fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            return Message::Text(format!("{channel}{}", STANDARD.encode(bytes)).into());
        }
        let mut out = BytesMut::with_capacity(bytes.len() + 1);
        out.put_u8(channel);
        out.put_slice(bytes);
        Message::Binary(out.freeze())
    }

    /// The channel and its bytes; None for what is no message of ours.
    fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return None,
        };
        if bytes.is_empty() {
            return None;
        }
        let head = bytes.split_to(1);
        let channel = *head.first()?;
        if !self.base64 {
            return Some((channel, bytes));
        }
        Some((channel.checked_sub(b'0')?, STANDARD.decode(&bytes).ok()?.into()))
    }
}

/// The session and the future that moves its bytes; it ends when the session has, or the client is gone.
pub fn session(
    socket: WebSocket,
    protocol: Protocol,
    wanted: Wanted,
    idle: Idle,
) -> (Session, impl Future<Output = ()>) {
    let (stdin_sender, stdin) = mpsc::channel(INPUT_QUEUE);
    let (stdout_sender, stdout) = mpsc::channel(OUTPUT_QUEUE);
    let (stderr_sender, stderr) = mpsc::channel(OUTPUT_QUEUE);
    let (size_sender, size) = watch::channel(None);
    let (end, ended) = oneshot::channel();
    let gone = CancellationToken::new();
    let session = Session {
        stdin: wanted.stdin.then_some(stdin),
        stdout: wanted.stdout.then_some(stdout_sender),
        stderr: (wanted.stderr && !wanted.tty).then_some(stderr_sender),
        size,
        gone: gone.clone(),
        end,
    };
    let (sink, stream) = socket.split();
    let work = async move {
        let read = read(stream, protocol, wanted.stdin.then_some(stdin_sender), size_sender, &idle);
        let first = if wanted.stdout { STDOUT } else { STDERR };
        let write = write(sink, protocol, first, (stdout, stderr), ended, &idle);
        tokio::pin!(read, write);
        tokio::select! {
            () = &mut read => {}
            () = &mut write => {
                // Closing with unread bytes would take what is still on its way from the client.
                let _ = tokio::time::timeout(GOODBYE_MAX, read).await;
            }
            () = idle.elapsed() => {}
        }
        gone.cancel();
    };
    (session, work)
}

/// Until the client goes.
async fn read<S, E>(
    mut stream: S,
    protocol: Protocol,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    size: watch::Sender<Option<super::session::Size>>,
    idle: &Idle,
) where
    S: Stream<Item = Result<Message, E>> + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        idle.touch();
        if let Message::Close(_) = message {
            return;
        }
        match protocol.decode(message) {
            Some((STDIN, bytes)) if !bytes.is_empty() => {
                // A guest that has closed its stdin reads no more of it, which is no reason to end.
                if let Some(open) = &stdin
                    && open.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((RESIZE, bytes)) => {
                if let Ok(told) = serde_json::from_slice(&bytes) {
                    size.send_replace(Some(told));
                }
            }
            Some((CLOSE, bytes)) if protocol.half_close && bytes.first() == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
}

/// Until everything has been written, the end included.
async fn write<S>(
    mut sink: S,
    protocol: Protocol,
    first: u8,
    (mut stdout, mut stderr): (mpsc::Receiver<Bytes>, mpsc::Receiver<Bytes>),
    mut ended: oneshot::Receiver<Ended>,
    idle: &Idle,
) where
    S: Sink<Message> + Unpin,
{
    // Upstream greets with an empty message, and clients wait for it.
    if sink.send(protocol.encode(first, &[])).await.is_err() {
        return;
    }
    let (mut more_out, mut more_err) = (true, true);
    while more_out || more_err {
        let (channel, piece) = tokio::select! {
            piece = stdout.recv(), if more_out => (STDOUT, piece),
            piece = stderr.recv(), if more_err => (STDERR, piece),
        };
        match piece {
            Some(bytes) => {
                if sink.send(protocol.encode(channel, &bytes)).await.is_err() {
                    return;
                }
                idle.touch();
            }
            None if channel == STDOUT => more_out = false,
            None => more_err = false,
        }
    }
    let ended = match (&mut ended).await {
        Ok(ended) => ended,
        Err(_) => Ended::Failed("the node is shutting down".into()),
    };
    let last = if protocol.status { ended.status().to_string() } else { ended.text() };
    if protocol.status || !last.is_empty() {
        let _ = sink.send(protocol.encode(ERROR, last.as_bytes())).await;
    }
    let goodbye = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
    let _ = sink.send(Message::Close(Some(goodbye))).await;
    let _ = sink.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_by_name() {
        for (name, base64, status, half_close) in [
            ("v5.channel.k8s.io", false, true, true),
            ("v4.channel.k8s.io", false, true, false),
            ("v4.base64.channel.k8s.io", true, true, false),
            ("channel.k8s.io", false, false, false),
            ("base64.channel.k8s.io", true, false, false),
            ("", false, false, false),
        ] {
            assert_eq!(Protocol::named(name), Protocol { base64, status, half_close }, "{name}");
        }
    }

    #[test]
    fn messages() {
        let binary = Protocol::named("v4.channel.k8s.io");
        assert_eq!(binary.encode(1, b"hi"), Message::Binary(Bytes::from_static(b"\x01hi")));
        assert_eq!(binary.decode(Message::Binary(Bytes::from_static(b"\x00x"))), Some((0, "x".into())));
        assert_eq!(binary.decode(Message::Binary(Bytes::new())), None);
        let text = Protocol::named("base64.channel.k8s.io");
        assert_eq!(text.encode(2, b"hi"), Message::Text("2aGk=".into()));
        assert_eq!(text.decode(Message::Text("0aGk=".into())), Some((0, "hi".into())));
        assert_eq!(text.decode(Message::Text("0*".into())), None);
    }

    #[tokio::test]
    async fn stdin_ends_with_the_close_channel_of_version_5_only() {
        for (name, ends) in [("v5.channel.k8s.io", true), ("v4.channel.k8s.io", false)] {
            let messages = [&b"\x00a"[..], b"\x04{\"Width\":80,\"Height\":24}", b"\xff\x00", b"\x00b"]
                .map(|m| Ok::<_, ()>(Message::Binary(Bytes::from_static(m))));
            let (sender, mut stdin) = mpsc::channel(8);
            let (size, seen) = watch::channel(None);
            let idle = Idle::new(super::super::idle::IDLE_MAX);
            read(futures::stream::iter(messages), Protocol::named(name), Some(sender), size, &idle).await;
            let mut got = Vec::new();
            while let Some(bytes) = stdin.recv().await {
                got.extend_from_slice(&bytes);
            }
            assert_eq!(got, if ends { &b"a"[..] } else { b"ab" });
            assert_eq!(seen.borrow().map(|s| (s.width, s.height)), Some((80, 24)));
        }
    }
}
