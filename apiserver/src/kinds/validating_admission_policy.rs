//! ValidatingAdmissionPolicy: CEL expressions that writes must satisfy, where a binding says so.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
    ValidatingAdmissionPolicyStatus, Validation,
};
use serde_json::{Value, json};

use super::admission_policy::{self as policy, Names};
use super::webhook::FAILURE_POLICIES;
use super::{BuiltIn, Column};
use crate::cel::Expected;
use crate::field_error::{Errors, Path};
use crate::validation::given;
use crate::{table, validation};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_MAX_BYTES: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

impl BuiltIn for ValidatingAdmissionPolicy {
    const SINGULAR: &'static str = "validatingadmissionpolicy";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".into());
        if let Some(matches) = &mut spec.match_constraints {
            policy::match_resources_defaults(matches);
        }
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(ValidatingAdmissionPolicyStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if let Some(spec) = &self.spec {
            validate_spec(name, spec, &Path::new("spec"), errors);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let Some(status) = &self.status else { return };
        let checking = path.child("typeChecking");
        let warnings = checking.child("expressionWarnings");
        let found = status.type_checking.iter().flat_map(|t| t.expression_warnings.iter().flatten());
        for (i, warning) in found.enumerate() {
            let at = warnings.index(i);
            if warning.warning.is_empty() {
                errors.required(at.child("warning"), "");
            }
            if warning.field_ref.trim().is_empty() {
                errors.required(at.child("fieldRef"), "");
            }
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        validation::conditions(conditions, &path.child("conditions"), errors);
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Validations", "integer", "How many expressions there are."),
            table::narrow("ParamKind", "string", "The kind of objects with parameters."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let count = spec.and_then(|s| s.validations.as_ref()).map_or(0, Vec::len);
        let kind = policy::param_kind_cell(spec.and_then(|s| s.param_kind.as_ref()));
        table::cells(&self.metadata, now, vec![json!(count), json!(kind)])
    }
}

fn validate_spec(name: &str, spec: &ValidatingAdmissionPolicySpec, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(path.child("failurePolicy"), spec.failure_policy.as_deref(), FAILURE_POLICIES);
    if let Some(kind) = &spec.param_kind {
        policy::param_kind(kind, &path.child("paramKind"), errors);
    }
    policy::match_constraints(spec.match_constraints.as_ref(), &path.child("matchConstraints"), errors);
    let conditions = spec.match_conditions.as_deref().unwrap_or_default();
    let names = policy::Names { params: spec.param_kind.is_some(), variables: false };
    policy::match_conditions(conditions, names, &path.child("matchConditions"), errors);
    let variables = spec.variables.as_deref().unwrap_or_default();
    policy::variables(
        variables,
        policy::Names { variables: true, ..names },
        &path.child("variables"),
        errors,
    );
    let names = policy::Names { variables: !variables.is_empty(), ..names };
    let validations = spec.validations.as_deref().unwrap_or_default();
    let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(path.child("validations"), detail);
        return errors.required(path.child("auditAnnotations"), detail);
    }
    for (i, validation) in validations.iter().enumerate() {
        validate_validation(validation, names, &path.child("validations").index(i), errors);
    }
    let at = path.child("auditAnnotations");
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(at, annotations, detail);
    }
    for (i, annotation) in annotations.iter().enumerate() {
        validate_annotation(name, annotation, names, &at.index(i), errors);
        if annotations.iter().take(i).any(|a| a.key == annotation.key) {
            errors.duplicate(at.index(i).child("key"), &annotation.key);
        }
    }
}

fn validate_validation(validation: &Validation, names: Names, path: &Path<'_>, errors: &mut Errors) {
    const EMPTY: &str = "must be non-empty if specified";
    let at = path.child("expression");
    let missing = "expression is not specified";
    names.check(&validation.expression, Expected::Bool, &at, missing, errors);
    let at = path.child("messageExpression");
    match given(&validation.message_expression) {
        Some(text) if text.trim().is_empty() => errors.invalid(at, text, EMPTY),
        Some(text) => names.check(text, Expected::String, &at, "", errors),
        None => {}
    }
    if let Some(message) = given(&validation.message) {
        if message.trim().is_empty() {
            errors.invalid(path.child("message"), message, EMPTY);
        } else if message.trim().contains(['\n', '\r']) {
            errors.invalid(path.child("message"), message, "must not contain line breaks");
        }
    }
    if let Some(reason) = validation.reason.as_deref().filter(|r| !REASONS.contains(r)) {
        errors.not_supported(path.child("reason"), reason, REASONS);
    }
}

fn validate_annotation(
    name: &str,
    annotation: &AuditAnnotation,
    names: Names,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let key = path.child("key");
    if name.is_empty() {
        errors.invalid(key, &annotation.key, "requires metadata.name be non-empty");
    } else {
        let whole = format!("{name}/{}", annotation.key);
        errors.check(key, &whole, validation::qualified_name);
    }
    let at = path.child("valueExpression");
    if annotation.value_expression.trim().len() > AUDIT_EXPRESSION_MAX_BYTES {
        errors.required(at, &format!("must not exceed {AUDIT_EXPRESSION_MAX_BYTES} bytes in length"));
    } else {
        let missing = "valueExpression is not specified";
        names.check(&annotation.value_expression, Expected::Any, &at, missing, errors);
    }
}

#[cfg(test)]
#[path = "admission_policy_tests.rs"]
mod tests;
