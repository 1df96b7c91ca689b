//! RuntimeClass: which of a node's runtime handlers runs a pod. The handler never changes.

use jiff::Timestamp;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};

use super::node::deprecated_label;
use super::{BuiltIn, Column, pod};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for RuntimeClass {
    const SINGULAR: &'static str = "runtimeclass";
    const CREATE_ON_UPDATE: bool = true;

    fn validate(&self, errors: &mut Errors) {
        if self.handler.is_empty() {
            errors.required("handler", "");
        } else {
            errors.check("handler", &self.handler, validation::dns_label);
        }
        let overhead = Path::new("overhead");
        let overhead = overhead.child("podFixed");
        for (name, quantity) in self.overhead.iter().flat_map(|o| o.pod_fixed.iter().flatten()) {
            pod::resources::name(name, &overhead.key(name), errors);
            validation::quantity(quantity, &overhead.key(name), errors);
        }
        if let Some(scheduling) = &self.scheduling {
            let path = Path::new("scheduling");
            validation::labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"), errors);
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            pod::placement::tolerations(tolerations, &path.child("tolerations"), errors);
            for (i, toleration) in tolerations.iter().enumerate() {
                if tolerations[..i].contains(toleration) {
                    errors.duplicate(path.child("tolerations").index(i), toleration);
                }
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("handler", &self.handler, &old.handler);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        let selector = self.scheduling.iter().flat_map(|s| s.node_selector.iter().flatten());
        let deprecated = selector.filter_map(|(key, _)| deprecated_label(key));
        deprecated.map(|detail| format!("scheduling.nodeSelector: {detail}")).collect()
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow(
            "Handler",
            "string",
            "The runtime handler that nodes offer by this name.",
        )])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(self.handler)])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    #[test]
    fn handlers_are_labels_and_stay() {
        testing::invalid::<RuntimeClass>(&[
            (json!({}), "handler", "Required value"),
            (json!({"handler": "A"}), "handler", "Invalid value: \"A\": a lowercase RFC 1123 label"),
            (
                json!({"handler": "a", "overhead": {"podFixed": {"cpu": "x"}}}),
                "overhead.podFixed[cpu]",
                "Invalid value: \"x\": quantities must match",
            ),
        ]);
        testing::updates::<RuntimeClass>(&[
            (
                json!({"handler": "a"}),
                json!({"handler": "b"}),
                "handler",
                "Invalid value: \"b\": field is immutable",
            ),
            (json!({"handler": "a"}), json!({"handler": "a"}), "", ""),
        ]);
    }
}
