//! Channels as the standard streams of a guest: what a client of exec or attach sends and gets.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The most a guest may hand over in one write.
const WRITE_MAX: usize = 32 << 10;

/// Every handle of a guest on its stdin is at the same place.
#[derive(Clone)]
pub(super) struct PipeInput {
    source: Arc<Mutex<Source>>,
    terminal: bool,
}

struct Source {
    receiver: Option<mpsc::Receiver<Bytes>>,
    rest: Bytes,
}

impl PipeInput {
    pub fn new(receiver: Option<mpsc::Receiver<Bytes>>, terminal: bool) -> Self {
        PipeInput { source: Arc::new(Mutex::new(Source { receiver, rest: Bytes::new() })), terminal }
    }

    /// Ready when there are bytes, or an end.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut source = self.source.lock();
        while source.rest.is_empty() {
            let Some(receiver) = &mut source.receiver else { return Poll::Ready(()) };
            match ready!(receiver.poll_recv(cx)) {
                Some(bytes) => source.rest = bytes,
                None => source.receiver = None,
            }
        }
        Poll::Ready(())
    }

    /// None at the end.
    fn take(&self, size: usize) -> Option<Bytes> {
        let mut source = self.source.lock();
        while source.rest.is_empty() {
            match source.receiver.as_mut()?.try_recv() {
                Ok(bytes) => source.rest = bytes,
                Err(mpsc::error::TryRecvError::Empty) => return Some(Bytes::new()),
                Err(mpsc::error::TryRecvError::Disconnected) => source.receiver = None,
            }
        }
        let size = size.min(source.rest.len());
        Some(source.rest.split_to(size))
    }
}

impl IsTerminal for PipeInput {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for PipeInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for PipeInput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

#[async_trait::async_trait]
impl InputStream for PipeInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.take(size).ok_or(StreamError::Closed)
    }
}

impl AsyncRead for PipeInput {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll(cx));
        if let Some(bytes) = self.take(buf.remaining()) {
            buf.put_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }
}

/// A client's end of stdout or stderr; writes wait while it is behind.
#[derive(Clone)]
pub(super) struct PipeOutput {
    sender: PollSender<Bytes>,
    terminal: bool,
}

impl PipeOutput {
    pub fn new(sender: mpsc::Sender<Bytes>, terminal: bool) -> Self {
        PipeOutput { sender: PollSender::new(sender), terminal }
    }
}

impl IsTerminal for PipeOutput {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for PipeOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for PipeOutput {
    async fn ready(&mut self) {
        // A closed channel is found out by the write.
        let _ = poll_fn(|cx| self.sender.poll_reserve(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for PipeOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sender.send_item(bytes).map_err(|_| StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.sender.poll_reserve(&mut cx) {
            Poll::Ready(Ok(())) => Ok(WRITE_MAX),
            Poll::Ready(Err(_)) => Err(StreamError::Closed),
            Poll::Pending => Ok(0),
        }
    }
}

impl AsyncWrite for PipeOutput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.sender.poll_reserve(cx)).map_err(closed)?;
        let bytes = &bytes[..bytes.len().min(WRITE_MAX)];
        self.sender.send_item(Bytes::copy_from_slice(bytes)).map_err(closed)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
