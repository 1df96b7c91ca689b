//! MutatingAdmissionPolicyBinding: where a policy counts, and with which parameters.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use serde_json::{Value, json};

use super::admission_policy as policy;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::table;
use crate::validation::{self, given};

impl BuiltIn for MutatingAdmissionPolicyBinding {
    const SINGULAR: &'static str = "mutatingadmissionpolicybinding";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(matches) = &mut spec.match_resources {
            policy::match_resources_defaults(matches);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        match given(&spec.policy_name) {
            None => errors.required(path.child("policyName"), ""),
            Some(name) => errors.check(path.child("policyName"), name, validation::dns_subdomain),
        }
        if let Some(reference) = &spec.param_ref {
            policy::param_ref(reference, &path.child("paramRef"), errors);
        }
        if let Some(matches) = &spec.match_resources {
            policy::match_resources(matches, &path.child("matchResources"), errors);
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("PolicyName", "string", "The policy."),
            table::narrow("ParamRef", "string", "The object with its parameters."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let reference = policy::param_ref_cell(spec.param_ref.as_ref());
        table::cells(&self.metadata, now, vec![json!(spec.policy_name.unwrap_or_default()), json!(reference)])
    }
}
