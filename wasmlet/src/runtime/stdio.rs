//! A guest's standard streams where somebody is at the other end: exec, attach, and a container's `stdin: true`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::Stream;

/// What an exec'd program reads and writes. A stream that is None is at its end from the start, or swallows all.
#[derive(Debug, Default)]
pub struct Stdio {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<mpsc::Sender<Bytes>>,
    pub stderr: Option<mpsc::Sender<Bytes>>,
    /// The guest is told that it talks to a terminal.
    pub terminal: bool,
}

/// Pieces of a container's stdin on their way to its guest.
const STDIN_QUEUE: usize = 8;
/// What an attached client may be behind before the guest's writes wait for it.
const BEHIND_MAX: usize = 256 << 10;
/// Clients attached to one container at once.
const ATTACHED_MAX: usize = 32;

/// How a container's stdin is kept, from the pod spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    /// Always at its end.
    #[default]
    None,
    Open,
    /// Closed when the first client that attached to it leaves.
    Once,
}

/// Who is attached to a container, and its stdin. Costs a few words while nobody is.
pub struct Attachments {
    once: bool,
    pub terminal: bool,
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    listeners: Mutex<Vec<Listener>>,
    /// Spares writers the lock.
    any: AtomicBool,
}

struct Listener {
    queue: mpsc::UnboundedSender<(Stream, Bytes)>,
    meter: Arc<Meter>,
}

/// How far a client is behind.
#[derive(Default)]
struct Meter {
    bytes: AtomicUsize,
    left: AtomicBool,
    room: Notify,
}

impl Meter {
    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= BEHIND_MAX && !self.left.load(Ordering::Relaxed)
    }
}

/// One attached client. Dropped: it has left.
pub struct Attached {
    owner: Arc<Attachments>,
    meter: Arc<Meter>,
    queue: mpsc::UnboundedReceiver<(Stream, Bytes)>,
    has_stdin: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("container is not running")]
    Ended,
    #[error("too many clients are attached to the container")]
    TooMany,
}

impl Attachments {
    /// The other end of stdin is the guest's.
    pub fn new(stdin: Stdin, terminal: bool) -> (Self, Option<mpsc::Receiver<Bytes>>) {
        let (sender, receiver) = match stdin {
            Stdin::None => (None, None),
            Stdin::Open | Stdin::Once => {
                let (sender, receiver) = mpsc::channel(STDIN_QUEUE);
                (Some(sender), Some(receiver))
            }
        };
        let attachments = Attachments {
            once: stdin == Stdin::Once,
            terminal,
            stdin: Mutex::new(sender),
            listeners: Mutex::default(),
            any: AtomicBool::new(false),
        };
        (attachments, receiver)
    }

    pub fn attach(self: &Arc<Self>, with_stdin: bool) -> Result<Attached, AttachError> {
        let has_stdin = with_stdin && self.stdin.lock().is_some();
        let (sender, queue) = mpsc::unbounded_channel();
        let meter = Arc::new(Meter::default());
        let mut listeners = self.listeners.lock();
        if listeners.len() >= ATTACHED_MAX {
            return Err(AttachError::TooMany);
        }
        listeners.push(Listener { queue: sender, meter: meter.clone() });
        self.any.store(true, Ordering::Release);
        drop(listeners);
        Ok(Attached { owner: self.clone(), meter, queue, has_stdin })
    }

    /// Whether a guest may write now.
    pub fn has_room(&self) -> bool {
        !self.any.load(Ordering::Acquire)
            || !self.listeners.lock().iter().any(|listener| listener.meter.is_full())
    }

    /// Returns when every attached client has room.
    pub async fn room(&self) {
        while self.any.load(Ordering::Acquire) {
            let full = {
                let listeners = self.listeners.lock();
                listeners.iter().find(|l| l.meter.is_full()).map(|l| l.meter.clone())
            };
            let Some(full) = full else { return };
            let notified = full.room.notified();
            if full.is_full() {
                notified.await;
            }
        }
    }

    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        if !self.any.load(Ordering::Acquire) || bytes.is_empty() {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        for listener in self.listeners.lock().iter() {
            listener.meter.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
            let _ = listener.queue.send((stream, bytes.clone()));
        }
    }

    /// The guest has ended: who is attached gets what is left, and then the end.
    pub fn close(&self) {
        self.stdin.lock().take();
        self.listeners.lock().clear();
        self.any.store(false, Ordering::Release);
    }

    #[cfg(test)]
    fn attached(&self) -> usize {
        self.listeners.lock().len()
    }
}

impl Attached {
    /// The next piece of output; None when the guest has ended.
    pub async fn next(&mut self) -> Option<(Stream, Bytes)> {
        let (stream, bytes) = self.queue.recv().await?;
        let before = self.meter.bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        if before >= BEHIND_MAX {
            self.meter.room.notify_waiters();
        }
        Some((stream, bytes))
    }

    /// Where what the client types goes; None when the container reads none, or not any more.
    pub fn stdin(&self) -> Option<mpsc::Sender<Bytes>> {
        if self.has_stdin { self.owner.stdin.lock().clone() } else { None }
    }

    /// The client has closed its side of stdin.
    pub fn stdin_ended(&mut self) {
        if std::mem::take(&mut self.has_stdin) && self.owner.once {
            self.owner.stdin.lock().take();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.stdin_ended();
        let mut listeners = self.owner.listeners.lock();
        listeners.retain(|l| !Arc::ptr_eq(&l.meter, &self.meter));
        self.owner.any.store(!listeners.is_empty(), Ordering::Release);
        drop(listeners);
        self.meter.left.store(true, Ordering::Relaxed);
        self.meter.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writers_wait_for_slow_clients_and_not_for_those_that_left() {
        let (hub, stdin) = Attachments::new(Stdin::None, false);
        assert!(stdin.is_none());
        let hub = Arc::new(hub);
        hub.write(Stream::Stdout, b"nobody");
        let mut slow = hub.attach(true).unwrap();
        assert!(slow.stdin().is_none());
        hub.write(Stream::Stdout, &vec![1; BEHIND_MAX]);
        assert!(!hub.has_room());
        let waiting = tokio::spawn({
            let hub = hub.clone();
            async move { hub.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(slow.next().await.unwrap().1.len(), BEHIND_MAX);
        waiting.await.unwrap();
        hub.write(Stream::Stderr, &vec![1; BEHIND_MAX]);
        let waiting = tokio::spawn({
            let hub = hub.clone();
            async move { hub.room().await }
        });
        tokio::task::yield_now().await;
        drop(slow);
        waiting.await.unwrap();
        assert!(hub.has_room());
        assert_eq!(hub.attached(), 0);
    }

    #[tokio::test]
    async fn stdin_once_ends_with_its_first_client() {
        for (mode, stays) in [(Stdin::Open, true), (Stdin::Once, false)] {
            let (hub, guest) = Attachments::new(mode, false);
            let (hub, mut guest) = (Arc::new(hub), guest.unwrap());
            let first = hub.attach(true).unwrap();
            first.stdin().unwrap().send("x".into()).await.unwrap();
            drop(first);
            assert_eq!(guest.recv().await.unwrap(), "x");
            assert_eq!(hub.attach(true).unwrap().stdin().is_some(), stays);
            let mut last = hub.attach(false).unwrap();
            hub.write(Stream::Stdout, b"last words");
            hub.close();
            assert!(guest.recv().await.is_none());
            assert_eq!(last.next().await.unwrap().1, "last words");
            assert!(last.next().await.is_none(), "the guest has ended");
        }
    }
}
