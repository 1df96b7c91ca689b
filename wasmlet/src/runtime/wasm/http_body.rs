//! The body of a response to a pod's client, which keeps the guest that is writing it alive, and no longer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::http_workers::Lease;

/// A guest's task; dropping this drops the guest.
pub(super) struct AbortOnDrop(Option<JoinHandle<StatusCode>>);

impl AbortOnDrop {
    pub fn new(task: JoinHandle<StatusCode>) -> Self {
        AbortOnDrop(Some(task))
    }

    /// None when the task panicked or was aborted.
    pub async fn join(mut self) -> Option<StatusCode> {
        match &mut self.0 {
            Some(task) => task.await.ok(),
            None => None,
        }
    }

    fn detach(&mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What the answer holds on to.
pub(super) enum Keeper {
    Own(AbortOnDrop),
    Shared(Lease),
}

impl Keeper {
    /// The answer is whole: what the guest does from here on is its own time.
    fn finish(&mut self) {
        match self {
            Keeper::Own(guest) => guest.detach(),
            Keeper::Shared(lease) => lease.finish(),
        }
    }
}

/// A guest's body, or a text of ours.
pub(super) struct ResponseBody(Inner);

enum Inner {
    Guest {
        body: HyperOutgoingBody,
        keeper: Keeper,
        /// When the request has taken too long, where the guest's own task does not see to it.
        deadline: Option<Pin<Box<Sleep>>>,
        /// Of the declared content-length. hyper drops a body once it has that many bytes, without asking for its end.
        left: Option<u64>,
    },
    Text(Option<&'static str>),
}

impl ResponseBody {
    pub fn guest(body: HyperOutgoingBody, keeper: Keeper, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        ResponseBody(Inner::Guest { body, keeper, deadline, left: None })
    }

    pub fn text(text: &'static str) -> Self {
        ResponseBody(Inner::Text(Some(text)))
    }

    pub fn expect_length(&mut self, length: Option<u64>) {
        if let Inner::Guest { left, .. } = &mut self.0 {
            *left = length;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.0 {
            Inner::Text(text) => {
                Poll::Ready(text.take().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
            }
            Inner::Guest { body, left, keeper, deadline } => {
                if let Some(deadline) = deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
                }
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let (Some(left), Some(data)) = (left, frame.data_ref()) {
                            *left = left.saturating_sub(data.len() as u64);
                        }
                    }
                    None => keeper.finish(),
                    Some(Err(_)) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Text(text) => text.is_none(),
            Inner::Guest { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Text(text) => SizeHint::with_exact(text.map_or(0, |text| text.len() as u64)),
            Inner::Guest { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Inner::Guest { body, keeper, left, .. } = &mut self.0
            && (*left == Some(0) || body.is_end_stream())
        {
            keeper.finish();
        }
    }
}
