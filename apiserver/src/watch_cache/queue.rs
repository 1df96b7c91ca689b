//! What one watcher has still to read: a queue bounded by events and by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};

use super::event::Delivery;

/// What one watcher may leave unread before it is ended.
pub const EVENTS_MAX: usize = 16 * 1024;
/// As much as the ring keeps of one resource: who is further behind could not take the watch up again anyway.
pub const BYTES_MAX: usize = super::ring::BYTES_MAX;

pub struct Sender {
    channel: mpsc::Sender<Delivery>,
    unread_bytes: Arc<AtomicUsize>,
}

pub struct Receiver {
    channel: mpsc::Receiver<Delivery>,
    unread_bytes: Arc<AtomicUsize>,
}

/// Why a watcher gets nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Gone,
    TooFarBehind,
}

pub fn queue() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let unread_bytes = Arc::new(AtomicUsize::new(0));
    (
        Sender { channel: sender, unread_bytes: unread_bytes.clone() },
        Receiver { channel: receiver, unread_bytes },
    )
}

fn cost(delivery: &Delivery) -> usize {
    delivery.object.json.len() + delivery.frame.as_ref().map_or(0, bytes::Bytes::len)
}

impl Sender {
    /// One event is taken whatever its size.
    pub fn send(&self, delivery: Delivery) -> Result<(), Refused> {
        let bytes = cost(&delivery);
        let before = self.unread_bytes.fetch_add(bytes, Ordering::Relaxed);
        let refused = if before > 0 && before + bytes > BYTES_MAX {
            Refused::TooFarBehind
        } else {
            match self.channel.try_send(delivery) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => Refused::Gone,
                Err(TrySendError::Full(_)) => Refused::TooFarBehind,
            }
        };
        self.unread_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(refused)
    }
}

impl Receiver {
    pub async fn recv(&mut self) -> Option<Delivery> {
        let delivery = self.channel.recv().await?;
        self.read(&delivery);
        Some(delivery)
    }

    pub fn try_recv(&mut self) -> Result<Delivery, TryRecvError> {
        let delivery = self.channel.try_recv()?;
        self.read(&delivery);
        Ok(delivery)
    }

    /// Nothing will be added to what is unread.
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    fn read(&self, delivery: &Delivery) {
        self.unread_bytes.fetch_sub(cost(delivery), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_client::{Object, WatchEventKind};

    use super::*;

    fn delivery(bytes: usize) -> Delivery {
        let fill = "x".repeat(bytes);
        let json = format!(
            r#"{{"kind":"A","apiVersion":"v1","metadata":{{"name":"a","resourceVersion":"1"}},"data":"{fill}"}}"#
        );
        let object = Object::parse(Bytes::from(json), &[]).unwrap();
        Delivery { kind: WatchEventKind::Added, object, frame: None, binary: None }
    }

    #[test]
    fn large_events_fill_it_long_before_their_number_does() {
        let (sender, mut receiver) = queue();
        let large = delivery(BYTES_MAX / 10);
        let sent = (0..100).take_while(|_| sender.send(large.clone()).is_ok()).count();
        assert_eq!(sent, 9);
        assert_eq!(sender.send(large.clone()), Err(Refused::TooFarBehind));
        receiver.try_recv().unwrap();
        assert_eq!(sender.send(large.clone()), Ok(()));
        drop(receiver);
        assert_eq!(sender.send(delivery(1)), Err(Refused::Gone));
    }

    #[test]
    fn one_event_fits_whatever_its_size() {
        let (sender, mut receiver) = queue();
        assert_eq!(sender.send(delivery(BYTES_MAX + 1)), Ok(()));
        assert_eq!(sender.send(delivery(1)), Err(Refused::TooFarBehind));
        receiver.try_recv().unwrap();
        assert_eq!(sender.send(delivery(1)), Ok(()));
    }
}
