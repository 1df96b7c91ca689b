//! The `x-kubernetes-validations` of a schema, compiled, and what of an object breaks them.

use coracle_client::status::Cause;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::Value;

use super::schema::Schema;
use crate::field_error::Errors;

const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// All rules of a schema.
pub struct Rules {}

impl Rules {
    /// None: there are none.
    pub fn of(_schema: &Schema) -> Option<Self> {
        None
    }

    /// What breaks a rule. `before`: the object as it was, on updates.
    pub fn check(&self, _schema: &Schema, _whole: &Value, _before: Option<&Value>) -> Vec<Cause> {
        Vec::new()
    }
}

/// How rules are written down, whatever they say.
pub fn check_form(props: &JSONSchemaProps, path: &str, errors: &mut Errors) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in props.x_kubernetes_validations.iter().flatten().enumerate() {
        let at = |name: &str| format!("{path}.x-kubernetes-validations[{i}].{name}");
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (message, expression) = (text(&rule.message), text(&rule.message_expression));
        if rule.rule.trim().is_empty() {
            errors.required(at("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(at("message"), &message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid(at("message"), &message, "must not contain line breaks");
        } else if breaks(rule.rule.trim()) && message.trim().is_empty() {
            errors.required(at("message"), "message must be specified if rule contains line breaks");
        }
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(at("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(at("reason"), reason, REASONS);
        }
        if let Some(field) = rule.field_path.as_deref().filter(|field| !field.is_empty()) {
            if field.trim().is_empty() {
                errors.invalid(at("fieldPath"), field, "must be non-empty if specified");
            }
            if breaks(field) {
                errors.invalid(at("fieldPath"), field, "must not contain line breaks");
            }
        }
    }
}

/// What the rules of a schema say. `unchanged`: what they may cost is not asked again.
pub fn check_schema(_schema: &Schema, _path: &str, _unchanged: bool, _errors: &mut Errors) {}
