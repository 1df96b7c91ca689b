//! One cluster for the tests of a file that only ask it questions: started by the first, stopped by the last.

use std::ops::Deref;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use super::{Cluster, Https};

static CURRENT: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

/// Requests to the shared cluster; it lives while one of its users does.
pub struct Shared {
    https: Https,
    done: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// A kubeconfig of another cluster to ask instead, such as a real Kubernetes: it shows whether the tests themselves are
/// right about upstream.
const OTHER_CLUSTER: &str = "CORACLE_TEST_KUBECONFIG";

/// The running shared cluster, or a new one.
pub fn shared() -> Arc<Shared> {
    if let Some(kubeconfig) = std::env::var_os(OTHER_CLUSTER) {
        let https = Https::from_kubeconfig(kubeconfig.as_ref());
        return Arc::new(Shared { https, done: None, keeper: None });
    }
    let mut current = CURRENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(shared) = current.upgrade() {
        return shared;
    }
    let (done, wait_until_done) = channel::<()>();
    let (send_https, https) = channel();
    // A thread of its own, because the cluster's processes die with the thread that started them.
    let keeper = std::thread::spawn(move || {
        let cluster = Cluster::start();
        let _ = send_https.send(cluster.https());
        let _ = wait_until_done.recv();
    });
    let https = https.recv().expect("the shared cluster did not start");
    let shared = Arc::new(Shared { https, done: Some(done), keeper: Some(keeper) });
    *current = Arc::downgrade(&shared);
    shared
}

impl Deref for Shared {
    type Target = Https;

    fn deref(&self) -> &Https {
        &self.https
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}
