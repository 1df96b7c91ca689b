//! Decides what a cron job needs: which job to start, which old ones to delete, what its status says.

use std::collections::HashSet;
use std::time::Duration;

use coracle_client::cron::{self, Schedule};
use coracle_client::events::EventType;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::cronjob::times::Times;
use crate::job::condition;

/// What there is to tell.
pub type Event = (EventType, &'static str, String);

#[derive(Debug, Default)]
pub struct Plan {
    pub status: CronJobStatus,
    pub events: Vec<Event>,
    /// Finished jobs beyond the history's limits, oldest first: names and uids.
    pub expired: Vec<(String, String)>,
    pub start: Option<Start>,
    /// Look again after this long.
    pub wait: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub name: String,
    pub at: Timestamp,
    /// Jobs that it takes the place of.
    pub replaces: Vec<ObjectReference>,
}

/// `jobs`: those the cron job controls. `missing`: uids of active jobs that the API does not have.
pub fn plan(cron: &CronJob, jobs: &[Job], missing: &HashSet<String>, now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    follow(jobs, missing, &mut plan);
    plan.expired = expired(cron, jobs);
    let expired: HashSet<&str> = plan.expired.iter().map(|(_, uid)| uid.as_str()).collect();
    let status = &mut plan.status;
    if let Some(active) = &mut status.active {
        active.retain(|job| job.uid.as_deref().is_none_or(|uid| !expired.contains(uid)));
    }
    if cron.metadata.deletion_timestamp.is_none() {
        schedule(cron, &mut plan, now);
    }
    plan.status.active = plan.status.active.take().filter(|active| !active.is_empty());
    plan
}

fn uid(job: &Job) -> &str {
    job.metadata.uid.as_deref().unwrap_or_default()
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

/// What has become of the jobs that were started.
fn follow(jobs: &[Job], missing: &HashSet<String>, plan: &mut Plan) {
    let status = &mut plan.status;
    let active = status.active.get_or_insert_default();
    for job in jobs {
        let known = active.iter().any(|active| active.uid.as_deref() == Some(uid(job)));
        let finish = condition::finish(job);
        match finish {
            None if !known => {
                let message =
                    format!("Saw a job that the controller did not create or forgot: {}", name(job));
                plan.events.push((EventType::Warning, "UnexpectedJob", message));
            }
            Some(finish) if known => {
                active.retain(|active| active.uid.as_deref() != Some(uid(job)));
                let message = format!("Saw completed job: {}, condition: {}", name(job), finish.type_);
                plan.events.push((EventType::Normal, "SawCompletedJob", message));
            }
            _ => {}
        }
        if finish.is_some_and(|finish| finish.type_ == condition::COMPLETE) {
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            status.last_successful_time = status.last_successful_time.take().max(completed);
        }
    }
    active.retain(|active| {
        let gone = active.uid.as_ref().is_some_and(|uid| missing.contains(uid));
        if gone {
            let message = format!("Active job went missing: {}", active.name.as_deref().unwrap_or_default());
            plan.events.push((EventType::Normal, "MissingJob", message));
        }
        !gone
    });
}

fn expired(cron: &CronJob, jobs: &[Job]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (kind, limit) in [
        (condition::COMPLETE, cron.spec.successful_jobs_history_limit),
        (condition::FAILED, cron.spec.failed_jobs_history_limit),
    ] {
        let ended = |job: &&Job| condition::finish(job).is_some_and(|finish| finish.type_ == kind);
        let mut ended: Vec<&Job> = jobs.iter().filter(ended).collect();
        let started = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.clone());
        // One that never started comes last.
        ended.sort_by_key(|job| (started(job).is_none(), started(job), name(job).to_owned()));
        let keep = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let surplus = ended.len().saturating_sub(keep);
        let going = ended.into_iter().take(surplus).filter(|job| job.metadata.deletion_timestamp.is_none());
        all.extend(going.map(|job| (name(job).to_owned(), uid(job).to_owned())));
    }
    all
}

/// The zone and the schedule, as far as they are valid; tells what is not.
fn clock(cron: &CronJob, events: &mut Vec<Event>) -> Option<(TimeZone, Schedule)> {
    let named = cron.spec.time_zone.as_deref().unwrap_or_default();
    let Some(zone) = cron::zone(named) else {
        let message = format!("invalid timeZone: {named:?}: unknown time zone {named}");
        events.push((EventType::Warning, "UnknownTimeZone", message));
        return None;
    };
    if cron.spec.suspend == Some(true) {
        return None;
    }
    let text = &cron.spec.schedule;
    if text.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
        );
        events.push((EventType::Warning, "UnsupportedSchedule", message));
    }
    match Schedule::parse(text) {
        Ok(schedule) => Some((zone, schedule)),
        Err(error) => {
            let message = format!("unparseable schedule: {text:?} : {error}");
            events.push((EventType::Warning, "UnparseableSchedule", message));
            None
        }
    }
}

fn since(cron: &CronJob, status: &CronJobStatus) -> Timestamp {
    let last = status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
    last.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// How long until the next time, after whatever was started.
pub fn wait(cron: &CronJob, status: &CronJobStatus, now: Timestamp) -> Option<Duration> {
    let (zone, schedule) = clock(cron, &mut Vec::new())?;
    let since = since(cron, status);
    Times { schedule: &schedule, zone: &zone, since, deadline_seconds: None }.wait(now)
}

fn schedule(cron: &CronJob, plan: &mut Plan, now: Timestamp) {
    let Some((zone, schedule)) = clock(cron, &mut plan.events) else { return };
    let deadline_seconds = cron.spec.starting_deadline_seconds;
    let times =
        Times { schedule: &schedule, zone: &zone, since: since(cron, &plan.status), deadline_seconds };
    let due = match times.due(now) {
        Ok(due) => due,
        Err(error) => {
            let message = format!("invalid schedule: {} : {error}", cron.spec.schedule);
            plan.events.push((EventType::Warning, "InvalidSchedule", message));
            return;
        }
    };
    plan.wait = times.wait(now);
    let Some(due) = due else { return };
    if due.too_many_missed {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push((EventType::Warning, "TooManyMissedTimes", message.into()));
    }
    let late = Duration::try_from(now.duration_since(due.at)).unwrap_or(Duration::ZERO);
    if deadline_seconds.is_some_and(|limit| late > Duration::from_secs(u64::try_from(limit).unwrap_or(0))) {
        let message = format!(
            "Missed scheduled time to start a job: {}",
            due.at.strftime("%a, %d %b %Y %H:%M:%S +0000")
        );
        plan.events.push((EventType::Warning, "MissSchedule", message));
        return;
    }
    let active = plan.status.active.as_deref().unwrap_or_default();
    let name = job_name(cron, due.at);
    let done = plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due.at);
    if done || active.iter().any(|job| job.name.as_deref() == Some(&name)) {
        return;
    }
    let policy = cron.spec.concurrency_policy.as_deref();
    if policy == Some("Forbid") && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.events.push((EventType::Normal, "JobAlreadyActive", message.into()));
        return;
    }
    let replaces = if policy == Some("Replace") { active.to_vec() } else { Vec::new() };
    plan.start = Some(Start { name, at: due.at, replaces });
}

/// The same time gives the same name, so that none is started twice.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), at.as_second() / 60)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-05-19T{text}Z").parse().unwrap()
    }

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut whole = json!({"schedule": "0 * * * *", "jobTemplate": {}, "concurrencyPolicy": "Allow"});
        for (field, given) in spec.as_object().unwrap() {
            whole[field] = given.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "cu",
            "creationTimestamp": at("08:30:00")}, "spec": whole, "status": status}))
        .unwrap()
    }

    /// `condition` empty: it runs.
    fn job(name: &str, condition: &str, started: &str, completed: Option<&str>) -> Job {
        let conditions =
            if condition.is_empty() { json!([]) } else { json!([{"type": condition, "status": "True"}]) };
        serde_json::from_value(
            json!({"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions,
            "startTime": at(started), "completionTime": completed.map(at)}}),
        )
        .unwrap()
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.events.iter().map(|(_, reason, _)| *reason).collect()
    }

    fn active(names: &[&str]) -> Value {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "uid": name})).collect();
        json!({"active": list, "lastScheduleTime": at("09:00:00")})
    }

    #[test]
    fn jobs_are_started_when_they_are_due() {
        let ten = at("10:00:00").as_second() / 60;
        let started = format!("c-{ten}");
        type Row<'a> = (&'a str, Value, Value, &'a str, bool, Vec<&'a str>, usize);
        let rows: Vec<Row<'_>> = vec![
            ("not yet", json!({}), json!({"lastScheduleTime": at("10:00:00")}), "10:30:00", false, vec![], 0),
            ("due", json!({}), json!({"lastScheduleTime": at("09:00:00")}), "10:00:01", true, vec![], 0),
            ("first", json!({}), json!({}), "10:00:00", true, vec![], 0),
            ("suspended", json!({"suspend": true}), json!({}), "10:00:01", false, vec![], 0),
            (
                "within the deadline",
                json!({"startingDeadlineSeconds": 60}),
                json!({}),
                "10:00:59",
                true,
                vec![],
                0,
            ),
            ("after it", json!({"startingDeadlineSeconds": 60}), json!({}), "10:02:00", false, vec![], 0),
            ("allow", json!({}), active(&["x"]), "10:00:01", true, vec![], 0),
            (
                "forbid",
                json!({"concurrencyPolicy": "Forbid"}),
                active(&["x"]),
                "10:00:01",
                false,
                vec!["JobAlreadyActive"],
                0,
            ),
            (
                "forbid, none runs",
                json!({"concurrencyPolicy": "Forbid"}),
                active(&[]),
                "10:00:01",
                true,
                vec![],
                0,
            ),
            (
                "replace",
                json!({"concurrencyPolicy": "Replace"}),
                active(&["x", "y"]),
                "10:00:01",
                true,
                vec![],
                2,
            ),
            ("started already", json!({}), active(&[&started]), "10:00:01", false, vec![], 0),
            (
                "bad zone",
                json!({"timeZone": "Moon/Base"}),
                json!({}),
                "10:00:01",
                false,
                vec!["UnknownTimeZone"],
                0,
            ),
            (
                "bad schedule",
                json!({"schedule": "x"}),
                json!({}),
                "10:00:01",
                false,
                vec!["UnparseableSchedule"],
                0,
            ),
            (
                "zone in it",
                json!({"schedule": "TZ=UTC 0 * * * *"}),
                json!({}),
                "10:00:01",
                true,
                vec!["UnsupportedSchedule"],
                0,
            ),
            (
                "long away",
                json!({"schedule": "* * * * *"}),
                json!({"lastScheduleTime": at("07:00:00")}),
                "10:00:01",
                true,
                vec!["TooManyMissedTimes"],
                0,
            ),
        ];
        for (what, spec, status, now, starts, told, replaced) in rows {
            let jobs: Vec<Job> = ["x", "y", &started]
                .into_iter()
                .filter(|name| status["active"].to_string().contains(&format!("\"{name}\"")))
                .map(|name| job(name, "", "09:00:00", None))
                .collect();
            let plan = plan(&cron(spec, status), &jobs, &HashSet::new(), at(now));
            assert_eq!(plan.start.is_some(), starts, "{what}");
            assert_eq!(reasons(&plan), told, "{what}");
            if let Some(start) = plan.start {
                assert_eq!((start.name.as_str(), start.at), (started.as_str(), at("10:00:00")), "{what}");
                assert_eq!(start.replaces.len(), replaced, "{what}");
            }
        }
    }

    #[test]
    fn zones_say_when() {
        let cron = cron(json!({"schedule": "0 12 * * *", "timeZone": "Europe/Zurich"}), json!({}));
        let plan = plan(&cron, &[], &HashSet::new(), at("10:00:01"));
        assert_eq!(plan.start.map(|start| start.at), Some(at("10:00:00")));
    }

    #[test]
    fn jobs_are_followed_to_their_end() {
        let jobs = [
            job("done", "Complete", "09:00:00", Some("09:10:00")),
            job("failed", "Failed", "09:00:00", None),
            job("runs", "", "09:00:00", None),
            job("strange", "", "09:00:00", None),
        ];
        let cron = cron(json!({"suspend": true}), active(&["done", "failed", "runs", "gone"]));
        let plan = plan(&cron, &jobs, &HashSet::from(["gone".to_owned()]), at("09:30:00"));
        let left: Vec<_> =
            plan.status.active.iter().flatten().filter_map(|job| job.name.as_deref()).collect();
        assert_eq!(left, ["runs"]);
        assert_eq!(plan.status.last_successful_time.as_ref().map(|t| t.0), Some(at("09:10:00")));
        assert_eq!(reasons(&plan), ["SawCompletedJob", "SawCompletedJob", "UnexpectedJob", "MissingJob"]);
        assert_eq!(plan.events[0].2, "Saw completed job: done, condition: Complete");
    }

    #[test]
    fn history_has_its_limits() {
        let jobs = [
            job("s3", "Complete", "09:03:00", None),
            job("s1", "Complete", "09:01:00", None),
            job("s2", "Complete", "09:02:00", None),
            job("f2", "Failed", "09:05:00", None),
            job("f1", "Failed", "09:04:00", None),
            job("r", "", "09:00:00", None),
        ];
        for (success, failure, want) in [
            (json!(3), json!(1), vec!["f1"]),
            (json!(1), json!(2), vec!["s1", "s2"]),
            (json!(0), json!(0), vec!["s1", "s2", "s3", "f1", "f2"]),
            (json!(null), json!(null), vec![]),
        ] {
            let spec = json!({"successfulJobsHistoryLimit": success, "failedJobsHistoryLimit": failure, "suspend": true});
            let plan = plan(&cron(spec, json!({})), &jobs, &HashSet::new(), at("09:30:00"));
            let names: Vec<&str> = plan.expired.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, want, "{success} {failure}");
        }
    }
}
