//! What the kinds that keep pods from a template have in common: the template, its selector, replicas, columns.

use coracle_client::selector::Selector;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{Column, pod};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

pub(super) fn replicas(field: Path<'_>, replicas: Option<i32>, errors: &mut Errors) {
    validation::non_negative(field, replicas.unwrap_or_default(), errors);
}

/// The selector selects something, and the template's pods among it.
pub(super) fn selector_and_template(
    kind: &str,
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    self::selector(kind, selector, &path.child("selector"), errors);
    let at = path.child("template");
    let Some(template) = template else { return errors.required(at, "") };
    matches_template(selector, template, &at, errors);
    pod::spec::template(template, &at, errors);
    restarts_for_ever(kind, template, &at, errors);
}

/// A selector that is there, well formed and not empty.
pub(super) fn selector(kind: &str, selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    if absent(selector) {
        return errors.required(path, "");
    }
    validation::label_selector(selector, path, errors);
    if validation::selects_everything(selector) {
        errors.invalid(path, json!({}), format!("empty selector is invalid for {kind}"));
    }
}

/// The type tells no selector from an empty one; the wire does, by the presence of its members.
pub(super) fn absent(selector: &LabelSelector) -> bool {
    selector.match_labels.is_none() && selector.match_expressions.is_none()
}

/// The template's labels are among what the selector selects. A selector that is not there selects nothing; an empty
/// one, everything.
pub(super) fn matches_template(
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let given = template.metadata.as_ref().and_then(|m| m.labels.clone());
    let labels = given.clone().unwrap_or_default();
    if absent(selector)
        || Selector::from_label_selector(Some(selector))
            .is_ok_and(|s| !s.is_everything() && !s.matches(&labels))
    {
        errors.invalid(
            path.child("metadata").child("labels"),
            &given,
            "`selector` does not match template `labels`",
        );
    }
}

/// Pods that are replaced rather than finished always restart and know no deadline.
pub(super) fn restarts_for_ever(
    kind: &str,
    template: &PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let spec = template.spec.as_ref();
    // An unknown policy has been refused already.
    if let Some(policy) = spec.and_then(|s| s.restart_policy.as_deref())
        && matches!(policy, "OnFailure" | "Never")
    {
        errors.not_supported(path.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if spec.is_some_and(|s| s.active_deadline_seconds.is_some()) {
        errors.forbidden(
            path.child("spec").child("activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

/// An update strategy that is none, as upstream shows it: by the names of its own types.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Strategy<'a> {
    #[serde(rename = "Type")]
    type_: &'a str,
    rolling_update: Option<()>,
}

impl<'a> Strategy<'a> {
    pub(super) fn of(type_: &'a str) -> Self {
        Self { type_, rolling_update: None }
    }
}

/// Counts of a status: none negative, and of those marked, none above the number of replicas.
pub(super) fn status_counts(
    replicas: i32,
    counts: &[(&str, Option<i32>)],
    bounded: &[&str],
    errors: &mut Errors,
) {
    let path = Path::new("status");
    validation::non_negative(path.child("replicas"), replicas, errors);
    for (field, count) in counts {
        validation::non_negative(path.child(field), count.unwrap_or_default(), errors);
    }
    for (field, count) in counts.iter().filter(|(field, _)| bounded.contains(field)) {
        if let Some(count) = count.filter(|count| *count > replicas) {
            errors.invalid(path.child(field), count, "cannot be greater than status.replicas");
        }
    }
}

/// What is available is ready.
pub(super) fn available_are_ready(
    available: Option<i32>,
    ready: Option<i32>,
    ready_name: &str,
    errors: &mut Errors,
) {
    let available = available.unwrap_or_default();
    if available > ready.unwrap_or_default() {
        let detail = format!("cannot be greater than {ready_name}");
        errors.invalid("status.availableReplicas", available, detail);
    }
}

/// The number that makes names of children unlike those of namesakes only grows.
pub(super) fn collisions(new: Option<i32>, old: Option<i32>, errors: &mut Errors) {
    validation::non_negative("status.collisionCount", new.unwrap_or_default(), errors);
    if old.is_some_and(|old| new.is_none_or(|new| new < old)) {
        errors.invalid("status.collisionCount", new.unwrap_or_default(), "cannot be decremented");
    }
}

pub(super) fn observed(generation: Option<i64>, errors: &mut Errors) {
    validation::non_negative("status.observedGeneration", generation.unwrap_or_default(), errors);
}

/// A count that is not negative, or a percentage.
pub(super) fn int_or_percent(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match value {
        IntOrString::Int(number) => validation::non_negative(path, *number, errors),
        IntOrString::String(text) if percent(text).is_none() => errors.invalid(path, text, PERCENT),
        IntOrString::String(_) => {}
    }
}

/// No percentage above a hundred.
pub(super) fn at_most_all(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    if let IntOrString::String(text) = value
        && percent(text).is_some_and(|percent| percent > 100)
    {
        errors.invalid(path, text, "must not be greater than 100%");
    }
}

/// The number, whatever its unit; 0 for what is none.
pub(super) fn amount(value: Option<&IntOrString>) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => percent(text).unwrap_or_default(),
    }
}

fn percent(text: &str) -> Option<i32> {
    let digits = text.strip_suffix('%').filter(|d| !d.is_empty())?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The columns of `-o wide` that tell of a template's containers.
pub(super) const CONTAINERS: &[Column] = &[
    table::wide("Containers", "string", "The names of the template's containers."),
    table::wide("Images", "string", "The images of the template's containers."),
];

/// The same, and what selects the pods.
pub(super) fn columns(narrow: &[Column]) -> Vec<Column> {
    let mut middle = narrow.to_vec();
    middle.extend_from_slice(CONTAINERS);
    middle.push(table::wide("Selector", "string", "The labels its pods are known by."));
    table::columns(&middle)
}

/// The cells for [`CONTAINERS`].
pub(super) fn containers(template: Option<&PodTemplateSpec>) -> Vec<Value> {
    let pods = template.and_then(|t| t.spec.as_ref());
    let (containers, images) = table::containers_and_images(pods.map_or(&[], |p| &p.containers));
    vec![json!(containers), json!(images)]
}

/// The wide cells for [`columns`].
pub(super) fn wide_cells(template: Option<&PodTemplateSpec>, selector: String) -> Vec<Value> {
    let mut cells = containers(template);
    cells.push(json!(selector));
    cells
}
