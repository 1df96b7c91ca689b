//! What may change in a pod that exists.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};

use crate::field_error::{Errors, Path};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
    let path = Path::new("spec");
    if new.containers.len() != old.containers.len() {
        return errors.forbidden(path.child("containers"), "pod updates may not add or remove containers");
    }
    let (new_init, old_init) = (
        new.init_containers.as_deref().unwrap_or_default(),
        old.init_containers.as_deref().unwrap_or_default(),
    );
    if new_init.len() != old_init.len() {
        return errors
            .forbidden(path.child("initContainers"), "pod updates may not add or remove containers");
    }
    deadline(new.active_deadline_seconds, old.active_deadline_seconds, errors);
    gates(new, old, errors);

    // What is allowed is taken from the old spec; whatever then still differs is not.
    let mut same = new.clone();
    take_images(&mut same.containers, &old.containers);
    take_images(same.init_containers.as_deref_mut().unwrap_or_default(), old_init);
    same.active_deadline_seconds = old.active_deadline_seconds;
    same.scheduling_gates = old.scheduling_gates.clone();
    let gated = old.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    if gated {
        // A pod that may not be scheduled yet can still be steered, as long as that narrows where it may run.
        if narrows(new, old) {
            same.node_selector = old.node_selector.clone();
        }
        if old.affinity.is_none() {
            same.affinity = None;
        }
    }
    same.tolerations = old.tolerations.clone();
    if !only_adds(
        new.tolerations.as_deref().unwrap_or_default(),
        old.tolerations.as_deref().unwrap_or_default(),
    ) {
        errors.forbidden(
            path.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        same.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    same.ephemeral_containers = old.ephemeral_containers.clone();
    if same != *old {
        errors.forbidden(path, &format!("{ALLOWED}\n{}", difference(&same, old)));
    } else if new.ephemeral_containers != old.ephemeral_containers {
        errors.forbidden(path, &format!("{ALLOWED}\n{}", difference(new, old)));
    }
}

/// Status may not undo what has been decided: a container that ended for good does not come back.
pub(super) fn validate_status(new: &Pod, old: &Pod, errors: &mut Errors) {
    let spec = old.spec.clone().unwrap_or_default();
    let (new, old) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    let path = Path::new("status");
    if let Some(nominated) = new.nominated_node_name.as_deref().filter(|n| !n.is_empty()) {
        errors.check(path.child("nominatedNodeName"), nominated, crate::validation::dns_subdomain);
    }
    for (field, new, old) in [
        ("containerStatuses", &new.container_statuses, &old.container_statuses),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses),
    ] {
        let stays: fn(i32) -> bool = match spec.restart_policy.as_deref() {
            Some("Never") => |_| true,
            Some("OnFailure") => |code| code == 0,
            _ => continue,
        };
        for (i, container) in new.iter().flatten().enumerate() {
            let sidecar = spec
                .init_containers
                .iter()
                .flatten()
                .any(|c| c.name == container.name && c.restart_policy.as_deref() == Some("Always"));
            let own_rules =
                spec.containers.iter().any(|c| c.name == container.name && c.restart_policy.is_some());
            let before = old.iter().flatten().find(|c| c.name == container.name);
            let ended = before.and_then(|c| c.state.as_ref()?.terminated.as_ref());
            let ends = container.state.as_ref().is_some_and(|s| s.terminated.is_some());
            if !sidecar && !own_rules && !ends && ended.is_some_and(|e| stays(e.exit_code)) {
                let at = path.child(field);
                errors
                    .forbidden(at.index(i).child("state"), "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// Which fields differ, one a line, as was and is.
fn difference(new: &PodSpec, old: &PodSpec) -> String {
    use serde_json::Value;
    let fields = |spec: &PodSpec| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => Default::default(),
    };
    let (new, old) = (fields(new), fields(old));
    let mut names: Vec<&String> = new.keys().chain(old.keys()).collect();
    names.sort();
    names.dedup();
    let mut text = String::new();
    for name in names.into_iter().filter(|n| new.get(*n) != old.get(*n)) {
        for (sign, side) in [('-', old.get(name)), ('+', new.get(name))] {
            if let Some(value) = side {
                text.push_str(&format!("{sign} {name}: {value}\n"));
            }
        }
    }
    text
}

fn take_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        // An image may be changed, but not removed: validation of the new object says so.
        new.image = old.image.clone();
    }
}

fn deadline(new: Option<i64>, old: Option<i64>, errors: &mut Errors) {
    let field = "spec.activeDeadlineSeconds";
    match (new, old) {
        (None, Some(_)) => errors.invalid(field, new, "must not update from a positive integer to nil value"),
        (Some(new), Some(old)) if new > old => {
            errors.invalid(field, new, "must be less than or equal to previous value");
        }
        _ => {}
    }
}

fn gates(new: &PodSpec, old: &PodSpec, errors: &mut Errors) {
    let old_gates = old.scheduling_gates.as_deref().unwrap_or_default();
    let path = Path::new("spec");
    let path = path.child("schedulingGates");
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old_gates.contains(gate) {
            let detail =
                "only deletion is allowed, but found new scheduling gate '".to_owned() + &gate.name + "'";
            errors.forbidden(path.index(i), &detail);
        }
    }
}

/// The new node selector asks for all the old one did.
fn narrows(new: &PodSpec, old: &PodSpec) -> bool {
    let new = new.node_selector.clone().unwrap_or_default();
    old.node_selector.iter().flatten().all(|(key, value)| new.get(key) == Some(value))
}

/// Every old toleration is still there, its seconds aside.
fn only_adds(new: &[Toleration], old: &[Toleration]) -> bool {
    let without_seconds = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() };
    old.iter().all(|old| new.iter().any(|new| without_seconds(new) == without_seconds(old)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::kinds::testing;

    use super::*;

    fn pod(field: &str, value: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i:1"}]});
        spec[field] = value;
        json!({"spec": spec})
    }

    #[test]
    fn what_may_change() {
        let base = pod("activeDeadlineSeconds", json!(10));
        let tolerations = |seconds: i64, more: &[Value]| {
            let mut list = vec![
                json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}),
            ];
            list.extend_from_slice(more);
            pod("tolerations", json!(list))
        };
        testing::updates::<Pod>(&[
            (base.clone(), base.clone(), "", ""),
            (
                json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}}),
                json!({"spec": {"containers": [{"name": "c", "image": "i:2"}]}}),
                "",
                "",
            ),
            (base.clone(), pod("activeDeadlineSeconds", json!(5)), "", ""),
            (
                base.clone(),
                pod("activeDeadlineSeconds", json!(20)),
                "spec.activeDeadlineSeconds",
                "Invalid value: 20: must be less than or equal to previous value",
            ),
            (
                base.clone(),
                pod("activeDeadlineSeconds", json!(null)),
                "spec.activeDeadlineSeconds",
                "Invalid value: null: must not update from a positive integer to nil value",
            ),
            (
                pod("hostname", json!("a")),
                pod("hostname", json!("b")),
                "spec",
                "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,",
            ),
            (
                pod("nodeName", json!("a")),
                pod("nodeName", json!("b")),
                "spec",
                "Forbidden: pod updates may not change",
            ),
            (
                base,
                json!({"spec": {"activeDeadlineSeconds": 10, "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}}),
                "spec.containers",
                "Forbidden: pod updates may not add or remove containers",
            ),
            (tolerations(5, &[]), tolerations(6, &[json!({"operator": "Exists"})]), "", ""),
            (
                tolerations(5, &[]),
                pod("tolerations", json!([])),
                "spec.tolerations",
                "Forbidden: existing toleration can not be modified except its tolerationSeconds",
            ),
            (pod("schedulingGates", json!([{"name": "a"}])), pod("schedulingGates", json!([])), "", ""),
            (
                pod("schedulingGates", json!([])),
                pod("schedulingGates", json!([{"name": "a"}])),
                "spec.schedulingGates[0]",
                "Forbidden: only deletion is allowed, but found new scheduling gate 'a'",
            ),
        ]);
    }
}
