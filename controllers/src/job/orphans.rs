//! Lets pods go whose job is gone or over: nobody else would take the tracking finalizer off.

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Client, Informer, Key};
use k8s_openapi::api::batch::v1::Job;

use crate::job::{condition, external, is_job, pod::JobPod, release};

pub struct Orphans {
    pub client: Client,
    pub jobs: Informer,
    pub pods: Informer,
}

impl Reconciler for Orphans {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "job-controller (orphan pods)"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.pods.get_key(key) else { return Ok(Outcome::Done) };
        let pod = JobPod::parse(&object)?;
        if !pod.tracked || !self.abandoned(&pod).await? {
            return Ok(Outcome::Done);
        }
        match release(&self.client, &pod).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

impl Orphans {
    async fn abandoned(&self, pod: &JobPod) -> Result<bool, ApiError> {
        let Some(owner) = pod.object.head.controller() else { return Ok(true) };
        if !is_job(owner) {
            return Ok(false);
        }
        let namespace = &pod.object.head.namespace;
        let cached = self.jobs.get(namespace, &owner.name).filter(|job| job.head.uid == owner.uid);
        let job: Option<Job> = match cached {
            Some(job) => Some(job.decode()?),
            // The informer may be behind: a job that was just made has pods already.
            None => self
                .client
                .find::<Job>(namespace, &owner.name)
                .await?
                .filter(|job| job.metadata.uid.as_deref() == Some(&*owner.uid)),
        };
        Ok(job.is_none_or(|job| condition::is_finished(&job) && !external(&job)))
    }
}
