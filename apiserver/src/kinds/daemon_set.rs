//! DaemonSet: one pod on every node that suits it.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{BuiltIn, Column, pod, workload};
use crate::field_error::{Errors, Path};
use crate::{table, validation};

/// Counts the templates there were; what became of a field of the group's beta versions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl BuiltIn for DaemonSet {
    const SINGULAR: &'static str = "daemonset";
    const SHORT_NAMES: &'static [&'static str] = &["ds"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = true;

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_default();
        pod::defaults::text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        pod::defaults::template(&mut spec.template);
    }

    fn prepare_create(&mut self) {
        self.status = Some(DaemonSetStatus::default());
        let generation = template_generation(self).unwrap_or_default().max(1);
        set_template_generation(self, generation);
    }

    fn prepare_update(&mut self, old: &Self) {
        let before = template_generation(old).unwrap_or_default();
        let changed = self.spec.template != old.spec.template;
        if changed || template_generation(old).is_some() {
            set_template_generation(self, before + i64::from(changed));
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &self.spec;
        let selector = path.child("selector");
        let template = path.child("template");
        validation::label_selector(&spec.selector, &selector, errors);
        workload::matches_template(&spec.selector, &spec.template, &template, errors);
        if !workload::absent(&spec.selector) && validation::selects_everything(&spec.selector) {
            errors.invalid(selector, json!({}), "empty selector is invalid for daemonset");
        }
        pod::spec::template(&spec.template, &template, errors);
        workload::restarts_for_ever("DaemonSet", &spec.template, &template, errors);
        strategy(spec, &path.child("updateStrategy"), errors);
        for (field, value) in [
            ("minReadySeconds", spec.min_ready_seconds),
            ("revisionHistoryLimit", spec.revision_history_limit),
        ] {
            validation::non_negative(path.child(field), value.unwrap_or_default(), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        errors.immutable("spec.selector", &self.spec.selector, &old.spec.selector);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        for (field, value) in [
            ("currentNumberScheduled", status.current_number_scheduled),
            ("numberMisscheduled", status.number_misscheduled),
            ("desiredNumberScheduled", status.desired_number_scheduled),
            ("numberReady", status.number_ready),
            ("updatedNumberScheduled", status.updated_number_scheduled.unwrap_or_default()),
            ("numberAvailable", status.number_available.unwrap_or_default()),
            ("numberUnavailable", status.number_unavailable.unwrap_or_default()),
        ] {
            validation::non_negative(path.child(field), value, errors);
        }
        workload::observed(status.observed_generation, errors);
        let old = old.status.as_ref().and_then(|s| s.collision_count);
        workload::collisions(status.collision_count, old, errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let before = old.map(|old| &old.spec.template);
        pod::warnings::of_template(&self.spec.template, "spec.template", before)
    }

    fn columns() -> Vec<Column> {
        workload::columns(&[
            table::narrow("Desired", "integer", "How many nodes should have a pod of it."),
            table::narrow("Current", "integer", "How many of those nodes have one."),
            table::narrow("Ready", "integer", "How many of those nodes have one that is ready."),
            table::narrow("Up-to-date", "integer", "How many have one of the current template."),
            table::narrow("Available", "integer", "How many have one that was ready for long enough."),
            table::narrow("Node Selector", "string", "The labels that nodes must have."),
        ])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let spec = &self.spec;
        let nodes = spec.template.spec.as_ref().and_then(|s| s.node_selector.as_ref());
        table::wide_cells(
            &self.metadata,
            now,
            vec![
                json!(status.desired_number_scheduled),
                json!(status.current_number_scheduled),
                json!(status.number_ready),
                json!(status.updated_number_scheduled.unwrap_or_default()),
                json!(status.number_available.unwrap_or_default()),
                json!(table::labels(nodes)),
            ],
            workload::wide_cells(Some(&spec.template), table::selector(Some(&spec.selector))),
        )
    }
}

fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION)?.parse().ok()
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string());
}

fn strategy(spec: &DaemonSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let default = DaemonSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&default);
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, &path.child("rollingUpdate"), errors),
        ("RollingUpdate", None) => errors.required(path.child("rollingUpdate"), ""),
        ("OnDelete", _) => {}
        (other, _) => {
            errors.not_supported_value(path, workload::Strategy::of(other), &["RollingUpdate", "OnDelete"])
        }
    }
}

fn rolling_update(rolling: &RollingUpdateDaemonSet, path: &Path<'_>, errors: &mut Errors) {
    let amounts =
        [("maxUnavailable", rolling.max_unavailable.as_ref()), ("maxSurge", rolling.max_surge.as_ref())];
    for check in [workload::int_or_percent, workload::at_most_all] {
        for (field, value) in amounts {
            if let Some(value) = value {
                check(value, &path.child(field), errors);
            }
        }
    }
    match amounts.map(|(_, value)| workload::amount(value) != 0) {
        [true, true] => errors.invalid(
            path.child("maxSurge"),
            &rolling.max_surge,
            "may not be set when maxUnavailable is non-zero",
        ),
        [false, false] => {
            errors.required(path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{self, defaulted};

    use super::*;

    fn daemon_set() -> Value {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template":
            {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut set = daemon_set();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        set.pointer_mut(parent).unwrap()[field] = value;
        set
    }

    #[test]
    fn one_bad_daemon_set_per_rule() {
        let rolling = |value: Value| with("/spec/updateStrategy", json!({"rollingUpdate": value}));
        testing::valid::<DaemonSet>(&[
            daemon_set(),
            rolling(json!({"maxSurge": "10%", "maxUnavailable": 0})),
            with("/spec/updateStrategy", json!({"type": "OnDelete"})),
        ]);
        testing::invalid::<DaemonSet>(&[
            (
                with("/spec/selector", json!({"matchLabels": {}})),
                "spec.selector",
                "Invalid value: {}: empty selector is invalid for daemonset",
            ),
            (
                with("/spec/selector", json!({"matchLabels": {"app": "y"}})),
                "spec.template.metadata.labels",
                "Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
            ),
            (
                with("/spec/template/spec/restartPolicy", json!("Never")),
                "spec.template.spec.restartPolicy",
                "Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                with("/spec/template/spec/activeDeadlineSeconds", json!(5)),
                "spec.template.spec.activeDeadlineSeconds",
                "Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
            ),
            (
                rolling(json!({"maxSurge": 1, "maxUnavailable": 1})),
                "spec.updateStrategy.rollingUpdate.maxSurge",
                "Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ),
            (
                rolling(json!({"maxUnavailable": 0})),
                "spec.updateStrategy.rollingUpdate.maxUnavailable",
                "Required value: cannot be 0 when maxSurge is 0",
            ),
            (
                rolling(json!({"maxUnavailable": "101%"})),
                "spec.updateStrategy.rollingUpdate.maxUnavailable",
                "Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                with("/spec/updateStrategy", json!({"type": "X"})),
                "spec.updateStrategy",
                "Unsupported value: {\"Type\":\"X\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\"",
            ),
            (
                with("/spec/minReadySeconds", json!(-1)),
                "spec.minReadySeconds",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
        ]);
    }

    #[test]
    fn templates_are_counted() {
        let generation = |set: &DaemonSet| template_generation(set);
        let mut old: DaemonSet = defaulted(daemon_set());
        old.prepare_create();
        assert_eq!(generation(&old), Some(1));
        let mut same: DaemonSet = defaulted(daemon_set());
        same.prepare_update(&old);
        assert_eq!(generation(&same), Some(1));
        let mut other: DaemonSet =
            defaulted(with("/spec/template/spec/containers", json!([{"name": "c", "image": "i:2"}])));
        other.prepare_update(&old);
        assert_eq!(generation(&other), Some(2));
    }

    #[test]
    fn columns() {
        let mut set = with("/spec/template/spec/nodeSelector", json!({"a": "b"}));
        set["status"] = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "numberMisscheduled": 0});
        assert_eq!(
            testing::cells::<DaemonSet>(set),
            ["d", "3", "2", "1", "0", "0", "a=b", "<unknown>", "c", "i:1", "app=x"]
        );
    }
}
