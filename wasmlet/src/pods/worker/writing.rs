//! What the worker writes to the API: its pod's status, and at the end that the pod may go.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;

use super::Worker;
use crate::pods::state::Sandbox;
use crate::pods::{operations, status};

/// Failed writes to the API are tried again after this, doubling.
const WRITE_RETRY_MIN: Duration = Duration::from_millis(200);
const WRITE_CONFLICT_RETRY: Duration = Duration::from_millis(2);
const WRITE_RETRY_MAX: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn status_written(&mut self, hash: u64, result: Result<(), coracle_client::ApiError>) {
        self.status_in_flight = false;
        match result {
            Ok(()) => {
                self.status_sent = Some(hash);
                self.write_failures = 0;
            }
            Err(error) if error.is_not_found() => {
                // Deleted by force: the watch will say so too.
                tracing::debug!(pod = %self.object.key(), "status of a pod that is gone");
                self.status_sent = Some(hash);
                self.state.vanished = true;
            }
            Err(error) if error.code() == 422 => {
                // Trying again would not help; the next change of the status is another try.
                tracing::error!(pod = %self.object.key(), %error, "the API refuses the pod's status");
                self.status_sent = Some(hash);
            }
            Err(error) => {
                self.status_dirty = true;
                self.retry_write("writing the status of", &error);
            }
        }
    }

    pub(super) fn retry_write(&mut self, what: &str, error: &coracle_client::ApiError) {
        tracing::debug!(pod = %self.object.key(), %error, "{what} a pod");
        // Another writer came first: what we say stays true, and nobody is to be spared.
        let least = if error.is_conflict() { WRITE_CONFLICT_RETRY } else { WRITE_RETRY_MIN };
        let delay = least.saturating_mul(1 << self.write_failures.min(10)).min(WRITE_RETRY_MAX);
        self.write_failures += 1;
        self.write_retry = Some(tokio::time::Instant::now() + delay);
    }

    pub(super) fn write_blocked(&mut self) -> bool {
        match self.write_retry {
            Some(at) if at > tokio::time::Instant::now() => true,
            _ => {
                self.write_retry = None;
                false
            }
        }
    }

    /// At most one write is under way, and what it says is the newest there is when it begins.
    pub(super) fn write_status(&mut self) {
        if !self.status_dirty || self.status_in_flight || self.gone || self.write_blocked() {
            return;
        }
        self.status_dirty = false;
        let runtime = self.runtime.as_ref().or(self.context.runtimes.first()).map_or("", |r| r.name());
        status::refresh_conditions(&self.spec, &mut self.state, &self.given, Timestamp::now());
        let status = status::compose(&self.spec, &self.state, &self.given, runtime);
        let mut hasher = DefaultHasher::new();
        hasher.write(status.to_string().as_bytes());
        let hash = hasher.finish();
        if self.status_sent == Some(hash) {
            return;
        }
        self.status_in_flight = true;
        let work = operations::write_status(self.context.clone(), self.object.clone(), status, hash);
        self.operations.push(work.boxed());
    }

    /// A deleted pod's object may go when its end has been written.
    pub(super) fn remove(&mut self) {
        let due = self.spec.deletion.is_some()
            && self.state.sandbox == Sandbox::Closed
            && self.state.quiet()
            && !self.status_dirty
            && !self.status_in_flight;
        if !due || self.removing || self.removed || self.gone || self.write_blocked() {
            return;
        }
        self.removing = true;
        self.operations.push(operations::remove(self.context.clone(), self.object.clone()).boxed());
    }
}
