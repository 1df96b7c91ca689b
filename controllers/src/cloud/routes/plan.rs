//! Which routes a cloud must have for nodes' pod ranges, and which it must not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::provider::Route;
use crate::Cidr;

pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<Route>,
    pub delete: Vec<Route>,
    /// By node: whether all of its routes were there before.
    pub complete: BTreeMap<String, bool>,
}

/// The pod ranges of a node.
fn ranges(node: &Node) -> Vec<String> {
    let spec = node.spec.clone().unwrap_or_default();
    let all = spec.pod_cidrs.filter(|all| !all.is_empty());
    all.unwrap_or_else(|| spec.pod_cidr.into_iter().collect())
}

/// `cluster`: only routes within these ranges are ours to delete.
pub fn plan(nodes: &[Node], present: &[Route], cluster: &[Cidr], cluster_name: &str) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: BTreeSet<(String, String)> = BTreeSet::new();
    for node in nodes {
        let Some(name) = node.metadata.name.clone() else { continue };
        let ranges = ranges(node);
        if ranges.is_empty() {
            // Its range comes later; until then pods could not be reached.
            plan.complete.insert(name, false);
            continue;
        }
        let mut complete = true;
        for range in ranges {
            let there = present
                .iter()
                .any(|route| route.node == name && route.destination_cidr == range && !route.blackhole);
            if !there {
                complete = false;
                plan.create.push(Route {
                    name: route_name(cluster_name, &name, &range),
                    node: name.clone(),
                    destination_cidr: range.clone(),
                    blackhole: false,
                });
            }
            wanted.insert((name.clone(), range));
        }
        plan.complete.insert(name, complete);
    }
    let ours = |route: &Route| {
        route.destination_cidr.parse::<Cidr>().is_ok_and(|cidr| cluster.iter().any(|c| c.contains(cidr)))
    };
    plan.delete = present
        .iter()
        .filter(|route| ours(route))
        .filter(|route| {
            route.blackhole || !wanted.contains(&(route.node.clone(), route.destination_cidr.clone()))
        })
        .cloned()
        .collect();
    plan
}

/// The same each time, so that a route made twice is one.
fn route_name(cluster: &str, node: &str, range: &str) -> String {
    let range: String = range.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{cluster}-{node}-{range}")
}

/// The node's condition, where it is not so already.
pub fn condition(node: &Node, routed: bool, now: Timestamp) -> Option<NodeCondition> {
    let (status, reason, message) = if routed {
        ("False", "RouteCreated", "RouteController created a route")
    } else {
        ("True", "NoRouteCreated", "RouteController failed to create a route")
    };
    let present = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|condition| condition.type_ == NETWORK_UNAVAILABLE);
    if present.is_some_and(|present| present.status == status) {
        return None;
    }
    Some(NodeCondition {
        type_: NETWORK_UNAVAILABLE.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        last_heartbeat_time: Some(Time(now)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    fn node(name: &str, ranges: &[&str]) -> Node {
        from(json!({"metadata": {"name": name}, "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}}))
    }

    fn route(node: &str, range: &str) -> Route {
        Route { name: "r".into(), node: node.into(), destination_cidr: range.into(), blackhole: false }
    }

    #[test]
    fn routes_follow_the_nodes() {
        let cluster = ["10.0.0.0/16".parse().unwrap()];
        let hole = Route { blackhole: true, ..route("a", "10.0.1.0/24") };
        for (nodes, present, create, delete, complete) in [
            (vec![], vec![], vec![], vec![], vec![]),
            (
                vec![node("a", &["10.0.1.0/24"])],
                vec![],
                vec![("a", "10.0.1.0/24")],
                vec![],
                vec![("a", false)],
            ),
            (
                vec![node("a", &["10.0.1.0/24"])],
                vec![route("a", "10.0.1.0/24")],
                vec![],
                vec![],
                vec![("a", true)],
            ),
            // The node has another range by now.
            (
                vec![node("a", &["10.0.2.0/24"])],
                vec![route("a", "10.0.1.0/24")],
                vec![("a", "10.0.2.0/24")],
                vec![("a", "10.0.1.0/24")],
                vec![("a", false)],
            ),
            // Its range is another node's.
            (
                vec![node("b", &["10.0.1.0/24"])],
                vec![route("a", "10.0.1.0/24")],
                vec![("b", "10.0.1.0/24")],
                vec![("a", "10.0.1.0/24")],
                vec![("b", false)],
            ),
            // What is not the cluster's is left alone.
            (vec![], vec![route("x", "192.168.0.0/24"), route("", "nonsense")], vec![], vec![], vec![]),
            (vec![], vec![route("", "10.0.3.0/24")], vec![], vec![("", "10.0.3.0/24")], vec![]),
            // A way to nowhere.
            (
                vec![node("a", &["10.0.1.0/24"])],
                vec![hole],
                vec![("a", "10.0.1.0/24")],
                vec![("a", "10.0.1.0/24")],
                vec![("a", false)],
            ),
            (vec![node("a", &[])], vec![], vec![], vec![], vec![("a", false)]),
            (
                vec![node("a", &["10.0.1.0/24", "fd00::/64"])],
                vec![route("a", "10.0.1.0/24")],
                vec![("a", "fd00::/64")],
                vec![],
                vec![("a", false)],
            ),
        ] {
            let plan = plan(&nodes, &present, &cluster, "kubernetes");
            let pairs = |routes: &[Route]| {
                routes.iter().map(|r| (r.node.clone(), r.destination_cidr.clone())).collect::<Vec<_>>()
            };
            let owned = |list: &[(&str, &str)]| {
                list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
            };
            assert_eq!(pairs(&plan.create), owned(&create), "{nodes:?}");
            assert_eq!(pairs(&plan.delete), owned(&delete), "{nodes:?}");
            let complete: BTreeMap<_, _> = complete.into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
            assert_eq!(plan.complete, complete, "{nodes:?}");
        }
    }

    #[test]
    fn the_condition_is_written_when_it_changes() {
        let now = Timestamp::UNIX_EPOCH;
        let with = |status: &str| -> Node {
            from(
                json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": NETWORK_UNAVAILABLE, "status": status}]}}),
            )
        };
        let status = |node: &Node, routed| condition(node, routed, now).map(|c| c.status);
        let bare = node("n", &[]);
        for (node, routed, want) in [
            (&bare, true, Some("False")),
            (&bare, false, Some("True")),
            (&with("True"), true, Some("False")),
            (&with("False"), true, None),
            (&with("False"), false, Some("True")),
            (&with("True"), false, None),
        ] {
            assert_eq!(status(node, routed).as_deref(), want);
        }
    }
}
