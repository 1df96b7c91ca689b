//! The last step of every write: encode once, compare and write, and be seen by the next read.

use std::time::Instant;

use bytes::Bytes;
use coracle_client::ApiError;

use super::Call;
use crate::object::ApiObject;
use crate::storage::{Entry, Expected, Operation, Outcome, Write};
use crate::watch_cache::{store_error, store_key, with_revision};

/// How a write ended.
pub(super) enum Committed {
    /// The object as stored, with its resourceVersion.
    Written(Bytes),
    /// Somebody else was first; the cache shows by now what they did.
    Conflict,
}

/// Without the resourceVersion, which is not stored.
pub(super) fn encode(object: &mut dyn ApiObject) -> Result<Bytes, ApiError> {
    object.meta_mut().resource_version = None;
    object.encode()
}

impl Call {
    pub(super) async fn put(
        &self,
        key: &str,
        expected: Expected,
        encoded: Bytes,
    ) -> Result<Committed, ApiError> {
        let value = match &self.kind.custom {
            Some(version) => version.stored(encoded.clone()).await?,
            None => encoded.clone(),
        };
        let operation = Operation::Put { value, ttl: self.kind.def.ttl };
        Ok(match self.write(key, expected, operation).await? {
            Ok(revision) => Committed::Written(with_revision(&encoded, revision)),
            Err(_) => Committed::Conflict,
        })
    }

    /// The inner error is what stands there instead of what was expected.
    pub(super) async fn write(
        &self,
        key: &str,
        expected: Expected,
        operation: Operation,
    ) -> Result<Result<u64, Option<Entry>>, ApiError> {
        let doing = match (&expected, &operation) {
            (_, Operation::Delete) => "delete",
            (Expected::Absent, _) => "create",
            _ => "update",
        };
        let started = Instant::now();
        let write = Write { key: store_key(self.kind.cache.resource(), key), expected, operation };
        let outcome = self.api.store.write(write).await.map_err(store_error)?;
        self.api.metrics.stored(self.kind.resource(), doing, started.elapsed());
        match outcome {
            Outcome::Written { revision } => {
                self.api.cache.wait_for(revision).await?;
                Ok(Ok(revision))
            }
            Outcome::Conflict { current } => {
                match &current {
                    Some(entry) => self.api.cache.wait_for(entry.revision).await?,
                    None => self.api.cache.catch_up(&*self.api.store).await?,
                }
                Ok(Err(current))
            }
        }
    }
}
