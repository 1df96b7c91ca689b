//! Accounts for pods that have ended: noted in the status first, then let go, then counted; so none is lost or counted twice.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobStatus;

use crate::job::condition::{self, SUSPENDED, Verdict};
use crate::job::plan::{Plan, State, Work, length};
use crate::job::pod::JobPod;
use crate::pods::Phase;

/// Pods noted in a status at once: their uids must not make it large.
const NOTED_MAX: usize = 500;

/// What came of the work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub created: i32,
    pub deleted: i32,
    pub deleted_ready: i32,
}

#[derive(Debug)]
pub struct Settled {
    /// To be written before any pod is let go.
    pub status: JobStatus,
    /// Places in `State::pods` of pods whose finalizer goes next.
    pub release: Vec<usize>,
    /// Whether every pod that can be accounted for is.
    pub all: bool,
    pub verdict: Option<Verdict>,
    pub suspension: Option<&'static str>,
}

pub fn settle(state: &State<'_>, plan: &Plan, done: Done, now: Timestamp) -> Settled {
    let mut status = state.status.clone();
    let counts = &plan.counts;
    status.start_time = plan.start.map(condition::time);
    let active = counts.active + done.created - done.deleted;
    let mut verdict = plan.verdict.clone();
    let mut suspension = None;
    match &plan.work {
        // Pods that stay, or that the informer does not show yet, keep the job from its end.
        Work::End(doomed) => {
            verdict = verdict.filter(|_| done.deleted == length(doomed.len()) && state.satisfied);
        }
        _ if complete(state, plan, active) => {
            let message = "Reached expected number of succeeded pods";
            verdict = Some(Verdict::success("CompletionsReached", message));
        }
        _ if plan.managed => suspension = suspend(state, &mut status, now),
        _ => {}
    }
    status.active = positive(active);
    status.ready = Some(counts.ready - done.deleted_ready);
    status.terminating = Some(counts.terminating + done.deleted);
    let (release, all) = note(state, plan, verdict.as_ref(), &mut status);
    if let Some(verdict) = &verdict {
        verdict.announce(&mut status, now);
    }
    Settled { status, release, all, verdict, suspension }
}

fn complete(state: &State<'_>, plan: &Plan, active: i32) -> bool {
    let succeeded = plan.counts.succeeded;
    active == 0
        && match state.rules.completions {
            None => succeeded > 0,
            Some(wanted) => succeeded >= wanted,
        }
}

/// What to tell of it.
fn suspend(state: &State<'_>, status: &mut JobStatus, now: Timestamp) -> Option<&'static str> {
    if state.rules.suspended {
        return condition::set(status, SUSPENDED, true, "JobSuspended", "Job suspended", now)
            .then_some("Suspended");
    }
    let resumed = condition::set(status, SUSPENDED, false, "JobResumed", "Job resumed", now);
    resumed.then(|| {
        // The deadline is of time spent active.
        status.start_time = Some(condition::time(now));
        "Resumed"
    })
}

/// Notes the pods that have ended, and says which may be let go once that is written.
fn note(
    state: &State<'_>,
    plan: &Plan,
    verdict: Option<&Verdict>,
    status: &mut JobStatus,
) -> (Vec<usize>, bool) {
    let counts = &plan.counts;
    let held: HashSet<&str> = state.pods.iter().filter(|pod| state.tracked(pod)).map(JobPod::uid).collect();
    let noted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let known =
        |list: Option<&Vec<String>>| -> HashSet<String> { list.into_iter().flatten().cloned().collect() };
    let (known_succeeded, known_failed) = (known(noted.succeeded.as_ref()), known(noted.failed.as_ref()));
    count(status, &held);
    let mut release = Vec::new();
    let mut new_indexes = Vec::new();
    let mut all = true;
    let mut order: Vec<(usize, &JobPod)> = state.pods.iter().enumerate().collect();
    if state.rules.indexed {
        order.sort_by_key(|(_, pod)| pod.index);
    }
    for (at, pod) in order {
        let failed = state.failed(pod);
        if !held.contains(pod.uid()) || !releasable(state, plan, verdict, (at, pod), failed) {
            continue;
        }
        release.push(at);
        let lists = status.uncounted_terminated_pods.get_or_insert_default();
        if pod.phase == Phase::Succeeded && !known_failed.contains(pod.uid()) {
            if state.rules.indexed {
                // The index itself keeps it from being counted again.
                let new = state.index(pod).filter(|index| !counts.succeeded_before.has(*index));
                new_indexes.extend(new);
            } else if !known_succeeded.contains(pod.uid()) {
                lists.succeeded.get_or_insert_default().push(pod.uid().into());
            }
        } else if (failed || verdict.is_some_and(|v| !v.success))
            && !known_failed.contains(pod.uid())
            && state.counts(pod)
            && state.action(pod).counts()
        {
            // Once the job fails, so does what still runs.
            lists.failed.get_or_insert_default().push(pod.uid().into());
        }
        let size = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        if new_indexes.len() + size(&lists.succeeded) + size(&lists.failed) >= NOTED_MAX {
            all = false;
            break;
        }
    }
    if state.rules.indexed {
        let succeeded = counts.succeeded_before.with(new_indexes);
        status.succeeded = positive(succeeded.total());
        status.completed_indexes = Some(succeeded.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = counts.failed_indexes.as_ref().map(ToString::to_string);
    }
    (release, all)
}

fn releasable(
    state: &State<'_>,
    plan: &Plan,
    verdict: Option<&Verdict>,
    (at, pod): (usize, &JobPod),
    failed: bool,
) -> bool {
    let over = state.job.metadata.deletion_timestamp.is_some() || verdict.is_some();
    if over || pod.phase == Phase::Succeeded {
        return true;
    }
    let awaited = state.index(pod).and_then(|index| plan.counts.predecessors.get(&index)) == Some(&at);
    failed && !awaited
}

/// Counts noted pods that are no longer held. Whether the status changed.
pub fn count(status: &mut JobStatus, held: &HashSet<&str>) -> bool {
    let Some(noted) = &mut status.uncounted_terminated_pods else { return false };
    let counted = |list: &mut Option<Vec<String>>| {
        let before = list.as_ref().map_or(0, Vec::len);
        if let Some(uids) = list {
            uids.retain(|uid| held.contains(uid.as_str()));
        }
        *list = list.take().filter(|uids| !uids.is_empty());
        length(before - list.as_ref().map_or(0, Vec::len))
    };
    let (succeeded, failed) = (counted(&mut noted.succeeded), counted(&mut noted.failed));
    status.succeeded = positive(status.succeeded.unwrap_or(0) + succeeded);
    status.failed = positive(status.failed.unwrap_or(0) + failed);
    succeeded + failed > 0
}

/// Ends the job if nothing is left to account for. Whether it did.
pub fn finish(status: &mut JobStatus, verdict: Option<&Verdict>, all: bool, now: Timestamp) -> bool {
    let noted = status.uncounted_terminated_pods.as_ref();
    let open = noted.is_some_and(|noted| noted.succeeded.is_some() || noted.failed.is_some());
    let leaving = status.terminating.unwrap_or(0) > 0;
    match verdict {
        Some(verdict) if all && !open && !leaving => {
            verdict.enact(status, now);
            true
        }
        _ => false,
    }
}

/// The status in the one form in which it is compared: the API leaves zeros and empty lists out.
pub fn normal(status: Option<&JobStatus>) -> JobStatus {
    let mut status = status.cloned().unwrap_or_default();
    status.active = positive(status.active.unwrap_or(0));
    status.succeeded = positive(status.succeeded.unwrap_or(0));
    status.failed = positive(status.failed.unwrap_or(0));
    status.completed_indexes = status.completed_indexes.filter(|text| !text.is_empty());
    let noted = status.uncounted_terminated_pods.get_or_insert_default();
    noted.succeeded = noted.succeeded.take().filter(|list| !list.is_empty());
    noted.failed = noted.failed.take().filter(|list| !list.is_empty());
    status
}

fn positive(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count > 0)
}
