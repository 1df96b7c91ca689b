//! The machines and processes of one simulation, and what kills and starts them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_apiserver::authn::{Identity, MASTERS_GROUP};
use coracle_client::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::history::History;
use crate::node;
use crate::server::Server;
use crate::store::Disk;
use crate::wire::Wire;

pub struct World {
    pub faults: Arc<Faults>,
    pub disk: Arc<Disk>,
    pub history: Arc<History>,
    pub servers: Arc<Vec<Server>>,
    processes: Mutex<BTreeMap<String, Process>>,
}

struct Process {
    killed: CancellationToken,
    partitioned: Arc<AtomicBool>,
}

/// Two of each, so that they hand over to one another.
pub const CONTROL_PLANE: [&str; 4] = ["controllers-0", "controllers-1", "scheduler-0", "scheduler-1"];

impl World {
    pub fn new(seed: u64) -> Self {
        let faults = Arc::new(Faults::new(seed));
        let history = Arc::new(History::default());
        let seen = history.clone();
        let disk = Disk::new(move |key, value, revision| seen.see(key, value, revision));
        let servers = Arc::new((0..2).map(|_| Server::new(&disk, &faults)).collect());
        Self { faults, disk, history, servers, processes: Mutex::default() }
    }

    /// Whoever uses the cluster; its requests meet the same faults.
    pub fn user(&self) -> Client {
        self.client(Identity::new("kubernetes-admin", &[MASTERS_GROUP]), CancellationToken::new(), "user").0
    }

    fn client(
        &self,
        identity: Identity,
        killed: CancellationToken,
        component: &str,
    ) -> (Client, Arc<AtomicBool>) {
        let partitioned = Arc::new(AtomicBool::new(false));
        let client =
            Wire::client(&self.servers, &self.faults, identity, killed, partitioned.clone(), component);
        (client, partitioned)
    }

    pub fn is_up(&self, name: &str) -> bool {
        self.processes.lock().contains_key(name)
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.processes.lock().keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    pub fn start(&self, name: &str) {
        if self.is_up(name) {
            return;
        }
        let killed = CancellationToken::new();
        let token = killed.clone();
        let (role, number) = name.split_once('-').unwrap_or((name, "0"));
        let number: u64 = number.parse().unwrap_or(0);
        let partitioned = match role {
            "controllers" => {
                let identity = Identity::new("system:kube-controller-manager", &[]);
                let (client, partitioned) = self.client(identity, token.clone(), "kube-controller-manager");
                let options = coracle_controllers::Options::default();
                tokio::spawn(async move { coracle_controllers::run(options, client, token).await });
                partitioned
            }
            "scheduler" => {
                let identity = Identity::new("system:kube-scheduler", &[]);
                let (client, partitioned) = self.client(identity, token.clone(), "kube-scheduler");
                let options = coracle_scheduler::Options::default();
                tokio::spawn(async move { coracle_scheduler::run(options, client, token).await });
                partitioned
            }
            _ => {
                let identity = Identity::new(&format!("system:node:{name}"), &["system:nodes"]);
                let (client, partitioned) = self.client(identity, token.clone(), "kubelet");
                tokio::spawn(node::run(name.to_owned(), number, client, self.faults.clone(), token));
                partitioned
            }
        };
        self.processes.lock().insert(name.to_owned(), Process { killed, partitioned });
    }

    /// As `kill -9` or a pulled plug: nothing of it acts any more.
    pub fn kill(&self, name: &str) {
        if let Some(process) = self.processes.lock().remove(name) {
            process.killed.cancel();
        }
    }

    pub fn partition(&self, name: &str, cut_off: bool) {
        if let Some(process) = self.processes.lock().get(name) {
            process.partitioned.store(cut_off, Ordering::Relaxed);
        }
    }

    /// Everything that is there is up, reachable, and works without faults.
    pub async fn calm(&self) {
        self.faults.set(false);
        for server in self.servers.iter().filter(|server| server.running().is_none()) {
            server.start().await;
        }
        for name in CONTROL_PLANE {
            self.start(name);
        }
        for process in self.processes.lock().values() {
            process.partitioned.store(false, Ordering::Relaxed);
        }
    }
}
