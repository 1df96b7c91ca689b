//! What the status of a job may become: a finished job stays finished, and what it counts agrees.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, JobStatus};

use super::policy;
use crate::field_error::{Errors, Path};
use crate::validation;

/// Whether a condition is true.
pub(super) fn is(job: &Job, condition: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == condition && c.status == "True")
}

fn finished(job: &Job) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

/// Upstream holds most rules against what an update changes only, so that an older fault does not block it.
pub(super) fn validate(job: &Job, old: &Job, errors: &mut Errors) {
    let status = job.status.clone().unwrap_or_default();
    let before = old.status.clone().unwrap_or_default();
    counts(&status, errors);
    conditions(job, old, &status, &before, errors);
    ends(job, old, &status, &before, errors);
    indexes(job, &status, &before, errors);
    never_back(job, old, &status, &before, errors);
}

fn counts(status: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    for (field, value) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
    }
    let Some(uncounted) = &status.uncounted_terminated_pods else { return };
    let at = path.child("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for (field, list) in [("succeeded", &uncounted.succeeded), ("failed", &uncounted.failed)] {
        for (i, uid) in list.iter().flatten().enumerate() {
            if uid.is_empty() {
                errors.invalid(at.child(field).index(i), uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(at.child(field).index(i), uid);
            }
        }
    }
}

fn conditions(job: &Job, old: &Job, status: &JobStatus, before: &JobStatus, errors: &mut Errors) {
    let at = "status.conditions";
    let changed = |condition: &str| is(job, condition) != is(old, condition);
    let (complete, failed) = (is(job, "Complete"), is(job, "Failed"));
    let (target, met) = (is(job, "FailureTarget"), is(job, "SuccessCriteriaMet"));
    let failed_indexes = status.failed_indexes != before.failed_indexes;
    let rules = [
        (
            (changed("Complete") || changed("Failed")) && complete && failed,
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            (changed("Complete") || changed("FailureTarget")) && complete && target,
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            (changed("Failed") || failed_indexes) && failed && !target,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            (changed("Complete") || changed("SuccessCriteriaMet")) && complete && !met,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            job.spec.as_ref().is_some_and(|s| s.success_policy.is_some()) && complete && !met,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ];
    for (_, detail) in rules.iter().filter(|(broken, _)| *broken) {
        errors.invalid_hidden(at, detail);
    }
}

fn ends(job: &Job, old: &Job, status: &JobStatus, before: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    let complete = is(job, "Complete");
    let completed = complete != is(old, "Complete") || status.completion_time != before.completion_time;
    match &status.completion_time {
        Some(time) if completed && !complete => {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(path.child("completionTime"), time, detail);
        }
        None if completed && complete => {
            errors.required(path.child("completionTime"), "completionTime is required for Complete jobs");
        }
        _ => {}
    }
    let timed = status.start_time != before.start_time || status.completion_time != before.completion_time;
    if let (true, Some(start), Some(end)) = (timed, &status.start_time, &status.completion_time)
        && end.0 < start.0
    {
        errors.invalid(path.child("completionTime"), end, "must be equal to or after `startTime`");
    }
    let ended = finished(job) != finished(old);
    let active = status.active.unwrap_or_default();
    if finished(job) {
        if (ended || status.active != before.active) && active > 0 {
            errors.invalid(path.child("active"), active, "active>0 is invalid for finished job");
        }
        let spec = job.spec.as_ref();
        let nothing = spec.is_some_and(|s| s.suspend == Some(true) && s.completions == Some(0));
        if (ended || status.start_time != before.start_time) && !nothing && status.start_time.is_none() {
            errors.required(path.child("startTime"), "startTime is required for finished job");
        }
        let uncounted = status.uncounted_terminated_pods.as_ref().filter(|u| {
            u.failed.iter().flatten().next().is_some() || u.succeeded.iter().flatten().next().is_some()
        });
        if let Some(uncounted) = uncounted
            && (ended || status.uncounted_terminated_pods != before.uncounted_terminated_pods)
        {
            errors.invalid(
                path.child("uncountedTerminatedPods"),
                uncounted,
                "must be empty for finished job",
            );
        }
        if let Some(terminating) = status.terminating.filter(|t| *t > 0)
            && (ended || status.terminating != before.terminating)
        {
            errors.invalid(
                path.child("terminating"),
                terminating,
                "terminating>0 is invalid for finished job",
            );
        }
    }
    if let Some(ready) = status.ready.filter(|ready| *ready > active)
        && (status.ready != before.ready || status.active != before.active)
    {
        errors.invalid(path.child("ready"), ready, "cannot set more ready pods than active");
    }
}

fn indexes(job: &Job, status: &JobStatus, before: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    let spec = job.spec.clone().unwrap_or_default();
    let completed = status.completed_indexes.as_deref().unwrap_or_default();
    let completed_changed = completed != before.completed_indexes.as_deref().unwrap_or_default();
    let failed_changed = status.failed_indexes != before.failed_indexes;
    let at = path.child("completedIndexes");
    if completed_changed {
        if let Some(Err(error)) = spec.completions.map(|n| policy::indexes(completed, n)) {
            errors.invalid(at, completed, format!("error parsing completedIndexes: {error}"));
        }
        if !completed.is_empty() && spec.completion_mode.as_deref() != Some("Indexed") {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(at, completed, detail);
        }
    }
    let Some(failed) = &status.failed_indexes else { return };
    let at = path.child("failedIndexes");
    if failed_changed {
        match (spec.completions, spec.backoff_limit_per_index) {
            (_, None) => {
                let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
                errors.invalid(at, failed, detail);
            }
            (Some(completions), Some(_)) => {
                if let Err(error) = policy::indexes(failed, completions) {
                    errors.invalid(at, failed, format!("error parsing failedIndexes: {error}"));
                }
            }
            _ => {}
        }
    }
    if (failed_changed || completed_changed)
        && let Some(index) = spec.completions.and_then(|n| policy::overlap(completed, failed, n))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid(at, failed, detail);
    }
}

fn never_back(job: &Job, old: &Job, status: &JobStatus, before: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is(old, condition) && !is(job, condition) {
            let detail = format!("cannot disable the terminal {condition}=True condition");
            errors.invalid_hidden(path.child("conditions"), &detail);
        }
    }
    let spec = job.spec.clone().unwrap_or_default();
    let elastic = spec.completion_mode.as_deref() == Some("Indexed") && spec.completions == spec.parallelism;
    let (failed, succeeded) = (status.failed.unwrap_or_default(), status.succeeded.unwrap_or_default());
    if failed < before.failed.unwrap_or_default() {
        errors.invalid(path.child("failed"), failed, "cannot decrease the failed counter");
    }
    if !elastic && succeeded < before.succeeded.unwrap_or_default() {
        errors.invalid(path.child("succeeded"), succeeded, "cannot decrease the succeeded counter");
    }
    if let (Some(now), Some(then)) = (&status.completion_time, &before.completion_time)
        && now != then
    {
        errors.invalid(path.child("completionTime"), now, "field is immutable");
    }
    let resumed = is(old, "Suspended")
        && status.conditions.iter().flatten().any(|c| c.type_ == "Suspended" && c.status == "False");
    if before.start_time.is_some()
        && before.start_time != status.start_time
        && spec.suspend != Some(true)
        && !resumed
    {
        let detail = "field is immutable for unsuspended job once set";
        errors.invalid(path.child("startTime"), &status.start_time, detail);
    }
    let met = "SuccessCriteriaMet";
    if is(old, met) && !is(job, met) {
        errors
            .invalid_hidden(path.child("conditions"), "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is(old, "Complete") && !is(old, met) && is(job, met) {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.invalid_hidden(path.child("conditions"), detail);
    }
}
