//! FlowSchema: which requests share a priority level, and how they are told apart.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, FlowSchemaStatus, NonResourcePolicyRule, PolicyRulesWithSubjects,
    ResourcePolicyRule, Subject,
};
use serde_json::{Value, json};

use super::flow_control_objects as built_in;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const PRECEDENCE: i32 = 1000;
const PRECEDENCE_MAX: i32 = 10_000;
const METHODS: &[&str] = &["ByNamespace", "ByUser"];
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const EXEMPT: &str = "exempt";

impl BuiltIn for FlowSchema {
    const SINGULAR: &'static str = "flowschema";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        if self.spec.matching_precedence.unwrap_or_default() == 0 {
            self.spec.matching_precedence = Some(PRECEDENCE);
        }
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(FlowSchemaStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let (name, path) = (self.metadata.name.as_deref().unwrap_or_default(), Path::new("spec"));
        validate_spec(name, &self.spec, &path, errors);
        if built_in::mandatory_flow_schema(name).is_some_and(|fixed| fixed.spec != self.spec) {
            errors.invalid(path, &self.spec, format!("spec of '{name}' must equal the fixed value"));
        }
        validate_status(self.status.as_ref(), errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        validate_status(self.status.as_ref(), errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::narrow("PriorityLevel", "string", "The priority level of its requests."),
            table::narrow("MatchingPrecedence", "string", "The lowest number that matches a request counts."),
            table::narrow("DistinguisherMethod", "string", "What separates one flow from another."),
            table::AGE,
            table::narrow("MissingPL", "string", "Whether the priority level is not there."),
        ]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let mut conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let dangling = conditions.find(|c| c.type_ == "Dangling").and_then(|c| c.status.as_deref());
        vec![
            json!(self.metadata.name),
            json!(spec.priority_level_configuration.name),
            json!(spec.matching_precedence.unwrap_or_default()),
            json!(spec.distinguisher_method.as_ref().map_or("<none>", |m| &m.type_)),
            json!(table::age(self.metadata.creation_timestamp.as_ref(), now)),
            json!(dangling.unwrap_or("?")),
        ]
    }
}

fn validate_spec(name: &str, spec: &FlowSchemaSpec, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("matchingPrecedence");
    let precedence = spec.matching_precedence.unwrap_or_default();
    if precedence <= 0 {
        errors.invalid(at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(at, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != EXEMPT {
        errors.invalid(at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = spec.distinguisher_method.as_ref().filter(|m| !METHODS.contains(&&*m.type_)) {
        let at = path.child("distinguisherMethod");
        // Upstream shows the whole.
        errors.not_supported_value(at.child("type"), json!({ "Type": method.type_ }), METHODS);
    }
    let at = path.child("priorityLevelConfiguration");
    let level = &spec.priority_level_configuration.name;
    if level.is_empty() {
        errors.required(at.child("name"), "must reference a priority level");
    } else {
        errors.check(at.child("name"), level, validation::dns_subdomain);
    }
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        validate_rule(rule, &path.child("rules").index(i), errors);
    }
}

fn validate_rule(rule: &PolicyRulesWithSubjects, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("subjects");
    if rule.subjects.is_empty() {
        errors.required(at, "subjects must contain at least one value");
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        validate_subject(subject, &at.index(i), errors);
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let others = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        validate_resource_rule(rule, &path.child("resourceRules").index(i), errors);
    }
    for (i, rule) in others.iter().enumerate() {
        validate_non_resource_rule(rule, &path.child("nonResourceRules").index(i), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path<'_>, errors: &mut Errors) {
    let known = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    if !known.iter().any(|(kind, ..)| *kind == subject.kind) {
        return errors.not_supported(path.child("kind"), &subject.kind, &["Group", "ServiceAccount", "User"]);
    }
    for (kind, field, given) in known {
        if kind == subject.kind && !given {
            let detail = format!("{field} is required when subject kind is '{kind}'");
            errors.required(path.child(field), &detail);
        } else if kind != subject.kind && given {
            let detail = format!("{field} is forbidden when subject kind is not '{kind}'");
            errors.forbidden(path.child(field), &detail);
        }
    }
    match (&subject.service_account, &subject.user, &subject.group) {
        (Some(account), ..) if subject.kind == "ServiceAccount" => {
            let at = path.child("serviceAccount");
            match account.name.as_str() {
                "" => errors.required(at.child("name"), ""),
                "*" => {}
                name => errors.check(at.child("name"), name, validation::dns_subdomain),
            }
            if account.namespace.is_empty() {
                errors.required(at.child("namespace"), "must specify namespace for service account");
            } else {
                errors.check(at.child("namespace"), &account.namespace, validation::dns_label);
            }
        }
        (_, Some(user), _) if subject.kind == "User" && user.name.is_empty() => {
            errors.required(path.child("user").child("name"), "");
        }
        (.., Some(group)) if subject.kind == "Group" && group.name.is_empty() => {
            errors.required(path.child("group").child("name"), "");
        }
        _ => {}
    }
}

/// `*` alone, or something. True where the single members are to be looked at.
fn alone(values: &[String], at: Path<'_>, missing: &str, what: &str, errors: &mut Errors) -> bool {
    let all = values.iter().any(|v| v == "*");
    if values.is_empty() {
        errors.required(at, missing);
    } else if all && values.len() > 1 {
        errors.invalid(at, values, format!("if '*' is present, must not specify other {what}"));
    }
    !all
}

fn verbs(verbs: &[String], at: Path<'_>, errors: &mut Errors) {
    if alone(verbs, at, "verbs must contain at least one value", "verbs", errors)
        && verbs.iter().any(|v| !VERBS.contains(&v.as_str()))
    {
        errors.not_supported_value(at, verbs, VERBS);
    }
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path<'_>, errors: &mut Errors) {
    const MEMBERS: &str = "each member of this list must be '*' or a DNS-1123 label; ";
    verbs(&rule.verbs, path.child("verbs"), errors);
    for (field, values, missing, what) in [
        ("apiGroups", &rule.api_groups, "resource rules must supply at least one api group", "api groups"),
        ("resources", &rule.resources, "resource rules must supply at least one resource", "resources"),
    ] {
        alone(values, path.child(field), missing, what, errors);
    }
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let at = path.child("namespaces");
    if namespaces.is_empty() && rule.cluster_scope == Some(true) {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if alone(namespaces, at, missing, "namespaces", errors) {
        for (i, namespace) in namespaces.iter().enumerate() {
            if let Err(detail) = validation::dns_label(namespace) {
                errors.invalid(at.index(i), namespace, format!("{MEMBERS}{detail}"));
            }
        }
    }
}

fn validate_non_resource_rule(rule: &NonResourcePolicyRule, path: &Path<'_>, errors: &mut Errors) {
    verbs(&rule.verbs, path.child("verbs"), errors);
    let at = path.child("nonResourceURLs");
    let missing = "nonResourceURLs must contain at least one value";
    if alone(&rule.non_resource_urls, at, missing, "non-resource URLs", errors) {
        for (i, url) in rule.non_resource_urls.iter().enumerate() {
            errors.check(at.index(i), url, url_path);
        }
    }
}

fn url_path(path: &str) -> Result<(), String> {
    let wildcards = path.matches('*').count();
    let detail = match path {
        "" => "must not be empty",
        "/" => return Ok(()),
        _ if !path.starts_with('/') => "must start with slash",
        _ if path.contains(' ') => "must not contain white-space",
        _ if path.contains("//") => "must not contain double slash",
        _ if wildcards > 1 || (wildcards == 1 && !path.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return Ok(()),
    };
    Err(detail.into())
}

fn validate_status(status: Option<&FlowSchemaStatus>, errors: &mut Errors) {
    let types: Vec<&str> =
        status.iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| c.type_.as_str()).collect();
    condition_types(&types, errors);
}

/// Conditions of this group have types, each once.
pub(super) fn condition_types(types: &[&str], errors: &mut Errors) {
    let path = Path::new("status");
    let path = path.child("conditions");
    for (i, type_) in types.iter().enumerate() {
        let at = path.index(i);
        if types.iter().take(i).any(|t| t == type_) {
            errors.duplicate(at.child("type"), type_);
        }
        if type_.is_empty() {
            errors.required(at.child("type"), "");
        }
    }
}

#[cfg(test)]
#[path = "flow_control_tests.rs"]
mod tests;
