//! The sockets of a preview 1 guest: listeners it finds open (as `LISTEN_FDS` says) and the connections it accepts from
//! them. wasmtime's own preview 1 has none.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use nix::sys::socket::{MsgFlags, recv};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};

use crate::runtime::{ContainerSpec, Protocol};

pub(super) const PREVIEW1: &str = "wasi_snapshot_preview1";
/// Where listeners begin: systemd's convention, which everybody follows.
pub(super) const FIRST_LISTENER: i32 = 3;
/// The variable that tells a guest how many listeners it has.
pub(super) const LISTEN_FDS: &str = "LISTEN_FDS";
/// Accepted connections are numbered from here, far from wasmtime's own descriptors, which it gives out from below.
const FIRST_CONNECTION: i32 = 1 << 20;
/// Sockets that one instance may hold: they are the node's file descriptors.
const SOCKETS_MAX: usize = 1_024;

/// Preview 1's error numbers, of those that are given here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Errno {
    Success = 0,
    Again = 6,
    ConnectionAborted = 13,
    ConnectionReset = 15,
    Fault = 21,
    Inval = 28,
    Io = 29,
    Mfile = 33,
    NotConnected = 53,
    NotSocket = 57,
    NotSupported = 58,
    Pipe = 64,
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Errno::Again,
            io::ErrorKind::ConnectionReset => Errno::ConnectionReset,
            io::ErrorKind::ConnectionAborted => Errno::ConnectionAborted,
            io::ErrorKind::BrokenPipe => Errno::Pipe,
            io::ErrorKind::NotConnected => Errno::NotConnected,
            _ => Errno::Io,
        }
    }
}

/// One port of the pod, at each of its addresses: to the guest, one descriptor.
pub(super) struct Listener {
    inner: Vec<(TcpListener, SocketAddr)>,
    pub nonblocking: AtomicBool,
    /// A poll can only learn that somebody is there by letting him in.
    waiting: Mutex<Option<io::Result<TcpStream>>>,
}

impl Listener {
    /// NOTE: non-blocking until the guest says otherwise, as wasmtime's own command line had them: Go's net takes a
    /// listener as it finds it, and its one thread must not wait in accept.
    pub fn new(inner: Vec<(TcpListener, SocketAddr)>) -> Self {
        Listener { inner, nonblocking: AtomicBool::new(true), waiting: Mutex::new(None) }
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.inner.iter().map(|(_, address)| *address)
    }

    /// Ready when accept would not wait.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock();
        if waiting.is_some() {
            return Poll::Ready(());
        }
        for (listener, _) in &self.inner {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                *waiting = Some(accepted.map(|(stream, _)| stream));
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    pub fn take(&self) -> Option<io::Result<TcpStream>> {
        self.waiting.lock().take()
    }
}

pub(super) struct Connection {
    pub stream: TcpStream,
    pub nonblocking: AtomicBool,
}

impl Connection {
    /// Ready when a read would not wait: tokio's word may be stale, and a guest takes poll's as given.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if std::task::ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let peek = || Ok(recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?);
            match self.stream.try_io(Interest::READABLE, peek) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

#[derive(Clone)]
pub(super) enum Socket {
    Listener(Arc<Listener>),
    Connection(Arc<Connection>),
    /// A listener of a guest that was asked to end.
    Ended,
}

impl Socket {
    pub fn nonblocking(&self) -> Option<&AtomicBool> {
        match self {
            Socket::Listener(listener) => Some(&listener.nonblocking),
            Socket::Connection(connection) => Some(&connection.nonblocking),
            Socket::Ended => None,
        }
    }
}

/// One instance's sockets, by the guest's descriptors.
#[derive(Default)]
pub(super) struct Sockets(BTreeMap<i32, Socket>);

impl Sockets {
    pub fn new(listeners: Vec<Arc<Listener>>) -> Self {
        let numbered = (FIRST_LISTENER..).zip(listeners);
        Sockets(numbered.map(|(fd, listener)| (fd, Socket::Listener(listener))).collect())
    }

    pub fn get(&self, fd: i32) -> Option<Socket> {
        self.0.get(&fd).cloned()
    }

    /// The guest of a listener was asked to end: its own handle on it goes.
    pub fn end(&mut self, fd: i32) {
        self.0.insert(fd, Socket::Ended);
    }

    pub fn remove(&mut self, fd: i32) -> Option<Socket> {
        self.0.remove(&fd)
    }

    pub fn add(&mut self, connection: Connection) -> Result<i32, Errno> {
        if self.0.len() >= SOCKETS_MAX {
            return Err(Errno::Mfile);
        }
        let used = self.0.range(FIRST_CONNECTION..).map(|(fd, _)| *fd);
        let fd = (FIRST_CONNECTION..).zip(used.chain([i32::MAX])).find(|(free, used)| free != used);
        let fd = fd.map(|(free, _)| free).ok_or(Errno::Mfile)?;
        self.0.insert(fd, Socket::Connection(Arc::new(connection)));
        Ok(fd)
    }
}

/// A container's listeners: its TCP containerPorts, in their order.
pub(super) fn ports(spec: &ContainerSpec) -> Vec<u16> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
        if !ports.contains(&port.port) {
            ports.push(port.port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lowest_free_number_is_given() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connection = async || {
            let stream = TcpStream::connect(address).await.unwrap();
            Connection { stream, nonblocking: AtomicBool::new(false) }
        };
        let mut sockets = Sockets::default();
        for offset in 0..3 {
            assert_eq!(sockets.add(connection().await), Ok(FIRST_CONNECTION + offset));
        }
        sockets.remove(FIRST_CONNECTION + 1);
        assert_eq!(sockets.add(connection().await), Ok(FIRST_CONNECTION + 1));
        assert_eq!(sockets.add(connection().await), Ok(FIRST_CONNECTION + 3));
    }
}
