//! What the spec of a job must say, and what of it may change.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Affinity, Container, PodTemplateSpec};

use super::super::pod;
use super::{policy, status};
use crate::field_error::{Errors, Path};
use crate::validation;

const MODES: &[&str] = &["NonIndexed", "Indexed"];
const PARALLELISM_MAX: i32 = 100_000;
const FAILED_INDEXES_MAX: i32 = 100_000;
/// Above this many completions the other numbers are bounded more tightly.
const COMPLETIONS_SOFT_MAX: i32 = 100_000;
const TIGHT_MAX: i32 = 10_000;
const MANAGED_BY_MAX: usize = 63;

/// What every spec of a job gets, a cron job's too.
pub(in crate::kinds) fn spec_defaults(spec: &mut JobSpec) {
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        pod::defaults::text(&mut pattern.status, "True");
    }
    pod::defaults::template(&mut spec.template);
}

/// Everything but the selector, which cron jobs do not set.
pub(in crate::kinds) fn validate_spec(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = &spec.managed_by {
        let at = path.child("managedBy");
        domain_prefixed(manager, &at, errors);
        if manager.len() > MANAGED_BY_MAX {
            errors.too_long(at, MANAGED_BY_MAX);
        }
    }
    let mode = spec.completion_mode.as_deref().unwrap_or("NonIndexed");
    if !MODES.contains(&mode) {
        errors.not_supported(path.child("completionMode"), mode, MODES);
    }
    if mode == "Indexed" {
        indexed(spec, path, errors);
    }
    if mode == "NonIndexed" {
        for (field, value) in [
            ("backoffLimitPerIndex", spec.backoff_limit_per_index),
            ("maxFailedIndexes", spec.max_failed_indexes),
        ] {
            if let Some(value) = value {
                errors.invalid(path.child(field), value, "requires indexed completion mode");
            }
        }
    }
    if let Some(failure) = &spec.pod_failure_policy {
        policy::failure(failure, spec, &path.child("podFailurePolicy"), errors);
    }
    if let Some(success) = &spec.success_policy {
        let at = path.child("successPolicy");
        if mode == "Indexed" {
            policy::success(success, spec.completions.unwrap_or_default(), &at, errors);
        } else {
            errors.invalid(at, success, "requires indexed completion mode");
        }
    }
    policy::replacement(spec, &path.child("podReplacementPolicy"), errors);
    let template = path.child("template");
    pod::spec::template(&spec.template, &template, errors);
    restart_policy(spec, &template, errors);
}

fn indexed(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.completions.is_none() {
        errors.required(path.child("completions"), "when completion mode is Indexed");
    }
    let most = |field: &str, value: Option<i32>, limit: i32, detail: &str, errors: &mut Errors| {
        if let Some(value) = value.filter(|value| *value > limit) {
            errors.invalid(path.child(field), value, format!("must be less than or equal to {detail}"));
        }
    };
    let detail = format!("{PARALLELISM_MAX} when completion mode is Indexed");
    most("parallelism", spec.parallelism, PARALLELISM_MAX, &detail, errors);
    if let Some(completions) = spec.completions {
        most("maxFailedIndexes", spec.max_failed_indexes, completions, "completions", errors);
    }
    let detail = FAILED_INDEXES_MAX.to_string();
    most("maxFailedIndexes", spec.max_failed_indexes, FAILED_INDEXES_MAX, &detail, errors);
    if spec.completions.is_some_and(|c| c > COMPLETIONS_SOFT_MAX) && spec.backoff_limit_per_index.is_some() {
        if spec.max_failed_indexes.is_none() {
            let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
            errors.required(path.child("maxFailedIndexes"), &detail);
        }
        let detail = format!(
            "{TIGHT_MAX} when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index"
        );
        most("parallelism", spec.parallelism, TIGHT_MAX, &detail, errors);
        most("maxFailedIndexes", spec.max_failed_indexes, TIGHT_MAX, &detail, errors);
    }
}

/// Pods that restart for ever never finish.
fn restart_policy(spec: &JobSpec, template: &Path<'_>, errors: &mut Errors) {
    let path = template.child("spec");
    let path = path.child("restartPolicy");
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or_default();
    match policy {
        "" | "Always" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            errors.invalid(path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(path, other, &["OnFailure", "Never"]),
    }
}

/// `example.com/controller`
fn domain_prefixed(text: &str, path: &Path<'_>, errors: &mut Errors) {
    match text.split_once('/') {
        _ if text.is_empty() => errors.required(path, ""),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.check(path, domain, validation::dns_subdomain);
            let path_like = |b: u8| b.is_ascii_alphanumeric() || b"/:@-._~%!$&'()*+,;=".contains(&b);
            if !rest.bytes().all(path_like) {
                errors.invalid(
                    path,
                    rest,
                    "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
                );
            }
        }
        _ => errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

/// `job` has been validated as such; what follows is about the change.
pub(super) fn validate_update(job: &Job, old: &Job, errors: &mut Errors) {
    let (new, before) = (job.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let path = Path::new("spec");
    let completions = path.child("completions");
    if new.completion_mode.as_deref() != Some("Indexed") {
        errors.immutable(completions, &new.completions, &before.completions);
    } else if let Some(wanted) = new.completions
        && before.completions != Some(wanted)
        && new.parallelism != Some(wanted)
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(completions, wanted, detail);
    }
    errors.immutable(path.child("selector"), &new.selector, &before.selector);
    template(job, old, &path.child("template"), errors);
    errors.immutable(path.child("completionMode"), &new.completion_mode, &before.completion_mode);
    errors.immutable(path.child("podFailurePolicy"), &new.pod_failure_policy, &before.pod_failure_policy);
    errors.immutable(
        path.child("backoffLimitPerIndex"),
        &new.backoff_limit_per_index,
        &before.backoff_limit_per_index,
    );
    errors.immutable(path.child("managedBy"), &new.managed_by, &before.managed_by);
    errors.immutable(path.child("successPolicy"), &new.success_policy, &before.success_policy);
}

/// The template stays, but that a suspended job without pods may be told where they will run and with what.
fn template(job: &Job, old: &Job, path: &Path<'_>, errors: &mut Errors) {
    let template = |job: &Job| job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let (new, mut before) = (template(job), template(old));
    let suspended = old.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    let idle = old.status.as_ref().is_none_or(|s| s.active.unwrap_or_default() == 0);
    let unstarted = old.status.as_ref().is_none_or(|s| s.start_time.is_none());
    if suspended && idle && (unstarted || status::is(old, "Suspended")) {
        take_placement(&mut before, &new);
        take_resources(&mut before, &new);
    }
    errors.immutable(path, &new, &before);
}

fn take_placement(before: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    let (old_meta, new_meta) =
        (before.metadata.get_or_insert_default(), new.metadata.clone().unwrap_or_default());
    old_meta.labels = new_meta.labels;
    old_meta.annotations = new_meta.annotations;
    let (Some(old), Some(new)) = (&mut before.spec, &new.spec) else { return };
    match (&mut old.affinity, &new.affinity) {
        (Some(old_affinity), None) => {
            old_affinity.node_affinity = None;
            if *old_affinity == Affinity::default() {
                old.affinity = None;
            }
        }
        (None, Some(new)) => {
            let node_affinity = new.node_affinity.clone();
            old.affinity = Some(Affinity { node_affinity, ..Affinity::default() });
        }
        (Some(old), Some(new)) => old.node_affinity.clone_from(&new.node_affinity),
        (None, None) => {}
    }
    old.node_selector.clone_from(&new.node_selector);
    old.tolerations.clone_from(&new.tolerations);
    old.scheduling_gates.clone_from(&new.scheduling_gates);
}

fn take_resources(before: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    let (Some(old), Some(new)) = (&mut before.spec, &new.spec) else { return };
    let take = |old: &mut [Container], new: &[Container]| {
        if old.len() != new.len() {
            return;
        }
        for (old, new) in old.iter_mut().zip(new).filter(|(old, new)| old.name == new.name) {
            old.resources.clone_from(&new.resources);
        }
    };
    take(&mut old.containers, &new.containers);
    if let (Some(old), Some(new)) = (&mut old.init_containers, &new.init_containers) {
        take(old, new);
    }
}

pub(in crate::kinds) fn warnings(spec: &JobSpec, path: &str, old: Option<&JobSpec>) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.completion_mode.as_deref() == Some("Indexed")
        && spec.completions.is_some_and(|c| c > COMPLETIONS_SOFT_MAX)
        && spec.parallelism.is_some_and(|p| p > TIGHT_MAX)
    {
        warnings.push(format!("{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    let old = old.map(|old| &old.template);
    warnings.extend(pod::warnings::of_template(&spec.template, &format!("{path}.template"), old));
    warnings
}
