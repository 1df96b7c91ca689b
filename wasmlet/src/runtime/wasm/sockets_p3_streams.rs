//! What stands between a 0.3 socket's streams and its guest: the end of accepting, and the end of a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime::component::{
    Destination, FutureConsumer, Resource, Source, StreamConsumer, StreamProducer, StreamReader, StreamResult,
};
use wasmtime::{AsContextMut, Result, StoreContextMut};
use wasmtime_wasi::p3::bindings::sockets::types::{ErrorCode, TcpSocket};

use super::guest::ComponentState;
use super::sockets_p3::{Permit, view};

type Tcp = Resource<TcpSocket>;

/// The listener's connections, until the container is asked to end: then the guest's stream ends, as no accept would
/// tell it. Connections beyond the bound of sockets are dropped.
pub(super) fn accepted_until(
    terminating: CancellationToken,
    accepted: StreamReader<Tcp>,
    mut store: impl AsContextMut<Data = ComponentState>,
) -> Result<StreamReader<Tcp>> {
    let slot = Arc::new(Mutex::new(Slot::default()));
    accepted.pipe(&mut store, Taker(slot.clone()))?;
    let terminated = Box::pin(terminating.cancelled_owned());
    StreamReader::new(&mut store, Giver { slot, terminated })
}

/// One accepted connection on its way.
#[derive(Default)]
struct Slot {
    socket: Option<Tcp>,
    /// Waits for the place to be free.
    taker: Option<Waker>,
    /// Waits for a connection.
    giver: Option<Waker>,
    /// Nobody reads any more.
    ended: bool,
}

struct Taker(Arc<Mutex<Slot>>);

impl StreamConsumer<ComponentState> for Taker {
    type Item = Tcp;

    fn poll_consume(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<ComponentState>,
        mut source: Source<'_, Tcp>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        let mut slot = self.0.lock();
        if slot.ended {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        if slot.socket.is_some() {
            if finish {
                return Poll::Ready(Ok(StreamResult::Cancelled));
            }
            slot.taker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        source.read(store, &mut slot.socket)?;
        if slot.socket.is_some()
            && let Some(giver) = slot.giver.take()
        {
            giver.wake();
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

struct Giver {
    slot: Arc<Mutex<Slot>>,
    terminated: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl StreamProducer<ComponentState> for Giver {
    type Item = Tcp;
    type Buffer = Option<Tcp>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, ComponentState>,
        mut destination: Destination<'a, Tcp, Option<Tcp>>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        if self.terminated.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let only_asks = destination.remaining(&mut store) == Some(0);
        let mut slot = self.slot.lock();
        if slot.socket.is_some() && only_asks {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let taken = slot.socket.take();
        if taken.is_some()
            && let Some(taker) = slot.taker.take()
        {
            taker.wake();
        }
        if let Some(socket) = taken {
            let mut view = view(store.data_mut());
            if view.keep_accepted(&socket) {
                destination.set_buffer(Some(socket));
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            view.drop_accepted(socket)?;
        }
        if finish {
            return Poll::Ready(Ok(StreamResult::Cancelled));
        }
        slot.giver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        slot.ended = true;
        if let Some(taker) = slot.taker.take() {
            taker.wake();
        }
    }
}

type Done = std::result::Result<(), ErrorCode>;

/// Holds a socket's permit until its stream has had its last word, and passes that on.
pub(super) struct Released {
    permit: Option<Arc<Permit>>,
    sender: Option<oneshot::Sender<Done>>,
}

impl Released {
    pub fn new(permit: Option<Arc<Permit>>, sender: oneshot::Sender<Done>) -> Self {
        Released { permit, sender: Some(sender) }
    }
}

impl FutureConsumer<ComponentState> for Released {
    type Item = Done;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<ComponentState>,
        mut source: Source<'_, Done>,
        _: bool,
    ) -> Poll<Result<()>> {
        let mut done = None;
        source.read(store, &mut done)?;
        self.permit = None;
        if let (Some(sender), Some(done)) = (self.sender.take(), done) {
            // A guest that has dropped its end does not care.
            let _ = sender.send(done);
        }
        Poll::Ready(Ok(()))
    }
}
