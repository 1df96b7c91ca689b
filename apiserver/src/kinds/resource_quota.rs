//! ResourceQuota: how much a namespace may use in all.

use std::collections::BTreeSet;

use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ScopedResourceSelectorRequirement,
};
use serde_json::{Value, json};

use super::resource_names as names;
use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::table;

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
const EXCLUSIVE: &[[&str; 2]] = &[["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const ONLY_EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

impl BuiltIn for ResourceQuota {
    const SINGULAR: &'static str = "resourcequota";
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["quota"];
    const HAS_STATUS: bool = true;

    fn prepare_create(&mut self) {
        self.status = Some(ResourceQuotaStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        let hard = path.child("hard");
        for (name, amount) in spec.hard.iter().flatten() {
            names::of_quota_amount(name, amount, &hard.key(name), errors);
        }
        scopes(&spec, &path.child("scopes"), errors);
        selector(&spec, &path.child("scopeSelector"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let scopes = |quota: &Self| quota.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default();
        let (new, old) = (scopes(self), scopes(old));
        if new.iter().collect::<BTreeSet<_>>() != old.iter().collect::<BTreeSet<_>>() {
            errors.invalid("spec.scopes", new, "field is immutable");
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let Some(status) = &self.status else { return };
        for (field, list) in [("hard", &status.hard), ("used", &status.used)] {
            let at = path.child(field);
            for (name, amount) in list.iter().flatten() {
                names::of_quota_amount(name, amount, &at.key(name), errors);
            }
        }
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let Some(hard) = self.spec.as_ref().and_then(|s| s.hard.as_ref()) else { return Vec::new() };
        let of = |name: String| {
            let amount = Quantity::of(hard.get(&name)?).ok()?;
            Some((name, amount))
        };
        let mut warnings = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let bare = || of(name.into()).filter(|_| matches!(name, "cpu" | "memory"));
            let request = of(format!("requests.{name}")).or_else(bare);
            if let (Some((request, wanted)), Some((limit, most))) = (request, of(format!("limits.{name}")))
                && wanted > most
            {
                warnings
                    .push(format!("ResourceQuota {request} ({wanted}) should be less than {limit} ({most})"));
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            table::NAME,
            table::narrow("Request", "string", "What is used and may be used of what is asked for."),
            table::narrow("Limit", "string", "What is used and may be used of limits."),
            table::AGE,
        ]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|u| u.get(name)).map_or("0", |u| u.0.as_str());
            let side = if name.starts_with("limits.") { &mut limits } else { &mut requests };
            side.push(format!("{name}: {used}/{}", hard.0));
        }
        let cells = vec![json!(requests.join(", ")), json!(limits.join(", "))];
        table::cells(&self.metadata, now, cells)
    }
}

fn hard(spec: &ResourceQuotaSpec) -> impl Iterator<Item = &String> {
    spec.hard.iter().flat_map(|list| list.keys())
}

fn scopes(spec: &ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(path, scopes, "unsupported scope");
        }
        for _ in hard(spec).filter(|name| !names::in_scope(scope, name)) {
            errors.invalid(path, scopes, "unsupported scope applied to resource");
        }
    }
    for pair in EXCLUSIVE {
        if pair.iter().all(|scope| scopes.iter().any(|s| s == scope)) {
            errors.invalid(path, scopes, "conflicting scopes");
        }
    }
}

fn selector(spec: &ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(selector) = &spec.scope_selector else { return };
    let path = path.child("matchExpressions");
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    for requirement in requirements {
        let scope = requirement.scope_name.as_str();
        if !SCOPES.contains(&scope) {
            errors.invalid(path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in hard(spec).filter(|name| !names::in_scope(scope, name)) {
            errors.invalid(path, selector, "unsupported scope applied to resource");
        }
        self::requirement(requirement, &path, errors);
    }
    for pair in EXCLUSIVE {
        if pair.iter().all(|scope| requirements.iter().any(|r| r.scope_name == *scope)) {
            errors.invalid(path, &spec.scopes, "conflicting scopes");
        }
    }
}

fn requirement(requirement: &ScopedResourceSelectorRequirement, path: &Path<'_>, errors: &mut Errors) {
    let operator = requirement.operator.as_str();
    let only_exists = !matches!(requirement.scope_name.as_str(), "PriorityClass" | "VolumeAttributesClass")
        && SCOPES.contains(&requirement.scope_name.as_str());
    if only_exists && operator != "Exists" {
        errors.invalid(path.child("operator"), operator, ONLY_EXISTS);
    }
    let values = requirement.values.as_deref().unwrap_or_default();
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.required(
            path.child("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
            path.child("values"),
            values,
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, parse};

    use super::*;

    fn quota(spec: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec})
    }

    #[test]
    fn one_bad_quota_per_rule() {
        let expression = |hard: &str, expression: Value| {
            quota(json!({"hard": {hard: "1"}, "scopeSelector": {"matchExpressions": [expression]}}))
        };
        testing::valid::<ResourceQuota>(&[
            quota(json!({"hard": {"pods": "10", "limits.cpu": "2", "count/jobs.batch": "3"}})),
            quota(json!({"hard": {"pods": "10"}, "scopes": ["BestEffort"]})),
            expression("pods", json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]})),
            expression("pods", json!({"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"})),
        ]);
        testing::invalid::<ResourceQuota>(&[
            (
                quota(json!({"hard": {"storage": "1"}})),
                "spec.hard[storage]",
                "Invalid value: \"storage\": must be a standard resource for quota",
            ),
            (
                quota(json!({"hard": {"cpu": "-1"}})),
                "spec.hard[cpu]",
                "Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                quota(json!({"hard": {"pods": "1500m"}})),
                "spec.hard[pods]",
                "Invalid value: \"1500m\": must be an integer",
            ),
            (
                quota(json!({"hard": {"pods": "1"}, "scopes": ["X"]})),
                "spec.scopes",
                "Invalid value: [\"X\"]: unsupported scope",
            ),
            (
                quota(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]})),
                "spec.scopes",
                "Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ),
            (
                quota(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
                "spec.scopes",
                "Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            (
                expression("pods", json!({"scopeName": "X", "operator": "Exists"})),
                "spec.scopeSelector.matchExpressions.scopeName",
                "Invalid value: \"X\": unsupported scope",
            ),
            (
                expression("pods", json!({"scopeName": "BestEffort", "operator": "DoesNotExist"})),
                "spec.scopeSelector.matchExpressions.operator",
                "Invalid value: \"DoesNotExist\": must be 'Exists' when scope is any of",
            ),
            (
                expression("pods", json!({"scopeName": "PriorityClass", "operator": "In"})),
                "spec.scopeSelector.matchExpressions.values",
                "Required value: must be at least one value",
            ),
            (
                expression("pods", json!({"scopeName": "PriorityClass", "operator": "X"})),
                "spec.scopeSelector.matchExpressions.operator",
                "Invalid value: \"X\": not a valid selector operator",
            ),
        ]);
    }

    #[test]
    fn scopes_stay() {
        let scoped = |scopes: Value| quota(json!({"hard": {"pods": "1"}, "scopes": scopes}));
        testing::updates::<ResourceQuota>(&[
            (scoped(json!(["BestEffort"])), scoped(json!(["BestEffort"])), "", ""),
            (
                scoped(json!(["BestEffort"])),
                scoped(json!([])),
                "spec.scopes",
                "Invalid value: []: field is immutable",
            ),
        ]);
    }

    #[test]
    fn requests_above_limits_are_odd() {
        let quota: ResourceQuota = parse(quota(json!({"hard": {"cpu": "2", "limits.cpu": "1"}})));
        assert_eq!(quota.warnings(None), ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]);
        assert!(quota.warnings(Some(&quota)).is_empty());
    }

    #[test]
    fn columns() {
        let mut quota = quota(json!({}));
        quota["status"] =
            json!({"hard": {"pods": "3", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "1"}});
        assert_eq!(
            testing::cells::<ResourceQuota>(quota),
            ["q", "cpu: 0/1, pods: 1/3", "limits.cpu: 0/2", "<unknown>"]
        );
    }
}
