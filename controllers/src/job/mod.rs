//! Job: runs pods until enough of them have succeeded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::events::EventType;
use coracle_client::selector::Selector;
use coracle_client::{ApiError, Client, Informer, Key, Object, Owner, PatchType, Resource, Uid, WorkQueue};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1;
use parking_lot::Mutex;
use serde_json::json;

use crate::context::Context;
use crate::expectations::Expectations;
use crate::ownership;
use crate::pod_changes::{self, Owners};
use crate::pod_control::{PodControl, slow_start};

mod plan;
mod tracking;

mod backoff;
pub mod condition;
mod failure_policy;
mod indexes;
mod orphans;
mod pod;
mod removals;
mod rules;
mod success_policy;
mod template;

use backoff::Backoff;
use plan::{Plan, Seat, State, Work};
use pod::{FINALIZER, JobPod};
use removals::Removals;
use rules::Rules;
use tracking::Done;

const NAME: &str = "job-controller";
/// What `spec.managedBy` says of jobs that are ours.
const MANAGER: &str = "kubernetes.io/job-controller";

pub async fn run(context: Context) {
    let jobs = context.of::<Job>();
    let all_pods = context.of::<v1::Pod>();
    ownership::index(&all_pods);
    let memory: Arc<Memory> = Arc::default();
    let controller = Controller {
        client: context.client.clone(),
        jobs: jobs.clone(),
        pods: all_pods.clone(),
        control: PodControl {
            client: context.client.clone(),
            events: context.recorder(NAME),
            expectations: memory.expectations.clone(),
        },
        memory: memory.clone(),
        orphans: WorkQueue::new(),
    };
    let (queue, orphans) = (WorkQueue::new(), controller.orphans.clone());
    watch_jobs(&controller, &queue);
    // Before the jobs are queued: what is seen here counts in what they see.
    watch_pods(&controller);
    let owners = Owners { informer: jobs.clone(), selector };
    pod_changes::follow(&all_pods, owners, &queue, memory.expectations.clone());
    let lost = orphans::Orphans { client: context.client.clone(), jobs, pods: all_pods };
    if context.synced().await {
        let ours = context.work(controller, queue);
        let theirs = controller::run(Arc::new(lost), orphans, 1, context.shutdown.clone());
        tokio::join!(ours, theirs);
    }
}

struct Controller {
    client: Client,
    jobs: Informer,
    pods: Informer,
    control: PodControl,
    memory: Arc<Memory>,
    /// Pods that no job will account for.
    orphans: WorkQueue<Key>,
}

/// What the API does not show yet, or never will, of each job.
#[derive(Default)]
struct Memory {
    expectations: Arc<Expectations>,
    removals: Removals,
    backoffs: Mutex<HashMap<Key, Backoff>>,
    /// The uid and version of the last status written: older ones must not be decided by.
    written: Mutex<HashMap<Key, (Uid, u64)>>,
}

impl Memory {
    fn forget(&self, job: &Key) {
        self.expectations.forget(job);
        self.removals.forget(job);
        self.backoffs.lock().remove(job);
        self.written.lock().remove(job);
    }

    fn stale(&self, job: &Object) -> bool {
        let written = self.written.lock();
        written
            .get(&job.key())
            .is_some_and(|(uid, version)| *uid == job.head.uid && job.head.resource_version < *version)
    }
}

fn is_job(owner: &Owner) -> bool {
    &*owner.kind == "Job" && &*owner.api_version == "batch/v1"
}

/// Whether somebody else looks after the job.
fn external(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref()).is_some_and(|manager| manager != MANAGER)
}

fn watch_jobs(controller: &Controller, queue: &WorkQueue<Key>) {
    let (queue, orphans) = (queue.clone(), controller.orphans.clone());
    let (memory, pods) = (controller.memory.clone(), controller.pods.clone());
    controller.jobs.on_change(move |change| {
        if change.new.is_none() {
            memory.forget(&change.key());
            abandon(&pods, &orphans, &change.object().head.uid);
        }
        queue.add(change.key());
    });
}

fn abandon(pods: &Informer, orphans: &WorkQueue<Key>, job_uid: &str) {
    for pod in pods.by_owner(job_uid).iter().filter(|pod| pod.head.has_finalizers) {
        orphans.add(pod.key());
    }
}

/// What is special about a job's pods: they are held until they are accounted for.
fn watch_pods(controller: &Controller) {
    let (orphans, memory, jobs) =
        (controller.orphans.clone(), controller.memory.clone(), controller.jobs.clone());
    controller.pods.on_change(move |change| {
        let pod = change.object();
        let owner = pod.head.controller();
        let job = owner.filter(|owner| is_job(owner)).and_then(|owner| {
            jobs.get(&pod.head.namespace, &owner.name).filter(|job| job.head.uid == owner.uid)
        });
        if let Some(job) = job {
            let awaited = memory.removals.has(&job.key(), &pod.head.uid);
            if awaited && (change.new.is_none() || !held(pod)) {
                memory.removals.observed(&job.key(), &pod.head.uid);
            }
        } else if change.new.is_some() && pod.head.has_finalizers && owner.is_none_or(is_job) {
            orphans.add(pod.key());
        }
    });
}

fn held(pod: &Arc<Object>) -> bool {
    pod.head.has_finalizers && JobPod::parse(pod).is_ok_and(|pod| pod.tracked)
}

fn selector(job: &Object) -> Option<Selector> {
    let job: Job = job.decode().ok()?;
    let spec = job.spec.filter(|_| job.status.is_none_or(|s| s.completion_time.is_none()))?;
    Selector::from_label_selector(spec.selector.as_ref()).ok().filter(|s| !s.is_everything())
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.jobs.get_key(key) else {
            self.memory.forget(key);
            return Ok(Outcome::Done);
        };
        let job: Job = object.decode()?;
        if external(&job) {
            return Ok(Outcome::Done);
        }
        if condition::is_finished(&job) {
            self.memory.forget(key);
            abandon(&self.pods, &self.orphans, &object.head.uid);
            return Ok(Outcome::Done);
        }
        // What was written comes through the informer yet, and brings the key back.
        if self.memory.stale(&object) {
            return Ok(Outcome::Done);
        }
        self.sync(key, job).await
    }
}

impl Controller {
    async fn sync(&self, key: &Key, job: Job) -> Result<Outcome, ApiError> {
        let Some(rules) = Rules::of(&job) else { return Ok(Outcome::Done) };
        // Before the pods are read: what is satisfied now shows in what is read next.
        let satisfied = self.memory.expectations.satisfied(key);
        let removing = self.memory.removals.of(key);
        let pods = self.claim(&job, key).await?;
        let now = Timestamp::now();
        let state = State {
            job: &job,
            rules,
            status: tracking::normal(job.status.as_ref()),
            pods: &pods,
            removing: &removing,
            satisfied,
            backoff: self.memory.backoffs.lock().get(key).copied().unwrap_or_default(),
        };
        let plan = plan::plan(&state, now);
        let (done, result) = self.work(key, &state, &plan).await;
        self.track(key, &state, &plan, done).await?;
        result?;
        Ok(plan.wait.map_or(Outcome::Done, Outcome::After))
    }

    async fn claim(&self, job: &Job, key: &Key) -> Result<Vec<JobPod>, ApiError> {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let wanted = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = Selector::from_label_selector(wanted).map_err(ApiError::internal)?;
        let candidates = ownership::candidates(&self.pods, &key.namespace, uid);
        let claimed = ownership::claim_holding::<Job, v1::Pod>(
            &self.client,
            &job.metadata,
            &selector,
            candidates,
            Some(FINALIZER),
        )
        .await?;
        Ok(claimed.iter().map(JobPod::parse).collect::<Result<_, _>>()?)
    }

    async fn work(&self, key: &Key, state: &State<'_>, plan: &Plan) -> (Done, Result<(), ApiError>) {
        let chosen =
            |places: &[usize]| places.iter().filter_map(|at| state.pods.get(*at)).collect::<Vec<_>>();
        match &plan.work {
            Work::Nothing => (Done::default(), Ok(())),
            Work::End(places) => self.delete(key, state.job, &chosen(places), false).await,
            Work::Remove(places) => {
                let doomed = chosen(places);
                self.memory.expectations.expect(key, 0, doomed.iter().map(|pod| pod.uid().into()));
                self.delete(key, state.job, &doomed, true).await
            }
            Work::Create(count) => self.create(key, state.job, &vec![None; *count]).await,
            Work::CreateAt(seats) => {
                let seats: Vec<_> = seats.iter().cloned().map(Some).collect();
                self.create(key, state.job, &seats).await
            }
        }
    }

    async fn create(&self, key: &Key, job: &Job, seats: &[Option<Seat>]) -> (Done, Result<(), ApiError>) {
        self.memory.expectations.expect(key, seats.len(), []);
        let created = AtomicI32::new(0);
        let (count, control) = (&created, &self.control);
        let mut left = seats.iter();
        let result = slow_start(&mut left, |seat: &Option<Seat>| async move {
            control.create_one(key, job, template::pod_of(job, seat.as_ref())).await?;
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .await;
        left.for_each(|_| self.memory.expectations.created(key));
        let done = Done { created: created.into_inner(), ..Done::default() };
        // Not our failure: the namespace controller is at work.
        (done, result.or_else(|error| if error.is_namespace_terminating() { Ok(()) } else { Err(error) }))
    }

    /// `let_go`: the finalizer is taken off first, so that the pods do not count.
    async fn delete(
        &self,
        key: &Key,
        job: &Job,
        doomed: &[&JobPod],
        let_go: bool,
    ) -> (Done, Result<(), ApiError>) {
        let results = join_all(doomed.iter().map(|pod| self.delete_one(key, job, pod, let_go))).await;
        let mut done = Done::default();
        let mut first = Ok(());
        for (pod, result) in doomed.iter().zip(results) {
            match result {
                Ok(()) => {
                    done.deleted += 1;
                    done.deleted_ready += i32::from(pod.ready());
                }
                Err(error) => first = first.and(Err(error)),
            }
        }
        (done, first)
    }

    async fn delete_one(&self, key: &Key, job: &Job, pod: &JobPod, let_go: bool) -> Result<(), ApiError> {
        if let_go && pod.tracked {
            match release(&self.client, pod).await {
                Ok(()) => {}
                Err(error) => {
                    self.memory.expectations.deleted(key, pod.uid());
                    return if error.is_not_found() { Ok(()) } else { Err(error) };
                }
            }
        }
        self.control.delete_one(key, job, pod.name(), pod.uid()).await
    }

    async fn track(&self, key: &Key, state: &State<'_>, plan: &Plan, done: Done) -> Result<(), ApiError> {
        let now = Timestamp::now();
        let settled = tracking::settle(state, plan, done, now);
        let mut job = state.job.clone();
        if settled.status != state.status {
            job = self.write(key, job, &settled.status).await?;
        }
        self.memory.backoffs.lock().insert(key.clone(), plan.backoff);
        if let Some(suspension) = settled.suspension {
            let message = if suspension == "Suspended" { "Job suspended" } else { "Job resumed" };
            self.control.events.event(&job, EventType::Normal, suspension, message);
        }
        let leaving: Vec<&JobPod> = settled.release.iter().filter_map(|at| state.pods.get(*at)).collect();
        let (released, result) = self.let_go(key, &leaving).await;
        let held: HashSet<&str> = state
            .pods
            .iter()
            .filter(|pod| state.tracked(pod) && !released.contains(pod.uid()))
            .map(JobPod::uid)
            .collect();
        let mut status = settled.status.clone();
        tracking::count(&mut status, &held);
        let finished =
            result.is_ok() && tracking::finish(&mut status, settled.verdict.as_ref(), settled.all, now);
        if status != settled.status {
            job = self.write(key, job, &status).await?;
        }
        if finished {
            self.tell_end(&job, &status);
        }
        result
    }

    async fn write(&self, key: &Key, mut job: Job, status: &JobStatus) -> Result<Job, ApiError> {
        job.status = Some(status.clone());
        let written = self.client.update_status(&job).await?.decode()?;
        let meta = &written.metadata;
        let version = meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        let uid = meta.uid.as_deref().unwrap_or_default().into();
        self.memory.written.lock().insert(key.clone(), (uid, version));
        Ok(written)
    }

    /// The uids of those whose finalizer is off, and the first failure.
    async fn let_go<'a>(&self, key: &Key, pods: &[&'a JobPod]) -> (HashSet<&'a str>, Result<(), ApiError>) {
        self.memory.removals.expect(key, pods.iter().map(|pod| pod.uid().into()));
        let results = join_all(pods.iter().map(|pod| release(&self.client, pod))).await;
        let mut released = HashSet::new();
        let mut first = Ok(());
        for (pod, result) in pods.iter().zip(results) {
            match result {
                Ok(()) => {
                    released.insert(pod.uid());
                }
                Err(error) => {
                    self.memory.removals.observed(key, pod.uid());
                    if error.is_not_found() {
                        released.insert(pod.uid());
                    } else {
                        first = first.and(Err(error));
                    }
                }
            }
        }
        (released, first)
    }

    fn tell_end(&self, job: &Job, status: &JobStatus) {
        let Some(end) = condition::finish(job) else { return };
        if end.type_ == condition::COMPLETE {
            let wanted = job.spec.as_ref().and_then(|spec| spec.completions);
            if wanted.is_some_and(|wanted| status.succeeded.unwrap_or(0) > wanted) {
                let message = "Too many succeeded pods running after completion count reached";
                self.control.events.event(job, EventType::Warning, "TooManySucceededPods", message);
            }
            self.control.events.event(job, EventType::Normal, "Completed", "Job completed");
        } else {
            let reason = end.reason.as_deref().unwrap_or_default();
            let message = end.message.clone().unwrap_or_default();
            self.control.events.event(job, EventType::Warning, reason, message);
        }
    }
}

/// Takes the tracking finalizer off. Not found: the pod is gone.
async fn release(client: &Client, pod: &JobPod) -> Result<(), ApiError> {
    let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    let namespace = &pod.object.head.namespace;
    match client.patch::<v1::Pod>(namespace, pod.name(), None, PatchType::Strategic, &patch).await {
        Ok(_) => Ok(()),
        // Another of its name, or others were in the way.
        Err(error) if error.is_conflict() => {
            let current = client.find::<v1::Pod>(namespace, pod.name()).await?;
            if current.is_some_and(|current| current.metadata.uid.as_deref() == Some(pod.uid())) {
                return Err(error);
            }
            Err(ApiError::not_found(&Resource::of::<v1::Pod>(), pod.name()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests;
