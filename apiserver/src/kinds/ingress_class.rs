//! IngressClass: which controller serves the ingresses of this class.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::{Value, json};

use super::{BuiltIn, Column, address_formats as formats};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// On the class that ingresses get that name none.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const CONTROLLER_MAX_BYTES: usize = 250;

/// New ingresses that name no class get this one.
pub fn is_default(class: &IngressClass) -> bool {
    class
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.get(DEFAULT_ANNOTATION).is_some_and(|v| v == "true"))
}

impl BuiltIn for IngressClass {
    const SINGULAR: &'static str = "ingressclass";
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(parameters) = &mut spec.parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        let controller = spec.controller.as_deref().unwrap_or_default();
        if controller.len() > CONTROLLER_MAX_BYTES {
            errors.too_long(path.child("controller"), CONTROLLER_MAX_BYTES);
        }
        formats::domain_prefixed_path(controller, &path.child("controller"), errors);
        if let Some(parameters) = &spec.parameters {
            validate_parameters(parameters, &path.child("parameters"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let controller = |c: &Self| c.spec.as_ref().and_then(|s| s.controller.clone()).unwrap_or_default();
        errors.immutable("spec.controller", &controller(self), &controller(old));
    }

    fn columns() -> Vec<Column> {
        table::columns(&[
            table::narrow("Controller", "string", "The controller that serves this class."),
            table::narrow("Parameters", "string", "The object with further settings of the controller."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map_or_else(
            || "<none>".to_owned(),
            |p| {
                let group = p.api_group.map(|g| format!(".{g}")).unwrap_or_default();
                format!("{}{group}/{}", p.kind, p.name)
            },
        );
        let narrow = vec![json!(spec.controller.unwrap_or_default()), json!(parameters)];
        let mut cells = table::cells(&self.metadata, now, narrow);
        if is_default(self) {
            table::mark_default(&mut cells);
        }
        cells
    }
}

fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path<'_>, errors: &mut Errors) {
    if let Some(group) = &parameters.api_group {
        errors.check(path.child("apiGroup"), group, validation::dns_subdomain);
    }
    for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if value.is_empty() {
            errors.required(path.child(field), "");
        } else {
            errors.check(path.child(field), value, validation::path_segment);
        }
    }
    let field = path.child("namespace");
    match (parameters.scope.as_deref(), &parameters.namespace) {
        (None, _) => errors.required(path.child("scope"), ""),
        (Some("Namespace"), None) => errors.required(field, "`parameters.scope` is set to 'Namespace'"),
        (Some("Namespace"), Some(namespace)) => errors.check(field, namespace, validation::dns_label),
        (Some("Cluster"), Some(_)) => errors.forbidden(field, "`parameters.scope` is set to 'Cluster'"),
        (Some("Cluster"), None) => {}
        (Some(other), _) => errors.not_supported(path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn with(parameters: Value) -> Value {
        json!({"spec": {"controller": "a.io/b", "parameters": parameters}})
    }

    #[test]
    fn controllers_are_named_by_domain() {
        testing::invalid::<IngressClass>(&[
            (json!({}), "spec.controller", "Required value"),
            (
                json!({"spec": {"controller": "a"}}),
                "spec.controller",
                "Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
            (
                json!({"spec": {"controller": "A/b"}}),
                "spec.controller",
                "Invalid value: \"A\": a lowercase RFC 1123",
            ),
            (
                json!({"spec": {"controller": "a/b c"}}),
                "spec.controller",
                "Invalid value: \"b c\": Invalid path (regex",
            ),
            (
                json!({"spec": {"controller": format!("a/{}", "b".repeat(250))}}),
                "spec.controller",
                "Too long: may not be more than 250 bytes",
            ),
            (with(json!({"name": "n"})), "spec.parameters.kind", "Required value"),
            (
                with(json!({"kind": "K", "name": "a/b"})),
                "spec.parameters.name",
                "Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                with(json!({"kind": "K", "name": "n", "namespace": "x"})),
                "spec.parameters.namespace",
                "Forbidden: `parameters.scope` is set to 'Cluster'",
            ),
            (
                with(json!({"kind": "K", "name": "n", "scope": "Namespace"})),
                "spec.parameters.namespace",
                "Required value: `parameters.scope` is set to 'Namespace'",
            ),
            (
                with(json!({"kind": "K", "name": "n", "scope": "X"})),
                "spec.parameters.scope",
                "Unsupported value: \"X\": supported values: \"Cluster\", \"Namespace\"",
            ),
        ]);
        testing::updates::<IngressClass>(&[(
            json!({"spec": {"controller": "a/b"}}),
            json!({"spec": {"controller": "a/c"}}),
            "spec.controller",
            "Invalid value: \"a/c\": field is immutable",
        )]);
    }

    #[test]
    fn columns() {
        let class = json!({"metadata": {"name": "a", "annotations": {DEFAULT_ANNOTATION: "true"}},
            "spec": {"controller": "a/b", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}});
        assert_eq!(testing::cells::<IngressClass>(class), ["a (default)", "a/b", "K.g/n", "<unknown>"]);
    }
}
