//! ReplicaSet: a number of like pods.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for ReplicaSet {
    const SINGULAR: &'static str = "replicaset";
    const SHORT_NAMES: &'static [&'static str] = &["rs"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const SUBRESOURCES: &'static [&'static str] = &["scale"];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        pod::defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(ReplicaSetStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &self.spec;
        workload::replicas(path.child("replicas"), spec.replicas, errors);
        validation::non_negative(
            path.child("minReadySeconds"),
            spec.min_ready_seconds.unwrap_or_default(),
            errors,
        );
        workload::selector_and_template("ReplicaSet", &spec.selector, spec.template.as_ref(), &path, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec.selector", &self.spec.selector, &old.spec.selector);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        workload::status_counts(
            status.replicas,
            &[
                ("fullyLabeledReplicas", status.fully_labeled_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
                ("terminatingReplicas", status.terminating_replicas),
            ],
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
            errors,
        );
        workload::observed(status.observed_generation, errors);
        workload::available_are_ready(
            status.available_replicas,
            status.ready_replicas,
            "readyReplicas",
            errors,
        );
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let before = old.and_then(|old| old.spec.template.as_ref());
        let template = self.spec.template.iter();
        template.flat_map(|t| pod::warnings::of_template(t, "spec.template", before)).collect()
    }

    fn columns() -> Vec<Column> {
        workload::columns(&[
            table::narrow("Desired", "integer", "How many pods are wanted."),
            table::narrow("Current", "integer", "How many pods there are."),
            table::narrow("Ready", "integer", "How many of its pods are ready."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let status = self.status.clone().unwrap_or_default();
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(spec.replicas.unwrap_or_default()),
                json!(status.replicas),
                json!(status.ready_replicas.unwrap_or_default()),
            ],
            workload::wide_cells(spec.template.as_ref(), table::selector(Some(&spec.selector))),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn replica_set() -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}}, "template":
            {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    }

    #[test]
    fn rules_and_columns() {
        testing::valid::<ReplicaSet>(&[replica_set()]);
        let mut other = replica_set();
        other["spec"]["selector"] = json!({"matchLabels": {"app": "y"}});
        testing::invalid::<ReplicaSet>(&[(
            other,
            "spec.template.metadata.labels",
            "Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        )]);
        let mut object = replica_set();
        object["status"] = json!({"replicas": 2, "readyReplicas": 1});
        assert_eq!(
            testing::cells::<ReplicaSet>(object),
            ["r", "3", "2", "1", "<unknown>", "c", "i:1", "app=x"]
        );
    }
}
