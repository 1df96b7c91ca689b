//! What an administrator's rule comes to: the condition EvictionInProgress of DeviceTaintRules, in upstream's words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Client, Informer, Key};
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use parking_lot::Mutex;

use super::plan::{self, NO_EXECUTE};

const IN_PROGRESS: &str = "EvictionInProgress";
/// Upstream's: a rule's status changes no more often.
const PERIOD: Duration = Duration::from_secs(10);
const NO_EFFECT: &str = "None";

/// Pods evicted because of each rule since this process began, by the rule's uid. Bounded by the rules.
pub type Evicted = Arc<Mutex<BTreeMap<String, u64>>>;

/// What a rule is about at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Devices that it selects among those offered, and among those in use.
    pub published: usize,
    pub allocated: usize,
    /// Pods that have to go because of it, or would, and their namespaces.
    pub pods: usize,
    pub namespaces: usize,
    pub evicted: u64,
}

fn counted<N: PartialEq<N> + From<u8> + std::fmt::Display>(count: N, one: &str, many: &str) -> String {
    if count == N::from(1) { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Reason, message, and whether pods have yet to go.
fn summary(effect: &str, seen: &Seen) -> (&'static str, String, bool) {
    let namespaces = counted(seen.namespaces, "namespace", "different namespaces");
    let (reason, mut message, pending) = match effect {
        NO_EXECUTE if seen.pods > 0 => {
            let pods = counted(seen.pods, "pod needs", "pods need");
            ("PodsPendingEviction", format!("{pods} to be evicted in {namespaces}."), true)
        }
        NO_EXECUTE if seen.evicted > 0 => ("Completed", String::new(), false),
        NO_EXECUTE => ("NotStarted", String::new(), false),
        NO_EFFECT => {
            let published = counted(seen.published, "published device", "published devices");
            let allocated = counted(seen.allocated, "allocated device", "allocated devices");
            let pods = counted(seen.pods, "pod", "pods");
            let message = format!(
                "{published} selected. {allocated} selected. {pods} would be evicted in {namespaces} if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
            );
            ("NoEffect", message, false)
        }
        _ => ("OtherEffect", "Eviction only happens for the NoExecute effect.".to_owned(), false),
    };
    if seen.evicted > 0 {
        let space = if message.is_empty() { "" } else { " " };
        message.push_str(&format!(
            "{space}{} evicted since starting the controller.",
            counted(seen.evicted, "pod", "pods")
        ));
    }
    (reason, message, pending)
}

pub struct Status {
    pub client: Client,
    pub rules: Informer,
    pub claims: Informer,
    pub slices: Informer,
    pub pods: Informer,
    pub evicted: Evicted,
}

impl Status {
    fn seen(&self, rule: &DeviceTaintRule) -> Result<Seen, ApiError> {
        let mut seen = Seen::default();
        let uid = rule.metadata.uid.as_deref().unwrap_or_default();
        seen.evicted = self.evicted.lock().get(uid).copied().unwrap_or(0);
        let effect = rule.spec.taint.effect.as_str();
        if effect != NO_EXECUTE && effect != NO_EFFECT {
            return Ok(seen);
        }
        // What would be if it had effect.
        let mut spec = rule.spec.clone();
        spec.taint.effect = NO_EXECUTE.into();
        let mut pending = BTreeSet::new();
        for object in self.claims.list() {
            let claim: ResourceClaim = object.decode()?;
            let status = claim.status.unwrap_or_default();
            let allocated = status.allocation.and_then(|a| a.devices?.results).unwrap_or_default();
            seen.allocated += allocated.iter().filter(|result| plan::selects(&spec, result)).count();
            if !plan::drives_away(&spec, &allocated) {
                continue;
            }
            for user in status.reserved_for.iter().flatten().filter(|user| user.resource == "pods") {
                let pod = self.pods.get(&object.head.namespace, &user.name);
                if pod.is_some_and(|pod| *pod.head.uid == *user.uid && !pod.head.deleting) {
                    pending.insert((object.head.namespace.clone(), user.name.clone()));
                }
            }
        }
        seen.pods = pending.len();
        seen.namespaces = pending.iter().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>().len();
        if effect == NO_EFFECT {
            let mut slices = Vec::new();
            for object in self.slices.list() {
                slices.push(object.decode::<ResourceSlice>()?.spec);
            }
            let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
            for slice in &slices {
                let generation = newest.entry((slice.driver.as_str(), slice.pool.name.as_str())).or_default();
                *generation = slice.pool.generation.max(*generation);
            }
            let current = slices.iter().filter(|s| {
                newest.get(&(s.driver.as_str(), s.pool.name.as_str())) == Some(&s.pool.generation)
            });
            seen.published = current
                .flat_map(|slice| slice.devices.iter().flatten().map(move |device| (slice, device)))
                .filter(|(slice, device)| {
                    plan::selects_device(&spec, (&slice.driver, &slice.pool.name, &device.name))
                })
                .count();
        }
        Ok(seen)
    }
}

impl Reconciler for Status {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "device-taint-rule-status-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.rules.get_key(key) else { return Ok(Outcome::Done) };
        let mut rule: DeviceTaintRule = object.decode()?;
        let now = Timestamp::now();
        let conditions = rule.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let present = conditions.into_iter().find(|condition| condition.type_ == IN_PROGRESS).cloned();
        let fresh = present.as_ref().filter(|c| c.observed_generation == rule.metadata.generation);
        if let Some(fresh) = fresh {
            if rule.spec.taint.effect == NO_EFFECT {
                return Ok(Outcome::Done);
            }
            // A clock that was set back does not hold it up.
            let age = Duration::try_from(now.duration_since(fresh.last_transition_time.0)).unwrap_or(PERIOD);
            if age < PERIOD {
                return Ok(Outcome::After(PERIOD - age));
            }
        }
        let (reason, message, pending) = summary(&rule.spec.taint.effect, &self.seen(&rule)?);
        let status = if pending { "True" } else { "False" };
        let same = fresh.is_some_and(|c| c.status == status && c.reason == reason && c.message == message);
        if same {
            return Ok(Outcome::Done);
        }
        let condition = Condition {
            type_: IN_PROGRESS.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            observed_generation: rule.metadata.generation,
            last_transition_time: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        };
        let all = rule.status.get_or_insert_default().conditions.get_or_insert_default();
        all.retain(|condition| condition.type_ != IN_PROGRESS);
        all.push(condition);
        match self.client.update_status(&rule).await {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
            Ok(_) => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_in_upstreams_words() {
        let none = Seen::default;
        for (effect, seen, reason, message, pending) in [
            ("NoSchedule", none(), "OtherEffect", "Eviction only happens for the NoExecute effect.", false),
            (NO_EXECUTE, none(), "NotStarted", "", false),
            (
                NO_EXECUTE,
                Seen { allocated: 1, pods: 1, namespaces: 1, ..none() },
                "PodsPendingEviction",
                "1 pod needs to be evicted in 1 namespace.",
                true,
            ),
            (
                NO_EXECUTE,
                Seen { allocated: 9, pods: 5, namespaces: 2, evicted: 1, ..none() },
                "PodsPendingEviction",
                "5 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller.",
                true,
            ),
            (
                NO_EXECUTE,
                Seen { evicted: 3, ..none() },
                "Completed",
                "3 pods evicted since starting the controller.",
                false,
            ),
            (
                NO_EFFECT,
                Seen { published: 1, allocated: 2, ..none() },
                "NoEffect",
                "1 published device selected. 2 allocated devices selected. 0 pods would be evicted in 0 different namespaces if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
                false,
            ),
        ] {
            let said = summary(effect, &seen);
            assert_eq!((said.0, said.1.as_str(), said.2), (reason, message, pending), "{effect} {seen:?}");
        }
    }
}
