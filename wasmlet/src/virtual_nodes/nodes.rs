//! The virtual nodes' own objects: registered, and their status kept true.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::persistent_volumes::LOCAL_PATH_DIRECTORY;
use coracle_client::{ApiError, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::disks;
use super::fleet::{Fleet, Member, Name, Report};
use super::pod::RUNTIME;
use super::server::{METRICS_PATH_ANNOTATION, metrics_path};
use crate::node::machine::{Available, Machine};
use crate::node::status::{Facts, compose, conditions};
use crate::node::{self, Heartbeat};

/// Nodes worked on at once.
pub const WRITERS: usize = 16;
const ZONE: &str = "topology.kubernetes.io/zone";
/// How long a new node waits for its pod range before it says that it has none.
const RANGE_PATIENCE: Duration = Duration::from_secs(2);

/// What all virtual nodes have in common.
#[derive(Debug, Clone)]
pub struct Template {
    pub labels: BTreeMap<String, String>,
    /// Given to the nodes in turn.
    pub zones: Vec<String>,
    pub taints: Vec<Taint>,
    pub architecture: String,
    /// `cpu`, `memory`, `ephemeral-storage`, `pods` and extended resources.
    pub capacity: BTreeMap<String, Wire>,
    /// How pods behave, by annotation.
    pub annotations: BTreeMap<String, String>,
}

impl Template {
    fn facts(&self, name: &str, index: usize, address: IpAddr, port: u16) -> Facts {
        let mut labels = self.labels.clone();
        if let Some(zone) = self.zones.get(index % self.zones.len().max(1)) {
            labels.insert(ZONE.into(), zone.clone());
        }
        Facts {
            name: name.to_owned(),
            address: address.to_string(),
            address6: None,
            port,
            machine: Machine {
                architecture: self.architecture.clone(),
                kernel: "virtual".into(),
                os_image: "virtual".into(),
                machine_id: name.to_owned(),
                system_uuid: name.to_owned(),
                boot_id: name.to_owned(),
                ..Machine::default()
            },
            pods_max: 0,
            runtimes: vec![RUNTIME.into()],
            runtime_version: format!("{RUNTIME}://1"),
            labels,
            annotations: BTreeMap::new(),
            taints: self.taints.clone(),
        }
    }

    /// No more pods than the node's range has addresses.
    fn capacity(&self, range_holds: Option<u64>) -> BTreeMap<String, Wire> {
        let mut capacity = self.capacity.clone();
        if let (Some(pods), Some(holds)) = (capacity.get_mut("pods"), range_holds)
            && pods.0.parse::<u64>().is_ok_and(|most| most > holds)
        {
            *pods = Wire(holds.to_string());
        }
        capacity
    }

    fn status(&self, facts: &Facts, report: &Report, range_holds: Option<u64>, now: Timestamp) -> Value {
        let mut status = compose(facts, &report.conditions, &[], now);
        let capacity = json!(self.capacity(range_holds));
        status["capacity"] = capacity.clone();
        status["allocatable"] = capacity;
        status
    }
}

pub struct Nodes {
    pub fleet: Arc<Fleet>,
    pub template: Template,
    pub heartbeat: Heartbeat,
    /// Where their server listens; 0 where there is none.
    pub port: u16,
    pub started: Instant,
    /// How many the API has called Ready.
    pub ready: watch::Sender<usize>,
}

impl Reconciler for Nodes {
    type Key = Name;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "virtual-nodes"
    }

    async fn reconcile(&self, name: &Name) -> Result<Outcome, ApiError> {
        let Some(member) = self.fleet.member(name) else { return Ok(Outcome::Done) };
        if !member.is_registered() {
            self.register(name, member).await?;
            // The watch brings it, with its range, soon.
            return Ok(Outcome::After(RANGE_PATIENCE));
        }
        if !member.is_live() {
            return Ok(Outcome::Done);
        }
        let range = member.range_holds();
        if range.is_none() && self.started.elapsed() < RANGE_PATIENCE {
            return Ok(Outcome::After(RANGE_PATIENCE));
        }
        self.report(name, member, range).await
    }
}

impl Nodes {
    async fn register(&self, name: &Name, member: &Member) -> Result<(), ApiError> {
        let facts = self.template.facts(name, member.index, self.fleet.address, self.port);
        let mut wanted: Node = facts.node();
        let mut annotations = self.template.annotations.clone();
        annotations.insert(METRICS_PATH_ANNOTATION.into(), metrics_path(name));
        annotations.insert(LOCAL_PATH_DIRECTORY.into(), disks::DIRECTORY.into());
        wanted.metadata.annotations = Some(annotations);
        let node = node::register(&member.client, &wanted).await?;
        member.registered(node.metadata.uid);
        self.fleet.lease_queue.add(name.clone());
        Ok(())
    }

    /// Writes the status if it changed or is due.
    async fn report(&self, name: &Name, member: &Member, range: Option<u64>) -> Result<Outcome, ApiError> {
        let now = Timestamp::now();
        let facts = self.template.facts(name, member.index, self.fleet.address, self.port);
        let not_ready = range.is_none().then_some("the node has no podCIDR yet");
        let before = member.report();
        let plenty = Available {
            memory_bytes: u64::MAX,
            disk_bytes: u64::MAX,
            disk_total_bytes: u64::MAX,
            inodes: u64::MAX,
            inodes_total: u64::MAX,
            pids: u64::MAX,
        };
        let mut report =
            Report { conditions: conditions(&plenty, not_ready, &before.conditions, now), written: None };
        let mut hasher = DefaultHasher::new();
        let said = self.template.status(&facts, &report, range, Timestamp::UNIX_EPOCH);
        said.to_string().hash(&mut hasher);
        let hash = hasher.finish();
        let every = self.heartbeat.status_every;
        if let Some((known, at)) = before.written
            && known == hash
            && at.elapsed() < every
        {
            return Ok(Outcome::After(every.saturating_sub(at.elapsed())));
        }
        let patch = json!({"status": self.template.status(&facts, &report, range, now)});
        let written =
            member.client.patch::<Node>("", name, Some("status"), PatchType::Strategic, &patch).await;
        match written {
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            other => drop(other?),
        }
        let first = before.written.is_none();
        report.written = Some((hash, Instant::now()));
        member.reported(report);
        let was_ready = before.conditions.iter().any(|c| c.kind == "Ready" && c.status);
        if not_ready.is_none() && !was_ready {
            self.ready.send_modify(|count| *count += 1);
        }
        // All at once after the start, spread from then on.
        let share = if first { 0.5 + rand::random::<f64>() / 2.0 } else { 1.0 };
        Ok(Outcome::After(every.mul_f64(share)))
    }
}
