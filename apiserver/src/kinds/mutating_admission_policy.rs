//! MutatingAdmissionPolicy: CEL expressions that change writes, where a binding says so.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation,
};
use serde_json::{Value, json};

use super::admission_policy as policy;
use super::webhook::{FAILURE_POLICIES, REINVOCATION_POLICIES};
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::table;

/// Nothing is left to change when something is deleted.
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];

impl BuiltIn for MutatingAdmissionPolicy {
    const SINGULAR: &'static str = "mutatingadmissionpolicy";
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const HAS_GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".into());
        if let Some(matches) = &mut spec.match_constraints {
            policy::match_resources_defaults(matches);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::new("spec"), errors);
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Mutations", "integer", "How many changes there are."),
            table::narrow("ParamKind", "string", "The kind of objects with parameters."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let count = spec.and_then(|s| s.mutations.as_ref()).map_or(0, Vec::len);
        let kind = policy::param_kind_cell(spec.and_then(|s| s.param_kind.as_ref()));
        table::cells(&self.metadata, now, vec![json!(count), json!(kind)])
    }
}

fn validate_spec(spec: &MutatingAdmissionPolicySpec, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(path.child("failurePolicy"), spec.failure_policy.as_deref(), FAILURE_POLICIES);
    if let Some(kind) = &spec.param_kind {
        policy::param_kind(kind, &path.child("paramKind"), errors);
    }
    let at = path.child("matchConstraints");
    policy::match_constraints(spec.match_constraints.as_ref(), &at, errors);
    let rules = spec.match_constraints.iter().flat_map(|m| m.resource_rules.iter().flatten());
    for operation in rules.flat_map(|rule| rule.operations.iter().flatten()) {
        if !OPERATIONS.contains(&operation.as_str()) {
            let at = at.child("resourceRules");
            errors.not_supported(at.child("operations"), operation, OPERATIONS);
        }
    }
    let conditions = spec.match_conditions.as_deref().unwrap_or_default();
    let names = policy::Names { params: spec.param_kind.is_some(), variables: false };
    policy::match_conditions(conditions, names, &path.child("matchConditions"), errors);
    let variables = spec.variables.as_deref().unwrap_or_default();
    let names = policy::Names { variables: true, ..names };
    policy::variables(variables, names, &path.child("variables"), errors);
    let mutations = spec.mutations.as_deref().unwrap_or_default();
    if mutations.is_empty() {
        errors.required(path.child("mutations"), "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        validate_mutation(mutation, &path.child("mutations").index(i), errors);
    }
    errors.one_of(
        path.child("reinvocationPolicy"),
        spec.reinvocation_policy.as_deref(),
        REINVOCATION_POLICIES,
    );
}

fn validate_mutation(mutation: &Mutation, path: &Path<'_>, errors: &mut Errors) {
    let apply = mutation.apply_configuration.as_ref().map(|a| a.expression.as_deref().unwrap_or_default());
    let json = mutation.json_patch.as_ref().map(|p| p.expression.as_deref().unwrap_or_default());
    let kind = mutation.patch_type.as_str();
    let (wanted, field, other, unwanted) = match kind {
        "JSONPatch" => (json, "jsonPatch", apply, "applyConfiguration"),
        "ApplyConfiguration" => (apply, "applyConfiguration", json, "jsonPatch"),
        _ => return errors.one_of(path.child("patchType"), Some(kind), PATCH_TYPES),
    };
    let at = path.child(field);
    match wanted {
        None => errors.required(at, &format!("must be specified when patchType is {kind}")),
        Some(text) => policy::expression(text, &at.child("expression"), "", errors),
    }
    if other.is_some() {
        let detail = format!("must not be specified when patchType is {kind}");
        errors.invalid(path.child(unwanted), format!("{{{unwanted}}}"), detail);
    }
}
