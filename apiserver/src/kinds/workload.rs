//! What the kinds that keep pods from a template have in common: the template, its selector, replicas.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use coracle_client::selector::Selector;

use super::pod;
use crate::field_error::{Errors, Path};
use crate::validation;

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
    let at = path.child("selector");
    if selector.match_labels.is_none() && selector.match_expressions.is_none() {
        errors.required(at, "");
    } else {
        validation::label_selector(selector, &at, errors);
        if validation::selects_everything(selector) {
            errors.invalid(at, selector, format!("empty selector is invalid for {kind}"));
        }
    }
    let at = path.child("template");
    let Some(template) = template else { return errors.required(at, "") };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    // A selector that is not there selects nothing; an empty one, everything.
    let absent = selector.match_labels.is_none() && selector.match_expressions.is_none();
    if absent
        || Selector::from_label_selector(Some(selector))
            .is_ok_and(|s| !s.is_everything() && !s.matches(&labels))
    {
        errors.invalid(
            at.child("metadata").child("labels"),
            &labels,
            "`selector` does not match template `labels`",
        );
    }
    pod::spec::template(template, &at, errors);
    let spec = template.spec.as_ref();
    if let Some(policy) = spec.and_then(|s| s.restart_policy.as_deref()).filter(|p| *p != "Always")
        // An unknown policy has been refused already.
        && matches!(policy, "OnFailure" | "Never")
    {
        errors.not_supported(at.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if spec.is_some_and(|s| s.active_deadline_seconds.is_some()) {
        errors.forbidden(
            at.child("spec").child("activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}
