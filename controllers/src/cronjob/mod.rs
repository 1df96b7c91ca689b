//! CronJob: starts jobs by the clock.

use std::collections::HashSet;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Propagation, WorkQueue, cron};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::context::Context;
use crate::{job, ownership, scale};

mod plan;
mod times;

use plan::Start;

/// When the job was to start, by the clock of the cron job's zone.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        cron_jobs: context.of::<CronJob>(),
        jobs: context.of::<Job>(),
        events: context.recorder("cronjob-controller"),
    };
    let queue = WorkQueue::new();
    let changed = queue.clone();
    controller.cron_jobs.on_change(move |change| match rescheduled(change) {
        // What the new schedule would have started in the past is not made up for.
        Some(cron) => {
            let status = cron.status.clone().unwrap_or_default();
            if let Some(wait) = plan::wait(&cron, &status, Timestamp::now()) {
                changed.add_after(change.key(), wait);
            }
        }
        None => changed.add(change.key()),
    });
    let (changed, cron_jobs) = (queue.clone(), controller.cron_jobs.clone());
    controller.jobs.on_change(move |change| {
        for job in change.old.iter().chain(&change.new) {
            let owner = job.head.controller().filter(|o| scale::is::<CronJob>(&o.api_version, &o.kind));
            let Some(owner) = owner else { continue };
            let cron = cron_jobs.get(&job.head.namespace, &owner.name);
            if let Some(cron) = cron.filter(|cron| cron.head.uid == owner.uid) {
                changed.add(cron.key());
            }
        }
    });
    context.work(controller, queue).await;
}

/// The cron job, where what changed is its clock.
fn rescheduled(change: &Change) -> Option<CronJob> {
    let (old, new) = (change.old.as_ref()?, change.new.as_ref()?);
    if old.head.generation == new.head.generation {
        return None;
    }
    let (old, new): (CronJob, CronJob) = (old.decode().ok()?, new.decode().ok()?);
    let same = old.spec.schedule == new.spec.schedule && old.spec.time_zone == new.spec.time_zone;
    (!same).then_some(new)
}

struct Controller {
    client: Client,
    cron_jobs: Informer,
    jobs: Informer,
    events: EventRecorder,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.cron_jobs.get_key(key) else { return Ok(Outcome::Done) };
        let mut cron: CronJob = object.decode()?;
        let jobs: Vec<Job> = self
            .jobs
            .by_owner(&object.head.uid)
            .iter()
            .filter(|job| job.head.controller().is_some_and(|owner| owner.uid == object.head.uid))
            .map(|job| job.decode())
            .collect::<Result<_, _>>()?;
        // A job that is not in the status: the status may be older than the job.
        if jobs.iter().any(|job| !job::condition::is_finished(job) && !listed(&cron, job)) {
            match self.client.find::<CronJob>(&key.namespace, &key.name).await? {
                Some(fresh) if fresh.metadata.uid == cron.metadata.uid => cron = fresh,
                _ => return Ok(Outcome::Done),
            }
        }
        let missing = self.missing(&cron, &jobs).await?;
        let plan = plan::plan(&cron, &jobs, &missing, Timestamp::now());
        for (kind, reason, message) in &plan.events {
            self.events.event(&cron, *kind, reason, message.as_str());
        }
        for (name, uid) in &plan.expired {
            self.delete(&cron, name, uid).await;
        }
        let mut status = plan.status;
        let (wait, result) = match &plan.start {
            Some(start) => {
                let result = self.start(&cron, start, &mut status).await;
                (plan::wait(&cron, &status, Timestamp::now()), result)
            }
            None => (plan.wait, Ok(())),
        };
        if status != normal(cron.status.clone().unwrap_or_default()) {
            let updated = CronJob { status: Some(status), ..cron.clone() };
            match self.client.update_status(&updated).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        result?;
        Ok(wait.map_or(Outcome::Done, Outcome::After))
    }
}

fn normal(mut status: CronJobStatus) -> CronJobStatus {
    status.active = status.active.filter(|active| !active.is_empty());
    status
}

fn listed(cron: &CronJob, job: &Job) -> bool {
    let active = cron.status.iter().flat_map(|status| status.active.iter().flatten());
    active.into_iter().any(|active| active.uid == job.metadata.uid)
}

impl Controller {
    /// Active jobs that are gone from the API, not only from the informer.
    async fn missing(&self, cron: &CronJob, jobs: &[Job]) -> Result<HashSet<String>, ApiError> {
        let mut missing = HashSet::new();
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        for active in cron.status.iter().flat_map(|status| status.active.iter().flatten()) {
            if jobs.iter().any(|job| job.metadata.uid == active.uid) {
                continue;
            }
            let job = self.client.find::<Job>(namespace, active.name.as_deref().unwrap_or_default()).await?;
            if job.is_none_or(|job| job.metadata.uid != active.uid) {
                missing.extend(active.uid.clone());
            }
        }
        Ok(missing)
    }

    /// Whether it is gone.
    async fn delete(&self, cron: &CronJob, name: &str, uid: &str) -> bool {
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        let options = DeleteOptions::propagation(Propagation::Background).uid(uid);
        match self.client.delete::<Job>(namespace, name, options).await {
            Ok(()) => {
                self.events.event(cron, EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
                true
            }
            Err(error) if error.is_not_found() || error.is_conflict() => true,
            Err(error) => {
                let message = format!("Deleted job: {error}");
                self.events.event(cron, EventType::Warning, "FailedDelete", message);
                false
            }
        }
    }

    async fn start(&self, cron: &CronJob, start: &Start, status: &mut CronJobStatus) -> Result<(), ApiError> {
        let active = status.active.get_or_insert_default();
        for job in &start.replaces {
            let (name, uid) =
                (job.name.as_deref().unwrap_or_default(), job.uid.as_deref().unwrap_or_default());
            if !self.delete(cron, name, uid).await {
                return Err(ApiError::internal(format!("could not replace job {name}")));
            }
            active.retain(|active| active.uid.as_deref() != Some(uid));
        }
        let job = match self.client.create(&job_of(cron, start)).await {
            Ok(written) => {
                let message = format!("Created job {}", start.name);
                self.events.event(cron, EventType::Normal, "SuccessfulCreate", message);
                written.decode()?
            }
            // Started before, and the status could not be written then; or somebody else's.
            Err(error) if error.is_already_exists() => {
                let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
                let job: Job = self.client.get(namespace, &start.name).await?;
                let owners = job.metadata.owner_references.iter().flatten();
                let mut controllers = owners.filter(|owner| owner.controller == Some(true));
                if controllers.all(|owner| Some(&owner.uid) != cron.metadata.uid.as_ref()) {
                    return Ok(());
                }
                job
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating job: {error}");
                    self.events.event(cron, EventType::Warning, "FailedCreate", message);
                }
                status.active = status.active.take().filter(|active| !active.is_empty());
                return Err(error);
            }
        };
        if !job::condition::is_finished(&job) && active.iter().all(|active| active.uid != job.metadata.uid) {
            active.push(ObjectReference {
                api_version: Some("batch/v1".into()),
                kind: Some("Job".into()),
                namespace: job.metadata.namespace.clone(),
                name: job.metadata.name.clone(),
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
                field_path: None,
            });
        }
        status.active = status.active.take().filter(|active| !active.is_empty());
        status.last_schedule_time = Some(Time(start.at));
        Ok(())
    }
}

fn job_of(cron: &CronJob, start: &Start) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), scheduled(cron, start.at));
    Job {
        metadata: ObjectMeta {
            namespace: cron.metadata.namespace.clone(),
            name: Some(start.name.clone()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![ownership::controller_of::<CronJob>(&cron.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn scheduled(cron: &CronJob, at: Timestamp) -> String {
    let zone = cron.spec.time_zone.as_deref().and_then(cron::zone);
    match zone.filter(|zone| *zone != jiff::tz::TimeZone::UTC) {
        Some(zone) => at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

#[cfg(test)]
mod tests;
