//! What all pod workers of a node share.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_client::events::EventRecorder;
use coracle_client::informer::Informer;
use coracle_client::{Client, node_affinity};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::{Amounts, Rejection, fits};
use super::images::Images;
use super::state::Resize;
use crate::logs::Logs;
use crate::network::Network;
use crate::runtime::{Container, Counted, Runtime};
use crate::volumes::Volumes;

pub struct Context {
    pub client: Client,
    pub recorder: EventRecorder,
    /// The first is the default; others by RuntimeClass handler.
    pub runtimes: Vec<Arc<dyn Runtime>>,
    pub images: Arc<dyn Images>,
    pub network: Arc<Network>,
    pub volumes: Volumes,
    pub logs: Arc<Logs>,
    pub services: Informer,
    pub node: NodeFacts,
    pub ledger: Ledger,
    pub running: RunningContainers,
    pub shutdown: CancellationToken,
}

/// What pods are told of their node.
pub struct NodeFacts {
    pub name: String,
    /// `status.hostIPs` of its pods: the node's addresses, one of each family at most.
    pub host_ips: Vec<IpAddr>,
    pub cluster_domain: String,
    pub allocatable: BTreeMap<String, Wire>,
    /// Those that the node came with, which count until the API has shown it.
    pub labels: BTreeMap<String, String>,
    /// The node as the API has it: others label it too.
    pub own: Informer,
    /// Directories made for `terminationMessagePath`.
    pub messages: PathBuf,
    /// Components linked from several images, made anew when they are missing.
    pub composed: PathBuf,
    /// Key-value stores, one directory per namespace.
    pub keyvalue: PathBuf,
}

impl NodeFacts {
    /// Whether this node is one that the pod's node selector and affinity allow.
    pub fn suits(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return true };
        let (selector, affinity) = (spec.node_selector.as_ref(), spec.affinity.as_ref());
        match self.own.get("", &self.name) {
            Some(node) => node_affinity::allows(selector, affinity, &self.name, &node.head),
            None => node_affinity::allows(selector, affinity, &self.name, &self.labels),
        }
    }
}

/// What the accepted pods ask for together.
pub struct Ledger {
    capacity: Amounts,
    freed: watch::Sender<()>,
    used: Mutex<(Amounts, HashMap<Box<str>, Amounts>)>,
}

impl Ledger {
    pub fn new(capacity: Amounts) -> Self {
        Ledger { capacity, freed: watch::channel(()).0, used: Mutex::default() }
    }

    /// Books the pod in, unless it does not fit; `force` for one that this node accepted before it restarted.
    pub fn admit(&self, uid: &str, wanted: Amounts, force: bool) -> Result<(), Rejection> {
        let mut used = self.used.lock();
        if used.1.contains_key(uid) {
            return Ok(());
        }
        if !force {
            fits(wanted, used.0, self.capacity)?;
        }
        used.0.add(wanted);
        used.1.insert(uid.into(), wanted);
        Ok(())
    }

    /// Books a pod that is in for other amounts.
    pub fn resize(&self, uid: &str, wanted: Amounts) -> Result<(), Resize> {
        fits(wanted, Amounts::default(), self.capacity).map_err(|r| Resize::infeasible(r.message))?;
        let mut used = self.used.lock();
        let before = used.1.get(uid).copied().unwrap_or_default();
        let mut others = used.0;
        others.subtract(before);
        fits(wanted, others, self.capacity).map_err(|r| Resize::deferred(r.message))?;
        others.add(wanted);
        used.0 = others;
        used.1.insert(uid.into(), wanted);
        drop(used);
        self.freed.send_replace(());
        Ok(())
    }

    /// Returns when some pod needs less than now.
    pub fn freed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut freed = self.freed.subscribe();
        async move {
            let _ = freed.changed().await;
        }
    }

    pub fn release(&self, uid: &str) {
        let mut used = self.used.lock();
        if let Some(amounts) = used.1.remove(uid) {
            used.0.subtract(amounts);
        }
        drop(used);
        self.freed.send_replace(());
    }
}

/// A pod's uid and a container's name.
type Owner = (Box<str>, Box<str>);

/// The containers that run now, for statistics: by pod uid and container name.
#[derive(Default)]
pub struct RunningContainers {
    map: Mutex<BTreeMap<Owner, Arc<dyn Container>>>,
    /// What ended containers counted, where there was something to count.
    past: Mutex<BTreeMap<Owner, Counted>>,
}

impl RunningContainers {
    pub fn insert(&self, uid: &str, name: &str, container: Arc<dyn Container>) {
        self.map.lock().insert((uid.into(), name.into()), container);
    }

    pub fn remove(&self, uid: &str, name: &str) {
        let owner = (Box::from(uid), Box::from(name));
        let Some(container) = self.map.lock().remove(&owner) else { return };
        let counted = Counted::of(&container.stats());
        if counted != Counted::default() {
            let mut past = self.past.lock();
            let all = past.entry(owner).or_default();
            *all = all.plus(counted);
        }
    }

    /// What earlier runs of a pod's containers counted, by name.
    pub fn past(&self, uid: &str) -> BTreeMap<Box<str>, Counted> {
        let from = (Box::from(uid), Box::from(""));
        let past = self.past.lock();
        let of_pod = past.range(from..).take_while(|((owner, _), _)| **owner == *uid);
        of_pod.map(|((_, name), counted)| (name.clone(), *counted)).collect()
    }

    /// Forgets what pods counted that are not there any more.
    pub fn forget(&self, uid: &str) {
        self.past.lock().retain(|(owner, _), _| **owner != *uid);
    }

    pub fn of_pod(&self, uid: &str) -> Vec<(Box<str>, Arc<dyn Container>)> {
        let from = (Box::from(uid), Box::from(""));
        let map = self.map.lock();
        map.range(from..)
            .take_while(|((owner, _), _)| **owner == *uid)
            .map(|((_, name), container)| (name.clone(), container.clone()))
            .collect()
    }

    pub fn len(&self) -> usize {
        self.map.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
