//! The order in which surplus pods are deleted.

use std::cmp::Ordering;
use std::collections::HashMap;

use jiff::Timestamp;

use crate::pods::{Phase, Pod};

/// Sorts so that what should go first comes first.
pub fn sort(pods: &mut [Pod], neighbours: &HashMap<Box<str>, usize>, now: Timestamp) {
    pods.sort_by(|a, b| order(a, b, neighbours, now));
}

fn order(a: &Pod, b: &Pod, neighbours: &HashMap<Box<str>, usize>, now: Timestamp) -> Ordering {
    let unassigned = |pod: &Pod| pod.node.is_empty();
    let doubled_up = |pod: &Pod| neighbours.get(&pod.node).copied().unwrap_or(0);
    unassigned(b)
        .cmp(&unassigned(a))
        .then_with(|| rank(a.phase).cmp(&rank(b.phase)))
        .then_with(|| a.ready().cmp(&b.ready()))
        .then_with(|| a.deletion_cost.cmp(&b.deletion_cost))
        .then_with(|| doubled_up(b).cmp(&doubled_up(a)))
        .then_with(|| newer_first(a.ready_since, b.ready_since, now))
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| newer_first(a.created, b.created, now))
        .then_with(|| a.uid().cmp(b.uid()))
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    }
}

/// Ages count by their power of two: among pods about as old the uid decides in the end, which spreads scale-downs
/// over nodes instead of always taking the newest.
///
/// NOTE: upstream lets the uid decide here already where times differ within a bucket. That is no order (of three pods
/// each may come before the next), and a sort that finds out panics.
fn newer_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return a.is_some().cmp(&b.is_some()) };
    bucket(a, now).cmp(&bucket(b, now))
}

fn bucket(since: Timestamp, now: Timestamp) -> u32 {
    let nanoseconds = now.duration_since(since).as_nanos();
    u128::try_from(nanoseconds).unwrap_or(0).checked_ilog2().map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use coracle_client::Object;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: &str, more: Value) -> Pod {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
            "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": [], "containerStatuses": [{"restartCount": more["restarts"].as_i64().unwrap_or(0)}]},
        });
        if !ready.is_empty() {
            value["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": ready}]);
        }
        if let Some(cost) = more["cost"].as_str() {
            value["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] = json!(cost);
        }
        if let Some(created) = more["created"].as_str() {
            value["metadata"]["creationTimestamp"] = json!(created);
        }
        let fields = &["spec.nodeName", "status.phase"];
        Pod::parse(&Object::parse(value.to_string().into(), fields).unwrap()).unwrap()
    }

    #[test]
    fn it_is_an_order() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let ready = ["2026-01-01T12:00:00Z", "2026-01-01T12:00:01Z", "2026-01-01T23:59:00Z", ""];
        let created = ["2026-01-01T11:00:00Z", "2026-01-01T11:00:01Z"];
        let pods: Vec<Pod> = (0..64usize)
            .map(|n| {
                let more = json!({"restarts": n / 8 % 2, "created": created[n % 2]});
                pod(&format!("{:02}", n * 37 % 64), "n", "Running", ready[n / 2 % 4], more)
            })
            .collect();
        let before = |a: &Pod, b: &Pod| order(a, b, &HashMap::new(), now).is_lt();
        for (a, b) in pods.iter().flat_map(|a| pods.iter().map(move |b| (a, b))) {
            for c in &pods {
                assert!(
                    !(before(a, b) && before(b, c)) || before(a, c),
                    "{} {} {}",
                    a.uid(),
                    b.uid(),
                    c.uid()
                );
            }
        }
    }

    #[test]
    fn each_rule_breaks_the_ties_of_those_before() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let none = json!({});
        let noon = "2026-01-01T12:00:00Z";
        for (first, second) in [
            (pod("z", "", "Pending", "", none.clone()), pod("a", "n", "Pending", "", none.clone())),
            (pod("z", "n", "Pending", "", none.clone()), pod("a", "n", "Running", "", none.clone())),
            (pod("z", "n", "Unknown", "", none.clone()), pod("a", "n", "Running", "", none.clone())),
            (pod("z", "n", "Running", "", none.clone()), pod("a", "n", "Running", noon, none.clone())),
            (
                pod("z", "n", "Running", noon, json!({"cost": "-1"})),
                pod("a", "n", "Running", noon, none.clone()),
            ),
            (pod("z", "full", "Running", noon, none.clone()), pod("a", "n", "Running", noon, none.clone())),
            (
                pod("z", "n", "Running", "2026-01-01T23:59:00Z", none.clone()),
                pod("a", "n", "Running", noon, none.clone()),
            ),
            (
                pod("z", "n", "Running", noon, json!({"restarts": 3})),
                pod("a", "n", "Running", noon, none.clone()),
            ),
            (
                pod("z", "n", "Running", noon, json!({"created": "2026-01-01T23:00:00Z"})),
                pod("a", "n", "Running", noon, none.clone()),
            ),
        ] {
            let neighbours = HashMap::from([("full".into(), 2), ("n".into(), 1)]);
            let mut pods = vec![second.clone(), first.clone()];
            sort(&mut pods, &neighbours, now);
            assert_eq!(pods[0].name(), first.name(), "{first:?} before {second:?}");
        }
    }
}
