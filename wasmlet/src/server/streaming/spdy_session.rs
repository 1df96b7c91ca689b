//! Exec and attach over SPDY: the client opens one stream for each of error, stdin, stdout, stderr and resize.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::idle::Idle;
use super::session::{Ended, INPUT_QUEUE, OUTPUT_QUEUE, Session, Size, Wanted};
use super::spdy::{Accept, Output, Stream, connection};

/// The client has this long to open its streams, as the kubelet's `--stream-creation-timeout`.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// A client closes the connection when it has the error stream's end.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// Newest first.
pub const PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What differs between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// The error stream carries a Status.
    status: bool,
    /// There is a resize stream with a terminal.
    resizes: bool,
}

impl Protocol {
    pub fn named(name: &str) -> Self {
        let version =
            name.strip_prefix('v').and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
        let version: u32 = version.and_then(|version| version.parse().ok()).unwrap_or(1);
        Protocol { status: version >= 4, resizes: version >= 3 }
    }
}

#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn complete(&self, wanted: Wanted, resizes: bool) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr || wanted.tty)
            && (self.resize.is_some() || !resizes)
    }
}

/// The session and the future that moves its bytes; it ends when the session has, or the client is gone.
pub fn session<IO>(
    io: IO,
    protocol: Protocol,
    wanted: Wanted,
    idle: Idle,
) -> (Session, impl Future<Output = ()>)
where
    IO: AsyncRead + AsyncWrite,
{
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
    let (accept, moving) = connection(io, idle);
    let work = async move {
        let talk = async {
            let Some(streams) = open(accept, wanted, protocol.resizes && wanted.tty).await else { return };
            let error = streams.error.map(|stream| stream.output);
            let input = read(streams.stdin, stdin_sender, streams.resize, size_sender);
            let output = async {
                tokio::join!(
                    copy(stdout, streams.stdout.map(|stream| stream.output)),
                    copy(stderr, streams.stderr.map(|stream| stream.output))
                );
                let ended = ended.await.unwrap_or(Ended::Failed("the node is shutting down".into()));
                let Some(error) = error else { return };
                let text = if protocol.status { ended.status().to_string() } else { ended.text() };
                let _ = error.write(text.into()).await;
                error.finish().await;
                let _ = tokio::time::timeout(GOODBYE_MAX, error.reset.cancelled()).await;
            };
            tokio::pin!(input, output);
            tokio::select! {
                () = &mut output => {}
                () = &mut input => output.await,
            }
        };
        tokio::select! {
            () = moving => {}
            () = talk => {}
        }
        gone.cancel();
    };
    (session, work)
}

async fn open(mut accept: Accept, wanted: Wanted, resizes: bool) -> Option<Streams> {
    let mut streams = Streams::default();
    let all = async {
        while !streams.complete(wanted, resizes) {
            let stream = accept.recv().await?;
            let place = match stream.headers.get("streamtype") {
                Some("error") => &mut streams.error,
                Some("stdin") => &mut streams.stdin,
                Some("stdout") => &mut streams.stdout,
                Some("stderr") => &mut streams.stderr,
                Some("resize") => &mut streams.resize,
                _ => {
                    stream.output.cancel().await;
                    continue;
                }
            };
            stream.output.accept().await.ok()?;
            *place = Some(stream);
        }
        Some(())
    };
    tokio::time::timeout(STREAMS_TIMEOUT, all).await.ok()??;
    Some(streams)
}

/// Until the client has ended stdin and resizes.
async fn read(
    stdin: Option<Stream>,
    sender: mpsc::Sender<Bytes>,
    resize: Option<Stream>,
    size: watch::Sender<Option<Size>>,
) {
    let typed = async move {
        let Some(mut stdin) = stdin else { return };
        while let Some(bytes) = stdin.input.recv().await {
            if sender.send(bytes).await.is_err() {
                break;
            }
        }
        // What is still typed for a guest that reads no more must not hold the connection up.
        drop(sender);
        while stdin.input.recv().await.is_some() {}
    };
    let resized = async move {
        let Some(mut resize) = resize else { return };
        let mut text = Vec::new();
        while let Some(bytes) = resize.input.recv().await {
            text.extend_from_slice(&bytes);
            let mut documents = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
            let mut used = 0;
            while let Some(Ok(told)) = documents.next() {
                size.send_replace(Some(told));
                used = documents.byte_offset();
            }
            text.drain(..used);
            if text.len() > 4096 {
                return;
            }
        }
    };
    tokio::join!(typed, resized);
}

async fn copy(mut from: mpsc::Receiver<Bytes>, to: Option<Output>) {
    let Some(to) = to else {
        while from.recv().await.is_some() {}
        return;
    };
    while let Some(bytes) = from.recv().await {
        if to.write(bytes).await.is_err() {
            return;
        }
    }
    to.finish().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (name, status, resizes) in [
            ("v5.channel.k8s.io", true, true),
            ("v4.channel.k8s.io", true, true),
            ("v3.channel.k8s.io", false, true),
            ("v2.channel.k8s.io", false, false),
            ("channel.k8s.io", false, false),
        ] {
            assert_eq!(Protocol::named(name), Protocol { status, resizes }, "{name}");
        }
    }
}
