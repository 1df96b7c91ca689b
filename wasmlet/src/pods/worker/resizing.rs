//! In-place resizing: new requests and limits of a pod that runs, where the node has room for them.

use coracle_client::events::EventType;
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::Worker;
use crate::pods::admission;
use crate::pods::operations::Done;
use crate::pods::start::limits_of;
use crate::pods::state::{PodState, Resize};

impl Worker {
    /// What a pod that is accepted gets.
    pub(super) fn allocate(state: &mut PodState, spec: &crate::pods::spec::Spec, pod: &Pod) {
        for (index, container) in state.containers.iter_mut().enumerate() {
            container.resources = spec.container_of(pod, index).and_then(|view| resources_of(&view));
        }
    }

    /// Gives the containers what the pod's spec says by now, or says why not.
    pub(super) fn resize(&mut self, pod: &Pod) {
        let mut changed = Vec::new();
        for index in 0..self.spec.main_end {
            let Some(view) = self.spec.container_of(pod, index) else { continue };
            let wanted = resources_of(&view);
            if wanted != self.state.containers[index].resources {
                changed.push((index, wanted, view.into_owned()));
            }
        }
        if changed.is_empty() {
            self.status_dirty |= self.state.resize.take().is_some();
            return;
        }
        let uid = self.object.head.uid.clone();
        if let Err(pending) = self.context.ledger.resize(&uid, admission::requests(pod)) {
            if self.state.resize.as_ref() != Some(&pending) {
                let reason = format!("Resize{}", pending.reason);
                self.events().warning(&reason, pending.message.clone());
                let freed = self.context.ledger.freed();
                if pending.reason == "Deferred" {
                    self.operations.push(freed.map(|()| Done::Freed).boxed());
                }
            }
            self.state.resize = Some(pending);
            self.status_dirty = true;
            return;
        }
        for (index, wanted, view) in changed {
            let before = std::mem::replace(&mut self.state.containers[index].resources, wanted);
            let after = self.state.containers[index].resources.as_deref();
            let restart = must_restart(&view, before.as_deref(), after);
            let Some(live) = self.live.get(&index) else { continue };
            if restart {
                self.kill_event(index, &format!("Container {} resize requires restart", view.name));
                self.stop(index, self.spec.grace_seconds);
            } else {
                live.container.resize(limits_of(&view));
            }
        }
        self.state.resize = None;
        self.status_dirty = true;
        let message = "Pod resize completed";
        self.events().container("", EventType::Normal, "ResizeCompleted", message);
    }
}

/// None where nothing is asked for.
fn resources_of(container: &Container) -> Option<Box<ResourceRequirements>> {
    let resources = container.resources.clone()?;
    let some = resources.limits.as_ref().is_some_and(|l| !l.is_empty())
        || resources.requests.as_ref().is_some_and(|r| !r.is_empty());
    some.then(|| Box::new(resources))
}

/// Whether a resource that changes has the policy `RestartContainer`.
fn must_restart(
    container: &Container,
    before: Option<&ResourceRequirements>,
    after: Option<&ResourceRequirements>,
) -> bool {
    let differs = |name: &str| {
        let of = |resources: Option<&ResourceRequirements>| {
            let limit = resources.and_then(|r| r.limits.as_ref()?.get(name)).cloned();
            let request = resources.and_then(|r| r.requests.as_ref()?.get(name)).cloned();
            (limit, request)
        };
        of(before) != of(after)
    };
    container
        .resize_policy
        .iter()
        .flatten()
        .any(|policy| policy.restart_policy == "RestartContainer" && differs(&policy.resource_name))
}

/// Why a resize waits, as the condition `PodResizePending` says it.
impl Resize {
    pub fn infeasible(message: String) -> Self {
        Resize { reason: "Infeasible", message }
    }

    pub fn deferred(message: String) -> Self {
        Resize { reason: "Deferred", message }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_are_by_resource() {
        let container: Container = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .unwrap();
        let resources = |cpu: &str, memory: &str| -> ResourceRequirements {
            serde_json::from_value(json!({"limits": {"cpu": cpu, "memory": memory}})).unwrap()
        };
        let before = resources("1", "1Gi");
        for (after, want) in
            [(resources("2", "1Gi"), false), (resources("1", "2Gi"), true), (resources("1", "1Gi"), false)]
        {
            assert_eq!(must_restart(&container, Some(&before), Some(&after)), want);
        }
    }
}
