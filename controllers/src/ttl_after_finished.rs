//! TTL after finished: deletes jobs that ended long enough ago.

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Client, DeleteOptions, Informer, Key, Propagation, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::context::Context;
use crate::job::condition;

pub async fn run(context: Context) {
    let controller = Controller { client: context.client.clone(), jobs: context.of::<Job>() };
    let queue = WorkQueue::new();
    let changed = queue.clone();
    controller.jobs.on_change(move |change| {
        if change.new.as_ref().is_some_and(|job| !job.head.deleting) {
            changed.add(change.key());
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    jobs: Informer,
}

/// How long the job has left. None: nothing ends it.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finish = condition::finish(job)?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let since = finish.last_transition_time.as_ref()?.0;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(passed))
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.jobs.get_key(key) else { return Ok(Outcome::Done) };
        match left(&object.decode()?, Timestamp::now()) {
            None => return Ok(Outcome::Done),
            Some(left) if !left.is_zero() => return Ok(Outcome::After(left)),
            Some(_) => {}
        }
        // The limit may have been raised since: a job is not deleted by what it used to say.
        let Some(fresh) = self.client.find::<Job>(&key.namespace, &key.name).await? else {
            return Ok(Outcome::Done);
        };
        match left(&fresh, Timestamp::now()) {
            Some(left) if left.is_zero() => {}
            Some(left) => return Ok(Outcome::After(left)),
            None => return Ok(Outcome::Done),
        }
        let uid = fresh.metadata.uid.as_deref().unwrap_or_default();
        let options = DeleteOptions::propagation(Propagation::Foreground).uid(uid);
        match self.client.delete::<Job>(&key.namespace, &key.name, options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    fn job(ttl: Option<i32>, condition: &str, ago: i64, deleting: bool) -> Job {
        let time = |ago: i64| Timestamp::from_second(1_000_000 - ago).unwrap();
        let mut value = json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
            "status": {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": time(ago)}]}});
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!(time(0));
        }
        from(value)
    }

    #[test]
    fn finished_jobs_with_a_limit_expire() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (job, want) in [
            (job(Some(10), "Complete", 4, false), Some(6)),
            (job(Some(10), "Failed", 4, false), Some(6)),
            (job(Some(10), "Complete", 40, false), Some(0)),
            (job(Some(0), "Complete", 0, false), Some(0)),
            (job(Some(10), "Complete", -5, false), Some(10)),
            (job(Some(10), "Suspended", 40, false), None),
            (job(None, "Complete", 40, false), None),
            (job(Some(10), "Complete", 40, true), None),
        ] {
            assert_eq!(left(&job, now).map(|left| left.as_secs()), want, "{job:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_job_is_deleted_with_its_pods() {
        let cluster = Cluster::new();
        cluster.fake.put(&job(Some(10), "Complete", 40, false)).unwrap();
        cluster.start(|c| Box::pin(run(c)));
        cluster
            .until("going", |f| {
                f.get::<Job>("ns", "j").is_none_or(|j| j.metadata.deletion_timestamp.is_some())
            })
            .await;
        let finalizers = cluster.fake.get::<Job>("ns", "j").unwrap().metadata.finalizers.unwrap();
        assert_eq!(finalizers, ["foregroundDeletion"]);
    }
}
