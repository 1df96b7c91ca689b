//! Job: pods that run to an end. Its rules also serve the jobs that cron jobs make.

mod policy;
mod spec;
mod status;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

pub(super) use spec::{spec_defaults, validate_spec, warnings};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// What the labels were called before they had a prefix.
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";

impl BuiltIn for Job {
    const SINGULAR: &'static str = "job";
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;
    const ORPHANS_BY_DEFAULT: bool = true;
    const DELETION_WARNING: Option<&'static str> = Some(
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
    );

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if spec.parallelism.is_none() {
            spec.completions.get_or_insert(1);
            spec.parallelism = Some(1);
        }
        let limit = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        spec.backoff_limit.get_or_insert(limit);
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone());
        if self.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) && labels.is_some() {
            self.metadata.labels = labels;
        }
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".into());
        spec.suspend.get_or_insert(false);
        let replaced = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replaced.into());
        spec.manual_selector.get_or_insert(false);
        spec_defaults(spec);
    }

    fn prepare_create(&mut self) {
        self.status = Some(JobStatus::default());
        let (name, uid) = (self.metadata.name.clone(), self.metadata.uid.clone());
        if let Some(spec) = self.spec.as_mut().filter(|spec| spec.manual_selector != Some(true)) {
            generate_selector(spec, name.unwrap_or_default(), uid.unwrap_or_default());
            // Nobody gave it labels, nor its pods: it has theirs, as upstream's defaults make it.
            if self.metadata.labels.as_ref().is_none_or(|own| own.is_empty()) {
                self.metadata.labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        validate_spec(&spec, &path, errors);
        let selector = path.child("selector");
        match &spec.selector {
            None => errors.required(selector, ""),
            Some(labels) => validation::label_selector(labels, &selector, errors),
        }
        matches_template(spec.selector.as_ref(), &spec.template, &path.child("template"), errors);
        // The last pod's host name must be one.
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        if let Some(completions) = spec.completions.filter(|completions| indexed && *completions > 0) {
            let name = self.metadata.name.as_deref().unwrap_or_default();
            let host = format!("{name}-{}", completions - 1);
            if validation::dns_label(&host).is_err() {
                let detail = format!("will not able to create pod with invalid DNS label: {host}");
                errors.invalid("metadata.name", name, detail);
            }
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        generated(self, true, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let before = old.spec.clone().unwrap_or_default();
        let labels = before.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        let labelled =
            labels.is_some_and(|l| [NAME_LABEL, UID_LABEL].iter().all(|label| l.contains_key(*label)));
        generated(self, labelled, errors);
        spec::validate_update(self, old, errors);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        status::validate(self, old, errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let spec = self.spec.clone().unwrap_or_default();
        let mut all = match old {
            None => pod::warnings::of_name(name),
            Some(old) if old.metadata.generation == self.metadata.generation => return Vec::new(),
            Some(_) => Vec::new(),
        };
        all.extend(warnings(&spec, "spec", old.and_then(|old| old.spec.as_ref())));
        all
    }

    fn columns() -> Vec<Column> {
        workload::columns(&[
            table::narrow("Status", "string", "How it fares."),
            table::narrow("Completions", "string", "How many pods succeeded, of how many that have to."),
            table::narrow("Duration", "string", "How long it took, or has taken so far."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let succeeded = status.succeeded.unwrap_or_default();
        let completions = match (spec.completions, spec.parallelism.unwrap_or_default()) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = status.start_time.as_ref().map(|start| {
            let end = status.completion_time.as_ref().map_or(now, |end| end.0);
            table::since(Some(start.0), end)
        });
        table::wide_cells(
            &self.metadata,
            now,
            vec![json!(state(self)), json!(completions), json!(duration.unwrap_or_default())],
            workload::wide_cells(Some(&spec.template), table::selector(spec.selector.as_ref())),
        )
    }
}

fn state(job: &Job) -> &'static str {
    let before_deletion = ["Complete", "Failed"];
    let after_deletion = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    let shown = |names: &[&'static str]| names.iter().find(|name| status::is(job, name)).copied();
    let deleting = job.metadata.deletion_timestamp.as_ref().map(|_| "Terminating");
    shown(&before_deletion).or(deleting).or_else(|| shown(&after_deletion)).unwrap_or("Running")
}

/// The pods of a job are known by its name and uid, which nothing else has.
fn generate_selector(spec: &mut JobSpec, name: String, uid: String) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (label, value) in
        [(OLD_NAME_LABEL, &name), (NAME_LABEL, &name), (OLD_UID_LABEL, &uid), (UID_LABEL, &uid)]
    {
        labels.entry(label.into()).or_insert_with(|| value.clone());
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(UID_LABEL.into()).or_insert(uid);
}

/// What was generated is there, and the client did not put something else in its place.
fn generated(job: &Job, prefixed: bool, errors: &mut Errors) {
    let spec = job.spec.clone().unwrap_or_default();
    let Some(selector) = spec.selector.filter(|_| spec.manual_selector != Some(true)) else { return };
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    if uid.is_empty() {
        errors.required("metadata.uid", "");
    }
    let mut expected = vec![(OLD_UID_LABEL, &uid), (OLD_NAME_LABEL, &name)];
    if prefixed {
        expected.extend([(UID_LABEL, &uid), (NAME_LABEL, &name)]);
    }
    let labels = spec.template.metadata.and_then(|m| m.labels).unwrap_or_default();
    let path = "spec.template.metadata.labels";
    for (label, value) in &expected {
        match labels.get(*label) {
            None => errors.required(format!("{path}[{label}]"), &format!("must be '{value}'")),
            Some(found) if found != *value => {
                errors.invalid(format!("{path}[{label}]"), &labels, format!("must be '{value}'"));
            }
            Some(_) => {}
        }
    }
    let expected = expected.into_iter().map(|(label, value)| (label.to_owned(), value.clone())).collect();
    if !selects(&selector, &expected) {
        errors.invalid("spec.selector", &selector, "`selector` not auto-generated");
    }
}

fn selects(selector: &LabelSelector, labels: &std::collections::BTreeMap<String, String>) -> bool {
    coracle_client::selector::Selector::from_label_selector(Some(selector)).is_ok_and(|s| s.matches(labels))
}

fn matches_template(
    selector: Option<&LabelSelector>,
    template: &PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if !selector.is_some_and(|selector| selects(selector, &labels)) {
        let shown = Some(&labels).filter(|labels| !labels.is_empty());
        errors.invalid(
            path.child("metadata").child("labels"),
            shown,
            "`selector` does not match template `labels`",
        );
    }
}

#[cfg(test)]
mod tests;
