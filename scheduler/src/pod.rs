//! What the scheduler needs of a pod: decoded once from the parts of the object that count.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::persistent_volumes::{PodClaim, claim_of};
use coracle_client::{Key, Object, Uid};
use k8s_openapi::api::core::v1::{
    Affinity, Container, PodSchedulingGate, Toleration, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde::Deserialize;

use crate::resources::{DEFAULT_MEMORY, DEFAULT_MILLI_CPU, Resources};

/// A port on the node that a container wants for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub protocol: Box<str>,
    pub ip: Box<str>,
    pub port: i32,
}

impl HostPort {
    /// Same protocol and port, and one address or a wildcard.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let wild = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || wild(&self.ip) || wild(&other.ip))
    }
}

/// Kept for every pod that takes room on a node.
#[derive(Debug, Default)]
pub struct Load {
    pub requests: Resources,
    /// Requests with defaults for what is not named: cpu in thousandths, memory in bytes.
    pub scored: (i64, i64),
    pub host_ports: Vec<HostPort>,
    pub namespace: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub controller_uid: Option<Uid>,
    pub deleting: bool,
    /// The claims that its volumes are of.
    pub claims: Box<[PodClaim]>,
}

/// A pod to be placed.
#[derive(Debug, Default)]
pub struct PodInfo {
    pub key: Option<Key>,
    pub uid: Uid,
    pub node_name: Option<String>,
    pub scheduler_name: String,
    pub priority: i32,
    pub load: Arc<Load>,
    pub node_selector: BTreeMap<String, String>,
    pub affinity: Option<Affinity>,
    pub tolerations: Vec<Toleration>,
    pub spread: Vec<TopologySpreadConstraint>,
    pub gates: Vec<PodSchedulingGate>,
    pub terminal: bool,
    /// The message of the PodScheduled=False condition that the pod has, if any.
    pub told: Option<String>,
    pub deleting: bool,
}

impl PodInfo {
    pub fn decode(object: &Object) -> Result<Self, serde_json::Error> {
        let view: View = object.decode()?;
        let told = view
            .status
            .conditions
            .into_iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .map(|c| c.message.unwrap_or_default());
        let spec = view.spec;
        let requests = requests(&spec);
        let load = Load {
            scored: scored(&spec, &requests),
            requests,
            host_ports: host_ports(&spec),
            namespace: object.head.namespace.clone(),
            labels: object.head.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            controller_uid: object.head.controller().map(|o| o.uid.clone()),
            deleting: object.head.deleting,
            claims: claims(&object.head.name, &spec),
        };
        Ok(Self {
            key: Some(object.key()),
            uid: object.head.uid.clone(),
            node_name: spec.node_name.filter(|n| !n.is_empty()),
            scheduler_name: spec.scheduler_name.unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            load: Arc::new(load),
            node_selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity,
            tolerations: spec.tolerations.unwrap_or_default(),
            spread: spec.topology_spread_constraints.unwrap_or_default(),
            gates: spec.scheduling_gates.unwrap_or_default(),
            terminal: matches!(view.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            told,
            deleting: object.head.deleting,
        })
    }
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    scheduler_name: Option<String>,
    priority: Option<i32>,
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<Affinity>,
    tolerations: Option<Vec<Toleration>>,
    topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    scheduling_gates: Option<Vec<PodSchedulingGate>>,
    #[serde(default)]
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
    overhead: Option<BTreeMap<String, Wire>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Deserialize, Default)]
struct Status {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    message: Option<String>,
}

fn asked(container: &Container) -> Resources {
    Resources::of(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

fn restarts_always(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Containers together, or the most that an init container needs beside the sidecars started before it, if more.
fn requests(spec: &Spec) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&asked(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = asked(container);
        if restarts_always(container) {
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut together = sidecars.clone();
            together.add(&own);
            peak.raise_to(&together);
        }
    }
    total.add(&sidecars);
    total.raise_to(&peak);
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

fn claims(pod: &str, spec: &Spec) -> Box<[PodClaim]> {
    spec.volumes.iter().flatten().filter_map(|volume| claim_of(pod, volume)).collect()
}

fn scored(spec: &Spec, requests: &Resources) -> (i64, i64) {
    let (mut cpu, mut memory) = (0, 0);
    for container in &spec.containers {
        let own = asked(container);
        cpu += if own.milli_cpu == 0 { DEFAULT_MILLI_CPU } else { own.milli_cpu };
        memory += if own.memory == 0 { DEFAULT_MEMORY } else { own.memory };
    }
    (cpu.max(requests.milli_cpu), memory.max(requests.memory))
}

fn host_ports(spec: &Spec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| restarts_always(c));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0)?;
            Some(HostPort {
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                ip: port.host_ip.as_deref().unwrap_or_default().into(),
                port: number,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decoded(spec: serde_json::Value) -> PodInfo {
        let json =
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}).to_string();
        PodInfo::decode(&Object::parse(json.into(), &[]).unwrap()).unwrap()
    }

    #[test]
    fn requests_are_containers_or_the_peak_of_init_containers() {
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, want) in [
            (json!({"containers": [c("100m"), c("200m")]}), 300),
            (json!({"containers": [c("100m")], "initContainers": [c("1")]}), 1000),
            (json!({"containers": [c("100m")], "initContainers": [sidecar("50m"), c("1")]}), 1050),
            (json!({"containers": [c("100m")], "initContainers": [sidecar("50m")]}), 150),
            (json!({"containers": [c("100m")], "overhead": {"cpu": "10m"}}), 110),
            (json!({"containers": [{"name": "c"}]}), 0),
        ] {
            assert_eq!(decoded(spec.clone()).load.requests.milli_cpu, want, "{spec}");
        }
        assert_eq!(decoded(json!({"containers": [{"name": "c"}]})).load.scored.0, DEFAULT_MILLI_CPU);
    }

    #[test]
    fn host_ports_conflict_by_protocol_port_and_address() {
        let port =
            |protocol: &str, ip: &str, port| HostPort { protocol: protocol.into(), ip: ip.into(), port };
        for (a, b, want) in [
            (port("TCP", "", 80), port("TCP", "10.0.0.1", 80), true),
            (port("TCP", "10.0.0.2", 80), port("TCP", "10.0.0.1", 80), false),
            (port("TCP", "", 80), port("UDP", "", 80), false),
            (port("TCP", "", 80), port("TCP", "", 81), false),
        ] {
            assert_eq!(a.conflicts_with(&b), want);
            assert_eq!(b.conflicts_with(&a), want);
        }
    }
}
