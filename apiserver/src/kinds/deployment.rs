//! Deployment: a number of like pods, replaced step by step when their template changes.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

const STRATEGIES: &[&str] = &["Recreate", "RollingUpdate"];

impl BuiltIn for Deployment {
    const SINGULAR: &'static str = "deployment";
    const SHORT_NAMES: &'static [&'static str] = &["deploy"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["spec"], &["metadata", "labels"]];
    const SUBRESOURCES: &'static [&'static str] = &["scale"];
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        pod::defaults::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".into()));
            rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".into()));
        }
        pod::defaults::template(&mut spec.template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(DeploymentStatus::default());
    }

    /// Annotations count as much as the spec does.
    fn prepare_update(&mut self, old: &Self) {
        if self.metadata.annotations.iter().flatten().ne(old.metadata.annotations.iter().flatten()) {
            self.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &self.spec;
        workload::replicas(path.child("replicas"), spec.replicas, errors);
        workload::selector_and_template("deployment", &spec.selector, Some(&spec.template), &path, errors);
        strategy(spec, &path.child("strategy"), errors);
        for (field, value) in [
            ("minReadySeconds", spec.min_ready_seconds),
            ("revisionHistoryLimit", spec.revision_history_limit),
        ] {
            validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
        }
        if let Some(seconds) = spec.progress_deadline_seconds {
            validation::non_negative(path.child("progressDeadlineSeconds"), seconds, errors);
            if seconds <= spec.min_ready_seconds.unwrap_or_default() {
                errors.invalid(
                    path.child("progressDeadlineSeconds"),
                    seconds,
                    "must be greater than minReadySeconds",
                );
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec.selector", &self.spec.selector, &old.spec.selector);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        workload::status_counts(
            status.replicas.unwrap_or_default(),
            &[
                ("updatedReplicas", status.updated_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
                ("unavailableReplicas", status.unavailable_replicas),
                ("terminatingReplicas", status.terminating_replicas),
            ],
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
            errors,
        );
        workload::observed(status.observed_generation, errors);
        workload::available_are_ready(
            status.available_replicas,
            status.ready_replicas,
            "readyReplicas",
            errors,
        );
        let old = old.status.as_ref().and_then(|s| s.collision_count);
        workload::collisions(status.collision_count, old, errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let before = old.map(|old| &old.spec.template);
        pod::warnings::of_template(&self.spec.template, "spec.template", before)
    }

    fn columns() -> Vec<Column> {
        workload::columns(&[
            table::narrow("Ready", "string", "How many of its pods are ready, of how many wanted."),
            table::narrow("Up-to-date", "string", "How many of its pods have the current template."),
            table::narrow("Available", "string", "How many have been ready for as long as demanded."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let status = self.status.clone().unwrap_or_default();
        let ready = status.ready_replicas.unwrap_or_default();
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(format!("{ready}/{}", spec.replicas.unwrap_or_default())),
                json!(status.updated_replicas.unwrap_or_default()),
                json!(status.available_replicas.unwrap_or_default()),
            ],
            workload::wide_cells(Some(&spec.template), table::selector(Some(&spec.selector))),
        )
    }
}

fn strategy(spec: &DeploymentSpec, path: &Path<'_>, errors: &mut Errors) {
    let strategy = spec.strategy.clone().unwrap_or_default();
    errors.one_of(path.child("type"), strategy.type_.as_deref(), STRATEGIES);
    match (strategy.type_.as_deref(), strategy.rolling_update) {
        (Some("Recreate"), Some(_)) => errors.forbidden(
            path.child("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        (Some("RollingUpdate"), Some(rolling)) => {
            rolling_update(&rolling, &path.child("rollingUpdate"), errors)
        }
        (Some("RollingUpdate"), None) => {
            errors.required(path.child("rollingUpdate"), "this should be defaulted and never be nil");
        }
        _ => {}
    }
}

fn rolling_update(rolling: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut Errors) {
    let unavailable = path.child("maxUnavailable");
    for (at, value) in [(unavailable, &rolling.max_unavailable), (path.child("maxSurge"), &rolling.max_surge)]
    {
        if let Some(value) = value {
            workload::int_or_percent(value, &at, errors);
        }
    }
    let all = [&rolling.max_unavailable, &rolling.max_surge];
    if all.into_iter().all(|value| workload::amount(value.as_ref()) == 0) {
        errors.invalid(unavailable, &rolling.max_unavailable, "may not be 0 when `maxSurge` is 0");
    }
    if let Some(value) = &rolling.max_unavailable {
        workload::at_most_all(value, &unavailable, errors);
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn deployment() -> Value {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template":
            {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut deployment = deployment();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        deployment.pointer_mut(parent).unwrap()[field] = value;
        deployment
    }

    #[test]
    fn defaults() {
        let object: Deployment = defaulted(deployment());
        let spec = serde_json::to_value(&object.spec).unwrap();
        assert_eq!(spec["replicas"], 1);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(
            (&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
            (&json!(10), &json!(600))
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        let recreate: Deployment = defaulted(with("/spec/strategy", json!({"type": "Recreate"})));
        assert_eq!(recreate.spec.strategy.unwrap().rolling_update, None);
    }

    #[test]
    fn one_bad_deployment_per_rule() {
        testing::valid::<Deployment>(&[deployment(), with("/spec/replicas", json!(0))]);
        let rolling = |value: Value| with("/spec/strategy", json!({"rollingUpdate": value}));
        testing::invalid::<Deployment>(&[
            (
                with("/spec/replicas", json!(-1)),
                "spec.replicas",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                with("/spec/selector", json!({"matchLabels": {}})),
                "spec.selector",
                "Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                with("/spec/template/metadata/labels", json!({"app": "y"})),
                "spec.template.metadata.labels",
                "Invalid value: {\"app\":\"y\"}: `selector` does not match template `labels`",
            ),
            (
                with("/spec/template/spec/restartPolicy", json!("Never")),
                "spec.template.spec.restartPolicy",
                "Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                with("/spec/template/spec/containers", json!([])),
                "spec.template.spec.containers",
                "Required value",
            ),
            (
                with("/spec/template/spec/activeDeadlineSeconds", json!(5)),
                "spec.template.spec.activeDeadlineSeconds",
                "Forbidden: activeDeadlineSeconds in deployment is not Supported",
            ),
            (with("/spec/strategy", json!({"type": "X"})), "spec.strategy.type", "Unsupported value: \"X\""),
            (
                with("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {}})),
                "spec.strategy.rollingUpdate",
                "Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                rolling(json!({"maxUnavailable": 0, "maxSurge": 0})),
                "spec.strategy.rollingUpdate.maxUnavailable",
                "Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                rolling(json!({"maxSurge": "x"})),
                "spec.strategy.rollingUpdate.maxSurge",
                "Invalid value: \"x\": a valid percent string",
            ),
            (
                rolling(json!({"maxUnavailable": "101%"})),
                "spec.strategy.rollingUpdate.maxUnavailable",
                "Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                with("/spec/progressDeadlineSeconds", json!(0)),
                "spec.progressDeadlineSeconds",
                "Invalid value: 0: must be greater than minReadySeconds",
            ),
        ]);
    }

    #[test]
    fn a_missing_selector_matches_nothing() {
        let mut errors = Errors::default();
        defaulted::<Deployment>(with("/spec/selector", json!({}))).validate(&mut errors);
        let found: Vec<String> =
            errors.into_causes().into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(
            found,
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"
            ]
        );
    }

    #[test]
    fn the_selector_stays() {
        let mut other = with("/spec/selector", json!({"matchLabels": {"app": "z"}}));
        other["spec"]["template"]["metadata"]["labels"]["app"] = json!("z");
        testing::updates::<Deployment>(&[
            (deployment(), deployment(), "", ""),
            (
                deployment(),
                other,
                "spec.selector",
                "Invalid value: {\"matchLabels\":{\"app\":\"z\"}}: field is immutable",
            ),
        ]);
    }

    #[test]
    fn columns() {
        let mut object = with("/spec/replicas", json!(3));
        object["status"] = json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1});
        assert_eq!(
            testing::cells::<Deployment>(object),
            ["d", "2/3", "3", "1", "<unknown>", "c", "i:1", "app=x"]
        );
    }
}
