//! When a pod's failure counts, when a job has succeeded, and which indexes of pods are meant.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};

use crate::field_error::{Errors, Path};
use crate::validation;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const REPLACEMENTS: &[&str] = &["Failed", "TerminatingOrFailed"];
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

/// One of a list; what is missing is told what it could be, as Go writes a list.
fn one_of(value: &str, known: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        let quoted: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        errors.required(path, &format!("valid values: [{}]", quoted.join(" ")));
    } else if !known.contains(&value) {
        errors.not_supported(path, value, known);
    }
}

pub(super) fn failure(policy: &PodFailurePolicy, spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("rules");
    if policy.rules.len() > RULES_MAX {
        errors.too_many(path, policy.rules.len(), RULES_MAX);
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        self::rule(rule, spec, &path.index(i), errors);
    }
}

fn rule(rule: &PodFailurePolicyRule, spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let action = path.child("action");
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        errors.invalid(action, &rule.action, "requires the backoffLimitPerIndex to be set");
    }
    one_of(&rule.action, ACTIONS, &action, errors);
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(codes, spec, &path.child("onExitCodes"), errors);
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    conditions(patterns, &path.child("onPodConditions"), errors);
    match (rule.on_exit_codes.is_some(), !patterns.is_empty()) {
        (true, true) => {
            errors.invalid_hidden(path, "specifying both OnExitCodes and OnPodConditions is not supported")
        }
        (false, false) => {
            errors.invalid_hidden(path, "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
}

fn conditions(patterns: &[PodFailurePolicyOnPodConditionsPattern], path: &Path<'_>, errors: &mut Errors) {
    if patterns.len() > PATTERNS_MAX {
        errors.too_many(path, patterns.len(), PATTERNS_MAX);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let at = path.index(i);
        errors.check(at.child("type"), &pattern.type_, validation::qualified_name);
        one_of(pattern.status.as_deref().unwrap_or_default(), STATUSES, &at.child("status"), errors);
    }
}

fn exit_codes(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    spec: &JobSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    one_of(&codes.operator, OPERATORS, &path.child("operator"), errors);
    let pods = spec.template.spec.as_ref();
    let containers =
        pods.into_iter().flat_map(|p| p.containers.iter().chain(p.init_containers.iter().flatten()));
    let names: BTreeSet<&str> = containers.map(|c| c.name.as_str()).collect();
    if let Some(name) = codes.container_name.as_deref().filter(|name| !names.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(path.child("containerName"), name, detail);
    }
    let values = path.child("values");
    if codes.values.is_empty() {
        errors.invalid(values, &codes.values, "at least one value is required");
    } else if codes.values.len() > EXIT_CODES_MAX {
        errors.too_many(values, codes.values.len(), EXIT_CODES_MAX);
    }
    let mut seen = BTreeSet::new();
    for (i, value) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *value == 0 {
            errors.invalid(values.index(i), value, "must not be 0 for the In operator");
        }
        if !seen.insert(value) {
            errors.duplicate(values.index(i), value);
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(values, &codes.values, "must be ordered");
    }
}

pub(super) fn success(policy: &SuccessPolicy, completions: i32, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("rules");
    if policy.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(path, detail);
    }
    if policy.rules.len() > RULES_MAX {
        errors.too_many(path, policy.rules.len(), RULES_MAX);
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        success_rule(rule, completions, &path.index(i), errors);
    }
}

fn success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path<'_>, errors: &mut Errors) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut named = 0;
    if let Some(indexes) = &rule.succeeded_indexes {
        let at = path.child("succeededIndexes");
        if indexes.len() > INDEXES_BYTES_MAX {
            errors.too_long(at, INDEXES_BYTES_MAX);
        }
        match self::indexes(indexes, completions) {
            Ok(ranges) => named = ranges.iter().map(|(first, last)| last - first + 1).sum(),
            Err(error) => {
                errors.invalid(at, indexes, format!("error parsing succeededIndexes: {error}"));
            }
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    let at = path.child("succeededCount");
    validation::non_negative(at, count, errors);
    let most = "must be less than or equal to";
    if count > completions {
        let detail = format!("{most} {completions} (the number of specified completions)");
        errors.invalid(at, count, detail);
    }
    if rule.succeeded_indexes.is_some() && count > named {
        let detail =
            format!("{most} {named} (the number of indexes in the specified succeededIndexes field)");
        errors.invalid(at, count, detail);
    }
}

pub(super) fn replacement(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(policy) = &spec.pod_replacement_policy else { return };
    let known = if spec.pod_failure_policy.is_some() { &REPLACEMENTS[..1] } else { REPLACEMENTS };
    if !known.contains(&policy.as_str()) {
        errors.not_supported(path, policy, known);
    }
}

/// `0,2-4`: the intervals, which grow and stay below the number of completions.
pub(super) fn indexes(text: &str, completions: i32) -> Result<Vec<(i32, i32)>, String> {
    let mut intervals: Vec<(i32, i32)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = intervals.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

pub(super) fn interval(text: &str, completions: i32) -> Result<(i32, i32), String> {
    let number = |text: &str| -> Result<i32, String> {
        let fault = || format!("cannot convert string to integer for index: {text:?}");
        let number = text.parse::<i64>().map_err(|_| fault())?;
        match i32::try_from(number) {
            Ok(number) if number < completions => Ok(number),
            _ => Err(format!("too large index: {text:?}")),
        }
    };
    match text.split('-').collect::<Vec<_>>().as_slice() {
        [one] => number(one).map(|n| (n, n)),
        [first, last] => {
            let (first, last) = (number(first)?, number(last)?);
            if first >= last {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// The first index that both name; what does not parse names none.
pub(super) fn overlap(one: &str, other: &str, completions: i32) -> Option<i32> {
    let ranges = |text: &str| -> Vec<(i32, i32)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let others = ranges(other);
    ranges(one).into_iter().find_map(|(first, last)| {
        let both = others.iter().find(|(from, to)| first <= *to && *from <= last);
        both.map(|(from, _)| first.max(*from))
    })
}
