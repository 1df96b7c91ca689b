//! A machine of the simulation: registers, renews its lease, brings its pods up and down in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{self, Outcome, Reconciler};
use coracle_client::informer::InformerScope;
use coracle_client::persistent_volumes::LOCAL_PATH_DIRECTORY;
use coracle_client::{ApiError, Client, DeleteOptions, Informer, Informers, Key, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Node, NodeCondition,
    NodeStatus, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::disks;
use crate::faults::Faults;

const HEARTBEAT: Duration = Duration::from_secs(10);
/// A status that nothing changed is written again after this.
const STATUS: Duration = Duration::from_secs(300);

/// A container ends by itself after this many milliseconds, with the exit code in the other annotation.
pub const RUNS_MILLIS: &str = "simulation/runs-millis";
pub const EXIT_CODE: &str = "simulation/exit-code";

/// Runs the machine until it is killed.
pub async fn run(name: String, number: u64, client: Client, faults: Arc<Faults>, killed: CancellationToken) {
    let informers = Informers::new(client.clone(), killed.clone());
    let scope =
        InformerScope { field_selector: Some(format!("spec.nodeName={name}")), ..InformerScope::default() };
    let pods = informers.scoped(Resource::of::<Pod>(), scope);
    let queue = WorkQueue::new();
    let waiting = queue.clone();
    pods.on_change(move |change| waiting.add(change.key()));
    let kubelet = Kubelet {
        pods,
        client: client.clone(),
        node: name.clone(),
        faults,
        number,
        next_address: Mutex::new(1),
        plans: Mutex::default(),
    };
    let work = controller::run(Arc::new(kubelet), queue, 4, killed.clone());
    tokio::select! {
        biased;
        () = killed.cancelled() => {}
        () = work => {}
        () = disks::run(client.clone(), &informers, &name, killed.clone()) => {}
        () = beat(&client, &name) => {}
        () = report(&client, &name, number) => {}
    }
}

/// The lease, as often as upstream's kubelet.
async fn beat(client: &Client, name: &str) {
    loop {
        let renewed = async {
            let renew_time = Some(MicroTime(Timestamp::now()));
            match client.find::<Lease>("kube-node-lease", name).await? {
                Some(mut lease) => {
                    lease.spec.get_or_insert_default().renew_time = renew_time;
                    client.update(&lease).await.map(drop)
                }
                None => {
                    let lease = Lease {
                        metadata: ObjectMeta {
                            name: Some(name.into()),
                            namespace: Some("kube-node-lease".into()),
                            ..ObjectMeta::default()
                        },
                        spec: Some(LeaseSpec {
                            holder_identity: Some(name.into()),
                            lease_duration_seconds: Some(40),
                            renew_time,
                            ..LeaseSpec::default()
                        }),
                    };
                    client.create(&lease).await.map(drop)
                }
            }
        };
        let result: Result<(), ApiError> = renewed.await;
        tokio::time::sleep(if result.is_ok() { HEARTBEAT } else { Duration::from_secs(1) }).await;
    }
}

/// The node object and its conditions.
async fn report(client: &Client, name: &str, number: u64) {
    let mut written: Option<tokio::time::Instant> = None;
    loop {
        let reported = async {
            let mut node = match client.find::<Node>("", name).await? {
                Some(node) => node,
                None => {
                    let labels = BTreeMap::from([
                        ("kubernetes.io/hostname".to_owned(), name.to_owned()),
                        ("topology.kubernetes.io/zone".to_owned(), format!("zone-{}", number % 2)),
                    ]);
                    let directory = (LOCAL_PATH_DIRECTORY.to_owned(), disks::DIRECTORY.to_owned());
                    let metadata = ObjectMeta {
                        name: Some(name.into()),
                        labels: Some(labels),
                        annotations: Some([directory].into()),
                        ..ObjectMeta::default()
                    };
                    client.create(&Node { metadata, ..Node::default() }).await?.decode()?
                }
            };
            let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let known = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
            if known && written.is_some_and(|at| at.elapsed() < STATUS) {
                return Ok(false);
            }
            let now = Time(Timestamp::now());
            let capacity = |cpu: &str, memory: &str| {
                Some(BTreeMap::from([
                    ("cpu".to_owned(), Quantity(cpu.into())),
                    ("memory".to_owned(), Quantity(memory.into())),
                    ("pods".to_owned(), Quantity("110".into())),
                ]))
            };
            let status = node.status.get_or_insert_with(NodeStatus::default);
            status.capacity = capacity("8", "16Gi");
            status.allocatable = capacity("8", "16Gi");
            let conditions = status.conditions.get_or_insert_default();
            let was = conditions.iter().find(|c| c.type_ == "Ready").cloned();
            conditions.retain(|c| c.type_ != "Ready");
            conditions.push(NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                reason: Some("KubeletReady".into()),
                message: Some("kubelet is posting ready status".into()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: was
                    .filter(|c| c.status == "True")
                    .map_or(Some(now), |c| c.last_transition_time),
            });
            client.update_status(&node).await.map(|_| true)
        };
        let result: Result<bool, ApiError> = reported.await;
        match result {
            Ok(true) => written = Some(tokio::time::Instant::now()),
            Ok(false) => {}
            Err(_) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

struct Kubelet {
    pods: Informer,
    client: Client,
    node: String,
    faults: Arc<Faults>,
    number: u64,
    next_address: Mutex<u64>,
    /// When the next thing happens to a pod, by uid and what it is.
    plans: Mutex<BTreeMap<(String, &'static str), tokio::time::Instant>>,
}

impl Kubelet {
    /// How long until the step is due; it was drawn when the step came up first.
    fn due(&self, uid: &str, step: &'static str, from: u64, to: u64) -> Duration {
        let now = tokio::time::Instant::now();
        let mut plans = self.plans.lock();
        let due = *plans.entry((uid.to_owned(), step)).or_insert_with(|| now + self.faults.millis(from, to));
        due.saturating_duration_since(now)
    }

    fn address(&self) -> String {
        let mut next = self.next_address.lock();
        *next += 1;
        format!("10.{}.{}.{}", 100 + self.number % 100, *next / 250, *next % 250 + 1)
    }
}

impl Reconciler for Kubelet {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "simulated-kubelet"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.pods.get_key(key) else { return Ok(Outcome::Done) };
        let mut pod: Pod = object.decode()?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            let left = self.due(&uid, "end", 10, 3_000);
            if !left.is_zero() {
                return Ok(Outcome::After(left));
            }
            let options = DeleteOptions::grace(0).uid(&uid);
            return match self.client.delete::<Pod>(&key.namespace, &key.name, options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(Outcome::Done),
            };
        }
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        let next = match phase.as_str() {
            "Succeeded" | "Failed" => return Ok(Outcome::Done),
            "Running" => {
                let annotations = pod.metadata.annotations.clone().unwrap_or_default();
                let runs = annotations.get(RUNS_MILLIS).and_then(|text| text.parse::<u64>().ok());
                let left = runs.map(|runs| self.due(&uid, "exit", runs, runs + 1));
                if left == Some(Duration::ZERO) {
                    let code = annotations.get(EXIT_CODE).and_then(|text| text.parse().ok()).unwrap_or(0);
                    ended(&pod, code)
                } else if is_ready(&pod) {
                    return Ok(left.map_or(Outcome::Done, Outcome::After));
                } else {
                    // While this node was silent, somebody else said that its pods are not ready.
                    let address = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
                    started(&pod, address)
                }
            }
            _ => {
                let left = self.due(&uid, "start", 20, 2_500);
                if !left.is_zero() {
                    return Ok(Outcome::After(left));
                }
                disks::mount(&self.client, &pod, &self.node).await?;
                started(&pod, self.address())
            }
        };
        pod.status = Some(next);
        match self.client.update_status(&pod).await {
            Ok(_) => Ok(Outcome::After(Duration::from_millis(100))),
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

fn conditions(pod: &Pod, ready: bool) -> Vec<PodCondition> {
    let now = Time(Timestamp::now());
    let mut all = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    for (type_, status) in [("Initialized", true), ("ContainersReady", ready), ("Ready", ready)] {
        let status = if status { "True" } else { "False" };
        if all.iter().any(|c| c.type_ == type_ && c.status == status) {
            continue;
        }
        all.retain(|c| c.type_ != type_);
        all.push(PodCondition {
            type_: type_.into(),
            status: status.into(),
            last_transition_time: Some(now.clone()),
            ..PodCondition::default()
        });
    }
    all
}

fn containers(pod: &Pod, ready: bool, state: &ContainerState) -> Vec<ContainerStatus> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = |container: k8s_openapi::api::core::v1::Container| ContainerStatus {
        name: container.name,
        image: container.image.clone().unwrap_or_default(),
        image_id: container.image.unwrap_or_default(),
        ready,
        started: Some(ready),
        state: Some(state.clone()),
        ..ContainerStatus::default()
    };
    spec.containers.into_iter().map(status).collect()
}

fn started(pod: &Pod, address: String) -> PodStatus {
    let now = Some(Time(Timestamp::now()));
    let state = ContainerState {
        running: Some(ContainerStateRunning { started_at: now.clone() }),
        ..ContainerState::default()
    };
    PodStatus {
        phase: Some("Running".into()),
        start_time: now,
        pod_ip: Some(address.clone()),
        pod_ips: Some(vec![PodIP { ip: address }]),
        conditions: Some(conditions(pod, true)),
        container_statuses: Some(containers(pod, true, &state)),
        ..pod.status.clone().unwrap_or_default()
    }
}

fn ended(pod: &Pod, code: i32) -> PodStatus {
    let now = Some(Time(Timestamp::now()));
    let state = ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: code,
            reason: Some(if code == 0 { "Completed" } else { "Error" }.into()),
            finished_at: now.clone(),
            started_at: now,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    PodStatus {
        phase: Some(if code == 0 { "Succeeded" } else { "Failed" }.into()),
        conditions: Some(conditions(pod, false)),
        container_statuses: Some(containers(pod, false, &state)),
        ..pod.status.clone().unwrap_or_default()
    }
}
