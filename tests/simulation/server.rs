//! An apiserver that can be killed and started again on the same disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_apiserver::api::{self, Api};
use coracle_apiserver::authn::{Identity, MASTERS_GROUP};
use coracle_apiserver::direct::Direct;
use coracle_apiserver::upkeep;
use coracle_client::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::store::{Connection, Disk};

const SERVICE_CIDR: &str = "10.96.0.0/16";

#[derive(Clone)]
pub struct Running {
    pub api: Arc<Api>,
    pub died: CancellationToken,
    alive: Arc<AtomicBool>,
}

pub struct Server {
    disk: Arc<Disk>,
    faults: Arc<Faults>,
    running: Mutex<Option<Running>>,
}

impl Server {
    pub fn new(disk: &Arc<Disk>, faults: &Arc<Faults>) -> Self {
        Self { disk: disk.clone(), faults: faults.clone(), running: Mutex::default() }
    }

    pub fn running(&self) -> Option<Running> {
        self.running.lock().clone()
    }

    /// Tries until it serves, as whatever restarts processes does.
    pub async fn start(&self) {
        while let Err(error) = self.try_start().await {
            tracing::warn!(%error, "an apiserver did not start");
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    async fn try_start(&self) -> Result<(), String> {
        let alive = Arc::new(AtomicBool::new(true));
        let store = Connection { disk: self.disk.clone(), faults: self.faults.clone(), alive: alive.clone() };
        let died = CancellationToken::new();
        let options = api::Options { service_cidr: Some(SERVICE_CIDR.into()), ..api::Options::default() };
        let api = Api::start(Arc::new(store), options, died.clone()).await.map_err(|e| e.to_string())?;
        let own = Client::new(
            Direct::new(api.clone(), Identity::new("system:apiserver", &[MASTERS_GROUP])),
            "kube-apiserver",
        );
        let prepared = async {
            coracle_controllers::ensure_default_namespaces(&own).await?;
            upkeep::ensure(&api, &own, SERVICE_CIDR).await
        };
        if let Err(error) = prepared.await {
            died.cancel();
            alive.store(false, Ordering::Relaxed);
            return Err(error.to_string());
        }
        tokio::spawn(upkeep::run(api.clone(), own, died.clone()));
        *self.running.lock() = Some(Running { api, died, alive });
        Ok(())
    }

    /// From one moment to the next: nothing of it writes or answers any more.
    pub fn kill(&self) {
        if let Some(running) = self.running.lock().take() {
            running.alive.store(false, Ordering::Relaxed);
            running.died.cancel();
        }
    }
}
