//! Namespace: holds objects; deleted only when the namespace controller has emptied it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use serde_json::{Value, json};

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// The finalizer of the namespace controller; `spec.finalizers` is written through the `finalize` subresource only.
const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn label_with_name(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|n| !n.is_empty()) {
        namespace.metadata.labels.get_or_insert_with(BTreeMap::new).insert(NAME_LABEL.into(), name);
    }
}

impl BuiltIn for Namespace {
    const SINGULAR: &'static str = "namespace";
    const DELETES_COLLECTION: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["ns"];
    const HAS_STATUS: bool = true;
    const SUBRESOURCES: &'static [&'static str] = &["finalize"];

    fn set_defaults(&mut self) {
        label_with_name(self);
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default().phase.get_or_insert_with(|| "Active".into());
    }

    fn prepare_create(&mut self) {
        // Once more: a generated name was not known when defaults were set.
        label_with_name(self);
        self.status = Some(NamespaceStatus { phase: Some("Active".into()), conditions: None });
        let finalizers = self.spec.get_or_insert_default().finalizers.get_or_insert_with(Vec::new);
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        let finalizers = old.spec.as_ref().and_then(|s| s.finalizers.clone());
        self.spec.get_or_insert_default().finalizers = finalizers;
    }

    fn prepare_deletion(&mut self) {
        self.status.get_or_insert_default().phase = Some("Terminating".into());
    }

    fn held_back(&self) -> bool {
        self.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| !f.is_empty())
    }

    fn validate_name(name: &str) -> Result<(), String> {
        validation::dns_label(name)
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("finalizers");
        for (i, finalizer) in self.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).enumerate() {
            errors.check(path.index(i), finalizer, validation::qualified_name);
            if !finalizer.contains('/') && finalizer != FINALIZER {
                errors.invalid(
                    path.index(i),
                    finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let deleting = self.metadata.deletion_timestamp.is_some();
        if deleting && phase != "Terminating" {
            errors.invalid(
                "status.Phase",
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            );
        } else if !deleting && phase != "Active" {
            errors.invalid("status.Phase", phase, "may only be 'Active' if `deletionTimestamp` is empty");
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow(
            "Status",
            "string",
            "Active, or Terminating while it is being emptied.",
        )])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(self.status.as_ref().and_then(|s| s.phase.as_ref()))])
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, parse};

    use super::*;

    #[test]
    fn a_new_namespace_is_active_labelled_and_held() {
        let mut namespace: Namespace = parse(json!({"metadata": {"name": "a"}}));
        namespace.set_defaults();
        namespace.prepare_create();
        assert_eq!(
            serde_json::to_value(&namespace).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        assert!(namespace.held_back());
        namespace.prepare_deletion();
        assert_eq!(namespace.status.unwrap().phase.unwrap(), "Terminating");
    }

    #[test]
    fn finalizers_are_qualified() {
        testing::invalid::<Namespace>(&[(
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["mine"]}}),
            "spec.finalizers[0]",
            "Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        )]);
    }

    #[test]
    fn names_are_labels() {
        assert!(Namespace::validate_name("a.b").is_err());
        assert!(Namespace::validate_name("a-b").is_ok());
    }
}
