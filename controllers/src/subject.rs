//! A queue of one controller for objects of two kinds, and the end that a reconcile comes to when its object is gone.

use std::fmt;

use coracle_client::controller::Outcome;
use coracle_client::{ApiError, Change, Informer, Key, WorkQueue};
use tracing::debug;

/// What is to be looked at: an object of the kind that asks (a claim), or of the one that answers (a volume, a pod).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Claim(Key),
    Other(Key),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) | Self::Other(key) => key.fmt(f),
        }
    }
}

impl Subject {
    /// Queues every object of the informer that is there or changes.
    pub fn follow(informer: &Informer, queue: &WorkQueue<Self>, of: fn(Key) -> Self) {
        let added = queue.clone();
        informer.on_change(move |change: &Change| {
            if change.new.is_some() {
                added.add(of(change.key()));
            }
        });
    }

    /// What went while it was looked at needs nothing more.
    pub fn done(&self, result: Result<(), ApiError>) -> Result<Outcome, ApiError> {
        match result {
            Err(error) if error.is_not_found() => {
                debug!(subject = %self, %error, "gone meanwhile");
                Ok(Outcome::Done)
            }
            done => done.map(|()| Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_done_and_other_errors_come_again() {
        let subject = Subject::Claim(Key::new("ns", "c"));
        assert_eq!(subject.to_string(), "ns/c");
        let gone = ApiError::new(404, "NotFound", "gone");
        for (result, done) in [(Ok(()), true), (Err(gone), true), (Err(ApiError::internal("no")), false)] {
            assert_eq!(subject.done(result).is_ok(), done);
        }
    }
}
