//! Creates and deletes the pods of a controlling object, with what is expected of the informer and the events about it.

use std::sync::Arc;

use coracle_client::client::Kind;
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Client, DeleteOptions, Key};
use futures::future::join_all;
use k8s_openapi::api::core::v1;

use crate::expectations::Expectations;
use crate::pods::Pod;

pub struct PodControl {
    pub client: Client,
    pub events: EventRecorder,
    pub expectations: Arc<Expectations>,
}

impl PodControl {
    /// Creates `wanted` and deletes `doomed`. The first failure is returned, after everything has been tried that is
    /// tried beside it.
    pub async fn apply<O: Kind>(
        &self,
        key: &Key,
        owner: &O,
        wanted: impl ExactSizeIterator<Item = v1::Pod>,
        doomed: &[Pod],
    ) -> Result<(), ApiError> {
        self.expectations.expect(key, wanted.len(), doomed.iter().map(|pod| pod.uid().into()));
        let deleted = self.delete(key, owner, doomed).await;
        let created = self.create(key, owner, wanted).await;
        created.and(deleted)
    }

    async fn create<O: Kind>(
        &self,
        key: &Key,
        owner: &O,
        mut wanted: impl ExactSizeIterator<Item = v1::Pod>,
    ) -> Result<(), ApiError> {
        let result = slow_start(&mut wanted, |pod| self.create_one(key, owner, pod)).await;
        if let Err(error) = result {
            (0..wanted.len()).for_each(|_| self.expectations.created(key));
            // Not our failure: the namespace controller is at work.
            return if error.is_namespace_terminating() { Ok(()) } else { Err(error) };
        }
        Ok(())
    }

    pub async fn create_one<O: Kind>(&self, key: &Key, owner: &O, pod: v1::Pod) -> Result<(), ApiError> {
        match self.client.create(&pod).await {
            Ok(written) => {
                let name = written.decode()?.metadata.name.unwrap_or_default();
                self.events.event(
                    owner,
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {name}"),
                );
                Ok(())
            }
            Err(error) => {
                self.expectations.created(key);
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {error}");
                    self.events.event(owner, EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete<O: Kind>(&self, key: &Key, owner: &O, doomed: &[Pod]) -> Result<(), ApiError> {
        let deletions = doomed.iter().map(|pod| self.delete_one(key, owner, pod.name(), pod.uid()));
        join_all(deletions).await.into_iter().collect()
    }

    pub async fn delete_one<O: Kind>(
        &self,
        key: &Key,
        owner: &O,
        name: &str,
        uid: &str,
    ) -> Result<(), ApiError> {
        let options = DeleteOptions::default().uid(uid);
        match self.client.delete::<v1::Pod>(&key.namespace, name, options).await {
            Ok(()) => {
                let message = format!("Deleted pod: {name}");
                self.events.event(owner, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            // Gone, or another of the same name.
            Err(error) if error.is_not_found() || error.is_conflict() => {
                self.expectations.deleted(key, uid);
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(key, uid);
                let message = format!("Error deleting: {error}");
                self.events.event(owner, EventType::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }
}

/// Does the work in batches that double while they succeed, so that what cannot succeed does not flood the API.
/// After a failure the rest stays in the iterator.
pub async fn slow_start<T, F>(
    items: &mut impl ExactSizeIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<(), ApiError>
where
    F: Future<Output = Result<(), ApiError>>,
{
    let mut batch = 1;
    while items.len() > 0 {
        let results = join_all(items.by_ref().take(batch).map(&work)).await;
        results.into_iter().collect::<Result<(), _>>()?;
        batch = (batch * 2).min(BATCH_MAX);
    }
    Ok(())
}

/// The most requests under way at once for one object.
const BATCH_MAX: usize = 500;
