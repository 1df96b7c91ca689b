//! The conditions of a job, and what it comes to in the end.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub const COMPLETE: &str = "Complete";
pub const FAILED: &str = "Failed";
/// It will fail, once its pods have ended.
pub const FAILURE_TARGET: &str = "FailureTarget";
/// It will be complete, once its pods have ended.
pub const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub const SUSPENDED: &str = "Suspended";

/// How a job ends, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub success: bool,
    pub reason: String,
    pub message: String,
}

impl Verdict {
    pub fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.into(), message: message.into() }
    }

    pub fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.into(), message: message.into() }
    }

    /// The one that the status has announced already.
    pub fn announced(status: &JobStatus) -> Option<Self> {
        let of = |condition: &JobCondition| Self {
            success: condition.type_ == SUCCESS_CRITERIA_MET,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        };
        find(status, SUCCESS_CRITERIA_MET)
            .or_else(|| find(status, FAILURE_TARGET))
            .filter(|c| c.status == "True")
            .map(of)
    }

    fn announcement(&self) -> &'static str {
        if self.success { SUCCESS_CRITERIA_MET } else { FAILURE_TARGET }
    }

    pub fn condition(&self) -> &'static str {
        if self.success { COMPLETE } else { FAILED }
    }

    /// Whether the status changed.
    pub fn announce(&self, status: &mut JobStatus, now: Timestamp) -> bool {
        if find(status, self.announcement()).is_some_and(|c| c.status == "True") {
            return false;
        }
        set(status, self.announcement(), true, &self.reason, &self.message, now)
    }

    pub fn enact(&self, status: &mut JobStatus, now: Timestamp) {
        set(status, self.condition(), true, &self.reason, &self.message, now);
        if self.success {
            // A clock that was set back must not keep the job from its end: the API takes no end before the start.
            let start = status.start_time.as_ref().map_or(now, |start| start.0);
            status.completion_time = Some(time(now.max(start)));
        }
    }
}

pub fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub fn is_finished(job: &Job) -> bool {
    finish(job).is_some()
}

/// The condition that ended the job.
pub fn finish(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.into_iter().find(|c| c.status == "True" && (c.type_ == COMPLETE || c.type_ == FAILED))
}

/// Whether the status changed. From nothing to false is no change.
pub fn set(
    status: &mut JobStatus,
    kind: &str,
    on: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let value = if on { "True" } else { "False" };
    let next = JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.to_owned()).filter(|r| !r.is_empty()),
        message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    };
    match status.conditions.iter_mut().flatten().find(|c| c.type_ == kind) {
        Some(old) if old.status == value && old.reason == next.reason && old.message == next.message => false,
        Some(old) => {
            *old = next;
            true
        }
        None if on => {
            status.conditions.get_or_insert_default().push(next);
            true
        }
        None => false,
    }
}

/// What the API keeps of a time: whole seconds.
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_does_not_end_before_it_started() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (start, now, end) in [(Some(100), 200, 200), (Some(200), 100, 200), (None, 100, 100)] {
            let mut status =
                JobStatus { start_time: start.map(|start| time(at(start))), ..JobStatus::default() };
            let verdict = Verdict::success("CompletionsReached", "");
            verdict.enact(&mut status, at(now));
            assert_eq!(status.completion_time, Some(time(at(end))), "{start:?} {now}");
        }
    }
}
