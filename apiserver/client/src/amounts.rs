//! Amounts of named resources, and what a pod's containers come to together.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::quantity::Quantity;

/// By the name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// What can be told a pod as a whole.
const POD_LEVEL: &[&str] = &["cpu", "memory"];

/// What does not parse is left out: it has been refused where it came in.
pub fn of(list: Option<&BTreeMap<String, Wire>>) -> Amounts {
    list.into_iter().flatten().filter_map(|(n, q)| Some((n.clone(), Quantity::of(q).ok()?))).collect()
}

pub fn to_wire(amounts: &Amounts) -> BTreeMap<String, Wire> {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.to_wire())).collect()
}

pub fn add(to: &mut Amounts, from: &Amounts) {
    for (name, quantity) in from {
        *to.entry(name.clone()).or_insert(Quantity::ZERO) += *quantity;
    }
}

/// The greater of both, name by name.
pub fn at_least(to: &mut Amounts, from: &Amounts) {
    for (name, quantity) in from {
        let entry = to.entry(name.clone()).or_insert(*quantity);
        *entry = (*entry).max(*quantity);
    }
}

/// Which of the two sides of a container's resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Requests,
    Limits,
}

impl Side {
    fn of(self, resources: Option<&ResourceRequirements>) -> Amounts {
        let side = resources.and_then(|r| match self {
            Self::Requests => r.requests.as_ref(),
            Self::Limits => r.limits.as_ref(),
        });
        of(side)
    }
}

/// The sum of the containers that run side by side, or what an init container needs beside the sidecars started
/// before it, whichever is more.
pub fn of_containers(containers: &[Container], init_containers: &[Container], side: Side) -> Amounts {
    let mut total = Amounts::new();
    for container in containers {
        add(&mut total, &side.of(container.resources.as_ref()));
    }
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in init_containers {
        let mut now = side.of(container.resources.as_ref());
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        at_least(&mut starting, &now);
    }
    at_least(&mut total, &starting);
    total
}

/// What the pod comes to: its containers, or what it says of itself as a whole.
pub fn of_pod(spec: &PodSpec, side: Side) -> Amounts {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let mut total = of_containers(&spec.containers, init, side);
    for (name, amount) in side.of(spec.resources.as_ref()) {
        if POD_LEVEL.contains(&name.as_str()) || name.starts_with("hugepages-") {
            total.insert(name, amount);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_count_beside_the_largest_init_container() {
        let container = |cpu: &str, policy: Option<&str>| -> Container {
            serde_json::from_value(
                json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}}),
            )
            .unwrap()
        };
        let cpu = |containers: &[Container], init: &[Container]| {
            of_containers(containers, init, Side::Requests)["cpu"].to_string()
        };
        assert_eq!(cpu(&[container("1", None), container("2", None)], &[]), "3");
        assert_eq!(cpu(&[container("1", None)], &[container("5", None)]), "5");
        let init = [container("2", Some("Always")), container("5", None)];
        assert_eq!(cpu(&[container("1", None)], &init), "7");
    }

    #[test]
    fn a_pod_may_speak_for_itself() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [{"name": "c", "resources":
            {"limits": {"cpu": "1", "memory": "1Gi"}}}], "resources": {"limits": {"cpu": "4"}}}))
        .unwrap();
        let limits = of_pod(&spec, Side::Limits);
        assert_eq!((limits["cpu"].to_string(), limits["memory"].to_string()), ("4".into(), "1Gi".into()));
        assert!(of_pod(&spec, Side::Requests).is_empty());
    }
}
