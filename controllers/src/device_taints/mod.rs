//! Device taint eviction: pods leave when a device they use has a NoExecute taint that their claim does not tolerate.

mod plan;
mod status;

use std::collections::{HashMap, HashSet};

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRule, ResourceClaim, ResourceSlice,
};
use parking_lot::Mutex;

use crate::context::Context;
use crate::node_lifecycle::eviction::disrupt;
use crate::steady::{Beginnings, Now};
use plan::{Fate, drives_away, fate};
use status::{Evicted, Status};

const BY_POOL: &str = "device.pool";

pub async fn run(context: Context) {
    if !context.serves::<ResourceClaim>().await || !context.serves::<ResourceSlice>().await {
        return;
    }
    let controller = Controller {
        client: context.client.clone(),
        claims: context.of::<ResourceClaim>(),
        slices: context.of::<ResourceSlice>(),
        pods: context.of::<Pod>(),
        rules: if context.serves::<DeviceTaintRule>().await {
            Some(context.of::<DeviceTaintRule>())
        } else {
            None
        },
        events: context.recorder("device-taint-eviction"),
        scheduled: Mutex::default(),
        evicted: Evicted::default(),
    };
    controller.claims.add_index(BY_POOL, pools_of_claim);
    controller.slices.add_index(BY_POOL, |slice| pool_of_slice(slice).into_iter().collect());
    let queue = WorkQueue::new();
    let added = queue.clone();
    controller.claims.on_change(move |change: &Change| added.add(change.key()));
    let (added, claims) = (queue.clone(), controller.claims.clone());
    controller.slices.on_change(move |change: &Change| {
        let pools: HashSet<Box<str>> =
            [&change.old, &change.new].into_iter().flatten().filter_map(|s| pool_of_slice(s)).collect();
        let users = pools.iter().flat_map(|pool| claims.by_index(BY_POOL, pool));
        users.for_each(|claim| added.add(claim.key()));
    });
    let statuses = controller.rules.clone().map(|rules| Status {
        client: context.client.clone(),
        rules,
        claims: controller.claims.clone(),
        slices: controller.slices.clone(),
        pods: controller.pods.clone(),
        evicted: controller.evicted.clone(),
    });
    if let Some(rules) = &controller.rules {
        // An administrator's rule is rare, and may be about any device.
        let (added, claims) = (queue.clone(), controller.claims.clone());
        rules.on_change(move |_: &Change| claims.list().iter().for_each(|claim| added.add(claim.key())));
    }
    let Some(statuses) = statuses else { return context.work(controller, queue).await };
    let rule_queue = WorkQueue::new();
    let added = rule_queue.clone();
    statuses.rules.on_change(move |change: &Change| added.add(change.key()));
    // Whoever comes to use a device, or leaves it, may be one that a rule drives away.
    let (added, rules) = (rule_queue.clone(), statuses.rules.clone());
    statuses.claims.on_change(move |_: &Change| rules.list().iter().for_each(|rule| added.add(rule.key())));
    tokio::join!(context.work(controller, queue), context.work(statuses, rule_queue));
}

fn pool_of_slice(slice: &Object) -> Option<Box<str>> {
    let slice: ResourceSlice = slice.decode().ok()?;
    Some(format!("{}/{}", slice.spec.driver, slice.spec.pool.name).into())
}

fn pools_of_claim(claim: &Object) -> Vec<Box<str>> {
    let Ok(claim) = claim.decode::<ResourceClaim>() else { return Vec::new() };
    let devices = claim.status.and_then(|s| s.allocation?.devices?.results).unwrap_or_default();
    let pools: HashSet<String> = devices.iter().map(|d| format!("{}/{}", d.driver, d.pool)).collect();
    pools.into_iter().map(Box::from).collect()
}

struct Controller {
    client: Client,
    claims: Informer,
    slices: Informer,
    pods: Informer,
    /// None: the API does not serve them.
    rules: Option<Informer>,
    events: EventRecorder,
    /// Claims whose users wait for their time, and since when: their taints. Bounded by the claims.
    scheduled: Mutex<HashMap<Key, Begun>>,
    evicted: Evicted,
}

/// What a taint is told by: the claim's uid, the device, and the taint's key and value.
type Begun = Beginnings<[String; 6]>;

fn began_by(claim: &str, result: &DeviceRequestAllocationResult, taint: &DeviceTaint) -> [String; 6] {
    let value = taint.value.clone().unwrap_or_default();
    let (driver, pool, device) = (result.driver.clone(), result.pool.clone(), result.device.clone());
    [claim.to_owned(), driver, pool, device, taint.key.clone(), value]
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "device-taint-eviction-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.claims.get_key(key) else {
            self.scheduled.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let claim: ResourceClaim = object.decode()?;
        let status = claim.status.unwrap_or_default();
        let allocated = status.allocation.and_then(|a| a.devices?.results).unwrap_or_default();
        let mut devices: Vec<(String, String, Device)> = Vec::new();
        for pool in pools_of_claim(&object) {
            devices.extend(self.devices(&pool)?);
        }
        let find = |driver: &str, pool: &str, name: &str| {
            devices
                .iter()
                .find(|(d, p, device)| d == driver && p == pool && device.name == name)
                .map(|f| &f.2)
        };
        let users = status.reserved_for.unwrap_or_default();
        let users = users
            .iter()
            .filter(|u| u.resource == "pods" && u.api_group.as_deref().unwrap_or_default().is_empty());
        let mut pods = Vec::new();
        for user in users {
            let Some(pod) = self.pods.get(&key.namespace, &user.name) else { continue };
            if *pod.head.uid == *user.uid && !pod.head.deleting {
                pods.push(pod.decode::<Pod>()?);
            }
        }
        let mut rules = Vec::new();
        for rule in self.rules.iter().flat_map(Informer::list) {
            rules.push(rule.decode::<DeviceTaintRule>()?);
        }
        let specs: Vec<_> = rules.iter().map(|rule| rule.spec.clone()).collect();
        let taints = plan::taints(&allocated, find, &specs);
        let before = self.scheduled.lock().get(key).cloned();
        let now = Now::read();
        let dated = taints.iter().map(|(result, taint)| {
            (began_by(&object.head.uid, result, taint), taint.time_added.as_ref().map(|added| added.0))
        });
        let began = Begun::of(before.as_ref(), dated, now);
        let each = taints.iter().zip(began.moments()).map(|((result, taint), at)| (*result, *taint, at));
        match fate(each) {
            Fate::Stay => {
                if self.scheduled.lock().remove(key).is_some() {
                    for pod in &pods {
                        self.say(pod, "Cancelling deletion");
                    }
                }
                Ok(Outcome::Done)
            }
            Fate::Leave(at) if at > now.steady => {
                self.scheduled.lock().insert(key.clone(), began);
                Ok(Outcome::After(at - now.steady))
            }
            Fate::Leave(_) => {
                for pod in pods {
                    self.say(&pod, "Marking for deletion");
                    self.evict(pod, now.wall).await?;
                    let causes = rules.iter().filter(|rule| drives_away(&rule.spec, &allocated));
                    for uid in causes.filter_map(|rule| rule.metadata.uid.clone()) {
                        *self.evicted.lock().entry(uid).or_default() += 1;
                    }
                }
                self.scheduled.lock().remove(key);
                Ok(Outcome::Done)
            }
        }
    }
}

impl Controller {
    /// What the newest generation of a pool offers.
    fn devices(&self, pool: &str) -> Result<Vec<(String, String, Device)>, ApiError> {
        let mut slices = Vec::new();
        for object in self.slices.by_index(BY_POOL, pool) {
            slices.push(object.decode::<ResourceSlice>()?.spec);
        }
        let newest = slices.iter().map(|s| s.pool.generation).max().unwrap_or(0);
        let current = slices.into_iter().filter(|s| s.pool.generation == newest);
        Ok(current
            .flat_map(|slice| {
                let (driver, pool) = (slice.driver, slice.pool.name);
                let devices = slice.devices.unwrap_or_default().into_iter();
                devices.map(move |device| (driver.clone(), pool.clone(), device))
            })
            .collect())
    }

    fn say(&self, pod: &Pod, message: &str) {
        self.events.event(pod, EventType::Normal, "DeviceTaintManagerEviction", message);
    }

    async fn evict(&self, mut pod: Pod, now: Timestamp) -> Result<(), ApiError> {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
        let message = "Device Taint manager: deleting due to NoExecute taint";
        if disrupt(&mut pod, "DeletionByDeviceTaintManager", message, now) {
            match self.client.update_status(&pod).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        match self.client.delete::<Pod>(&namespace, &name, DeleteOptions::default().uid(&uid)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Cluster, from};

    #[tokio::test(start_paused = true)]
    async fn a_tainted_device_drives_its_users_away() {
        let cluster = Cluster::new();
        let put = |name: &str, device: &str| {
            let pod: Pod =
                from(json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"containers": []}}));
            let uid = cluster.fake.put(&pod).unwrap().metadata.uid.unwrap();
            let claim: ResourceClaim = from(
                json!({"metadata": {"namespace": "ns", "name": name}, "spec": {},
                "status": {"reservedFor": [{"resource": "pods", "name": name, "uid": uid}], "allocation": {"devices": {"results": [
                    {"request": "r", "driver": "x", "pool": "p", "device": device}]}}}}),
            );
            cluster.fake.put(&claim).unwrap();
        };
        put("on-a", "a");
        put("on-b", "b");
        let slice = |generation: i64, taints: serde_json::Value| {
            from::<ResourceSlice>(json!({"metadata": {"name": "s"}, "spec": {"driver": "x", "nodeName": "n",
                "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                "devices": [{"name": "a", "taints": taints}, {"name": "b"}]}}))
        };
        cluster.fake.put(&slice(1, json!([]))).unwrap();
        cluster.start(|c| Box::pin(super::run(c)));
        cluster.settle().await;
        assert_eq!(cluster.fake.list::<Pod>("ns").len(), 2);
        let broken = json!([{"key": "broken", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
        cluster.fake.put(&slice(2, broken)).unwrap();
        cluster.until("its user goes", |f| f.list::<Pod>("ns").len() == 1).await;
        assert!(cluster.fake.get::<Pod>("ns", "on-b").is_some());
        cluster
            .until("and that is said", |_| {
                cluster
                    .events()
                    .contains(&("DeviceTaintManagerEviction".into(), "Marking for deletion".into()))
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_says_what_came_of_it() {
        let cluster = Cluster::new();
        let pod: Pod =
            from(json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": []}}));
        let uid = cluster.fake.put(&pod).unwrap().metadata.uid.unwrap();
        let claim: ResourceClaim = from(json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": {},
            "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": uid}], "allocation": {"devices": {"results": [
                {"request": "r", "driver": "x", "pool": "p", "device": "a"}]}}}}));
        cluster.fake.put(&claim).unwrap();
        cluster.start(|c| Box::pin(super::run(c)));
        let rule = |name: &str, effect: &str| {
            from::<DeviceTaintRule>(json!({"metadata": {"name": name, "generation": 1}, "spec": {
                "deviceSelector": {"driver": "x"},
                "taint": {"key": "k", "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"}}}))
        };
        let says = |f: &coracle_client::fake::Fake, name: &str| {
            let conditions =
                f.get::<DeviceTaintRule>("", name).and_then(|r| r.status?.conditions).unwrap_or_default();
            conditions
                .first()
                .map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
                .unwrap_or_default()
        };
        cluster.fake.put(&rule("dry", "None")).unwrap();
        cluster.until("what would be", |f| says(f, "dry").1 == "NoEffect").await;
        let message = says(&cluster.fake, "dry").2;
        assert!(
            message.contains("1 allocated device selected. 1 pod would be evicted in 1 namespace if"),
            "{message}"
        );
        assert!(cluster.fake.get::<Pod>("ns", "p").is_some());
        cluster.fake.put(&rule("real", "NoExecute")).unwrap();
        cluster.until("its user goes", |f| f.list::<Pod>("ns").is_empty()).await;
        // The status follows when its period is over, which real time decides: a condition is there at once.
        cluster.until("a condition", |f| !says(f, "real").1.is_empty()).await;
    }
}
