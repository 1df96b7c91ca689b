//! The writer thread: takes what has queued up, commits it as one, answers.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    super::{Error, Operation, Outcome, Write},
    commit::{Committer, Shared},
    expiry::Clock,
};

/// One commit takes at most so many writes, and stops taking once it holds so many bytes.
const BATCH_WRITES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(super) enum Request {
    Write(Write, Reply<Outcome>),
    Close(Reply<()>),
}

/// What a queued write counts against the queue's byte bound.
pub(super) fn cost(write: &Write) -> usize {
    let value = match &write.operation {
        Operation::Put { value, .. } => value.len(),
        Operation::Delete => 0,
    };
    write.key.len() + value
}

/// Runs until it is told to close or every sender is gone.
pub(super) fn run(mut committer: Committer, requests: &Receiver<Request>) {
    let shared = committer.shared();
    let mut close = None;
    while close.is_none() {
        let first = match wait(&committer, requests) {
            Wait::Request(request) => Some(request),
            Wait::Expiry => None,
            Wait::Gone => break,
        };
        let mut writes = Vec::new();
        let mut replies = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        while let Some(request) = next.take() {
            match request {
                Request::Write(write, reply) => {
                    bytes += cost(&write);
                    writes.push(write);
                    replies.push(reply);
                }
                Request::Close(reply) => {
                    close = Some(reply);
                    break;
                }
            }
            if writes.len() < BATCH_WRITES_MAX && bytes < BATCH_BYTES_MAX {
                next = requests.try_recv().ok();
            }
        }
        shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        shared.queued_writes.fetch_sub(writes.len(), Ordering::Relaxed);
        let outcomes = committer.commit(writes, Clock::read());
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // A caller that went away does not undo its write.
            let _ = reply.send(outcome);
        }
    }
    finish(committer, &shared, close);
}

enum Wait {
    Request(Request),
    Expiry,
    Gone,
}

fn wait(committer: &Committer, requests: &Receiver<Request>) -> Wait {
    let Some(deadline) = committer.next_expiry() else {
        return requests.recv().map_or(Wait::Gone, Wait::Request);
    };
    match requests.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(request) => Wait::Request(request),
        Err(RecvTimeoutError::Timeout) => Wait::Expiry,
        Err(RecvTimeoutError::Disconnected) => Wait::Gone,
    }
}

fn finish(mut committer: Committer, shared: &Arc<Shared>, close: Option<Reply<()>>) {
    let result = committer.finish();
    shared.watchers.lock().close();
    // The directory's lock goes with the committer: whoever hears that the store is closed can open it again.
    drop(committer);
    match (close, result) {
        (Some(reply), result) => {
            let _ = reply.send(result);
        }
        (None, Err(error)) => tracing::warn!(%error, "store: closing"),
        (None, Ok(())) => {}
    }
}
