//! ResourceQuota: what a namespace uses is counted anew when something goes, or when the quota changes.
//!
//! The API server charges what is made, before it is made; this controller finds what is no longer used. It counts from
//! lists that show all there is, and lowers what a quota shows as used only when nobody has been charged for a while:
//! what was charged a moment ago may not be there yet, and to count it as free would give it out twice.

mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::amounts::{self, Amounts};
use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::quota::{self, Subject};
use coracle_client::{ApiError, Change, Client, Informer, Key, ListOptions, Object, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::served::{Followed, Served};
use plan::{Books, plan};

/// How long a charged write may take to show. Longer ones are rare, and found at the next count.
const SETTLED: Duration = Duration::from_secs(3);
/// How often everything is counted anew without a cause, as upstream: charges of writes that failed are found so.
const RESYNC: Duration = Duration::from_secs(300);

pub async fn run(context: Context) {
    let quotas = context.of::<ResourceQuota>();
    let queue = WorkQueue::new();
    let charged: Charged = Arc::default();
    let (keys, times) = (queue.clone(), charged.clone());
    quotas.on_change(move |change: &Change| {
        let key = change.key();
        match &change.new {
            Some(_) => drop(times.lock().insert(key.clone(), Instant::now())),
            None => drop(times.lock().remove(&key)),
        }
        // What only the API server charged is no reason to count.
        if !charged_only(change) {
            keys.add(key);
        }
    });
    let mut served = context.served();
    let controller = Controller {
        client: context.client.clone(),
        quotas,
        queue: queue.clone(),
        charged,
        followed: Mutex::default(),
        served: served.clone(),
    };
    tokio::select! {
        _ = served.wait_for(Option::is_some) => {}
        () = context.shutdown.cancelled() => return,
    }
    tokio::spawn(recount(served, controller.quotas.clone(), queue.clone(), context.shutdown.clone()));
    context.work(controller, queue).await;
}

/// A quota may have named what was not served until now.
async fn recount(mut served: Served, quotas: Informer, queue: WorkQueue<Key>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        quotas.list().iter().for_each(|quota| queue.add(quota.key()));
    }
}

/// When a quota was last written, by whomever.
type Charged = Arc<Mutex<BTreeMap<Key, Instant>>>;

struct Controller {
    client: Client,
    quotas: Informer,
    queue: WorkQueue<Key>,
    charged: Charged,
    /// The resources whose deletions are followed: those that quotas have named.
    followed: Mutex<HashMap<Resource, Arc<Followed>>>,
    served: Served,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        // Read before counting: a charge after this makes the write below fail.
        let mut quota: ResourceQuota = match self.client.get(&key.namespace, &key.name).await {
            Ok(quota) => quota,
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            Err(error) => return Err(error),
        };
        let since = self.charged.lock().get(key).map(Instant::elapsed);
        // Of a charge that has not come here yet it is not known when it was.
        let seen = self.quotas.get_key(key).map(|object| object.head.resource_version.to_string());
        let settled = seen == quota.metadata.resource_version && since.is_none_or(|since| since >= SETTLED);
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = amounts::of(spec.hard.as_ref());
        let snapshot = self.served.borrow().clone().unwrap_or_default();
        let countable = |f: &&Arc<Followed>| f.resource().namespaced() && f.watched();
        let concerned: Vec<&Arc<Followed>> = snapshot
            .all
            .iter()
            .filter(countable)
            .filter(|f| hard.keys().any(|name| quota::covers(f.resource(), name)))
            .collect();
        self.follow(&concerned);
        let mut counted = Amounts::new();
        for resource in concerned.iter().map(|f| f.resource()) {
            for object in self.list(resource, &key.namespace).await? {
                let Some(subject) = subject(resource, &object) else { continue };
                if quota::in_scopes(&spec, &subject) {
                    amounts::add(&mut counted, &quota::usage(resource, &subject, Timestamp::now()));
                }
            }
        }
        let status = quota.status.clone().unwrap_or_default();
        let books =
            Books { hard: amounts::of(status.hard.as_ref()), used: amounts::of(status.used.as_ref()) };
        let planned = plan(&hard, &books, &counted, settled);
        if let Some(books) = planned.write {
            let status = quota.status.get_or_insert_default();
            status.hard = Some(amounts::to_wire(&books.hard));
            status.used = Some(amounts::to_wire(&books.used));
            match self.client.update_status(&quota).await {
                // Somebody was charged meanwhile.
                Err(error) if error.is_conflict() => return Ok(Outcome::After(SETTLED)),
                Err(error) if error.is_not_found() => return Ok(Outcome::Done),
                result => drop(result?),
            }
        }
        Ok(Outcome::After(if planned.again { SETTLED } else { RESYNC }))
    }
}

impl Controller {
    async fn list(&self, resource: &Resource, namespace: &str) -> Result<Vec<Arc<Object>>, ApiError> {
        match self.client.list_objects(resource, namespace, ListOptions::default()).await {
            Ok(list) => Ok(list.items),
            // Not served here: there are none.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// From now on, what goes brings the quotas of its namespace here.
    fn follow(&self, concerned: &[&Arc<Followed>]) {
        for new in concerned {
            let resource = new.resource().clone();
            let mut followed = self.followed.lock();
            if followed.get(&resource).is_some_and(|old| !old.gone().is_cancelled()) {
                continue;
            }
            followed.insert(resource.clone(), (*new).clone());
            drop(followed);
            let (quotas, queue) = (self.quotas.clone(), self.queue.clone());
            new.informer().on_change(move |change| {
                if frees(&resource, change) {
                    for quota in quotas.list_namespace(&change.key().namespace) {
                        queue.add(quota.key());
                    }
                }
            });
        }
    }
}

/// Whether the quota allows what it allowed before.
fn charged_only(change: &Change) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return false };
    let spec = |object: &Object| object.decode::<ResourceQuota>().ok().map(|quota| quota.spec);
    spec(old) == spec(new)
}

/// Whether less may be used after the change: something is gone, has ended or has become smaller.
fn frees(resource: &Resource, change: &Change) -> bool {
    let Some(new) = &change.new else { return true };
    let Some(old) = &change.old else { return false };
    let now = Timestamp::now();
    let sides = (subject(resource, old), subject(resource, new));
    let (Some(before), Some(after)) = sides else { return false };
    let (before, after) = (quota::usage(resource, &before, now), quota::usage(resource, &after, now));
    before != after
}

fn subject(resource: &Resource, object: &Object) -> Option<Subject> {
    if *resource == Resource::of::<Pod>() {
        return object.decode().ok().map(|pod| Subject::Pod(Box::new(pod)));
    }
    if *resource == Resource::of::<PersistentVolumeClaim>() {
        return object.decode().ok().map(|claim| Subject::Claim(Box::new(claim)));
    }
    if *resource == Resource::of::<Service>() {
        return object.decode().ok().map(|service| Subject::Service(Box::new(service)));
    }
    Some(Subject::Other)
}

#[cfg(test)]
mod tests;
