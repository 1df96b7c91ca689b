//! ReplicationController: a number of like pods, as the core group has always known it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerStatus};
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

impl BuiltIn for ReplicationController {
    const SINGULAR: &'static str = "replicationcontroller";
    const SHORT_NAMES: &'static [&'static str] = &["rc"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const SUBRESOURCES: &'static [&'static str] = &["scale"];
    const HAS_GENERATION: bool = true;
    const ORPHANS_BY_DEFAULT: bool = true;

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let Some(template) = &mut spec.template else { return };
        pod::defaults::template(template);
        // The template's labels serve where nothing else is said.
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).filter(|l| !l.is_empty());
        for place in [&mut spec.selector, &mut self.metadata.labels] {
            if place.as_ref().is_none_or(|l| l.is_empty()) && labels.is_some() {
                place.clone_from(&labels);
            }
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(ReplicationControllerStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        let seconds = spec.min_ready_seconds.unwrap_or_default();
        validation::non_negative(path.child("minReadySeconds"), seconds, errors);
        let selector = spec.selector.unwrap_or_default();
        if selector.is_empty() {
            errors.required(path.child("selector"), "");
        }
        workload::replicas(path.child("replicas"), spec.replicas, errors);
        let at = path.child("template");
        let Some(template) = &spec.template else { return errors.required(at, "") };
        let given = template.metadata.as_ref().and_then(|m| m.labels.clone());
        let labels = given.clone().unwrap_or_default();
        if selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
            errors.invalid(
                at.child("metadata").child("labels"),
                &given,
                "`selector` does not match template `labels`",
            );
        }
        pod::spec::template(template, &at, errors);
        workload::restarts_for_ever("ReplicationController", template, &at, errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        workload::status_counts(
            status.replicas,
            &[
                ("fullyLabeledReplicas", status.fully_labeled_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
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
        let template = |rc: &Self| rc.spec.as_ref().and_then(|s| s.template.clone());
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let mut all = if old.is_none() { pod::warnings::of_name(name) } else { Vec::new() };
        if let Some(now) = template(self) {
            let before = old.and_then(template);
            all.extend(pod::warnings::of_template(&now, "spec.template", before.as_ref()));
        }
        all
    }

    fn columns() -> Vec<Column> {
        workload::columns(&[
            table::narrow("Desired", "integer", "How many pods are wanted."),
            table::narrow("Current", "integer", "How many pods there are."),
            table::narrow("Ready", "integer", "How many of its pods are ready."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(spec.replicas.unwrap_or_default()),
                json!(status.replicas),
                json!(status.ready_replicas.unwrap_or_default()),
            ],
            workload::wide_cells(spec.template.as_ref(), table::labels(spec.selector.as_ref())),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn controller() -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"replicas": 3, "template":
            {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    }

    #[test]
    fn the_template_s_labels_are_the_selector() {
        let controller: ReplicationController = defaulted(controller());
        let want = Some([("app".to_owned(), "x".to_owned())].into());
        assert_eq!(controller.spec.unwrap().selector, want);
        assert_eq!(controller.metadata.labels, want);
    }

    #[test]
    fn rules_and_columns() {
        testing::valid::<ReplicationController>(&[controller()]);
        let with = |field: &str, value: Value| {
            let mut controller = controller();
            controller["spec"][field] = value;
            controller
        };
        let mut bare = controller();
        bare["spec"]["template"]["metadata"] = json!({});
        testing::invalid::<ReplicationController>(&[
            (bare, "spec.selector", "Required value"),
            (
                with("selector", json!({"app": "y"})),
                "spec.template.metadata.labels",
                "Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
            ),
            (
                with("replicas", json!(-1)),
                "spec.replicas",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                with("minReadySeconds", json!(-1)),
                "spec.minReadySeconds",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
        ]);
        let mut shown = with("selector", json!({"app": "x"}));
        shown["status"] = json!({"replicas": 2, "readyReplicas": 1});
        assert_eq!(
            testing::cells::<ReplicationController>(shown),
            ["r", "3", "2", "1", "<unknown>", "c", "i:1", "app=x"]
        );
    }
}
