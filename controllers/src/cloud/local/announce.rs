//! Which node answers for a load balancer's address. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use coracle_client::Key;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::super::service::is_ready;

/// Nodes that traffic may be sent to: ready ones; with `local` those that have an endpoint of their own.
pub fn candidates<'a>(nodes: &'a [Node], local: Option<&BTreeSet<String>>) -> Vec<&'a Node> {
    let serves = |node: &&Node| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        is_ready(node) && local.is_none_or(|serving| serving.contains(name))
    };
    nodes.iter().filter(serves).collect()
}

/// The nodes with a ready endpoint.
pub fn serving(slices: &[EndpointSlice]) -> BTreeSet<String> {
    slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        .filter_map(|endpoint| endpoint.node_name.clone())
        .collect()
}

/// It stays where it is as long as that will do; Services spread over the nodes.
pub fn announcer(service: &Key, candidates: &[&Node], present: Option<&str>) -> Option<String> {
    let names = || candidates.iter().filter_map(|node| node.metadata.name.as_deref());
    if let Some(present) = present.filter(|present| names().any(|name| name == *present)) {
        return Some(present.to_owned());
    }
    let weight = |name: &str| {
        let mut hasher = DefaultHasher::new();
        (&service.namespace, &service.name, name).hash(&mut hasher);
        hasher.finish()
    };
    names().max_by_key(|name| weight(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::from;

    fn node(name: &str, ready: &str) -> Node {
        from(
            json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
        )
    }

    #[test]
    fn ready_nodes_answer_with_endpoints_where_they_must() {
        let nodes = [node("a", "True"), node("b", "False"), node("c", "True"), node("d", "Unknown")];
        let names =
            |found: Vec<&Node>| found.iter().filter_map(|n| n.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(candidates(&nodes, None)), ["a", "c"]);
        let slice: EndpointSlice =
            from(json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [
                {"addresses": ["1.1.1.1"], "nodeName": "a", "conditions": {"ready": false}},
                {"addresses": ["1.1.1.2"], "nodeName": "b"},
                {"addresses": ["1.1.1.3"], "nodeName": "c", "conditions": {"ready": true}},
            ]}));
        let serving = serving(&[slice]);
        assert_eq!(serving.iter().map(String::as_str).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(names(candidates(&nodes, Some(&serving))), ["c"]);
    }

    #[test]
    fn the_announcer_stays_and_services_spread() {
        let nodes = [node("a", "True"), node("b", "True"), node("c", "True")];
        let all: Vec<&Node> = nodes.iter().collect();
        let service = Key::new("ns", "s");
        let first = announcer(&service, &all, None).unwrap();
        assert_eq!(announcer(&service, &all, None).as_ref(), Some(&first));
        for present in ["a", "b", "c"] {
            assert_eq!(announcer(&service, &all, Some(present)).as_deref(), Some(present));
        }
        let rest: Vec<&Node> = nodes.iter().filter(|n| n.metadata.name.as_ref() != Some(&first)).collect();
        assert_ne!(announcer(&service, &rest, Some(&first)), Some(first));
        assert_eq!(announcer(&service, &[], Some("a")), None);
        let chosen: BTreeSet<_> =
            (0..60).filter_map(|i| announcer(&Key::new("ns", &format!("s{i}")), &all, None)).collect();
        assert_eq!(chosen.len(), 3);
    }
}
