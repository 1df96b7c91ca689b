//! The virtual nodes of one process and the pods on them, kept from what watches bring.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use coracle_client::events::EventRecorder;
use coracle_client::{Change, Client, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::behaviour::{self, Behaviour, Complaints};
use super::pod::VirtualPod;
use crate::network::allocator::Allocator;
use crate::node::status::Condition;
use crate::pods::events::PodEvents;

pub type Name = Arc<str>;
pub type Uid = Arc<str>;

/// Three queues: of pods by uid, of nodes and of their leases by name.
pub struct Fleet {
    members: HashMap<Name, Member>,
    pods: Mutex<HashMap<Uid, Arc<Mutex<VirtualPod>>>>,
    pub address: IpAddr,
    pub pod_queue: WorkQueue<Uid>,
    pub node_queue: WorkQueue<Name>,
    pub lease_queue: WorkQueue<Name>,
}

/// One virtual node.
pub struct Member {
    pub index: usize,
    pub client: Client,
    pub recorder: EventRecorder,
    state: Mutex<MemberState>,
}

#[derive(Default)]
struct MemberState {
    uid: Option<String>,
    registered: bool,
    /// Somebody deleted the node: it stays away until the process starts anew, and so do its heartbeats.
    gone: bool,
    silent: bool,
    annotations: Arc<BTreeMap<String, String>>,
    range: Option<Range>,
    pods: HashSet<Uid>,
    lease_made: bool,
    report: Report,
}

struct Range {
    text: String,
    allocator: Allocator,
}

/// What the API was last told of the node.
#[derive(Clone, Default)]
pub struct Report {
    pub conditions: Vec<Condition>,
    pub written: Option<(u64, Instant)>,
}

/// The parts of a Node that matter here.
#[derive(Deserialize)]
struct NodeView {
    #[serde(default)]
    metadata: MetadataView,
    #[serde(default)]
    spec: SpecView,
    #[serde(default)]
    status: StatusView,
}

#[derive(Deserialize, Default)]
struct MetadataView {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct SpecView {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

#[derive(Deserialize, Default)]
struct StatusView {
    #[serde(default)]
    conditions: Vec<ConditionView>,
}

#[derive(Deserialize)]
struct ConditionView {
    status: String,
}

impl Fleet {
    pub fn new(members: Vec<(Name, Client)>, address: IpAddr) -> Arc<Self> {
        let mut recorders: Vec<(Client, EventRecorder)> = Vec::new();
        let members = members.into_iter().enumerate().map(|(index, (name, client))| {
            // Nodes that share an identity share a writer of events too.
            let known = recorders.iter().find(|(c, _)| Arc::ptr_eq(c.transport(), client.transport()));
            let recorder = match known {
                Some((_, recorder)) => recorder.clone(),
                None => {
                    let recorder = EventRecorder::new(client.clone(), "kubelet", None);
                    recorders.push((client.clone(), recorder.clone()));
                    recorder
                }
            };
            (name, Member { index, client, recorder, state: Mutex::default() })
        });
        Arc::new(Self {
            members: members.collect(),
            pods: Mutex::default(),
            address,
            pod_queue: WorkQueue::new(),
            node_queue: WorkQueue::new(),
            lease_queue: WorkQueue::new(),
        })
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = (&Name, &Member)> {
        self.members.iter()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn pod(&self, uid: &str) -> Option<Arc<Mutex<VirtualPod>>> {
        self.pods.lock().get(uid).cloned()
    }

    pub fn pods_of(&self, member: &Member) -> Vec<Arc<Mutex<VirtualPod>>> {
        let uids: Vec<Uid> = member.state.lock().pods.iter().cloned().collect();
        let pods = self.pods.lock();
        uids.iter().filter_map(|uid| pods.get(uid).cloned()).collect()
    }

    /// Pods need addresses of this family of their host too.
    pub fn host(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// What the watch of pods brings.
    pub fn pod_changed(&self, change: &Change) {
        let Some(object) = &change.new else { return self.forget(&change.object().head.uid) };
        let node = object.head.field("spec.nodeName").unwrap_or_default();
        let Some((name, member)) = self.members.get_key_value(node) else { return };
        let pod: Pod = match object.decode() {
            Ok(pod) => pod,
            Err(error) => return tracing::warn!(pod = %object.key(), %error, "an undecodable pod"),
        };
        let annotations = member.state.lock().annotations.clone();
        let (behaviour, complaints) = Behaviour::of(&pod, &annotations);
        let (uid, now, host) = (Uid::from(&*object.head.uid), Timestamp::now(), self.address.to_string());
        let known = self.pod(&uid);
        match known {
            Some(known) => known.lock().observe(object, &pod, &host, behaviour, now),
            None => {
                let fresh = VirtualPod::new(object, &pod, name.clone(), &host, behaviour, now);
                member.take_in(&uid, &fresh);
                self.pods.lock().insert(uid.clone(), Arc::new(Mutex::new(fresh)));
                complain(&member.recorder, object, &complaints);
            }
        }
        self.pod_queue.add(uid);
    }

    fn forget(&self, uid: &str) {
        let Some(pod) = self.pods.lock().remove(uid) else { return };
        let pod = pod.lock();
        if let Some(member) = self.member(&pod.node) {
            member.release(uid, pod.address());
        }
        self.pod_queue.forget(&Uid::from(uid));
    }

    /// The addresses that a member's pods have, perhaps from an earlier process.
    fn addresses_of(&self, member: &Member) -> Vec<(Uid, Ipv4Addr)> {
        let uids: Vec<Uid> = member.state.lock().pods.iter().cloned().collect();
        let address = |uid: Uid| Some((uid.clone(), self.pod(&uid)?.lock().address()?));
        uids.into_iter().filter_map(address).collect()
    }

    /// What the watch of nodes brings.
    pub fn node_changed(&self, change: &Change) {
        let head = &change.object().head;
        let Some((name, member)) = self.members.get_key_value(&*head.name) else { return };
        let Some(object) = &change.new else {
            let mut state = member.state.lock();
            if state.uid.as_deref().is_none_or(|uid| *uid == *head.uid) {
                state.gone = true;
            }
            return;
        };
        let view: NodeView = match object.decode() {
            Ok(view) => view,
            Err(error) => return tracing::warn!(node = %head.name, %error, "an undecodable node"),
        };
        let (heard, ranged) = member.observe(object, view, &self.addresses_of(member));
        if ranged {
            // What came while the range did.
            member.claim(&self.addresses_of(member));
        }
        if ranged || heard {
            for uid in member.state.lock().pods.iter() {
                self.pod_queue.add(uid.clone());
            }
        }
        if heard {
            self.lease_queue.add(name.clone());
        }
        self.node_queue.add(name.clone());
    }
}

fn claim_all(allocator: &mut Allocator, held: &[(Uid, Ipv4Addr)]) {
    for (uid, address) in held {
        if let Err(error) = allocator.claim(*address, uid) {
            tracing::warn!(pod = %uid, %error, "the address that a pod had");
        }
    }
}

fn complain(recorder: &EventRecorder, object: &Object, complaints: &Complaints) {
    for complaint in complaints {
        PodEvents::new(recorder, object).warning("InvalidFakeAnnotation", complaint.clone());
    }
}

impl Member {
    /// Whether it is heard again after a silence, and whether it has got its range.
    fn observe(&self, object: &Object, view: NodeView, held: &[(Uid, Ipv4Addr)]) -> (bool, bool) {
        let mut state = self.state.lock();
        let back = std::mem::replace(&mut state.gone, false);
        state.uid = Some(object.head.uid.to_string());
        let annotations: BTreeMap<String, String> = view
            .metadata
            .annotations
            .into_iter()
            .filter(|(key, _)| key.starts_with(behaviour::PREFIX))
            .collect();
        let silent = annotations.get(behaviour::SILENT).is_some_and(|value| value == "true");
        if *state.annotations != annotations {
            state.annotations = Arc::new(annotations);
        }
        let heard = std::mem::replace(&mut state.silent, silent) && !silent;
        if view.status.conditions.iter().any(|c| c.status == "Unknown") || back {
            state.report = Report::default();
        }
        let known = state.range.as_ref().map(|r| r.text.as_str());
        let mut ranged = false;
        if let Some(text) = view.spec.pod_cidr.filter(|text| known != Some(text)) {
            match text.parse() {
                Ok(cidr) => {
                    // Nobody is given an address before those that have one have claimed it.
                    let mut allocator = Allocator::new(cidr);
                    claim_all(&mut allocator, held);
                    state.range = Some(Range { text, allocator });
                    ranged = true;
                }
                Err(error) => tracing::warn!(node = %object.head.name, %error, "the node's podCIDR"),
            }
        }
        (heard || back, ranged)
    }

    fn take_in(&self, uid: &Uid, pod: &VirtualPod) {
        self.state.lock().pods.insert(uid.clone());
        let held = pod.address().map(|address| (uid.clone(), address));
        self.claim(held.as_slice());
    }

    fn claim(&self, held: &[(Uid, Ipv4Addr)]) {
        if let Some(range) = &mut self.state.lock().range {
            claim_all(&mut range.allocator, held);
        }
    }

    fn release(&self, uid: &str, address: Option<Ipv4Addr>) {
        let mut state = self.state.lock();
        state.pods.remove(uid);
        if let (Some(address), Some(range)) = (address, &mut state.range) {
            range.allocator.free(address, uid);
        }
    }

    pub fn allocate(&self, uid: &str) -> Result<Ipv4Addr, String> {
        let mut state = self.state.lock();
        let Some(range) = &mut state.range else { return Err("the node has no podCIDR yet".into()) };
        range.allocator.allocate(uid).map_err(|error| error.to_string())
    }

    /// How many pods the range holds; None without one.
    pub fn range_holds(&self) -> Option<u64> {
        self.state.lock().range.as_ref().map(|r| r.allocator.usable())
    }

    /// Its machine runs and the node is there.
    pub fn is_live(&self) -> bool {
        let state = self.state.lock();
        !state.silent && !state.gone
    }

    pub fn uid(&self) -> Option<String> {
        self.state.lock().uid.clone()
    }

    pub fn is_registered(&self) -> bool {
        self.state.lock().registered
    }

    pub fn registered(&self, uid: Option<String>) {
        let mut state = self.state.lock();
        state.registered = true;
        state.gone = false;
        state.uid = uid;
    }

    pub fn lease_made(&self) -> bool {
        self.state.lock().lease_made
    }

    pub fn set_lease_made(&self, made: bool) {
        self.state.lock().lease_made = made;
    }

    pub fn report(&self) -> Report {
        self.state.lock().report.clone()
    }

    pub fn reported(&self, report: Report) {
        self.state.lock().report = report;
    }
}
