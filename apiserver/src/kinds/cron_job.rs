//! CronJob: jobs made by the clock.

use coracle_client::cron::{self, Schedule};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus};
use serde_json::{Value, json};

use super::{BuiltIn, Column, job, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// Jobs are named after it and the time, within the length of a label.
const NAME_MAX: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

impl BuiltIn for CronJob {
    const SINGULAR: &'static str = "cronjob";
    const SHORT_NAMES: &'static [&'static str] = &["cj"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        pod::defaults::text(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        spec.job_template.metadata.get_or_insert_default();
        job::spec_defaults(spec.job_template.spec.get_or_insert_default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(CronJobStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &self.spec;
        let at = path.child("schedule");
        if spec.schedule.is_empty() {
            errors.required(at, "");
        } else if let Err(detail) = Schedule::parse(&spec.schedule) {
            errors.invalid(at, &spec.schedule, detail);
        }
        let seconds = spec.starting_deadline_seconds.unwrap_or_default();
        validation::non_negative(path.child("startingDeadlineSeconds"), seconds, errors);
        errors.one_of(path.child("concurrencyPolicy"), spec.concurrency_policy.as_deref(), POLICIES);
        let template = spec.job_template.spec.clone().unwrap_or_default();
        let at = path.child("jobTemplate");
        let at = at.child("spec");
        job::validate_spec(&template, &at, errors);
        if let Some(selector) = &template.selector {
            errors.invalid(at.child("selector"), selector, "`selector` will be auto-generated");
        }
        if template.manual_selector == Some(true) {
            errors.not_supported_value(at.child("manualSelector"), true, &["nil", "false"]);
        }
        for (field, value) in [
            ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
            ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
        ] {
            validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        if names_zone(&self.spec.schedule) {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid("spec.schedule", &self.spec.schedule, detail);
        }
        time_zone(self.spec.time_zone.as_deref(), errors);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_MAX {
            let detail = format!("must be no more than {NAME_MAX} characters");
            errors.invalid("metadata.name", name, detail);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let spec = &self.spec;
        if names_zone(&spec.schedule) {
            let detail = match (names_zone(&old.spec.schedule), spec.time_zone.is_some()) {
                (true, true) => Some("cannot use both timeZone field and TZ or CRON_TZ in schedule"),
                (true, false) => None,
                (false, _) => Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            };
            if let Some(detail) = detail {
                errors.invalid("spec.schedule", &spec.schedule, detail);
            }
        }
        if spec.time_zone != old.spec.time_zone {
            time_zone(spec.time_zone.as_deref(), errors);
        }
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.job_template.spec.clone().unwrap_or_default();
        let mut all = Vec::new();
        if old.is_none() {
            all.extend(pod::warnings::of_name(self.metadata.name.as_deref().unwrap_or_default()));
        }
        if old.is_none_or(|old| old.metadata.generation != self.metadata.generation) {
            let before = old.and_then(|old| old.spec.job_template.spec.as_ref());
            all.extend(job::warnings(&template, "spec.jobTemplate.spec", before));
        }
        if old.is_some() && names_zone(&self.spec.schedule) {
            all.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".into());
        }
        all
    }

    fn columns() -> Vec<Column> {
        workload::columns(&[
            table::narrow("Schedule", "string", "When jobs are made."),
            table::narrow("Timezone", "string", "Whose clock is meant."),
            table::narrow("Suspend", "boolean", "Whether none are made for the time being."),
            table::narrow("Active", "integer", "How many jobs are running."),
            table::narrow("Last Schedule", "string", "How long ago the last one was made."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let spec = &self.spec;
        let suspend = match spec.suspend {
            None => "<unset>",
            Some(true) => "True",
            Some(false) => "False",
        };
        let last = status.last_schedule_time.map(|time| table::since(Some(time.0), now));
        let job = spec.job_template.spec.as_ref();
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(spec.schedule),
                json!(table::or_none(spec.time_zone.as_deref())),
                json!(suspend),
                json!(status.active.unwrap_or_default().len()),
                json!(last.unwrap_or_else(|| "<none>".into())),
            ],
            workload::wide_cells(
                job.map(|job| &job.template),
                table::selector(job.and_then(|job| job.selector.as_ref())),
            ),
        )
    }
}

fn names_zone(schedule: &str) -> bool {
    schedule.contains("TZ")
}

fn time_zone(zone: Option<&str>, errors: &mut Errors) {
    let Some(zone) = zone else { return };
    let at = "spec.timeZone";
    if zone.is_empty() {
        return errors.invalid(at, zone, "timeZone must be nil or non-empty string");
    }
    let part_fine = |part: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(fine)
    };
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(part_fine) {
        return errors.invalid(at, zone, unknown);
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(at, zone, detail);
        if zone == "Local" {
            return;
        }
    }
    if cron::zone(zone).is_none() {
        errors.invalid(at, zone, unknown);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn cron_job() -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template":
            {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}}}})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut job = cron_job();
        job["spec"][field] = value;
        job
    }

    fn in_job(field: &str, value: Value) -> Value {
        let mut job = cron_job();
        job["spec"]["jobTemplate"]["spec"][field] = value;
        job
    }

    #[test]
    fn one_bad_cron_job_per_rule() {
        testing::valid::<CronJob>(&[cron_job(), with("schedule", json!("@hourly"))]);
        testing::invalid::<CronJob>(&[
            (with("schedule", json!("")), "spec.schedule", "Required value"),
            (
                with("schedule", json!("x")),
                "spec.schedule",
                "Invalid value: \"x\": expected exactly 5 fields, found 1: [x]",
            ),
            (
                with("startingDeadlineSeconds", json!(-1)),
                "spec.startingDeadlineSeconds",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                with("concurrencyPolicy", json!("X")),
                "spec.concurrencyPolicy",
                "Unsupported value: \"X\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                with("failedJobsHistoryLimit", json!(-1)),
                "spec.failedJobsHistoryLimit",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                in_job("selector", json!({"matchLabels": {"a": "b"}})),
                "spec.jobTemplate.spec.selector",
                "Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
            ),
            (
                in_job("manualSelector", json!(true)),
                "spec.jobTemplate.spec.manualSelector",
                "Unsupported value: true: supported values: \"nil\", \"false\"",
            ),
            (
                in_job("backoffLimit", json!(-1)),
                "spec.jobTemplate.spec.backoffLimit",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
        ]);
    }

    #[test]
    fn new_ones_name_zones_in_their_field() {
        let found = |job: Value| -> Vec<String> {
            let mut errors = Errors::default();
            defaulted::<CronJob>(job).validate_create(&mut errors);
            errors.into_causes().into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
        };
        let mut long = cron_job();
        long["metadata"]["name"] = json!("x".repeat(53));
        for (job, want) in [
            (with("timeZone", json!("Europe/Zurich")), None),
            (with("timeZone", json!("")), Some("spec.timeZone: Invalid value: \"\": timeZone must be nil")),
            (
                with("timeZone", json!("Moon/Base")),
                Some("spec.timeZone: Invalid value: \"Moon/Base\": unknown time zone"),
            ),
            (
                with("timeZone", json!("../x")),
                Some("spec.timeZone: Invalid value: \"../x\": unknown time zone ../x"),
            ),
            (
                with("timeZone", json!("Local")),
                Some("spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit"),
            ),
            (
                with("schedule", json!("TZ=UTC * * * * *")),
                Some("spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ"),
            ),
            (long, Some("metadata.name: Invalid value: ")),
        ] {
            let found = found(job);
            match want {
                None => assert_eq!(found, [""; 0]),
                Some(want) => assert!(found[0].starts_with(want), "{found:?}"),
            }
        }
    }

    #[test]
    fn old_ones_may_keep_theirs() {
        let old = with("schedule", json!("TZ=UTC * * * * *"));
        let mut both = old.clone();
        both["spec"]["timeZone"] = json!("UTC");
        testing::updates::<CronJob>(&[
            (old.clone(), old.clone(), "", ""),
            (old, both, "spec.schedule", "Invalid value: \"TZ=UTC * * * * *\": cannot use both"),
            (
                cron_job(),
                with("schedule", json!("TZ=UTC * * * * *")),
                "spec.schedule",
                "Invalid value: \"TZ=UTC * * * * *\": cannot use TZ",
            ),
        ]);
    }

    #[test]
    fn columns() {
        let mut job = cron_job();
        job["status"] = json!({"lastScheduleTime": "2026-01-01T11:00:00Z", "active": [{}]});
        job["spec"]["suspend"] = json!(false);
        assert_eq!(
            testing::cells::<CronJob>(job),
            ["c", "*/5 * * * *", "<none>", "False", "1", "60m", "<unknown>", "c", "i:1", "<none>"]
        );
    }
}
