//! Validating admission policies say, in their status, which of their expressions do not fit the kinds they match.
//!
//! Upstream has a controller for this; here it stands where the types of all kinds are known. As there, only built-in
//! kinds that are named one by one are looked at, and at most ten of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::{ApiError, Change, Client, Informer, Informers, Key, PatchType, Resource, WorkQueue};
use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::cel::{DeclaredType, Environment, Expected, Type};

/// Upstream's bound: more are not worth the time that they take.
const TYPES_MAX: usize = 10;
const SCHEMAS: &str = "#/components/schemas/";

pub(super) async fn run(api: Arc<Api>, client: Client, informers: &Informers, shutdown: CancellationToken) {
    let checker = Checker { api, client, policies: informers.of::<ValidatingAdmissionPolicy>() };
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    checker.policies.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(change.key());
        }
    });
    checker.policies.synced().await;
    controller::run(Arc::new(checker), queue, 1, shutdown).await;
}

struct Checker {
    api: Arc<Api>,
    client: Client,
    policies: Informer,
}

impl Reconciler for Checker {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.policies.get_key(key) else { return Ok(Outcome::Done) };
        let policy: ValidatingAdmissionPolicy = object.decode()?;
        let observed = policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        if object.head.deleting || observed >= object.head.generation {
            return Ok(Outcome::Done);
        }
        let spec = policy.spec.unwrap_or_default();
        let warnings = self.warnings(&spec);
        let patch = json!({
            "metadata": {"uid": object.head.uid},
            "status": {
                "observedGeneration": object.head.generation,
                // Null takes away what an earlier form was warned of.
                "typeChecking": {"expressionWarnings": Some(warnings).filter(|w| !w.is_empty())},
            },
        });
        let written = self
            .client
            .patch::<ValidatingAdmissionPolicy>("", &key.name, Some("status"), PatchType::Merge, &patch)
            .await;
        match written {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

impl Checker {
    fn warnings(&self, spec: &ValidatingAdmissionPolicySpec) -> Vec<ExpressionWarning> {
        let types: Vec<(String, Arc<DeclaredType>)> = self
            .matched(spec)
            .into_iter()
            .filter_map(|resource| {
                let name = match resource.group() {
                    "" => format!("{}, Kind={}", resource.version(), resource.kind()),
                    group => format!("{group}/{}, Kind={}", resource.version(), resource.kind()),
                };
                Some((name, self.declared(&resource)?))
            })
            .collect();
        let params = spec.param_kind.as_ref().map(|kind| {
            let (version, kind) = (kind.api_version.as_deref(), kind.kind.as_deref());
            let table = self.api.table();
            let found = table.kinds().iter().find(|served| {
                Some(served.resource().api_version().as_str()) == version
                    && Some(served.resource().kind()) == kind
                    && served.def.built_in
            });
            found.and_then(|served| self.declared(served.resource()))
        });
        check(spec, &types, params.as_ref())
    }

    /// The built-in kinds that the policy names.
    fn matched(&self, spec: &ValidatingAdmissionPolicySpec) -> Vec<Resource> {
        let table = self.api.table();
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for (group, version, plural) in named(spec) {
            let wanted = |resource: &Resource| {
                resource.group() == group && resource.version() == version && resource.plural() == plural
            };
            let kind = table.kinds().iter().find(|served| served.def.built_in && wanted(served.resource()));
            if let Some(kind) = kind
                && seen.insert((group, version, plural))
            {
                found.push(kind.resource().clone());
            }
        }
        found.sort_by_key(|r| (r.group().to_owned(), r.version().to_owned(), r.kind().to_owned()));
        found.truncate(TYPES_MAX);
        found
    }

    /// The kind's type out of its OpenAPI document.
    fn declared(&self, resource: &Resource) -> Option<Arc<DeclaredType>> {
        let table = self.api.table();
        let root = if resource.group().is_empty() { "api" } else { "apis" };
        let document = table.openapi().document(&format!("{root}/{}", resource.api_version()))?;
        let document: Value = serde_json::from_slice(&document.content().ok()?).ok()?;
        let schemas = document["components"]["schemas"].as_object()?;
        let is_it = |schema: &&Value| {
            schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(|gvk| {
                gvk["group"] == resource.group()
                    && gvk["version"] == resource.version()
                    && gvk["kind"] == resource.kind()
            })
        };
        let schema = schemas.values().find(is_it)?;
        DeclaredType::from_schema(&resolved(schema, schemas, &mut Vec::new()), false)
    }
}

/// The resources that rules name without a wildcard.
fn named(spec: &ValidatingAdmissionPolicySpec) -> Vec<(&str, &str, &str)> {
    let mut all = Vec::new();
    let rules = spec.match_constraints.iter().flat_map(|m| m.resource_rules.iter().flatten());
    for rule in rules {
        let list = |names: &'_ Option<Vec<String>>| names.clone().unwrap_or_default();
        let lists = [&rule.api_groups, &rule.api_versions, &rule.resources];
        if lists.iter().any(|names| list(names).iter().any(|name| name.contains('*'))) {
            continue;
        }
        for group in rule.api_groups.iter().flatten() {
            for version in rule.api_versions.iter().flatten() {
                let plain = rule.resources.iter().flatten().filter(|plural| !plural.contains('/'));
                all.extend(plain.map(|plural| (group.as_str(), version.as_str(), plural.as_str())));
            }
        }
    }
    all
}

/// `params`: Some where the policy has parameters, with their type where it is known.
fn check(
    spec: &ValidatingAdmissionPolicySpec,
    types: &[(String, Arc<DeclaredType>)],
    params: Option<&Option<Arc<DeclaredType>>>,
) -> Vec<ExpressionWarning> {
    let mut warnings = Vec::new();
    for (i, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().unwrap_or_default();
        for (field, text) in [("expression", validation.expression.as_str()), ("messageExpression", message)]
        {
            // The functions of the authorizer are not known to the language here, so nothing can be said of them.
            if text.trim().is_empty() || text.contains("authorizer") {
                continue;
            }
            let failed: Vec<String> = types
                .iter()
                .filter_map(|(name, declared)| {
                    let error = environment(declared, params).compile(text, Expected::Any).err()?;
                    Some(format!("{name}: {error}"))
                })
                .collect();
            if !failed.is_empty() {
                warnings.push(ExpressionWarning {
                    field_ref: format!("spec.validations[{i}].{field}"),
                    warning: failed.join("\n"),
                });
            }
        }
    }
    warnings
}

fn environment(object: &Arc<DeclaredType>, params: Option<&Option<Arc<DeclaredType>>>) -> Environment {
    let mut environment =
        Environment::new().declared("object", object.clone()).declared("oldObject", object.clone());
    for name in ["request", "namespaceObject", "variables"] {
        environment = environment.variable(name, Type::Dyn);
    }
    match params {
        None => environment,
        Some(None) => environment.variable("params", Type::Dyn),
        Some(Some(declared)) => environment.declared("params", declared.clone()),
    }
}

/// The schema with what it refers to put in, in the words of structural schemas. What refers to itself, or has no
/// type, can be anything.
fn resolved(schema: &Value, schemas: &Map<String, Value>, within: &mut Vec<String>) -> Value {
    let anything = || json!({"x-kubernetes-int-or-string": true});
    let referred = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = referred.and_then(|r| r.strip_prefix(SCHEMAS)) {
        let Some(target) = schemas.get(name).filter(|_| !within.iter().any(|n| n == name)) else {
            return anything();
        };
        within.push(name.to_owned());
        let target = resolved(target, schemas, within);
        within.pop();
        return target;
    }
    let either = schema.get("oneOf").is_some() || schema["format"] == "int-or-string";
    if either || schema["type"].as_str().is_none() {
        return anything();
    }
    let mut out = schema.clone();
    if let Some(properties) = schema["properties"].as_object() {
        let properties: Map<String, Value> =
            properties.iter().map(|(name, s)| (name.clone(), resolved(s, schemas, within))).collect();
        out["properties"] = Value::Object(properties);
    } else if schema["type"] == "object" && !schema["additionalProperties"].is_object() {
        // An object of which nothing is said.
        return anything();
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            out[part] = resolved(&schema[part], schemas, within);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas() -> Map<String, Value> {
        let schemas = json!({
            "Thing": {"type": "object", "properties": {
                "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}], "default": {}},
                "any": {"type": "object"},
            }},
            "Spec": {"type": "object", "properties": {
                "replicas": {"type": "integer"},
                "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
                "more": {"type": "array", "items": {"$ref": "#/components/schemas/Spec"}},
            }},
        });
        schemas.as_object().unwrap().clone()
    }

    #[test]
    fn expressions_are_checked_against_every_type() {
        let schemas = schemas();
        let declared =
            DeclaredType::from_schema(&resolved(&schemas["Thing"], &schemas, &mut Vec::new()), false)
                .unwrap();
        let types = [("example/v1, Kind=Thing".to_owned(), declared)];
        for (expression, wanted) in [
            ("object.spec.replicas > 1", None),
            ("object.spec.port == 'x' || object.any.thing > 1", None),
            ("object.spec.more.all(m, m.whatever == 1)", None),
            ("variables.x && request.y && oldObject.spec.replicas == 1", None),
            ("object.foo > 1", Some("undefined field 'foo'")),
            ("oldObject.spec.bar > 1", Some("undefined field 'bar'")),
            ("object.spec.replicas == 'x'", Some("found no matching overload")),
            ("params.x", Some("undeclared reference to 'params'")),
            ("authorizer.group('')", None),
        ] {
            let spec: ValidatingAdmissionPolicySpec =
                serde_json::from_value(json!({"validations": [{"expression": expression}]})).unwrap();
            let warnings = check(&spec, &types, None);
            match (warnings.first(), wanted) {
                (None, None) => {}
                (Some(warning), Some(part)) => {
                    assert_eq!(warning.field_ref, "spec.validations[0].expression");
                    assert!(
                        warning.warning.starts_with("example/v1, Kind=Thing: ERROR: <input>:1:"),
                        "{warning:?}"
                    );
                    assert!(warning.warning.contains(part), "{warning:?}");
                }
                other => panic!("{expression}: {other:?}"),
            }
        }
    }

    #[test]
    fn wildcards_and_subresources_are_not_looked_at() {
        for (rule, want) in [
            (
                json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale"]}),
                1,
            ),
            (json!({"apiGroups": ["apps", "batch"], "apiVersions": ["v1"], "resources": ["a", "b"]}), 4),
            (json!({"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]}), 0),
            (json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"]}), 0),
        ] {
            let spec: ValidatingAdmissionPolicySpec =
                serde_json::from_value(json!({"matchConstraints": {"resourceRules": [rule]}})).unwrap();
            assert_eq!(named(&spec).len(), want, "{rule}");
        }
    }
}
