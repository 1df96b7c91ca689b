//! SPDY/3.1 as Kubernetes clients speak it after an upgrade: one connection of many streams, the server's side.

mod error;
mod frame;
mod headers;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::idle::Idle;
pub use error::SpdyError;
use frame::{Decoder, Encoder, Frame, STATUS_CANCEL, STATUS_PROTOCOL_ERROR, STATUS_REFUSED};
pub use headers::Headers;

/// Streams that a client may have open.
const STREAMS_MAX: usize = 1024;
/// Pieces of data that wait for a stream's reader; then the connection waits.
const STREAM_QUEUE: usize = 16;
/// Frames that wait to be written.
const WRITE_QUEUE: usize = 16;
const READ_BYTES: usize = 32 << 10;
/// The longest data frame that is written.
const DATA_BYTES_MAX: usize = 32 << 10;
/// The specification's window, where a client has said nothing.
const WINDOW: i64 = 64 << 10;

/// A stream that the client opened. It is dropped unanswered only to refuse it.
pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    /// Ends with the client's half of the stream.
    pub input: mpsc::Receiver<Bytes>,
    pub output: Output,
}

/// Our half of a stream.
#[derive(Clone)]
pub struct Output {
    id: u32,
    frames: mpsc::Sender<Frame>,
    windows: Arc<Windows>,
    /// The client does not want the stream any more, or is gone.
    pub reset: CancellationToken,
    /// Gone with the last clone: the stream is over then.
    _alive: Arc<()>,
}

/// The client has gone, or reset the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Output {
    pub async fn accept(&self) -> Result<(), Gone> {
        self.send(Frame::Reply { stream: self.id, fin: false, headers: Headers::default() }).await
    }

    pub async fn write(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let room = tokio::select! {
                room = self.windows.take(self.id, bytes.len().min(DATA_BYTES_MAX)) => room,
                () = self.reset.cancelled() => return Err(Gone),
            };
            self.send(Frame::Data { stream: self.id, fin: false, bytes: bytes.split_to(room) }).await?;
        }
        Ok(())
    }

    /// Ends our half.
    pub async fn finish(&self) {
        let _ = self.send(Frame::Data { stream: self.id, fin: true, bytes: Bytes::new() }).await;
    }

    /// Ends the whole stream.
    pub async fn cancel(&self) {
        let _ = self.send(Frame::Reset { stream: self.id, status: STATUS_CANCEL }).await;
        self.reset.cancel();
    }

    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        if self.reset.is_cancelled() {
            return Err(Gone);
        }
        tokio::select! {
            sent = self.frames.send(frame) => sent.map_err(|_| Gone),
            () = self.reset.cancelled() => Err(Gone),
        }
    }
}

/// What may still be sent on each stream. Go's SPDY keeps no windows: they count once the client speaks of them.
#[derive(Default)]
struct Windows {
    state: Mutex<WindowState>,
    grown: Notify,
}

#[derive(Default)]
struct WindowState {
    kept: bool,
    initial: Option<i64>,
    streams: HashMap<u32, i64>,
}

impl Windows {
    async fn take(&self, stream: u32, wanted: usize) -> usize {
        loop {
            let grown = self.grown.notified();
            {
                let mut state = self.state.lock();
                let initial = state.initial.unwrap_or(WINDOW);
                let kept = state.kept;
                let left = state.streams.entry(stream).or_insert(initial);
                let room = if kept { usize::try_from(*left).unwrap_or(0).min(wanted) } else { wanted };
                if room > 0 {
                    *left = left.saturating_sub(room as i64);
                    return room;
                }
            }
            grown.await;
        }
    }

    fn grow(&self, stream: u32, delta: u32) {
        let mut state = self.state.lock();
        let initial = state.initial.unwrap_or(WINDOW);
        state.kept = true;
        if let Some(left) = state.streams.get_mut(&stream) {
            *left = left.saturating_add(i64::from(delta)).min(i64::from(u32::MAX));
        } else {
            state.streams.insert(stream, initial + i64::from(delta));
        }
        drop(state);
        self.grown.notify_waiters();
    }

    fn initial(&self, window: u32) {
        let mut state = self.state.lock();
        let change = i64::from(window) - state.initial.unwrap_or(WINDOW);
        state.kept = true;
        state.initial = Some(i64::from(window));
        state.streams.values_mut().for_each(|left| *left += change);
        drop(state);
        self.grown.notify_waiters();
    }

    fn forget(&self, stream: u32) {
        self.state.lock().streams.remove(&stream);
    }
}

/// What the reader keeps of a stream.
struct Open {
    /// None: the client has ended its half.
    input: Option<mpsc::Sender<Bytes>>,
    reset: CancellationToken,
    output: Weak<()>,
}

/// The streams that a client opens, in order.
pub type Accept = mpsc::Receiver<Stream>;

/// A connection and the future that moves its bytes: it ends with the client, with an error, when it has been idle for
/// too long, or when everybody has dropped their streams and `Accept`. The client is gone when it has ended.
pub fn connection<IO>(io: IO, idle: Idle) -> (Accept, impl Future<Output = ()>)
where
    IO: AsyncRead + AsyncWrite,
{
    let (accepted, accept) = mpsc::channel(STREAM_QUEUE);
    let (frames, written) = mpsc::channel(WRITE_QUEUE);
    let work = async move {
        let (reading, writing) = tokio::io::split(io);
        let mut reader = Reader {
            streams: HashMap::new(),
            accepted,
            frames: frames.downgrade(),
            windows: Arc::new(Windows::default()),
            last: 0,
        };
        // Held by streams: without any, nothing is left to be written.
        let first = frames;
        let result = {
            let read = reader.run(reading, &idle, first);
            let write = write(writing, written, &idle);
            tokio::pin!(read, write);
            tokio::select! {
                read = &mut read => match read {
                    Ok(()) => Ok(()),
                    // What was answered before still goes out.
                    Err(error) => Err(error),
                },
                () = &mut write => Ok(()),
                () = idle.elapsed() => Ok(()),
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "SPDY connection");
        }
        for stream in reader.streams.values() {
            stream.reset.cancel();
        }
    };
    (accept, work)
}

struct Reader {
    streams: HashMap<u32, Open>,
    accepted: mpsc::Sender<Stream>,
    frames: mpsc::WeakSender<Frame>,
    windows: Arc<Windows>,
    /// The highest number of a stream so far.
    last: u32,
}

impl Reader {
    /// `frames` is held until the server has stopped accepting streams.
    async fn run(
        &mut self,
        mut io: impl AsyncRead + Unpin,
        idle: &Idle,
        frames: mpsc::Sender<Frame>,
    ) -> Result<(), SpdyError> {
        let mut keep = Some(frames);
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::with_capacity(READ_BYTES));
        loop {
            while let Some(frame) = decoder.decode(&mut input)? {
                self.take(frame).await?;
            }
            input.reserve(READ_BYTES);
            tokio::select! {
                read = io.read_buf(&mut input) => match read {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(_) => idle.touch(),
                },
                () = self.accepted.closed(), if keep.is_some() => keep = None,
            }
        }
    }

    async fn answer(&self, frame: Frame) {
        if let Some(frames) = self.frames.upgrade() {
            let _ = frames.send(frame).await;
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::Open { stream, fin, headers } => self.open(stream, fin, headers).await?,
            Frame::Data { stream, fin, bytes } => self.data(stream, fin, bytes).await,
            Frame::Reply { stream, fin, .. } | Frame::Headers { stream, fin } => {
                if fin {
                    self.data(stream, true, Bytes::new()).await;
                }
            }
            Frame::Reset { stream, .. } => {
                if let Some(open) = self.streams.remove(&stream) {
                    open.reset.cancel();
                    self.windows.forget(stream);
                }
            }
            // Those with even numbers answer ours, and we send none.
            Frame::Ping(id) if id % 2 == 1 => self.answer(Frame::Ping(id)).await,
            Frame::Settings { initial_window: Some(window) } => self.windows.initial(window),
            Frame::Window { stream, delta } => self.windows.grow(stream, delta),
            Frame::Ping(_) | Frame::Settings { .. } | Frame::GoAway { .. } | Frame::Unknown => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), SpdyError> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(SpdyError::StreamNumber(id));
        }
        self.last = id;
        self.streams.retain(|id, open| {
            let over = open.reset.is_cancelled() || open.output.strong_count() == 0;
            if over {
                self.windows.forget(*id);
            }
            !over
        });
        let Some(frames) = self.frames.upgrade().filter(|_| self.streams.len() < STREAMS_MAX) else {
            self.answer(Frame::Reset { stream: id, status: STATUS_REFUSED }).await;
            return Ok(());
        };
        let (sender, input) = mpsc::channel(STREAM_QUEUE);
        let (reset, alive) = (CancellationToken::new(), Arc::new(()));
        let open =
            Open { input: (!fin).then_some(sender), reset: reset.clone(), output: Arc::downgrade(&alive) };
        let output = Output { id, frames, windows: self.windows.clone(), reset, _alive: alive };
        self.streams.insert(id, open);
        if self.accepted.send(Stream { id, headers, input, output }).await.is_err() {
            self.streams.remove(&id);
            self.answer(Frame::Reset { stream: id, status: STATUS_REFUSED }).await;
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) {
        let length = bytes.len() as u32;
        match self.streams.get_mut(&id) {
            Some(open) => {
                let wanted = match &open.input {
                    Some(input) if !bytes.is_empty() => tokio::select! {
                        sent = input.send(bytes) => sent.is_ok(),
                        () = open.reset.cancelled() => false,
                    },
                    input => input.is_some(),
                };
                if fin {
                    open.input = None;
                }
                if open.reset.is_cancelled() {
                    self.streams.remove(&id);
                    self.windows.forget(id);
                } else if wanted && length > 0 && !fin {
                    self.answer(Frame::Window { stream: id, delta: length }).await;
                }
            }
            None if id > self.last => {
                self.answer(Frame::Reset { stream: id, status: STATUS_PROTOCOL_ERROR }).await;
            }
            // Of a stream that is over: still on its way when that was said.
            None => {}
        }
    }
}

/// Writes what comes until nobody can send any more, then says goodbye.
async fn write(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>, idle: &Idle) {
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    loop {
        let Some(frame) = frames.recv().await else { break };
        encoder.encode(&frame, &mut out);
        while out.len() < DATA_BYTES_MAX {
            let Ok(frame) = frames.try_recv() else { break };
            encoder.encode(&frame, &mut out);
        }
        if io.write_all(&out).await.is_err() || io.flush().await.is_err() {
            return;
        }
        idle.touch();
        out.clear();
    }
    encoder.encode(&Frame::GoAway { last: 0 }, &mut out);
    let _ = io.write_all(&out).await;
    let _ = io.shutdown().await;
}

#[cfg(test)]
mod tests;
