//! A guest's stdout and stderr as wasi streams that write into its container's log, and to who is attached.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::runtime::stdio::Attachments;
use crate::runtime::{LogSink, Stream};

/// The most a guest may hand over in one write.
const WRITE_MAX: usize = 64 << 10;

#[derive(Clone)]
pub(super) struct LogStream {
    sink: Arc<dyn LogSink>,
    attached: Arc<Attachments>,
    stream: Stream,
}

impl LogStream {
    pub fn new(sink: Arc<dyn LogSink>, attached: Arc<Attachments>, stream: Stream) -> Self {
        LogStream { sink, attached, stream }
    }

    fn put(&self, bytes: &[u8]) {
        self.sink.write(self.stream, bytes);
        self.attached.write(self.stream, bytes);
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        self.attached.terminal
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {
        self.attached.room().await;
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.attached.has_room() { WRITE_MAX } else { 0 })
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(WRITE_MAX)];
        self.put(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
