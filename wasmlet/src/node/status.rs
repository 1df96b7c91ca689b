//! The node object and its status, from what the machine is and what is left of it. Pure.

use std::collections::BTreeMap;

use coracle_client::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::machine::{Available, Machine};
use crate::pods::admission::Amounts;
use crate::pods::images::Held;
use crate::pods::status::time;

/// What the node says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub name: String,
    pub address: String,
    /// Its second `InternalIP`, of IPv6.
    pub address6: Option<String>,
    pub port: u16,
    pub machine: Machine,
    pub pods_max: u64,
    /// Of RuntimeClass handlers: the runtimes of this node, the default first.
    pub runtimes: Vec<String>,
    /// `wasmtime://48.0.2`.
    pub runtime_version: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
}

/// Upstream shows no more than this many images.
const IMAGES_MAX: usize = 50;

impl Facts {
    /// The labels every node has, and those it was given.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let arch = &self.machine.architecture;
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        if let Some(runtime) = self.runtimes.first() {
            labels.insert("coracle.dev/runtime".to_owned(), runtime.clone());
        }
        labels.extend(self.labels.clone());
        labels
    }

    pub fn node(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.all_labels()),
                annotations: Some(self.annotations.clone()).filter(|a| !a.is_empty()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(self.taints.clone()).filter(|t| !t.is_empty()),
                ..NodeSpec::default()
            }),
            ..Node::default()
        }
    }

    pub fn capacity(&self) -> BTreeMap<String, Wire> {
        let bytes =
            |value: u64| Quantity::from_bytes(i64::try_from(value & !1023).unwrap_or(i64::MAX)).to_wire();
        let count = |value: u64| Quantity::from_units(i64::try_from(value).unwrap_or(i64::MAX)).to_wire();
        [
            ("cpu", count(u64::from(self.machine.cpus))),
            ("memory", bytes(self.machine.memory_bytes)),
            ("ephemeral-storage", bytes(self.machine.disk_bytes)),
            ("pods", Wire(self.pods_max.to_string())),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), amount))
        .collect()
    }

    /// The same for admission. Nothing is held back for the system: idle pods and node together take some 60 MiB.
    pub fn amounts(&self) -> Amounts {
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Amounts {
            cpu_millis: i64::from(self.machine.cpus) * 1000,
            memory_bytes: clamp(self.machine.memory_bytes),
            ephemeral_bytes: clamp(self.machine.disk_bytes),
            pods: clamp(self.pods_max),
        }
    }
}

/// One node condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
    pub since: Timestamp,
}

/// Below this much free memory, upstream's default, the node takes no best-effort pods.
const MEMORY_LEAST: u64 = 100 << 20;
/// Free disk: upstream's tenth, but no more than this; Wasm pods are small, and a tenth of a large disk is a lot.
const DISK_LEAST_MAX: u64 = 2 << 30;
const PIDS_LEAST: u64 = 500;

/// `not_ready`: why the node cannot run pods yet.
pub fn conditions(
    available: &Available,
    not_ready: Option<&str>,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let disk_least = (available.disk_total_bytes / 10).min(DISK_LEAST_MAX);
    let inodes_short = available.inodes_total > 0 && available.inodes < available.inodes_total / 20;
    let pressures = [
        (
            "MemoryPressure",
            available.memory_bytes < MEMORY_LEAST,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        (
            "DiskPressure",
            available.disk_bytes < disk_least || inodes_short,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        (
            "PIDPressure",
            available.pids < PIDS_LEAST,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ];
    let mut all: Vec<(&'static str, bool, &'static str, String)> = pressures
        .into_iter()
        .map(|(kind, status, pressed, free)| {
            let (reason, message) = if status { pressed } else { free };
            (kind, status, reason, message.to_owned())
        })
        .collect();
    all.push(match not_ready {
        Some(why) => ("Ready", false, "KubeletNotReady", why.to_owned()),
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
    });
    all.into_iter()
        .map(|(kind, status, reason, message)| {
            let known = before.iter().find(|c| c.kind == kind && c.status == status);
            Condition { kind, status, reason, message, since: known.map_or(now, |c| c.since) }
        })
        .collect()
}

/// NOTE: a patch merges addresses by type, and a node of two families has two of one type: then all are replaced, as the
/// kubelet does.
fn addresses(facts: &Facts) -> Vec<Value> {
    let second = facts.address6.as_ref();
    let replace = second.map(|_| json!({"$patch": "replace"}));
    let own = [
        Some(json!({"type": "InternalIP", "address": facts.address})),
        second.map(|address| json!({"type": "InternalIP", "address": address})),
        Some(json!({"type": "Hostname", "address": facts.name})),
    ];
    replace.into_iter().chain(own.into_iter().flatten()).collect()
}

/// The `status` of a strategic merge patch: conditions and addresses merge by type.
pub fn compose(facts: &Facts, conditions: &[Condition], images: &[Held], now: Timestamp) -> Value {
    let machine = &facts.machine;
    let mut images: Vec<&Held> = images.iter().collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images.truncate(IMAGES_MAX);
    json!({
        "addresses": addresses(facts),
        "capacity": facts.capacity(),
        "allocatable": facts.capacity(),
        "conditions": conditions.iter().map(|c| json!({
            "type": c.kind,
            "status": if c.status { "True" } else { "False" },
            "reason": c.reason,
            "message": c.message,
            "lastHeartbeatTime": time(now),
            "lastTransitionTime": time(c.since),
        })).collect::<Vec<_>>(),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.port}},
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": facts.runtime_version,
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": coracle_client::KUBERNETES_VERSION,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.system_uuid,
        },
        "images": images.iter().map(|image| json!({
            "names": [crate::pods::images::image_id(&image.reference, &image.digest), image.reference],
            "sizeBytes": image.size_bytes,
        })).collect::<Vec<_>>(),
        // The empty name is the handler of pods without a RuntimeClass.
        "runtimeHandlers": std::iter::once("").chain(facts.runtimes.iter().map(String::as_str)).map(|name| json!({
            "name": name,
            "features": {"recursiveReadOnlyMounts": false, "userNamespaces": false},
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            name: "n1".into(),
            address: "127.0.0.1".into(),
            address6: None,
            port: 10250,
            machine: Machine {
                architecture: "amd64".into(),
                cpus: 2,
                memory_bytes: 4 << 30,
                disk_bytes: 100 << 30,
                ..Machine::default()
            },
            pods_max: 500,
            runtimes: vec!["wasmtime".into()],
            runtime_version: "wasmtime://48".into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
        }
    }

    #[test]
    fn the_status_is_a_node_status() {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let conditions = conditions(&Available::default(), None, &[], now);
        let held = Held { reference: "reg/a:v1".into(), digest: "sha256:1".into(), size_bytes: 7 };
        let value = compose(&facts(), &conditions, &[held], now);
        let status: k8s_openapi::api::core::v1::NodeStatus = serde_json::from_value(value).unwrap();
        let capacity = status.capacity.unwrap();
        assert_eq!((capacity["cpu"].0.as_str(), capacity["memory"].0.as_str()), ("2", "4Gi"));
        assert_eq!(capacity["pods"].0, "500");
        assert_eq!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
        assert_eq!(status.images.unwrap()[0].names.as_ref().unwrap(), &["reg/a@sha256:1", "reg/a:v1"]);
        assert_eq!(status.runtime_handlers.unwrap().len(), 2);
    }

    #[test]
    fn a_second_address_replaces_the_list() {
        assert_eq!(addresses(&facts()).len(), 2);
        let both = addresses(&Facts { address6: Some("2001:db8::1".into()), ..facts() });
        let shown: Vec<&str> = both.iter().filter_map(|a| a["address"].as_str()).collect();
        assert_eq!(
            (both[0]["$patch"].as_str(), shown),
            (Some("replace"), vec!["127.0.0.1", "2001:db8::1", "n1"])
        );
    }

    #[test]
    fn labels() {
        let labels = facts().all_labels();
        for (key, want) in [
            ("kubernetes.io/hostname", "n1"),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
            ("coracle.dev/runtime", "wasmtime"),
            ("zone", "a"),
        ] {
            assert_eq!(labels.get(key).map(String::as_str), Some(want), "{key}");
        }
    }

    #[test]
    fn pressures() {
        let plenty = Available {
            memory_bytes: 1 << 30,
            disk_bytes: 50 << 30,
            disk_total_bytes: 100 << 30,
            inodes: 1000,
            inodes_total: 2000,
            pids: 10_000,
        };
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        for (what, available, pressed) in [
            ("plenty", plenty, None),
            ("memory", Available { memory_bytes: 50 << 20, ..plenty }, Some("MemoryPressure")),
            ("disk", Available { disk_bytes: 1 << 30, ..plenty }, Some("DiskPressure")),
            (
                "a tenth of a small disk",
                Available { disk_bytes: 1 << 30, disk_total_bytes: 8 << 30, ..plenty },
                None,
            ),
            ("inodes", Available { inodes: 50, ..plenty }, Some("DiskPressure")),
            ("no inodes counted", Available { inodes: 0, inodes_total: 0, ..plenty }, None),
            ("pids", Available { pids: 10, ..plenty }, Some("PIDPressure")),
        ] {
            let got: Vec<_> = conditions(&available, None, &[], now)
                .into_iter()
                .filter(|c| c.status && c.kind != "Ready")
                .map(|c| c.kind)
                .collect();
            assert_eq!(got, Vec::from_iter(pressed), "{what}");
        }
        let before = conditions(&plenty, Some("no network"), &[], now);
        let later = now + jiff::SignedDuration::from_secs(60);
        let after = conditions(&plenty, None, &before, later);
        assert_eq!(after[0].since, now);
        assert_eq!((after[3].kind, after[3].status, after[3].since), ("Ready", true, later));
    }
}
