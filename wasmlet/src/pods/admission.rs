//! Whether a pod fits on this node: the kubelet's own check, after the scheduler's. Pure.

use std::collections::BTreeMap;

use coracle_client::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

/// What pods ask for, or what the node has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    pub pods: i64,
}

impl Amounts {
    pub fn add(&mut self, other: Amounts) {
        *self = self.zip(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: Amounts) {
        *self = self.zip(other, i64::saturating_sub);
    }

    fn zip(self, other: Amounts, f: fn(i64, i64) -> i64) -> Amounts {
        Amounts {
            cpu_millis: f(self.cpu_millis, other.cpu_millis),
            memory_bytes: f(self.memory_bytes, other.memory_bytes),
            ephemeral_bytes: f(self.ephemeral_bytes, other.ephemeral_bytes),
            pods: f(self.pods, other.pods),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

fn amounts(requests: Option<&BTreeMap<String, Wire>>) -> Amounts {
    let of = |name: &str| requests.and_then(|r| r.get(name)).and_then(|wire| Quantity::of(wire).ok());
    Amounts {
        cpu_millis: of("cpu").map_or(0, Quantity::milli_value),
        memory_bytes: of("memory").map_or(0, Quantity::value),
        ephemeral_bytes: of("ephemeral-storage").map_or(0, Quantity::value),
        pods: 0,
    }
}

/// Upstream's effective request: containers and sidecars together, or the largest init step, plus overhead.
pub fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts { pods: 1, ..Amounts::default() } };
    let of = |container: &Container| amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let mut sum = Amounts::default();
    spec.containers.iter().for_each(|container| sum.add(of(container)));
    let (mut sidecars, mut largest) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let mut step = sidecars;
        step.add(of(container));
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = step;
        }
        largest = largest.zip(step, i64::max);
    }
    sum.add(sidecars);
    sum = sum.zip(largest, i64::max);
    if let Some(own) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let pod_level = amounts(Some(own));
        if own.contains_key("cpu") {
            sum.cpu_millis = pod_level.cpu_millis;
        }
        if own.contains_key("memory") {
            sum.memory_bytes = pod_level.memory_bytes;
        }
    }
    sum.add(amounts(spec.overhead.as_ref()));
    Amounts { pods: 1, ..sum }
}

/// `used`: by the pods accepted before.
pub fn fits(wanted: Amounts, used: Amounts, capacity: Amounts) -> Result<(), Rejection> {
    let resources = [
        ("pods", "OutOfpods", wanted.pods, used.pods, capacity.pods),
        ("cpu", "OutOfcpu", wanted.cpu_millis, used.cpu_millis, capacity.cpu_millis),
        ("memory", "OutOfmemory", wanted.memory_bytes, used.memory_bytes, capacity.memory_bytes),
        (
            "ephemeral-storage",
            "OutOfephemeral-storage",
            wanted.ephemeral_bytes,
            used.ephemeral_bytes,
            capacity.ephemeral_bytes,
        ),
    ];
    for (name, reason, wanted, used, capacity) in resources {
        if wanted > 0 && used.saturating_add(wanted) > capacity {
            return Err(Rejection {
                reason,
                message: format!(
                    "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    Ok(())
}

/// What this node cannot do for any pod, in words for the user. None: it can run it.
pub fn unsupported(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let asked = [
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
        ("shareProcessNamespace", spec.share_process_namespace),
    ];
    let flags = asked.iter().find(|(_, value)| *value == Some(true)).map(|(field, _)| {
        format!("spec.{field} is not supported for Wasm pods: they share no kernel namespaces with the node")
    });
    let os = spec
        .os
        .as_ref()
        .filter(|os| os.name != "linux")
        .map(|os| format!("spec.os.name {:?} is not this node's operating system (linux)", os.name));
    let privileged = || {
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.filter(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true))
            .map(|c| format!("container {}: privileged containers are not supported for Wasm pods", c.name))
            .next()
    };
    flags.or(os).or_else(privileged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn effective_requests() {
        let sidecar = || {
            let mut sidecar = container("10m", "1Ki");
            sidecar["restartPolicy"] = "Always".into();
            sidecar
        };
        for (what, spec, cpu, memory) in [
            ("none", json!({"containers": [{"name": "c"}]}), 0, 0),
            ("sum", json!({"containers": [container("100m", "1Ki"), container("1", "1Ki")]}), 1100, 2048),
            (
                "large init",
                json!({"containers": [container("100m", "1Ki")], "initContainers": [container("2", "1")]}),
                2000,
                1024,
            ),
            (
                "sidecar adds",
                json!({"containers": [container("100m", "1Ki")], "initContainers": [sidecar()]}),
                110,
                2048,
            ),
            (
                "sidecar beside init",
                json!({"containers": [container("100m", "1Ki")], "initContainers": [sidecar(), container("100m", "9Ki")]}),
                110,
                10240,
            ),
            (
                "pod level",
                json!({"resources": {"requests": {"cpu": "3"}}, "containers": [container("100m", "1Ki")]}),
                3000,
                1024,
            ),
            (
                "overhead",
                json!({"overhead": {"memory": "1Ki"}, "containers": [container("100m", "1Ki")]}),
                100,
                2048,
            ),
        ] {
            let got = requests(&pod(spec));
            assert_eq!((got.cpu_millis, got.memory_bytes, got.pods), (cpu, memory, 1), "{what}");
        }
    }

    #[test]
    fn rejections_are_upstreams() {
        let capacity = Amounts { cpu_millis: 2000, memory_bytes: 1000, ephemeral_bytes: 10, pods: 2 };
        let wanted = Amounts { cpu_millis: 500, memory_bytes: 100, ephemeral_bytes: 0, pods: 1 };
        for (used, want) in [
            (Amounts::default(), None),
            (Amounts { pods: 2, ..Amounts::default() }, Some("OutOfpods")),
            (Amounts { cpu_millis: 1600, ..Amounts::default() }, Some("OutOfcpu")),
            (Amounts { memory_bytes: 901, ..Amounts::default() }, Some("OutOfmemory")),
            (Amounts { ephemeral_bytes: 99, ..Amounts::default() }, None),
        ] {
            assert_eq!(fits(wanted, used, capacity).err().map(|r| r.reason), want, "{used:?}");
        }
        let full = fits(wanted, Amounts { cpu_millis: 1600, ..Amounts::default() }, capacity).unwrap_err();
        assert_eq!(
            full.message,
            "Node didn't have enough resource: cpu, requested: 500, used: 1600, capacity: 2000"
        );
    }

    #[test]
    fn what_wasm_cannot_do_is_named() {
        for (spec, want) in [
            (json!({"containers": []}), false),
            (json!({"containers": [], "hostPID": true}), true),
            (json!({"containers": [], "hostNetwork": false}), false),
            (json!({"containers": [], "os": {"name": "windows"}}), true),
            (json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]}), true),
        ] {
            assert_eq!(unsupported(&pod(spec.clone())).is_some(), want, "{spec}");
        }
    }
}
