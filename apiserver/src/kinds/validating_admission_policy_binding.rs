//! ValidatingAdmissionPolicyBinding: where a policy counts, with which parameters, and what becomes of violations.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::{Value, json};

use super::admission_policy as policy;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

impl BuiltIn for ValidatingAdmissionPolicyBinding {
    const SINGULAR: &'static str = "validatingadmissionpolicybinding";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        if let Some(matches) = &mut self.spec.match_resources {
            policy::match_resources_defaults(matches);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let (spec, path) = (&self.spec, Path::new("spec"));
        if spec.policy_name.is_empty() {
            errors.required(path.child("policyName"), "");
        } else {
            errors.check(path.child("policyName"), &spec.policy_name, validation::dns_subdomain);
        }
        if let Some(reference) = &spec.param_ref {
            policy::param_ref(reference, &path.child("paramRef"), errors);
        }
        if let Some(matches) = &spec.match_resources {
            policy::match_resources(matches, &path.child("matchResources"), errors);
        }
        let (actions, at) = (&spec.validation_actions, path.child("validationActions"));
        for (i, action) in actions.iter().enumerate() {
            if !ACTIONS.contains(&action.as_str()) {
                errors.not_supported(at.index(i), action, ACTIONS);
            }
            if actions.iter().take(i).any(|a| a == action) {
                errors.duplicate(at.index(i), action);
            }
        }
        let has = |wanted: &str| actions.iter().any(|a| a == wanted);
        if has("Deny") && has("Warn") {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            errors.invalid(at, actions, detail);
        }
        if actions.is_empty() {
            errors.required(at, "at least one validation action is required");
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("PolicyName", "string", "The policy."),
            table::narrow("ParamRef", "string", "The object with its parameters."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let reference = policy::param_ref_cell(self.spec.param_ref.as_ref());
        table::cells(&self.metadata, now, vec![json!(self.spec.policy_name), json!(reference)])
    }
}
