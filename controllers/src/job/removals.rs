//! Pods whose tracking finalizer was taken off, which the informer may not show yet: they must not be counted twice.

use std::collections::{HashMap, HashSet};

use coracle_client::Key;
use parking_lot::Mutex;

pub type Uids = HashSet<Box<str>>;

/// By job. Bounded by the pods that one sync lets go.
#[derive(Default)]
pub struct Removals {
    open: Mutex<HashMap<Key, Uids>>,
}

impl Removals {
    pub fn expect(&self, job: &Key, uids: impl IntoIterator<Item = Box<str>>) {
        self.open.lock().entry(job.clone()).or_default().extend(uids);
    }

    /// The informer shows the pod without it, or gone, or it could not be taken off.
    pub fn observed(&self, job: &Key, uid: &str) {
        let mut open = self.open.lock();
        if let Some(uids) = open.get_mut(job) {
            uids.remove(uid);
            if uids.is_empty() {
                open.remove(job);
            }
        }
    }

    pub fn has(&self, job: &Key, uid: &str) -> bool {
        self.open.lock().get(job).is_some_and(|uids| uids.contains(uid))
    }

    pub fn of(&self, job: &Key) -> Uids {
        self.open.lock().get(job).cloned().unwrap_or_default()
    }

    pub fn forget(&self, job: &Key) {
        self.open.lock().remove(job);
    }
}
