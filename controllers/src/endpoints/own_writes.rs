//! Which slices of a service were just written, until the informer shows it: deciding on an older state of
//! them would create slices twice.

use std::collections::HashMap;
use std::time::Duration;

use coracle_client::{ApiError, Client, DeleteOptions, Informer, Key, Object, Uid};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::slice_plan::Action;

/// How long to wait for what may never show, e.g. a slice that someone deleted at once.
pub const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Write {
    /// The slice has this resourceVersion or a later one.
    Stored(u64),
    /// The slice of this uid is gone.
    Deleted(Uid),
}

/// By slice.
type Open = HashMap<Key, (Write, Instant)>;

/// By service; bounded by the services and their slices.
#[derive(Default)]
pub struct OwnWrites {
    open: Mutex<HashMap<Key, Open>>,
}

impl OwnWrites {
    /// Carries an action out and notes what to wait for.
    pub async fn execute(&self, client: &Client, service: &Key, action: Action) -> Result<(), ApiError> {
        let written = match action {
            Action::Create(slice) => client.create(&slice).await?,
            Action::Update(slice) => client.update(&slice).await?,
            Action::Delete(slice) => {
                let (name, uid) =
                    (slice.metadata.name.unwrap_or_default(), slice.metadata.uid.unwrap_or_default());
                let options = DeleteOptions::default().uid(&uid);
                match client.delete::<EndpointSlice>(&service.namespace, &name, options).await {
                    Ok(()) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
                let write = Write::Deleted(uid.into());
                self.note(service, Key::new(&service.namespace, &name), write);
                return Ok(());
            }
        };
        let stored = Object::parse(written.json, &[])?;
        self.note(service, stored.key(), Write::Stored(stored.head.resource_version));
        Ok(())
    }

    fn note(&self, service: &Key, slice: Key, write: Write) {
        self.open.lock().entry(service.clone()).or_default().insert(slice, (write, Instant::now()));
    }

    /// Whether the informer still lacks a write for this service.
    pub fn pending(&self, service: &Key, slices: &Informer) -> bool {
        let mut open = self.open.lock();
        let Some(writes) = open.get_mut(service) else { return false };
        writes.retain(|key, (write, at)| {
            let shown = slices.get_key(key);
            let seen = match write {
                Write::Stored(version) => shown.is_some_and(|o| o.head.resource_version >= *version),
                Write::Deleted(uid) => shown.is_none_or(|o| o.head.uid != *uid),
            };
            !seen && at.elapsed() < PATIENCE
        });
        let pending = !writes.is_empty();
        if !pending {
            open.remove(service);
        }
        pending
    }

    pub fn forget(&self, service: &Key) {
        self.open.lock().remove(service);
    }
}
