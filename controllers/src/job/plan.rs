//! Decides what a job needs: pods to create, to remove, or its end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};

use crate::job::backoff::{self, Backoff};
use crate::job::condition::Verdict;
use crate::job::failure_policy::{self, Action};
use crate::job::indexes::Indexes;
use crate::job::pod::{JobPod, sort_for_removal};
use crate::job::removals::Uids;
use crate::job::rules::Rules;
use crate::job::success_policy;
use crate::pods::Phase;

/// Pods that one sync creates or removes at most.
const BURST: usize = 500;

/// What is known of a job when it is looked at.
pub struct State<'a> {
    pub job: &'a Job,
    pub rules: Rules<'a>,
    pub status: JobStatus,
    pub pods: &'a [JobPod],
    /// Pods whose finalizer was taken off, whatever the informer says.
    pub removing: &'a Uids,
    /// Whether the informer shows what was created and deleted before.
    pub satisfied: bool,
    pub backoff: Backoff,
}

/// How the pods stand.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub active: i32,
    pub ready: i32,
    pub terminating: i32,
    pub succeeded: i32,
    pub failed: i32,
    /// As the status had them.
    pub succeeded_before: Indexes,
    pub succeeded_indexes: Indexes,
    /// Where each index has its own limit.
    pub failed_indexes: Option<Indexes>,
    /// By index, the failed pod that stays until its replacement has taken over its count of failures.
    pub predecessors: BTreeMap<u32, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    pub counted: i32,
    pub ignored: i32,
}

/// The place of a new pod in an indexed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    pub index: u32,
    pub failures: Option<Failures>,
}

/// What to do about pods. Numbers are places in `State::pods`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    Nothing,
    /// The job is over: delete, and keep the finalizer until the pod is counted.
    End(Vec<usize>),
    /// Too many: let go and delete, as if they had never been.
    Remove(Vec<usize>),
    Create(usize),
    CreateAt(Vec<Seat>),
}

#[derive(Debug)]
pub struct Plan {
    pub counts: Counts,
    pub verdict: Option<Verdict>,
    pub work: Work,
    /// Whether the number of pods was looked at, so that suspension may be reported.
    pub managed: bool,
    pub start: Option<Timestamp>,
    pub backoff: Backoff,
    /// Look again after this long.
    pub wait: Option<Duration>,
}

impl State<'_> {
    /// Whether the pod has not been accounted for.
    pub fn tracked(&self, pod: &JobPod) -> bool {
        pod.tracked && !self.removing.contains(pod.uid())
    }

    /// The pod's index, if the job has it.
    pub fn index(&self, pod: &JobPod) -> Option<u32> {
        pod.index.filter(|index| *index < self.rules.indexes())
    }

    pub fn failed(&self, pod: &JobPod) -> bool {
        pod.failed(self.rules.replaces_ended_only)
    }

    /// Whether the pod can count in this job at all.
    pub fn counts(&self, pod: &JobPod) -> bool {
        !self.rules.indexed || self.index(pod).is_some()
    }

    pub fn action(&self, pod: &JobPod) -> Action {
        failure_policy::action(self.rules.failure_policy, pod)
    }

    /// Pods of a kind that have not been accounted for, nor are about to be.
    fn fresh(&self, noted: Option<&Vec<String>>, which: impl Fn(&JobPod) -> bool) -> Vec<&JobPod> {
        let noted: HashSet<&str> = noted.into_iter().flatten().map(String::as_str).collect();
        let fresh = |pod: &&JobPod| self.tracked(pod) && !noted.contains(pod.uid()) && self.counts(pod);
        self.pods.iter().filter(|pod| fresh(pod) && which(pod)).collect()
    }
}

pub fn plan(state: &State<'_>, now: Timestamp) -> Plan {
    let rules = &state.rules;
    let noted = state.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let succeeded = state.fresh(noted.succeeded.as_ref(), |pod| pod.phase == Phase::Succeeded);
    let failed = state.fresh(noted.failed.as_ref(), |pod| state.failed(pod));
    let counts = count(state, &succeeded, &failed);
    let start = state.status.start_time.as_ref().map(|t| t.0).or_else(|| (!rules.suspended).then_some(now));
    let mut plan = Plan {
        verdict: None,
        work: Work::Nothing,
        managed: false,
        start,
        backoff: state.backoff.after(&succeeded, &failed),
        wait: None,
        counts,
    };
    let deadline =
        rules.active_deadline_seconds.filter(|_| !rules.suspended).zip(start).map(|(limit, start)| {
            let limit = Duration::from_secs(u64::try_from(limit).unwrap_or(0));
            limit.saturating_sub(Duration::try_from(now.duration_since(start)).unwrap_or(Duration::ZERO))
        });
    plan.wait = deadline.filter(|left| !left.is_zero());
    plan.verdict = verdict(state, &plan.counts, deadline.is_some_and(|left| left.is_zero()));
    if plan.verdict.is_some() {
        plan.work = Work::End(places(state, JobPod::active));
    } else if state.satisfied && state.job.metadata.deletion_timestamp.is_none() {
        plan.managed = true;
        manage(state, &mut plan, now);
    }
    plan
}

fn count(state: &State<'_>, succeeded: &[&JobPod], failed: &[&JobPod]) -> Counts {
    let rules = &state.rules;
    let number = |which: fn(&JobPod) -> bool| length(state.pods.iter().filter(|pod| which(pod)).count());
    let noted = state.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let (noted_succeeded, noted_failed) =
        (noted.succeeded.map_or(0, |l| l.len()), noted.failed.map_or(0, |l| l.len()));
    let counting = failed.iter().filter(|pod| state.action(pod).counts()).count();
    let mut counts = Counts {
        active: number(JobPod::active),
        ready: number(|pod| pod.active() && pod.ready()),
        terminating: number(JobPod::terminating),
        succeeded: state.status.succeeded.unwrap_or(0) + length(succeeded.len() + noted_succeeded),
        failed: state.status.failed.unwrap_or(0) + length(counting + noted_failed),
        ..Counts::default()
    };
    if !rules.indexed {
        return counts;
    }
    let text = state.status.completed_indexes.as_deref().unwrap_or_default();
    counts.succeeded_before = Indexes::parse(text, rules.indexes());
    let new = state.pods.iter().filter(|pod| pod.phase == Phase::Succeeded && state.tracked(pod));
    counts.succeeded_indexes = counts.succeeded_before.with(new.filter_map(|pod| state.index(pod)));
    counts.succeeded = counts.succeeded_indexes.total();
    if let Some(limit) = rules.per_index() {
        let text = state.status.failed_indexes.as_deref().unwrap_or_default();
        let new = state.pods.iter().filter(|pod| state.tracked(pod) && index_failed(state, pod, limit));
        let failed = Indexes::parse(text, rules.indexes()).with(new.filter_map(|pod| state.index(pod)));
        counts.predecessors = predecessors(state, &counts.succeeded_indexes, &failed);
        counts.failed_indexes = Some(failed);
    }
    counts
}

fn index_failed(state: &State<'_>, pod: &JobPod, limit: i32) -> bool {
    state.failed(pod)
        && match state.action(pod) {
            Action::FailIndex => true,
            action => action.counts() && pod.failures >= limit,
        }
}

fn predecessors(state: &State<'_>, succeeded: &Indexes, failed: &Indexes) -> BTreeMap<u32, usize> {
    let active: HashSet<u32> =
        state.pods.iter().filter(|pod| pod.active()).filter_map(|pod| state.index(pod)).collect();
    let mut last: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, pod) in state.pods.iter().enumerate() {
        let Some(index) = state.index(pod).filter(|_| state.tracked(pod) && state.failed(pod)) else {
            continue;
        };
        if succeeded.has(index) || failed.has(index) || active.contains(&index) {
            continue;
        }
        let newest = last.get(&index).and_then(|at| state.pods.get(*at)).map(JobPod::all_failures);
        if newest.is_none_or(|failures| failures <= pod.all_failures()) {
            last.insert(index, at);
        }
    }
    last
}

fn verdict(state: &State<'_>, counts: &Counts, late: bool) -> Option<Verdict> {
    let rules = &state.rules;
    if let Some(announced) = Verdict::announced(&state.status) {
        return Some(announced);
    }
    let fatal = state.pods.iter().filter(|pod| state.failed(pod)).find_map(|pod| match state.action(pod) {
        Action::FailJob(message) => Some(message),
        _ => None,
    });
    if let Some(message) = fatal {
        return Some(Verdict::failure("PodFailurePolicy", message));
    }
    if counts.failed > rules.backoff_limit || restarted_too_often(state) {
        let message = "Job has reached the specified backoff limit";
        return Some(Verdict::failure("BackoffLimitExceeded", message));
    }
    if late {
        return Some(Verdict::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    if !rules.indexed {
        return None;
    }
    let failed = counts.failed_indexes.as_ref().map_or(0, Indexes::total);
    if counts.failed_indexes.is_some() {
        if rules.max_failed_indexes.is_some_and(|max| failed > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + counts.succeeded >= rules.completions.unwrap_or(0) {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    success_policy::met(rules.success_policy, rules.indexes(), &counts.succeeded_indexes)
        .map(|message| Verdict::success("SuccessPolicy", message))
}

/// Where containers are restarted in their pod, their restarts are the failures.
fn restarted_too_often(state: &State<'_>) -> bool {
    let rules = &state.rules;
    let unended = |pod: &&JobPod| matches!(pod.phase, Phase::Running | Phase::Pending);
    let restarts: i32 =
        state.pods.iter().filter(unended).map(|pod| pod.restarts).fold(0, i32::saturating_add);
    rules.restarts_containers
        && if rules.backoff_limit == 0 { restarts > 0 } else { restarts >= rules.backoff_limit }
}

/// How many pods there should be, and what to do about the difference.
fn manage(state: &State<'_>, plan: &mut Plan, now: Timestamp) {
    let (rules, counts) = (&state.rules, &plan.counts);
    if rules.suspended {
        plan.work = removal(surplus(state, usize::MAX));
        return;
    }
    let wanted = match rules.completions {
        // After one success those that run may end; none is added.
        None if counts.succeeded > 0 => counts.active,
        None => rules.parallelism,
        Some(completions) => (completions - counts.succeeded).min(rules.parallelism).max(0),
    };
    let mut doomed = surplus(state, usize::try_from(counts.active - wanted).unwrap_or(0));
    doomed.truncate(BURST);
    // One or the other: what is removed now shows before anything is created.
    if !doomed.is_empty() {
        plan.work = Work::Remove(doomed);
        return;
    }
    let leaving = if rules.replaces_ended_only { counts.terminating } else { 0 };
    let lacking = usize::try_from(wanted - leaving - counts.active).unwrap_or(0).min(BURST);
    if lacking == 0 {
        return;
    }
    if rules.per_index().is_none() {
        let left = plan.backoff.remaining(now);
        if !left.is_zero() {
            plan.wait = Some(plan.wait.map_or(left, |wait| wait.min(left)));
            return;
        }
    }
    if !rules.indexed {
        plan.work = Work::Create(lacking);
        return;
    }
    let mut seats = Vec::new();
    let mut soonest: Option<Duration> = None;
    for index in pending(state, counts, lacking) {
        let predecessor = counts.predecessors.get(&index).and_then(|at| state.pods.get(*at));
        let left = predecessor.map_or(Duration::ZERO, |pod| backoff::of_index(pod, now));
        if left.is_zero() {
            let failures = rules.per_index().map(|_| inherited(state, predecessor));
            seats.push(Seat { index, failures });
        } else {
            soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
        }
    }
    if let Some(left) = soonest {
        plan.wait = Some(plan.wait.map_or(left, |wait| wait.min(left)));
    }
    if !seats.is_empty() {
        plan.work = Work::CreateAt(seats);
    }
}

fn removal(doomed: Vec<usize>) -> Work {
    if doomed.is_empty() { Work::Nothing } else { Work::Remove(doomed) }
}

/// The first indexes that have no pod and need one.
fn pending(state: &State<'_>, counts: &Counts, count: usize) -> Vec<u32> {
    let only_ended = state.rules.replaces_ended_only;
    let taken = state.pods.iter().filter(|pod| pod.active() || (only_ended && pod.terminating()));
    let mut settled = counts.succeeded_indexes.with(taken.filter_map(|pod| state.index(pod)));
    if let Some(failed) = &counts.failed_indexes {
        settled = settled.and(failed);
    }
    settled.missing(count, state.rules.indexes())
}

/// What a new pod has to remember of the one before it.
fn inherited(state: &State<'_>, predecessor: Option<&JobPod>) -> Failures {
    let Some(pod) = predecessor else { return Failures { counted: 0, ignored: 0 } };
    let counts = state.action(pod).counts();
    Failures {
        counted: pod.failures.saturating_add(i32::from(counts)),
        ignored: pod.ignored_failures.saturating_add(i32::from(!counts)),
    }
}

/// At least `count` active pods to do without: those whose index another has too or that have none, then the least useful.
fn surplus(state: &State<'_>, count: usize) -> Vec<usize> {
    let place: BTreeMap<&str, usize> =
        state.pods.iter().enumerate().map(|(at, pod)| (pod.uid(), at)).collect();
    let mut left: Vec<&JobPod> = state.pods.iter().filter(|pod| pod.active()).collect();
    sort_for_removal(&mut left);
    let mut doomed = Vec::new();
    if state.rules.indexed {
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        // From the most useful on: it keeps its index.
        for pod in left.iter().rev() {
            match state.index(pod) {
                Some(index) if seen.insert(index) => kept.push(*pod),
                _ => doomed.push(*pod),
            }
        }
        kept.reverse();
        left = kept;
    }
    let more = count.saturating_sub(doomed.len());
    doomed.extend(left.into_iter().take(more));
    doomed.iter().filter_map(|pod| place.get(pod.uid()).copied()).collect()
}

fn places(state: &State<'_>, which: fn(&JobPod) -> bool) -> Vec<usize> {
    state.pods.iter().enumerate().filter(|(_, pod)| which(pod)).map(|(at, _)| at).collect()
}

pub fn length(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
