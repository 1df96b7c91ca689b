//! Whether the components beside the apiserver do their work: those of this process say so themselves, those of others
//! hold their lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use parking_lot::Mutex;

use crate::api::Api;
use crate::watch_cache::key_of;

/// Where components that may run several times elect their leader.
const LEASE_NAMESPACE: &str = "kube-system";

/// A component that is asked after, and the lease of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    ControllerManager,
    Scheduler,
}

impl Component {
    pub const ALL: [Self; 2] = [Self::ControllerManager, Self::Scheduler];

    /// As its ComponentStatus is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
        }
    }

    fn lease(self) -> &'static str {
        match self {
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// The components that run in this process.
#[derive(Default)]
pub struct ComponentHealth(Mutex<BTreeMap<Component, usize>>);

/// The component runs for as long as this is kept.
pub struct Running {
    all: Arc<ComponentHealth>,
    component: Component,
}

impl ComponentHealth {
    pub fn running(self: &Arc<Self>, component: Component) -> Running {
        *self.0.lock().entry(component).or_default() += 1;
        Running { all: self.clone(), component }
    }

    fn runs(&self, component: Component) -> bool {
        self.0.lock().get(&component).is_some_and(|count| *count > 0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(count) = self.all.0.lock().get_mut(&self.component) {
            *count = count.saturating_sub(1);
        }
    }
}

/// What is wrong with a component; Ok where nothing is.
pub fn check(api: &Api, component: Component, now: Timestamp) -> Result<(), String> {
    if api.options.component_health.runs(component) {
        return Ok(());
    }
    let key = key_of(Some(LEASE_NAMESPACE), component.lease());
    let object = api.cache.resource(&Resource::of::<Lease>()).and_then(|leases| leases.get(&key));
    let lease = object.and_then(|object| object.decode::<Lease>().ok());
    judge(component, lease.as_ref(), now)
}

fn judge(component: Component, lease: Option<&Lease>, now: Timestamp) -> Result<(), String> {
    let (name, lease_name) = (component.name(), component.lease());
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let Some((spec, holder)) = spec.zip(holder) else {
        return Err(format!(
            "no {name} runs beside this apiserver, and none holds the lease {LEASE_NAMESPACE}/{lease_name}"
        ));
    };
    let duration = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into());
    let until = spec.renew_time.as_ref().and_then(|time| time.0.checked_add(duration).ok());
    match until {
        Some(until) if until >= now => Ok(()),
        Some(until) => {
            Err(format!("the lease {LEASE_NAMESPACE}/{lease_name} of {holder} ran out at {until:.0}"))
        }
        None => Err(format!("the lease {LEASE_NAMESPACE}/{lease_name} of {holder} was never renewed")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lease_says_whether_its_holder_lives() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        for (spec, want) in [
            (
                json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:50.000000Z"}),
                "",
            ),
            (
                json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:30.000000Z"}),
                "the lease kube-system/kube-scheduler of a ran out at 2026-01-01T00:00:45Z",
            ),
            (json!({"holderIdentity": "a"}), "the lease kube-system/kube-scheduler of a was never renewed"),
            (
                json!({"holderIdentity": "", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:50.000000Z"}),
                "no scheduler runs beside this apiserver, and none holds the lease kube-system/kube-scheduler",
            ),
        ] {
            let lease: Lease = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let got = judge(Component::Scheduler, Some(&lease), now);
            assert_eq!(got.err().unwrap_or_default(), want, "{spec}");
        }
        assert!(judge(Component::ControllerManager, None, now).is_err());
    }

    #[test]
    fn a_component_runs_until_its_token_is_dropped() {
        let health = Arc::new(ComponentHealth::default());
        let (one, two) = (health.running(Component::Scheduler), health.running(Component::Scheduler));
        drop(one);
        assert!(health.runs(Component::Scheduler) && !health.runs(Component::ControllerManager));
        drop(two);
        assert!(!health.runs(Component::Scheduler));
    }
}
