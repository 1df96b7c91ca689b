//! What admission policies and their bindings have in common: what they match, parameters, and CEL expressions.

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, Variable,
};

use super::webhook::{MATCH_POLICIES, Rule};
use crate::cel::{self, CompileErrorKind, Environment, Expected, Type};
use crate::field_error::{Errors, Path};
use crate::validation::given;
use crate::{table, validation};

const MATCH_CONDITIONS_MAX: usize = 64;
const NOT_FOUND_ACTIONS: &[&str] = &["Deny", "Allow"];
pub(super) fn match_resources_defaults(matches: &mut MatchResources) {
    matches.match_policy.get_or_insert_with(|| "Equivalent".into());
    matches.namespace_selector.get_or_insert_default();
    matches.object_selector.get_or_insert_default();
    let rules = matches.resource_rules.iter_mut().chain(&mut matches.exclude_resource_rules);
    for rule in rules.flatten() {
        rule.scope.get_or_insert_with(|| "*".into());
    }
}

pub(super) fn match_resources(matches: &MatchResources, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(path.child("matchPolicy"), matches.match_policy.as_deref(), MATCH_POLICIES);
    for (field, selector) in
        [("namespaceSelector", &matches.namespace_selector), ("objectSelector", &matches.object_selector)]
    {
        match selector {
            Some(selector) => validation::label_selector(selector, &path.child(field), errors),
            None => errors.required(path.child(field), ""),
        }
    }
    for (field, rules) in [
        ("resourceRules", &matches.resource_rules),
        ("excludeResourceRules", &matches.exclude_resource_rules),
    ] {
        for (i, rule) in rules.iter().flatten().enumerate() {
            named_rule(rule, &path.child(field).index(i), errors);
        }
    }
}

/// What a policy is for: rules must be there.
pub(super) fn match_constraints(matches: Option<&MatchResources>, path: &Path<'_>, errors: &mut Errors) {
    let Some(matches) = matches else { return errors.required(path, "") };
    match_resources(matches, path, errors);
    if matches.resource_rules.as_ref().is_none_or(Vec::is_empty) {
        errors.required(path.child("resourceRules"), "");
    }
}

fn named_rule(rule: &NamedRuleWithOperations, path: &Path<'_>, errors: &mut Errors) {
    let names = rule.resource_names.as_deref().unwrap_or_default();
    for (i, name) in names.iter().enumerate() {
        let at = path.child("resourceNames");
        errors.check(at.index(i), name, validation::path_segment);
        if names.iter().take(i).any(|n| n == name) {
            errors.duplicate(at.index(i), name);
        }
    }
    Rule::from(rule).validate(path, errors);
}

pub(super) fn param_kind(kind: &ParamKind, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("apiVersion");
    let text = kind.api_version.as_deref().unwrap_or_default();
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    if text.is_empty() {
        errors.required(at, "");
    } else if version.contains('/') {
        errors.invalid(at, text, format!("unexpected GroupVersion string: {text}"));
    } else {
        if !group.is_empty() {
            errors.check(at, group, validation::dns_subdomain);
        }
        if version.is_empty() {
            errors.invalid(at, text, "version must be specified");
        } else {
            errors.check(at, version, validation::dns_1035_label);
        }
    }
    match given(&kind.kind) {
        None => errors.required(path.child("kind"), ""),
        Some(name) => {
            if let Err(detail) = validation::dns_1035_label(&name.to_lowercase()) {
                let detail = format!("may have mixed case, but should otherwise match: {detail}");
                errors.invalid(path.child("kind"), name, detail);
            }
        }
    }
}

pub(super) fn param_ref(reference: &ParamRef, path: &Path<'_>, errors: &mut Errors) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let name = given(&reference.name);
    if let Some(name) = name {
        errors.check(path.child("name"), name, validation::path_segment);
        if reference.selector.is_some() {
            errors.forbidden(path.child("name"), EXCLUSIVE);
        }
    }
    if let Some(selector) = &reference.selector {
        validation::label_selector(selector, &path.child("selector"), errors);
        if name.is_some() {
            errors.forbidden(path.child("selector"), EXCLUSIVE);
        }
    } else if name.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    let action = reference.parameter_not_found_action.as_deref();
    errors.one_of(path.child("parameterNotFoundAction"), action, NOT_FOUND_ACTIONS);
}

/// A binding's parameters in a column.
pub(super) fn param_ref_cell(reference: Option<&ParamRef>) -> String {
    let Some(reference) = reference else { return "<unset>".into() };
    match given(&reference.name) {
        Some(name) => format!("{}/{name}", given(&reference.namespace).unwrap_or("*")),
        None if reference.selector.is_some() => table::selector(reference.selector.as_ref()),
        None => "<unset>".into(),
    }
}

pub(super) fn param_kind_cell(kind: Option<&ParamKind>) -> String {
    kind.map_or_else(
        || "<unset>".into(),
        |kind| {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            format!("{}/{}", text(&kind.api_version), text(&kind.kind))
        },
    )
}

pub(super) fn match_conditions(
    conditions: &[MatchCondition],
    names: Names,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if conditions.len() > MATCH_CONDITIONS_MAX {
        errors.too_many(path, conditions.len(), MATCH_CONDITIONS_MAX);
    }
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        names.check(condition.expression.trim(), Expected::Bool, &at.child("expression"), "", errors);
        if condition.name.is_empty() {
            errors.required(at.child("name"), "");
            continue;
        }
        errors.check(at.child("name"), &condition.name, validation::qualified_name);
        if conditions.iter().take(i).any(|c| c.name == condition.name) {
            errors.duplicate(at.child("name"), &condition.name);
        }
    }
}

pub(super) fn variables(variables: &[Variable], names: Names, path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in variables.iter().enumerate() {
        let at = path.index(i);
        let name = variable.name.as_str();
        if name.trim().is_empty() {
            errors.required(at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(at.child("name"), name, "must be a valid CEL identifier");
        }
        let missing = "expression is not specified";
        names.check(&variable.expression, Expected::Any, &at.child("expression"), missing, errors);
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
        && !cel::is_keyword(name)
}

/// An expression is there.
pub(super) fn expression(text: &str, path: &Path<'_>, missing: &str, errors: &mut Errors) {
    if text.trim().is_empty() {
        errors.required(path, missing);
    }
}

/// What an expression of a policy can name beside the request and its objects.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names {
    pub params: bool,
    pub variables: bool,
}

impl Names {
    fn environment(self) -> Environment {
        let always = ["object", "oldObject", "request", "namespaceObject"];
        let more = [("params", self.params), ("variables", self.variables)];
        let more = more.into_iter().filter(|(_, there)| *there).map(|(name, _)| name);
        always.into_iter().chain(more).fold(Environment::new(), |e, name| e.variable(name, Type::Dyn))
    }

    /// An expression is there, and it is one that can be evaluated.
    pub(super) fn check(
        self,
        text: &str,
        expected: Expected,
        path: &Path<'_>,
        missing: &str,
        errors: &mut Errors,
    ) {
        expression(text, path, missing, errors);
        // NOTE: the functions of the authorizer are not known to the language yet; what uses it is taken as it is.
        if text.trim().is_empty() || text.contains("authorizer") {
            return;
        }
        if let Err(error) = self.environment().compile(text, expected) {
            let detail = match &error.kind {
                CompileErrorKind::Result(wanted) => format!("must evaluate to {wanted}"),
                CompileErrorKind::Mistakes(_) => format!("compilation failed: {error}"),
                CompileErrorKind::Constant(why) => format!("instantiation failed: {why}"),
            };
            errors.invalid(path, text, detail);
        }
    }
}
