//! One watch over etcd: it outlives its connection, and asks again from where it was.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    EventType, WatchClient, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::{Change, Error, WatchItem, WatchStream},
    REQUEST_TIMEOUT, classify, key_of, prefix_end, revision_of, within,
};

/// A watch that lost its server tries again after the first, then twice as long each time, up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// What a watch is opened with.
pub(super) struct Start {
    pub client: WatchClient,
    pub prefix: String,
    pub after: u64,
    pub progress: watch::Receiver<u64>,
    pub sound_progress: bool,
    pub closed: CancellationToken,
}

impl Start {
    pub(super) async fn open(self) -> Result<WatchStream, Error> {
        let last = self.after;
        let mut place = Place { start: self, last, unconfirmed: None, connection: None, ended: false };
        place.connect().await?;
        let stream = futures::stream::unfold(place, |mut place| async {
            let item = place.next().await?;
            Some((item, place))
        });
        Ok(stream.boxed())
    }
}

/// Where a watch is, and the connection that serves it now.
struct Place {
    start: Start,
    /// Everything up to here has been handed out.
    last: u64,
    /// A progress answer of an etcd whose answers may overtake events, until a second answer confirms it.
    unconfirmed: Option<u64>,
    connection: Option<(WatchRequestSender, WatchResponseStream)>,
    ended: bool,
}

impl Place {
    /// Opens the watch and waits until the server has it, so that a request for progress finds it there.
    async fn connect(&mut self) -> Result<(), Error> {
        let options = WatchOptions::new()
            .with_range(prefix_end(&self.start.prefix))
            .with_start_revision(self.last as i64 + 1)
            .with_progress_notify();
        let from = if self.start.prefix.is_empty() { vec![0] } else { self.start.prefix.as_bytes().to_vec() };
        let opened = async {
            let mut stream = self.start.client.watch(from, Some(options)).await?;
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = within(REQUEST_TIMEOUT, "open an etcd watch", opened).await?;
        match first {
            Some(response) if response.canceled() => Err(self.cancelled(&response)),
            Some(_) => {
                self.connection = Some(stream.split());
                self.unconfirmed = None;
                Ok(())
            }
            None => Err(Error::unavailable(
                "open an etcd watch",
                std::io::Error::from(std::io::ErrorKind::UnexpectedEof),
            )),
        }
    }

    fn cancelled(&self, response: &WatchResponse) -> Error {
        if response.compact_revision() > 0 {
            let oldest = response.compact_revision() as u64 - 1;
            return Error::Compacted { requested: self.last, oldest };
        }
        Error::unavailable("watch etcd", std::io::Error::other(response.cancel_reason().to_owned()))
    }

    async fn next(&mut self) -> Option<Result<WatchItem, Error>> {
        if self.ended {
            return None;
        }
        let mut retry = RETRY_FIRST;
        let closed = self.start.closed.clone();
        loop {
            let step = async {
                match self.connection {
                    Some(_) => self.receive().await,
                    None => {
                        tokio::time::sleep(retry).await;
                        retry = (retry * 2).min(RETRY_LAST);
                        self.connect().await.map(|()| None)
                    }
                }
            };
            let step = tokio::select! {
                step = step => step,
                () = closed.cancelled() => Err(Error::Closed),
            };
            match step {
                Ok(Some(item)) => return Some(Ok(item)),
                Ok(None) => {}
                Err(error @ (Error::Compacted { .. } | Error::Closed | Error::Corrupt { .. })) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Err(error) => {
                    tracing::warn!(prefix = self.start.prefix, after = self.last, %error, "store: watch interrupted");
                    self.connection = None;
                }
            }
        }
    }

    /// Waits for one message; `None` when it holds nothing to hand out.
    async fn receive(&mut self) -> Result<Option<WatchItem>, Error> {
        let Some((sender, responses)) = &mut self.connection else { return Ok(None) };
        let failed = |error| classify("watch etcd", error);
        let response = tokio::select! {
            response = responses.message() => response.map_err(failed)?,
            asked = self.start.progress.changed() => {
                if asked.is_err() {
                    return Err(Error::Closed);
                }
                sender.request_progress().await.map_err(failed)?;
                return Ok(None);
            }
        };
        let Some(response) = response else {
            let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Error::unavailable("watch etcd", end));
        };
        if response.canceled() {
            return Err(self.cancelled(&response));
        }
        let mut changes = Vec::with_capacity(response.events().len());
        for event in response.events() {
            let Some(pair) = event.kv() else { continue };
            let value = match event.event_type() {
                EventType::Put => Some(Bytes::copy_from_slice(pair.value())),
                EventType::Delete => None,
            };
            changes.push(Change { key: key_of(pair)?, revision: pair.mod_revision() as u64, value });
        }
        if let Some(last) = changes.last() {
            self.last = last.revision;
            return Ok(Some(WatchItem::Changes(changes)));
        }
        if response.created() {
            return Ok(None);
        }
        let revision = revision_of(response.header())?;
        let revision = if self.start.sound_progress {
            revision
        } else if let Some(confirmed) = self.unconfirmed.take() {
            confirmed
        } else {
            self.unconfirmed = Some(revision);
            let Some((sender, _)) = &mut self.connection else { return Ok(None) };
            sender.request_progress().await.map_err(failed)?;
            return Ok(None);
        };
        self.last = self.last.max(revision);
        Ok(Some(WatchItem::Progress(revision)))
    }
}
