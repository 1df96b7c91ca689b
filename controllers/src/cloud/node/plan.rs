//! What a node becomes when the cloud has told about its machine, and what of it is kept so. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeAddress, Taint};

use super::super::provider::Instance;

pub const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
pub const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";
/// What the kubelet was told to call its own address.
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";

pub fn has_taint(node: &Node, key: &str) -> bool {
    node.spec.as_ref().is_some_and(|spec| spec.taints.iter().flatten().any(|taint| taint.key == key))
}

pub fn without_taint(node: &Node, key: &str) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.key != key).collect()
}

pub fn with_shutdown_taint(node: &Node) -> Vec<Taint> {
    let mut taints = without_taint(node, SHUTDOWN);
    taints.push(Taint { key: SHUTDOWN.into(), effect: "NoSchedule".into(), ..Taint::default() });
    taints
}

/// The labels that the machine calls for; both generations of each.
pub fn labels(instance: &Instance) -> BTreeMap<String, String> {
    let mut labels = instance.labels.clone();
    // The cloud may not say what a node may do.
    labels.retain(|name, _| {
        !name.starts_with("node-restriction.kubernetes.io/") && !name.contains("node-role.")
    });
    for (names, value) in [
        (["node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"], &instance.instance_type),
        (["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"], &instance.zone),
        (["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"], &instance.region),
    ] {
        if !value.is_empty() {
            labels.extend(names.map(|name| (name.to_owned(), value.clone())));
        }
    }
    labels
}

/// The node's addresses: the cloud's, where it says any; of the type of the IP the kubelet was given only that one.
pub fn addresses(node: &Node, instance: &Instance) -> Result<Vec<NodeAddress>, String> {
    let present = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
    if instance.addresses.is_empty() {
        return Ok(present);
    }
    let mut addresses = instance.addresses.clone();
    // The kubelet's name for itself stays, as certificates are made out to it.
    if !addresses.iter().any(|a| a.type_ == "Hostname") {
        addresses.extend(present.into_iter().filter(|a| a.type_ == "Hostname"));
    }
    let annotations = node.metadata.annotations.as_ref();
    let Some(provided) = annotations.and_then(|a| a.get(PROVIDED_IP)).and_then(|text| text.split(',').next())
    else {
        return Ok(addresses);
    };
    let Some(kind) = addresses.iter().find(|a| a.address == provided).map(|a| a.type_.clone()) else {
        return Err("failed to find kubelet node IP from cloud provider".into());
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.address == provided);
    first.truncate(1);
    first.extend(rest.into_iter().filter(|a| a.type_ != kind));
    Ok(first)
}

/// What the node's health and its machine ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// It runs again.
    Untaint,
    Taint,
    Delete,
}

/// `instance`: None where there is no such machine. Only asked for a node that is not ready.
pub fn verdict(node: &Node, ready: bool, instance: Option<&Instance>) -> Verdict {
    let tainted = has_taint(node, SHUTDOWN);
    match instance {
        _ if ready => {
            if tainted {
                Verdict::Untaint
            } else {
                Verdict::Fine
            }
        }
        None => Verdict::Delete,
        Some(instance) if instance.shutdown && !tainted => Verdict::Taint,
        Some(_) => Verdict::Fine,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn node(value: Value) -> Node {
        from(value)
    }

    #[test]
    fn labels_are_of_both_generations() {
        let none = Instance::default();
        assert!(labels(&none).is_empty());
        let instance = Instance {
            instance_type: "small".into(),
            zone: "z1".into(),
            labels: [
                ("rack".to_owned(), "7".to_owned()),
                ("node-role.kubernetes.io/control-plane".to_owned(), String::new()),
                ("node-restriction.kubernetes.io/x".to_owned(), "y".to_owned()),
            ]
            .into(),
            ..Instance::default()
        };
        let labels = labels(&instance);
        let names: Vec<_> = labels.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "beta.kubernetes.io/instance-type",
                "failure-domain.beta.kubernetes.io/zone",
                "node.kubernetes.io/instance-type",
                "rack",
                "topology.kubernetes.io/zone"
            ]
        );
    }

    #[test]
    fn addresses_are_the_clouds_and_the_provided_one_comes_first() {
        let of = |list: &[(&str, &str)]| -> Value {
            list.iter().map(|(kind, a)| json!({"type": kind, "address": a})).collect::<Vec<_>>().into()
        };
        let present = [("InternalIP", "10.0.0.9"), ("Hostname", "n")];
        for (given, provided, want) in [
            (vec![], None, Ok(present.to_vec())),
            (vec![("InternalIP", "10.0.0.1")], None, Ok(vec![("InternalIP", "10.0.0.1"), ("Hostname", "n")])),
            (
                vec![("InternalIP", "10.0.0.1"), ("Hostname", "cloud")],
                None,
                Ok(vec![("InternalIP", "10.0.0.1"), ("Hostname", "cloud")]),
            ),
            (
                vec![("InternalIP", "10.0.0.1"), ("ExternalIP", "1.1.1.1"), ("InternalIP", "10.0.0.2")],
                Some("10.0.0.2"),
                Ok(vec![("InternalIP", "10.0.0.2"), ("ExternalIP", "1.1.1.1"), ("Hostname", "n")]),
            ),
            (
                vec![("InternalIP", "10.0.0.1")],
                Some("10.0.0.7"),
                Err("failed to find kubelet node IP from cloud provider".to_owned()),
            ),
        ] {
            let annotations = provided.map(|p| json!({PROVIDED_IP: p}));
            let node = node(
                json!({"metadata": {"name": "n", "annotations": annotations}, "status": {"addresses": of(&present)}}),
            );
            let instance = Instance { addresses: from(of(&given)), ..Instance::default() };
            let got = addresses(&node, &instance);
            let want = want.map(|list| from::<Vec<NodeAddress>>(of(&list)));
            assert_eq!(got, want, "{given:?} {provided:?}");
        }
    }

    #[test]
    fn machines_that_went_or_stand_still_show() {
        let plain = node(json!({"metadata": {"name": "n"}}));
        let tainted = node(
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": SHUTDOWN, "effect": "NoSchedule"}]}}),
        );
        let (runs, stopped) = (Instance::default(), Instance { shutdown: true, ..Instance::default() });
        for (node, ready, instance, want) in [
            (&plain, true, None, Verdict::Fine),
            (&plain, true, Some(&runs), Verdict::Fine),
            (&tainted, true, Some(&runs), Verdict::Untaint),
            (&plain, false, None, Verdict::Delete),
            (&tainted, false, None, Verdict::Delete),
            (&plain, false, Some(&runs), Verdict::Fine),
            (&plain, false, Some(&stopped), Verdict::Taint),
            (&tainted, false, Some(&stopped), Verdict::Fine),
            (&tainted, false, Some(&runs), Verdict::Fine),
        ] {
            assert_eq!(verdict(node, ready, instance), want, "{ready} {instance:?}");
        }
        assert_eq!(with_shutdown_taint(&tainted).len(), 1);
        assert!(without_taint(&tainted, SHUTDOWN).is_empty());
    }
}
