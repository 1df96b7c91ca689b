//! Pod: containers that run together on one node. Its defaults and rules also serve the templates of controllers.

mod cells;
mod container;
pub(crate) mod defaults;
mod env;
pub(crate) mod placement;
mod probe;
pub mod references;
pub(crate) mod resources;
pub(crate) mod spec;
mod update;
pub(crate) mod volumes;
pub(crate) mod warnings;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use serde_json::Value;

use super::{BuiltIn, Column};
use crate::field_error::{Errors, Path};

impl BuiltIn for Pod {
    const SINGULAR: &'static str = "pod";
    const RETURNS_DELETED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["po"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] =
        &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]];
    const SUBRESOURCES: &'static [&'static str] = &[
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
    ];
    const HAS_GENERATION: bool = true;

    /// None, whatever the client asks for, where nothing has to stop: the pod is on no node, or is over.
    fn deletion_grace_seconds(&self) -> Option<i64> {
        let spec = self.spec.as_ref()?;
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        if spec.node_name.as_ref().is_none_or(String::is_empty)
            || matches!(phase, Some("Succeeded" | "Failed"))
        {
            return None;
        }
        // Negative periods count as one second.
        spec.termination_grace_period_seconds.map(|s| if s < 0 { 1 } else { s })
    }

    fn set_defaults(&mut self) {
        defaults::pod(self);
    }

    fn prepare_create(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
        let conditions = gated.then(|| {
            vec![PodCondition {
                type_: "PodScheduled".into(),
                status: "False".into(),
                reason: Some("SchedulingGated".into()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
                ..PodCondition::default()
            }]
        });
        self.status = Some(PodStatus {
            phase: Some("Pending".into()),
            qos_class: Some(resources::qos_class(spec).into()),
            conditions,
            ..PodStatus::default()
        });
    }

    fn prepare_status_update(&mut self, old: &Self) {
        // The class of service is decided once.
        let class = old.status.as_ref().and_then(|s| s.qos_class.clone());
        if let (Some(status), Some(class)) = (&mut self.status, class) {
            status.qos_class = Some(class);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return errors.required(path.child("containers"), "") };
        spec::validate(spec, &path, errors);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
        if gated && spec.node_name.as_ref().is_some_and(|n| !n.is_empty()) {
            errors.forbidden(
                path.child("nodeName"),
                "cannot be set until all schedulingGates have been cleared",
            );
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        if self.spec.as_ref().is_some_and(|s| s.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()))
        {
            errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        update::validate(self, old, errors);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        update::validate_status(self, old, errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        match (&self.spec, old) {
            (Some(spec), None) => warnings::of_spec(spec, &self.metadata, ""),
            _ => Vec::new(),
        }
    }

    fn columns() -> Vec<Column> {
        cells::columns()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        cells::cells(self, now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::defaulted;

    use super::*;

    #[test]
    fn a_new_pod_is_pending_with_its_class_of_service() {
        let mut pod: Pod = defaulted(json!({"spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "1.2.3.4"}}));
        pod.prepare_create();
        assert_eq!(
            serde_json::to_value(pod.status).unwrap(),
            json!({"phase": "Pending", "qosClass": "BestEffort"})
        );
    }

    #[test]
    fn ephemeral_containers_come_later() {
        let pod: Pod = defaulted(json!({"spec": {"containers": [{"name": "c", "image": "i"}],
            "ephemeralContainers": [{"name": "debug", "image": "i", "targetContainerName": "c"}]}}));
        let mut errors = Errors::default();
        pod.validate(&mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        pod.validate_create(&mut errors);
        assert_eq!(errors.into_causes()[0].field, "spec.ephemeralContainers");
    }

    #[test]
    fn grace_is_for_pods_that_run() {
        for (spec, phase, want) in [
            (json!({"containers": []}), "Pending", None),
            (json!({"containers": [], "nodeName": "n"}), "Running", Some(30)),
            (
                json!({"containers": [], "nodeName": "n", "terminationGracePeriodSeconds": -5}),
                "Running",
                Some(1),
            ),
            (json!({"containers": [], "nodeName": "n"}), "Succeeded", None),
        ] {
            let pod: Pod = defaulted(json!({"spec": spec, "status": {"phase": phase}}));
            assert_eq!(pod.deletion_grace_seconds(), want);
        }
    }
}
